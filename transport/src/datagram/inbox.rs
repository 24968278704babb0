//! Where the datagrams of one connection wait for their sessions.

use super::Key;
use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

/// What one session may have waiting to be taken, in bytes. The agent takes them at once; this is what arrives while it does
/// something else, as much as the socket's buffer holds.
const SESSION_BYTES: usize = 4 << 20;
/// Bytes that all sessions of one connection may have waiting, shared out: of `n` sessions that have something waiting, each
/// may have an `n`th of it. As shares shrink with each session, all together may have twice as much: what a hostile host can
/// make an agent hold whose sessions do not take their datagrams.
const CONNECTION_BYTES: usize = 16 << 20;
/// Places that a queue keeps when it is empty: many small datagrams at once must not cost memory for ever.
const KEPT: usize = 1_024;
/// What a datagram in a queue costs beside its bytes.
const OVERHEAD: usize = 64;

/// The sessions of one connection that take datagrams, each with its queue.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Key, Queue>,
    /// What all queues cost together, and how many of them have something waiting.
    cost: usize,
    waiting: usize,
    /// The connection has ended.
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Bytes>,
    cost: usize,
    lost: u64,
    waker: Option<Waker>,
}

/// What became of a datagram that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It waits for its session.
    Queued,
    /// The session, or the connection, has as many waiting as may; the session is told how many it lost.
    Full,
    /// No session has that key: it has ended.
    Late,
}

fn cost(data: &[u8]) -> usize {
    data.len() + OVERHEAD
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes datagrams of a session in until the guard is dropped.
    pub(crate) fn register(inbox: &Arc<Self>, key: Key) -> Registration {
        inbox.state().queues.insert(key, Queue::default());
        Registration { inbox: Arc::clone(inbox), key }
    }

    /// Hands a datagram to its session.
    pub(crate) fn deliver(&self, key: Key, data: &[u8]) -> Delivered {
        let mut state = self.state();
        let State { queues, cost: all, waiting, .. } = &mut *state;
        let Some(queue) = queues.get_mut(&key) else { return Delivered::Late };
        let (cost, is_first) = (cost(data), queue.items.is_empty());
        let share = SESSION_BYTES.min(CONNECTION_BYTES / (*waiting).max(1));
        // A first datagram is taken beyond the shares.
        if (!is_first && queue.cost + cost > share) || *all + cost > 2 * CONNECTION_BYTES {
            queue.lost += 1;
            return Delivered::Full;
        }
        *waiting += usize::from(is_first);
        // Copied, as what arrives is a part of a buffer of many packets, which it would keep whole.
        queue.items.push_back(Bytes::copy_from_slice(data));
        queue.cost += cost;
        *all += cost;
        let waker = queue.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Delivered::Queued
    }

    /// The connection has ended: sessions get what waits, then the end.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let wakers: Vec<_> = state.queues.values_mut().filter_map(|queue| queue.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A session's place in an inbox, given up when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    inbox: Arc<Inbox>,
    key: Key,
}

impl Registration {
    /// Adds what waits to `into`, at most `most`, once there is something. `false` once the connection has ended.
    pub(crate) async fn recv_some(&mut self, into: &mut Vec<Bytes>, most: usize) -> bool {
        poll_fn(|cx| {
            let mut state = self.inbox.state();
            let State { queues, cost: all, waiting, closed } = &mut *state;
            let Some(queue) = queues.get_mut(&self.key) else { return Poll::Ready(false) };
            if queue.items.is_empty() {
                if !*closed {
                    queue.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                return Poll::Ready(false);
            }
            for data in queue.items.drain(..most.min(queue.items.len())) {
                queue.cost -= cost(&data);
                *all -= cost(&data);
                into.push(data);
            }
            if queue.items.is_empty() {
                *waiting -= 1;
                if queue.items.capacity() > KEPT {
                    queue.items = VecDeque::new();
                }
            }
            Poll::Ready(true)
        })
        .await
    }

    pub(crate) fn take_lost(&self) -> u64 {
        let mut state = self.inbox.state();
        state.queues.get_mut(&self.key).map_or(0, |queue| std::mem::take(&mut queue.lost))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.inbox.state();
        if let Some(queue) = state.queues.remove(&self.key) {
            state.cost -= queue.cost;
            state.waiting -= usize::from(!queue.items.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        Key::from_number(number)
    }

    #[tokio::test]
    async fn a_full_queue_counts_what_it_loses_and_others_have_room() {
        let inbox = Arc::new(Inbox::default());
        let (mut full, mut other) = (Inbox::register(&inbox, key(1)), Inbox::register(&inbox, key(2)));
        let taken = (0..100_000).filter(|_| inbox.deliver(key(1), b"x") == Delivered::Queued).count();
        let room = SESSION_BYTES / cost(b"x");
        assert_eq!((taken, full.take_lost(), full.take_lost()), (room, 100_000 - room as u64, 0));
        assert_eq!(inbox.deliver(key(2), b"y"), Delivered::Queued);
        let mut got = Vec::new();
        assert!(other.recv_some(&mut got, 2).await);
        assert_eq!(got, ["y"]);
        got.clear();
        assert!(full.recv_some(&mut got, taken - 1).await && full.recv_some(&mut got, 2).await);
        assert_eq!(got, vec!["x"; taken]);
        let state = inbox.state();
        assert_eq!((state.cost, state.waiting), (0, 0));
        assert!(state.queues[&key(1)].items.capacity() <= KEPT, "an emptied queue gives its memory back");
    }

    #[tokio::test]
    async fn bytes_are_bounded_for_a_session_and_for_the_connection() {
        let inbox = Arc::new(Inbox::default());
        let large = vec![0; 65_507];
        let sessions: Vec<_> = (0..1_000).map(|number| Inbox::register(&inbox, key(number))).collect();
        let fill = |number| (0..80).filter(|_| inbox.deliver(key(number), &large) == Delivered::Queued).count();
        let mut queued: Vec<_> = (0..10).map(fill).collect();
        assert_eq!(queued[0], SESSION_BYTES / cost(&large));
        assert_eq!(queued[9], CONNECTION_BYTES / 10 / cost(&large), "those that flood leave room for the next");
        assert_eq!(inbox.deliver(key(999), b"small"), Delivered::Queued);
        queued.extend((10..999).map(fill));
        assert!(inbox.state().cost <= 2 * CONNECTION_BYTES);
        assert_eq!(fill(999), 0, "the whole is full");
        let queued = queued.iter().sum::<usize>() as u64;
        assert_eq!(sessions.iter().map(Registration::take_lost).sum::<u64>(), 80_000 - queued);
        drop(sessions);
        let state = inbox.state();
        assert_eq!((state.cost, state.waiting, state.queues.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn what_ends_is_late_and_a_closed_inbox_is_read_to_its_end() {
        let inbox = Arc::new(Inbox::default());
        let mut stays = Inbox::register(&inbox, key(1));
        drop(Inbox::register(&inbox, key(2)));
        assert_eq!(inbox.deliver(key(2), b""), Delivered::Late);
        assert_eq!(inbox.deliver(key(1), b""), Delivered::Queued);
        inbox.close();
        let mut got = Vec::new();
        assert!(stays.recv_some(&mut got, 1).await);
        assert!(!stays.recv_some(&mut got, 1).await);
        assert_eq!(got, [""]);
    }
}
