//! What every session of a data thread shares. One thread owns it, so nothing here is locked but what all data threads share
//! ([`super::common`]).

use super::{
    balance::Balancer,
    captures::Captures,
    common::Common,
    endpoints::Endpoints,
    health::Checks,
    hearsay::Hearsay,
    lanes::Lanes,
    limits::{Admission, HostDenials, LimitTable, Refusal},
    live::{LiveTable, Request},
    observe::Observed,
    policies::{Policies, Waiting},
    reach::Families,
    voice::Paths,
};
use crate::interface::{Interface, InterfaceId, Siblings};
use ripstop_config::{HostName, Reason, ServiceId, WorkloadId};
use ripstop_kernel::{Programs, SocketOwner, SocketOwners};
use ripstop_policy::{Permit, Policy, ServiceIx};
use ripstop_telemetry::{EdgeInstruments, RecordLog, Side, Traced, Tracer};
use ripstop_transport::{Request as AgentRequest, SessionId, Transport};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
};

/// A DNS query for a name outside the fabric, on its way to the thread that forwards it.
pub struct ForwardQuery {
    /// Who asks.
    pub workload: WorkloadId,
    /// The message.
    pub query: Vec<u8>,
    /// How it came.
    pub via: ripstop_dns::Via,
    /// Where the answer goes.
    pub reply: oneshot::Sender<ripstop_dns::Answer>,
}

/// The ways to the control thread.
#[derive(Clone)]
pub struct Control {
    /// Where queries for other names go.
    pub forward: mpsc::Sender<ForwardQuery>,
    /// Where requests of other hosts' agents go.
    pub requests: mpsc::Sender<AgentRequest>,
    /// Which signed policies other hosts have; `None` where the policy is a file of this host.
    pub policies: Option<Arc<Policies>>,
    /// What hosts say of themselves by other hosts.
    pub hearsay: Arc<Hearsay>,
    /// How many data threads other hosts have.
    pub lanes: Arc<Lanes>,
    /// Where connections of workloads to their own API go.
    pub voices: mpsc::Sender<VoiceCall>,
}

/// A workload's connection to its own API, on its way to the thread that answers it.
pub struct VoiceCall {
    /// Who calls.
    pub interface: InterfaceId,
    /// Its bytes.
    pub stream: DuplexStream,
}

/// Counts that other threads read.
#[derive(Debug, Default)]
pub struct Stats {
    sessions: AtomicI64,
}

impl Stats {
    /// Sessions open.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        u64::try_from(self.sessions.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(super) fn sessions_open(&self, change: i64) {
        self.sessions.fetch_add(change, Ordering::Relaxed);
    }
}

/// A data thread's ways to others.
pub struct Ways {
    /// To the same thread of other hosts.
    pub own: Transport,
    /// To the first thread of other hosts, which all of them have; the first thread's own.
    pub first: Transport,
    /// Those of all threads, once there are all.
    pub all: Arc<OnceLock<Vec<Transport>>>,
    /// To the other threads of this host.
    pub siblings: Siblings,
}

/// What every session of a data thread shares.
pub struct Context {
    /// This host.
    pub host: HostName,
    /// This thread's way to other hosts.
    pub transport: Transport,
    /// The first thread's, by which hosts are known: a host may have fewer threads, or a firewall before the others.
    pub first: Transport,
    transports: Arc<OnceLock<Vec<Transport>>>,
    /// Where records go.
    pub records: RecordLog,
    /// Which sessions are traced; none where none is.
    tracer: Option<Tracer>,
    /// The ways to the control thread.
    pub control: Control,
    /// Sessions that wait for a newer policy.
    pub waiting: Waiting,
    /// The open sessions.
    pub live: LiveTable,
    /// Which endpoint next.
    pub balancer: Arc<Balancer>,
    /// Whether the endpoints of this host take sessions.
    pub endpoints: Arc<Endpoints>,
    /// The health checks of this host's endpoints.
    pub checks: Checks,
    /// Which endpoints of this host listen on one family only.
    pub families: Families,
    /// Where calls are led first, by the callers' own word.
    pub paths: Arc<Paths>,
    /// Who owns a socket of this host.
    pub owners: SocketOwners,
    /// What is denied, and what a staged policy would say.
    pub observed: Arc<Observed>,
    /// Whose packets are captured.
    pub captures: Captures,
    /// Counts for other threads.
    pub stats: Arc<Stats>,
    /// The data threads of this host.
    pub siblings: Siblings,
    /// SYNs held on this agent.
    pub held: Cell<usize>,
    /// Another agent of this host has taken over: this one only ends what it has.
    pub only_drains: Cell<bool>,
    policy: RefCell<Arc<Policy>>,
    interfaces: RefCell<BTreeMap<InterfaceId, Rc<Interface>>>,
    limits: Arc<LimitTable>,
    denials: Arc<HostDenials>,
    instruments: RefCell<HashMap<(WorkloadId, ServiceId, Side), Rc<EdgeInstruments>>>,
    ids: Cell<u64>,
    seed: u64,
}

