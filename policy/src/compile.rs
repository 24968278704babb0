//! From a graph to a policy: addresses, tables, digest.

use crate::{
    BundleId, EdgeIx, Policy, Revoked, ServiceEntry, ServiceIx, WorkloadEntry, WorkloadIx,
    address::{self, Addresses, Kind},
    dense::Dense,
    digest,
    snapshot::{Owner, Tables},
};
use ipnet::Ipv4Net;
use ripstop_config::{
    Graph, Port, ServiceId, TenantName, WorkloadId,
    diagnostic::Location,
    graph::{Edge, exported_to},
};
use rustc_hash::FxHashMap;
use std::net::IpAddr;

/// Longest prefix of the fabric's IPv6 range: two /64 are taken from it.
const V6_PREFIX_MAX: u8 = 48;

/// Why a graph does not compile. A graph that [`Graph::parse`] gave fails only for want of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A range has fewer addresses than there are names for it.
    #[error("the range {range} has room for {room} and the graph has {needed} {kind}s: give `ranges:` a larger one")]
    RangeFull {
        /// The IPv4 range.
        range: Ipv4Net,
        /// `service` or `workload`.
        kind: &'static str,
        /// How many fit.
        room: u64,
        /// How many there are.
        needed: usize,
    },
    /// The IPv6 range is no /48 or larger.
    #[error("the IPv6 range {0} is too small: a /48 is needed")]
    V6Range(ipnet::Ipv6Net),
    /// A service is served by a workload that is not in the graph.
    #[error("{0}: the service is served by {1}, which the graph does not have")]
    UnknownServer(Location, WorkloadId),
    /// An edge starts at a workload that is not in the graph.
    #[error("{0}: the edge is from {1}, which the graph does not have")]
    UnknownCaller(Location, WorkloadId),
    /// An edge ends at a service that is not in the graph.
    #[error("{0}: the edge is to {1}, which the graph does not have")]
    UnknownService(Location, ServiceId),
    /// More entries than a policy can number.
    #[error("the graph has more than 4294967295 entries of one kind")]
    TooLarge,
}

/// Compiles a graph: assigns addresses, resolves names, indexes the edges. The same graph gives the same policy on
/// every host.
///
/// # Errors
/// [`CompileError`]; the policy in force is untouched.
pub fn compile(graph: Graph) -> Result<Policy, CompileError> {
    compile_after(graph, &Addresses::default())
}

/// As [`compile`], but names keep the addresses that they had, as far as the ranges still have them.
///
/// # Errors
/// [`CompileError`].
pub fn compile_after(graph: Graph, carried: &Addresses) -> Result<Policy, CompileError> {
    if graph.ranges.v6.prefix_len() > V6_PREFIX_MAX {
        return Err(CompileError::V6Range(graph.ranges.v6));
    }
    let mut tables = Tables::default();
    add_workloads(&graph, carried, &mut tables)?;
    add_services(&graph, carried, &mut tables)?;
    tables.dense = Dense::of(&graph, &tables)?;
    add_edges(&graph, &mut tables)?;
    let named = tables.workloads.iter().map(|entry| &entry.id.tenant);
    tables.depth = named.chain(graph.tenants.keys()).map(TenantName::depth).max().unwrap_or(1);
    let resolver = address::resolver(graph.ranges.services_v4, graph.ranges.v6);
    let digest = digest::of(&graph, &tables);
    Ok(Policy { graph, tables, resolver, digest, id: BundleId::default(), revoked: Revoked::default() })
}

fn add_workloads(graph: &Graph, carried: &Addresses, tables: &mut Tables) -> Result<(), CompileError> {
    let range = graph.ranges.workloads_v4;
    let ranges = (range, graph.ranges.v6);
    let pairs = address::assign(Kind::Workload, ranges, graph.workloads.keys(), &carried.workloads);
    let pairs = pairs.ok_or_else(|| range_full(Kind::Workload, range, graph.workloads.len()))?;
    for ((id, workload), (v4, v6)) in graph.workloads.iter().zip(pairs) {
        let ix = WorkloadIx::at(tables.workloads.len()).ok_or(CompileError::TooLarge)?;
        tables.workload_ix.insert(id.clone(), ix);
        tables.owners.insert(IpAddr::V4(v4), Owner::Workload(ix));
        tables.owners.insert(IpAddr::V6(v6), Owner::Workload(ix));
        for host in &workload.on {
            tables.on.entry(host.clone()).or_default().push(ix);
        }
        tables.workloads.push(WorkloadEntry {
            id: id.clone(),
            v4,
            v6,
            run: workload.run.clone(),
            on: workload.on.clone(),
            isolated: workload.isolated,
            limits: workload.limits,
            at: workload.at.clone(),
        });
    }
    tables.callees.resize(tables.workloads.len(), Vec::new());
    Ok(())
}

