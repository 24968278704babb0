//! One lane of a connection: datagrams, each behind its key, wait in it for one task that sends them.

use super::{
    DatagramError, Key,
    rounds::{Limits, Rounds},
};
use bytes::Bytes;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::Notify;

/// What fits a packet. Of one session a quarter MiB may wait, as in the buffer of a kernel's UDP socket, and bursts of 4 MiB:
/// what the agent reads at once of an interface, and 3 ms at 10 Gbit/s; of all of a connection
/// 16 MiB, shared out, and twice that while their number grows.
const SMALL: Limits = Limits { quantum: 8 << 10, session: 256 << 10, burst: 4 << 20, lane: 16 << 20 };
/// What does not. Sixteen of the largest may wait of one session.
const LARGE: Limits = Limits { quantum: 66 << 10, session: 16 * (66 << 10), burst: 16 * (66 << 10), lane: 16 << 20 };

#[derive(Debug)]
pub(crate) struct Lane {
    state: Mutex<State>,
    /// Told of each datagram that may be the first one.
    work: Notify,
}

#[derive(Debug)]
struct State {
    rounds: Rounds,
    closed: bool,
}

impl Lane {
    pub(crate) fn small() -> Self {
        Self::new(SMALL)
    }

    pub(crate) fn large() -> Self {
        Self::new(LARGE)
    }

    fn new(limits: Limits) -> Self {
        Self { state: Mutex::new(State { rounds: Rounds::new(limits), closed: false }), work: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, key: Key, frame: Bytes) -> Result<(), DatagramError> {
        match self.push_all(key, [frame])? {
            0 => Err(DatagramError::Congested),
            _ => Ok(()),
        }
    }

    /// Takes frames of one session until there is no room, and says how many.
    pub(crate) fn push_all(&self, key: Key, frames: impl IntoIterator<Item = Bytes>) -> Result<usize, DatagramError> {
        let mut state = self.state();
        if state.closed {
            return Err(DatagramError::Closed);
        }
        let pushed = frames.into_iter().map(|frame| state.rounds.push(key, frame, Instant::now));
        let taken = pushed.take_while(Result::is_ok).count();
        drop(state);
        self.work.notify_one();
        Ok(taken)
    }

    /// The next datagram, once there is one. For one task.
    pub(crate) async fn next(&self) -> (Key, Bytes) {
        loop {
            let next = self.state().rounds.pop();
            match next {
                Some(next) => return next,
                None => self.work.notified().await,
            }
        }
    }

    /// Sessions that have something waiting.
    pub(crate) fn sessions(&self) -> usize {
        self.state().rounds.sessions()
    }

    /// The connection has ended: nothing is taken any more, and what waits is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.rounds.clear();
    }
}
