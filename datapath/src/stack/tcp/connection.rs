//! One connection: its state, and what segments do to it. What it sends is in `egress.rs`.

use super::{
    incoming::Incoming,
    outgoing::{Acknowledged, Outgoing},
    segment::{Head, Segment},
    seq::Seq,
};
use crate::{
    packet::FlowKey,
    stack::{
        device::TunPort,
        first_word::{FirstWord, Waiting},
    },
};
use bytes::Bytes;
use std::{rc::Rc, task::Waker, time::Duration};
use tokio::time::Instant;

/// When a SYN that is not answered is sent again, at first (RFC 6298 section 2.1).
pub(super) const SYN_REPEAT: Duration = Duration::from_secs(1);
/// The same of other segments. It takes a kernel microseconds to answer, or 200 ms where it waits for something to take its
/// acknowledgement along (`TCP_DELACK_MAX` of Linux): a shorter time would repeat what is not lost.
pub(super) const REPEAT: Duration = Duration::from_millis(400);
/// The longest time between two repetitions, and how many times it doubles at most (RFC 6298 section 5.5).
const REPEAT_MAX: Duration = Duration::from_secs(60);
const DOUBLINGS_MAX: u32 = 8;

/// Nothing more comes, or can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stack) enum Ended {
    /// The workload has finished sending.
    Finished,
    /// The connection was reset, or given up.
    Broken,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Our SYN waits for its answer.
    Calling,
    /// Our answer to a SYN does.
    Called,
    /// Both ends agree.
    Open,
    /// There is none any more.
    Closed,
}

/// The fabric's end of a connection.
pub(in crate::stack) struct Connection {
    pub(super) head: Head,
    pub(super) phase: Phase,
    /// It was open once.
    has_opened: bool,
    /// A second SYN was sent in place of the first.
    called_again: bool,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    pub(super) repeat: Repeat,
    /// What to tell of the first word on it, until there was one.
    first_word: Option<Rc<FirstWord>>,
    /// The handshake is to end with the first bytes that are sent.
    pub(super) waiting: Option<Waiting>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// When to send again what is not acknowledged, and how many times in a row that was.
#[derive(Default)]
pub(super) struct Repeat {
    pub(super) at: Option<Instant>,
    times: u32,
}

impl Repeat {
    pub(super) fn start(&mut self, now: Instant, after: Duration) {
        *self = Self { at: Some(now + after), times: 0 };
    }

    /// The first time lay `after` what was sent; each that follows takes twice as long.
    pub(super) fn again(&mut self, now: Instant, after: Duration) {
        self.times = (self.times + 1).min(DOUBLINGS_MAX);
        self.at = Some(now + (after * 2_u32.pow(self.times)).min(REPEAT_MAX));
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }
}

impl Connection {
    /// Asks the workload for a connection, with an initial number of `seed`, which is random (RFC 9293 section 3.4.1). Without
    /// what is known of the listener's first words, its answer is acknowledged at once.
    pub(in crate::stack) fn connect(
        flow: &FlowKey,
        seed: u64,
        first_word: Option<Rc<FirstWord>>,
        now: Instant,
        port: &TunPort,
    ) -> Self {
        let mut connection = Self { first_word, ..Self::new(flow, seed, Phase::Calling) };
        connection.send_syn(port);
        connection.repeat.start(now, SYN_REPEAT);
        connection
    }

    /// Answers the SYN of a workload that asks for a connection; it is closed if the packet is none.
    pub(in crate::stack) fn accept(flow: &FlowKey, syn: &[u8], seed: u64, now: Instant, port: &TunPort) -> Self {
        let mut connection = Self::new(flow, seed, Phase::Called);
        match Segment::read(syn).filter(|segment| segment.syn && !segment.rst) {
            Some(segment) => {
                connection.learn(&segment);
                connection.send_syn(port);
                connection.repeat.start(now, SYN_REPEAT);
            }
            None => connection.phase = Phase::Closed,
        }
        connection
    }

    fn new(flow: &FlowKey, seed: u64, phase: Phase) -> Self {
        Self {
            head: Head::new(flow.fabric, flow.workload),
            phase,
            has_opened: false,
            called_again: false,
            outgoing: Outgoing::new(Seq(low(seed)).plus(1)),
            incoming: Incoming::new(),
            repeat: Repeat::default(),
            first_word: None,
            waiting: None,
            reader: None,
            writer: None,
        }
    }

    fn learn(&mut self, syn: &Segment<'_>) {
        let offer = syn.offer();
        self.outgoing.learn(syn, offer, self.head.mss());
        self.incoming.learn(syn, offer);
    }

