//! A graph on its way from a manifest: names that are names, and the text that is made of them in the end.

use super::{ImportError, Target};
use crate::{
    Graph, HostName, Port, ServiceName, TenantName, WorkloadId, WorkloadName,
    diagnostic::Location,
    edit::{quoted, written_run},
    graph::Run,
    name::LABEL_MAX,
    yaml::printable,
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    fmt::Write as _,
};

/// Edges of one graph; each costs every host memory and the operator a line to read.
const EDGES_MAX: usize = 100_000;

/// The label by which containers are found that have no name of their own: what they are in the graph.
pub(super) const LABEL: &str = "ripstop-workload";

/// A graph that is put together. Everything in it is in the order of its names, so that it is written the same each time.
#[derive(Debug)]
pub(super) struct Draft {
    target: Target,
    pub(super) tenants: BTreeMap<TenantName, DraftTenant>,
    edges: usize,
}

#[derive(Debug, Default)]
pub(super) struct DraftTenant {
    pub(super) workloads: BTreeMap<WorkloadName, DraftWorkload>,
    pub(super) services: BTreeMap<ServiceName, DraftService>,
    allow: BTreeMap<(ServiceName, WorkloadId), DraftEdge>,
}

#[derive(Debug)]
pub(super) struct DraftWorkload {
    /// On how many of the hosts, at least one; `None` for all of them.
    pub(super) count: Option<usize>,
    pub(super) run: Run,
    pub(super) isolated: bool,
    pub(super) at: Location,
}

#[derive(Debug)]
pub(super) struct DraftService {
    pub(super) by: WorkloadName,
    /// Not empty.
    pub(super) ports: BTreeSet<Port>,
    /// Another port at which the endpoint listens; only with one port.
    pub(super) to: Option<u16>,
    pub(super) export: BTreeSet<TenantName>,
    pub(super) sticky: bool,
    pub(super) at: Location,
}

#[derive(Debug)]
struct DraftEdge {
    /// `None` for all.
    ports: Option<BTreeSet<Port>>,
    why: &'static str,
    at: Location,
}

impl Draft {
    pub(super) fn new(target: Target) -> Self {
        Self { target, tenants: BTreeMap::new(), edges: 0 }
    }

    pub(super) fn hosts(&self) -> usize {
        self.target.hosts.len()
    }

    pub(super) fn service(&self, tenant: &TenantName, name: &ServiceName) -> Option<&DraftService> {
        self.tenants.get(tenant)?.services.get(name)
    }

    pub(super) fn has_edge(&self, from: &WorkloadId, tenant: &TenantName, to: &ServiceName) -> bool {
        let key = (to.clone(), from.clone());
        self.tenants.get(tenant).is_some_and(|tenant| tenant.allow.contains_key(&key))
    }

