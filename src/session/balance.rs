//! Which endpoint next: power of two choices on connect time and live sessions, and none that just failed.

use super::context::random;
use ripstop_config::{HostName, ServiceId};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

/// Weight of the latest connect time in the moving average. A peak is not taken whole: one late wake-up on a busy host would
/// leave an endpoint out.
const EWMA_WEIGHT: f64 = 0.3;
/// Seconds in which a connect time falls to 37 % of what it was while nobody measures it again, so that an endpoint that
/// was slow is tried again.
const FORGET: f64 = 2.0;
/// Connect times below this are equal, and an endpoint that was never tried is taken to need as much: within a site, such
/// differences are noise.
const FLOOR: f64 = 0.005;
/// The second of two random endpoints is taken when its cost is below this part of the first's: a smaller difference is
/// noise, and following it would leave out an endpoint for being a microsecond slower.
const CLEARLY: f64 = 0.8;
/// How long an endpoint that failed is left alone while others are there; doubles with each failure.
const EJECT_FIRST: Duration = Duration::from_millis(500);
/// Longest time an endpoint is left alone.
const EJECT_MOST: Duration = Duration::from_secs(10);
/// Endpoints that are remembered; the graph bounds them in practice, and this bounds what old graphs leave behind.
const ENDPOINTS_MAX: usize = 65_536;

/// What is known of the endpoints of all services, by what came of calling them.
pub struct Balancer {
    endpoints: RefCell<HashMap<(ServiceId, HostName), Rc<EndpointState>>>,
    seed: Cell<u64>,
}

impl Default for Balancer {
    fn default() -> Self {
        Self { endpoints: RefCell::default(), seed: Cell::new(random() | 1) }
    }
}

#[derive(Default)]
struct EndpointState {
    /// Seconds, and when they were measured; none while untried.
    connect: Cell<Option<(f64, Instant)>>,
    sessions: Cell<u32>,
    /// Sessions that its host last reported, of all callers.
    load: Cell<u16>,
    failures: Cell<u32>,
    ejected: Cell<Option<Instant>>,
}

/// A session that counts for its endpoint until it is dropped.
pub struct Using(Rc<EndpointState>);

impl Drop for Using {
    fn drop(&mut self) {
        self.0.sessions.set(self.0.sessions.get().saturating_sub(1));
    }
}

impl Balancer {
    /// The hosts in the order in which to try them: the better of two random ones first, then the others by cost; those
    /// that are out of reach or failed lately come last, as a last resort.
    #[must_use]
    pub fn order(
        &self,
        service: &ServiceId,
        hosts: &[HostName],
        is_up: impl Fn(&HostName) -> bool,
        now: Instant,
    ) -> Vec<HostName> {
        let mut ranked: Vec<(bool, f64, &HostName)> = hosts
            .iter()
            .map(|host| {
                let state = self.state(service, host);
                let usable = is_up(host) && state.ejected.get().is_none_or(|until| until <= now);
                (!usable, state.cost(now), host)
            })
            .collect();
        self.shuffle(&mut ranked);
        // The sort is stable: of the usable ones, the first two stay a random pair.
        ranked.sort_by_key(|(unusable, ..)| *unusable);
        let usable = ranked.iter().filter(|(unusable, ..)| !unusable).count();
        if usable >= 2 && ranked[1].1 < ranked[0].1 * CLEARLY {
            ranked.swap(0, 1);
        }
        if let Some(rest) = ranked.get_mut(1..) {
            rest.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        }
        ranked.into_iter().map(|(_, _, host)| host.clone()).collect()
    }

    /// An endpoint accepted a session after `took`; its host reports `load` sessions.
    #[must_use = "the session counts while this is kept"]
    pub fn accepted(&self, service: &ServiceId, host: &HostName, took: Duration, load: u16) -> Using {
        let state = self.state(service, host);
        let now = Instant::now();
        state.connect.set(Some((state.average(took.as_secs_f64(), now), now)));
        state.load.set(load);
        state.failures.set(0);
        state.ejected.set(None);
        state.sessions.set(state.sessions.get().saturating_add(1));
        Using(state)
    }

