//! Connections toward a workload that had their caller's own port.

use crate::packet::FlowKey;
use rustc_hash::FxHashMap;
use std::time::{Duration, Instant};

/// How long a port is not used again: an endpoint that closes first keeps its side for a minute (TIME-WAIT, RFC 9293
/// section 3.6.1, on Linux 60 s), and the caller, which did not close first, may be at the same port again at once.
const TIME_WAIT: Duration = Duration::from_secs(61);
/// Ports remembered at most; beyond, callers are given other ports.
const LATELY_MAX: usize = 16_384;

/// How often what was used long ago is looked for at most, once that many are remembered: each look is at all of them.
const SWEEP: Duration = Duration::from_secs(1);

/// What was used a short while ago, by when it was taken or last seen in use.
#[derive(Debug, Default)]
pub(super) struct Lately {
    used: FxHashMap<FlowKey, Instant>,
    swept: Option<Instant>,
}

impl Lately {
    /// Takes a caller's own port, if it may be used.
    pub(super) fn take(&mut self, key: FlowKey) -> bool {
        if self.used.len() >= LATELY_MAX && self.swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            self.used.retain(|_, at| at.elapsed() < TIME_WAIT);
            self.swept = Some(Instant::now());
        }
        let lately = &mut self.used;
        let free = lately.len() < LATELY_MAX && lately.get(&key).is_none_or(|at| at.elapsed() >= TIME_WAIT);
        if free {
            lately.insert(key, Instant::now());
        }
        free
    }

    /// A connection has ended: from here on its port rests.
    pub(super) fn ended(&mut self, key: &FlowKey) {
        if let Some(at) = self.used.get_mut(key) {
            *at = Instant::now();
        }
    }

    /// What rests.
    pub(super) fn all(&self) -> Vec<FlowKey> {
        self.used.iter().filter(|(_, at)| at.elapsed() < TIME_WAIT).map(|(key, _)| *key).collect()
    }

    /// Has rest, from now on, what was used through another agent.
    pub(super) fn remember(&mut self, keys: Vec<FlowKey>) {
        let now = Instant::now();
        self.used.extend(keys.into_iter().take(LATELY_MAX).map(|key| (key, now)));
    }

    /// Whether it was used.
    pub(super) fn has(&self, key: &FlowKey) -> bool {
        self.used.get(key).is_some_and(|at| at.elapsed() < TIME_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey { workload: "198.19.0.1:80".parse().unwrap(), fabric: ([198, 19, 0, 2], port).into() }
    }

    #[test]
    fn a_port_rests_after_its_connection() {
        let mut lately = Lately::default();
        assert!(lately.take(key(1)) && !lately.take(key(1)));
        assert!(lately.has(&key(1)) && !lately.has(&key(2)));
        let Some(long_ago) = Instant::now().checked_sub(TIME_WAIT) else { return };
        lately.used.insert(key(1), long_ago);
        assert!(!lately.has(&key(1)) && lately.take(key(1)));
        lately.used.insert(key(1), long_ago);
        lately.ended(&key(1));
        assert!(!lately.take(key(1)));
    }

    #[test]
    fn no_more_are_remembered_than_fit() {
        let mut lately = Lately::default();
        let fits = (0..=u16::MAX).filter(|port| lately.take(key(*port))).count();
        assert_eq!(fits, LATELY_MAX);
    }
}