    /// Lets a workload call a service of a tenant, at these of its ports or at all. Of a service of another tenant the export
    /// is made as well. Nothing is done for a service that is not there.
    pub(super) fn allow(
        &mut self,
        from: &WorkloadId,
        (tenant, to): (&TenantName, &ServiceName),
        ports: Option<BTreeSet<Port>>,
        (why, at): (&'static str, &Location),
    ) -> Result<(), ImportError> {
        let Some(entry) = self.tenants.get_mut(tenant) else { return Ok(()) };
        let Some(service) = entry.services.get_mut(to) else { return Ok(()) };
        // All ports one by one are all ports.
        let ports = ports.filter(|ports| *ports != service.ports);
        if from.tenant != *tenant {
            service.export.insert(from.tenant.clone());
        }
        match entry.allow.entry((to.clone(), from.clone())) {
            btree_map::Entry::Occupied(mut edge) => {
                let edge = edge.get_mut();
                edge.ports = edge.ports.take().zip(ports).map(|(mut had, more)| {
                    had.extend(more);
                    had
                });
                if edge.ports.as_ref() == Some(&service.ports) {
                    edge.ports = None;
                }
            }
            btree_map::Entry::Vacant(free) => {
                self.edges += 1;
                if self.edges > EDGES_MAX {
                    let what = format!("the manifests make more than {EDGES_MAX} edges: import them in parts");
                    return Err(ImportError::Refused { at: at.clone(), what });
                }
                free.insert(DraftEdge { ports, why, at: at.clone() });
            }
        }
        Ok(())
    }

    /// The graph as text, which has been read back.
    pub(super) fn finish(self, head: &str) -> Result<String, ImportError> {
        let text = self.written(head);
        Graph::parse("the imported graph", &text).map_err(ImportError::Graph)?;
        Ok(text)
    }

    fn written(&self, head: &str) -> String {
        let mut text = format!("# {}\nfabric: {}\nhosts:\n", comment(head), self.target.fabric);
        for host in &self.target.hosts {
            put(&mut text, format_args!("  {host}: {{}}"));
        }
        text.push_str("tenants:\n");
        for (name, tenant) in &self.tenants {
            put(&mut text, format_args!("  {name}:\n    workloads:"));
            for (name, workload) in &tenant.workloads {
                self.workload(&mut text, name, workload);
            }
            text.push_str("    services:\n");
            for (name, service) in &tenant.services {
                put(&mut text, format_args!("      {name}: {} # {}", service.written(), place(&service.at)));
            }
            text.push_str("    allow:\n");
            self.edges(&mut text, name);
        }
        text
    }

    /// Edges stand with their callers: the services' tenants consent by their exports.
    fn edges(&self, text: &mut String, caller: &TenantName) {
        for (tenant, entry) in &self.tenants {
            for ((to, from), edge) in entry.allow.iter().filter(|((_, from), _)| from.tenant == *caller) {
                let to = qualified(tenant, to, caller);
                let ports = edge.ports.as_ref().map(|ports| format!(", {}", ports_of(ports))).unwrap_or_default();
                let (from, why, at) = (&from.name, edge.why, place(&edge.at));
                put(text, format_args!("      - {{ from: {from}, to: {to}{ports} }} # {why}, {at}"));
            }
        }
    }

    fn workload(&self, text: &mut String, name: &WorkloadName, workload: &DraftWorkload) {
        let count = workload.count.unwrap_or(self.target.hosts.len()).max(1);
        let on: Vec<&str> = self.target.hosts.iter().take(count).map(HostName::as_str).collect();
        let isolated = if workload.isolated { ", isolated: true" } else { "" };
        let (on, run, at) = (on.join(", "), written_run(&workload.run), place(&workload.at));
        put(text, format_args!("      {name}: {{ on: [{on}], run: {run}{isolated} }} # {at}"));
    }
}

impl DraftService {
    fn written(&self) -> String {
        let to = self.to.map(|port| format!(", to: ':{port}'")).unwrap_or_default();
        let export: Vec<&str> = self.export.iter().map(TenantName::as_str).collect();
        let export = if export.is_empty() { String::new() } else { format!(", export: [{}]", export.join(", ")) };
        let sticky = if self.sticky { ", balance: { sticky: true }" } else { "" };
        format!("{{ by: {}, {}{to}{export}{sticky} }}", self.by, ports_of(&self.ports))
    }
}

fn ports_of(ports: &BTreeSet<Port>) -> String {
    let all: Vec<String> = ports.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [one] => format!("port: {one}"),
        several => format!("ports: [{}]", several.join(", ")),
    }
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{line}");
}

fn place(at: &Location) -> String {
    comment(&at.to_string())
}

/// Text of others within a comment: no line of it may end the comment.
fn comment(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// The DNS label that is nearest to a name: in lower case, with `-` for what a label cannot have. `None` when nothing is left.
pub(super) fn label(text: &str) -> Option<String> {
    let fit = |letter: char| {
        let letter = letter.to_ascii_lowercase();
        if letter.is_ascii_alphanumeric() { letter } else { '-' }
    };
    let label: String = text.chars().map(fit).skip_while(|letter| *letter == '-').take(LABEL_MAX).collect();
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// How an edge is written under `allow:` of its caller's tenant.
pub(super) fn edge_line(from: &WorkloadId, tenant: &TenantName, to: &ServiceName) -> String {
    let to = qualified(tenant, to, &from.tenant);
    format!("- {{ from: {}, to: {} }}", quoted(from.name.as_str()), quoted(&to))
}

/// A service's name, with its tenant where that is not the caller's.
fn qualified(tenant: &TenantName, to: &ServiceName, caller: &TenantName) -> String {
    if tenant == caller { to.to_string() } else { format!("{tenant}/{to}") }
}
