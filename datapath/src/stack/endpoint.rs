//! One TCP connection between a workload and the agent.

use super::{
    connection::{Connection, has_ended, is_open},
    device::TunPort,
    silence::Silence,
    soon::SOON,
};
use crate::packet::{self, craft};
use bytes::Bytes;
use ripstop_config::Reason;
use smoltcp::{
    socket::tcp::{RecvError, State},
    time::Instant as StackInstant,
};
use std::{
    cell::RefCell,
    future::poll_fn,
    net::SocketAddr,
    rc::{Rc, Weak},
    task::{Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

/// Packets sent in one turn: bounds what one session can keep the thread busy with, whatever segment size its peer asks for.
const TURN_PACKETS: usize = 64;
/// No timer fires sooner: a state in which smoltcp always has something to send costs one session, not the thread.
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
    started: Instant,
    /// Time stands still from TIME-WAIT on: its end would throw away what was not read yet, and nothing is left to time.
    stopped: Option<StackInstant>,
    /// What the workload expects next, by its last packet.
    acknowledged: u32,
    /// A second SYN was sent in place of the first.
    called_again: bool,
    /// The handshake was done, whatever has come since.
    opened: bool,
    /// The workload has sent its FIN.
    finished: bool,
    /// How long the workload's kernel has said nothing.
    silence: Silence,
    /// When the driver will wake, and whom to wake when that is too late.
    armed: Option<Instant>,
    driver: Option<Waker>,
    /// Who waits for the connection to be established or gone.
    watcher: Option<Waker>,
}

impl Endpoint {
    /// Takes a connection: `syn` is the packet that asked for it, `fabric` the address it asked for. The SYN-ACK leaves
    /// before this returns.
    ///
    /// # Errors
    /// `AgentFull` when there is no memory for it.
    pub fn accept(port: &TunPort, fabric: SocketAddr, syn: &[u8], seed: u64) -> Result<Rc<Self>, Reason> {
        let endpoint = Self::new(port, fabric, seed)?;
        endpoint.0.borrow_mut().connection.listen(fabric);
        endpoint.ingest(syn);
        Ok(endpoint)
    }

    /// Opens a connection from `fabric` (the caller's address) to the workload's listener. The SYN leaves before this
    /// returns; wait for the answer with [`Endpoint::established`].
    ///
    /// # Errors
    /// `AgentFull` when there is no memory for it.
    pub fn connect(port: &TunPort, fabric: SocketAddr, workload: SocketAddr, seed: u64) -> Result<Rc<Self>, Reason> {
        let endpoint = Self::new(port, fabric, seed)?;
        {
            let mut inner = endpoint.0.borrow_mut();
            inner.connection.connect(fabric, workload);
            inner.transmit();
        }
        Ok(endpoint)
    }

    fn new(port: &TunPort, fabric: SocketAddr, seed: u64) -> Result<Rc<Self>, Reason> {
        let connection = Connection::open(port, fabric, seed).map_err(|error| {
            tracing::error!(%error, "failed to get memory for a connection");
            Reason::AgentFull
        })?;
        Ok(Rc::new_cyclic(|me| {
            Self(RefCell::new(Inner {
                connection,
                port: port.clone(),
                me: me.clone(),
                is_waiting: false,
                started: Instant::now(),
                stopped: None,
                acknowledged: 0,
                called_again: false,
                opened: false,
                finished: false,
                silence: Silence::new(seed),
                armed: None,
                driver: None,
                watcher: None,
            }))
        }))
    }

    /// Takes a packet of this flow and answers it.
    pub fn ingest(&self, packet: &[u8]) {
        self.0.borrow_mut().turn(Some(packet));
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
            if inner.opened {
                return Poll::Ready(Ok(()));
            }
            if inner.state() == State::Closed {
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
            inner.armed = inner.later();
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
            let piece = inner.connection.receive(max.min(PIECE), cx.waker());
            match piece {
                Ok(piece) if piece.is_empty() => Poll::Pending,
                Ok(piece) => {
                    inner.transmit();
                    Poll::Ready(Ok(Some(piece)))
                }
                Err(RecvError::Finished) => Poll::Ready(Ok(None)),
                Err(RecvError::InvalidState) => Poll::Ready(Err(inner.broken(reset))),
            }
        })
        .await
    }

    /// Writes all the bytes toward the workload, waiting while its window is closed.
    ///
    /// # Errors
    /// [`Broken`] with `reset` when the workload reset the connection.
    pub async fn write(&self, bytes: &[Bytes], reset: Reason) -> Result<(), Broken> {
        let (mut index, mut offset) = (0, 0);
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            while let Some(piece) = bytes.get(index) {
                let Ok(taken) = inner.connection.send(&piece[offset..]) else {
                    return Poll::Ready(Err(inner.broken(reset)));
                };
                offset += taken;
                if offset == piece.len() {
                    (index, offset) = (index + 1, 0);
                } else {
                    inner.transmit();
                    let waiting = inner.connection.socket(|socket| {
                        socket.register_send_waker(cx.waker());
                        !socket.can_send()
                    });
                    if waiting {
                        return Poll::Pending;
                    }
                }
            }
            inner.transmit();
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Resolves when nothing can be written to the workload any more.
    pub async fn broken(&self, reset: Reason) -> Broken {
        self.closed(reset, |_| true).await
    }

    /// Resolves when the workload has reset the connection, or its kernel fell silent, before it sent all that it would.
    /// What it did send is still to be read.
    pub async fn cut_short(&self, reset: Reason) -> Broken {
        self.closed(reset, |inner| !inner.finished).await
    }

    async fn closed(&self, reset: Reason, counts: impl Fn(&Inner) -> bool) -> Broken {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if inner.state() == State::Closed && counts(&inner) {
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
            let waits = inner.connection.socket(|socket| {
                socket.register_send_waker(cx.waker());
                socket.state() != State::Closed && socket.send_queue() > 0
            });
            if waits { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Sends a FIN after the bytes written so far; reading goes on.
    pub fn finish(&self) {
        let mut inner = self.0.borrow_mut();
        inner.connection.close();
        inner.transmit();
    }

    /// Sends a reset and forgets what was not delivered.
    pub fn abort(&self) {
        let mut inner = self.0.borrow_mut();
        // Data that the kernel had no room for is still in flight: it would ignore smoltcp's reset, which comes behind that.
        let expected = inner.connection.flow_in_flight().map(|flow| craft::reset_flow(&flow, inner.acknowledged));
        inner.connection.abort();
        inner.transmit();
        if let Some(reset) = expected {
            inner.port.send(&reset);
        }
    }

    /// Both directions are done, or the connection is gone: nothing the workload sends would be missed. TIME-WAIT is
    /// not waited out, as nothing between the workload and the agent delays or repeats a segment.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.0.borrow_mut().state(), State::Closed | State::TimeWait)
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
    fn state(&mut self) -> State {
        self.connection.socket(|socket| socket.state())
    }

    /// Why the connection is closed, where a reset would be `reset`.
    fn broken(&self, reset: Reason) -> Broken {
        Broken(match reset {
            Reason::CallerReset if self.silence.is_final() => Reason::CallerTimeout,
            Reason::EndpointReset if self.silence.is_final() => Reason::EndpointTimeout,
            reset => reset,
        })
    }

    fn now(&self) -> StackInstant {
        if let Some(stopped) = self.stopped {
            return stopped;
        }
        let elapsed = self.started.elapsed();
        StackInstant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    /// One packet in, everything due out, timers set.
    fn turn(&mut self, packet: Option<&[u8]>) {
        let now = self.now();
        let before = self.state();
        if let Some(packet) = packet {
            let answer = packet::answer(packet);
            self.acknowledged = answer.map_or(self.acknowledged, |answer| answer.acknowledged);
            self.silence.heard(now, &mut self.connection);
            self.connection.ingress(now, packet, &self.port);
            if answer.is_some_and(|answer| answer.is_reset()) {
                self.obey_reset();
            }
            if before == State::SynSent && answer.is_some_and(|answer| answer.acknowledges()) {
                self.call_again();
            }
            // Each of these is seen here before the next one follows.
            self.opened |= is_open(self.state());
            self.finished |= has_ended(self.state());
        }
        match (before, self.state()) {
            // Nothing will follow that the last acknowledgement could go with.
            (_, State::TimeWait) => {
                self.connection.acknowledge();
                self.transmit_at(now);
            }
            // The other end's FIN will follow as a rule, and take the acknowledgement of this one along.
            (State::Established, State::CloseWait) if !self.connection.is_sending() => self.rearm(),
            _ => self.transmit_at(now),
        }
        if self.state() != before
            && let Some(watcher) = self.watcher.take()
        {
            watcher.wake();
        }
    }

    /// A reset of an open connection counts whatever number it has: none but the workload's kernel can have sent it, which
    /// has no such connection any more. smoltcp ignores one that lies some bytes behind its window, as it may when the window,
    /// whose number is rounded down, was closed.
    fn obey_reset(&mut self) {
        match self.state() {
            State::Closed | State::SynSent | State::SynReceived | State::TimeWait => {}
            // A caller that was gone before the handshake was done: smoltcp would take the next SYN, which is another session.
            State::Listen
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => self.connection.abort(),
        }
    }

    /// A SYN was answered as a segment of another connection: the endpoint closed that one first, and its kernel is in TIME-WAIT,
    /// which takes every other initial number for a new connection at best (RFC 9293 section 3.10.7.4, RFC 6191). It has just been
    /// sent the reset by which it forgets the old one, and takes any SYN now; the next would come after a second. Once, as a kernel
    /// may be told to keep to TIME-WAIT (RFC 1337).
    fn call_again(&mut self) {
        if self.state() == State::SynSent && !std::mem::replace(&mut self.called_again, true) {
            self.connection.connect_again();
        }
    }

    fn transmit(&mut self) {
        let now = self.now();
        self.transmit_at(now);
    }

    fn transmit_at(&mut self, now: StackInstant) {
        self.silence.look(now, &mut self.connection);
        let sent = self.connection.egress(now, &self.port, TURN_PACKETS);
        self.silence.asked(sent);
        if self.state() == State::TimeWait {
            self.stopped = Some(now);
        }
        self.rearm();
    }

    fn deadline(&mut self) -> Option<Instant> {
        if self.stopped.is_some() {
            return None;
        }
        let now = self.now();
        let at = [self.connection.deadline(now), self.silence.deadline(now, &mut self.connection)];
        let at = at.into_iter().flatten().min()?;
        let wait = Duration::from_micros((at - now).total_micros()).max(TIMER_MIN);
        Some(Instant::now() + wait)
    }

    /// The time for the driver, once there is one: what is due soon is left to the interface's shared timer.
    fn later(&mut self) -> Option<Instant> {
        let deadline = self.deadline()?;
        if deadline > Instant::now() + SOON {
            return Some(deadline);
        }
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.port.waiting().add(self.me.clone());
        }
        None
    }

    /// Wakes the driver only when it would come too late: a timer that moves on costs nothing.
    fn rearm(&mut self) {
        let Some(deadline) = self.later() else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.armed = Some(deadline);
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
    }
}
