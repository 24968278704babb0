//! What serves a session, where its endpoint is of this host: the workload, and which of its interfaces.

use super::{context::Context, endpoints::Counted, live::Request, reach::Targets};
use crate::interface::Interface;
use ripstop_config::{Reason, ServiceId, WorkloadId};
use ripstop_policy::{Policy, ServiceEntry};
use std::{cell::OnceCell, rc::Rc};

/// The endpoint of a session, as the policy gave it when the session was opened.
pub struct Serving {
    /// The workload that serves.
    pub workload: WorkloadId,
    /// Where it listens.
    pub targets: Targets,
    /// By which of its interfaces, once one has taken the session.
    through: OnceCell<Through>,
    _counted: Counted,
}

/// The interface by which a session is served, and its count there.
pub struct Through {
    interface: Rc<Interface>,
    _counted: Counted,
}

impl Serving {
    /// The endpoint of a service on this host, for a session that it has not yet; it counts for it from here on.
    ///
    /// # Errors
    /// Why the endpoint takes no sessions.
    pub fn take(context: &Context, policy: &Policy, service: &ServiceEntry, request: &Request) -> Result<Self, Reason> {
        let counted = context.endpoints.take(&service.id)?;
        let workload = policy.workload_entry(service.by).id.clone();
        let (targets, through) = (request.targets(policy, service), OnceCell::new());
        Ok(Self { workload, targets, through, _counted: counted })
    }

    /// An interface has taken the session.
    pub fn goes_through(&self, through: Through) {
        // It has one at most, as finding one ends the search.
        let _ = self.through.set(through);
    }

    /// That interface, once one has.
    #[must_use]
    pub fn interface(&self) -> Option<Rc<Interface>> {
        self.through.get().map(|through| Rc::clone(&through.interface))
    }
}

impl Through {
    /// A session of a service is tried at an interface, and counts there from now on; none when that is not behind the
    /// endpoint any more.
    #[must_use]
    pub fn take(context: &Context, service: &ServiceId, interface: &Rc<Interface>) -> Option<Self> {
        let counted = context.endpoints.serve_by(service, interface.id())?;
        Some(Self { interface: Rc::clone(interface), _counted: counted })
    }
}
