//! Two ends over a way that loses, repeats and delays packets, on a clock that the test moves.

use super::{Connection, Ended, segment::Segment};
use crate::{
    packet::FlowKey,
    stack::{TunPort, soon::ACK_DELAY, tests::Kept},
};
use bytes::Bytes;
use proptest::prelude::*;
use std::{collections::VecDeque, rc::Rc, task::Waker, time::Duration};
use tokio::time::Instant;

/// Steps by which both ends have all: many more than any run takes.
const STEPS_MAX: usize = 100_000;
/// Where the maximum segment size stands in a SYN over IPv4.
const MSS_AT: usize = 42;

/// A source of numbers that a seed decides (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).unwrap()
    }

    fn in_hundred(&mut self, chance: usize) -> bool {
        self.roll(100) < chance
    }
}

/// How bad the way is, in per cent of packets.
#[derive(Debug, Clone, Copy)]
struct Way {
    lost: usize,
    repeated: usize,
    late: usize,
    mss: u16,
}

struct End {
    connection: Connection,
    port: TunPort,
    kept: Rc<Kept>,
    /// What it has to say, how much of that it has given, and what the other end said.
    says: Vec<u8>,
    given: usize,
    heard: Vec<u8>,
    has_heard_all: bool,
    /// Bytes that were sent to it, repeated ones as well.
    sent_to_it: usize,
    /// On the way to it, with the step at which each arrives.
    coming: VecDeque<(usize, Vec<u8>)>,
}

impl End {
    fn new(kept: Rc<Kept>, port: TunPort, connection: Connection, says: Vec<u8>) -> Self {
        let (given, heard, has_heard_all, sent_to_it, coming) = Default::default();
        Self { connection, port, kept, says, given, heard, has_heard_all, sent_to_it, coming }
    }

    /// Does what an application may do.
    fn act(&mut self, now: Instant, dice: &mut Dice) {
        if dice.in_hundred(50) && self.given < self.says.len() {
            let end = self.says.len().min(self.given + 1 + dice.roll(90_000));
            let middle = self.given + dice.roll(end - self.given);
            let piece = |from: usize, to: usize| Bytes::copy_from_slice(&self.says[from..to]);
            let mut pieces = vec![piece(self.given, middle), piece(middle, end)];
            self.connection.send(&mut pieces).unwrap();
            self.given = end - pieces.iter().map(Bytes::len).sum::<usize>();
        }
        if self.given == self.says.len() {
            self.connection.finish();
        }
        while dice.in_hundred(70) && !self.has_heard_all {
            match self.connection.receive(1 + dice.roll(70_000), Waker::noop()) {
                Ok(Some(piece)) => self.heard.extend_from_slice(&piece),
                Ok(None) => break,
                Err(Ended::Finished) => self.has_heard_all = true,
                Err(Ended::Broken) => panic!("it is broken"),
            }
        }
        self.connection.egress(now, &self.port, 64);
    }

    fn arrive(&mut self, now: Instant, step: usize) {
        let (due, later): (VecDeque<_>, _) = self.coming.drain(..).partition(|(at, _)| *at <= step);
        self.coming = later;
        for (_, packet) in due {
            self.connection.ingress(now, &packet, None, &self.port);
            self.connection.egress(now, &self.port, 64);
        }
    }

    fn is_done(&self) -> bool {
        self.has_heard_all && self.connection.is_gone()
    }
}

/// Puts what one end sent on its way to the other.
fn carry(from: &End, to: &mut End, step: usize, way: Way, dice: &mut Dice) {
    for mut packet in from.kept.0.take() {
        let segment = Segment::read(&packet).unwrap();
        to.sent_to_it += segment.data.len();
        if segment.syn {
            packet[MSS_AT..MSS_AT + 2].copy_from_slice(&way.mss.to_be_bytes());
        }
        let copies = if dice.in_hundred(way.repeated) { 2 } else { 1 };
        for _ in 0..copies {
            if !dice.in_hundred(way.lost) {
                let late = if dice.in_hundred(way.late) { 1 + dice.roll(4) } else { 0 };
                to.coming.push_back((step + late, packet.clone()));
            }
        }
    }
}

fn pattern(length: usize, step: u8) -> Vec<u8> {
    std::iter::successors(Some(0_u8), |byte| Some(byte.wrapping_mul(5).wrapping_add(step))).take(length).collect()
}

