//! From YAML to a validated graph.
//!
//! 1. Parse the text into a tree; a mistake of syntax ends it here.
//! 2. Collect the names of hosts, tenants, workloads and services, so that references may point forwards.
//! 3. Read workloads, then services, then edges and tests, each against what is known by then. An entry with a mistake is left
//!    out of the graph but keeps its name, so that what refers to it is not blamed.
//! 4. Check what no entry shows alone: ranges, hosts' addresses, identities, tenants that are kept apart.

mod admin;
mod agent;
mod assertions;
mod balance;
mod carrier;
mod edges;
mod health;
mod hosts;
mod identity;
mod limits;
mod never;
mod operators;
mod otel;
mod ranges;
mod run;
mod services;
mod source;
mod tenants;
mod url;
mod workloads;

pub(crate) use agent::agent;
pub(crate) use operators::operators;
pub(crate) use run::is_container_name;

use crate::{
    Diagnostics, FabricName, Graph, HostName, ServiceId, ServiceName, TenantName, WorkloadId, WorkloadName,
    graph::{GRAPH_MAX, Host, Limits, Service, Workload},
    yaml::{self, Entry, Node, Report, Shape, names},
};
use std::collections::{BTreeMap, BTreeSet};

const GRAPH: Shape =
    Shape { what: "the graph", keys: &["fabric", "ranges", "hosts", "tenants", "never", "tests"], later: &[] };

/// What a graph's file declares, before the entries themselves are read.
#[derive(Default)]
struct Known {
    hosts: BTreeSet<HostName>,
    tenants: BTreeMap<TenantName, Declared>,
}

/// The names in one tenant.
#[derive(Default)]
struct Declared {
    workloads: BTreeSet<WorkloadName>,
    services: BTreeSet<ServiceName>,
}

/// One tenant's entries, still to be read.
struct Tenant<'n> {
    name: TenantName,
    key: yaml::Mark,
    workloads: Vec<Entry<'n, WorkloadName>>,
    services: Vec<Entry<'n, ServiceName>>,
    allow: Option<&'n Node>,
    limits: Limits,
}

/// Reads a graph; see [`Graph::parse`].
pub(crate) fn graph(file: &str, text: &str) -> Result<Graph, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file, text);
    let graph = yaml::parse(text, GRAPH_MAX, &mut report).and_then(|root| read(&root, &mut report));
    report.finish()?;
    // Whatever keeps the graph from being read is in the report.
    graph.ok_or_else(Diagnostics::default)
}

fn read(root: &Node, report: &mut Report<'_>) -> Option<Graph> {
    let top = GRAPH.read(root, root.mark, report)?;
    let fabric = top.require("fabric", "write `fabric: shop.example`, a name of your own", report);
    let fabric = fabric.and_then(|node| node.parse::<FabricName>("the fabric's name", report));
    let hosts = top.require("hosts", "write `hosts:` with a line for each machine", report);
    let hosts = hosts.map(|node| names(node, "`hosts`", report)).unwrap_or_default();
    let tenants = top.require("tenants", "write `tenants:` with a name for each", report);
    let tenants = tenants.map(|node| tenants::read(node, report)).unwrap_or_default();

    let known = known(&hosts, &tenants);
    let hosts = hosts::read(&hosts, report);
    let workloads = workloads::read(&tenants, &known, report);
    let services = services::read(&tenants, &known, &workloads, report);
    let edges = edges::read(&tenants, &known, &services, report);
    let never = never::read(top.get("never"), &known, report);
    never::check(&never, &edges, &services, report);
    let tests = assertions::read(top.get("tests"), &known, &services, report);

    identity::check(&workloads, report);
    let sizes = (services.len(), workloads.len());
    let ranges = ranges::read(top.get("ranges"), fabric.as_ref(), sizes, report);
    hosts::check(&hosts, ranges.as_ref(), report);
    let tenants = tenants::plain(tenants, report);
    let hosts = plain(hosts);
    Some(Graph {
        fabric: fabric?,
        ranges: ranges?,
        hosts,
        tenants,
        workloads: plain(workloads),
        services: plain(services),
        edges,
        never,
        tests,
    })
}

fn known(hosts: &[Entry<'_, HostName>], tenants: &[Tenant<'_>]) -> Known {
    let mut known = Known { hosts: hosts.iter().map(|host| host.name.clone()).collect(), tenants: BTreeMap::new() };
    for tenant in tenants {
        let workloads = tenant.workloads.iter().map(|entry| entry.name.clone()).collect();
        let services = tenant.services.iter().map(|entry| entry.name.clone()).collect();
        known.tenants.insert(tenant.name.clone(), Declared { workloads, services });
    }
    known
}

/// Something that was read, with the place to blame.
struct Placed<T> {
    value: T,
    mark: yaml::Mark,
}

type Hosts = BTreeMap<HostName, Placed<Host>>;
type Workloads = BTreeMap<WorkloadId, Placed<Workload>>;
type Services = BTreeMap<ServiceId, Placed<Service>>;

fn plain<K: Ord, T>(placed: BTreeMap<K, Placed<T>>) -> BTreeMap<K, T> {
    placed.into_iter().map(|(name, placed)| (name, placed.value)).collect()
}
