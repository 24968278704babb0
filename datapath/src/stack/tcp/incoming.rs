//! What comes from the workload, until it is read, and when it is acknowledged.

use super::{
    super::soon::ACK_DELAY,
    segment::{Offer, Segment},
    seq::Seq,
};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Bytes that may wait to be read: a slow reader closes the window at this many.
const BUFFER: usize = 256 << 10;
/// The shift of our windows: with it the largest that the header can say, 65 535 << 3, is no less than the buffer.
const SCALE: u8 = 3;
/// A shorter piece that comes while others wait goes together with those next to it: each piece takes some memory of its own.
const SHORT: usize = 16 << 10;
/// What short pieces are put together in.
const TOGETHER: usize = 16 << 10;
/// Segments that came before their turn, kept until it comes. Few do: the way is short, and knows no other.
const EARLY_MAX: usize = 16;
/// What has room for more pieces than this is given back once it is empty: many sessions are idle.
const KEPT: usize = 16;

/// What has come.
pub(super) struct Incoming {
    /// The number that comes next, the one behind all that we let the other end send, and the one that it was told to be next.
    next: Seq,
    edge: Seq,
    told: Seq,
    /// The shift of our windows.
    scale: u8,
    /// What waits to be read; the short pieces at its end are in `last`.
    pieces: VecDeque<Bytes>,
    last: BytesMut,
    length: usize,
    early: Vec<Early>,
    has_ended: bool,
    due: Due,
}

/// What came before its turn.
struct Early {
    sequence: Seq,
    data: Bytes,
    ends: bool,
}

/// When to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// All is.
    Not,
    /// With what is sent until then, or then.
    At(Instant),
    /// At once.
    Now,
}

impl Incoming {
    /// Nothing yet, of a connection that is not open.
    pub(super) fn new() -> Self {
        let zero = Seq(0);
        Self {
            next: zero,
            edge: zero,
            told: zero,
            scale: 0,
            pieces: VecDeque::new(),
            last: BytesMut::new(),
            length: 0,
            early: Vec::new(),
            has_ended: false,
            due: Due::Not,
        }
    }

    /// Learns from the other end's SYN, which offers a shift or takes none.
    pub(super) fn learn(&mut self, syn: &Segment<'_>, offer: Offer) {
        self.next = syn.sequence.plus(1);
        self.scale = offer.scale.map_or(0, |_| SCALE);
        (self.edge, self.told) = (self.next.plus(Self::FIRST_WINDOW.into()), self.next);
    }

    /// The window of a SYN, which has no shift (RFC 7323 section 2.2).
    pub(super) const FIRST_WINDOW: u16 = u16::MAX;

    /// The shift to offer.
    pub(super) fn scale() -> u8 {
        SCALE
    }

    /// The other end has offered one, too.
    pub(super) fn takes_scale(&self) -> bool {
        self.scale != 0
    }

    /// The number that comes next.
    pub(super) fn next(&self) -> Seq {
        self.next
    }

