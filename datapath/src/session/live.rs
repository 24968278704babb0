//! Open sessions, and the guard that writes each one's record.

use super::{
    balance::Using,
    context::Context,
    limits::Admission,
    pump::{Meter, Way},
    reach::Targets,
    serving::{Serving, Through},
};
use crate::interface::{Interface, InterfaceId};
use crate::packet::FlowKey;
use ripstop_config::{HostName, Port, Protocol, Reason, ServiceId, WorkloadId};
use ripstop_policy::{Permit, Policy, PolicyDigest, ServiceEntry};
use ripstop_telemetry::{EdgeInstruments, HandedOver, RecordSlot, SessionRecord, Side, Traced, instruments};
use ripstop_transport::{SessionId, code::End};
use std::{
    cell::{Cell, OnceCell, RefCell},
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Sessions that one agent may have at once; beyond it they are refused cleanly (DESIGN section 12).
pub const SESSIONS_MAX: usize = 1_000_000;

/// Who wants what: all that a decision needs to know of a session, both when it opens and when the policy changes.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which end of the session this host is.
    pub side: Side,
    /// The calling workload.
    pub caller: WorkloadId,
    /// The service that is called; none when the address is of none.
    pub service: Option<ServiceId>,
    /// Its port.
    pub port: Port,
    /// The caller used IPv6.
    pub v6: bool,
    /// The host that speaks for the caller.
    pub speaker: HostName,
}

impl Request {
    /// Decides on a policy: the one function for new and for open sessions, on both ends. `host` is this host.
    ///
    /// # Errors
    /// The reason for a denial.
    pub fn authorise(&self, policy: &Policy, host: &HostName) -> Result<Permit, Reason> {
        let caller = policy.workload(&self.caller).ok_or(Reason::UnknownCaller)?;
        let service = self.service.as_ref().and_then(|service| policy.service(service)).ok_or(Reason::NoService)?;
        if !policy.may_speak_for(&self.speaker, caller) {
            return Err(Reason::HostNotEntitled);
        }
        if self.side == Side::Server && !policy.service_entry(service).hosts.contains(host) {
            return Err(Reason::NotServedHere);
        }
        match policy.decide(caller, service, self.port) {
            ripstop_policy::Verdict::Allow(permit) => Ok(permit),
            ripstop_policy::Verdict::Deny(reason) => Err(reason),
        }
    }

    /// Where the endpoint of the service listens, at its host.
    #[must_use]
    pub fn targets(&self, policy: &Policy, service: &ServiceEntry) -> Targets {
        Targets::of(policy, service, self.port.number, self.v6)
    }
}

/// What the table and the live view know of an open session.
pub struct Live {
    /// The session's id, the same on both hosts.
    pub id: SessionId,
    /// Who wants what.
    pub request: Request,
    /// When its first packet was seen.
    pub started: Instant,
    /// From the caller to the service.
    pub up: Meter,
    /// From the service to the caller.
    pub down: Meter,
    /// The host of the endpoint, once one was chosen.
    pub endpoint_host: RefCell<Option<HostName>>,
    /// By which interface it comes, where the caller is of this host.
    calls: OnceCell<Rc<Interface>>,
    /// What serves it, once that is of this host.
    pub serving: RefCell<Option<Serving>>,
    /// Its part in the limits, once it was admitted.
    pub admission: RefCell<Option<Admission>>,
    /// By which flow its packets pass the caller's interface, where that is of this host.
    pub caller_flow: Cell<Option<FlowKey>>,
    /// The same of the endpoint's interface; none where the endpoint is reached by a socket of the host.
    pub endpoint_flow: Cell<Option<FlowKey>>,
    cut: Cell<Option<Reason>>,
    wake: Notify,
}

impl Live {
    /// Ends the session from outside.
    pub fn cut(&self, reason: Reason) {
        if self.cut.get().is_none() {
            self.cut.set(Some(reason));
            self.wake.notify_one();
        }
    }

    /// Whether its caller has this interface, on this host.
    #[must_use]
    pub fn calls_by(&self, id: &InterfaceId) -> bool {
        self.calls.get().is_some_and(|interface| interface.id() == id)
    }

