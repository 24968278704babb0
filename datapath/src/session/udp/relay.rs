//! One open UDP session: where its datagrams go, each way, and what ends it.
//!
//! A datagram is handed on the moment it is there, or dropped with a counted reason; what the path does not take at once waits
//! in the transport's lane, where sessions take turns, so that one session holds up no other. What the application sees of loss and order is what it would see of a network.

use super::{
    Patience,
    flow::{EndpointFlow, KEPT},
    listener::Listener,
};
use crate::{
    interface::{DatagramSink, Interface},
    packet::{FlowKey, craft},
    session::{
        limits::Admission,
        live::{Live, Session},
        pump::Way,
    },
};
use bytes::Bytes;
use ripstop_config::Reason;
use ripstop_telemetry::EdgeInstruments;
use ripstop_transport::{DatagramError, DatagramSender};
use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Silence after which a session ends that was never answered.
const IDLE_UNANSWERED: Duration = Duration::from_secs(30);
/// Silence after which a session ends in which both sides spoke (RFC 4787 section 4.3, REQ-5: no less than 2 minutes).
const IDLE_ANSWERED: Duration = Duration::from_secs(120);

/// Where the datagrams of one way leave this host, or reach its workload.
pub(super) enum Outlet {
    /// Into the interface of a workload, as a datagram of this flow.
    Flow(Rc<Interface>, FlowKey),
    /// Into the interface of the workload that serves; its session keeps it, as it keeps the session.
    Endpoint(Weak<EndpointFlow>),
    /// To the other host.
    Peer(DatagramSender),
    /// To an endpoint that is a user of this host.
    Socket(Rc<Listener>),
}

/// Why a datagram was not handed on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lost {
    /// It alone.
    Dropped(Reason),
    /// The session is over.
    Ended(Reason),
}

impl Outlet {
    fn send(&self, data: &[u8]) -> Result<(), Lost> {
        match self {
            Self::Flow(interface, flow) => {
                interface.port().send_datagram(flow.fabric, flow.workload, data);
                Ok(())
            }
            Self::Endpoint(flow) => {
                flow.upgrade().map_or(Err(Lost::Dropped(Reason::NoSession)), |flow| flow.send(data))
            }
            Self::Peer(sender) => sender.send(data).map_err(Lost::from),
            Self::Socket(listener) => listener.send(data),
        }
    }

    /// Whether several at once cost less than each alone.
    fn takes_several(&self) -> bool {
        match self {
            Self::Flow(..) | Self::Endpoint(_) | Self::Peer(_) => true,
            Self::Socket(_) => false,
        }
    }

    /// Sends several, and says how many of the first went: the others are [`Reason::Congested`].
    ///
    /// # Errors
    /// All of them are lost, or where it does not [take several](Self::takes_several) one is, and those behind it.
    fn send_all(&self, batch: &[impl AsRef<[u8]>]) -> Result<usize, Lost> {
        match self {
            Self::Flow(interface, flow) => {
                interface.port().send_datagrams(flow.fabric, flow.workload, batch);
                Ok(batch.len())
            }
            Self::Endpoint(flow) => {
                let flow = flow.upgrade().ok_or(Lost::Dropped(Reason::NoSession))?;
                flow.send_all(batch).map(|()| batch.len())
            }
            Self::Peer(sender) => Ok(sender.send_all(batch)?),
            Self::Socket(_) => batch.iter().try_for_each(|data| self.send(data.as_ref())).map(|()| batch.len()),
        }
    }
}

impl From<DatagramError> for Lost {
    fn from(error: DatagramError) -> Self {
        Self::Dropped(match error {
            DatagramError::Congested => Reason::Congested,
            // Its stream says why.
            DatagramError::Closed => Reason::PeerLost,
            DatagramError::TooLarge(_) => Reason::Malformed,
        })
    }
}

/// The two ways of an open session.
pub(super) struct Relay {
    live: Rc<Live>,
    instruments: Option<Rc<EdgeInstruments>>,
    admission: Admission,
    up: Outlet,
    down: Outlet,
    /// Of the workload on this host: its drops are counted there.
    interface: Rc<Interface>,
    heard: Cell<Instant>,
    answered: Cell<bool>,
    /// Bytes of the last datagram each way, for the errors that quote it.
    last: [Cell<usize>; 2],
    ended: Cell<Option<Reason>>,
    wake: Notify,
}

impl Relay {
    /// A session that is open from now on: `up` is toward the service, `down` toward the caller.
    #[must_use]
    pub(super) fn new(
        session: &Session,
        admission: Admission,
        up: Outlet,
        down: Outlet,
        interface: &Rc<Interface>,
    ) -> Rc<Self> {
        Rc::new(Self {
            live: Rc::clone(session.live()),
            instruments: session.shared_instruments(),
            admission,
            up,
            down,
            interface: Rc::clone(interface),
            heard: Cell::new(Instant::now()),
            answered: Cell::new(false),
            last: [Cell::new(0), Cell::new(0)],
            ended: Cell::new(None),
            wake: Notify::new(),
        })
    }

