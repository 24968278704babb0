//! Why something is allowed or denied, and what would allow it: the same `decide()` as enforcement, with its reasons
//! spelled out.

use crate::{
    Consent, KeptApart, Policy, ServiceIx, Verdict, WorkloadIx,
    consent::{between, consents, kept_apart},
};
use ripstop_config::{
    Graph, HostName, Port, Reason, ServiceId, Span, TenantName, WorkloadId, ZoneName,
    diagnostic::Location,
    graph::{Balance, Health, Limits, Source},
    suggest::nearest,
};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// The chain from a name to an endpoint, or the point at which it breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who calls.
    pub who: WorkloadId,
    /// The hosts from which it calls.
    pub from: Vec<HostName>,
    /// The addresses it calls from.
    pub who_addresses: Vec<IpAddr>,
    /// What is called.
    pub service: ServiceId,
    /// Its DNS name.
    pub name: String,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// One answer for the port asked about, or for each port of the service. Never empty.
    pub ports: Vec<PortAnswer>,
    /// The rule that keeps caller and service apart, if one does.
    pub never: Option<KeptApart>,
    /// Between tenants, the consent of each side, or that it lacks; none within a tenant.
    pub consents: Vec<Consent>,
    /// The hosts that serve it.
    pub endpoints: Vec<Serves>,
    /// How its endpoints are checked.
    pub health: Option<Health>,
    /// From where an endpoint sees its callers come.
    pub source: Source,
    /// How callers choose among its endpoints.
    pub balance: Balance,
    /// After how much silence a UDP session ends, when the graph says.
    pub idle: Option<Span>,
    /// A name close to one that is unknown.
    pub did_you_mean: Option<String>,
    /// What to change in the graph to allow what is denied.
    pub changes: Vec<Change>,
}

/// What is decided for one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortAnswer {
    /// The port; none when nothing was asked for and the service is unknown.
    pub port: Option<Port>,
    /// Whether the policy allows it.
    pub allowed: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// The rule that allows it, as `file:line`.
    pub rule: Option<Location>,
    /// What a session is held to: none when it is denied.
    pub limits: LimitChain,
}

/// The limits that a session counts for, all of which hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LimitChain {
    /// Those of the rule.
    pub edge: Limits,
    /// Those of the service, over all its callers.
    pub service: Limits,
    /// Those of the calling workload, over all its edges.
    pub workload: Limits,
    /// Those of the calling workload's tenant, over all its workloads.
    pub tenant: Limits,
    /// Those of the tenants above it that have any, the innermost first.
    pub above: Vec<OfTenant>,
}

/// The limits of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfTenant {
    /// Which.
    pub name: TenantName,
    /// Its limits, over all its workloads and those below it.
    pub limits: Limits,
}

/// A host that serves a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Serves {
    /// The host.
    pub host: HostName,
    /// Its zone.
    pub zone: Option<ZoneName>,
    /// Where its agent takes connections.
    pub address: Option<SocketAddr>,
}

/// A line of YAML to write into the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Under which key, such as `tenants.shop.allow`.
    pub under: String,
    /// The line.
    pub line: String,
}

impl Explanation {
    /// One that says nothing yet.
    fn about(who: WorkloadId, service: ServiceId) -> Self {
        Self {
            who,
            from: Vec::new(),
            who_addresses: Vec::new(),
            service,
            name: String::new(),
            addresses: Vec::new(),
            ports: Vec::new(),
            never: None,
            consents: Vec::new(),
            endpoints: Vec::new(),
            health: None,
            source: Source::default(),
            balance: Balance::default(),
            idle: None,
            did_you_mean: None,
            changes: Vec::new(),
        }
    }

    /// Whether the port asked about, or any port when none was, is allowed.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.ports.iter().any(|answer| answer.allowed)
    }

    /// Why nothing is allowed; `None` when something is.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        if self.allowed() { None } else { self.ports.iter().find_map(|answer| answer.reason) }
    }
}

/// Explains whether `who` may call `service`, at one port or at each of its ports.
#[must_use]
pub fn explain(policy: &Policy, who: &WorkloadId, service: &ServiceId, port: Option<Port>) -> Explanation {
    let caller = policy.workload(who);
    let callee = policy.service(service);
    let mut explanation =
        Explanation { name: service.dns_name(policy.fabric()), ..Explanation::about(who.clone(), service.clone()) };
    if let Some(entry) = caller.map(|caller| policy.workload_entry(caller)) {
        explanation.from.clone_from(&entry.on);
        explanation.who_addresses = vec![entry.v4.into(), entry.v6.into()];
    }
    if let Some(entry) = callee.map(|callee| policy.service_entry(callee)) {
        explanation.addresses = vec![entry.v4.into(), entry.v6.into()];
        explanation.endpoints = entry.hosts.iter().map(|host| serves(policy.graph(), host)).collect();
        explanation.health.clone_from(&entry.health);
        explanation.source = entry.source;
        explanation.balance.clone_from(&entry.balance);
        explanation.idle = entry.idle.and_then(Span::of);
    }
    match (caller, callee) {
        (Some(caller), Some(callee)) => answer(policy, caller, callee, port, &mut explanation),
        (None, _) => {
            explanation.ports.push(denied(port, Reason::UnknownCaller));
            let known = policy.graph().workloads.keys().map(ToString::to_string);
            explanation.did_you_mean = nearest(&who.to_string(), known);
        }
        (Some(_), None) => {
            explanation.ports.push(denied(port, Reason::NoService));
            let known = policy.graph().services.keys().map(ToString::to_string);
            explanation.did_you_mean = nearest(&service.to_string(), known);
        }
    }
    explanation
}

