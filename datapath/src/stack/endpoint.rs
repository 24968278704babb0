//! One TCP connection between a workload and the agent.

use super::{
    device::TunPort,
    first_word::FirstWord,
    silence::Silence,
    soon::SOON,
    tcp::{Connection, Ended},
};
use crate::packet::FlowKey;
use bytes::Bytes;
use ripstop_config::Reason;
use std::{
    cell::RefCell,
    future::poll_fn,
    rc::{Rc, Weak},
    task::{Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

/// Packets sent in one turn: bounds what one session can keep the thread busy with, whatever segment size its peer asks for.
const TURN_PACKETS: usize = 64;
/// No timer fires sooner: what did not fit into a turn costs one session, not the thread.
const TIMER_MIN: Duration = Duration::from_millis(1);
/// Largest piece handed on at once, so that one session's turn is bounded.
const PIECE: usize = 64 * 1024;
/// How long an ended session may wait for the workload to acknowledge the last bytes.
const LINGER: Duration = Duration::from_secs(30);

/// Why a side of a session can neither be read nor written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub Reason);

impl Broken {
    /// An application or its kernel ended the session, not the fabric: it takes effect behind what was sent before.
    #[must_use]
    pub fn is_reset(self) -> bool {
        matches!(self.0, Reason::CallerReset | Reason::EndpointReset | Reason::CallerTimeout | Reason::EndpointTimeout)
    }
}

/// The fabric's end of a workload's TCP connection.
pub struct Endpoint(RefCell<Inner>);

struct Inner {
    connection: Connection,
    port: TunPort,
    /// The endpoint itself, and whether the interface's shared timer looks after it.
    me: Weak<Endpoint>,
    is_waiting: bool,
    /// How long the workload's kernel has said nothing.
    silence: Silence,
    /// When the driver will wake, and whom to wake when that is too late.
    armed: Option<Instant>,
    driver: Option<Waker>,
    /// Something was given that was not sent yet.
    is_held: bool,
    /// Who waits for the connection to be established or gone, and what was known when it was last told.
    watcher: Option<Waker>,
    standing: [bool; 3],
}

impl Endpoint {
    /// Takes a connection: `syn` is the packet that asked for it, `flow` whose it is. The SYN-ACK leaves before this returns.
    #[must_use]
    pub fn accept(port: &TunPort, flow: &FlowKey, syn: &[u8], seed: u64) -> Rc<Self> {
        let now = Instant::now();
        Self::new(port, Connection::accept(flow, syn, seed, now, port), seed, now)
    }

    /// Opens a connection from the fabric's end of `flow` (the caller's address) to the workload's listener, of which
    /// `first_word` tells whether it waits for the caller's bytes: then the handshake may end with these, for the listener.
    /// The SYN leaves before this returns; wait for the answer with [`Endpoint::established`].
    #[must_use]
    pub fn connect(port: &TunPort, flow: &FlowKey, seed: u64, first_word: Option<Rc<FirstWord>>) -> Rc<Self> {
        let now = Instant::now();
        Self::new(port, Connection::connect(flow, seed, first_word, now, port), seed, now)
    }

    fn new(port: &TunPort, connection: Connection, seed: u64, now: Instant) -> Rc<Self> {
        Rc::new_cyclic(|me| {
            let silence = Silence::new(seed, now);
            let (port, me, is_waiting) = (port.clone(), me.clone(), false);
            let (armed, driver, is_held, watcher, standing) = Default::default();
            Self(RefCell::new(Inner {
                connection,
                port,
                me,
                is_waiting,
                silence,
                armed,
                driver,
                is_held,
                watcher,
                standing,
            }))
        })
    }

    /// Takes a packet of this flow and answers it. Where it lies in `memory`, its data stay there.
    ///
    /// # Panics
    /// When it does not.
    pub fn ingest(&self, packet: &[u8], memory: Option<&Bytes>) {
        self.0.borrow_mut().turn(Some((packet, memory)));
    }

    /// Resolves when the handshake is done, running the timers meanwhile.
    ///
    /// # Errors
    /// [`Broken`] with `EndpointRefused` when the workload answered with a reset.
    pub async fn established(&self) -> Result<(), Broken> {
        tokio::select! {
            done = self.handshake() => done,
            never = self.drive() => match never {},
        }
    }

    /// The interface's shared timer ran.
    pub(super) fn tick(&self) {
        let mut inner = self.0.borrow_mut();
        inner.is_waiting = false;
        inner.turn(None);
    }

    async fn handshake(&self) -> Result<(), Broken> {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            // What was sent and then reset before this was asked again is still to be read.
            if inner.connection.has_opened() {
                return Poll::Ready(Ok(()));
            }
            if inner.connection.is_closed() {
                return Poll::Ready(Err(Broken(Reason::EndpointRefused)));
            }
            inner.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Runs the timers; never resolves.
    pub async fn drive(&self) -> std::convert::Infallible {
        loop {
            let deadline = self.next_deadline().await;
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => self.0.borrow_mut().turn(None),
                () = self.rearmed(deadline) => {}
            }
        }
    }

    /// The time at which something must happen, once there is one.
    async fn next_deadline(&self) -> Instant {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            inner.armed = inner.later(Instant::now());
            match inner.armed {
                Some(at) => Poll::Ready(at),
                None => {
                    inner.driver = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Resolves when something must happen before `deadline`.
    async fn rearmed(&self, deadline: Instant) {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if inner.armed.is_some_and(|armed| armed < deadline) {
                return Poll::Ready(());
            }
            inner.driver = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Reads what the workload sent, at most `max` bytes and one piece; `None` after its FIN.
    ///
    /// # Errors
    /// [`Broken`] when the workload reset the connection, after what it sent before: with `reset`, or with the time-out of
    /// that end when its kernel fell silent. So with the others.
    pub async fn read(&self, max: usize, reset: Reason) -> Result<Option<Bytes>, Broken> {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            match inner.connection.receive(max.min(PIECE), cx.waker()) {
                Ok(None) => Poll::Pending,
                Ok(Some(piece)) => {
                    inner.answer();
                    Poll::Ready(Ok(Some(piece)))
                }
                Err(Ended::Finished) => Poll::Ready(Ok(None)),
                Err(Ended::Broken) => Poll::Ready(Err(inner.broken(reset))),
            }
        })
        .await
    }

    /// Writes all the pieces toward the workload, waiting while its window is closed; they leave the list as they are taken.
    ///
    /// # Errors
    /// [`Broken`] with `reset` when the workload reset the connection.
    pub async fn write(&self, pieces: &mut Vec<Bytes>, reset: Reason) -> Result<(), Broken> {
        self.give(pieces, reset).await?;
        self.flush();
        Ok(())
    }

    /// The same, but what fills no segment is held, to leave with what follows: at [`Endpoint::flush`], [`Endpoint::finish`], or once
    /// somebody waits for room, for [`Endpoint::broken`] or for [`Endpoint::taken`]. So an end that is known by then goes with the
    /// last bytes, and a workload's kernel has fewer and longer segments.
    ///
    /// # Errors
    /// As [`Endpoint::write`].
    pub async fn give(&self, pieces: &mut Vec<Bytes>, reset: Reason) -> Result<(), Broken> {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if inner.connection.send(pieces).is_err() {
                return Poll::Ready(Err(inner.broken(reset)));
            }
            inner.is_held = true;
            if !pieces.is_empty() || inner.connection.fills_segment() {
                inner.flush();
            }
            if pieces.is_empty() {
                return Poll::Ready(Ok(()));
            }
            inner.connection.wait_to_send(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Sends what was given.
    pub fn flush(&self) {
        self.0.borrow_mut().flush();
    }

    /// Resolves when nothing can be written to the workload any more.
    pub async fn broken(&self, reset: Reason) -> Broken {
        self.closed(reset, |_| true).await
    }

    /// Resolves when the workload has reset the connection, or its kernel fell silent, before it sent all that it would.
    /// What it did send is still to be read.
    pub async fn cut_short(&self, reset: Reason) -> Broken {
        self.closed(reset, |inner| !inner.connection.has_ended()).await
    }

    async fn closed(&self, reset: Reason, counts: impl Fn(&Inner) -> bool) -> Broken {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            inner.flush();
            if inner.connection.is_closed() && counts(&inner) {
                return Poll::Ready(inner.broken(reset));
            }
            inner.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Resolves when the workload's kernel has all that was written, or is gone.
    pub async fn taken(&self) {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            inner.flush();
            if inner.connection.unacknowledged() == 0 {
                return Poll::Ready(());
            }
            inner.connection.wait_to_send(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Sends a FIN after the bytes written so far; reading goes on.
    pub fn finish(&self) {
        let mut inner = self.0.borrow_mut();
        inner.connection.finish();
        inner.transmit(Instant::now());
    }

    /// Sends a reset, behind what was given as far as there is room for that, and forgets what was not delivered.
    pub fn abort(&self) {
        let mut inner = self.0.borrow_mut();
        inner.flush();
        let Inner { connection, port, .. } = &mut *inner;
        connection.abort(port);
        inner.tell_watcher();
    }

    /// Both directions are done, or the connection is gone: nothing the workload sends would be missed. TIME-WAIT is
    /// not waited out, as nothing between the workload and the agent delays or repeats a segment.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.borrow().connection.is_gone()
    }

    /// Waits until the workload has acknowledged everything, but not for ever.
    pub async fn linger(&self) {
        let gone = poll_fn(|cx| {
            if self.is_gone() {
                return Poll::Ready(());
            }
            self.0.borrow_mut().watcher = Some(cx.waker().clone());
            Poll::Pending
        });
        tokio::select! {
            () = gone => {}
            _ = self.drive() => {}
            () = tokio::time::sleep(LINGER) => self.abort(),
        }
    }
}

impl Inner {
    /// Why the connection is closed, where a reset would be `reset`.
    fn broken(&self, reset: Reason) -> Broken {
        Broken(match reset {
            Reason::CallerReset if self.silence.is_final() => Reason::CallerTimeout,
            Reason::EndpointReset if self.silence.is_final() => Reason::EndpointTimeout,
            reset => reset,
        })
    }

    /// One packet in, everything due out, timers set.
    fn turn(&mut self, packet: Option<(&[u8], Option<&Bytes>)>) {
        let now = Instant::now();
        if let Some((packet, memory)) = packet {
            self.silence.heard(now);
            self.connection.ingress(now, packet, memory, &self.port);
        }
        self.transmit(now);
    }

    /// Wakes the watcher, if anything has become of what one waits for: the handshake, the end, or both directions' ends.
    fn tell_watcher(&mut self) {
        let connection = &self.connection;
        let standing = [connection.has_opened(), connection.is_closed(), connection.is_gone()];
        if std::mem::replace(&mut self.standing, standing) != standing
            && let Some(watcher) = self.watcher.take()
        {
            watcher.wake();
        }
    }

    /// Something was read: tells the workload's kernel, if there is much more room.
    fn answer(&mut self) {
        if self.connection.is_hurried() {
            self.transmit(Instant::now());
        }
    }

    fn flush(&mut self) {
        if self.is_held {
            self.transmit(Instant::now());
        }
    }

    fn transmit(&mut self, now: Instant) {
        self.is_held = false;
        let Self { connection, port, silence, .. } = self;
        silence.look(now, connection, port);
        silence.asked(connection.egress(now, port, TURN_PACKETS));
        self.tell_watcher();
        self.rearm(now);
    }

    /// The time for the driver, once there is one: what is due soon is left to the interface's shared timer.
    fn later(&mut self, now: Instant) -> Option<Instant> {
        let due = [self.connection.deadline(now), self.silence.deadline(&self.connection)];
        let deadline = due.into_iter().flatten().min()?.max(now + TIMER_MIN);
        if deadline > now + SOON {
            return Some(deadline);
        }
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.port.waiting().add(self.me.clone());
        }
        None
    }

    /// Wakes the driver only when it would come too late: a timer that moves on costs nothing.
    fn rearm(&mut self, now: Instant) {
        let Some(deadline) = self.later(now) else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.armed = Some(deadline);
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
    }
}
