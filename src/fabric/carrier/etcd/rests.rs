//! Which policy of those listed in etcd to take next. Pure.
//!
//! What is there may be forged, or half of it missing: such a one rests for a while, longer each time, and those
//! below it are taken meanwhile.

use ripstop_policy::BundleId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The first rest of a policy that could not be taken.
const REST_MIN: Duration = Duration::from_secs(1);
/// The longest: to get 16 MiB so often for nothing is bearable.
const REST_MAX: Duration = Duration::from_secs(120);

/// A policy that is listed, with how many bytes it is said to have.
pub(super) type Listed = (BundleId, usize);

/// What could not be taken.
#[derive(Debug, Default)]
pub(super) struct Rests(BTreeMap<BundleId, Rest>);

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    next: Duration,
}

impl Rests {
    /// The one to take: the newest of those that this host would take and that do not rest.
    pub(super) fn next(&self, listed: &[Listed], is_newer: impl Fn(BundleId) -> bool, now: Instant) -> Option<Listed> {
        listed.iter().copied().filter(|(id, _)| is_newer(*id) && !self.rests(*id, now)).max()
    }

    /// One could not be taken; whether that is news.
    pub(super) fn failed(&mut self, id: BundleId, now: Instant) -> bool {
        let before = self.0.get(&id).copied();
        let length = before.map_or(REST_MIN, |rest| rest.next);
        self.0.insert(id, Rest { until: now + length, next: (length * 2).min(REST_MAX) });
        before.is_none()
    }

    /// Forgets what is not listed any more.
    pub(super) fn keep(&mut self, listed: &[Listed]) {
        self.0.retain(|id, _| listed.iter().any(|(listed, _)| listed == id));
    }

    /// Whether one could not be taken when that was last tried.
    pub(super) fn has(&self, id: BundleId) -> bool {
        self.0.contains_key(&id)
    }

    /// When the next rest is over.
    pub(super) fn over(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|rest| rest.until).filter(|until| *until > now).min()
    }

    fn rests(&self, id: BundleId, now: Instant) -> bool {
        self.0.get(&id).is_some_and(|rest| now < rest.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(counter: u64) -> BundleId {
        BundleId { version: ripstop_config::PolicyVersion { epoch: 1, counter }, digest: [1; 8] }
    }

    #[test]
    fn what_is_forged_does_not_keep_the_truth_away() {
        let (mut rests, start) = (Rests::default(), Instant::now());
        let listed = [(id(9), 10), (id(3), 10), (id(2), 10)];
        let newer = |id: BundleId| id > self::id(1);
        assert_eq!(rests.next(&listed, newer, start), Some((id(9), 10)));
        assert!(rests.failed(id(9), start));
        assert_eq!(rests.next(&listed, newer, start), Some((id(3), 10)));
        assert_eq!(rests.next(&listed, |id| id > self::id(3), start), None);
        assert_eq!(rests.over(start), Some(start + REST_MIN));
        assert_eq!(rests.next(&listed, newer, start + REST_MIN), Some((id(9), 10)), "it may be whole by now");
        rests.keep(&[]);
        assert_eq!(rests.over(start), None);
    }

    #[test]
    fn it_is_tried_less_and_less() {
        let (mut rests, mut now) = (Rests::default(), Instant::now());
        let (mut waits, start) = (Vec::new(), now);
        for _ in 0..10 {
            let news = rests.failed(id(9), now);
            assert_eq!(news, now == start);
            let over = rests.over(now).unwrap();
            waits.push((over - now).as_secs());
            now = over;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120, 120]);
    }
}
