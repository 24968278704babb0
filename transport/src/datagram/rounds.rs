//! Datagrams that wait to be sent, taken out session by session in turn: deficit round robin (Shreedhar and Varghese,
//! 1995), so that a session gets its share in bytes, whatever the size of its datagrams and however many others send.

use super::Key;
use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// What a datagram costs beside its bytes: memory here, headers on the path. It makes empty ones count.
const OVERHEAD: usize = 64;
/// For how long a session may add to more than may always wait. A busy host may read its interface this late; a queue that has
/// not gone by then only adds delay.
const BURST_FOR: Duration = Duration::from_millis(20);

/// The limits of one lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// What a session may send in its turn; at least the cost of the largest datagram, so that a turn suffices for it.
    pub(crate) quantum: usize,
    /// What may wait of one session, for however long.
    pub(crate) session: usize,
    /// What may wait of it until more than that has waited for [`BURST_FOR`].
    pub(crate) burst: usize,
    /// What may wait of all sessions. It is shared out: of `n` sessions that have something waiting, each may have an
    /// `n`th of it, so that those who flood leave room for the others.
    pub(crate) lane: usize,
}

/// A datagram found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Rounds {
    limits: Limits,
    /// Sessions that have something waiting; others have no entry.
    queues: HashMap<Key, Waiting>,
    /// The same ones, the next first.
    turn: VecDeque<Key>,
    cost: usize,
}

#[derive(Debug)]
struct Waiting {
    items: VecDeque<Bytes>,
    cost: usize,
    deficit: usize,
    /// When more waited than may always, since something has waited at all: only a queue that was empty may burst again.
    more_since: Option<Instant>,
}

impl Waiting {
    fn new(data: Bytes, deficit: usize) -> Self {
        Self { cost: cost(&data), items: [data].into(), deficit, more_since: None }
    }

    /// What may wait; `now` is asked only where more waits than may always.
    fn room(&self, limits: &Limits, now: impl FnOnce() -> Instant) -> usize {
        let is_burst = self.more_since.is_none_or(|since| now().saturating_duration_since(since) < BURST_FOR);
        if is_burst { limits.burst } else { limits.session }
    }