impl Context {
    /// A context without interfaces or sessions, of one of the threads that have `common`.
    #[must_use]
    pub fn new(
        host: HostName,
        ways: Ways,
        policy: Arc<Policy>,
        records: RecordLog,
        control: Control,
        owners: SocketOwners,
        common: &Common,
    ) -> Rc<Self> {
        let Ways { own, first, all, siblings } = ways;
        Rc::new(Self {
            host,
            transport: own,
            first,
            transports: all,
            siblings,
            tracer: records.tracer(),
            records,
            control,
            waiting: Waiting::default(),
            live: LiveTable::default(),
            balancer: Arc::clone(&common.balancer),
            endpoints: Arc::clone(&common.endpoints),
            checks: Checks::default(),
            families: Families::default(),
            paths: Arc::clone(&common.paths),
            owners,
            observed: Arc::clone(&common.observed),
            captures: Captures::default(),
            stats: Arc::clone(&common.stats),
            held: Cell::new(0),
            only_drains: Cell::new(false),
            policy: RefCell::new(policy),
            interfaces: RefCell::default(),
            limits: Arc::clone(&common.limits),
            denials: Arc::clone(&common.denials),
            instruments: RefCell::default(),
            ids: Cell::new(0),
            seed: random(),
        })
    }

    /// The way of new sessions to a host: the thread's own, or one of another thread where the host has fewer threads, or cannot
    /// be reached by this one. Those that there are have the same share then.
    #[must_use]
    pub fn way(&self, host: &HostName) -> &Transport {
        if !self.siblings.are_several() || self.transport.is_up(host) {
            return &self.transport;
        }
        let up = || self.transports.get().into_iter().flatten().filter(|way| way.is_up(host));
        let turn = usize::from(self.siblings.number()).checked_rem(up().count());
        turn.and_then(|turn| up().nth(turn)).unwrap_or(&self.first)
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }

    /// Looks at the policy in force, as is done for a packet: how many have it is counted by all data threads, so that to have
    /// it for a moment would make them wait for each other. `look` puts none in force.
    pub fn with_policy<R>(&self, look: impl FnOnce(&Arc<Policy>) -> R) -> R {
        look(&self.policy.borrow())
    }

    /// Puts a policy in force: open sessions are decided again by it, and cut when it does not allow them; those that stay
    /// are under its limits.
    pub fn enforce(&self, policy: Arc<Policy>) {
        self.limits.enforce(&policy);
        self.observed.enforce(&policy);
        self.instruments.borrow_mut().clear();
        self.live.for_each(|live| match live.authorise_again(&policy, &self.host) {
            Ok(permit) => {
                if let Some(admission) = &*live.admission.borrow() {
                    self.limits.readmit(admission, &policy, &permit, &live.request);
                }
            }
            Err(reason) => {
                tracing::debug!(session = %live.id, %reason, "cut by the new policy");
                live.cut(Reason::PolicyChanged);
            }
        });
        *self.policy.borrow_mut() = policy;
        self.waiting.enforced.notify_waiters();
    }

    /// An interface, if it is attached.
    #[must_use]
    pub fn interface(&self, id: &InterfaceId) -> Option<Rc<Interface>> {
        self.interfaces.borrow().get(id).cloned()
    }

    /// Those of a workload, which has several where it is several pods or containers here.
    #[must_use]
    pub fn interfaces_of(&self, workload: &WorkloadId) -> Vec<Rc<Interface>> {
        let interfaces = self.interfaces.borrow();
        let from = interfaces.range(InterfaceId::only(workload.clone())..);
        from.take_while(|(id, _)| id.workload == *workload).map(|(_, interface)| Rc::clone(interface)).collect()
    }

