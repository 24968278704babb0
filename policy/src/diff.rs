//! What another policy would change.

use crate::{EdgeIx, Policy, ServiceIx, WorkloadIx};
use ripstop_config::{Port, ServiceId, TenantName, WorkloadId, diagnostic::Location, graph::Limits};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Call {
    /// Who calls.
    pub who: WorkloadId,
    /// Which service.
    pub service: ServiceId,
    /// At which port.
    pub port: Port,
}

/// A call that one policy allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// Which.
    #[serde(flatten)]
    pub call: Call,
    /// The rule.
    pub rule: Location,
}

/// A name whose addresses are others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// `tenant/name`.
    pub name: String,
    /// Where it was.
    pub from: String,
    /// Where it will be.
    pub to: String,
}

/// Names that come and go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    /// Only in the new one.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
}

/// What a new policy changes of an old one; nothing in it when they decide and address alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Hosts.
    pub hosts: Names,
    /// Workloads.
    pub workloads: Names,
    /// Services.
    pub services: Names,
    /// Calls that are denied and would be allowed, by the new rule.
    pub allowed: Vec<Allowed>,
    /// Calls that are allowed and would be denied, by the old rule.
    pub denied: Vec<Allowed>,
    /// Calls that stay allowed, with other limits, by the new rule.
    pub limited: Vec<Allowed>,
    /// Names that stay, at other addresses.
    pub moved: Vec<Moved>,
}

impl Diff {
    /// Nothing changes that [`Diff`] tells of.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares two policies. The cost is that of going through both.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Diff {
    let (before, after) = (calls(old), calls(new));
    let only = |these: &BTreeMap<Call, EdgeIx>, those: &BTreeMap<Call, EdgeIx>, policy: &Policy| {
        let only = these.iter().filter(|(call, _)| !those.contains_key(*call));
        only.map(|(call, edge)| allowed(policy, call, *edge)).collect()
    };
    let limited = after.iter().filter(|(call, edge)| {
        before.get(*call).is_some_and(|earlier| limits(old, call, *earlier) != limits(new, call, **edge))
    });
    Diff {
        hosts: names(old.graph().hosts.keys(), new.graph().hosts.keys()),
        workloads: names(old.graph().workloads.keys(), new.graph().workloads.keys()),
        services: names(old.graph().services.keys(), new.graph().services.keys()),
        allowed: only(&after, &before, new),
        denied: only(&before, &after, old),
        limited: limited.map(|(call, edge)| allowed(new, call, *edge)).collect(),
        moved: moved(old, new),
    }
}

fn allowed(policy: &Policy, call: &Call, edge: EdgeIx) -> Allowed {
    Allowed { call: call.clone(), rule: policy.edge(edge).at.clone() }
}

/// Everything that a policy allows.
fn calls(policy: &Policy) -> BTreeMap<Call, EdgeIx> {
    let of = |caller: WorkloadIx, service: ServiceIx| {
        let ports = policy.service_entry(service).ports.iter();
        ports.filter_map(move |port| {
            let crate::Verdict::Allow(permit) = policy.decide(caller, service, *port) else { return None };
            let who = policy.workload_entry(caller).id.clone();
            let service = policy.service_entry(service).id.clone();
            Some((Call { who, service, port: *port }, permit.edge))
        })
    };
    let pairs = policy.workloads().flat_map(|caller| policy.visible_services(caller).map(move |to| (caller, to)));
    pairs.flat_map(|(caller, to)| of(caller, to)).collect()
}

/// Everything that holds such a call back: edge, service, workload, and the tenants that it is in.
fn limits(policy: &Policy, call: &Call, edge: EdgeIx) -> Vec<Limits> {
    let service = policy.service(&call.service).map(|ix| policy.service_entry(ix).limits).unwrap_or_default();
    let workload = policy.workload(&call.who).map(|ix| policy.workload_entry(ix).limits).unwrap_or_default();
    let tenants = std::iter::successors(Some(call.who.tenant.clone()), TenantName::parent);
    let tenants = tenants.map(|tenant| policy.tenant_limits(&tenant));
    [policy.edge(edge).limits, service, workload].into_iter().chain(tenants).collect()
}

fn names<'n, N: Ord + ToString + 'n>(old: impl Iterator<Item = &'n N>, new: impl Iterator<Item = &'n N>) -> Names {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old.collect(), new.collect());
    let texts = |names: Vec<&&N>| names.into_iter().map(|name| name.to_string()).collect();
    Names { added: texts(new.difference(&old).collect()), removed: texts(old.difference(&new).collect()) }
}

fn moved(old: &Policy, new: &Policy) -> Vec<Moved> {
    let (old, new) = (old.addresses(), new.addresses());
    let workloads = old.workloads.iter().map(|(id, was)| (id.to_string(), was, new.workloads.get(id)));
    let services = old.services.iter().map(|(id, was)| (id.to_string(), was, new.services.get(id)));
    let moved = workloads.chain(services).filter_map(|(name, was, is)| Some((name, was, is.filter(|is| *is != was)?)));
    moved.map(|(name, was, is)| Moved { name, from: was.0.to_string(), to: is.0.to_string() }).collect()
}
