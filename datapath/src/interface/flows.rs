//! The flows of one interface.

use super::{
    InterfaceId,
    handed::Others,
    spread::{Siblings, Spread},
    udp::UdpFlows,
};
use crate::{
    handover::Flow as Told,
    packet::{FlowKey, Halves, Packet, Payload, Segment, craft, parse},
    session::{
        context::{Context, random},
        echo::EchoLimit,
    },
    stack::{Endpoint, FirstWords, TunPort},
};
use ripstop_config::{Protocol, Reason, WorkloadId};
use ripstop_dns::Answers;
use ripstop_kernel::Programs;
use ripstop_telemetry::{DnsCounters, DropCounters, HandedOnCounter};
use rustc_hash::FxHashMap;
use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::{Rc, Weak},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Flows that one workload may have at once (DESIGN section 12).
const FLOWS_MAX: usize = 65_536;
/// How long the flows of an interface that is closed may take to end: some milliseconds, but on a busy host.
const EMPTIED_MAX: Duration = Duration::from_millis(500);
/// How often to look.
const EMPTIED_LOOK: Duration = Duration::from_millis(1);
/// First port of sessions toward the workload; below are the ports of system services.
const PORT_FIRST: u16 = 1_024;
/// Ports of connections toward the workload. They are taken in turn, so that one comes back long after the kernel of the
/// workload's side has forgotten its last connection.
const PORTS: u16 = u16::MAX - PORT_FIRST;
/// Ports tried before a connection is given up: more in a row are taken only if almost all are.
pub(super) const PORTS_TRIED: u16 = 4_096;

/// A flow in the table. Ports are used again: a place is only ever given up by the one who took it.
struct Place {
    taker: u64,
    flow: Flow,
}

/// What is known of a flow.
enum Flow {
    /// Its SYN is held.
    Held,
    /// It has a connection.
    Open(Rc<Endpoint>),
}

/// What becomes of a segment of a flow.
pub(super) enum Known {
    /// Nobody knows the flow.
    Unknown,
    /// Its SYN is held, and this is another copy or comes too early.
    Held,
    /// Its connection takes it.
    Open(Rc<Endpoint>),
}

/// Whose interface it is.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The workload, and which of its interfaces.
    pub id: InterfaceId,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Whether its interface has that one: not where IPv6 is switched off.
    pub has_v6: bool,
    /// The programs that it is, when it shares the host's namespace with others.
    pub programs: Option<Programs>,
    /// What the data threads share that have it.
    pub spread: Arc<Spread>,
}

/// The TUN device through which one workload, or one replica of it, reaches the fabric.
pub struct Interface {
    id: InterfaceId,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    has_v6: bool,
    programs: Option<Programs>,
    port: TunPort,
    drops: DropCounters,
    dns: DnsCounters,
    /// What its queries are answered.
    pub(super) answers: RefCell<Answers>,
    flows: RefCell<FxHashMap<FlowKey, Place>>,
    /// Its UDP flows.
    pub(super) udp: UdpFlows,
    /// Halves of its packets.
    pub(super) halves: RefCell<Halves>,
    takers: Cell<u64>,
    ports: Cell<u16>,
    first_words: FirstWords,
    spread: Arc<Spread>,
    siblings: Siblings,
    pub(super) handed_on: HandedOnCounter,
    /// Other agents of this host that have it, too.
    pub(super) others: Others,
    /// Whether its device is read here.
    pub(super) reading: watch::Sender<bool>,
    echoes: EchoLimit,
    held: Cell<usize>,
    closing: Cell<bool>,
    closed: Notify,
    /// DNS work in hand for this workload, see the resolver.
    pub(super) queries: AtomicUsize,
    context: Weak<Context>,
}

/// A flow's place in its interface's table, until it is dropped.
pub struct FlowGuard {
    interface: Rc<Interface>,
    key: FlowKey,
    taker: u64,
    held: Cell<bool>,
}

impl Interface {
    /// An interface with nothing going on.
    #[must_use]
    pub fn new(context: &Rc<Context>, owner: Owner, port: TunPort) -> Rc<Self> {
        let Owner { id, v4, v6, has_v6, programs, spread } = owner;
        Rc::new(Self {
            drops: DropCounters::new(&id.workload),
            dns: DnsCounters::new(&id.workload),
            answers: RefCell::new(Answers::new(id.workload.clone())),
            id,
            v4,
            v6,
            has_v6,
            programs,
            port,
            flows: RefCell::default(),
            udp: UdpFlows::default(),
            halves: RefCell::default(),
            takers: Cell::new(0),
            // Not where the last agent began: its connections may not be forgotten yet.
            ports: Cell::new(u16::try_from(random() % u64::from(PORTS)).unwrap_or(0)),
            first_words: FirstWords::default(),
            spread,
            siblings: context.siblings.clone(),
            handed_on: HandedOnCounter::default(),
            others: Others::default(),
            reading: watch::Sender::new(true),
            echoes: EchoLimit::default(),
            held: Cell::new(0),
            closing: Cell::new(false),
            closed: Notify::new(),
            queries: AtomicUsize::new(0),
            context: Rc::downgrade(context),
        })
    }

