//! The service graph: hosts, tenants, workloads, services and the edges that may connect.

mod change;
mod crossing;
mod pod;
mod show;

pub use change::{Change, ChangeError};
pub use crossing::{Export, Never, exported_to};
pub use pod::{Pod, PodError};

use crate::{
    diagnostic::{Diagnostics, Location},
    name::{FabricName, HostName, ServiceId, TenantName, WorkloadId, WorkloadName, ZoneName},
    units::{ByteRate, OpenRate, Port},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Largest graph that is read, in bytes (DESIGN section 12: a policy bundle).
pub const GRAPH_MAX: usize = 16 << 20;

/// Largest weight of a host or an endpoint: shares finer than one in a thousand are not kept.
pub const WEIGHT_MAX: u32 = 1000;

/// The JSON schema of a graph, for editors and for the reference in `docs/graph.md`. The keys are those that are read; what a schema
/// cannot say, such as that a name is there, is said by [`Graph::parse`] alone.
pub const SCHEMA: &str = include_str!("../graph.schema.json");

/// A validated service graph. Every reference in it resolves.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The trust domain and name suffix.
    pub fabric: FabricName,
    /// The address ranges.
    pub ranges: Ranges,
    /// The machines, by name.
    pub hosts: BTreeMap<HostName, Host>,
    /// The tenants, also those with nothing in them.
    pub tenants: BTreeMap<TenantName, Tenant>,
    /// The workloads of all tenants.
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// The services of all tenants.
    pub services: BTreeMap<ServiceId, Service>,
    /// The `allow` edges, in the order of the file. One to another tenant's service is in force only while that is exported.
    pub edges: Vec<Edge>,
    /// The `never` rules, above every edge; no edge and no export goes against one.
    pub never: Vec<Never>,
    /// The `tests`: what must be allowed or denied for the graph to be signed.
    pub tests: Vec<Assertion>,
}

/// A namespace of workloads and services.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// What all its workloads, and those of the tenants below it, together may do on one calling host.
    pub limits: Limits,
    /// Where the graph says so.
    pub at: Location,
}

/// The address ranges of the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    /// Virtual addresses of services, IPv4; default `198.18.0.0/16`. Its first usable address is the resolver's.
    pub services_v4: ipnet::Ipv4Net,
    /// Addresses of workloads, IPv4; default `198.19.0.0/16`.
    pub workloads_v4: ipnet::Ipv4Net,
    /// Everything in IPv6: a /48 of `fd00::/8` (RFC 4193) taken from the fabric's name. Its subnet 0 (/64) is the
    /// services', its subnet 1 the workloads'; the resolver is `::1` of subnet 0.
    pub v6: ipnet::Ipv6Net,
}

/// A machine that runs an agent.
#[derive(Debug, Clone)]
pub struct Host {
    /// Hosts of one zone are preferred by callers in it.
    pub zone: Option<ZoneName>,
    /// Where its agent takes QUIC connections: an address with port, or an address, with the default port 7477. Unless given, its
    /// own record says it.
    pub address: Option<SocketAddr>,
    /// Where the graph says so.
    pub at: Location,
}

/// A program or container that calls or serves.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The hosts it runs on; only their certificates may speak for it. Never empty.
    pub on: Vec<HostName>,
    /// How its packets are told from others' on its host.
    pub run: Run,
    /// The fabric is its only network.
    pub isolated: bool,
    /// What it may do as a caller on one host, over all its edges.
    pub limits: Limits,
    /// What it may change by its own word.
    pub may: BTreeSet<Change>,
    /// Where the graph says so.
    pub at: Location,
}

/// How a workload is attached on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// A network namespace: a name under `/run/netns`, or an absolute path.
    Netns(String),
    /// Everything one user of the host runs: a user name or a numeric id.
    User(User),
    /// Everything in a control group, version 2, of the host and in those below it; its path as `/proc/PID/cgroup` shows
    /// it, such as `/system.slice/nginx.service`.
    Cgroup(String),
    /// The network namespace of a container that podman or Docker runs.
    Container(Container),
    /// The network namespace of a pod, as a container runtime announces it by CNI.
    Pod(Pod),
    /// Whatever else runs on the host itself.
    Host,
}

impl Run {
    /// Whether it has a network namespace of its own; if not, it shares the host's with others.
    #[must_use]
    pub fn has_namespace(&self) -> bool {
        match self {
            Self::Netns(_) | Self::Container(_) | Self::Pod(_) => true,
            Self::User(_) | Self::Cgroup(_) | Self::Host => false,
        }
    }
}