    /// All has come, to its end.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// There is something to acknowledge at once, or by now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.due {
            Due::Not => false,
            Due::At(at) => at <= now,
            Due::Now => true,
        }
    }

    /// There is something to acknowledge at once.
    pub(super) fn is_hurried(&self) -> bool {
        self.due == Due::Now
    }

    /// When there is something to acknowledge.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.due {
            Due::Not => None,
            Due::At(at) => Some(at),
            Due::Now => Some(now),
        }
    }

    /// Has acknowledged at once what was not yet.
    pub(super) fn hurry(&mut self) {
        self.due = Due::Now;
    }

    /// Nothing is acknowledged any more.
    pub(super) fn stop(&mut self) {
        self.due = Due::Not;
    }

    /// The number to acknowledge and the window, as they stand in the header of a segment that is sent now.
    pub(super) fn tell(&mut self) -> (Seq, u16) {
        self.edge = self.edge.later(self.wanted_edge());
        (self.told, self.due) = (self.next, Due::Not);
        let window = self.edge.bytes_since(self.next) >> self.scale;
        (self.next, u16::try_from(window).unwrap_or(u16::MAX))
    }

    /// Behind all that there is room for, in steps of the window: it is never moved back (RFC 9293 section 3.8.6).
    fn wanted_edge(&self) -> Seq {
        let room = BUFFER.saturating_sub(self.length).min(usize::from(u16::MAX) << self.scale);
        self.next.plus(room >> self.scale << self.scale)
    }

    /// Takes a segment's data and end; those that are no news, or that there is no room for, have told at once what comes next.
    /// `most` is how long the other end's segments may be.
    pub(super) fn take(&mut self, segment: &Segment<'_>, now: Instant, most: usize) {
        let ahead = segment.sequence.since(self.next);
        if ahead == 0 && segment.is_bare() {
            return;
        }
        let (mut data, mut ends) = (segment.data, segment.fin);
        if ahead < 0 {
            let old = usize::try_from(ahead.unsigned_abs()).unwrap_or(usize::MAX);
            let Some(rest) = data.get(old..).filter(|rest| ends || !rest.is_empty()) else { return self.hurry() };
            data = rest;
        }
        let start = segment.sequence.later(self.next);
        let room = self.edge.bytes_since(start);
        if self.has_ended || start.is_after(self.edge) || data.len() > room {
            self.hurry();
            (data, ends) = (&data[..data.len().min(room)], false);
        }
        if self.has_ended || (data.is_empty() && !ends) {
            return;
        }
        if start == self.next {
            self.append(data, ends);
            self.join_early();
            self.schedule(now, most);
        } else {
            self.keep_early(Early { sequence: start, data: Bytes::copy_from_slice(data), ends });
            self.hurry();
        }
    }

    /// More than one of the other end's longest segments is acknowledged at once (RFC 9293 section 3.8.6.3).
    fn schedule(&mut self, now: Instant, most: usize) {
        if self.next.bytes_since(self.told) > most {
            self.hurry();
        } else if self.due == Due::Not {
            self.due = Due::At(now + ACK_DELAY);
        }
    }

    fn append(&mut self, data: &[u8], ends: bool) {
        self.next = self.next.plus(data.len() + usize::from(ends));
        self.length += data.len();
        self.has_ended = ends;
        if data.is_empty() {
            return;
        }
        if data.len() >= SHORT || (self.pieces.is_empty() && self.last.is_empty()) {
            self.flush();
            return self.pieces.push_back(Bytes::copy_from_slice(data));
        }
        if self.last.capacity() - self.last.len() < data.len() {
            self.flush();
            self.last = BytesMut::with_capacity(TOGETHER);
        }
        self.last.extend_from_slice(data);
    }

    fn flush(&mut self) {
        if !self.last.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.last).freeze());
        }
    }

    fn keep_early(&mut self, early: Early) {
        let bytes: usize = self.early.iter().map(|one| one.data.len()).sum();
        if self.early.len() < EARLY_MAX && bytes + early.data.len() <= BUFFER {
            self.early.push(early);
        }
    }

    /// Appends what came before its turn, where that has come.
    fn join_early(&mut self) {
        while let Some(at) = self.early.iter().position(|early| !early.sequence.is_after(self.next)) {
            let Early { sequence, data, ends } = self.early.swap_remove(at);
            if self.has_ended {
                self.early.clear();
            } else if let Some(rest) = data.get(self.next.bytes_since(sequence)..) {
                self.append(rest, ends);
            }
        }
    }

    /// Gives out what waits, at most so many bytes and one piece.
    pub(super) fn read(&mut self, most: usize) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.flush();
        }
        let first = self.pieces.front_mut()?;
        let piece = if first.len() > most { first.split_to(most) } else { self.pieces.pop_front()? };
        self.length -= piece.len();
        if self.pieces.is_empty() && self.pieces.capacity() > KEPT {
            self.pieces = VecDeque::new();
        }
        // The other end learns of much more room at once (RFC 9293 section 3.8.6.2.2).
        let most_room = BUFFER.min(usize::from(u16::MAX) << self.scale);
        if !self.has_ended && self.wanted_edge().bytes_since(self.edge) >= most_room / 2 {
            self.hurry();
        }
        Some(piece)
    }
}