    /// An endpoint could not take a session.
    pub fn failed(&self, service: &ServiceId, host: &HostName, now: Instant) {
        let state = self.state(service, host);
        let failures = state.failures.get();
        state.failures.set(failures.saturating_add(1));
        let rest = EJECT_FIRST.saturating_mul(1 << failures.min(8)).min(EJECT_MOST);
        state.ejected.set(Some(now + rest));
    }

    fn state(&self, service: &ServiceId, host: &HostName) -> Rc<EndpointState> {
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.len() >= ENDPOINTS_MAX {
            endpoints.retain(|_, state| Rc::strong_count(state) > 1);
        }
        Rc::clone(endpoints.entry((service.clone(), host.clone())).or_default())
    }

    /// Fisher and Yates, with a xorshift generator: fairness needs no more.
    fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let mut x = self.seed.get();
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            self.seed.set(x);
            let index = usize::try_from(x % (last as u64 + 1)).unwrap_or(0);
            items.swap(last, index);
        }
    }
}

impl EndpointState {
    /// Seconds that a connection takes, as far as is known by now.
    fn connect(&self, now: Instant) -> f64 {
        let Some((connect, at)) = self.connect.get() else { return FLOOR };
        let age = now.saturating_duration_since(at).as_secs_f64();
        FLOOR + (connect - FLOOR).max(0.0) * (-age / FORGET).exp()
    }

    fn average(&self, latest: f64, now: Instant) -> f64 {
        let before = self.connect(now);
        before + (latest.max(FLOOR) - before) * EWMA_WEIGHT
    }

    fn cost(&self, now: Instant) -> f64 {
        self.connect(now) * (f64::from(self.sessions.get()) + f64::from(self.load.get()) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| HostName::new(name).unwrap()).collect()
    }

    fn service() -> ServiceId {
        "shop/api".parse().unwrap()
    }

    #[test]
    fn equal_endpoints_share_and_a_slow_one_gets_little() {
        let balancer = Balancer::default();
        let hosts = hosts(&["a", "b"]);
        let now = Instant::now();
        let mut firsts = HashMap::new();
        for _ in 0..2_000 {
            let order = balancer.order(&service(), &hosts, |_| true, now);
            assert_eq!(order.len(), 2);
            let took = if order[0] == hosts[0] { 5 } else { 50 };
            *firsts.entry(order[0].clone()).or_insert(0) += 1;
            drop(balancer.accepted(&service(), &order[0], Duration::from_millis(took), 0));
        }
        assert!(firsts.get(&hosts[1]).copied().unwrap_or(0) < 300, "{firsts:?}");
    }

    #[test]
    fn a_slow_start_is_forgotten() {
        let balancer = Balancer::default();
        let hosts = hosts(&["a", "b"]);
        drop(balancer.accepted(&service(), &hosts[0], Duration::from_millis(100), 0));
        let first = |now| balancer.order(&service(), &hosts, |_| true, now)[0].clone();
        assert!((0..50).all(|_| first(Instant::now()) == hosts[1]));
        let later = Instant::now() + Duration::from_secs(300);
        assert!((0..50).any(|_| first(later) == hosts[0]));
    }

    #[test]
    fn live_sessions_spread_over_endpoints() {
        let balancer = Balancer::default();
        let hosts = hosts(&["a", "b", "c"]);
        let mut open: HashMap<HostName, Vec<Using>> = HashMap::new();
        for _ in 0..300 {
            let first = balancer.order(&service(), &hosts, |_| true, Instant::now())[0].clone();
            let using = balancer.accepted(&service(), &first, Duration::from_millis(1), 0);
            open.entry(first).or_default().push(using);
        }
        assert!(open.values().all(|list| (80..=120).contains(&list.len())));
    }

    #[test]
    fn failed_and_unreachable_ones_come_last_and_return() {
        let balancer = Balancer::default();
        let hosts = hosts(&["a", "b", "c"]);
        let now = Instant::now();
        balancer.failed(&service(), &hosts[0], now);
        for _ in 0..50 {
            let order = balancer.order(&service(), &hosts, |host| host != &hosts[1], now);
            assert_eq!(order[0], hosts[2]);
        }
        let later = now + EJECT_FIRST;
        assert!((0..50).any(|_| balancer.order(&service(), &hosts, |_| true, later)[0] == hosts[0]));
    }
}