    /// Hands a datagram on.
    ///
    /// # Errors
    /// The reason for which it was dropped, to be counted.
    pub(super) fn pass(&self, way: Way, data: &[u8]) -> Result<(), Reason> {
        if self.ended.get().is_some() {
            return Err(Reason::NoSession);
        }
        if !self.admission.police(way, data.len()) {
            return Err(Reason::RateLimited);
        }
        self.last[slot(way)].set(data.len());
        match self.outlet(way).send(data) {
            Ok(()) => {
                self.count(way, data.len() as u64);
                Ok(())
            }
            Err(lost) => Err(self.lost(lost)),
        }
    }

    /// Hands several on, says why each was `dropped` that was, and leaves none behind.
    pub(super) fn pass_all(&self, way: Way, batch: &mut Vec<impl AsRef<[u8]>>, dropped: impl Fn(Reason)) {
        let outlet = self.outlet(way);
        if batch.len() == 1 || !outlet.takes_several() || self.ended.get().is_some() {
            let one_by_one = batch.drain(..).filter_map(|data| self.pass(way, data.as_ref()).err());
            return one_by_one.for_each(dropped);
        }
        let length = |data: &_| AsRef::<[u8]>::as_ref(data).len();
        batch.retain(|data| {
            let allowed = self.admission.police(way, length(data));
            if !allowed {
                dropped(Reason::RateLimited);
            }
            allowed
        });
        let Some(last) = batch.last() else { return };
        self.last[slot(way)].set(length(last));
        let (went, reason) = match outlet.send_all(batch) {
            Ok(went) => (went, Reason::Congested),
            Err(lost) => (0, self.lost(lost)),
        };
        if went > 0 {
            self.count(way, batch[..went].iter().map(|data| length(data) as u64).sum());
        }
        batch[went..].iter().for_each(|_| dropped(reason));
        batch.clear();
    }

