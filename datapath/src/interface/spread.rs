//! One interface on several data threads: each has a queue of its own, and each flow is one thread's.
//!
//! 1. The kernel spreads flows over the queues by a hash that both directions have in common, and learns from what is written to
//!    a queue which flows belong there (`tun_flow_update` of Linux). So a flow that the workload opens stays with the thread
//!    that its SYN came to.
//! 2. What it learned it forgets after some seconds of silence, and it does not know to which flow an ICMP error or a fragment
//!    belongs: then a packet comes to another thread than its flow's. Which one that is says a table that the threads share
//!    ([`Spread`]), written when a flow begins and when it ends, and looked at for what a thread does not know.
//! 3. That thread hands it on ([`Siblings`]). The flow's own thread answers by its own queue, and the kernel has learned it again.
//!
//! With one data thread there is nothing of this.

use super::{InterfaceId, flows::Interface, lately::Lately};
use crate::{
    handover::Flow,
    packet::FlowKey,
    session::{context::Context, limits::DenialLimit},
    stack::Received,
};
use ripstop_config::Reason;
use rustc_hash::FxHashMap;
use std::{
    num::NonZeroUsize,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::mpsc;

/// Packets that wait to be taken by another thread at most; of more, the newest are lost, as on a full interface. Few come to the
/// wrong thread, and each waits no longer than what that thread has in hand.
const STRAYS_MAX: usize = 1_024;
/// Those of one interface, so that a workload that makes many takes nobody else's place.
const STRAYS_OF_ONE_MAX: usize = 128;

/// What the threads of one interface share.
#[derive(Debug)]
pub struct Spread {
    id: InterfaceId,
    /// Packets that wait to be taken by another thread.
    waiting: AtomicUsize,
    /// Whose each flow is; empty where there is one thread.
    owners: Mutex<FxHashMap<Flow, u8>>,
    lately: Mutex<Lately>,
    /// How many of the workload's denied attempts are recorded.
    pub(super) denials: DenialLimit,
    /// The workload's connections to its own API.
    pub(super) voices: AtomicUsize,
}

/// A packet on its way to the thread that has its flow.
#[derive(Debug)]
pub struct Stray {
    place: Place,
    datagram: Option<NonZeroUsize>,
    packet: Box<[u8]>,
}

/// A place among the packets of its interface that wait, until it is dropped.
#[derive(Debug)]
struct Place(Arc<Spread>);

impl Place {
    /// None when the interface has as many as it may.
    fn take(spread: &Arc<Spread>) -> Option<Self> {
        let more = |waiting| (waiting < STRAYS_OF_ONE_MAX).then_some(waiting + 1);
        spread.waiting.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Self(Arc::clone(spread)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// The data threads of a host, as one of them knows them.
#[derive(Debug, Clone)]
pub struct Siblings {
    own: u8,
    /// By number; none where there is one thread.
    ways: Arc<[mpsc::Sender<Stray>]>,
}

/// Where a thread takes what its siblings hand on.
pub type Strays = mpsc::Receiver<Stray>;

impl Siblings {
    /// So many data threads, each with what its siblings hand on.
    #[must_use]
    pub fn of(threads: u8) -> Vec<(Self, Strays)> {
        let (ways, strays): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::channel(STRAYS_MAX)).unzip();
        let ways: Arc<[_]> = if threads > 1 { ways.into() } else { Arc::default() };
        (0..).zip(strays).map(|(own, strays)| (Self { own, ways: Arc::clone(&ways) }, strays)).collect()
    }

    /// A thread that is the only one.
    #[must_use]
    pub fn alone() -> Self {
        Self { own: 0, ways: Arc::default() }
    }

    /// Whether there are others.
    #[must_use]
    pub fn are_several(&self) -> bool {
        !self.ways.is_empty()
    }

    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> u8 {
        u8::try_from(self.ways.len()).unwrap_or(u8::MAX).max(1)
    }

    /// Which one this is.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.own
    }

    /// Whether this is the first, which does what is done once for the host.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.own == 0
    }
}

impl Spread {
    /// Of an interface without flows.
    #[must_use]
    pub fn new(id: InterfaceId) -> Arc<Self> {
        let (owners, lately, denials, voices, waiting) = Default::default();
        Arc::new(Self { id, waiting, owners, lately, denials, voices })
    }

    fn owners(&self) -> MutexGuard<'_, FxHashMap<Flow, u8>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a flow a thread's; false when it is another's.
    fn claim(&self, flow: Flow, own: u8) -> bool {
        *self.owners().entry(flow).or_insert(own) == own
    }

    /// A flow has ended, if it was that thread's.
    fn disclaim(&self, flow: Flow, own: u8) {
        let mut owners = self.owners();
        if owners.get(&flow) == Some(&own) {
            owners.remove(&flow);
        }
    }

    fn owner(&self, flow: Flow) -> Option<u8> {
        self.owners().get(&flow).copied()
    }

    /// Flows of all threads, where there are several.
    pub(super) fn flows(&self) -> usize {
        self.owners().len()
    }

    /// Takes a caller's own port for a connection toward the workload, if it may be used.
    pub(super) fn take_port(&self, key: FlowKey) -> bool {
        self.lately().take(key)
    }

    /// Whether such a port was used a short while ago.
    pub(super) fn used_port(&self, key: &FlowKey) -> bool {
        self.lately().has(key)
    }

    /// A connection has ended: from here on its port rests.
    pub(super) fn rests(&self, key: &FlowKey) {
        self.lately().ended(key);
    }

    /// The ports that rest.
    pub(super) fn resting(&self) -> Vec<FlowKey> {
        self.lately().all()
    }

    /// Has rest what was used through another agent.
    pub(super) fn remember(&self, keys: Vec<FlowKey>) {
        self.lately().remember(keys);
    }
}

impl Interface {
    /// Makes a flow this thread's; false when it is another's.
    pub(super) fn claim(&self, flow: Flow) -> bool {
        let siblings = self.siblings();
        !siblings.are_several() || self.spread().claim(flow, siblings.own)
    }

    /// A flow of this thread's has ended.
    pub(super) fn disclaim(&self, flow: Flow) {
        let siblings = self.siblings();
        if siblings.are_several() {
            self.spread().disclaim(flow, siblings.own);
        }
    }

    /// Whether another thread has the flow of a packet that this one does not know; it is given the packet.
    pub(super) fn is_sibling_s(&self, flow: Flow, received: Received<'_>) -> bool {
        let siblings = self.siblings();
        if !siblings.are_several() {
            return false;
        }
        let owner = self.spread().owner(flow).filter(|owner| *owner != siblings.own);
        let Some(way) = owner.and_then(|owner| siblings.ways.get(usize::from(owner))) else { return false };
        self.handed_on.count();
        let stray = |place| Stray { place, datagram: received.datagram, packet: received.packet.into() };
        if Place::take(self.spread()).is_none_or(|place| way.try_send(stray(place)).is_err()) {
            self.drops().count(Reason::InterfaceFull);
        }
        true
    }
}

/// Takes what the thread's siblings hand on, for as long as there are any.
pub async fn take_strays(context: Rc<Context>, mut strays: Strays) {
    while let Some(Stray { place, datagram, packet }) = strays.recv().await {
        if let Some(interface) = context.interface(&place.0.id) {
            interface.port().came(&packet);
            super::packet(&context, &interface, Received::several(&packet, datagram));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripstop_config::Protocol;

    fn flow(port: u16) -> Flow {
        let key = FlowKey { workload: "198.19.0.1:80".parse().unwrap(), fabric: ([198, 19, 0, 2], port).into() };
        Flow { protocol: Protocol::Tcp, key }
    }

    fn spread() -> Arc<Spread> {
        Spread::new(InterfaceId::only("shop/api".parse().unwrap()))
    }

    #[test]
    fn a_flow_is_one_thread_s_until_that_one_gives_it_up() {
        let spread = spread();
        assert!(spread.claim(flow(1), 0) && spread.claim(flow(1), 0) && !spread.claim(flow(1), 1));
        spread.disclaim(flow(1), 1);
        assert_eq!((spread.owner(flow(1)), spread.flows()), (Some(0), 1));
        spread.disclaim(flow(1), 0);
        assert!(spread.owner(flow(1)).is_none() && spread.claim(flow(1), 1));
        assert!(spread.claim(Flow { protocol: Protocol::Udp, ..flow(1) }, 0), "of another protocol, another flow");
    }

    #[test]
    fn of_threads_that_want_the_same_flow_one_gets_it() {
        let spread = spread();
        let claimed = std::thread::scope(|scope| {
            let claims = |own| {
                scope.spawn({
                    let spread = &spread;
                    move || (0..2_000).filter(|port| spread.claim(flow(*port), own)).count()
                })
            };
            [0, 1, 2, 3].map(claims).map(|claiming| claiming.join().unwrap()).iter().sum::<usize>()
        });
        assert_eq!((claimed, spread.flows()), (2_000, 2_000));
    }

    #[test]
    fn what_waits_for_another_thread_is_bounded() {
        let mut threads = Siblings::of(2);
        let (other, mut strays) = threads.pop().unwrap();
        let (first, _) = threads.pop().unwrap();
        assert!(first.is_first() && !other.is_first() && other.number() == 1 && first.threads() == 2);
        let spreads: Vec<_> = (0..=STRAYS_MAX / STRAYS_OF_ONE_MAX).map(|_| spread()).collect();
        let send = |spread| {
            let place = Place::take(spread)?;
            first.ways[1].try_send(Stray { place, datagram: None, packet: Box::default() }).ok()
        };
        let fits = |spread| (0..STRAYS_MAX).filter(|_| send(spread).is_some()).count();
        let (last, others) = spreads.split_last().unwrap();
        assert!(others.iter().all(|one| fits(one) == STRAYS_OF_ONE_MAX), "each has its own");
        assert_eq!(fits(last), 0, "and all together no more than wait at most");
        assert!(strays.try_recv().is_ok() && send(last).is_some() && send(&others[1]).is_none());
        let (alone, _) = Siblings::of(1).pop().unwrap();
        assert!(!alone.are_several() && alone.is_first() && alone.threads() == 1);
    }
}
