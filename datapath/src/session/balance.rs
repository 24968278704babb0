//! Which endpoint next: of two random ones the one that is quicker and has less to do, of the caller's zone first.
//!
//! 1. What came of calling an endpoint is kept: how long it took to connect and to answer, how many sessions it has, and
//!    whether it failed lately. Its host says how many it has of all callers; where it is not heard, its record ([`super::claims`]).
//! 2. [`Balancer::order`] gives all endpoints that may take a session, the best first; see [`super::order`].
//! 3. An endpoint that failed is left alone for a while, which grows with each failure; but at most half of a service's.
//! 4. All data threads of the host share it. There is a lock around the table, and one around what is known of each endpoint: a
//!    session takes them a few times, bytes never, and neither is taken under the other.

use super::{
    claims::{Claim, Usual},
    context::random,
    order::{self, Ranked},
    pump::Way,
};
use ripstop_config::{HostName, ServiceId};
use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Weight of the latest measurement in the moving averages. A peak is not taken whole: one late wake-up on a busy host
/// would leave an endpoint out.
const EWMA_WEIGHT: f64 = 0.3;
/// Seconds in which a measurement falls to 37 % of what it was while nobody measures again, so that an endpoint that was
/// slow is tried again.
const FORGET: f64 = 2.0;
/// Seconds to connect and answer below which endpoints are equal, and what one that was never tried is taken to need:
/// within a site, such differences are noise.
const FLOOR: f64 = 0.005;
/// A session that ended without an answer counts for as long as was waited for it, up to this: in some only the caller
/// speaks, for hours.
const UNANSWERED_MAX: Duration = Duration::from_secs(1);
/// How long an endpoint that failed is left alone while others are there; doubles with each failure.
const EJECT_FIRST: Duration = Duration::from_millis(500);
/// Longest time an endpoint is left alone.
const EJECT_MOST: Duration = Duration::from_secs(10);
/// Endpoints that are remembered; the graph bounds them in practice, and this bounds what old graphs leave behind.
const ENDPOINTS_MAX: usize = 65_536;

/// What is known of the endpoints of all services, by what came of calling them.
pub struct Balancer {
    endpoints: Mutex<Table>,
    seed: AtomicU64,
}

type Table = HashMap<(ServiceId, HostName), Arc<Endpoint>>;

impl Default for Balancer {
    fn default() -> Self {
        Self { endpoints: Mutex::default(), seed: AtomicU64::new(random()) }
    }
}

/// An endpoint that may take a session.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its host.
    pub host: &'a HostName,
    /// It is in the caller's zone.
    pub near: bool,
    /// Its share, among those of the others.
    pub weight: u32,
    /// Its host can be reached.
    pub up: bool,
    /// Sessions that it has of all callers, where that is known exactly: on this host.
    pub sessions: Option<u32>,
    /// What its host's record says of them, where the host itself is not heard.
    pub claim: Option<Claim>,
}

/// What the balancer knows of one endpoint, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Sessions that this host's workloads have there.
    pub sessions: u32,
    /// Time to connect and to the first answer; zero while nobody measured it lately.
    pub latency: Duration,
    /// It failed lately and is left alone.
    pub ejected: bool,
}

/// An endpoint of one service on one host.
#[derive(Default)]
struct Endpoint(Mutex<EndpointState>);

impl Endpoint {
    fn state(&self) -> MutexGuard<'_, EndpointState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of it.
#[derive(Clone, Copy, Default)]
struct EndpointState {
    connect: Average,
    response: Average,
    /// Sessions of this host's workloads.
    sessions: u32,
    /// Sessions that its host last reported, of all callers, and how many of this host's there were at that time.
    reported: (u32, u32),
    failures: u32,
    ejected: Option<Instant>,
}

/// A moving average of seconds that is forgotten while nothing is measured.
#[derive(Clone, Copy, Default)]
struct Average(Option<(f64, Instant)>);

impl Average {
    fn at(&self, now: Instant) -> f64 {
        let Some((value, at)) = self.0 else { return 0.0 };
        value * (-now.saturating_duration_since(at).as_secs_f64() / FORGET).exp()
    }

