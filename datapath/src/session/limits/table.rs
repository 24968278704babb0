//! All limits of a host's sessions, whichever data threads they are on.

use super::{
    Admission,
    scope::{Entry, Part, Refusal, Scope},
};
use crate::session::live::Request;
use ripstop_config::{HostName, Port, Reason, ServiceId, WorkloadId, graph::Limits};
use ripstop_policy::{Permit, Policy, ServiceIx};
use rustc_hash::FxHashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is counted for every edge, service, workload and tenant that was used since it came into the policy. Only names that
/// the policy has get in. Its lock is taken when a session begins and when a policy comes, never for what a session carries.
#[derive(Default)]
pub struct LimitTable(Mutex<Entries>);

type Entries = FxHashMap<Scope, Entry>;

type Edges<'p> = FxHashMap<(&'p WorkloadId, &'p ServiceId, &'p [Port]), Limits>;

impl LimitTable {
    /// The right to have one more session open. `host` is this host. Nothing is counted when any limit refuses; no other
    /// thread's session is let in between.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(
        &self,
        policy: &Policy,
        permit: &Permit,
        request: &Request,
        service: ServiceIx,
        host: &HostName,
    ) -> Result<Admission, Refusal> {
        let scopes = Scope::of(policy, permit, request, service, host);
        let mut table = self.lock();
        let entries: Vec<_> = scopes.into_iter().map(|(scope, limits)| entry(&mut table, scope, limits)).collect();
        if let Some(detail) = entries.iter().find_map(Entry::is_full) {
            return Err(Refusal { reason: Reason::Sessions, detail });
        }
        for (index, entry) in entries.iter().enumerate() {
            if let Err(detail) = entry.take_open() {
                entries[..index].iter().for_each(Entry::give_open_back);
                return Err(Refusal { reason: Reason::OpenRate, detail });
            }
        }
        let parts = entries.into_iter().map(|entry| Part::of(entry.shared, request)).collect();
        drop(table);
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
            Part::of(entry(&mut table, scope.clone(), permit.limits).shared, request)
        });
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That of a scope, which is new with these limits.
fn entry(table: &mut Entries, scope: Scope, limits: Limits) -> Entry {
    if let Some(known) = table.get(&scope) {
        return known.clone();
    }
    let new = Entry::new(scope.clone(), limits);
    table.insert(scope, new.clone());
    new
}
