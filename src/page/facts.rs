//! Everything that the page says, gathered once for each answer.

use super::{
    asked::Asked,
    pairs::{self, Pair},
    pulse::Look,
    why::Why,
};
use crate::admin::{AgentView, LiveSession, Status};
use ripstop_policy::Policy;
use ripstop_telemetry::{Edges, Filter, SessionRecord};
use std::{cmp::Reverse, sync::Arc};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Open sessions, and those that have ended, that are shown at once: what a person reads.
pub(super) const ROWS_MAX: usize = 40;

/// What the page says.
pub(super) struct Facts {
    pub(super) status: Status,
    pub(super) policy: Arc<Policy>,
    pub(super) edges: Edges,
    /// The calls that are asked for, those that carry the most first.
    pub(super) pairs: Vec<Pair>,
    pub(super) totals: Totals,
    /// The open sessions that are asked for, the newest first, [`ROWS_MAX`] of them.
    pub(super) open: Vec<LiveSession>,
    pub(super) open_left_out: usize,
    /// Those that have ended, the newest first, [`ROWS_MAX`] of them.
    pub(super) ended: Vec<Arc<SessionRecord>>,
    pub(super) ended_left_out: usize,
    /// The session that is looked at.
    pub(super) why: Option<Why>,
    /// What is wrong with what was asked for.
    pub(super) mistake: Option<String>,
    pub(super) now: OffsetDateTime,
}

/// Of all calls of this host, whatever is asked for.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) up: f64,
    pub(super) down: f64,
    pub(super) denied: f64,
}

impl Facts {
    /// Asks the agent. Blocks.
    pub(super) fn gather(view: &dyn AgentView, look: &Look, asked: &Asked) -> Self {
        let (status, policy, recent) = (view.status(), view.policy(), view.records());
        let (edges, now) = (recent.edges(), OffsetDateTime::now_utc());
        let mut totals = Totals::default();
        for sums in look.calls.values() {
            totals.up += sums.up;
            totals.down += sums.down;
            totals.denied += sums.denied;
        }
        let (filter, mistake) = match asked.filter() {
            Ok(filter) => (filter, None),
            Err(mistake) => (Filter::default(), Some(mistake)),
        };
        let mut ended = recent.since(None, |record| filter.fits(record)).records;
        ended.reverse();
        let ended_left_out = ended.len().saturating_sub(ROWS_MAX);
        ended.truncate(ROWS_MAX);
        // An open session is allowed, and has no reason yet.
        let may_be_open = asked.verdict.trim() != "deny" && asked.reason.trim().is_empty();
        let fits = |one: &&LiveSession| may_be_open && asked.fits(&one.caller, &one.service);
        let mut open: Vec<&LiveSession> = look.live.iter().filter(fits).collect();
        open.sort_by_key(|one| Reverse(one.started.as_str()));
        let open_left_out = open.len().saturating_sub(ROWS_MAX);
        let open = open.into_iter().take(ROWS_MAX).cloned().collect();
        let pairs = pairs::of(&policy, &edges, look, &status.host, asked, now);
        let why = Why::find(asked, &status, &policy, &look.live, &recent);
        let gathered = Self {
            status,
            policy,
            edges,
            pairs,
            totals,
            open,
            open_left_out,
            ended,
            ended_left_out,
            why,
            mistake,
            now,
        };
        gathered.without_doubles()
    }

    /// A session may have ended between the two questions.
    fn without_doubles(mut self) -> Self {
        let ended = &self.ended;
        let is_over =
            |one: &LiveSession| ended.iter().any(|record| record.session == one.session && record.side == one.side);
        self.open.retain(|one| !is_over(one));
        self
    }

    /// Seconds from a time of [`Status`] to now; none when it is no time.
    pub(super) fn since(&self, time: &str) -> Option<f64> {
        let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
        Some((self.now - time).as_seconds_f64())
    }
}
