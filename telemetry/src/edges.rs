//! What became of the calls of each caller to each service since the agent started, from session records.

use super::SessionRecord;
use ripstop_config::{HostName, Reason, ServiceId, WorkloadId};
use std::collections::HashMap;
use time::OffsetDateTime;

/// Pairs of a caller and a service that are counted: some 5 MB, and more than one host has to do with. Sessions of others
/// are in the records.
const PAIRS_MAX: usize = 16_384;
/// Pairs of those that were denied from the first: what is scanned leaves the places to what is allowed.
const DENIED_MAX: usize = 4_096;
/// Rules and endpoints' hosts of a pair that are told apart; the one that was used longest ago gives its place.
const EACH_MAX: usize = 16;

/// What became of the sessions from one caller to one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EdgeTally {
    /// Sessions that were allowed and have ended.
    pub allowed: u64,
    /// Sessions that were denied and recorded.
    pub denied: u64,
    /// Payload bytes of both directions.
    pub bytes: u64,
    /// When the last of them ended.
    pub last: Option<OffsetDateTime>,
    /// When the last one ended that a limit had denied or held back.
    pub limited: Option<OffsetDateTime>,
    /// Allowed ones by their rule, `file:line`, the latest last.
    pub rules: Vec<(String, u64)>,
    /// Allowed ones by the host of their endpoint, the latest last.
    pub hosts: Vec<(HostName, u64)>,
}

impl EdgeTally {
    /// How many a rule has allowed.
    #[must_use]
    pub fn by_rule(&self, rule: &str) -> u64 {
        self.rules.iter().find(|(known, _)| known == rule).map_or(0, |(_, count)| *count)
    }

    fn count(&mut self, record: &SessionRecord) {
        let ended = record.start + time::Duration::seconds_f64(record.duration_s);
        self.last = self.last.max(Some(ended));
        self.bytes = self.bytes.saturating_add(record.bytes_up).saturating_add(record.bytes_down);
        if was_limited(record) {
            self.limited = self.limited.max(Some(ended));
        }
        if record.verdict == "deny" {
            self.denied += 1;
            return;
        }
        self.allowed += 1;
        if let Some(rule) = &record.rule {
            count_in(&mut self.rules, rule);
        }
        if let Some(host) = &record.endpoint_host {
            count_in(&mut self.hosts, host);
        }
    }
}

/// Whether a limit denied a session or held it back.
#[must_use]
pub fn was_limited(record: &SessionRecord) -> bool {
    let dropped = record.datagrams_dropped.is_some_and(|dropped| dropped > 0);
    record.throttled_bytes > 0 || dropped || [Reason::OpenRate, Reason::Sessions].contains(&record.reason)
}

fn count_in<T: Clone + PartialEq>(known: &mut Vec<(T, u64)>, one: &T) {
    let count = match known.iter().position(|(name, _)| name == one) {
        // As a rule it is the last one already.
        Some(at) if at + 1 == known.len() => return known[at].1 += 1,
        Some(at) => known.remove(at).1,
        None if known.len() == EACH_MAX => {
            known.remove(0);
            0
        }
        None => 0,
    };
    known.push((one.clone(), count + 1));
}

/// The tallies of all pairs.
#[derive(Debug, Clone, Default)]
pub struct Edges {
    pairs: HashMap<(WorkloadId, ServiceId), EdgeTally>,
    denied: usize,
}

impl Edges {
    /// The tally of a pair.
    #[must_use]
    pub fn of(&self, caller: &WorkloadId, service: &ServiceId) -> Option<&EdgeTally> {
        self.pairs.get(&(caller.clone(), service.clone()))
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&(WorkloadId, ServiceId), &EdgeTally)> {
        self.pairs.iter()
    }

    pub(super) fn count(&mut self, record: &SessionRecord) {
        let Some(service) = &record.service else { return };
        // The names are shared, so that a copy is no copy of their text.
        let pair = (record.caller.clone(), service.clone());
        if let Some(tally) = self.pairs.get_mut(&pair) {
            return tally.count(record);
        }
        let denied = record.verdict == "deny";
        if self.pairs.len() >= PAIRS_MAX || (denied && self.denied >= DENIED_MAX) {
            return;
        }
        self.denied += usize::from(denied);
        self.pairs.entry(pair).or_default().count(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::record;

    #[test]
    fn each_record_counts_for_its_pair_its_rule_and_its_endpoint() {
        let mut edges = Edges::default();
        let mut one = record(7);
        one.rule = Some("shop.yaml:14".into());
        one.endpoint_host = Some("beta".parse().unwrap());
        edges.count(&one);
        edges.count(&one);
        edges.count(&SessionRecord { verdict: "deny", reason: Reason::OpenRate, ..one.clone() });
        edges.count(&SessionRecord { service: None, ..one.clone() });
        let tally = edges.of(&one.caller, one.service.as_ref().unwrap()).unwrap();
        assert_eq!((tally.allowed, tally.denied, tally.by_rule("shop.yaml:14"), tally.by_rule("x")), (2, 1, 2, 0));
        assert_eq!(tally.hosts, [("beta".parse().unwrap(), 2)]);
        assert!(tally.limited.is_some() && tally.limited == tally.last);
        assert_eq!(edges.iter().count(), 1);
    }

    #[test]
    fn what_is_scanned_leaves_places_to_what_is_allowed() {
        let mut edges = Edges::default();
        let of = |number: usize, verdict| SessionRecord {
            service: Some(format!("t/s{number}").parse().unwrap()),
            verdict,
            ..record(0)
        };
        (0..DENIED_MAX + 10).for_each(|number| edges.count(&of(number, "deny")));
        assert_eq!(edges.iter().count(), DENIED_MAX);
        edges.count(&of(PAIRS_MAX, "allow"));
        assert_eq!(edges.iter().count(), DENIED_MAX + 1);
        (0..PAIRS_MAX).for_each(|number| edges.count(&of(2 * PAIRS_MAX + number, "allow")));
        assert_eq!(edges.iter().count(), PAIRS_MAX);
    }

    #[test]
    fn the_rule_of_long_ago_gives_its_place() {
        let mut rules = Vec::new();
        (0..EACH_MAX).for_each(|rule| count_in(&mut rules, &rule));
        count_in(&mut rules, &0);
        count_in(&mut rules, &99);
        assert_eq!(rules.len(), EACH_MAX);
        assert!(rules.contains(&(0, 2)) && rules.contains(&(99, 1)) && rules.iter().all(|(rule, _)| *rule != 1));
    }
}
