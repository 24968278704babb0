//! What one workload sees of the fabric's names and addresses.

use ripstop_config::{Port, Protocol, Reason, TenantName, WorkloadId, WorkloadName};
use ripstop_policy::{Policy, ServiceIx, Verdict, WorkloadIx};
use std::{borrow::Cow, net::IpAddr};

/// The label under the suffix below which workloads have names: `NAME.TENANT.workloads.FABRIC`, `web.eu.shop.workloads.FABRIC`.
pub(crate) const WORKLOADS: &str = "workloads";
/// The resolver's own label under the suffix.
pub(crate) const RESOLVER: &str = "resolver";

/// The policy as one workload sees it.
#[derive(Clone, Copy)]
pub(crate) struct View<'p> {
    pub(crate) policy: &'p Policy,
    pub(crate) caller: WorkloadIx,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// The suffix itself.
    Apex,
    /// The resolver.
    Resolver,
    /// A name with names below it and no records (RFC 8020).
    Empty,
    /// A service that the caller may call.
    Service(ServiceIx),
    /// `_PORT._PROTOCOL` of such a service.
    ServicePort(ServiceIx, Port),
    /// The caller, or a workload that may call a service of the caller's.
    Workload(WorkloadIx),
    /// Nothing that the caller may know of.
    Missing(Missing),
}

/// Why a name does not exist for a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// For metrics: the true reason.
    pub(crate) reason: Reason,
    /// The service that is hidden, if there is one of the name.
    pub(crate) hidden: Option<ServiceIx>,
    /// The caller lacks an edge and may know it.
    pub(crate) prohibited: bool,
    /// For the caller: what it may know.
    pub(crate) why: String,
}

