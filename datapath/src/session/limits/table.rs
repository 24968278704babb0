//! All limits of a host's sessions, whichever data threads they are on.

use super::{
    Admission,
    fair::Flow,
    scope::{Entry, Part, Refusal, Scope, flow_of},
};
use crate::session::live::Request;
use ripstop_config::{HostName, Port, ServiceId, WorkloadId, graph::Limits};
use ripstop_policy::{Permit, Policy, ServiceIx};
use rustc_hash::FxHashMap;
use std::{
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is counted for every edge, service, workload and tenant that was used since it came into the policy. Only names that
/// the policy has get in. Its lock is taken when a session begins and when a policy comes, never for what a session carries.
#[derive(Default)]
pub struct LimitTable(Mutex<Entries>);

type Entries = FxHashMap<Scope, Entry>;

/// How many limits a session is under, where its tenant is below no other: its edge's, caller's, service's and tenant's.
const SCOPES_USUAL: usize = 4;

type Edges<'p> = FxHashMap<(&'p WorkloadId, &'p ServiceId, &'p [Port]), Limits>;

impl LimitTable {
    /// The right to have one more session open. `host` is this host. Nothing is counted when any limit refuses; no other
    /// thread's session is let in between.
    ///
    /// # Errors
    /// The limit that is reached, the narrowest of several.
    pub fn admit(
        &self,
        policy: &Policy,
        permit: &Permit,
        request: &Request,
        service: ServiceIx,
        host: &HostName,
    ) -> Result<Admission, Refusal> {
        let scopes = Scope::of(policy, permit, request, service, host);
        let caller = flow_of(request);
        let parts = count(&mut self.lock(), scopes, caller)?;
        Ok(Admission::new(parts, request.port.protocol))
    }

    /// Goes over to a policy's limits, and forgets what nobody uses and the policy does not have. Open sessions come next:
    /// see [`Self::readmit`].
    pub fn enforce(&self, policy: &Policy) {
        let mut edges = Edges::default();
        for edge in &policy.graph().edges {
            // Of several that are alike the first decides.
            edges.entry((&edge.from, &edge.to, &edge.ports)).or_insert(edge.limits);
        }
        self.lock().retain(|scope, entry| {
            let limits = match scope {
                Scope::Edge(from, to, ports, _) => edges.get(&(from, to, ports.as_slice())).copied(),
                Scope::Service(..) | Scope::Workload(..) | Scope::Tenant(..) => scope.limits_in(policy),
            };
            if let Some(limits) = limits {
                entry.update(limits);
            }
            limits.is_some() || entry.shared.is_used()
        });
    }

    /// Puts an open session under the edge that permits it by another policy, and under that policy's limits.
    pub fn readmit(&self, admission: &Admission, policy: &Policy, permit: &Permit, request: &Request) {
        let scope = Scope::edge(policy, permit, request);
        admission.go_over(&scope, || {
            let mut table = self.lock();
            Part::of(Arc::clone(&entry(&mut table, scope.clone(), permit.limits).shared), flow_of(request))
        });
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one more session of a caller in all these scopes, or in none.
fn count(
    table: &mut Entries,
    scopes: impl Iterator<Item = (Scope, Limits)>,
    caller: Flow,
) -> Result<Vec<Rc<Part>>, Refusal> {
    let mut parts = Vec::with_capacity(SCOPES_USUAL);
    for (scope, limits) in scopes {
        match entry(table, scope, limits).count(caller) {
            Ok(part) => parts.push(part),
            Err(refusal) => {
                for part in parts {
                    table.get_mut(&part.shared.scope).into_iter().for_each(Entry::give_open_back);
                }
                return Err(refusal);
            }
        }
    }
    Ok(parts)
}

/// That of a scope, which is new with these limits.
fn entry(table: &mut Entries, scope: Scope, limits: Limits) -> &mut Entry {
    table.entry(scope).or_insert_with_key(|scope| Entry::new(scope.clone(), limits))
}
