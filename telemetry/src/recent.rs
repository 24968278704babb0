//! The newest session records, for whoever asks: `ripstop observe`, and what `ripstop status` says of limits.
//!
//! The writer of records puts each one here before it is written, so that they are to be had also where nobody wants them
//! written (`sessions: off`). Who asks names the number of the first record that it has not seen, and is told how many it
//! has missed.

use super::{Edges, SessionRecord};
use ripstop_config::Reason;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use time::OffsetDateTime;
use tokio::sync::watch;

/// Records that are kept: some 3 MB, and a second of the most sessions that an agent opens.
pub const RECENT_MAX: usize = 4_096;

/// The newest records. Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct Recent {
    kept: Mutex<Kept>,
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Arc<SessionRecord>>,
    /// The number of the next record; the first has 0.
    next: u64,
    tally: Tally,
    edges: Edges,
}

/// What limits and the policy did since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Sessions that were denied and recorded, by reason.
    pub denied: BTreeMap<String, u64>,
    /// Sessions that a rate limit held back, or whose datagrams it dropped.
    pub held_back: u64,
}

/// Records that were asked for.
#[derive(Debug, Default)]
pub struct Page {
    /// The number to ask from next time.
    pub next: u64,
    /// Records that were asked for and are not kept any more.
    pub missed: u64,
    /// Those that fit, oldest first.
    pub records: Vec<Arc<SessionRecord>>,
}

impl Recent {
    /// Keeps a record, in the place of the oldest if there are [`RECENT_MAX`].
    pub fn keep(&self, record: Arc<SessionRecord>) {
        let mut kept = self.kept();
        kept.tally.count(&record);
        kept.edges.count(&record);
        if kept.records.len() == RECENT_MAX {
            kept.records.pop_front();
        }
        kept.records.push_back(record);
        kept.next += 1;
        self.news.send_replace(kept.next);
    }

    /// The records from number `after` on that fit; without one, all that are kept.
    #[must_use]
    pub fn since(&self, after: Option<u64>, fits: impl Fn(&SessionRecord) -> bool) -> Page {
        let kept = self.kept();
        let first = kept.next - kept.records.len() as u64;
        // A number that is not given out yet is one of the agent's former life.
        let after = after.filter(|after| *after <= kept.next).unwrap_or(first);
        let skip = usize::try_from(after.saturating_sub(first)).unwrap_or(usize::MAX);
        let records = kept.records.iter().skip(skip).filter(|record| fits(record)).cloned().collect();
        Page { next: kept.next, missed: first.saturating_sub(after), records }
    }

    /// Resolves when there is a record of this number or a later one.
    pub async fn wait_for(&self, number: u64) {
        // The sender lives as long as this does.
        let _ = self.news.subscribe().wait_for(|next| *next > number).await;
    }

    /// What limits and the policy did so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.kept().tally.clone()
    }

    /// What became of each caller's calls so far.
    #[must_use]
    pub fn edges(&self) -> Edges {
        self.kept().edges.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn count(&mut self, record: &SessionRecord) {
        if record.verdict == "deny" {
            *self.denied.entry(record.reason.to_string()).or_default() += 1;
        }
        if record.throttled_bytes > 0 || record.datagrams_dropped.is_some_and(|dropped| dropped > 0) {
            self.held_back += 1;
        }
    }
}

/// Which records are asked for; what is `None` does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The caller: `TENANT/NAME`, or a name.
    pub from: Option<String>,
    /// The service: `TENANT/NAME`, a name, or the address that was called.
    pub to: Option<String>,
    /// The beginning of a replica's id, the caller's or the endpoint's.
    pub replica: Option<String>,
    /// The tenant of the caller or of the service.
    pub tenant: Option<String>,
    /// `allow` or `deny`.
    pub verdict: Option<String>,
    /// Why it was denied, or why it ended.
    pub reason: Option<Reason>,
    /// Sessions that ended at this time or later.
    pub since: Option<OffsetDateTime>,
}

impl Filter {
    /// Whether a record is asked for.
    #[must_use]
    pub fn fits(&self, record: &SessionRecord) -> bool {
        let SessionRecord { caller, service, destination, verdict, reason, .. } = record;
        let is = |wanted: &Option<String>, names: &[&str]| {
            wanted.as_ref().is_none_or(|wanted| names.contains(&wanted.as_str()))
        };
        let (caller_id, service_id) =
            (caller.to_string(), service.as_ref().map_or_else(String::new, ToString::to_string));
        let service_name = service.as_ref().map_or("", |service| service.name.as_str());
        let service_tenant = service.as_ref().map_or("", |service| service.tenant.as_str());
        is(&self.from, &[&caller_id, caller.name.as_str()])
            && is(&self.to, &[&service_id, service_name, destination])
            && self.replica.as_ref().is_none_or(|begin| is_of_replica(record, begin))
            && is(&self.tenant, &[caller.tenant.as_str(), service_tenant])
            && is(&self.verdict, &[verdict])
            && self.reason.is_none_or(|wanted| wanted == *reason)
            && self.since.is_none_or(|since| record.start + time::Duration::seconds_f64(record.duration_s) >= since)
    }
}

fn is_of_replica(record: &SessionRecord, begin: &str) -> bool {
    let mut replicas = [&record.caller_replica, &record.endpoint_replica].into_iter().flatten();
    replicas.any(|replica| replica.as_str().starts_with(begin))
}

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
