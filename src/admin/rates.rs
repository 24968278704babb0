//! Rates of calls between two looks at an agent: for `ripstop top` and the page. Pure.

use super::LiveSession;
use ripstop_telemetry::Side;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What is looked at of a record: a session that has ended, or never was.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as in `SessionRecord`")]
pub struct Ended {
    pub session: String,
    pub side: Side,
    pub caller: String,
    pub service: Option<String>,
    pub destination: String,
    pub endpoint_host: Option<String>,
    pub verdict: String,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// Sessions of one kind, and what they did since the last look. Rates are per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Open.
    pub sessions: u64,
    /// Payload bytes from the caller to the service.
    pub up: f64,
    /// Payload bytes from the service to the caller.
    pub down: f64,
    /// Sessions that ended.
    pub ended: f64,
    /// Sessions that were denied.
    pub denied: f64,
}

/// How far each open session was at the last look.
#[derive(Debug, Default)]
pub struct Rates {
    before: HashMap<(String, Side), (u64, u64)>,
    /// Those that were open before that and were not then: their records are under way.
    gone: HashMap<(String, Side), (u64, u64)>,
}

impl Rates {
    /// The sums of the time since the last look, `seconds` ago: of the sessions that are open, and of those that have ended
    /// since, each of which `of_live` or `of_ended` says the kind of.
    pub fn look<K: Ord>(
        &mut self,
        live: &[LiveSession],
        ended: &[Ended],
        seconds: f64,
        of_live: impl Fn(&LiveSession) -> K,
        of_ended: impl Fn(&Ended) -> K,
    ) -> BTreeMap<K, Sums> {
        let mut sums: BTreeMap<K, Sums> = BTreeMap::new();
        for one in ended {
            let key = (one.session.clone(), one.side);
            let (up, down) = self.before.remove(&key).or_else(|| self.gone.remove(&key)).unwrap_or_default();
            let (up, down) = (one.bytes_up.saturating_sub(up), one.bytes_down.saturating_sub(down));
            let denied = one.verdict == "deny";
            let sum = sums.entry(of_ended(one)).or_default();
            sum.up += up as f64 / seconds;
            sum.down += down as f64 / seconds;
            *(if denied { &mut sum.denied } else { &mut sum.ended }) += 1.0 / seconds;
        }
        let over: HashSet<_> = ended.iter().map(|one| (one.session.as_str(), one.side)).collect();
        let mut now = HashMap::with_capacity(live.len());
        // One that ends between the two questions of a look is in both answers.
        for one in live.iter().filter(|one| !over.contains(&(one.session.as_str(), one.side))) {
            let (up, down) = self.grown(one);
            let sum = sums.entry(of_live(one)).or_default();
            sum.sessions += 1;
            sum.up += up as f64 / seconds;
            sum.down += down as f64 / seconds;
            now.insert((one.session.clone(), one.side), (one.bytes_up, one.bytes_down));
        }
        self.gone = std::mem::replace(&mut self.before, now);
        sums
    }

    /// By how much it has grown since the last look.
    fn grown(&mut self, one: &LiveSession) -> (u64, u64) {
        let (up, down) = self.before.remove(&(one.session.clone(), one.side)).unwrap_or_default();
        (one.bytes_up.saturating_sub(up), one.bytes_down.saturating_sub(down))
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
            caller_replica: None,
            endpoint_replica: None,
            caller: "shop/web".parse().unwrap(),
            service: "shop/api".parse().unwrap(),
            port: 80,
            peer: "beta".parse().unwrap(),
            bytes_up: up,
            bytes_down: 0,
            waited_s: 0.0,
        }
    }

    fn ended(session: &str, verdict: &str, up: u64) -> Ended {
        Ended {
            session: session.into(),
            side: Side::Caller,
            caller: "shop/web".into(),
            service: Some("shop/api".into()),
            destination: "198.18.0.2".into(),
            endpoint_host: None,
            verdict: verdict.into(),
            bytes_up: up,
            bytes_down: 0,
        }
    }

    fn look(rates: &mut Rates, live: &[LiveSession], ended: &[Ended], seconds: f64) -> Vec<Sums> {
        let (of_live, of_ended) = (|one: &LiveSession| one.caller.to_string(), |one: &Ended| one.caller.clone());
        rates.look(live, ended, seconds, of_live, of_ended).into_values().collect()
    }

    #[test]
    fn every_byte_counts_once_wherever_the_look_falls() {
        let mut rates = Rates::default();
        look(&mut rates, &[live("a", 100), live("b", 0)], &[], 1.0);
        // a went on and ended, b goes on, c came and went between two looks, d was denied.
        let gone = [ended("a", "allow", 300), ended("c", "allow", 50), ended("d", "deny", 0)];
        let rows = look(&mut rates, &[live("b", 10)], &gone, 2.0);
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.up, row.sessions, row.ended, row.denied), ((200.0 + 50.0 + 10.0) / 2.0, 1, 1.0, 0.5));
        assert_eq!(look(&mut rates, &[live("b", 10)], &[], 1.0)[0].up, 0.0);
        // b is closed, and its record comes a look later.
        assert!(look(&mut rates, &[], &[], 1.0).is_empty());
        assert_eq!(look(&mut rates, &[], &[ended("b", "allow", 12)], 1.0)[0].up, 2.0);
        // Of one that ends between the two questions, only the record counts.
        assert_eq!(look(&mut rates, &[live("e", 5)], &[ended("e", "allow", 7)], 1.0)[0].up, 7.0);
    }
}
