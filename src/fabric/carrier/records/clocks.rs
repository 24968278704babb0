//! Hosts whose clock and this one's are so far apart that their records are not believed here, nor this host's there. What
//! they say over a connection needs no clock, so that all goes on; but somebody should set a clock.

use ripstop_config::HostName;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Hosts that are kept: where there are more, it is this host's own clock, and so many show it.
const HOSTS_MAX: usize = 64;
/// How long after the last record that was not believed a host is forgotten: as long as the longest life of one.
const KEPT: Duration = Duration::from_secs(120);
/// How often the log says it of a host for which nothing changes.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// Those hosts. Shared by threads; locked for moments.
#[derive(Debug, Default)]
pub(in crate::fabric) struct Clocks(Mutex<BTreeMap<HostName, Apart>>);

#[derive(Debug)]
struct Apart {
    /// Seconds by which its clock is ahead of this host's; negative where it is behind.
    ahead: f64,
    seen: Instant,
    said: Instant,
}

impl Clocks {
    fn table(&self) -> MutexGuard<'_, BTreeMap<HostName, Apart>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host signed a record at a time of which this host's clock is so many seconds short, or ahead where that is negative.
    pub(super) fn are_apart(&self, host: &HostName, ahead: f64, now: Instant) {
        let mut table = self.table();
        let before = table.get(host).map(|apart| apart.said).filter(|said| now.duration_since(*said) < SAY_AGAIN);
        if before.is_none() && table.len() >= HOSTS_MAX && !table.contains_key(host) {
            return;
        }
        table.insert(host.clone(), Apart { ahead, seen: now, said: before.unwrap_or(now) });
        drop(table);
        if before.is_none() {
            tracing::warn!(
                %host,
                "its clock is about {}: neither believes the other's records, so that where there is no connection nothing is \
                 known of its endpoints; set the clock of {host} or of this host (`chronyc makestep`, `timedatectl`)",
                shown(ahead)
            );
        }
    }

    /// A host's record was of this time.
    pub(super) fn agree(&self, host: &HostName) {
        if self.table().remove(host).is_some() {
            tracing::info!(%host, "its clock and this host's agree again, and its records are believed");
        }
    }

    /// Seconds by which hosts' clocks are ahead of this one's, of those that are too far apart; negative where they are behind.
    pub(in crate::fabric) fn apart(&self, now: Instant) -> BTreeMap<HostName, f64> {
        let mut table = self.table();
        table.retain(|_, apart| now.saturating_duration_since(apart.seen) < KEPT);
        table.iter().map(|(host, apart)| (host.clone(), apart.ahead)).collect()
    }
}

fn shown(ahead: f64) -> String {
    format!("{:.0} s {} this host's", ahead.abs(), if ahead < 0.0 { "behind" } else { "ahead of" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_kept_until_they_agree_or_are_not_heard_of() {
        let (clocks, now) = (Clocks::default(), Instant::now());
        let host = |number: usize| HostName::new(&format!("h{number}")).unwrap();
        clocks.are_apart(&host(1), 62.4, now);
        clocks.are_apart(&host(2), -3_600.0, now);
        clocks.are_apart(&host(2), -3_605.0, now + Duration::from_secs(5));
        assert_eq!(clocks.apart(now + KEPT / 2), [(host(1), 62.4), (host(2), -3_605.0)].into());
        clocks.agree(&host(2));
        assert_eq!(clocks.apart(now), [(host(1), 62.4)].into());
        assert!(clocks.apart(now + KEPT).is_empty());
        (0..1_000).for_each(|number| clocks.are_apart(&host(number), 40.0, now));
        assert_eq!(clocks.apart(now).len(), HOSTS_MAX);
        assert_eq!((shown(61.7), shown(-31.0)), ("62 s ahead of this host's".into(), "31 s behind this host's".into()));
    }
}