/// How a container is found among those that run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Container {
    /// By its name.
    Name(String),
    /// By a label and its value.
    Label(String, String),
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By name, looked up on the host.
    Name(String),
    /// By numeric id; never 0.
    Id(u32),
}

/// A name others may call.
#[derive(Debug, Clone)]
pub struct Service {
    /// The workload that serves it, of the same tenant.
    pub by: WorkloadName,
    /// Its ports; never empty, no number twice for one protocol.
    pub ports: Vec<Port>,
    /// Where the endpoint listens, when it is not its interface's address (`netns`) or 127.0.0.1 (`user`) at the
    /// service's own port. `to: :8080` is kept as `0.0.0.0:8080`: the usual address, another port. Ask
    /// [`Service::endpoint`]. Only services of one port have it.
    pub to: Option<SocketAddr>,
    /// Other tenants that may call it, by edges of their own.
    pub export: Vec<Export>,
    /// What all callers together may do: on each host of an endpoint, and from each calling host.
    pub limits: Limits,
    /// How its endpoints are checked by the agents next to them; unchecked if not given.
    pub health: Option<Health>,
    /// From where an endpoint sees its callers come.
    pub source: Source,
    /// How callers choose among its endpoints.
    pub balance: Balance,
    /// After how much silence a UDP session of it ends; the default depends on whether it was answered.
    pub idle: Option<Duration>,
    /// Where the graph says so.
    pub at: Location,
}

/// An active check of an endpoint, made by the agent of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// The pause between two checks; it is also how long one may take, up to [`Health::ANSWER_MAX`].
    pub every: Duration,
    /// The TCP port of the endpoint that is asked, when it is not the one that serves.
    pub port: Option<u16>,
}

impl Health {
    /// Longest wait for the answer to one check.
    pub const ANSWER_MAX: Duration = Duration::from_secs(5);
}

/// What an active check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET` of this path (RFC 9110) is answered with a status from 200 to 399.
    Http(String),
}

/// From where an endpoint sees its callers come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// In a namespace of its own from the caller's fabric address; of a user on the host from 127.0.0.1.
    #[default]
    Usual,
    /// From the caller's fabric address, also on the host. The endpoint listens on its workload's fabric address, or on
    /// all.
    Preserve,
    /// As usual, and each connection starts with a PROXY protocol header, version 2, that names the caller. TCP only.
    ProxyV2,
}

/// How callers choose among endpoints: less load first, of their own zone first.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// Shares of hosts, by name; a host that is not named has 1. A host with 0 gets sessions only when no other can.
    pub weights: BTreeMap<HostName, u32>,
    /// All sessions of one calling workload on one host go to the same endpoint while it can take them.
    pub sticky: bool,
}

/// Permission for one workload to call one service.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Who may call.
    pub from: WorkloadId,
    /// What may be called.
    pub to: ServiceId,
    /// Only these ports of the service; empty for all.
    pub ports: Vec<Port>,
    /// How much.
    pub limits: Limits,
    /// Where the graph says so: the rule's name.
    pub at: Location,
}

/// What the graph says of itself that it must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// Who calls.
    pub from: WorkloadId,
    /// What is called.
    pub to: ServiceId,
    /// At these ports of the service; empty for each of them.
    pub ports: Vec<Port>,
    /// Whether it must be allowed, or denied.
    pub allowed: bool,
    /// Where the graph says so.
    pub at: Location,
}

/// What an edge, a service, a workload or a tenant may do at most. Those of one edge or workload count per calling host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Limits {
    /// Payload bytes of each session, each way.
    pub session: Option<ByteRate>,
    /// Payload bytes of all its sessions on one host together, each way.
    pub rate: Option<ByteRate>,
    /// Concurrent sessions on one host.
    pub sessions: Option<u32>,
    /// New sessions per second on one host.
    pub open: Option<OpenRate>,
}

impl Graph {
    /// Reads a graph from YAML.
    ///
    /// # Errors
    /// Every mistake in the text at once; mistakes of syntax, and a text larger than [`GRAPH_MAX`], by themselves.
    /// `file` is only for showing.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        crate::read::graph(file, text)
    }
}

impl Service {
    /// Where the endpoint of one of the service's ports listens. `address` is the one that endpoints have when the
    /// graph gives none: the interface's for a network namespace, 127.0.0.1 for a user.
    #[must_use]
    pub fn endpoint(&self, port: Port, address: IpAddr) -> SocketAddr {
        match self.to {
            Some(to) if to.ip().is_unspecified() => SocketAddr::new(address, to.port()),
            Some(to) => to,
            None => SocketAddr::new(address, port.number),
        }
    }
}
