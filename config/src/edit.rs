//! Small changes to a graph's text that leave the rest of it, comments and order included, as its operator wrote it.
//!
//! A change is a piece of text put in at one place. What comes of it is parsed as a whole and compared with what the change
//! was to bring about; a text in which the place cannot be found, such as one made of aliases, is not changed at all.

mod place;

use crate::{
    Diagnostics, Graph, HostName, Port, ServiceId, WorkloadId, WorkloadName,
    graph::{Container, GRAPH_MAX, Run, User},
    yaml::{self, Node, Report, Value},
};
use place::{Missing, Source};
use std::net::SocketAddr;

/// A change to a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A host with its address; one that is there already gets that address.
    Host {
        /// Its name.
        name: HostName,
        /// Where its agent listens.
        address: SocketAddr,
    },
    /// A workload. Its tenant is made if it is missing.
    Workload {
        /// Its name.
        id: WorkloadId,
        /// Its hosts; not empty.
        on: Vec<HostName>,
        /// What it is on them.
        run: Run,
        /// Whether the fabric is its only network.
        isolated: bool,
    },
    /// A service.
    Service {
        /// Its name.
        id: ServiceId,
        /// The workload that serves it, of the same tenant.
        by: WorkloadName,
        /// Its ports; not empty.
        ports: Vec<Port>,
        /// Where the endpoint listens, if not where it usually does.
        to: Option<String>,
    },
    /// An `allow` edge.
    Edge {
        /// Who may call.
        from: WorkloadId,
        /// What may be called.
        to: ServiceId,
    },
}

/// Why a graph's text was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It has mistakes already.
    #[error("the graph has mistakes\n\n{0}")]
    Graph(Diagnostics),
    /// It has mistakes with the change: something that the change names is missing, for example.
    #[error("with `{written}` the graph has mistakes\n\n{mistakes}")]
    Change {
        /// What was put in.
        written: String,
        /// The mistakes.
        mistakes: Diagnostics,
    },
    /// There is one of that name.
    #[error("the graph has {0} already")]
    Exists(String),
    /// The text is written in a way that is not edited here.
    #[error("the graph is written in a way that is not edited automatically; write under `{under}`: {written}")]
    Form {
        /// The keys above it, with dots between.
        under: String,
        /// What is to be put in.
        written: String,
    },
}

/// Makes a change; returns the new text. `file` is only for showing. An edge that is there already is none to be made.
///
/// # Errors
/// [`EditError`]; nothing has been changed.
pub fn edit(file: &str, text: &str, change: &Edit) -> Result<String, EditError> {
    let before = Graph::parse(file, text).map_err(EditError::Graph)?;
    check_new(&before, change)?;
    if change.is_in(&before) {
        return Ok(text.to_owned());
    }
    let piece = change.piece();
    let form = || EditError::Form { under: piece.path.join("."), written: piece.shown() };
    let edited = change.replacement(text, &before).unwrap_or_else(|| put(text, &piece)).ok_or_else(form)?;
    let after =
        Graph::parse(file, &edited).map_err(|mistakes| EditError::Change { written: piece.shown(), mistakes })?;
    match change.is_in(&after) && sizes(&after) == change.sizes_after(&before) {
        true => Ok(edited),
        false => Err(form()),
    }
}

/// What is put in, and where.
struct Piece {
    /// Keys from the top; those that are missing are made.
    path: Vec<String>,
    /// The key that is put in; `None` for an item of a list.
    key: Option<String>,
    /// On one line.
    value: String,
}

impl Piece {
    fn shown(&self) -> String {
        match &self.key {
            Some(key) => format!("{key}: {}", self.value),
            None => format!("- {}", self.value),
        }
    }
}

impl Edit {
    fn piece(&self) -> Piece {
        let keys = |path: &[&str]| path.iter().map(|key| (*key).to_owned()).collect();
        match self {
            Self::Host { name, address } => {
                let value = format!("{{ address: {} }}", written_address(*address));
                Piece { path: keys(&["hosts"]), key: Some(name.to_string()), value }
            }
            Self::Workload { id, on, run, isolated } => {
                let on: Vec<_> = on.iter().map(HostName::as_str).collect();
                let isolated = if *isolated { ", isolated: true" } else { "" };
                let value = format!("{{ on: [{}], run: {}{isolated} }}", on.join(", "), written_run(run));
                let path = keys(&["tenants", id.tenant.as_str(), "workloads"]);
                Piece { path, key: Some(id.name.to_string()), value }
            }
            Self::Service { id, by, ports, to } => {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                let ports = match ports.as_slice() {
                    [one] => format!("port: {one}"),
                    several => format!("ports: [{}]", several.join(", ")),
                };
                let to = to.as_ref().map(|to| format!(", to: {}", quoted(to))).unwrap_or_default();
                let value = format!("{{ by: {by}, {ports}{to} }}");
                let path = keys(&["tenants", id.tenant.as_str(), "services"]);
                Piece { path, key: Some(id.name.to_string()), value }
            }
            Self::Edge { from, to } => {
                let service = if from.tenant == to.tenant { to.name.to_string() } else { to.to_string() };
                let value = format!("{{ from: {}, to: {service} }}", from.name);
                Piece { path: keys(&["tenants", from.tenant.as_str(), "allow"]), key: None, value }
            }
        }
    }

