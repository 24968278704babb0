//! What limits are set on, and what is counted for each.

use super::{
    bucket::Kind,
    fair::{FairBucket, Flow, Place, Progress},
};
use crate::{session::live::Request, session::pump::Way};
use governor::{
    Quota, RateLimiter,
    clock::DefaultClock,
    state::{InMemoryState, NotKeyed},
};
use ripstop_config::{ByteRate, HostName, OpenRate, Port, Reason, ServiceId, TenantName, WorkloadId, graph::Limits};
use ripstop_policy::{Permit, Policy, ServiceIx};
use ripstop_telemetry::Side;
use std::{
    fmt,
    hash::{BuildHasher, BuildHasherDefault},
    num::NonZeroU32,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

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
    ) -> impl Iterator<Item = (Self, Limits)> {
        let Request { caller, speaker, side, .. } = request;
        let tenant = |tenant: TenantName| {
            let limits = policy.tenant_limits(&tenant);
            (Self::Tenant(tenant, speaker.clone()), limits)
        };
        let entry = policy.service_entry(service);
        let serving = Some((Self::Service(entry.id.clone(), *side), entry.limits));
        // Where caller and endpoint are both here, the rest was counted when the caller was admitted.
        let (first, above) = if *side == Side::Server && speaker == host {
            ([None, None, serving, None], None)
        } else {
            let own = policy.workload(caller).map(|caller| policy.workload_entry(caller).limits).unwrap_or_default();
            let edge = (Self::edge(policy, permit, request), permit.limits);
            let workload = (Self::Workload(caller.clone(), speaker.clone()), own);
            ([Some(edge), Some(workload), serving, Some(tenant(caller.tenant.clone()))], caller.tenant.parent())
        };
        first.into_iter().flatten().chain(std::iter::successors(above, TenantName::parent).map(tenant))
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
    fn flow(&self, caller: Flow) -> Flow {
        match self {
            Self::Edge(..) | Self::Workload(..) => 0,
            Self::Service(..) | Self::Tenant(..) => caller,
        }
    }
}

/// Those with whom a session shares where several workloads meet: all of its caller.
pub(super) fn flow_of(request: &Request) -> Flow {
    // Names of the graph: nobody chooses them to collide, and two that did would share a share.
    BuildHasherDefault::<rustc_hash::FxHasher>::default().hash_one((&request.caller, &request.speaker))
}

/// A scope in the table, under whose lock it is asked: what decides whether one more session may be opened.
pub(super) struct Entry {
    pub(super) shared: Arc<Shared>,
    limits: Limits,
    opens: Option<Opens>,
}

impl Entry {
    pub(super) fn new(scope: Scope, limits: Limits) -> Self {
        Self { shared: Shared::new(scope, limits), limits, opens: limits.open.map(Opens::new) }
    }

    /// Goes over to other limits; what is open stays counted, and has the new rate.
    pub(super) fn update(&mut self, limits: Limits) {
        if self.limits.open != limits.open {
            self.opens = limits.open.map(Opens::new);
        }
        self.limits = limits;
        self.shared.set_rates(limits);
    }

    /// Counts one more session, of a caller. If it is refused elsewhere after that, see [`Self::give_open_back`].
    ///
    /// # Errors
    /// The limit that is reached; then nothing is counted.
    pub(super) fn count(&mut self, caller: Flow) -> Result<Rc<Part>, Refusal> {
        let Self { shared, limits, opens } = self;
        if let Some(most) = limits.sessions.filter(|most| shared.open.load(Ordering::Relaxed) >= *most) {
            let detail = format!("limit `sessions: {most}` of {}", shared.scope);
            return Err(Refusal { reason: Reason::Sessions, detail });
        }
        if let (Some(open), Some(opens)) = (limits.open, opens)
            && !opens.take()
        {
            let detail = format!("limit `open: {open}` of {}", shared.scope);
            return Err(Refusal { reason: Reason::OpenRate, detail });
        }
        Ok(Part::of(Arc::clone(shared), caller))
    }

    /// Another limit refused the session for which one was taken from the rate.
    pub(super) fn give_open_back(&mut self) {
        if let Some(opens) = &mut self.opens {
            opens.spare = true;
        }
    }
}

/// New sessions per second.
struct Opens {
    limiter: RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
    /// One that was granted and then not used, as another limit refused it.
    spare: bool,
}

impl Opens {
    /// Opens come in bunches (a browser, a connection pool): a tenth of a second's worth may come at once.
    fn new(rate: OpenRate) -> Self {
        let rate = rate.sessions_per_second();
        let burst = NonZeroU32::new(rate.get() / 10).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        Self { limiter, spare: false }
    }

    fn take(&mut self) -> bool {
        std::mem::take(&mut self.spare) || self.limiter.check().is_ok()
    }
}

/// What the sessions of a scope share, whichever threads they are on.
pub(super) struct Shared {
    pub(super) scope: Scope,
    /// Sessions open. They become more under the table's lock only, so that none is let in between a look and a count.
    open: AtomicU32,
    /// Bytes per second of each session by itself; zero without that limit.
    session: AtomicU64,
    up: FairBucket,
    down: FairBucket,
}

impl Shared {
    fn new(scope: Scope, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            scope,
            open: AtomicU32::new(0),
            session: AtomicU64::new(bytes_per_second(limits.session)),
            up: FairBucket::new(Kind::Shared, limits.rate),
            down: FairBucket::new(Kind::Shared, limits.rate),
        })
    }

    fn set_rates(&self, limits: Limits) {
        self.session.store(bytes_per_second(limits.session), Ordering::Relaxed);
        self.up.set_rate(limits.rate);
        self.down.set_rate(limits.rate);
    }

    /// What each of its sessions may use by itself.
    pub(super) fn session_rate(&self) -> Option<ByteRate> {
        ByteRate::per_second(self.session.load(Ordering::Relaxed))
    }

    /// Sessions are open.
    pub(super) fn is_used(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    pub(super) fn bucket(&self, way: Way) -> &FairBucket {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }
}

fn bytes_per_second(rate: Option<ByteRate>) -> u64 {
    rate.map_or(0, ByteRate::bytes_per_second)
}

/// One session's part in a scope: counted from its beginning to its end.
pub(super) struct Part {
    pub(super) shared: Arc<Shared>,
    flow: Flow,
    /// Up and down.
    progress: [Progress; 2],
}

impl Part {
    /// Counts one more session, of a caller, under the table's lock.
    pub(super) fn of(shared: Arc<Shared>, caller: Flow) -> Rc<Self> {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Rc::new(Self { flow: shared.scope.flow(caller), shared, progress: Default::default() })
    }

    /// The byte rate that it has a part in, and its place there.
    pub(super) fn place(&self, way: Way) -> (&FairBucket, Place<'_>) {
        (self.shared.bucket(way), Place { flow: self.flow, progress: &self.progress[way as usize] })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        for way in [Way::Up, Way::Down] {
            let (bucket, place) = self.place(way);
            bucket.leave(place);
        }
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
