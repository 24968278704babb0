//! The rates: what sessions have carried between two looks at them.
//!
//! 1. Who asks for the page within [`FRESH`] of a look is shown that one, so that many who watch cost as much as one.
//! 2. Else the agent is looked at again. What happened since the look before makes the rates.
//! 3. When that was long ago, or never, there are two looks with [`FIRST`] between them.

use crate::admin::{
    AgentView, LiveSession,
    rates::{Ended, Rates, Sums},
};
use ripstop_config::HostName;
use ripstop_telemetry::{SessionRecord, Side};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// For how long a look is shown again: half of what the script waits between two questions.
const FRESH: Duration = Duration::from_secs(1);
/// After how long a look says nothing of now.
const STALE: Duration = Duration::from_secs(15);
/// The pause between two looks where there was none before: short enough not to be noticed.
const FIRST: Duration = Duration::from_millis(400);

/// Caller, service (or the address that was called) and the endpoint's host, where one is known.
pub(super) type Call = (String, String, Option<String>);

/// What a look has shown.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The open sessions, as many as the agent lists.
    pub(super) live: Vec<LiveSession>,
    /// What each kind of call did since the look before.
    pub(super) calls: BTreeMap<Call, Sums>,
}

#[derive(Default)]
struct Before {
    rates: Rates,
    /// The number of the next record.
    next: u64,
    at: Option<Instant>,
    look: Arc<Look>,
}

/// The looks.
#[derive(Default)]
pub(super) struct Pulse(Mutex<Before>);

impl Pulse {
    /// The newest look.
    pub(super) async fn look(&self, view: &Arc<dyn AgentView>) -> Arc<Look> {
        let mut before = self.0.lock().await;
        if before.at.is_some_and(|at| at.elapsed() < FRESH) {
            return Arc::clone(&before.look);
        }
        if before.at.is_none_or(|at| at.elapsed() > STALE) {
            *before = Before { next: u64::MAX, ..Before::default() };
            before.again(view).await;
            tokio::time::sleep(FIRST).await;
        }
        before.again(view).await;
        Arc::clone(&before.look)
    }
}

impl Before {
    async fn again(&mut self, view: &Arc<dyn AgentView>) {
        let (asked, after) = (Arc::clone(view), self.next);
        // The data thread is waited for, and a thousand sessions take a moment.
        let look = move || {
            let live = asked.sessions();
            let host = asked.status().host;
            // Behind the sessions, so that what ends in between is in one of them at least.
            (live, host, asked.records().since(Some(after).filter(|after| *after != u64::MAX), |_| true))
        };
        let Ok((live, host, page)) = tokio::task::spawn_blocking(look).await else { return };
        let first = self.next == u64::MAX;
        let ended: Vec<Ended> = page.records.iter().filter(|_| !first).map(|record| ended(record)).collect();
        // A look in no time at all would make every rate infinite.
        let since = self.at.map_or(FIRST, |at| at.elapsed()).max(Duration::from_millis(1));
        let of_live = |one: &LiveSession| (one.caller.to_string(), one.service.to_string(), Some(serves(one, &host)));
        let of_ended = |one: &Ended| {
            (one.caller.clone(), one.service.clone().unwrap_or(one.destination.clone()), one.endpoint_host.clone())
        };
        let calls = self.rates.look(&live, &ended, since.as_secs_f64(), of_live, of_ended);
        self.at = Some(Instant::now());
        self.next = page.next;
        self.look = Arc::new(Look { live, calls });
    }
}

/// The host of the endpoint.
fn serves(session: &LiveSession, host: &HostName) -> String {
    match session.side {
        Side::Caller => session.peer.to_string(),
        Side::Server => host.to_string(),
    }
}

fn ended(record: &SessionRecord) -> Ended {
    Ended {
        session: record.session.clone(),
        side: record.side,
        caller: record.caller.to_string(),
        service: record.service.as_ref().map(ToString::to_string),
        destination: record.destination.clone(),
        endpoint_host: record.endpoint_host.as_ref().map(ToString::to_string),
        verdict: record.verdict.into(),
        bytes_up: record.bytes_up,
        bytes_down: record.bytes_down,
    }
}