    /// Whether a graph says so.
    fn is_in(&self, graph: &Graph) -> bool {
        match self {
            Self::Host { name, address } => graph.hosts.get(name).is_some_and(|host| host.address == Some(*address)),
            Self::Workload { id, on, run, isolated } => graph
                .workloads
                .get(id)
                .is_some_and(|found| (&found.on, &found.run, found.isolated) == (on, run, *isolated)),
            Self::Service { id, by, ports, .. } => {
                graph.services.get(id).is_some_and(|found| found.by == *by && found.ports == *ports)
            }
            Self::Edge { from, to } => graph.edges.iter().any(|edge| edge.from == *from && edge.to == *to),
        }
    }

    /// What the graph has to have, counted as [`sizes`] does.
    fn sizes_after(&self, before: &Graph) -> [usize; 4] {
        let mut sizes = sizes(before);
        match self {
            Self::Host { name, .. } => sizes[0] += usize::from(!before.hosts.contains_key(name)),
            Self::Workload { .. } => sizes[1] += 1,
            Self::Service { .. } => sizes[2] += 1,
            Self::Edge { .. } => sizes[3] += 1,
        }
        sizes
    }

    /// Of a host that is there, the address alone is replaced. `None` where nothing is there to be replaced.
    fn replacement(&self, text: &str, before: &Graph) -> Option<Option<String>> {
        match self {
            Self::Host { name, address } if before.hosts.contains_key(name) => {
                Some(put_address(text, name.as_str(), &written_address(*address)))
            }
            Self::Host { .. } | Self::Workload { .. } | Self::Service { .. } | Self::Edge { .. } => None,
        }
    }
}

fn sizes(graph: &Graph) -> [usize; 4] {
    [graph.hosts.len(), graph.workloads.len(), graph.services.len(), graph.edges.len()]
}

/// A workload or service is not silently made into another one.
fn check_new(before: &Graph, change: &Edit) -> Result<(), EditError> {
    let taken = match change {
        Edit::Workload { id, .. } if before.workloads.contains_key(id) => Some(format!("a workload `{id}`")),
        Edit::Service { id, .. } if before.services.contains_key(id) => Some(format!("a service `{id}`")),
        Edit::Host { .. } | Edit::Workload { .. } | Edit::Service { .. } | Edit::Edge { .. } => None,
    };
    match taken {
        Some(_) if change.is_in(before) => Ok(()),
        Some(what) => Err(EditError::Exists(what)),
        None => Ok(()),
    }
}

/// The tree of a text that was found to be a graph.
fn tree(text: &str) -> Option<Node> {
    yaml::parse(text, GRAPH_MAX, &mut Report::new("", text))
}

fn put(text: &str, piece: &Piece) -> Option<String> {
    let root = tree(text)?;
    let source = Source::new(text);
    let mut node = &root;
    let mut above = None;
    for (depth, key) in piece.path.iter().enumerate() {
        let Some((found, child)) = child(node, key) else {
            let missing = Missing { keys: &piece.path[depth..], key: piece.key.as_deref(), value: &piece.value };
            return source.put_in(node, above, &missing);
        };
        above = Some(found);
        node = child;
    }
    source.put_in(node, above, &Missing { keys: &[], key: piece.key.as_deref(), value: &piece.value })
}

fn put_address(text: &str, host: &str, address: &str) -> Option<String> {
    let root = tree(text)?;
    let source = Source::new(text);
    let (above, node) = child(child(&root, "hosts")?.1, host)?;
    match child(node, "address") {
        Some((_, old)) => source.replace_scalar(old, address),
        None => source.put_in(node, Some(above), &Missing { keys: &[], key: Some("address"), value: address }),
    }
}

fn child<'n>(node: &'n Node, key: &str) -> Option<(&'n yaml::Key, &'n Node)> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|(found, _)| found.text == key).map(|(key, node)| (key, node)),
        Value::Nothing | Value::Text(_) | Value::List(_) => None,
    }
}

/// Without the default port; IPv6 in quotes, as its brackets are a list to YAML.
fn written_address(address: SocketAddr) -> String {
    let text = match address {
        _ if address.port() != crate::agent::DEFAULT_PORT => address.to_string(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => v6.ip().to_string(),
    };
    quoted(&text)
}

pub(crate) fn written_run(run: &Run) -> String {
    match run {
        Run::Netns(name) => format!("{{ netns: {} }}", quoted(name)),
        Run::User(User::Name(name)) => format!("{{ user: {} }}", quoted(name)),
        Run::User(User::Id(id)) => format!("{{ user: {id} }}"),
        Run::Cgroup(path) => format!("{{ cgroup: {} }}", quoted(path)),
        Run::Container(Container::Name(name)) => format!("{{ container: {{ name: {} }} }}", quoted(name)),
        Run::Container(Container::Label(key, value)) => {
            format!("{{ container: {{ label: {} }} }}", quoted(&format!("{key}={value}")))
        }
        Run::Pod(pod) => format!("{{ pod: {} }}", quoted(&pod.to_string())),
        Run::Host => "host".to_owned(),
    }
}

/// In single quotes (YAML 1.2.2 section 7.3.2) unless it is a plain word beyond doubt.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    match text.chars().all(plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/') {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}
