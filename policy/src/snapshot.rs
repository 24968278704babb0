//! The compiled policy and what is asked of it.

use crate::{
    Addresses, BundleId, CompileError, EdgeIx, Permit, PolicyDigest, Revoked, ServiceIx, Verdict, WorkloadIx, compile,
    dense::Dense,
};
use ripstop_config::{
    FabricName, Graph, HostName, PolicyVersion, Port, Reason, ServiceId, TenantName, WorkloadId,
    diagnostic::Location,
    graph::{Balance, Change, Edge, Export, Health, Limits, Ranges, Run, Source, exported_to},
};
use rustc_hash::FxHashMap;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// A compiled service graph. Immutable: a reload makes another one and swaps the `Arc`.
#[derive(Debug)]
pub struct Policy {
    pub(crate) graph: Graph,
    pub(crate) tables: Tables,
    pub(crate) resolver: (Ipv4Addr, Ipv6Addr),
    pub(crate) digest: PolicyDigest,
    pub(crate) id: BundleId,
    pub(crate) revoked: Revoked,
}

/// A workload with its addresses.
#[derive(Debug, Clone)]
pub struct WorkloadEntry {
    /// Who it is.
    pub id: WorkloadId,
    /// Its interface's IPv4 address.
    pub v4: Ipv4Addr,
    /// Its interface's IPv6 address.
    pub v6: Ipv6Addr,
    /// How it is attached on its hosts.
    pub run: Run,
    /// The hosts it runs on, in the order of the graph; only their certificates may speak for it.
    pub on: Vec<HostName>,
    /// The fabric is its only network.
    pub isolated: bool,
    /// What it may do as a caller on one host, over all its edges.
    pub limits: Limits,
    /// Where the graph says so.
    pub at: Location,
}

/// A service with its addresses.
#[derive(Debug, Clone)]
pub struct ServiceEntry {
    /// Which it is.
    pub id: ServiceId,
    /// Its virtual IPv4 address.
    pub v4: Ipv4Addr,
    /// Its virtual IPv6 address.
    pub v6: Ipv6Addr,
    /// Its ports, in ascending order, each once.
    pub ports: Vec<Port>,
    /// The workload that serves it.
    pub by: WorkloadIx,
    /// Where the endpoint listens, when the graph says; see [`ripstop_config::graph::Service::to`].
    pub to: Option<SocketAddr>,
    /// The hosts that serve it: those of the serving workload.
    pub hosts: Vec<HostName>,
    /// What all callers together may do; see [`ripstop_config::graph::Service::limits`].
    pub limits: Limits,
    /// How its endpoints are checked.
    pub health: Option<Health>,
    /// From where an endpoint sees its callers come.
    pub source: Source,
    /// How callers choose among its endpoints.
    pub balance: Balance,
    /// After how much silence a UDP session ends, when the graph says.
    pub idle: Option<Duration>,
    /// Other tenants that may call it, by edges of their own.
    pub export: Vec<Export>,
    /// Where the graph says so.
    pub at: Location,
}

/// Everything that lookups need, by handle or by key.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) workloads: Vec<WorkloadEntry>,
    pub(crate) services: Vec<ServiceEntry>,
    pub(crate) workload_ix: FxHashMap<WorkloadId, WorkloadIx>,
    /// By tenant and name as texts: DNS asks with texts that may be no names.
    pub(crate) service_ix: FxHashMap<Box<str>, FxHashMap<Box<str>, ServiceIx>>,
    pub(crate) owners: FxHashMap<IpAddr, Owner>,
    /// Ascending, as workloads are numbered in the order in which they are added.
    pub(crate) on: BTreeMap<HostName, Vec<WorkloadIx>>,
    pub(crate) reach: FxHashMap<(WorkloadIx, ServiceIx), Reach>,
    /// Of each workload, the services to which it has an edge, ascending.
    pub(crate) callees: Vec<Vec<ServiceIx>>,
    /// Edges that are not in force, as the service's side does not consent to them.
    pub(crate) dormant: Vec<EdgeIx>,
    /// Labels of the deepest tenant.
    pub(crate) depth: usize,
    /// What decisions read of all this.
    pub(crate) dense: Dense,
}

/// Whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Workload(WorkloadIx),
    Service(ServiceIx),
}

/// The edges between one caller and one service.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// The first edge without `ports:`.
    pub(crate) all: Option<EdgeIx>,
    /// For each port that an edge names, the first such edge; in ascending order of ports.
    pub(crate) ports: Box<[(Port, EdgeIx)]>,
}