    fn add(&mut self, latest: Duration, now: Instant) {
        let before = self.at(now);
        self.0 = Some((before + (latest.as_secs_f64() - before) * EWMA_WEIGHT, now));
    }
}

/// A session that counts for its endpoint until it is dropped, and tells how soon the endpoint answered. It is of one thread, and
/// takes a lock only at its beginning, at the answer and at its end.
pub struct Using {
    endpoint: Arc<Endpoint>,
    asked: Cell<Option<Instant>>,
    answered: Cell<bool>,
}

impl Using {
    /// The endpoint accepted the session after `took`; its host reports `load` sessions.
    pub fn accepted(&self, took: Duration, load: u16) {
        let mut state = self.endpoint.state();
        state.connect.add(took, Instant::now());
        state.failures = 0;
        state.ejected = None;
        state.reported = (load.into(), state.sessions);
    }

    /// Bytes of the session went one way. The first bytes of the endpoint after the first of the caller are its answer; an
    /// endpoint that speaks first is not measured.
    pub fn moved(&self, way: Way) {
        if self.answered.get() {
            return;
        }
        match way {
            Way::Up if self.asked.get().is_none() => self.asked.set(Some(Instant::now())),
            Way::Up => {}
            Way::Down => {
                self.answered.set(true);
                let now = Instant::now();
                if let Some(asked) = self.asked.get() {
                    self.endpoint.state().response.add(now - asked, now);
                }
            }
        }
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        let mut state = self.endpoint.state();
        state.sessions = state.sessions.saturating_sub(1);
        if let (false, Some(asked)) = (self.answered.get(), self.asked.get()) {
            let now = Instant::now();
            let waited = (now - asked).min(UNANSWERED_MAX);
            if waited.as_secs_f64() > state.response.at(now) {
                state.response.add(waited, now);
            }
        }
    }
}

impl Balancer {
    /// The endpoints in the order in which to try them. With `sticky`, one caller's sessions go to the same endpoint.
    #[must_use]
    pub fn order(
        &self,
        service: &ServiceId,
        candidates: &[Candidate<'_>],
        sticky: Option<order::Sticky<'_>>,
        now: Instant,
    ) -> Vec<HostName> {
        let states = self.states(service, candidates);
        let (ejected, usual) = (ejected(&states, now), Usual::of(candidates));
        let ranked = candidates.iter().zip(&states).zip(ejected).map(|((candidate, state), ejected)| Ranked {
            candidate: *candidate,
            ejected,
            latency: state.latency(now),
            sessions: candidate.sessions.unwrap_or_else(|| state.load(usual.believed(candidate))),
        });
        order::order(ranked.collect(), sticky, &mut || self.random())
    }

    /// An endpoint is tried: the session counts for it from here on, so that those which come at once do not all take the
    /// same.
    #[must_use = "the session counts while this is kept"]
    pub fn trying(&self, service: &ServiceId, host: &HostName) -> Using {
        let endpoint = self.endpoint(service, host);
        endpoint.state().begin();
        Using { endpoint, asked: Cell::default(), answered: Cell::default() }
    }

    /// An endpoint could not take a session: it is left alone for a while.
    pub fn failed(&self, service: &ServiceId, host: &HostName, now: Instant) {
        let endpoint = self.endpoint(service, host);
        let mut state = endpoint.state();
        if state.is_ejected(now) {
            // Of sessions that were under way at once, one failure counts.
            return;
        }
        let failures = state.failures;
        state.failures = failures.saturating_add(1);
        state.ejected = Some(now + EJECT_FIRST.saturating_mul(1 << failures.min(8)).min(EJECT_MOST));
    }

    /// An endpoint takes no sessions for a known reason, of which its host will say when it has passed.
    pub fn declined(&self, service: &ServiceId, host: &HostName, now: Instant) {
        let endpoint = self.endpoint(service, host);
        let mut state = endpoint.state();
        if !state.is_ejected(now) {
            state.ejected = Some(now + EJECT_FIRST);
        }
    }

    /// The host of an endpoint reports how many sessions it has, of all callers.
    pub fn reported(&self, service: &ServiceId, host: &HostName, sessions: u32) {
        let endpoint = self.endpoint(service, host);
        let mut state = endpoint.state();
        state.reported = (sessions, state.sessions);
    }

    /// What is known of an endpoint.
    #[must_use]
    pub fn known(&self, service: &ServiceId, host: &HostName, now: Instant) -> Known {
        let state = *self.endpoint(service, host).state();
        Known {
            sessions: state.sessions,
            latency: Duration::from_secs_f64(state.measured(now)),
            ejected: state.is_ejected(now),
        }
    }

    /// Forgets endpoints that are not of the policy any more and have no session.
    pub fn retain(&self, is_placed: impl Fn(&ServiceId, &HostName) -> bool) {
        let mut gone: HashSet<_> = self.table().keys().cloned().collect();
        gone.retain(|(service, host)| !is_placed(service, host));
        self.table().retain(|key, endpoint| is_used(endpoint) || !gone.contains(key));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endpoint(&self, service: &ServiceId, host: &HostName) -> Arc<Endpoint> {
        find(&mut self.table(), service, host)
    }

    /// How the endpoints are at this moment.
    fn states(&self, service: &ServiceId, candidates: &[Candidate<'_>]) -> Vec<EndpointState> {
        let mut table = self.table();
        let endpoints: Vec<_> = candidates.iter().map(|one| find(&mut table, service, one.host)).collect();
        drop(table);
        endpoints.iter().map(|endpoint| *endpoint.state()).collect()
    }

    /// `SplitMix64` (Steele, Lea and Flood 2014): threads that ask at once get different numbers, and fairness needs no more.
    fn random(&self) -> u64 {
        let mut x = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Whether somebody has it besides the table, under the lock of which alone it is handed out.
fn is_used(endpoint: &Arc<Endpoint>) -> bool {
    Arc::strong_count(endpoint) > 1
}

fn find(table: &mut Table, service: &ServiceId, host: &HostName) -> Arc<Endpoint> {
    if table.len() >= ENDPOINTS_MAX {
        table.retain(|_, endpoint| is_used(endpoint));
    }
    Arc::clone(table.entry((service.clone(), host.clone())).or_default())
}

/// Which endpoints are left alone: those that failed, but at most half of all, and of them those whose time is longest. As
/// many failures at once are more likely a fault of what they have in common, and the others could not carry all of it.
fn ejected(states: &[EndpointState], now: Instant) -> Vec<bool> {
    let mut failed: Vec<usize> = (0..states.len()).filter(|index| states[*index].is_ejected(now)).collect();
    failed.sort_by_key(|index| Reverse(states[*index].ejected));
    let mut ejected = vec![false; states.len()];
    failed.into_iter().take(states.len() / 2).for_each(|index| ejected[index] = true);
    ejected
}

impl EndpointState {
    fn begin(&mut self) {
        self.sessions = self.sessions.saturating_add(1);
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.ejected.is_some_and(|until| until > now)
    }

    fn measured(&self, now: Instant) -> f64 {
        self.connect.at(now) + self.response.at(now)
    }

    /// Seconds to connect and to answer, as far as is known by now.
    fn latency(&self, now: Instant) -> f64 {
        self.measured(now).max(FLOOR)
    }

    /// Sessions that it has: what its host said, and what this host's workloads have opened and ended since. Where a record says it,
    /// that host has no sessions of this one's but those that are being opened.
    fn load(&self, claimed: Option<u32>) -> u32 {
        let (reported, own_then) = claimed.map_or(self.reported, |claimed| (claimed, 0));
        let own = self.sessions;
        reported.saturating_add(own).saturating_sub(own_then).max(own)
    }
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