fn add_services(graph: &Graph, carried: &Addresses, tables: &mut Tables) -> Result<(), CompileError> {
    let range = graph.ranges.services_v4;
    let pairs = address::assign(Kind::Service, (range, graph.ranges.v6), graph.services.keys(), &carried.services);
    let pairs = pairs.ok_or_else(|| range_full(Kind::Service, range, graph.services.len()))?;
    for ((id, service), (v4, v6)) in graph.services.iter().zip(pairs) {
        let ix = ServiceIx::at(tables.services.len()).ok_or(CompileError::TooLarge)?;
        let server = WorkloadId { tenant: id.tenant.clone(), name: service.by.clone() };
        let unknown = || CompileError::UnknownServer(service.at.clone(), server.clone());
        let by = *tables.workload_ix.get(&server).ok_or_else(unknown)?;
        tables.service_ix.entry(id.tenant.as_str().into()).or_default().insert(id.name.as_str().into(), ix);
        tables.owners.insert(IpAddr::V4(v4), Owner::Service(ix));
        tables.owners.insert(IpAddr::V6(v6), Owner::Service(ix));
        tables.services.push(ServiceEntry {
            id: id.clone(),
            v4,
            v6,
            ports: sorted(&service.ports),
            by,
            to: service.to,
            hosts: tables.workloads[by.index()].on.clone(),
            export: service.export.clone(),
            limits: service.limits,
            health: service.health.clone(),
            source: service.source,
            balance: service.balance.clone(),
            idle: service.idle,
            at: service.at.clone(),
        });
    }
    Ok(())
}

fn add_edges(graph: &Graph, tables: &mut Tables) -> Result<(), CompileError> {
    let mut named: FxHashMap<(WorkloadIx, ServiceIx), Vec<(Port, EdgeIx)>> = FxHashMap::default();
    for (position, edge) in graph.edges.iter().enumerate() {
        let ix = EdgeIx::at(position).ok_or(CompileError::TooLarge)?;
        let pair = resolve(edge, tables)?;
        if !is_in_force(edge, pair, tables) {
            tables.dormant.push(ix);
            continue;
        }
        let reach = tables.reach.entry(pair).or_insert_with(|| {
            tables.callees[pair.0.index()].push(pair.1);
            crate::snapshot::Reach::default()
        });
        if edge.ports.is_empty() {
            reach.all.get_or_insert(ix);
        } else {
            named.entry(pair).or_default().extend(edge.ports.iter().map(|port| (*port, ix)));
        }
    }
    for (pair, mut ports) in named {
        ports.sort_unstable();
        // The first edge of the file decides for a port that several name.
        ports.dedup_by_key(|(port, _)| *port);
        tables.reach.entry(pair).or_default().ports = ports.into_boxed_slice();
    }
    for callees in &mut tables.callees {
        callees.sort_unstable();
    }
    Ok(())
}

fn resolve(edge: &Edge, tables: &Tables) -> Result<(WorkloadIx, ServiceIx), CompileError> {
    let caller = tables.workload_ix.get(&edge.from);
    let caller = caller.ok_or_else(|| CompileError::UnknownCaller(edge.at.clone(), edge.from.clone()))?;
    let service = tables.service_ix.get(edge.to.tenant.as_str()).and_then(|of| of.get(edge.to.name.as_str()));
    let service = service.ok_or_else(|| CompileError::UnknownService(edge.at.clone(), edge.to.clone()))?;
    Ok((*caller, *service))
}

/// Within a tenant an edge is enough. To another one's service it is the caller's consent alone: that one must consent too,
/// and no rule keep them apart, whether or not whoever checked the graph found the edge beside the rule.
fn is_in_force(edge: &Edge, (caller, service): (WorkloadIx, ServiceIx), tables: &Tables) -> bool {
    let consents = |tenant| exported_to(&tables.services[service.index()].export, tenant).is_some();
    edge.from.tenant == edge.to.tenant || (!tables.dense.apart(caller, service) && consents(&edge.from.tenant))
}

fn sorted(ports: &[Port]) -> Vec<Port> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn range_full(kind: Kind, range: Ipv4Net, needed: usize) -> CompileError {
    CompileError::RangeFull { range, kind: kind.as_str(), room: address::room(kind, range), needed }
}