impl View<'_> {
    /// What a name under the suffix stands for; `labels` in lower case, the one next to the suffix first. The labels of a
    /// tenant stand from the outermost to the innermost then, and a service's behind them. A graph has no service that
    /// is called as a tenant beside it, so that at most one reading of a name is there.
    pub(crate) fn name(self, labels: &[Cow<'_, str>]) -> Node {
        let labels: Vec<&str> = labels.iter().map(Cow::as_ref).collect();
        for depth in 1..=self.policy.tenant_depth() {
            if let Some((tenant, [service, below @ ..])) = labels.split_at_checked(depth)
                && let Some(service) = self.visible(&path(tenant), service)
            {
                return self.under_service(service, below);
            }
        }
        match labels.as_slice() {
            [] => Node::Apex,
            [RESOLVER] => Node::Resolver,
            [WORKLOADS, below @ ..] => self.under_workloads(below),
            [tenant] if self.sees_tenant(tenant) => Node::Empty,
            [tenant] => Node::Missing(self.no_tenant(tenant)),
            several => self.under_tenants(several),
        }
    }

    /// Any tenant's name exists here, so that the answer says nothing of which tenants there are.
    fn under_workloads(self, labels: &[&str]) -> Node {
        let found = labels.split_last().and_then(|(name, tenant)| self.workload(&path(tenant), name));
        match found {
            Some(workload) => Node::Workload(workload),
            None if labels.len() <= self.policy.tenant_depth() => Node::Empty,
            None => Node::Missing(self.unknown("no such workload for this one")),
        }
    }

    /// A tenant that the caller sees, or no service. The caller is told of a service of its own tenant, or of the outermost
    /// one, whichever reading of the name is that of something: what is hidden shows in the true reason alone.
    fn under_tenants(self, labels: &[&str]) -> Node {
        if labels.len() <= self.policy.tenant_depth() && self.sees_tenant(&path(labels)) {
            return Node::Empty;
        }
        let own = self.id().tenant.depth();
        let is_own = labels.len() > own && path(&labels[..own]) == self.id().tenant.as_str();
        let shown = if is_own { own } else { 1 };
        let missing = self.no_service(&path(&labels[..shown]), labels[shown]);
        let read = |depth: usize| self.policy.service_named(&path(&labels[..depth]), labels.get(depth)?);
        let mut others = (1..=self.policy.tenant_depth().min(labels.len())).filter(|depth| *depth != shown);
        match others.find_map(read) {
            Some(hidden) => Missing { reason: self.policy.why_hidden(self.caller, hidden), ..missing }.into(),
            None => missing.into(),
        }
    }

    /// What an address stands for.
    pub(crate) fn address(self, address: IpAddr) -> Node {
        let (v4, v6) = self.policy.resolver();
        if address == IpAddr::V4(v4) || address == IpAddr::V6(v6) {
            return Node::Resolver;
        }
        if let Some(service) =
            self.policy.service_at(address).filter(|service| self.policy.visible(self.caller, *service))
        {
            return Node::Service(service);
        }
        match self.policy.workload_at(address).filter(|workload| self.knows(*workload)) {
            Some(workload) => Node::Workload(workload),
            None => Node::Missing(self.unknown("no service or workload with this address for this workload")),
        }
    }

    /// The service's ports that the caller may call.
    pub(crate) fn ports(self, service: ServiceIx) -> impl Iterator<Item = Port> {
        let ports = self.policy.service_entry(service).ports.iter().copied();
        ports.filter(move |port| matches!(self.policy.decide(self.caller, service, *port), Verdict::Allow(_)))
    }

    fn id(&self) -> &WorkloadId {
        &self.policy.workload_entry(self.caller).id
    }

    fn visible(self, tenant: &str, service: &str) -> Option<ServiceIx> {
        self.policy.service_named(tenant, service).filter(|service| self.policy.visible(self.caller, *service))
    }

    fn under_service(self, service: ServiceIx, below: &[&str]) -> Node {
        let node = match below {
            [] => Some(Node::Service(service)),
            [protocol] => self.ports(service).find(|port| label_of(port.protocol) == *protocol).map(|_| Node::Empty),
            [protocol, port] => self
                .ports(service)
                .find(|own| label_of(own.protocol) == *protocol && format!("_{}", own.number) == *port)
                .map(|port| Node::ServicePort(service, port)),
            _ => None,
        };
        node.unwrap_or_else(|| {
            let id = &self.policy.service_entry(service).id;
            Node::Missing(Missing {
                hidden: None,
                reason: Reason::NoPort,
                prohibited: false,
                why: format!("service {id} has no such port for this workload; its SRV records name the ports"),
            })
        })
    }

    /// Whether the caller is in a tenant, or one below it, or may call a service of such a one.
    fn sees_tenant(self, tenant: &str) -> bool {
        let within = |other: &TenantName| other.lineage().any(|above| above == tenant);
        let same = |service: ServiceIx| within(&self.policy.service_entry(service).id.tenant);
        within(&self.id().tenant) || self.policy.visible_services(self.caller).any(same)
    }

    fn workload(self, tenant: &str, name: &str) -> Option<WorkloadIx> {
        let id = WorkloadId::new(TenantName::new(tenant).ok()?, WorkloadName::new(name).ok()?);
        self.policy.workload(&id).filter(|workload| self.knows(*workload))
    }

    /// Whether the caller may know a workload: it is itself, or one that may call a service it serves and so shows
    /// its address there.
    fn knows(self, workload: WorkloadIx) -> bool {
        let serves = |service: ServiceIx| self.policy.service_entry(service).by == self.caller;
        workload == self.caller || self.policy.visible_services(workload).any(serves)
    }

    fn unknown(self, why: &str) -> Missing {
        Missing { reason: Reason::NoService, hidden: None, prohibited: false, why: why.into() }
    }

    fn no_tenant(self, tenant: &str) -> Missing {
        self.unknown(&format!("no service of a tenant `{tenant}` for this workload"))
    }

    /// Within the own tenant the missing edge is named. Of other tenants the same is said of what is hidden and of
    /// what does not exist.
    fn no_service(self, tenant: &str, service: &str) -> Missing {
        let caller = self.id();
        let found = self.policy.service_named(tenant, service);
        let own = caller.tenant.as_str() == tenant;
        match found {
            Some(hidden) if own => Missing {
                reason: Reason::NoEdge,
                hidden: Some(hidden),
                prohibited: true,
                why: format!(
                    "no allow edge from {caller} to {tenant}/{service} in the graph; add {{ from: {}, to: {service} }} \
                     under tenants.{tenant}.allow",
                    caller.name
                ),
            },
            None if own => self.unknown(&format!("tenant {tenant} has no service `{service}` in the graph")),
            Some(service) => {
                let reason = self.policy.why_hidden(self.caller, service);
                Missing { reason, hidden: Some(service), ..self.unknown(ELSEWHERE) }
            }
            None => self.unknown(ELSEWHERE),
        }
    }
}

impl From<Missing> for Node {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

/// A tenant's name of its labels, the outermost first.
fn path<'l>(labels: &[&'l str]) -> Cow<'l, str> {
    match labels {
        [one] => Cow::Borrowed(one),
        several => Cow::Owned(several.join("/")),
    }
}

/// What is said of services of other tenants.
const ELSEWHERE: &str = "no such service for this workload";

/// The label of a protocol in SRV names (RFC 2782).
pub(crate) fn label_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
    }
}
