//! Rates of calls between two looks at an agent. Pure.

use crate::{admin::LiveSession, cli::args::Sort, telemetry::Side};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

/// What is looked at of a record: a session that has ended, or never was.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ended {
    pub(super) session: String,
    pub(super) side: Side,
    pub(super) caller: String,
    pub(super) service: Option<String>,
    pub(super) destination: String,
    pub(super) verdict: String,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

/// All sessions from a caller to a service at one end. Rates are per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) caller: String,
    pub(super) service: String,
    /// `caller` or `server`: which end this host is.
    pub(super) side: &'static str,
    pub(super) sessions: u64,
    /// Payload bytes from the caller to the service.
    pub(super) up: f64,
    /// Payload bytes from the service to the caller.
    pub(super) down: f64,
    /// Sessions that ended.
    pub(super) ended: f64,
    /// Sessions that were denied.
    pub(super) denied: f64,
}

/// How far each open session was at the last look.
#[derive(Debug, Default)]
pub(super) struct Rates {
    before: HashMap<(String, Side), (u64, u64)>,
    /// Those that were open before that and were not then: their records are under way.
    gone: HashMap<(String, Side), (u64, u64)>,
}

impl Rates {
    /// The rows of the time since the last look, `seconds` ago: of the sessions that are open, and of those that have ended
    /// since.
    pub(super) fn look(&mut self, live: &[LiveSession], ended: &[Ended], seconds: f64) -> Vec<Row> {
        let mut rows: BTreeMap<(String, String, &'static str), Row> = BTreeMap::new();
        let mut row = |caller: &str, service: &str, side: Side, change: &dyn Fn(&mut Row)| {
            let key = (caller.to_owned(), service.to_owned(), side.as_str());
            let new = || Row { caller: caller.into(), service: service.into(), side: side.as_str(), ..Row::default() };
            change(rows.entry(key).or_insert_with(new));
        };
        for one in ended {
            let key = (one.session.clone(), one.side);
            let (up, down) = self.before.remove(&key).or_else(|| self.gone.remove(&key)).unwrap_or_default();
            let (up, down) = (one.bytes_up.saturating_sub(up), one.bytes_down.saturating_sub(down));
            let service = one.service.as_deref().unwrap_or(&one.destination);
            let denied = one.verdict == "deny";
            row(&one.caller, service, one.side, &|row| {
                row.up += up as f64 / seconds;
                row.down += down as f64 / seconds;
                *(if denied { &mut row.denied } else { &mut row.ended }) += 1.0 / seconds;
            });
        }
        let over: HashSet<_> = ended.iter().map(|one| (one.session.as_str(), one.side)).collect();
        let mut now = HashMap::with_capacity(live.len());
        // One that ends between the two questions of a look is in both answers.
        for one in live.iter().filter(|one| !over.contains(&(one.session.as_str(), one.side))) {
            let (up, down) = self.grown(one);
            row(&one.caller.to_string(), &one.service.to_string(), one.side, &|row| {
                row.sessions += 1;
                row.up += up as f64 / seconds;
                row.down += down as f64 / seconds;
            });
            now.insert((one.session.clone(), one.side), (one.bytes_up, one.bytes_down));
        }
        self.gone = std::mem::replace(&mut self.before, now);
        rows.into_values().collect()
    }

    /// By how much it has grown since the last look.
    fn grown(&mut self, one: &LiveSession) -> (u64, u64) {
        let (up, down) = self.before.remove(&(one.session.clone(), one.side)).unwrap_or_default();
        (one.bytes_up.saturating_sub(up), one.bytes_down.saturating_sub(down))
    }
}

/// Puts the rows in order, the greatest first.
pub(super) fn sort(rows: &mut [Row], by: Sort) {
    let millis = |rate: f64| Reverse((rate * 1e3) as u64);
    match by {
        Sort::Rate => rows.sort_by_key(|row| millis(row.up + row.down)),
        Sort::Sessions => rows.sort_by_key(|row| Reverse(row.sessions)),
        Sort::Denied => rows.sort_by_key(|row| millis(row.denied)),
        Sort::Name => rows.sort_by(|one, other| (&one.caller, &one.service).cmp(&(&other.caller, &other.service))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(session: &str, up: u64) -> LiveSession {
        LiveSession {
            session: session.into(),
            side: Side::Caller,
            started: String::new(),
            caller: "shop/web".parse().unwrap(),
            service: "shop/api".parse().unwrap(),
            port: 80,
            peer: "beta".parse().unwrap(),
            bytes_up: up,
            bytes_down: 0,
        }
    }

    fn ended(session: &str, verdict: &str, up: u64) -> Ended {
        Ended {
            session: session.into(),
            side: Side::Caller,
            caller: "shop/web".into(),
            service: Some("shop/api".into()),
            destination: "198.18.0.2".into(),
            verdict: verdict.into(),
            bytes_up: up,
            bytes_down: 0,
        }
    }

    #[test]
    fn every_byte_counts_once_wherever_the_look_falls() {
        let mut rates = Rates::default();
        rates.look(&[live("a", 100), live("b", 0)], &[], 1.0);
        // a went on and ended, b goes on, c came and went between two looks, d was denied.
        let gone = [ended("a", "allow", 300), ended("c", "allow", 50), ended("d", "deny", 0)];
        let rows = rates.look(&[live("b", 10)], &gone, 2.0);
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.up, row.sessions, row.ended, row.denied), ((200.0 + 50.0 + 10.0) / 2.0, 1, 1.0, 0.5));
        assert_eq!(rates.look(&[live("b", 10)], &[], 1.0)[0].up, 0.0);
        // b is closed, and its record comes a look later.
        assert!(rates.look(&[], &[], 1.0).is_empty());
        assert_eq!(rates.look(&[], &[ended("b", "allow", 12)], 1.0)[0].up, 2.0);
        // Of one that ends between the two questions, only the record counts.
        assert_eq!(rates.look(&[live("e", 5)], &[ended("e", "allow", 7)], 1.0)[0].up, 7.0);
    }

    #[test]
    fn the_greatest_is_first() {
        let row =
            |caller: &str, up, sessions, denied| Row { caller: caller.into(), up, sessions, denied, ..Row::default() };
        let mut rows = [row("b", 1.0, 9, 0.0), row("a", 2.0, 1, 0.0), row("c", 0.0, 5, 1.0)];
        for (by, first) in [(Sort::Rate, "a"), (Sort::Sessions, "b"), (Sort::Denied, "c"), (Sort::Name, "a")] {
            sort(&mut rows, by);
            assert_eq!(rows[0].caller, first, "{by:?}");
        }
    }
}
