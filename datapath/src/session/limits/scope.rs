//! What limits are set on, and what is counted for each.

use super::{
    bucket::Kind,
    fair::{FairBucket, Flow},
};
use crate::{session::live::Request, session::pump::Way};
use governor::{
    Quota, RateLimiter,
    clock::DefaultClock,
    state::{InMemoryState, NotKeyed},
};
use ripstop_config::{HostName, OpenRate, Port, Reason, ServiceId, TenantName, WorkloadId, graph::Limits};
use ripstop_policy::{Permit, Policy, ServiceIx};
use ripstop_telemetry::Side;
use std::{
    cell::{Cell, RefCell},
    fmt,
    hash::{BuildHasher, BuildHasherDefault},
    num::NonZeroU32,
    rc::Rc,
};

type Opens = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;

/// What a limit is set on. By name and not by handle, so that counts outlive a change of policy. Edges, workloads and tenants
/// count for each calling host by itself; a service counts all its callers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// What is connected, on which ports, and the host that calls.
    Edge(WorkloadId, ServiceId, Vec<Port>, HostName),
    /// A service, as the host of callers sees it, or that of an endpoint.
    Service(ServiceId, Side),
    /// A caller, and its host.
    Workload(WorkloadId, HostName),
    /// The caller's tenant, or one above that, and the caller's host.
    Tenant(TenantName, HostName),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge(from, to, ..) => write!(f, "edge {from} -> {to}"),
            Self::Service(service, _) => write!(f, "service {service}"),
            Self::Workload(workload, _) => write!(f, "workload {workload}"),
            Self::Tenant(tenant, _) => write!(f, "tenant {tenant}"),
        }
    }
}

impl Scope {
    pub(super) fn edge(policy: &Policy, permit: &Permit, request: &Request) -> Self {
        let edge = policy.edge(permit.edge);
        Self::Edge(edge.from.clone(), edge.to.clone(), edge.ports.clone(), request.speaker.clone())
    }

    /// Everything whose limits a session is under, and the limits. From the narrowest to the widest, so that a session that
    /// is held back by its own limit holds nothing of a shared one.
    pub(super) fn of(
        policy: &Policy,
        permit: &Permit,
        request: &Request,
        service: ServiceIx,
        host: &HostName,
    ) -> Vec<(Self, Limits)> {
        let entry = policy.service_entry(service);
        let serving = (Self::Service(entry.id.clone(), request.side), entry.limits);
        if request.side == Side::Server && request.speaker == *host {
            // Caller and endpoint are both here: the rest was counted when the caller was admitted.
            return vec![serving];
        }
        let (caller, speaker) = (&request.caller, &request.speaker);
        let own = policy.workload(caller).map(|caller| policy.workload_entry(caller).limits).unwrap_or_default();
        let tenant =
            |tenant: TenantName| (Self::Tenant(tenant.clone(), speaker.clone()), policy.tenant_limits(&tenant));
        let mut all = vec![
            (Self::edge(policy, permit, request), permit.limits),
            (Self::Workload(caller.clone(), speaker.clone()), own),
            serving,
            tenant(caller.tenant.clone()),
        ];
        all.extend(std::iter::successors(caller.tenant.parent(), TenantName::parent).map(tenant));
        all
    }

    /// Its limits in a policy; none if the policy does not have it. Edges are looked up by [`super::table`], as there are
    /// many.
    pub(super) fn limits_in(&self, policy: &Policy) -> Option<Limits> {
        match self {
            Self::Edge(..) => None,
            Self::Service(service, _) => policy.service(service).map(|service| policy.service_entry(service).limits),
            Self::Workload(caller, _) => policy.workload(caller).map(|caller| policy.workload_entry(caller).limits),
            Self::Tenant(tenant, _) => policy.graph().tenants.get(tenant).map(|tenant| tenant.limits),
        }
    }

