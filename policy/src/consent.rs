//! Between tenants both sides must consent: the service's by an export, the caller's by an edge.

use crate::{Policy, ServiceIx, WorkloadIx};
use ripstop_config::{
    Port, Reason, TenantName,
    diagnostic::Location,
    graph::{Edge, exported_to},
};
use serde::Serialize;
use std::fmt;

/// Whose consent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// That of the service's tenant: an export.
    Server,
    /// That of the caller's tenant: an edge.
    Caller,
}

/// The consent of one side to a call from another tenant, or that it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consent {
    /// Whose.
    pub side: Side,
    /// The tenant of that side.
    pub tenant: TenantName,
    /// Whether it consents.
    pub given: bool,
    /// Where it does: the export or the edge. Where it does not: the service, or an edge for other ports, if there is one.
    pub at: Option<Location>,
}

/// The rule that keeps a caller and a service apart, whatever is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptApart {
    /// The two tenants.
    pub between: [TenantName; 2],
    /// Where the graph says so.
    pub at: Location,
}

/// Both consents to a call, the service's side first; none of both within a tenant.
pub(crate) fn consents(policy: &Policy, caller: WorkloadIx, callee: ServiceIx, port: Option<Port>) -> Vec<Consent> {
    let (who, service) = (&policy.workload_entry(caller).id, policy.service_entry(callee));
    if who.tenant == service.id.tenant {
        return Vec::new();
    }
    let export = exported_to(&service.export, &who.tenant);
    let at = Some(export.map_or(&service.at, |export| &export.at).clone());
    let covers = |edge: &&Edge| edge.ports.is_empty() || port.is_none_or(|port| edge.ports.contains(&port));
    let edge = between(policy, caller, callee).find(covers);
    let any = edge.or_else(|| between(policy, caller, callee).next());
    vec![
        Consent { side: Side::Server, tenant: service.id.tenant.clone(), given: export.is_some(), at },
        Consent {
            side: Side::Caller,
            tenant: who.tenant.clone(),
            given: edge.is_some(),
            at: any.map(|edge| edge.at.clone()),
        },
    ]
}

/// The rule that keeps them apart, if one does.
pub(crate) fn kept_apart(policy: &Policy, caller: WorkloadIx, callee: ServiceIx) -> Option<KeptApart> {
    let (who, service) = (&policy.workload_entry(caller).id, &policy.service_entry(callee).id);
    let never = policy.graph().never(who, service)?;
    Some(KeptApart { between: never.between.clone(), at: never.at.clone() })
}

/// The edges from one to the other, in force or not. The cost is that of going through all.
pub(crate) fn between(policy: &Policy, caller: WorkloadIx, callee: ServiceIx) -> impl Iterator<Item = &Edge> {
    let (who, service) = (&policy.workload_entry(caller).id, &policy.service_entry(callee).id);
    policy.graph().edges.iter().filter(move |edge| edge.from == *who && edge.to == *service)
}

/// What a denial between tenants lacks, in a sentence with the lines of the graph; `None` for every other denial. Its cost
/// does not grow with the number of edges.
#[must_use]
pub fn lacking(policy: &Policy, caller: WorkloadIx, callee: ServiceIx, reason: Reason) -> Option<String> {
    let (who, service) = (&policy.workload_entry(caller).id, policy.service_entry(callee));
    if who.tenant == service.id.tenant {
        return None;
    }
    let (mine, theirs) = (&who.tenant, &service.id.tenant);
    if reason == Reason::KeptApart {
        return kept_apart(policy, caller, callee).map(|never| never.to_string());
    }
    if reason == Reason::NotExported {
        let (id, at) = (&service.id, &service.at);
        return Some(format!("the service's side lacks: {theirs} does not export {id} ({at}) to {mine}"));
    }
    let export = exported_to(&service.export, mine).filter(|_| reason == Reason::NoEdge)?;
    Some(format!(
        "the caller's side lacks: {theirs} exports {} to {export} ({}), and {mine} has no edge to it",
        service.id, export.at
    ))
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server's side",
            Self::Caller => "caller's side",
        })
    }
}

impl fmt::Display for Consent {
    /// `shop exports it (shop.yaml:15)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = match (self.side, self.given, &self.at) {
            (Side::Server, true, _) => "exports it",
            (Side::Server, false, _) => "does not export it",
            (Side::Caller, true, _) => "has an edge to it",
            (Side::Caller, false, None) => "has no edge to it",
            (Side::Caller, false, Some(_)) => "has an edge to other ports of it alone",
        };
        write!(f, "{} {does}", self.tenant)?;
        self.at.as_ref().map_or(Ok(()), |at| write!(f, " ({at})"))
    }
}

impl fmt::Display for KeptApart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = &self.between;
        write!(f, "{first} and {second} are kept apart, whatever is allowed ({})", self.at)
    }
}
