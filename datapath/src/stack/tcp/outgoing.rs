//! What is sent toward the workload, and when it is sent again.

use super::{
    BUFFER, KEPT,
    segment::{Offer, Segment},
    seq::Seq,
};
use bytes::{Bytes, BytesMut};
use std::{collections::VecDeque, io::IoSlice};

/// Pieces that they may be in: what a piece is part of may be much larger than it, and stays for as long.
const PIECES_MAX: usize = 512;
/// A shorter piece is copied for that reason: some sixty datagrams of QUIC share their memory.
const SHORT: usize = 1_024;
/// Pieces that one segment may be written from: enough for 64 KiB that came in packets of 1 452 bytes.
pub(super) const PARTS_MAX: usize = 64;
/// Fewer bytes a segment than this are nobody's wish (`TCP_MIN_SND_MSS` of Linux).
const MSS_MIN: u16 = 48;
/// The same acknowledgement so many times more means that a segment is lost (RFC 5681 section 3.2).
const REPEATS: u8 = 3;
/// Segments sent at first after a loss: of two at once a kernel acknowledges the second without delay.
const RESTART: usize = 2;

/// What is not acknowledged yet.
pub(super) struct Outgoing {
    /// The first byte of it, the next to be sent, and the one behind all that ever were.
    first: Seq,
    next: Seq,
    behind: Seq,
    /// Bytes from the first on that the other end takes, the shift of its windows, and which segment told so last.
    window: usize,
    scale: u8,
    told: (Seq, Seq),
    /// Most bytes of a segment.
    mss: usize,
    pieces: VecDeque<Bytes>,
    length: usize,
    end: End,
    repeats: u8,
    recovery: Option<Recovery>,
}

/// The end of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may follow.
    Open,
    /// A FIN is sent behind the last byte.
    Wanted,
    /// The other end has it.
    Acknowledged,
}

/// What was sent is sent again, slowly at first.
#[derive(Debug, Clone, Copy)]
struct Recovery {
    /// It is over when this is acknowledged.
    until: Seq,
    /// Segments that may be under way.
    segments: usize,
}

/// What an acknowledgement was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// Of something new, or the window is open again.
    More,
    /// Of nothing new.
    Nothing,
    /// Of what was never sent.
    Unsent,
}

/// What may be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// So many bytes.
    pub(super) length: usize,
    /// The FIN goes with them.
    pub(super) ends: bool,
    /// Nothing waits behind them.
    pub(super) is_last: bool,
}

impl Outgoing {
    /// Nothing yet; the SYN is the number before `first`.
    pub(super) fn new(first: Seq) -> Self {
        Self {
            first,
            next: first,
            behind: first,
            window: 0,
            scale: 0,
            told: (first, first),
            mss: MSS_MIN.into(),
            pieces: VecDeque::new(),
            length: 0,
            end: End::Open,
            repeats: 0,
            recovery: None,
        }
    }

    /// Learns from the other end's SYN; no segment will be longer than `most`. The window of a SYN has no shift (RFC 7323 section 2.2).
    pub(super) fn learn(&mut self, syn: &Segment<'_>, offer: Offer, most: u16) {
        self.mss = offer.mss.max(MSS_MIN).min(most).into();
        self.window = syn.window.into();
        self.scale = offer.scale.unwrap_or(0);
        self.told = (syn.sequence, self.first);
    }

    /// The first byte that is not acknowledged: what the other end expects.
    pub(super) fn first(&self) -> Seq {
        self.first
    }

    /// The next to be sent.
    pub(super) fn next(&self) -> Seq {
        self.next
    }

    /// The one behind all that ever were.
    pub(super) fn behind(&self) -> Seq {
        self.behind
    }

    /// Most bytes of a segment.
    pub(super) fn mss(&self) -> usize {
        self.mss
    }

    /// Bytes that wait to be acknowledged, or to be sent.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// A whole segment waits to be sent.
    pub(super) fn fills_segment(&self) -> bool {
        self.length - self.next.bytes_since(self.first).min(self.length) >= self.mss
    }