    /// Whose interface it is.
    #[must_use]
    pub fn workload(&self) -> &WorkloadId {
        &self.id.workload
    }

    /// Which of this host's interfaces it is.
    #[must_use]
    pub fn id(&self) -> &InterfaceId {
        &self.id
    }

    /// The programs that the workload is, when it shares the host's namespace with others.
    #[must_use]
    pub fn programs(&self) -> Option<&Programs> {
        self.programs.as_ref()
    }

    /// Whether an address is the interface's own.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.v4,
            IpAddr::V6(address) => address == self.v6,
        }
    }

    /// Whether it has an IPv6 address.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.has_v6
    }

    /// The way to the workload.
    #[must_use]
    pub fn port(&self) -> &TunPort {
        &self.port
    }

    pub(super) fn spread(&self) -> &Arc<Spread> {
        &self.spread
    }

    /// The data threads that have it.
    pub(super) fn siblings(&self) -> &Siblings {
        &self.siblings
    }

    /// Counters of dropped packets.
    #[must_use]
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// Counters of answered DNS queries.
    pub(super) fn dns(&self) -> &DnsCounters {
        &self.dns
    }

    /// Sessions whose first packets are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// One more flow fits.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let flows = if self.siblings.are_several() { self.spread.flows() } else { self.flows() };
        flows < FLOWS_MAX
    }

    /// Flows in the tables.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.borrow().len() + self.udp.len()
    }

    pub(super) fn known(&self, key: &FlowKey) -> Known {
        match self.flows.borrow().get(key).map(|place| &place.flow) {
            None => Known::Unknown,
            Some(Flow::Held) => Known::Held,
            Some(Flow::Open(endpoint)) => Known::Open(Rc::clone(endpoint)),
        }
    }

    /// All of them.
    pub(super) fn open_flows(&self) -> Vec<Told> {
        let tcp = self.flows.borrow().keys().map(|key| Told { protocol: Protocol::Tcp, key: *key }).collect::<Vec<_>>();
        let udp = self.udp.keys().into_iter().map(|key| Told { protocol: Protocol::Udp, key });
        tcp.into_iter().chain(udp).collect()
    }

    /// Takes a place for a flow whose SYN is held.
    #[must_use]
    pub fn hold(self: &Rc<Self>, key: FlowKey) -> FlowGuard {
        self.count_held(1);
        self.take(key, Flow::Held)
    }

    fn take(self: &Rc<Self>, key: FlowKey, flow: Flow) -> FlowGuard {
        let taker = self.takers.get() + 1;
        self.takers.set(taker);
        let held = Cell::new(matches!(flow, Flow::Held));
        self.flows.borrow_mut().insert(key, Place { taker, flow });
        self.begins(Told { protocol: Protocol::Tcp, key });
        FlowGuard { interface: Rc::clone(self), key, taker, held }
    }

    /// A flow is in the table.
    pub(super) fn begins(&self, flow: Told) {
        self.claim(flow);
        self.tell(flow, true);
    }

    /// It is there no more.
    pub(super) fn ends(&self, flow: Told) {
        self.disclaim(flow);
        self.tell(flow, false);
    }

    pub(super) fn count_held(&self, change: isize) {
        self.held.set(self.held.get().saturating_add_signed(change));
        if let Some(context) = self.context.upgrade() {
            context.held.set(context.held.get().saturating_add_signed(change));
        }
    }

    /// Takes a place for a flow with a connection, such as one to the resolver.
    pub(super) fn insert(self: &Rc<Self>, key: FlowKey, endpoint: &Rc<Endpoint>) -> FlowGuard {
        self.take(key, Flow::Open(Rc::clone(endpoint)))
    }

    /// Whether another denied attempt of the workload is recorded, or only counted.
    #[must_use]
    pub fn may_record_denial(&self) -> bool {
        self.spread.denials.may_record()
    }

    /// The workload's echo requests in hand.
    pub(crate) fn echoes(&self) -> &EchoLimit {
        &self.echoes
    }

    /// Opens a connection to the workload at `target` from `source`: from that port unless it is 0 or was used lately, else
    /// from the next free one.
    ///
    /// # Errors
    /// `AgentFull` when the table is full, or no port is free.
    pub fn connect(
        self: &Rc<Self>,
        source: SocketAddr,
        target: SocketAddr,
        seed: u64,
    ) -> Result<(Rc<Endpoint>, FlowGuard), Reason> {
        if !self.has_room() {
            return Err(Reason::AgentFull);
        }
        let key = |port| FlowKey { workload: target, fabric: SocketAddr::new(source.ip(), port) };
        let own = (source.port() != 0).then(|| key(source.port())).filter(|key| self.spread.take_port(*key));
        let others = (0..PORTS_TRIED).map(|_| key(self.next_port())).filter(|key| !self.spread.used_port(key));
        let taken =
            |key: &FlowKey| self.flows.borrow().contains_key(key) || self.is_taken_elsewhere(Protocol::Tcp, *key);
        let tcp = |key| Told { protocol: Protocol::Tcp, key };
        let free = |key: &FlowKey| !taken(key) && self.claim(tcp(*key));
        let key = own.into_iter().chain(others).find(free).ok_or(Reason::AgentFull)?;
        // Whose program took a connection the kernel tells only once the handshake is done.
        let first_word = self.programs.is_none().then(|| self.first_words.of(target));
        let endpoint = Endpoint::connect(&self.port, &key, seed, first_word);
        let guard = self.insert(key, &endpoint);
        Ok((endpoint, guard))
    }

    pub(super) fn next_port(&self) -> u16 {
        let step = self.ports.get();
        self.ports.set((step + 1) % PORTS);
        PORT_FIRST + step
    }

    /// Answers a SYN that is not let through, the way its reason would look without a fabric.
    pub fn refuse(&self, packet: &Packet<'_>, segment: &Segment, reason: Reason) {
        self.port.send(&match reason {
            Reason::HostUnreachable
            | Reason::NoEndpoint
            | Reason::PeerLost
            | Reason::EndpointTimeout
            | Reason::EndpointUnreachable => craft::unreachable(packet, craft::Unreachable::Host),
            Reason::OutsideFabric => craft::unreachable(packet, craft::Unreachable::Prohibited),
            _ => craft::reset(packet, segment),
        });
    }

    /// The same for a SYN that was held.
    pub fn refuse_held(&self, syn: &[u8], reason: Reason) {
        if let Ok(packet) = parse(syn)
            && let Payload::Tcp(segment) = packet.payload
        {
            self.refuse(&packet, &segment, reason);
        }
    }

    /// Counts packets toward the workload that the device refused.
    pub(super) fn count_refused(&self) {
        for _ in 0..self.port.take_refused() {
            self.drops.count(Reason::InterfaceFull);
        }
    }

    /// Ends the interface: its reader stops, and its sessions end.
    pub fn close(&self) {
        self.closing.set(true);
        self.tell_gone();
        self.closed.notify_waiters();
    }

    /// Resolves when the interface is closed.
    pub async fn closed(&self) {
        let mut closed = std::pin::pin!(self.closed.notified());
        closed.as_mut().enable();
        if !self.closing.get() {
            closed.await;
        }
    }
}