    /// The handshake was done, whatever has come since.
    pub(in crate::stack) fn has_opened(&self) -> bool {
        self.has_opened
    }

    /// The workload has sent its FIN, behind all of its bytes.
    pub(in crate::stack) fn has_ended(&self) -> bool {
        self.incoming.has_ended()
    }

    /// It was reset or given up.
    pub(in crate::stack) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Both directions are done, or it is closed.
    pub(in crate::stack) fn is_gone(&self) -> bool {
        self.is_closed() || (self.incoming.has_ended() && self.outgoing.is_done())
    }

    /// It is open, and at least one direction is not done.
    pub(in crate::stack) fn is_open(&self) -> bool {
        self.phase == Phase::Open && !self.is_gone()
    }

    /// A whole segment waits to be sent.
    pub(in crate::stack) fn fills_segment(&self) -> bool {
        self.outgoing.fills_segment()
    }

    /// Bytes that the workload's kernel does not have yet.
    pub(in crate::stack) fn unacknowledged(&self) -> usize {
        self.outgoing.length()
    }

    /// An acknowledgement is to be sent at once.
    pub(in crate::stack) fn is_hurried(&self) -> bool {
        self.incoming.is_hurried()
    }

    /// When something is due next.
    pub(in crate::stack) fn deadline(&self, now: Instant) -> Option<Instant> {
        let more = (self.phase == Phase::Open && self.outgoing.due().is_some()).then_some(now);
        [self.repeat.at, self.incoming.deadline(now), more].into_iter().flatten().min()
    }

    /// Bytes that the workload sent, at most `most` of them that lie in one piece; what comes next has `waker` woken when
    /// there are none.
    ///
    /// # Errors
    /// When there will be none any more.
    pub(in crate::stack) fn receive(&mut self, most: usize, waker: &Waker) -> Result<Option<Bytes>, Ended> {
        if let Some(piece) = self.incoming.read(most) {
            return Ok(Some(piece));
        }
        if self.has_ended() {
            return Err(Ended::Finished);
        }
        if self.is_closed() {
            return Err(Ended::Broken);
        }
        register(&mut self.reader, waker);
        Ok(None)
    }

