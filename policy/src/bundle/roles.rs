//! Who may change what: an operator who is limited to tenants signs no change to anything else.
//!
//! Each part of a policy belongs to a tenant, or to the fabric: hosts, and which of their programs are which workload, ranges,
//! rules that keep tenants apart, tests, and who is shut out. What a tenant as a whole may do, and that it is there, belongs to the tenant above it. A policy that is signed by
//! enough operators who may change everything is not looked into. Of any other, each part that is not as in the
//! policy that it replaces must be signed by enough operators who may change that part.

use super::{Bundle, BundleId, Content, ContentError};
use ripstop_config::{
    Graph, OperatorName, Operators, TenantName,
    diagnostic::Location,
    graph::{Assertion, Edge, Host, Never, Service, Tenant, Workload},
};
use std::{collections::BTreeMap, fmt::Debug};

/// Parts named in an error at most.
const NAMED_MAX: usize = 8;

/// Why a policy is not theirs to make who signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// It changes what too few of its signers may change.
    #[error("{signers} signed it, and it changes {parts}: {need} of its signers must be operators who may change that")]
    Outside {
        /// Its signers, each with its tenants.
        signers: String,
        /// What it changes that they may not.
        parts: String,
        /// How many of them must be allowed to.
        need: usize,
    },
    /// There is no policy that it could be held against.
    #[error("operators who are limited to tenants signed it, and this host has no policy to hold it against")]
    NoPolicy,
    /// One of the two graphs cannot be read here.
    #[error("what it changes cannot be told: {0}")]
    Content(#[from] ContentError),
}

/// To whom a part belongs: a tenant, or the fabric.
type Owner = Option<TenantName>;

/// One part of a policy.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    owner: Owner,
    says: String,
}

/// Parts by name, each with its place in the graph.
type Parts = BTreeMap<String, (Part, Option<Location>)>;

impl Bundle {
    /// Whether enough operators signed it who may change everything.
    #[must_use]
    pub fn is_unlimited(&self, operators: &Operators) -> bool {
        enough(self, operators, None)
    }

    /// The policy that it was made to replace.
    #[must_use]
    pub fn before(&self) -> Option<BundleId> {
        self.content().before
    }

    /// Holds it against the policy that it replaces: its signers must be allowed to change what it changes.
    ///
    /// # Errors
    /// [`RoleError`].
    pub fn check_roles(&self, before: Option<&Self>, operators: &Operators) -> Result<(), RoleError> {
        if self.is_unlimited(operators) {
            return Ok(());
        }
        let Some(before) = before else { return Err(RoleError::NoPolicy) };
        let (old, new) = (parts(before.content())?, parts(self.content())?);
        let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
        let mut outside = Vec::new();
        for name in names {
            let (was, is) = (old.get(name), new.get(name));
            if was.map(|(part, _)| part) == is.map(|(part, _)| part) {
                continue;
            }
            // What a part becomes must be theirs, and what it was.
            let owners = [was, is].into_iter().flatten().map(|(part, _)| part.owner.as_ref());
            if owners.into_iter().any(|owner| !enough(self, operators, owner)) {
                let place = is.or(was).and_then(|(_, at)| at.as_ref());
                outside.push(place.map_or_else(|| name.clone(), |at| format!("{name} ({at})")));
            }
        }
        if outside.is_empty() { Ok(()) } else { Err(self.outside(outside, operators)) }
    }

    fn outside(&self, mut parts: Vec<String>, operators: &Operators) -> RoleError {
        let more = parts.len().saturating_sub(NAMED_MAX);
        parts.truncate(NAMED_MAX);
        if more > 0 {
            parts.push(format!("and {more} more"));
        }
        let signers: Vec<String> = self.signers().iter().map(|name| described(name, operators)).collect();
        RoleError::Outside { signers: signers.join(", "), parts: parts.join(", "), need: operators.need.max(1) }
    }
}