impl Interface {
    /// Resolves once an interface that was closed has no flow left, be it of the agent before: the workload's kernel has been
    /// told. At most [`EMPTIED_MAX`].
    pub async fn emptied(&self) {
        let emptied = async {
            while self.flows() + self.flows_before() > 0 {
                tokio::time::sleep(EMPTIED_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(EMPTIED_MAX, emptied).await;
    }
}

impl FlowGuard {
    /// The flow.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        self.key
    }

    /// The held flow has its connection.
    pub fn open(&self, endpoint: &Rc<Endpoint>) {
        if let Some(place) = self.interface.flows.borrow_mut().get_mut(&self.key)
            && place.taker == self.taker
        {
            place.flow = Flow::Open(Rc::clone(endpoint));
        }
        self.release_held();
    }

    fn release_held(&self) {
        if self.held.replace(false) {
            self.interface.count_held(-1);
        }
    }
}

impl Drop for FlowGuard {
    fn drop(&mut self) {
        self.release_held();
        let mut flows = self.interface.flows.borrow_mut();
        if flows.get(&self.key).is_some_and(|place| place.taker == self.taker) {
            flows.remove(&self.key);
            self.interface.spread.rests(&self.key);
            self.interface.ends(Told { protocol: Protocol::Tcp, key: self.key });
        }
    }
}