    /// Takes as many bytes off the list as there is room for; [`wait_to_send`](Self::wait_to_send) says when there is more.
    ///
    /// # Errors
    /// When nothing can be sent any more.
    pub(in crate::stack) fn send(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Ended> {
        if self.is_closed() || self.outgoing.is_ending() {
            return Err(Ended::Broken);
        }
        let before = self.outgoing.length();
        self.outgoing.give(pieces);
        if self.outgoing.length() > before
            && let Some(word) = self.first_word.take()
        {
            word.by_caller();
        }
        Ok(())
    }

    /// Has `waker` woken when the workload's kernel has taken something, or is gone.
    pub(in crate::stack) fn wait_to_send(&mut self, waker: &Waker) {
        register(&mut self.writer, waker);
    }

    /// Has a FIN sent after what waits.
    pub(in crate::stack) fn finish(&mut self) {
        self.outgoing.finish();
    }

    /// Sends a reset, and forgets what was not delivered. A kernel obeys one that has the number that it expects, which is not the
    /// last where it had no room for what was sent (RFC 5961 section 3.2).
    pub(in crate::stack) fn abort(&mut self, port: &TunPort) {
        if !self.is_gone() {
            let (behind, expected) = (self.outgoing.behind(), self.outgoing.first());
            self.reset(port, behind);
            if expected != behind {
                self.reset(port, expected);
            }
        }
        self.close();
    }

    /// Asks the workload's kernel whether it still has the connection, by a number that it has had (RFC 9293 section 3.8.4).
    pub(in crate::stack) fn ask(&mut self, port: &TunPort) {
        let sequence = self.outgoing.first().before();
        self.send_bare(port, sequence);
    }

    /// Takes a packet, which may lie in memory that its data can stay in; what is due after it is sent by [`egress`](Self::egress).
    pub(in crate::stack) fn ingress(&mut self, now: Instant, packet: &[u8], memory: Option<&Bytes>, port: &TunPort) {
        let Some(segment) = Segment::read(packet) else { return };
        match self.phase {
            Phase::Calling => self.take_answer(&segment, now, port),
            Phase::Called | Phase::Open => self.take(&segment, now, memory, port),
            Phase::Closed => self.refuse(&segment, port),
        }
    }

    /// What comes when there is no connection any more (RFC 9293 section 3.10.7.1).
    fn refuse(&self, segment: &Segment<'_>, port: &TunPort) {
        if let Some(number) = segment.acknowledgement.filter(|_| !segment.rst) {
            self.reset(port, number);
        }
    }

    /// What comes while our SYN waits for its answer (RFC 9293 section 3.10.7.3). A SYN of the workload's own is no answer: nobody
    /// calls from the port that it listens on.
    fn take_answer(&mut self, segment: &Segment<'_>, now: Instant, port: &TunPort) {
        let Some(number) = segment.acknowledgement else { return };
        let is_ours = number == self.outgoing.first();
        match (is_ours, segment.rst, segment.syn) {
            (true, true, _) => self.close(),
            (true, false, true) => {
                self.learn(segment);
                self.open();
                self.waiting = self.first_word.as_ref().and_then(FirstWord::wait);
                match self.waiting {
                    Some(_) => self.incoming.acknowledge_soon(now),
                    None => self.incoming.hurry(),
                }
            }
            (false, false, _) => {
                self.reset(port, number);
                self.call_again(segment, now, port);
            }
            (true, false, false) | (false, true, _) => {}
        }
    }

    /// A SYN was answered as a segment of another connection: the endpoint closed that one first, and its kernel is in TIME-WAIT,
    /// which takes every other initial number for a new connection at best (RFC 9293 section 3.10.7.4, RFC 6191). It has just been
    /// sent the reset by which it forgets the old one, and takes any SYN now; the next would come after a second. Once, as a kernel
    /// may be told to keep to TIME-WAIT (RFC 1337).
    fn call_again(&mut self, answer: &Segment<'_>, now: Instant, port: &TunPort) {
        if !answer.syn && !std::mem::replace(&mut self.called_again, true) {
            // Any other number.
            self.outgoing = Outgoing::new(self.outgoing.first().plus(1 << 30));
            self.send_syn(port);
            self.repeat.start(now, SYN_REPEAT);
        }
    }

    /// What comes later (RFC 9293 section 3.10.7.4).
    fn take(&mut self, segment: &Segment<'_>, now: Instant, memory: Option<&Bytes>, port: &TunPort) {
        if segment.rst {
            return self.obey_reset();
        }
        if segment.syn {
            return self.take_syn(segment, port);
        }
        let Some(number) = segment.acknowledgement else { return };
        if self.phase == Phase::Called {
            if number != self.outgoing.first() {
                return self.reset(port, number);
            }
            self.open();
        }
        let before = self.incoming.next();
        self.take_acknowledgement(segment, number, now);
        self.incoming.take(segment, memory);
        self.incoming.schedule(now, self.outgoing.mss());
        if self.incoming.next() == before {
            return;
        }
        if !segment.data.is_empty()
            && let Some(word) = self.first_word.take()
        {
            word.by_listener();
        }
        if self.is_gone() {
            // Nothing will follow that the last acknowledgement could go with.
            self.incoming.hurry();
        }
        wake(&mut self.reader);
    }

    /// A reset counts whatever number it has: none but the workload's kernel can have sent it, which has no such connection any more.
    fn obey_reset(&mut self) {
        if !self.is_gone() {
            self.close();
        }
    }

    /// The workload's SYN, again: our answer was lost. Any other is answered with what we have, which its kernel resets if it
    /// does not have it (RFC 5961 section 4.2).
    fn take_syn(&mut self, segment: &Segment<'_>, port: &TunPort) {
        let is_again = segment.sequence.plus(1) == self.incoming.next() && segment.acknowledgement.is_none();
        match self.phase {
            Phase::Called if is_again => self.send_syn(port),
            Phase::Called | Phase::Open => self.incoming.hurry(),
            Phase::Calling | Phase::Closed => {}
        }
    }

    fn take_acknowledgement(&mut self, segment: &Segment<'_>, number: Seq, now: Instant) {
        match self.outgoing.acknowledge(segment, number) {
            Acknowledged::More => {
                self.repeat = Repeat::default();
                if self.outgoing.is_waiting() {
                    self.repeat.start(now, REPEAT);
                }
                wake(&mut self.writer);
            }
            Acknowledged::Nothing => {}
            Acknowledged::Unsent => self.incoming.hurry(),
        }
    }

    fn open(&mut self) {
        (self.phase, self.has_opened) = (Phase::Open, true);
        self.repeat = Repeat::default();
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.repeat = Repeat::default();
        self.waiting = None;
        self.outgoing.clear();
        self.incoming.stop();
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

/// The low half.
fn low(seed: u64) -> u32 {
    (seed & u64::from(u32::MAX)) as u32
}

fn register(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(there) => there.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

fn wake(place: &mut Option<Waker>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}