/// `bob (limited to shop/eu)`.
fn described(name: &OperatorName, operators: &Operators) -> String {
    let Some(tenants) = operators.limited.get(name) else { return name.to_string() };
    let tenants: Vec<_> = tenants.iter().map(TenantName::as_str).collect();
    format!("{name} (limited to {})", tenants.join(", "))
}

fn enough(bundle: &Bundle, operators: &Operators, owner: Option<&TenantName>) -> bool {
    bundle.signers().iter().filter(|name| operators.may_change(name, owner)).count() >= operators.need.max(1)
}

/// Everything that a policy says, but for places, words for people, and the policy that it was made to replace.
fn parts(content: &Content) -> Result<Parts, ContentError> {
    let Content { file, graph, addresses, revoked, before: _, staged: _, made: _, note: _ } = content;
    let graph = Graph::parse(file, graph).map_err(ContentError::Graph)?;
    let mut parts = Parts::new();
    add_fabric(&graph, &mut parts);
    let mut add = |name: String, owner: Owner, says: &dyn Debug, at: Option<&Location>| {
        add(&mut parts, name, owner, says, at);
    };
    add("who is shut out".into(), None, revoked, None);
    for (name, Tenant { limits, at }) in &graph.tenants {
        add(format!("tenant {name}"), name.parent(), limits, Some(at));
    }
    for (id, Workload { on, run, isolated, limits, may, at }) in &graph.workloads {
        // Who says this makes programs of a host its own: another user's, or those of a tenant that has no workload there yet.
        add(format!("where workload {id} runs"), None, &(on, run, isolated), Some(at));
        add(format!("workload {id}"), Some(id.tenant.clone()), &(limits, may), Some(at));
    }
    for (id, service) in &graph.services {
        let Service { by, ports, to, export, limits, health, source, balance, idle, at } = service;
        let export: Vec<_> = export.iter().map(|export| &export.to).collect();
        let says = (by, ports, to, export, limits, (health, source, balance, idle));
        add(format!("service {id}"), Some(id.tenant.clone()), &says, Some(at));
    }
    for Edge { from, to, ports, limits, at } in &graph.edges {
        add(format!("edge {from} -> {to}"), Some(from.tenant.clone()), &(ports, limits), Some(at));
    }
    for (id, pair) in &addresses.services {
        add(format!("addresses of service {id}"), Some(id.tenant.clone()), pair, None);
    }
    for (id, pair) in &addresses.workloads {
        add(format!("addresses of workload {id}"), Some(id.tenant.clone()), pair, None);
    }
    Ok(parts)
}

/// What is no tenant's. The fields are named one by one, so that none that comes later is forgotten.
fn add_fabric(graph: &Graph, parts: &mut Parts) {
    let Graph { fabric, ranges, hosts, tenants: _, workloads: _, services: _, edges: _, never, tests } = graph;
    add(parts, "the fabric's name".into(), None, fabric, None);
    add(parts, "the ranges".into(), None, ranges, None);
    for (name, Host { zone, address, at }) in hosts {
        add(parts, format!("host {name}"), None, &(zone, address), Some(at));
    }
    for Never { between: [first, second], at } in never {
        let (first, second) = (first.min(second), first.max(second));
        add(parts, format!("never between {first} and {second}"), None, &(), Some(at));
    }
    for Assertion { from, to, ports, allowed, at } in tests {
        add(parts, format!("test of {from} -> {to}"), None, &(ports, allowed), Some(at));
    }
}

/// Several of one name are one part: the edges between two, for example, in their order.
fn add(parts: &mut Parts, name: String, owner: Owner, says: &dyn Debug, at: Option<&Location>) {
    let fresh = || (Part { owner, says: String::new() }, at.cloned());
    let (part, _) = parts.entry(name).or_insert_with(fresh);
    part.says.push_str(&format!("{says:?}\n"));
}
