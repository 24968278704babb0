//! What comes from the workload, until it is read, and when it is acknowledged.

use super::{
    super::soon::ACK_DELAY,
    BUFFER, KEPT,
    segment::{Offer, Segment},
    seq::Seq,
};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use tokio::time::Instant;

/// The shift of our windows: with it the largest that the header can say, 65 535 << 3, is no less than the buffer.
const SCALE: u8 = 3;
/// A shorter piece that comes while others wait goes together with those next to it: each piece takes some memory of its own.
const SHORT: usize = 16 << 10;
/// A longer piece stays in the memory that it lies in, of which it is half at least.
const LONG: usize = 32_000;
/// What short pieces are put together in.
const TOGETHER: usize = 16 << 10;
/// Segments that came before their turn, kept until it comes. Few do: the way is short, and knows no other.
const EARLY_MAX: usize = 16;

/// What has come.
pub(super) struct Incoming {
    /// The number that comes next, the one behind all that we let the other end send, and the one that it was told to be next.
    next: Seq,
    edge: Seq,
    told: Seq,
    /// The largest window that it was told.
    offered: usize,
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
            offered: 0,
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
        self.offered = Self::FIRST_WINDOW.into();
        (self.edge, self.told) = (self.next.plus(self.offered), self.next);
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

    /// Has acknowledged what was not yet with what is sent next, or soon.
    pub(super) fn acknowledge_soon(&mut self, now: Instant) {
        self.due = Due::At(now + ACK_DELAY);
    }

    /// Nothing more comes, and that what waits is read is no news to anybody.
    pub(super) fn stop(&mut self) {
        (self.due, self.early) = (Due::Not, Vec::new());
        self.edge = self.next.plus(2 * BUFFER);
    }

    /// The number to acknowledge and the window, as they stand in the header of a segment that is sent now.
    pub(super) fn tell(&mut self) -> (Seq, u16) {
        self.edge = self.edge.later(self.wanted_edge());
        (self.told, self.due) = (self.next, Due::Not);
        let window = self.edge.bytes_since(self.next);
        self.offered = self.offered.max(window);
        (self.next, u16::try_from(window >> self.scale).unwrap_or(u16::MAX))
    }

    /// Behind all that there is room for, in steps of the window: it is never moved back (RFC 9293 section 3.8.6).
    fn wanted_edge(&self) -> Seq {
        let room = BUFFER.saturating_sub(self.length).min(usize::from(u16::MAX) << self.scale);
        self.next.plus(room >> self.scale << self.scale)
    }

