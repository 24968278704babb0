//! Who is in the demo: hosts, namespaces, workloads, and the graph before and after the edit.

use anyhow::anyhow;
use ripstop_config::{Graph, ServiceId, WorkloadId};
use ripstop_kernel::netns;
use ripstop_policy::Policy;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Under here each host has a directory, where `ripstop exec` and `ripstop status` find the agents' sockets.
pub(super) const BASE: &str = "/run/ripstop";
/// The namespace of the bridge that joins the hosts.
pub(super) const NETWORK: &str = "ripstop-net";
/// The fabric's name, below `.test`, which is nobody's (RFC 6761 section 6.2).
pub(super) const FABRIC: &str = "ripstop.test";
/// The numeric id that `api` runs under; nobody's on a Debian machine.
pub(super) const API_UID: u32 = 64_001;

/// A machine of the demo: a network namespace with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Alpha,
    Beta,
    Gamma,
}

impl Host {
    pub(super) const ALL: [Self; 3] = [Self::Alpha, Self::Beta, Self::Gamma];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Beta => "beta",
            Self::Gamma => "gamma",
        }
    }

    /// Its address on the bridge.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, 0, self as u8 + 1)
    }

    pub(super) fn namespace(self) -> String {
        format!("ripstop-{}", self.name())
    }

    /// Its agent's run directory.
    pub(super) fn directory(self) -> PathBuf {
        Path::new(BASE).join(format!("demo-{}", self.name()))
    }

    /// Where its agent's files of settings are.
    pub(super) fn settings(self) -> PathBuf {
        self.directory().join("etc")
    }

    pub(super) fn called(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|host| host.name() == name)
    }
}

/// The namespaces of the workloads that have one.
pub(super) const WORKLOADS: [&str; 4] = ["ripstop-web", "ripstop-batch", "ripstop-db", "ripstop-files"];

/// Every namespace of the demo, by name.
pub(super) fn namespaces() -> impl Iterator<Item = String> {
    let hosts = Host::ALL.into_iter().map(Host::namespace);
    hosts.chain(std::iter::once(NETWORK.to_owned())).chain(WORKLOADS.map(str::to_owned))
}

/// The path of a workload's namespace.
pub(super) fn inside(workload: &str) -> PathBuf {
    netns::path_of(&format!("ripstop-{workload}"))
}

/// What `files` sends on one request, in bytes: two seconds at its limit.
pub(super) const FILE_BYTES: u64 = 2_000_000;
/// The limit of the edge from web to files, in bytes per second, as the graph has it: 8 mbit/s.
pub(super) const FILE_RATE: u64 = 1_000_000;

/// The UDP port of `meter`.
pub(super) const METER_PORT: u16 = 9_125;

const GRAPH: &str = "\
# The service graph of the demo: everything the fabric needs to know.
fabric: ripstop.test
hosts:
  alpha: { address: 10.214.0.1 }
  beta:  { address: 10.214.0.2 }
  gamma: { address: 10.214.0.3 }
tenants:
  shop:
    workloads:
      web:   { on: [alpha],       run: { netns: ripstop-web } }
      batch: { on: [alpha],       run: { netns: ripstop-batch } }
      api:   { on: [beta, gamma], run: { user: 64001 } }
      db:    { on: [beta],        run: { netns: ripstop-db } }
      files: { on: [gamma],       run: { netns: ripstop-files } }
    services:
      api:   { by: api,   port: 8080/tcp }
      db:    { by: db,    port: 5432/tcp }
      files: { by: files, port: 9000/tcp }
      meter: { by: files, port: 9125/udp, idle: 1s }
    allow:
      - { from: web,   to: api }
      - { from: web,   to: files, limit: { session: 8 mbit/s } }
      - { from: web,   to: meter }
      - { from: api,   to: db }
";
/// The edge that the edit removes.
pub(super) const REMOVED: &str = "- { from: batch, to: db }";
/// The edge that it adds.
pub(super) const ADDED: &str = "- { from: web,   to: db }";

/// The graph's text, before or after the edit.
pub(super) fn graph(edited: bool) -> String {
    format!("{GRAPH}      {}\n", if edited { ADDED } else { REMOVED })
}

/// The policy of the graph before the edit.
pub(super) fn policy() -> anyhow::Result<Policy> {
    let graph =
        Graph::parse("graph.yaml", &graph(false)).map_err(|mistakes| anyhow!("the demo's graph: {mistakes}"))?;
    Ok(ripstop_policy::compile(graph)?)
}

/// A workload of the demo's tenant.
pub(super) fn workload(name: &str) -> anyhow::Result<WorkloadId> {
    format!("shop/{name}").parse().map_err(|error| anyhow!("{error}"))
}

/// A service of the demo's tenant.
pub(super) fn service(name: &str) -> anyhow::Result<ServiceId> {
    format!("shop/{name}").parse().map_err(|error| anyhow!("{error}"))
}

/// A service's name, as callers write it.
pub(super) fn dns_name(service: &str) -> String {
    format!("{service}.shop.{FABRIC}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripstop_config::graph::Run;

    #[test]
    fn the_graph_is_valid_before_and_after_the_edit_and_says_what_the_code_says() {
        for edited in [false, true] {
            let graph = Graph::parse("graph.yaml", &graph(edited)).unwrap();
            assert_eq!(graph.fabric.as_str(), FABRIC);
            for host in Host::ALL {
                let entry = &graph.hosts[&host.name().parse().unwrap()];
                assert_eq!(entry.address.unwrap().ip(), host.address());
            }
            let api = &graph.workloads[&workload("api").unwrap()];
            assert_eq!(api.run, Run::User(ripstop_config::graph::User::Id(API_UID)));
            let limit = graph.edges.iter().find_map(|edge| edge.limits.session).unwrap();
            assert_eq!(limit.bytes_per_second(), FILE_RATE);
            let calls_db = |edge: &ripstop_config::graph::Edge, from: &str| {
                edge.to == service("db").unwrap() && edge.from == workload(from).unwrap()
            };
            assert_eq!(graph.edges.iter().any(|edge| calls_db(edge, "web")), edited);
            assert_eq!(graph.edges.iter().any(|edge| calls_db(edge, "batch")), !edited);
        }
    }
}