    /// Every interface.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Rc<Interface>> {
        self.interfaces.borrow().values().cloned().collect()
    }

    /// Whether a socket's owner is of a workload's programs, and not of those of one that is known more closely: a control
    /// group before a user, and either before the rest of the host.
    #[must_use]
    pub fn is_of(&self, owner: SocketOwner, programs: &Programs) -> bool {
        let interfaces = self.interfaces.borrow();
        let others = interfaces.values().filter_map(|interface| interface.programs());
        let in_group = |programs: &Programs| match programs {
            Programs::OfCgroup(cgroup) => owner.cgroup.is_some_and(|id| cgroup.contains(id)),
            Programs::OfUser(_) | Programs::Others => false,
        };
        let of_user = |programs: &Programs| *programs == Programs::OfUser(owner.uid);
        match programs {
            Programs::OfCgroup(_) => in_group(programs),
            Programs::OfUser(_) => of_user(programs) && !others.into_iter().any(in_group),
            Programs::Others => !others.into_iter().any(|other| in_group(other) || of_user(other)),
        }
    }

    /// Adds an interface; returns the one that was in its place before.
    pub fn attach(&self, interface: &Rc<Interface>) -> Option<Rc<Interface>> {
        self.interfaces.borrow_mut().insert(interface.id().clone(), Rc::clone(interface))
    }

    /// Removes an interface.
    pub fn detach(&self, id: &InterfaceId) -> Option<Rc<Interface>> {
        self.interfaces.borrow_mut().remove(id)
    }

    /// Ends the sessions of an interface that is gone, at either end. One that is still looking for its endpoint notices by
    /// itself, and looks further.
    pub fn cut_interface(&self, id: &InterfaceId) {
        self.live.for_each(|live| {
            if live.calls_by(id) || live.is_served_by(id) {
                live.cut(Reason::NoInterface);
            }
        });
    }

    /// The right to open a session, by all the limits that it is under: of its edge, its service, and the calling workload
    /// and its tenant. With [`Side::Server`] and this host as the speaker, only what the endpoint's side adds.
    ///
    /// # Errors
    /// The limit that is reached; then nothing is counted.
    pub fn admit(
        &self,
        policy: &Policy,
        permit: &Permit,
        request: &Request,
        service: ServiceIx,
    ) -> Result<Admission, Refusal> {
        self.limits.admit(policy, permit, request, service, &self.host)
    }

    /// Whether another denied attempt from a host is recorded, or only counted.
    #[must_use]
    pub fn may_record_denial(&self, speaker: &HostName) -> bool {
        self.denials.may_record(speaker)
    }

    /// The instruments of a session's edge, looked up once; none without a service.
    #[must_use]
    pub fn edge_instruments(&self, request: &Request) -> Option<Rc<EdgeInstruments>> {
        let service = request.service.as_ref()?;
        let known = self.policy.borrow();
        if known.workload(&request.caller).is_none() || known.service(service).is_none() {
            // A peer may name anything: that is not made into metrics, and is denied.
            return None;
        }
        let key = (request.caller.clone(), service.clone(), request.side);
        let mut instruments = self.instruments.borrow_mut();
        let entry = instruments.entry(key);
        let new = |(caller, service, side): &(_, _, _)| Rc::new(EdgeInstruments::new(caller, service, *side));
        Some(Rc::clone(entry.or_insert_with_key(new)))
    }

    /// The place in a trace of a session that begins here, if it is traced.
    #[must_use]
    pub fn begin_trace(&self) -> Option<Traced> {
        self.tracer.as_ref().and_then(Tracer::begin)
    }

    /// The place of a session from another host, by what its header says.
    #[must_use]
    pub fn join_trace(&self, said: Option<[u8; 24]>) -> Option<Traced> {
        self.tracer.as_ref().and_then(|tracer| tracer.join(said))
    }

    /// What the header of a session says of its place; nothing where none is traced.
    #[must_use]
    pub fn tell_trace(&self, traced: Option<Traced>) -> Option<[u8; 24]> {
        self.tracer.as_ref().map(|tracer| tracer.context(traced))
    }

    /// A new session id: unique on this agent, and by its random half among all.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        let count = self.ids.get() + 1;
        self.ids.set(count);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.seed.to_be_bytes());
        id[8..].copy_from_slice(&count.to_be_bytes());
        SessionId(id)
    }
}

/// Random bits of the process: the hasher's keys come from the system's random source.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