    fn push(&mut self, data: Bytes, session: usize, now: impl FnOnce() -> Instant) {
        self.cost += cost(&data);
        self.items.push_back(data);
        if self.cost > session && self.more_since.is_none() {
            self.more_since = Some(now());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let data = self.items.pop_front()?;
        self.cost -= cost(&data);
        self.deficit -= cost(&data);
        Some(data)
    }
}

pub(super) fn cost(data: &Bytes) -> usize {
    data.len() + OVERHEAD
}

impl Rounds {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, queues: HashMap::new(), turn: VecDeque::new(), cost: 0 }
    }

    /// Sessions that have something waiting.
    pub(crate) fn sessions(&self) -> usize {
        self.turn.len()
    }

    /// Takes a datagram of a session in; `now` tells the time.
    pub(crate) fn push(&mut self, key: Key, data: Bytes, now: impl Fn() -> Instant) -> Result<(), Full> {
        let (Limits { quantum, session, lane, .. }, cost) = (self.limits, cost(&data));
        match self.queues.get_mut(&key) {
            Some(queue) => {
                let room = queue.room(&self.limits, &now).min(lane / self.turn.len());
                if queue.cost + cost > room {
                    return Err(Full);
                }
                queue.push(data, session, &now);
            }
            None => {
                // A first datagram is taken beyond the shares, which shrink with each session, but not without end.
                if self.cost + cost > lane * 2 {
                    return Err(Full);
                }
                self.queues.insert(key, Waiting::new(data, quantum));
                self.turn.push_back(key);
            }
        }
        self.cost += cost;
        Ok(())
    }

    /// The next datagram in turn.
    pub(crate) fn pop(&mut self) -> Option<(Key, Bytes)> {
        loop {
            let key = *self.turn.front()?;
            let queue = self.queues.get_mut(&key)?;
            let cost = cost(queue.items.front()?);
            if queue.deficit < cost {
                queue.deficit += self.limits.quantum;
                self.turn.rotate_left(1);
                continue;
            }
            let data = queue.pop()?;
            self.cost -= cost;
            if queue.items.is_empty() {
                self.queues.remove(&key);
                self.turn.pop_front();
            }
            return Some((key, data));
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { quantum: 2_000, session: 20_000, burst: 25_000, lane: 100_000 };

    fn key(number: u64) -> Key {
        Key::from_number(number)
    }

    #[test]
    fn a_flood_leaves_the_others_their_turn_and_their_room() {
        let mut rounds = Rounds::new(LIMITS);
        let flood =
            (0..1_000).filter(|_| rounds.push(key(0), Bytes::from(vec![0; 1_000]), Instant::now).is_ok()).count();
        assert_eq!(flood, 23, "what one session may have waiting");
        for session in 1..=20 {
            rounds.push(key(session), Bytes::from_static(b"small"), Instant::now).unwrap();
        }
        // The first turn may be the flood's; then each of the others has its own.
        let first: Vec<_> = std::iter::from_fn(|| rounds.pop()).take(21).map(|(key, _)| key).collect();
        assert!((1..=20).all(|session| first.contains(&key(session))), "{first:?}");
    }

    #[test]
    fn sessions_get_equal_bytes_whatever_the_size_of_their_datagrams() {
        let mut rounds = Rounds::new(Limits { session: 1 << 20, burst: 1 << 20, lane: 1 << 30, ..LIMITS });
        for _ in 0..900 {
            rounds.push(key(1), Bytes::from(vec![0; 100]), Instant::now).unwrap();
            rounds.push(key(2), Bytes::from(vec![0; 900]), Instant::now).unwrap();
        }
        let mut sent = [0, 0];
        while sent[0] < 60_000 {
            let (from, data) = rounds.pop().unwrap();
            sent[usize::from(from == key(2))] += cost(&data);
        }
        let ratio = f64::from(sent[0] as u32) / f64::from(sent[1] as u32);
        assert!((0.9..1.1).contains(&ratio), "{sent:?}");
    }

    #[test]
    fn a_burst_may_wait_and_a_standing_queue_may_not() {
        let mut rounds = Rounds::new(Limits { burst: 50_000, ..LIMITS });
        let start = Instant::now();
        let push = |rounds: &mut Rounds, after: Duration| {
            let one = || rounds.push(key(0), Bytes::from(vec![0; 936]), || start + after);
            std::iter::repeat_with(one).take_while(Result::is_ok).count()
        };
        let pop = |rounds: &mut Rounds, count| (0..count).filter(|_| rounds.pop().is_some()).count();
        assert_eq!(push(&mut rounds, Duration::ZERO), 50);
        assert_eq!(pop(&mut rounds, 10), 10);
        assert_eq!(push(&mut rounds, BURST_FOR / 2), 10, "still the same burst");
        assert_eq!(pop(&mut rounds, 29), 29);
        assert_eq!(push(&mut rounds, BURST_FOR), 0, "more than may always wait has waited for too long");
        assert_eq!(pop(&mut rounds, 2), 2);
        assert_eq!(push(&mut rounds, BURST_FOR), 1, "what may always wait");
        assert_eq!(pop(&mut rounds, 100), 20);
        assert_eq!(push(&mut rounds, BURST_FOR), 50, "it had gone, so this is the next burst");
    }

    #[test]
    fn many_sessions_share_the_lane_and_the_whole_is_bounded() {
        let mut rounds = Rounds::new(LIMITS);
        let datagram = || Bytes::from(vec![0; 936]);
        for _ in 0..30 {
            for session in 0..1_000 {
                let _ = rounds.push(key(session), datagram(), Instant::now);
            }
        }
        assert!(rounds.cost <= LIMITS.lane * 2, "{}", rounds.cost);
        assert_eq!(rounds.sessions(), 200, "one each, until the whole is full");
    }

    proptest! {
        #[test]
        fn what_is_taken_comes_out_once_in_the_order_of_its_session(
            steps in prop::collection::vec((0..5_u64, 0..3_000_usize, any::<bool>()), 1..400),
        ) {
            let mut rounds = Rounds::new(LIMITS);
            let mut model: HashMap<Key, VecDeque<Bytes>> = HashMap::new();
            let check = |rounds: &mut Rounds, model: &mut HashMap<Key, VecDeque<Bytes>>| {
                let popped = rounds.pop();
                let expected = popped.as_ref().and_then(|(key, _)| model.get_mut(key)?.pop_front());
                prop_assert_eq!(popped.map(|(_, data)| data), expected);
                Ok(())
            };
            for (number, (session, length, pop)) in steps.into_iter().enumerate() {
                let data = Bytes::from(vec![number as u8; length.min(1_900)]);
                if rounds.push(key(session), data.clone(), Instant::now).is_ok() {
                    model.entry(key(session)).or_default().push_back(data);
                }
                if pop {
                    check(&mut rounds, &mut model)?;
                }
            }
            while rounds.sessions() > 0 {
                check(&mut rounds, &mut model)?;
            }
            prop_assert!(model.values().all(VecDeque::is_empty));
            prop_assert_eq!((rounds.cost, rounds.queues.len()), (0, 0));
        }
    }
}
