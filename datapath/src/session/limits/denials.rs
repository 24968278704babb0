//! How many denied attempts are recorded.

use governor::{DefaultDirectRateLimiter, Quota};
use ripstop_config::HostName;
use rustc_hash::FxHashMap;
use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
};

/// Denied attempts that are recorded per second, and at once, of one workload or one calling host. A scan is counted in full,
/// but must not fill the disk on which everybody's records go.
const DENIALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const DENIALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(2_000).expect("not zero");

/// Says which denied attempts are recorded, and which only counted, on whichever data threads they are.
#[derive(Debug)]
pub struct DenialLimit(DefaultDirectRateLimiter);

impl Default for DenialLimit {
    fn default() -> Self {
        let quota = Quota::per_second(DENIALS_PER_SECOND).allow_burst(DENIALS_AT_ONCE);
        Self(DefaultDirectRateLimiter::direct(quota))
    }
}

impl DenialLimit {
    /// One more was denied; whether it is recorded.
    pub fn may_record(&self) -> bool {
        self.0.check().is_ok()
    }
}

/// The same of each calling host; only hosts of the graph may connect, so they are few. Asked once for each denied attempt.
#[derive(Debug, Default)]
pub struct HostDenials(Mutex<FxHashMap<HostName, DenialLimit>>);

impl HostDenials {
    /// One more was denied; whether it is recorded.
    pub fn may_record(&self, speaker: &HostName) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = known.get(speaker) {
            return limit.may_record();
        }
        known.entry(speaker.clone()).or_default().may_record()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
        time::Instant,
    };

    #[test]
    fn threads_record_no_more_denials_than_one_would() {
        let (denials, hosts) = (HostDenials::default(), ["a", "b"].map(|name| name.parse().unwrap()));
        let recorded = [AtomicU32::new(0), AtomicU32::new(0)];
        let start = Instant::now();
        let body = || {
            for (host, recorded) in hosts.iter().zip(&recorded) {
                for _ in 0..2_000 {
                    recorded.fetch_add(denials.may_record(host).into(), Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(body))));
        let most = 2_000.0 + 200.0 * start.elapsed().as_secs_f64();
        for recorded in recorded {
            let recorded = recorded.into_inner();
            assert!(recorded >= 2_000 && f64::from(recorded) <= most + 1.0, "{recorded}, of at most {most}");
        }
    }
}
