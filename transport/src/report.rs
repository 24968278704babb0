//! Reports: what each host says of itself to all that it is connected with. The last one of a host is what counts.

use crate::{
    code,
    link::Link,
    shared::Shared,
    status::Counters,
    unidirectional::{self, Kind},
};
use bytes::{Bytes, BytesMut};
use ripstop_config::HostName;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time,
};

/// Longest report, in bytes (DESIGN section 12).
pub const REPORT_MAX: usize = 64 << 10;
/// Least time between two reports to one host; of those in between only the last is sent.
const BETWEEN: Duration = Duration::from_millis(100);
/// How long one may take to arrive before a newer one is sent past it.
const SEND_WAIT: Duration = Duration::from_secs(5);
/// Reports of one connection that are taken in a second: twice what [`BETWEEN`] makes a host send, so that the last one of
/// an honest host is never left out.
const TAKEN: u32 = 20;
const PER: Duration = Duration::from_secs(1);
/// Hosts whose report may wait to be taken: all that can be connected.
const HOSTS_MAX: usize = 4_096;

/// What connected hosts say of themselves. One that is not taken in time is replaced by the host's next.
#[derive(Debug)]
pub struct Reports(pub(crate) Arc<Waiting>);

impl Reports {
    /// The next one, with the host that its certificate names; `None` once the transport is closed. For one task; may be
    /// dropped at any time.
    pub async fn next(&mut self) -> Option<(HostName, Bytes)> {
        loop {
            {
                let mut state = self.0.state();
                if let Some(next) = state.latest.pop_first() {
                    return Some(next);
                }
                if state.closed {
                    return None;
                }
            }
            self.0.some.notified().await;
        }
    }
}

/// The latest report of each host, until it is taken.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    state: Mutex<State>,
    some: Notify,
}

#[derive(Debug, Default)]
struct State {
    latest: BTreeMap<HostName, Bytes>,
    closed: bool,
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, host: &HostName, report: Bytes) -> bool {
        let mut state = self.state();
        if state.latest.len() >= HOSTS_MAX && !state.latest.contains_key(host) {
            return false;
        }
        state.latest.insert(host.clone(), report);
        drop(state);
        self.some.notify_one();
        true
    }

    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.some.notify_one();
    }
}

/// How many reports a connection has brought of late.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Option<(Instant, u32)>>);

impl Pace {
    fn admits(&self, now: Instant) -> bool {
        let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = pace.filter(|(since, _)| now.saturating_duration_since(*since) < PER).unwrap_or((now, 0));
        *pace = Some((since, count.saturating_add(1)));
        count < TAKEN
    }
}

/// Takes in a report that arrived whole.
pub(crate) fn take(shared: &Shared, link: &Link, report: Bytes) {
    if !link.reports.admits(Instant::now()) || !shared.reports.put(&link.host, report) {
        Counters::add(&shared.counters.reports_ignored);
    }
}

/// Sends this host's report to one other host, and each that follows, until the connection ends. One at a time, so that an
/// older one never arrives after a newer.
pub(crate) async fn send(link: Arc<Link>, mut own: watch::Receiver<Bytes>) {
    own.mark_changed();
    while own.changed().await.is_ok() {
        let report = own.borrow_and_update().clone();
        if !report.is_empty() {
            match one(&link, report).await {
                Some(true) => {}
                // It is said again until it is known, as nothing else may change for long.
                Some(false) => own.mark_changed(),
                None => return,
            }
        }
        time::sleep(BETWEEN).await;
    }
}

/// Whether it arrived; `None` when the connection has ended.
async fn one(link: &Link, report: Bytes) -> Option<bool> {
    let mut head = BytesMut::with_capacity(1);
    unidirectional::mark(Kind::Report, &mut head);
    let Ok(opened) = time::timeout(SEND_WAIT, link.connection.open_uni()).await else { return Some(false) };
    let mut stream = opened.ok()?;
    let sent = time::timeout(SEND_WAIT, async {
        stream.write_all_chunks(&mut [head.freeze(), report]).await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()
    });
    let arrived = matches!(sent.await, Ok(Some(_)));
    if !arrived {
        // Only dropped, it would be finished, and its beginning taken for the whole.
        let _ = stream.reset(code::CANCELLED.into());
    }
    Some(arrived)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_report_of_a_host_is_the_one_that_counts() {
        let waiting = Arc::new(Waiting::default());
        let mut reports = Reports(Arc::clone(&waiting));
        let host = |name: &str| HostName::new(name).unwrap();
        for (from, text) in [("beta", "1"), ("alpha", "2"), ("beta", "3")] {
            assert!(waiting.put(&host(from), Bytes::from(text)));
        }
        waiting.close();
        assert_eq!(reports.next().await, Some((host("alpha"), Bytes::from("2"))));
        assert_eq!(reports.next().await, Some((host("beta"), Bytes::from("3"))));
        assert_eq!(reports.next().await, None);
    }

    #[test]
    fn a_host_that_reports_without_pause_is_taken_at_its_pace() {
        let (pace, start) = (Pace::default(), Instant::now());
        let taken = (0..5_000).filter(|ms| pace.admits(start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 100, "of 5 000 in five seconds");
    }
}