    fn outlet(&self, way: Way) -> &Outlet {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// Why it was lost; ends the session where that is the end of it.
    fn lost(&self, lost: Lost) -> Reason {
        match lost {
            Lost::Dropped(reason) => reason,
            Lost::Ended(reason) => {
                self.end(reason);
                reason
            }
        }
    }

    /// The same as [`Self::pass`], and counts what was dropped.
    pub(super) fn pass_or_count(&self, way: Way, data: &[u8]) {
        if let Err(reason) = self.pass(way, data) {
            self.dropped(reason);
        }
    }

    /// Counts a datagram that was dropped.
    pub(super) fn dropped(&self, reason: Reason) {
        self.interface.drops().count(reason);
    }

    fn count(&self, way: Way, length: u64) {
        let meter = self.live.meter(way);
        meter.bytes.set(meter.bytes.get() + length);
        self.heard.set(Instant::now());
        match (&self.instruments, way) {
            (Some(instruments), Way::Up) => instruments.bytes_up(length),
            (Some(instruments), Way::Down) => instruments.bytes_down(length),
            (None, Way::Up | Way::Down) => {}
        }
        if way == Way::Down && !self.answered.replace(true) {
            self.settle();
        }
    }

    fn settle(&self) {
        if let Outlet::Endpoint(flow) = &self.up
            && let Some(flow) = flow.upgrade()
        {
            flow.settle();
        }
    }

    /// Nobody listens where the endpoint was looked for: it is looked for elsewhere, or the session is over.
    fn refused(&self) {
        let turned = match &self.up {
            Outlet::Endpoint(flow) => flow.upgrade().is_some_and(|flow| flow.turn()),
            Outlet::Flow(..) | Outlet::Peer(_) | Outlet::Socket(_) => false,
        };
        if !turned {
            self.end(Reason::EndpointRefused);
        }
    }

    /// Settles where the endpoint is, once its kernel has had time to say that it is not there.
    pub(super) async fn when_settled(&self) {
        tokio::time::sleep(KEPT).await;
        self.settle();
    }

    /// The service has answered.
    #[must_use]
    pub(super) fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// Ends the session; the first reason counts.
    pub(super) fn end(&self, reason: Reason) {
        if self.ended.get().is_none() {
            self.ended.set(Some(reason));
            self.wake.notify_one();
        }
    }

    /// Resolves when the session was ended from this side.
    pub(super) async fn when_ended(&self) -> Reason {
        loop {
            if let Some(reason) = self.ended.get() {
                return reason;
            }
            self.wake.notified().await;
        }
    }

    /// Resolves when the interface is gone.
    pub(super) async fn interface_closed(&self) {
        self.interface.closed().await;
    }

    /// Resolves when nothing was heard for too long.
    pub(super) async fn when_idle(&self, Patience { idle, more }: Patience) -> Reason {
        loop {
            let usual = if self.answered.get() { IDLE_ANSWERED } else { IDLE_UNANSWERED };
            let due = self.heard.get() + idle.unwrap_or(usual) + more;
            if due <= Instant::now() {
                return Reason::Idle;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// Tells the workloads of this host what the end of the session looks like without a fabric: the ICMP error about their
    /// last datagram that would have come.
    pub(super) fn tell(&self, reason: Reason) {
        self.ended.set(Some(reason));
        let toward_caller = answer(reason);
        // The endpoint's own datagrams went nowhere when the caller's socket was closed.
        let toward_service = (reason == Reason::CallerReset && self.answered.get()).then_some(craft::Unreachable::Port);
        for (outlet, way, why) in [(&self.down, Way::Up, toward_caller), (&self.up, Way::Down, toward_service)] {
            let Some(why) = why else { continue };
            let last = self.last[slot(way)].get();
            let tell = |interface: &Interface, flow: FlowKey| {
                interface.port().send(&craft::unreachable_flow(&flow, last, why));
            };
            match outlet {
                Outlet::Flow(interface, flow) => tell(interface, *flow),
                Outlet::Endpoint(flow) => drop(flow.upgrade().map(|flow| tell(flow.interface(), flow.key()))),
                Outlet::Peer(_) | Outlet::Socket(_) => {}
            }
        }
    }
}

fn slot(way: Way) -> usize {
    match way {
        Way::Up => 0,
        Way::Down => 1,
    }
}

/// What a caller's datagram is answered with when its session ended, or was not to be had; nothing for an ordinary end, as
/// its next datagram opens another session.
#[must_use]
pub(super) fn answer(reason: Reason) -> Option<craft::Unreachable> {
    use craft::Unreachable::{Host, Port, Prohibited};
    match reason {
        Reason::EndpointRefused | Reason::WrongListener | Reason::NoPort | Reason::NoService => Some(Port),
        Reason::HostUnreachable
        | Reason::NoEndpoint
        | Reason::PeerLost
        | Reason::EndpointTimeout
        | Reason::EndpointUnreachable
        | Reason::EndpointUnhealthy
        | Reason::Draining
        | Reason::NoInterface
        | Reason::NotServedHere
        | Reason::AgentFull
        | Reason::Protocol => Some(Host),
        Reason::Closed
        | Reason::CallerReset
        | Reason::EndpointReset
        | Reason::CallerGone
        | Reason::PolicyChanged
        | Reason::Shutdown
        | Reason::Idle => None,
        other => other.is_denial().then_some(Prohibited),
    }
}

/// Datagrams of one flow that may be held while its session is opened: as many as a caller that does not wait for an
/// answer sends in the milliseconds that this takes.
const HELD_MAX: usize = 64;
/// Bytes of them: two of the largest.
const HELD_BYTES: usize = 128 * 1024;

/// Takes a flow's datagrams from an interface.
pub(super) struct Inlet {
    way: Way,
    state: RefCell<State>,
}

enum State {
    /// The session is being opened; so many bytes wait.
    Held(Vec<Bytes>, usize),
    Open(Rc<Relay>),
}

impl Inlet {
    /// An inlet whose session is being opened.
    #[must_use]
    pub(super) fn new(way: Way) -> Rc<Self> {
        Rc::new(Self { way, state: RefCell::new(State::Held(Vec::new(), 0)) })
    }

    /// The session is open: what was held goes first.
    pub(super) fn open(&self, relay: &Rc<Relay>) {
        if let State::Held(held, _) = self.state.replace(State::Open(Rc::clone(relay))) {
            held.iter().for_each(|data| relay.pass_or_count(self.way, data));
        }
    }

    /// Bytes of the last datagram that is held.
    #[must_use]
    pub(super) fn last_held(&self) -> usize {
        match &*self.state.borrow() {
            State::Held(held, _) => held.last().map_or(0, Bytes::len),
            State::Open(_) => 0,
        }
    }
}

impl DatagramSink for Inlet {
    fn datagram(&self, data: &[u8]) -> Result<(), Reason> {
        match &mut *self.state.borrow_mut() {
            State::Open(relay) => relay.pass(self.way, data),
            State::Held(held, bytes) => {
                if held.len() >= HELD_MAX || *bytes + data.len() > HELD_BYTES {
                    return Err(Reason::AgentFull);
                }
                *bytes += data.len();
                held.push(Bytes::copy_from_slice(data));
                Ok(())
            }
        }
    }

    fn datagrams(&self, all: &mut Vec<&[u8]>, dropped: &dyn Fn(Reason)) {
        if let State::Open(relay) = &*self.state.borrow() {
            relay.pass_all(self.way, all, dropped);
        }
    }

    fn unreachable(&self, port: bool) {
        let State::Open(relay) = &*self.state.borrow() else { return };
        match (self.way, port) {
            (Way::Up, true | false) => relay.end(Reason::CallerReset),
            (Way::Down, true) => relay.refused(),
            (Way::Down, false) => relay.end(Reason::EndpointUnreachable),
        }
    }
}