    /// Something waits to be acknowledged, or to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.length > 0 || self.end == End::Wanted
    }

    /// Nothing more may be given.
    pub(super) fn is_ending(&self) -> bool {
        self.end != End::Open
    }

    /// The other end has all, to its end.
    pub(super) fn is_done(&self) -> bool {
        self.end == End::Acknowledged
    }

    /// The other end takes nothing now.
    pub(super) fn is_shut(&self) -> bool {
        self.window == 0 && self.length > 0
    }

    /// Takes as many bytes off the list as there is room for, and the pieces that are empty.
    pub(super) fn give(&mut self, pieces: &mut Vec<Bytes>) {
        let (mut room, mut whole) = (BUFFER.saturating_sub(self.length), 0);
        let places = PIECES_MAX.saturating_sub(self.pieces.len());
        for piece in pieces.iter().take(places) {
            let Some(left) = room.checked_sub(piece.len()) else { break };
            (room, whole) = (left, whole + 1);
        }
        let part = pieces.get_mut(whole).filter(|_| whole < places).map(|piece| piece.split_to(room));
        pieces.drain(..whole).chain(part).for_each(|piece| self.keep(piece));
    }

    fn keep(&mut self, piece: Bytes) {
        self.length += piece.len();
        match piece.len() {
            0 => {}
            1..SHORT => self.pieces.push_back(Bytes::copy_from_slice(&piece)),
            _ => self.pieces.push_back(piece),
        }
    }

    /// Ends it behind what it has.
    pub(super) fn finish(&mut self) {
        if self.end == End::Open {
            self.end = End::Wanted;
        }
    }

    /// Forgets what it has.
    pub(super) fn clear(&mut self) {
        (self.pieces, self.length) = (VecDeque::new(), 0);
    }

    /// Takes an acknowledgement, which counts wherever its segment lies, and the window if none newer has told one.
    pub(super) fn acknowledge(&mut self, segment: &Segment<'_>, number: Seq) -> Acknowledged {
        if number.is_after(self.behind) {
            return Acknowledged::Unsent;
        }
        if self.first.is_after(number) {
            return Acknowledged::Nothing;
        }
        let window = usize::from(segment.window) << self.scale;
        let is_more = number.is_after(self.first);
        if is_more {
            self.forget(number);
        } else if segment.is_bare() && self.first != self.behind && window == self.window {
            self.repeat();
        }
        let has_opened = self.take_window(segment.sequence, number, window);
        if is_more || has_opened { Acknowledged::More } else { Acknowledged::Nothing }
    }

    /// Takes a window, if none newer has told one; whether it was closed before and is open.
    fn take_window(&mut self, sequence: Seq, number: Seq, window: usize) -> bool {
        let (last, acknowledged) = self.told;
        let is_newer = sequence.is_after(last) || (sequence == last && !acknowledged.is_after(number));
        if !is_newer {
            return false;
        }
        let has_opened = self.window == 0 && window > 0;
        (self.window, self.told) = (window, (sequence, number));
        if has_opened && self.first != self.behind {
            // It was closed because there was no room for what is under way.
            self.lose();
        }
        has_opened
    }

    fn forget(&mut self, number: Seq) {
        let mut bytes = number.bytes_since(self.first);
        if bytes > self.length {
            self.end = End::Acknowledged;
            bytes = self.length;
        }
        self.length -= bytes;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > bytes {
                bytes::Buf::advance(piece, bytes);
                break;
            }
            bytes -= piece.len();
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() && self.pieces.capacity() > KEPT {
            self.pieces = VecDeque::new();
        }
        (self.first, self.next, self.repeats) = (number, self.next.later(number), 0);
        self.recovery = self.recovery.filter(|recovery| recovery.until.is_after(number));
        if let Some(recovery) = &mut self.recovery {
            recovery.segments = (recovery.segments * 2).min(BUFFER);
        }
    }

    /// The same acknowledgement came again. All is sent again that it does not cover: what is lost twice is soon found, and so little is
    /// lost that what was not may go twice.
    fn repeat(&mut self) {
        self.repeats = self.repeats.saturating_add(1);
        if self.repeats == REPEATS {
            self.lose();
        }
    }

    /// Has sent again what was not acknowledged.
    pub(super) fn lose(&mut self) {
        (self.next, self.repeats) = (self.first, 0);
        self.recovery = Some(Recovery { until: self.behind, segments: RESTART });
    }

    /// What may be sent next, within the other end's window. A part of a segment waits while more is under way: the window opens then
    /// (RFC 9293 section 3.8.6.2.1). A FIN needs no window.
    pub(super) fn due(&self) -> Option<Next> {
        let sent = self.next.bytes_since(self.first);
        let unsent = self.length.saturating_sub(sent);
        let most = self.recovery.map_or(self.window, |recovery| self.window.min(recovery.segments * self.mss));
        let whole = unsent.min(self.mss);
        let length = whole.min(most.saturating_sub(sent));
        if length < whole && (sent > 0 || length == 0) {
            return None;
        }
        let is_last = sent + length == self.length;
        let ends = is_last && self.end == End::Wanted;
        (length > 0 || ends).then_some(Next { length, ends, is_last })
    }

    /// The bytes of what is sent next, as parts of a packet: how many there are, and what of it they hold.
    pub(super) fn parts<'a>(&'a self, next: Next, into: &mut [IoSlice<'a>]) -> (usize, Next) {
        let mut skip = self.next.bytes_since(self.first);
        let (mut parts, mut left) = (0, next.length);
        for piece in &self.pieces {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            if left == 0 || parts == into.len() {
                break;
            }
            let part = &piece[skip..][..(piece.len() - skip).min(left)];
            into[parts] = IoSlice::new(part);
            (parts, left, skip) = (parts + 1, left - part.len(), 0);
        }
        let is_all = left == 0;
        let held = Next { length: next.length - left, ends: is_all && next.ends, is_last: is_all && next.is_last };
        (parts, held)
    }

    /// That was sent.
    pub(super) fn sent(&mut self, next: Next) {
        self.next = self.next.plus(next.length + usize::from(next.ends));
        self.behind = self.behind.later(self.next);
    }

    /// The first byte, to ask for the window with (RFC 9293 section 3.8.6.1). It counts as sent only if it is acknowledged.
    pub(super) fn probe(&mut self) -> Option<&[u8]> {
        let byte = self.pieces.front().and_then(|piece| piece.get(..1))?;
        self.behind = self.behind.later(self.first.plus(1));
        Some(byte)
    }

    /// Moves what waits to memory of its own: the workload does not take it, and what its pieces are part of may be large.
    pub(super) fn gather(&mut self) {
        if self.pieces.len() > 1 {
            let mut own = BytesMut::with_capacity(self.length);
            self.pieces.drain(..).for_each(|piece| own.extend_from_slice(&piece));
            self.pieces.push_back(own.freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::segment::{ACK, Fields, Head},
        *,
    };

    const FIRST: Seq = Seq(u32::MAX - 10);

    fn packet(sequence: u32, window: u16) -> Vec<u8> {
        let head = Head::new("198.19.0.9:40000".parse().unwrap(), "198.18.0.1:53".parse().unwrap());
        let fields = Fields { flags: ACK, sequence: Seq(sequence), acknowledgement: FIRST, window };
        head.write(&fields, 0).bytes().to_vec()
    }

    fn open(mss: u16, window: u16) -> Outgoing {
        let mut outgoing = Outgoing::new(FIRST);
        outgoing.learn(&Segment::read(&packet(7, window)).unwrap(), Offer { mss, scale: None }, 65_495);
        outgoing
    }

    fn acknowledge(outgoing: &mut Outgoing, offset: usize, window: u16) -> Acknowledged {
        outgoing.acknowledge(&Segment::read(&packet(7, window)).unwrap(), FIRST.plus(offset))
    }

    /// Sends what is due: how long each segment is.
    fn send(outgoing: &mut Outgoing) -> Vec<usize> {
        let next = || {
            let next = outgoing.due()?;
            let (_, held) = outgoing.parts(next, &mut [IoSlice::new(&[]); PARTS_MAX]);
            outgoing.sent(held);
            Some(held.length)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn it_takes_what_there_is_room_for() {
        let mut outgoing = open(1_460, 0);
        let mut pieces = vec![Bytes::new(), Bytes::from(vec![1; 200_000]), Bytes::from(vec![2; 100_000])];
        outgoing.give(&mut pieces);
        assert_eq!((outgoing.length(), pieces.len(), pieces[0].len()), (BUFFER, 1, 300_000 - BUFFER));
        outgoing.give(&mut pieces);
        assert_eq!(pieces[0].len(), 300_000 - BUFFER);
        let mut outgoing = open(1_460, 0);
        let mut pieces = vec![Bytes::from_static(b"x"); PIECES_MAX + 5];
        outgoing.give(&mut pieces);
        assert_eq!((outgoing.length(), pieces.len()), (PIECES_MAX, 5), "few bytes may hold much memory");
        outgoing.gather();
        outgoing.give(&mut pieces);
        assert!(pieces.is_empty() && outgoing.pieces.len() == 6 && outgoing.pieces[0] == vec![b'x'; PIECES_MAX]);
    }

    #[test]
    fn segments_are_as_long_as_the_window_and_both_ends_want() {
        let mut outgoing = open(1_000, 2_500);
        outgoing.give(&mut vec![Bytes::from(vec![1; 1_700]), Bytes::from(vec![1; 1_700])]);
        assert_eq!(send(&mut outgoing), [1_000, 1_000], "a part waits while more is under way");
        assert_eq!(acknowledge(&mut outgoing, 2_000, 900), Acknowledged::More);
        assert_eq!(send(&mut outgoing), [900]);
        acknowledge(&mut outgoing, 2_900, 2_500);
        assert_eq!(send(&mut outgoing), [500]);
        let mut outgoing = open(65_535, u16::MAX);
        outgoing.give(&mut vec![Bytes::from_static(&[7; 100]); 2 * PARTS_MAX]);
        assert_eq!(send(&mut outgoing), [100 * PARTS_MAX, 100 * PARTS_MAX], "of so many parts each");
    }

    #[test]
    fn what_is_lost_is_sent_again_at_the_third_repetition() {
        let mut outgoing = open(1_000, 10_000);
        outgoing.give(&mut vec![Bytes::from(vec![1; 6_000])]);
        outgoing.finish();
        assert_eq!(send(&mut outgoing), [1_000; 6]);
        acknowledge(&mut outgoing, 1_000, 10_000);
        for _ in 0..2 {
            assert_eq!(acknowledge(&mut outgoing, 1_000, 10_000), Acknowledged::Nothing);
            assert!(send(&mut outgoing).is_empty());
        }
        acknowledge(&mut outgoing, 1_000, 10_000);
        assert_eq!(send(&mut outgoing), [1_000, 1_000]);
        acknowledge(&mut outgoing, 6_000, 10_000);
        assert_eq!(send(&mut outgoing), [0], "all data had arrived; the FIN goes again");
        assert!(!outgoing.is_done());
        assert_eq!(acknowledge(&mut outgoing, 6_002, 10_000), Acknowledged::Unsent);
        assert_eq!(acknowledge(&mut outgoing, 6_001, 10_000), Acknowledged::More);
        assert!(outgoing.is_done() && !outgoing.is_waiting());
    }

    #[test]
    fn a_window_of_before_does_not_count() {
        let mut outgoing = open(1_000, 1_000);
        outgoing.give(&mut vec![Bytes::from(vec![1; 3_000])]);
        assert_eq!(send(&mut outgoing), [1_000]);
        acknowledge(&mut outgoing, 1_000, 0);
        assert!(outgoing.is_shut());
        outgoing.acknowledge(&Segment::read(&packet(6, 5_000)).unwrap(), FIRST.plus(1_000));
        assert!(outgoing.is_shut() && send(&mut outgoing).is_empty());
        assert_eq!(outgoing.probe(), Some(&[1][..]));
        acknowledge(&mut outgoing, 1_001, 5_000);
        assert_eq!(send(&mut outgoing), [1_000, 999]);
    }
}