impl Reach {
    /// The edge that allows a port; of several the first in the file.
    pub(crate) fn edge_for(&self, port: Port) -> Option<EdgeIx> {
        let named = self.ports.binary_search_by_key(&port, |(port, _)| *port).ok();
        let named = named.map(|position| self.ports[position].1);
        named.into_iter().chain(self.all).min()
    }
}

impl Policy {
    /// The policy of a host that has none yet: nothing is in it, so everything is denied.
    ///
    /// # Errors
    /// None that a fabric's default ranges could cause.
    pub fn empty(fabric: FabricName) -> Result<Self, CompileError> {
        compile(Graph {
            ranges: Ranges::of(&fabric),
            fabric,
            hosts: BTreeMap::new(),
            tenants: BTreeMap::new(),
            workloads: BTreeMap::new(),
            services: BTreeMap::new(),
            edges: Vec::new(),
            never: Vec::new(),
            tests: Vec::new(),
        })
    }

    /// Which signed policy it is; the default, with [`PolicyVersion::UNSIGNED`], when nobody signed it.
    #[must_use]
    pub fn id(&self) -> BundleId {
        self.id
    }

    /// The version of the signed policy.
    #[must_use]
    pub fn version(&self) -> PolicyVersion {
        self.id.version
    }

    /// The hosts and certificates that it shuts out.
    #[must_use]
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// The addresses that its names have, for the policy after it.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses {
            services: self.tables.services.iter().map(|entry| (entry.id.clone(), (entry.v4, entry.v6))).collect(),
            workloads: self.tables.workloads.iter().map(|entry| (entry.id.clone(), (entry.v4, entry.v6))).collect(),
        }
    }

    /// The graph it was compiled from.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The fabric: trust domain and name suffix.
    #[must_use]
    pub fn fabric(&self) -> &FabricName {
        &self.graph.fabric
    }

    /// Which policy this is: equal on two hosts exactly when they decide and address alike.
    #[must_use]
    pub fn digest(&self) -> PolicyDigest {
        self.digest
    }

    /// The addresses at which every workload finds the resolver, port 53.
    #[must_use]
    pub fn resolver(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.resolver
    }

    /// A workload by name.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId) -> Option<WorkloadIx> {
        self.tables.workload_ix.get(id).copied()
    }

    /// A service by name.
    #[must_use]
    pub fn service(&self, id: &ServiceId) -> Option<ServiceIx> {
        self.service_named(id.tenant.as_str(), id.name.as_str())
    }

    /// The service of a tenant whose names are these texts.
    #[must_use]
    pub fn service_named(&self, tenant: &str, name: &str) -> Option<ServiceIx> {
        self.tables.service_ix.get(tenant)?.get(name).copied()
    }

    /// A workload's entry.
    ///
    /// # Panics
    /// When the handle is of another policy and beyond this one's workloads.
    #[must_use]
    pub fn workload_entry(&self, ix: WorkloadIx) -> &WorkloadEntry {
        &self.tables.workloads[ix.index()]
    }

    /// A service's entry.
    ///
    /// # Panics
    /// When the handle is of another policy and beyond this one's services.
    #[must_use]
    pub fn service_entry(&self, ix: ServiceIx) -> &ServiceEntry {
        &self.tables.services[ix.index()]
    }

    /// An edge: the rule, with its place in the file.
    ///
    /// # Panics
    /// When the handle is of another policy and beyond this one's edges.
    #[must_use]
    pub fn edge(&self, ix: EdgeIx) -> &Edge {
        &self.graph.edges[ix.index()]
    }

    /// Edges that are in the graph and allow nothing: the service's tenant does not export it to the caller's.
    pub fn dormant(&self) -> impl ExactSizeIterator<Item = &Edge> {
        self.tables.dormant.iter().map(|ix| self.edge(*ix))
    }

    /// How many labels the deepest tenant has; 1 while none is below another.
    #[must_use]
    pub fn tenant_depth(&self) -> usize {
        self.tables.depth
    }

    /// What all workloads of a tenant and of those below it together may do as callers on one host. Those of the tenants above
    /// it hold as well; see [`TenantName::lineage`].
    #[must_use]
    pub fn tenant_limits(&self, tenant: &TenantName) -> Limits {
        self.graph.tenants.get(tenant).map(|tenant| tenant.limits).unwrap_or_default()
    }

    /// The service whose virtual address this is.
    #[must_use]
    pub fn service_at(&self, ip: IpAddr) -> Option<ServiceIx> {
        match self.tables.owners.get(&ip)? {
            Owner::Service(ix) => Some(*ix),
            Owner::Workload(_) => None,
        }
    }

    /// The workload whose address this is.
    #[must_use]
    pub fn workload_at(&self, ip: IpAddr) -> Option<WorkloadIx> {
        match self.tables.owners.get(&ip)? {
            Owner::Workload(ix) => Some(*ix),
            Owner::Service(_) => None,
        }
    }

    /// Whether an address lies in any of the fabric's ranges, assigned or not.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ranges = &self.graph.ranges;
        match ip {
            IpAddr::V4(ip) => ranges.services_v4.contains(&ip) || ranges.workloads_v4.contains(&ip),
            IpAddr::V6(ip) => ranges.v6.contains(&ip),
        }
    }

    /// All workloads, in order of name.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = WorkloadIx> + use<> {
        WorkloadIx::first(self.tables.workloads.len())
    }

    /// All services, in order of name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = ServiceIx> + use<> {
        ServiceIx::first(self.tables.services.len())
    }

    /// The workloads that run on a host, in order of name.
    pub fn workloads_on(&self, host: &HostName) -> impl Iterator<Item = WorkloadIx> + '_ {
        self.tables.on.get(host).into_iter().flatten().copied()
    }

    /// Whether a host's certificate may speak for a workload: exactly when the graph places the workload on it.
    #[must_use]
    pub fn may_speak_for(&self, host: &HostName, workload: WorkloadIx) -> bool {
        self.tables.on.get(host).is_some_and(|there| there.binary_search(&workload).is_ok())
    }

    /// Decides whether `caller` may open a session to a port of `service`. Pure; its cost does not grow with the
    /// number of rules. Both the calling and the serving host ask this, and again whenever the policy changes.
    pub fn decide(&self, caller: WorkloadIx, service: ServiceIx, port: Port) -> Verdict {
        let Some(reach) = self.tables.reach.get(&(caller, service)) else {
            return Verdict::Deny(self.without_edge(caller, service));
        };
        if self.tables.dense.ports(service).binary_search(&port).is_err() {
            return Verdict::Deny(Reason::NoPort);
        }
        match reach.edge_for(port) {
            Some(edge) => Verdict::Allow(Permit::new(edge, self.tables.dense.limits(edge))),
            None => Verdict::Deny(Reason::PortNotAllowed),
        }
    }

    /// Why a caller without an edge is denied: across tenants, a rule stands above all, and an export is missing before an
    /// edge is.
    fn without_edge(&self, caller: WorkloadIx, service: ServiceIx) -> Reason {
        if self.tables.dense.one_tenant(caller, service) == Some(true) {
            return Reason::NoEdge;
        }
        let Some(entry) = self.tables.services.get(service.index()) else {
            return Reason::NoService;
        };
        let Some(who) = self.tables.workloads.get(caller.index()) else {
            return Reason::UnknownCaller;
        };
        if self.tables.dense.apart(caller, service) {
            return Reason::KeptApart;
        }
        if exported_to(&entry.export, &who.id.tenant).is_some() { Reason::NoEdge } else { Reason::NotExported }
    }

    /// Why a service is hidden from a caller that has no edge to it in force.
    #[must_use]
    pub fn why_hidden(&self, caller: WorkloadIx, service: ServiceIx) -> Reason {
        self.without_edge(caller, service)
    }

    /// What a workload may change by its own word, at the resolver's address.
    #[must_use]
    pub fn may_change(&self, workload: &WorkloadId, change: Change) -> bool {
        self.graph.workloads.get(workload).is_some_and(|workload| workload.may.contains(&change))
    }

    /// The lowest port of a service that an edge lets this caller call: what it may call at all is decided by that one.
    /// `None` for handles of another policy, too.
    #[must_use]
    pub fn first_port(&self, caller: WorkloadIx, service: ServiceIx) -> Option<Port> {
        let reach = self.tables.reach.get(&(caller, service))?;
        let ports = &self.tables.services.get(service.index())?.ports;
        ports.iter().copied().find(|port| reach.edge_for(*port).is_some())
    }

    /// Whether a caller has any edge to a service: whether it may know that the service exists.
    #[must_use]
    pub fn visible(&self, caller: WorkloadIx, service: ServiceIx) -> bool {
        self.tables.reach.contains_key(&(caller, service))
    }

    /// The services to which a caller has any edge, in order of name.
    pub fn visible_services(&self, caller: WorkloadIx) -> impl Iterator<Item = ServiceIx> + '_ {
        self.tables.callees.get(caller.index()).into_iter().flatten().copied()
    }
}
