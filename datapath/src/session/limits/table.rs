//! All limits of a data thread.

use super::{
    Admission,
    scope::{Part, Refusal, Scope, Shared},
};
use crate::session::live::Request;
use ripstop_config::{HostName, Port, Reason, ServiceId, WorkloadId, graph::Limits};
use ripstop_policy::{Permit, Policy, ServiceIx};
use rustc_hash::FxHashMap;
use std::{cell::RefCell, rc::Rc};

/// What is counted for every edge, service, workload and tenant that was used since it came into the policy. Only names that
/// the policy has get in.
#[derive(Default)]
pub struct LimitTable(RefCell<FxHashMap<Scope, Rc<Shared>>>);

type Edges<'p> = FxHashMap<(&'p WorkloadId, &'p ServiceId, &'p [Port]), Limits>;

impl LimitTable {
    /// The right to have one more session open. `host` is this host. Nothing is counted when any limit refuses.
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
        let scopes: Vec<_> = scopes.into_iter().map(|(scope, limits)| self.shared(scope, limits)).collect();
        if let Some(detail) = scopes.iter().find_map(|scope| scope.is_full()) {
            return Err(Refusal { reason: Reason::Sessions, detail });
        }
        for (index, scope) in scopes.iter().enumerate() {
            if let Err(detail) = scope.take_open() {
                scopes[..index].iter().for_each(|granted| granted.give_open_back());
                return Err(Refusal { reason: Reason::OpenRate, detail });
            }
        }
        let parts = scopes.into_iter().map(|scope| Part::of(scope, request)).collect();
        Ok(Admission::new(parts, request.port.protocol))
    }

    fn shared(&self, scope: Scope, limits: Limits) -> Rc<Shared> {
        let mut table = self.0.borrow_mut();
        if let Some(shared) = table.get(&scope) {
            return Rc::clone(shared);
        }
        let shared = Shared::new(scope.clone(), limits);
        table.insert(scope, Rc::clone(&shared));
        shared
    }

    /// Goes over to a policy's limits, and forgets what nobody uses and the policy does not have. Open sessions come next:
    /// see [`Self::readmit`].
    pub fn enforce(&self, policy: &Policy) {
        let mut edges = Edges::default();
        for edge in &policy.graph().edges {
            // Of several that are alike the first decides.
            edges.entry((&edge.from, &edge.to, &edge.ports)).or_insert(edge.limits);
        }
        self.0.borrow_mut().retain(|scope, shared| {
            let limits = match scope {
                Scope::Edge(from, to, ports, _) => edges.get(&(from, to, ports.as_slice())).copied(),
                Scope::Service(..) | Scope::Workload(..) | Scope::Tenant(..) => scope.limits_in(policy),
            };
            if let Some(limits) = limits {
                shared.update(limits);
            }
            limits.is_some() || shared.is_used()
        });
    }

    /// Puts an open session under the edge that permits it by another policy, and under that policy's limits.
    pub fn readmit(&self, admission: &Admission, policy: &Policy, permit: &Permit, request: &Request) {
        let scope = Scope::edge(policy, permit, request);
        admission.go_over(&scope, || Part::of(self.shared(scope.clone(), permit.limits), request));
    }
}
