//! Which policy a host runs, in eight bytes.

use crate::{ServiceEntry, snapshot::Tables};
use ripstop_config::{
    ByteRate, Graph, Port,
    graph::{Change, Check, Container, Edge, Health, Limits, Never, Run, User, Workload},
};
use sha2::{Digest, Sha256};
use std::fmt;

/// The first eight bytes of SHA-256 over a canonical form of the graph with its addresses. Comments, formatting, the
/// file's name and the order in which things are written do not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyDigest([u8; 8]);

impl PolicyDigest {
    /// The bytes, as session headers carry them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl From<[u8; 8]> for PolicyDigest {
    fn from(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl serde::Serialize for PolicyDigest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Version of the canonical form: it changes with any change to what is hashed or how.
const FORM: &str = "ripstop-policy-3";

pub(crate) fn of(graph: &Graph, tables: &Tables) -> PolicyDigest {
    let mut form = Form(Sha256::new());
    form.text(FORM);
    form.text(graph.fabric.as_str());
    form.text(&format!("{} {} {}", graph.ranges.services_v4, graph.ranges.workloads_v4, graph.ranges.v6));
    add_hosts(&mut form, graph);
    form.sorted(graph.tenants.iter().map(|(name, tenant)| format!("{name} {}", limits(&tenant.limits))));
    form.count(tables.workloads.len());
    for entry in &tables.workloads {
        let may = graph.workloads.get(&entry.id).map(may).unwrap_or_default();
        form.text(&format!("{} {} {} {} {}{may}", entry.id, entry.v4, entry.v6, run(&entry.run), entry.isolated));
        form.text(&limits(&entry.limits));
        form.sorted(entry.on.iter());
    }
    form.count(tables.services.len());
    for entry in &tables.services {
        add_service(&mut form, entry, tables);
    }
    form.sorted(graph.edges.iter().map(edge));
    form.sorted(graph.never.iter().map(never));
    let digest = form.0.finalize();
    PolicyDigest(std::array::from_fn(|at| digest[at]))
}

fn add_service(form: &mut Form, entry: &ServiceEntry, tables: &Tables) {
    let by = &tables.workloads[entry.by.index()].id;
    let to = entry.to.map(|to| to.to_string()).unwrap_or_default();
    form.text(&format!("{} {} {} {by} {to}", entry.id, entry.v4, entry.v6));
    form.sorted(entry.ports.iter());
    form.sorted(entry.export.iter());
    form.text(&limits(&entry.limits));
    form.text(&entry.health.as_ref().map(health).unwrap_or_default());
    form.text(entry.source.as_str());
    form.text(&format!("{} {}", entry.balance.sticky, entry.idle.unwrap_or_default().as_millis()));
    // A host that is not named has the weight 1.
    let weights = entry.balance.weights.iter().filter(|(_, weight)| **weight != 1);
    form.sorted(weights.map(|(host, weight)| format!("{host} {weight}")));
}

/// Tells all checks apart: a path has no space in it.
fn health(health: &Health) -> String {
    let check = match &health.check {
        Check::Tcp => "tcp",
        Check::Http(path) => path,
    };
    format!("{check} {} {}", health.every.as_millis(), health.port.unwrap_or(0))
}

fn add_hosts(form: &mut Form, graph: &Graph) {
    form.count(graph.hosts.len());
    for (name, host) in &graph.hosts {
        form.text(name.as_str());
        form.text(&host.zone.as_ref().map(ToString::to_string).unwrap_or_default());
        form.text(&host.address.map(|address| address.to_string()).unwrap_or_default());
    }
}

/// Nothing where a workload may change nothing, so that a graph without `may:` has the digest that it always had.
fn may(workload: &Workload) -> String {
    if workload.may.is_empty() { String::new() } else { format!(" {}", Change::line(&workload.may)) }
}

fn run(run: &Run) -> String {
    match run {
        Run::Netns(name) => format!("netns:{name:?}"),
        Run::User(User::Name(name)) => format!("user:{name:?}"),
        Run::User(User::Id(id)) => format!("uid:{id}"),
        Run::Cgroup(path) => format!("cgroup:{path:?}"),
        Run::Container(Container::Name(name)) => format!("container-name:{name:?}"),
        Run::Container(Container::Label(key, value)) => format!("container-label:{key:?}={value:?}"),
        Run::Pod(pod) => format!("pod:{pod}"),
        Run::Host => "host".into(),
    }
}

fn edge(edge: &Edge) -> String {
    let mut ports: Vec<Port> = edge.ports.clone();
    ports.sort_unstable();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("{} {} {} {}", edge.from, edge.to, ports.join(","), limits(&edge.limits))
}

/// The same whichever of the two is named first.
fn never(never: &Never) -> String {
    let [first, second] = &never.between;
    format!("{} {}", first.min(second), first.max(second))
}

fn limits(limits: &Limits) -> String {
    let bytes = |rate: Option<ByteRate>| rate.map_or(0, ByteRate::bytes_per_second);
    let (session, rate) = (bytes(limits.session), bytes(limits.rate));
    let open = limits.open.map_or(0, |rate| rate.sessions_per_second().get());
    format!("{session} {rate} {} {open}", limits.sessions.unwrap_or(0))
}

/// Feeds the hash with values that each carry their length, so that no two graphs have one form.
struct Form(Sha256);

impl Form {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text);
    }

    fn sorted<T: ToString>(&mut self, values: impl Iterator<Item = T>) {
        let mut values: Vec<String> = values.map(|value| value.to_string()).collect();
        values.sort_unstable();
        self.count(values.len());
        values.iter().for_each(|value| self.text(value));
    }
}