fn both_ends(lengths: [usize; 2], seed: u64, now: Instant, mss: u16) -> [End; 2] {
    let (one, other) = ("198.18.0.1:53".parse().unwrap(), "198.19.0.9:40000".parse().unwrap());
    let ports = [(); 2].map(|()| Rc::new(Kept::default())).map(|kept| (TunPort::new(Rc::clone(&kept) as _), kept));
    let [(port, kept), (far_port, far_kept)] = ports;
    let flow = FlowKey { fabric: one, workload: other };
    let caller = Connection::connect(&flow, seed, None, now, &port);
    let mut syn = kept.0.borrow_mut().pop().unwrap();
    syn[MSS_AT..MSS_AT + 2].copy_from_slice(&mss.to_be_bytes());
    let called = Connection::accept(&FlowKey { fabric: other, workload: one }, &syn, !seed, now, &far_port);
    [End::new(kept, port, caller, pattern(lengths[0], 1)), End::new(far_kept, far_port, called, pattern(lengths[1], 3))]
}

/// Runs until both ends have heard all; returns how much time that took, and how many bytes were sent.
fn talk(lengths: [usize; 2], seed: u64, way: Way) -> (Duration, usize) {
    let mut dice = Dice(seed);
    let start = Instant::now();
    let mut now = start;
    let [mut one, mut other] = both_ends(lengths, seed, now, way.mss);
    for step in 0..STEPS_MAX {
        carry(&one, &mut other, step, way, &mut dice);
        carry(&other, &mut one, step, way, &mut dice);
        one.arrive(now, step);
        other.arrive(now, step);
        one.act(now, &mut dice);
        other.act(now, &mut dice);
        if one.is_done() && other.is_done() {
            assert!(one.heard == other.says && other.heard == one.says, "each heard what the other said");
            return (now - start, one.sent_to_it + other.sent_to_it);
        }
        let is_quiet = [&one, &other].iter().all(|end| end.coming.is_empty() && end.kept.0.borrow().is_empty());
        let deadline = [&one, &other].iter().filter_map(|end| end.connection.deadline(now)).min();
        if let Some(deadline) = deadline.filter(|_| is_quiet) {
            now = now.max(deadline);
        }
    }
    panic!("{way:?}: no end: {} of {}, {} of {}", other.heard.len(), lengths[0], one.heard.len(), lengths[1]);
}

const GOOD: Way = Way { lost: 0, repeated: 0, late: 0, mss: 65_495 };

#[test]
fn over_a_good_way_nothing_is_sent_twice() {
    for seed in 0..50 {
        for mss in [1_460, 65_495] {
            let (_, sent) = talk([3_000_000, 1_000_000], seed, Way { mss, ..GOOD });
            // But for a byte now and then that asks a slow reader for room.
            assert!((4_000_000..4_000_020).contains(&sent), "{sent}");
        }
    }
}

#[test]
fn a_loss_among_many_segments_is_mended_at_once() {
    let way = Way { lost: 1, mss: 1_460, ..GOOD };
    let mut took: Vec<_> = (0..50).map(|seed| talk([2_000_000, 0], seed, way).0).collect();
    took.sort();
    assert!(took[25] < Duration::from_millis(100), "{took:?}");
}

#[test]
fn a_closed_connection_that_is_read_has_nothing_to_do() {
    let mut now = Instant::now();
    let [mut one, mut other] = both_ends([200_000, 0], 7, now, GOOD.mss);
    let mut dice = Dice(7);
    let mut pieces = vec![Bytes::from(std::mem::take(&mut one.says))];
    for step in 0..10 {
        now += ACK_DELAY;
        carry(&one, &mut other, step, GOOD, &mut dice);
        carry(&other, &mut one, step, GOOD, &mut dice);
        one.arrive(now, step);
        other.arrive(now, step);
        one.connection.send(&mut pieces).unwrap();
        one.connection.egress(now, &one.port, 64);
        other.connection.egress(now, &other.port, 64);
    }
    one.connection.abort(&one.port);
    carry(&one, &mut other, 10, GOOD, &mut dice);
    other.arrive(now, 10);
    other.kept.0.take();
    let read = std::iter::from_fn(|| other.connection.receive(usize::MAX, Waker::noop()).ok().flatten());
    assert_eq!(read.map(|piece| piece.len()).sum::<usize>(), 200_000);
    assert!(other.connection.is_closed() && other.connection.deadline(now).is_none());
    assert_eq!(other.connection.egress(now, &other.port, 64), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_the_way_each_end_hears_what_the_other_said(
        lengths in (0..500_000_usize, prop_oneof![0..3_usize, 0..500_000_usize]),
        seed in any::<u64>(),
        (lost, repeated, late) in (0..30_usize, 0..30_usize, 0..50_usize),
        mss in prop_oneof![Just(536_u16), Just(1_460), Just(9_000), Just(65_495)],
    ) {
        talk([lengths.0, lengths.1], seed, Way { lost, repeated, late, mss });
    }
}