/// The line under `tenants.TENANT.allow` of the caller's tenant that gives `who` leave to call `service`. When edges
/// already give some of its ports, the line is for the others: a graph may not give a port twice.
#[must_use]
pub fn allowing_edge(policy: &Policy, who: &WorkloadId, service: &ServiceId) -> String {
    let pair = policy.workload(who).zip(policy.service(service));
    pair.and_then(|(who, to)| missing_edge(policy, who, to, None)).unwrap_or_else(|| edge_line(who, service, &[]))
}

fn edge_line(who: &WorkloadId, service: &ServiceId, ports: &[Port]) -> String {
    let to = if who.tenant == service.tenant { service.name.to_string() } else { service.to_string() };
    let ports = match ports {
        [] => String::new(),
        [port] => format!(", port: {port}"),
        several => format!(", ports: [{}]", joined(several.iter())),
    };
    format!("- {{ from: {}, to: {to}{ports} }}", who.name)
}

fn serves(graph: &Graph, host: &HostName) -> Serves {
    let known = graph.hosts.get(host);
    Serves {
        host: host.clone(),
        zone: known.and_then(|host| host.zone.clone()),
        address: known.and_then(|host| host.address),
    }
}

fn denied(port: Option<Port>, reason: Reason) -> PortAnswer {
    PortAnswer { port, allowed: false, reason: Some(reason), rule: None, limits: LimitChain::default() }
}

fn answer(policy: &Policy, caller: WorkloadIx, callee: ServiceIx, port: Option<Port>, into: &mut Explanation) {
    into.never = kept_apart(policy, caller, callee);
    into.consents = consents(policy, caller, callee, port);
    let asked = port.map_or_else(|| policy.service_entry(callee).ports.clone(), |port| vec![port]);
    into.ports = asked.iter().map(|port| decide(policy, caller, callee, *port)).collect();
    if into.ports.is_empty() {
        into.ports.push(denied(None, Reason::NoPort));
    }
    if let Some(reason) = into.reason() {
        into.changes = changes(policy, caller, callee, port, reason);
    }
}

fn decide(policy: &Policy, caller: WorkloadIx, callee: ServiceIx, port: Port) -> PortAnswer {
    match policy.decide(caller, callee, port) {
        Verdict::Allow(permit) => PortAnswer {
            port: Some(port),
            allowed: true,
            reason: None,
            rule: Some(policy.edge(permit.edge).at.clone()),
            limits: LimitChain {
                edge: permit.limits,
                service: policy.service_entry(callee).limits,
                workload: policy.workload_entry(caller).limits,
                tenant: policy.tenant_limits(&policy.workload_entry(caller).id.tenant),
                above: above(policy, &policy.workload_entry(caller).id.tenant),
            },
        },
        Verdict::Deny(reason) => denied(Some(port), reason),
    }
}

fn above(policy: &Policy, tenant: &TenantName) -> Vec<OfTenant> {
    let above = std::iter::successors(tenant.parent(), TenantName::parent);
    let limits = above.map(|name| OfTenant { limits: policy.tenant_limits(&name), name });
    limits.filter(|tenant| !tenant.limits.is_none()).collect()
}

/// What would allow it: the export, the port and the edge, as far as each is missing. Nothing does what a rule forbids.
fn changes(policy: &Policy, caller: WorkloadIx, callee: ServiceIx, port: Option<Port>, reason: Reason) -> Vec<Change> {
    let (who, service) = (&policy.workload_entry(caller).id, policy.service_entry(callee));
    let of_service = format!("tenants.{}.services.{}", service.id.tenant, service.id.name);
    let mut changes = Vec::new();
    if reason == Reason::KeptApart {
        return changes;
    }
    if reason == Reason::NotExported {
        let export = service.export.iter().map(ToString::to_string).chain([who.tenant.to_string()]);
        changes.push(Change { under: of_service.clone(), line: format!("export: [{}]", joined(export)) });
    }
    // A service with `to:` has one port only; another port is another service there.
    if let Some(port) = port.filter(|port| !service.ports.contains(port) && service.to.is_none()) {
        let ports = service.ports.iter().chain([&port]);
        changes.push(Change { under: of_service, line: format!("ports: [{}]", joined(ports)) });
    }
    if let Some(line) = missing_edge(policy, caller, callee, port) {
        changes.push(Change { under: format!("tenants.{}.allow", who.tenant), line });
    }
    changes
}

/// The edge that lacks for a port, or for whatever ports edges do not give yet; none when they give all. One that is not
/// in force, for want of an export, does not lack.
fn missing_edge(policy: &Policy, caller: WorkloadIx, callee: ServiceIx, port: Option<Port>) -> Option<String> {
    let (who, service) = (&policy.workload_entry(caller).id, policy.service_entry(callee));
    let edges: Vec<_> = between(policy, caller, callee).collect();
    if edges.is_empty() {
        return Some(edge_line(who, &service.id, &[]));
    }
    let given = |port: &Port| edges.iter().any(|edge| edge.ports.is_empty() || edge.ports.contains(port));
    let asked = port.map_or_else(|| service.ports.clone(), |port| vec![port]);
    let lacking: Vec<Port> = asked.into_iter().filter(|port| !given(port)).collect();
    if lacking.is_empty() { None } else { Some(edge_line(who, &service.id, &lacking)) }
}

fn joined<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}