    /// Whether its endpoint has.
    #[must_use]
    pub fn is_served_by(&self, id: &InterfaceId) -> bool {
        self.served_by().is_some_and(|interface| interface.id() == id)
    }

    /// The interface by which its caller sends, where that is of this host.
    #[must_use]
    pub fn called_by(&self) -> Option<Rc<Interface>> {
        self.calls.get().cloned()
    }

    /// That of its endpoint, once that is known and of this host.
    #[must_use]
    pub fn served_by(&self) -> Option<Rc<Interface>> {
        self.serving.borrow().as_ref()?.interface()
    }

    /// An interface of this host has taken it for its endpoint.
    pub fn goes_through(&self, through: Through) {
        if let Some(serving) = &*self.serving.borrow() {
            serving.goes_through(through);
        }
    }

    /// Resolves when the session was cut.
    pub async fn when_cut(&self) -> Reason {
        loop {
            if let Some(reason) = self.cut.get() {
                return reason;
            }
            self.wake.notified().await;
        }
    }

    /// Decides again, by another policy: the session stays only if it is still allowed, and is still served by the same
    /// endpoint. `host` is this host.
    ///
    /// # Errors
    /// The reason for a denial.
    pub fn authorise_again(&self, policy: &Policy, host: &HostName) -> Result<Permit, Reason> {
        let permit = self.request.authorise(policy, host)?;
        let service = self.request.service.as_ref().and_then(|service| policy.service(service));
        let entry = policy.service_entry(service.ok_or(Reason::NoService)?);
        if self.endpoint_host.borrow().as_ref().is_some_and(|serving| !entry.hosts.contains(serving)) {
            return Err(Reason::NotServedHere);
        }
        let serving = self.serving.borrow();
        let Some(serving) = &*serving else { return Ok(permit) };
        let same = policy.workload_entry(entry.by).id == serving.workload
            && self.request.targets(policy, entry) == serving.targets;
        if same { Ok(permit) } else { Err(Reason::NotServedHere) }
    }

    /// The meter of one way.
    #[must_use]
    pub fn meter(&self, way: Way) -> &Meter {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }
}

/// The open sessions of one data thread.
#[derive(Default)]
pub struct LiveTable {
    /// By a number of our own: a session's id is chosen by the calling host, and may be chosen twice.
    open: RefCell<rustc_hash::FxHashMap<u64, Rc<Live>>>,
    next: Cell<u64>,
}

impl LiveTable {
    /// Sessions open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// No session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` for every open session; `each` must neither open nor end one.
    pub fn for_each(&self, mut each: impl FnMut(&Live)) {
        for live in self.open.borrow().values() {
            each(live);
        }
    }

    fn add(&self, live: &Rc<Live>) -> u64 {
        let key = self.next.get();
        self.next.set(key + 1);
        self.open.borrow_mut().insert(key, Rc::clone(live));
        key
    }

    fn remove(&self, key: u64) {
        self.open.borrow_mut().remove(&key);
    }
}

/// A session from its beginning to its record. Whoever drops it has ended it. Always boxed, as it passes through many
/// hands, each of which would else keep room for it.
pub struct Session {
    context: Rc<Context>,
    key: u64,
    live: Rc<Live>,
    /// Of the policy that decides.
    digest: PolicyDigest,
    /// None without a service: such a session is never opened.
    instruments: Option<Rc<EdgeInstruments>>,
    slot: Option<RecordSlot>,
    traced: Option<Traced>,
    start: time::OffsetDateTime,
    opened: Cell<bool>,
    using: OnceCell<Using>,
    /// What else its record will say.
    pub draft: RefCell<Draft>,
}

/// The parts of a record that become known on the way.
#[derive(Debug, Default)]
pub struct Draft {
    /// The address that was called.
    pub destination: Option<IpAddr>,
    /// The rule that allowed it.
    pub rule: Option<String>,
    /// The endpoint, as its host names it.
    pub endpoint: Option<String>,
    /// Time to the endpoint's answer.
    pub connect: Option<Duration>,
    /// Endpoints tried.
    pub attempts: u8,
    /// Cipher between the hosts.
    pub cipher: Option<&'static str>,
    /// The other host.
    pub peer: Option<HostName>,
    ended: Option<(Reason, Option<String>)>,
}