    /// Whose sessions share as one: where several workloads meet, each of them, so that one cannot take more by opening
    /// more.
    fn flow(&self, request: &Request) -> Flow {
        match self {
            Self::Edge(..) | Self::Workload(..) => 0,
            // Names of the graph: nobody chooses them to collide, and two that did would share a share.
            Self::Service(..) | Self::Tenant(..) => {
                BuildHasherDefault::<rustc_hash::FxHasher>::default().hash_one((&request.caller, &request.speaker))
            }
        }
    }
}

/// What is counted for one scope, shared by all its sessions.
pub(super) struct Shared {
    pub(super) scope: Scope,
    limits: Cell<Limits>,
    opens: RefCell<Option<Opens>>,
    /// An open that was granted and then not used, as another limit refused it.
    spare: Cell<bool>,
    open: Cell<u32>,
    up: FairBucket,
    down: FairBucket,
}

impl Shared {
    pub(super) fn new(scope: Scope, limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            scope,
            limits: Cell::new(limits),
            opens: RefCell::new(limits.open.map(opens)),
            spare: Cell::new(false),
            open: Cell::new(0),
            up: FairBucket::new(Kind::Shared, limits.rate),
            down: FairBucket::new(Kind::Shared, limits.rate),
        })
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// Goes over to other limits; what is open stays counted, and has the new rate.
    pub(super) fn update(&self, limits: Limits) {
        if self.limits.replace(limits).open != limits.open {
            *self.opens.borrow_mut() = limits.open.map(opens);
        }
        self.up.set_rate(limits.rate);
        self.down.set_rate(limits.rate);
    }

    /// Sessions are open.
    pub(super) fn is_used(&self) -> bool {
        self.open.get() > 0
    }

    pub(super) fn bucket(&self, way: Way) -> &FairBucket {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// The limit of concurrent sessions is reached: it, as the graph has it.
    pub(super) fn is_full(&self) -> Option<String> {
        let most = self.limits.get().sessions.filter(|most| self.open.get() >= *most)?;
        Some(format!("limit `sessions: {most}` of {}", self.scope))
    }

    /// Takes one new session from the rate.
    ///
    /// # Errors
    /// The limit, as the graph has it.
    pub(super) fn take_open(&self) -> Result<(), String> {
        let refused = self.opens.borrow().as_ref().is_some_and(|opens| !self.spare.take() && opens.check().is_err());
        match self.limits.get().open {
            Some(open) if refused => Err(format!("limit `open: {open}` of {}", self.scope)),
            _ => Ok(()),
        }
    }

    /// Another limit refused the session for which one was taken.
    pub(super) fn give_open_back(&self) {
        self.spare.set(true);
    }
}

/// Opens come in bunches (a browser, a connection pool): a tenth of a second's worth may come at once.
fn opens(rate: OpenRate) -> Opens {
    let rate = rate.sessions_per_second();
    let burst = NonZeroU32::new(rate.get() / 10).unwrap_or(NonZeroU32::MIN);
    Opens::direct(Quota::per_second(rate).allow_burst(burst))
}

/// One session's part in a scope: counted from its beginning to its end.
pub(super) struct Part {
    pub(super) shared: Rc<Shared>,
    pub(super) flow: Flow,
    /// How far it was served, up and down; see [`super::fair::Place`].
    pub(super) finish: [Cell<u64>; 2],
}

impl Part {
    pub(super) fn of(shared: Rc<Shared>, request: &Request) -> Rc<Self> {
        let flow = shared.scope.flow(request);
        shared.open.set(shared.open.get() + 1);
        shared.up.join(flow);
        shared.down.join(flow);
        Rc::new(Self { shared, flow, finish: Default::default() })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shared.open.set(self.shared.open.get() - 1);
        self.shared.up.leave(self.flow);
        self.shared.down.leave(self.flow);
    }
}

/// Why a session may not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// [`Reason::Sessions`] or [`Reason::OpenRate`].
    pub reason: Reason,
    /// Which limit, and of what.
    pub detail: String,
}