    /// Takes a segment's data and end; those that are no news, or that there is no room for, have told at once what comes next.
    /// Long data stay in the `memory` that they lie in, if they do.
    pub(super) fn take(&mut self, segment: &Segment<'_>, memory: Option<&Bytes>) {
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
            self.append(data, memory, ends);
            self.join_early();
        } else {
            self.keep_early(Early { sequence: start, data: Bytes::copy_from_slice(data), ends });
            self.hurry();
        }
    }

    /// Has acknowledged in time what came: at once where that is more than one of the other end's longest segments, of `most` bytes
    /// (RFC 9293 section 3.8.6.3).
    pub(super) fn schedule(&mut self, now: Instant, most: usize) {
        let fresh = self.next.bytes_since(self.told);
        if fresh > most {
            self.hurry();
        } else if fresh > 0 && self.due == Due::Not {
            self.acknowledge_soon(now);
        }
    }

    fn append(&mut self, data: &[u8], memory: Option<&Bytes>, ends: bool) {
        self.next = self.next.plus(data.len() + usize::from(ends));
        self.length += data.len();
        if ends {
            (self.has_ended, self.early) = (true, Vec::new());
        }
        if data.is_empty() {
            return;
        }
        if data.len() >= SHORT || (self.pieces.is_empty() && self.last.is_empty()) {
            self.flush();
            let kept = memory.filter(|_| data.len() >= LONG).map(|memory| memory.slice_ref(data));
            return self.pieces.push_back(kept.unwrap_or_else(|| Bytes::copy_from_slice(data)));
        }
        if self.last.capacity() - self.last.len() < data.len() {
            self.flush();
            self.last = BytesMut::with_capacity(TOGETHER);
        }
        self.last.extend_from_slice(data);
    }

    fn flush(&mut self) {
        let last = std::mem::take(&mut self.last);
        if last.len() * 2 >= last.capacity() && !last.is_empty() {
            self.pieces.push_back(last.freeze());
        } else if !last.is_empty() {
            // What reads it may keep it for long, by its length.
            self.pieces.push_back(Bytes::copy_from_slice(&last));
        }
    }

    fn keep_early(&mut self, early: Early) {
        let bytes: usize = self.early.iter().map(|one| one.data.len()).sum();
        if self.early.len() < EARLY_MAX && self.length + bytes + early.data.len() <= BUFFER {
            self.early.push(early);
        }
    }

    /// Appends what came before its turn, where that has come.
    fn join_early(&mut self) {
        while let Some(at) = self.early.iter().position(|early| !early.sequence.is_after(self.next)) {
            let Early { sequence, data, ends } = self.early.swap_remove(at);
            if let Some(rest) = data.get(self.next.bytes_since(sequence)..) {
                self.append(rest, Some(&data), ends);
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
        if self.has_much_room() {
            self.hurry();
        }
        Some(piece)
    }

    /// There is much more room than the other end knows of, so that it learns of it at once (RFC 9293 section 3.8.6.2.2). While it
    /// knows of the small window of our SYN alone, not before it has used half of that: many connections never need a larger one. A
    /// sender waits for no more than half of the largest window that it was told (section 3.8.6.2.1), so none waits for this.
    fn has_much_room(&self) -> bool {
        let most_room = BUFFER.min(usize::from(u16::MAX) << self.scale);
        let is_more = self.wanted_edge().bytes_since(self.edge) >= most_room / 2;
        is_more && !self.has_ended && self.edge.bytes_since(self.next) <= self.offered / 2
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::segment::{ACK, FIN, Fields, Head, SYN},
        *,
    };

    const SYN_NUMBER: Seq = Seq(u32::MAX - 1);

    fn packet(flags: u8, offset: usize, data: &[u8]) -> Vec<u8> {
        packet_at(SYN_NUMBER.plus(1 + offset), flags, data)
    }

    fn packet_at(sequence: Seq, flags: u8, data: &[u8]) -> Vec<u8> {
        let head = Head::new("198.19.0.9:40000".parse().unwrap(), "198.18.0.1:53".parse().unwrap());
        let fields = Fields { flags, sequence, acknowledgement: Seq(0), window: u16::MAX };
        [head.write(&fields, data.len()).bytes(), data].concat()
    }

    /// The other end knows of the window of our SYN.
    fn called() -> Incoming {
        let mut incoming = Incoming::new();
        let offer = Offer { mss: 1_460, scale: Some(7) };
        incoming.learn(&Segment::read(&packet_at(SYN_NUMBER, SYN, &[])).unwrap(), offer);
        incoming
    }

    /// It knows of all the room.
    fn open() -> Incoming {
        let mut incoming = called();
        incoming.tell();
        incoming
    }

    fn take(incoming: &mut Incoming, packet: &[u8]) {
        incoming.take(&Segment::read(packet).unwrap(), None);
    }

    fn read(incoming: &mut Incoming) -> Vec<usize> {
        std::iter::from_fn(|| incoming.read(usize::MAX)).map(|piece| piece.len()).collect()
    }

    #[test]
    fn short_pieces_that_wait_take_little_more_memory_than_their_bytes() {
        let mut incoming = open();
        (0..40_000).for_each(|offset| take(&mut incoming, &packet(ACK, offset, b"x")));
        assert_eq!(incoming.pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [1, TOGETHER, TOGETHER]);
        let last = 40_000 - 1 - 2 * TOGETHER;
        assert_eq!(read(&mut incoming), [1, TOGETHER, TOGETHER, last]);
        assert!(incoming.length == 0 && incoming.last.capacity() == 0, "nothing is kept");
        (0..3).for_each(|offset| take(&mut incoming, &packet(ACK, 40_000 + offset, b"x")));
        incoming.read(usize::MAX).unwrap();
        let two = incoming.read(usize::MAX).unwrap().try_into_mut().unwrap();
        assert_eq!((two.len(), two.capacity()), (2, 2), "no more memory than it has bytes");
    }

    #[test]
    fn what_comes_before_its_turn_is_kept_and_bounded() {
        let mut incoming = open();
        for round in 0..2 * EARLY_MAX {
            take(&mut incoming, &packet(ACK, 10 + 10 * round, b"0123456789"));
        }
        assert_eq!(incoming.early.len(), EARLY_MAX);
        take(&mut incoming, &packet(ACK | FIN, 10 + 10 * EARLY_MAX, &[]));
        assert!(!incoming.has_ended() && incoming.is_hurried(), "the gap is asked for");
        take(&mut incoming, &packet(ACK, 0, b"0123456789"));
        assert_eq!(incoming.length, 10 * (1 + EARLY_MAX));
        assert!(incoming.early.is_empty() && !incoming.has_ended(), "there was no place for the end");
        take(&mut incoming, &packet(ACK | FIN, 10 + 10 * EARLY_MAX, &[]));
        assert!(incoming.has_ended());
    }

    #[test]
    fn long_pieces_stay_where_they_lie() {
        let mut incoming = open();
        let memory = Bytes::from(packet(ACK, 0, &[7; LONG]));
        incoming.take(&Segment::read(&memory).unwrap(), Some(&memory));
        let read = incoming.read(usize::MAX).unwrap();
        assert!(memory.as_ptr_range().contains(&read.as_ptr()) && read.len() == LONG);
        let memory = Bytes::from(packet(ACK, LONG, b"short"));
        incoming.take(&Segment::read(&memory).unwrap(), Some(&memory));
        let read = incoming.read(usize::MAX).unwrap();
        assert!(!memory.as_ptr_range().contains(&read.as_ptr()) && read == b"short"[..]);
    }

    #[test]
    fn more_room_is_told_when_half_of_what_is_known_was_used() {
        // What comes is read; whether the other end is told at once.
        let read = |incoming: &mut Incoming, offset, length| {
            take(incoming, &packet(ACK, offset, &vec![7; length]));
            incoming.read(usize::MAX).unwrap();
            incoming.is_hurried()
        };
        let mut incoming = called();
        assert!(!read(&mut incoming, 0, 32_000), "of 64 KiB little was used");
        assert!(read(&mut incoming, 32_000, 1_000));
        assert_eq!(usize::from(incoming.tell().1) << SCALE, BUFFER);
        let mut incoming = called();
        assert!(!read(&mut incoming, 0, 1_000));
        assert_eq!(usize::from(incoming.tell().1) << SCALE, BUFFER, "an answer tells it, too");
        assert!(!read(&mut incoming, 1_000, 65_000));
        assert!(read(&mut incoming, 66_000, 65_000 + 1_500), "half of all");
    }

    #[test]
    fn who_was_told_of_a_little_room_learns_of_much() {
        let mut incoming = open();
        (0..4).for_each(|number| take(&mut incoming, &packet(ACK, number * 65_495, &[7; 65_495])));
        incoming.read(30_000).unwrap();
        let window = usize::from(incoming.tell().1) << SCALE;
        assert!((20_000..40_000).contains(&window), "less than a segment: {window}");
        read(&mut incoming);
        assert!(incoming.is_hurried(), "nothing else would tell");
    }

    #[test]
    fn the_window_closes_as_bytes_wait_and_is_never_moved_back() {
        let mut incoming = open();
        let mut offset = 0;
        let mut windows = Vec::new();
        while windows.last() != Some(&0) {
            take(&mut incoming, &packet(ACK, offset, &[7; 50_001]));
            let edge = incoming.edge;
            let (next, window) = incoming.tell();
            assert!(!edge.is_after(incoming.edge));
            assert!(!next.plus(usize::from(window) << SCALE).is_after(incoming.edge), "no more is told than is taken");
            offset = next.bytes_since(SYN_NUMBER) - 1;
            windows.push(window);
        }
        assert_eq!((incoming.length, offset), (BUFFER, BUFFER));
        incoming.read(1_000).unwrap();
        assert!(!incoming.is_hurried(), "a little more room is not told at once");
        read(&mut incoming);
        assert!(incoming.is_hurried());
        assert_eq!(usize::from(incoming.tell().1) << SCALE, BUFFER);
    }
}