impl Session {
    /// Begins a session and puts it into the table before anything is decided, so that no change of policy can fall
    /// between the two.
    pub fn begin(
        context: &Rc<Context>,
        id: SessionId,
        request: Request,
        traced: Option<Traced>,
        slot: RecordSlot,
    ) -> Box<Self> {
        let instruments = context.edge_instruments(&request);
        let live = Rc::new(Live {
            id,
            request,
            started: Instant::now(),
            up: Meter::default(),
            down: Meter::default(),
            endpoint_host: RefCell::default(),
            calls: OnceCell::new(),
            serving: RefCell::default(),
            admission: RefCell::default(),
            caller_flow: Cell::default(),
            endpoint_flow: Cell::default(),
            cut: Cell::default(),
            wake: Notify::new(),
        });
        let key = context.live.add(&live);
        context.stats.sessions_open(1);
        Box::new(Self {
            context: Rc::clone(context),
            key,
            digest: context.policy().digest(),
            live,
            instruments,
            slot: Some(slot),
            traced,
            start: time::OffsetDateTime::now_utc(),
            opened: Cell::new(false),
            using: OnceCell::new(),
            draft: RefCell::default(),
        })
    }

    /// Its place in a trace, as its header tells the other host.
    #[must_use]
    pub fn trace(&self) -> Option<[u8; 24]> {
        self.context.tell_trace(self.traced)
    }

    /// What the table knows of it.
    #[must_use]
    pub fn live(&self) -> &Rc<Live> {
        &self.live
    }

    /// It comes by an interface of this host.
    pub fn comes_by(&self, interface: &Rc<Interface>) {
        // Said once, where it begins.
        let _ = self.live.calls.set(Rc::clone(interface));
    }

    /// Its endpoint on this host did not take it after all: the next session goes to another replica, if there is one.
    pub fn missed(&self) {
        let service = self.live.request.service.as_ref();
        if let (Some(service), Some(interface)) = (service, self.live.served_by()) {
            self.context.endpoints.missed(service, interface.id(), Instant::now());
        }
    }

    /// An endpoint is tried, on this host.
    pub fn trying(&self, host: &HostName) {
        let mut draft = self.draft.borrow_mut();
        draft.attempts = draft.attempts.saturating_add(1);
        *self.live.endpoint_host.borrow_mut() = Some(host.clone());
    }

    /// It has its endpoint, for which it counts from here on.
    pub fn uses(&self, using: Using) {
        // It has one at most, as finding one ends the search.
        let _ = self.using.set(using);
    }

    /// Its count on its endpoint, at the caller's host.
    #[must_use]
    pub fn using(&self) -> Option<&Using> {
        self.using.get()
    }

    /// The instruments of its edge.
    #[must_use]
    pub fn instruments(&self) -> Option<&EdgeInstruments> {
        self.instruments.as_deref()
    }

    /// The same, for whoever outlives the guard.
    #[must_use]
    pub fn shared_instruments(&self) -> Option<Rc<EdgeInstruments>> {
        self.instruments.clone()
    }

    /// The policy allows it: its rule is known from here on.
    pub fn permitted(&self, policy: &Policy, permit: &Permit) {
        self.draft.borrow_mut().rule = Some(policy.edge(permit.edge).at.to_string());
    }

    /// The limits let it pass: what they hold back is counted for it from here on, and a new policy's limits reach it.
    pub fn admitted(&self, admission: &Admission) {
        admission.count_in(self.instruments.clone());
        *self.live.admission.borrow_mut() = Some(admission.clone());
    }

    /// Its packets pass the interface of one end, by this flow.
    pub fn passes(&self, end: End, key: FlowKey) {
        match end {
            End::Caller => self.live.caller_flow.set(Some(key)),
            End::Endpoint => self.live.endpoint_flow.set(Some(key)),
        }
        self.context.captures.follow(&self.live);
    }

