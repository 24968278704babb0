//! From which host to get a newer policy. Pure: what other hosts say is handed in, with the time.
//!
//! What a host says of itself costs at most a question to it. One that does not have what it said rests for a while,
//! longer each time, and meanwhile the others are asked.

use ripstop_config::HostName;
use ripstop_policy::BundleId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Bundles that are under way at once: what they take of memory, 16 MiB each at worst.
pub(super) const FETCHES_MAX: usize = 4;
/// How long one host is waited for before another one is asked for the same.
const ALONE: Duration = Duration::from_secs(1);
/// The first rest of a host that did not have what it said.
const REST_MIN: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// What is being got from which host, and which hosts rest.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    running: BTreeMap<HostName, (BundleId, Instant)>,
    resting: BTreeMap<HostName, Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    next: Duration,
}

impl Fetches {
    /// The host to ask now, which is then being asked. `is_newer` says which policies this host would take.
    pub(super) fn next(
        &mut self,
        heard: &BTreeMap<HostName, BundleId>,
        is_newer: impl Fn(BundleId) -> bool,
        now: Instant,
    ) -> Option<HostName> {
        if self.running.len() >= FETCHES_MAX {
            return None;
        }
        let may_be_asked = |host: &HostName| !self.running.contains_key(host) && !self.rests(host, now);
        let newer = heard.iter().filter(|(host, id)| is_newer(**id) && may_be_asked(host));
        let (host, id) = newer.max_by_key(|(_, id)| **id)?;
        let waited_for =
            self.running.values().any(|(of, since)| of >= id && now.saturating_duration_since(*since) < ALONE);
        if waited_for {
            return None;
        }
        self.running.insert(host.clone(), (*id, now));
        Some(host.clone())
    }

    /// A host was asked, and had what it said, or not.
    pub(super) fn finished(&mut self, host: &HostName, had_it: bool, now: Instant) {
        self.running.remove(host);
        if had_it {
            self.resting.remove(host);
            return;
        }
        let length = self.resting.get(host).map_or(REST_MIN, |rest| rest.next);
        let rest = Rest { until: now + length, next: (length * 2).min(REST_MAX) };
        self.resting.insert(host.clone(), rest);
    }

    /// Forgets hosts that are gone, and the failures of those that have rested long since.
    pub(super) fn keep(&mut self, is_there: impl Fn(&HostName) -> bool, now: Instant) {
        self.resting.retain(|host, rest| is_there(host) && now < rest.until + REST_MAX);
    }

    fn rests(&self, host: &HostName, now: Instant) -> bool {
        self.resting.get(host).is_some_and(|rest| now < rest.until)
    }

    /// Hosts that rest.
    pub(super) fn resting(&self, now: Instant) -> BTreeSet<HostName> {
        self.resting.keys().filter(|host| self.rests(host, now)).cloned().collect()
    }

    /// Whether anything is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn id(counter: u64) -> BundleId {
        BundleId { version: ripstop_config::PolicyVersion { epoch: 1, counter }, digest: [1; 8] }
    }

    fn heard(said: &[(&str, u64)]) -> BTreeMap<HostName, BundleId> {
        said.iter().map(|(name, counter)| (host(name), id(*counter))).collect()
    }

    #[test]
    fn the_newest_is_got_from_one_host_and_from_another_when_that_is_slow() {
        let (mut fetches, start) = (Fetches::default(), Instant::now());
        let said = heard(&[("a", 2), ("b", 3), ("c", 3), ("d", 1)]);
        let mut next = |ms| fetches.next(&said, |id| id > self::id(1), start + Duration::from_millis(ms));
        assert_eq!(next(0), Some(host("c")));
        assert_eq!(next(500), None, "it is on its way");
        assert_eq!(next(1_000), Some(host("b")));
        assert_eq!(next(2_000), Some(host("a")), "better than nothing");
        assert_eq!(next(3_000), None, "the last one has nothing newer");
    }

    #[test]
    fn what_comes_out_newer_meanwhile_is_got_at_once() {
        let (mut fetches, start) = (Fetches::default(), Instant::now());
        assert_eq!(fetches.next(&heard(&[("a", 2)]), |_| true, start), Some(host("a")));
        assert_eq!(fetches.next(&heard(&[("a", 2), ("b", 3)]), |_| true, start), Some(host("b")));
    }

    #[test]
    fn a_liar_rests_longer_each_time_and_does_not_keep_the_truth_away() {
        let (mut fetches, mut now) = (Fetches::default(), Instant::now());
        let said = heard(&[("liar", u64::MAX), ("true", 2)]);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let began = now;
            while fetches.next(&heard(&[("liar", u64::MAX)]), |_| true, now).is_none() {
                now += Duration::from_millis(100);
            }
            waits.push((now - began).as_secs());
            fetches.finished(&host("liar"), false, now);
            assert_eq!(fetches.next(&said, |_| true, now), Some(host("true")));
            fetches.finished(&host("true"), true, now);
            assert_eq!(fetches.resting(now), [host("liar")].into());
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        fetches.finished(&host("liar"), true, now);
        assert!(fetches.resting(now).is_empty() && fetches.is_idle());
    }

    proptest! {
        #[test]
        fn never_more_than_allowed_and_never_one_that_is_not_newer(
            steps in prop::collection::vec((0..4_u8, 0..8_u8, 0..6_u64, 0..3_000_u64), 0..200),
        ) {
            let (mut fetches, mut now) = (Fetches::default(), Instant::now());
            let mut said: BTreeMap<HostName, BundleId> = BTreeMap::new();
            let mut running: BTreeSet<HostName> = BTreeSet::new();
            for (what, who, counter, ms) in steps {
                now += Duration::from_millis(ms);
                let who = host(&format!("h{who}"));
                match what {
                    0 => drop(said.insert(who, id(counter))),
                    1 | 2 => {
                        if let Some(asked) = fetches.next(&said, |id| id > self::id(2), now) {
                            prop_assert!(said[&asked] > id(2));
                            prop_assert!(running.insert(asked), "nobody is asked twice at once");
                        }
                    }
                    _ => if running.remove(&who) { fetches.finished(&who, counter % 2 == 0, now) },
                }
                prop_assert!(running.len() <= FETCHES_MAX);
                prop_assert_eq!(running.is_empty(), fetches.is_idle());
            }
        }
    }
}