    /// The endpoint has answered: the session is open.
    pub fn opened(&self) {
        self.context.captures.follow(&self.live);
        let took = self.live.started.elapsed();
        self.draft.borrow_mut().connect = Some(took);
        self.opened.set(true);
        self.count_verdict(None);
        if let Some(instruments) = &self.instruments {
            instruments.opened();
            instruments.connected(took);
        }
    }

    /// Ends it: closed if it was open, denied if it was not.
    pub fn end(self: Box<Self>, reason: Reason, detail: Option<String>) {
        self.draft.borrow_mut().ended = Some((reason, detail));
    }

    /// Names that the policy does not have were sent by a peer, and are not made into metrics.
    fn count_verdict(&self, reason: Option<Reason>) {
        let Request { caller, service, side, .. } = &self.live.request;
        let policy = self.context.policy();
        let caller = Some(caller).filter(|caller| policy.workload(caller).is_some());
        let service = service.as_ref().filter(|service| policy.service(service).is_some());
        instruments::verdict(caller, service, *side, reason);
    }

    fn count_closed(&self, reason: Reason) {
        let Some(instruments) = &self.instruments else { return };
        let waited = self.live.up.waited.get() + self.live.down.waited.get();
        if !waited.is_zero() {
            instruments.throttled(waited);
        }
        instruments.closed(reason, self.live.started.elapsed());
    }

    /// Ends an attempt that was denied, with no more than its count.
    pub fn end_unrecorded(mut self: Box<Self>, reason: Reason) {
        if let Some(slot) = self.slot.take() {
            slot.release();
        }
        self.end(reason, None);
    }

    fn record(&self, draft: &mut Draft, reason: Reason, detail: Option<String>) -> SessionRecord {
        let Live { request, up, down, .. } = &*self.live;
        let opened = self.opened.get();
        let admission = self.live.admission.take();
        let udp = request.port.protocol == Protocol::Udp;
        SessionRecord {
            session: self.live.id.to_string(),
            side: request.side,
            start: self.start,
            duration_s: self.live.started.elapsed().as_secs_f64(),
            caller: request.caller.clone(),
            caller_replica: self.live.called_by().and_then(|interface| interface.id().replica.clone()),
            caller_host: request.speaker.clone(),
            service: request.service.clone(),
            destination: match (draft.destination, &request.service) {
                (Some(to), _) => to.to_string(),
                (None, Some(service)) => service.to_string(),
                (None, None) => String::new(),
            },
            port: request.port.number,
            protocol: request.port.protocol,
            endpoint_host: self.live.endpoint_host.take(),
            endpoint: draft.endpoint.take(),
            endpoint_replica: self.live.served_by().and_then(|interface| interface.id().replica.clone()),
            verdict: if !opened && reason.is_denial() { "deny" } else { "allow" },
            rule: draft.rule.take(),
            reason,
            detail,
            bytes_up: up.bytes.get(),
            bytes_down: down.bytes.get(),
            connect_s: draft.connect.map(|took| took.as_secs_f64()),
            waited_s: (up.waited.get() + down.waited.get()).as_secs_f64(),
            throttled_bytes: admission.as_ref().map_or(0, Admission::throttled_bytes),
            burst_bytes: admission.as_ref().and_then(Admission::burst_bytes),
            datagrams_dropped: admission.filter(|_| udp).map(|admission| admission.datagrams_dropped()),
            attempts: draft.attempts,
            policy: self.digest.to_string(),
            cipher: draft.cipher,
            peer: draft.peer.take(),
            handed_over: self.context.only_drains.get().then(|| HandedOver::of(reason)),
            trace: self.traced,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.context.live.remove(self.key);
        self.context.captures.ended(&self.live);
        self.context.stats.sessions_open(-1);
        let mut draft = self.draft.take();
        // A session that nobody ended was dropped with its task: the agent is stopping.
        let (reason, detail) = draft.ended.take().unwrap_or((Reason::Shutdown, None));
        if self.opened.get() {
            self.count_closed(reason);
        } else {
            self.count_verdict(Some(reason));
        }
        if let Some(slot) = self.slot.take() {
            slot.write(self.record(&mut draft, reason, detail));
        }
    }
}
