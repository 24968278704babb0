//! What is behind an endpoint of this host: the interface of its workload, or those of its replicas.
//!
//! 1. Each has its own health, its own word and its own sessions. The endpoint takes sessions while any of them does.
//! 2. A session goes to the one with the fewest of that service; in turn, where several have as few. For a sticky service each
//!    caller has an order of its own.
//! 3. One that did not take a session comes after the others for a while, as does one that wants none by its weight.

use super::{Counted, Endpoints, Open, Own, State, Table, said::Words};
use crate::{
    interface::InterfaceId,
    session::order::{Sticky, belonging},
};
use ripstop_config::ServiceId;
use std::time::{Duration, Instant};

/// How long one that did not take a session comes after the others: its program has ended or has not begun to listen, which
/// is over within seconds or seen by a check.
const PASSED_OVER: Duration = Duration::from_secs(2);

/// One interface behind an endpoint.
#[derive(Debug, Default)]
pub(super) struct Behind {
    open: Open,
    unhealthy: bool,
    /// When it last did not take a session.
    missed: Option<Instant>,
    /// By its workload's own word.
    pub(super) said: Words,
}

impl Behind {
    fn state(&self) -> State {
        match (self.said.draining, self.unhealthy) {
            (true, _) => State::Draining,
            (false, true) => State::Unhealthy,
            (false, false) => State::Ready,
        }
    }

    fn rank(&self, now: Instant) -> Rank {
        Rank {
            missed: self.missed.is_some_and(|at| now.saturating_duration_since(at) < PASSED_OVER),
            reserve: self.said.weight == Some(0),
            sessions: self.open.count(),
        }
    }
}

/// What is against one, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    missed: bool,
    reserve: bool,
    sessions: u32,
}

/// Those with the least against them first, equals in turn.
fn in_turn<T>(mut ranked: Vec<(Rank, T)>, turn: usize) -> Vec<T> {
    if !ranked.is_empty() {
        let first = turn % ranked.len();
        ranked.rotate_left(first);
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, one)| one).collect()
}

/// For one caller: not by how many sessions they have, so that its own stay together.
fn for_caller(mut ranked: Vec<(Rank, InterfaceId)>, sticky: &Sticky<'_>) -> Vec<InterfaceId> {
    let score = |id: &InterfaceId| belonging(sticky, &id.to_string(), 1);
    ranked.sort_by(|(a, one), (b, other)| {
        let against = |rank: &Rank| (rank.missed, rank.reserve);
        against(a).cmp(&against(b)).then_with(|| score(other).total_cmp(&score(one)))
    });
    ranked.into_iter().map(|(_, id)| id).collect()
}

impl Own {
    /// How the best of what is behind it is; absent where nothing is.
    pub(super) fn best(&self) -> State {
        let is = |state: State| self.behind.values().any(|one| one.state() == state);
        let states = [State::Ready, State::Unhealthy, State::Draining].into_iter();
        states.into_iter().find(|state| is(*state)).unwrap_or(State::Absent)
    }

    /// These are behind it, and no others: what was known of others is forgotten.
    pub(super) fn stand_behind(&mut self, interfaces: Vec<InterfaceId>) {
        self.behind.retain(|id, _| interfaces.contains(id));
        for id in interfaces {
            self.behind.entry(id).or_default();
        }
    }

    /// What is to be known to put those that take new sessions in order, and whose turn it is where that counts.
    fn ranked(&mut self, by_turn: bool, now: Instant) -> (Vec<(Rank, InterfaceId)>, usize) {
        let ready = self.behind.iter().filter(|(_, one)| one.state() == State::Ready);
        let ranked = ready.map(|(id, one)| (one.rank(now), id.clone())).collect();
        let turn = self.turn;
        if by_turn {
            self.turn = turn.wrapping_add(1);
        }
        (ranked, turn)
    }
}

impl Table {
    pub(super) fn behind(&mut self, service: &ServiceId, interface: &InterfaceId) -> Option<&mut Behind> {
        self.own.get_mut(service)?.behind.get_mut(interface)
    }
}

impl Endpoints {
    /// The interfaces at which to try for a session of a service, in order: those that take new ones.
    #[must_use]
    pub fn order(&self, service: &ServiceId, sticky: Option<&Sticky<'_>>, now: Instant) -> Vec<InterfaceId> {
        let by_turn = sticky.is_none();
        let ranked = self.table().own.get_mut(service).map(|endpoint| endpoint.ranked(by_turn, now));
        // Sorted without the lock: names are hashed for it.
        match (ranked, sticky) {
            (None, _) => Vec::new(),
            (Some((ranked, _)), Some(sticky)) => for_caller(ranked, sticky),
            (Some((ranked, turn)), None) => in_turn(ranked, turn),
        }
    }

    /// Counts a session for an interface; none when it is not behind the endpoint any more.
    #[must_use]
    pub fn serve_by(&self, service: &ServiceId, interface: &InterfaceId) -> Option<Counted> {
        self.table().behind(service, interface).map(|behind| behind.open.one_more())
    }

    /// It did not take a session, which another one may have taken.
    pub fn missed(&self, service: &ServiceId, interface: &InterfaceId, now: Instant) {
        if let Some(behind) = self.table().behind(service, interface) {
            behind.missed = Some(now);
        }
    }

    /// Whether it takes new sessions, and how many of the service it has.
    #[must_use]
    pub fn standing_by(&self, service: &ServiceId, interface: &InterfaceId) -> Option<(State, u32)> {
        let table = self.table();
        let endpoint = table.own.get(service)?;
        let behind = endpoint.behind.get(interface)?;
        let state = if table.is_drained(endpoint) { State::Draining } else { behind.state() };
        Some((state, behind.open.count()))
    }

    /// What the health check of an interface behind an endpoint of this host says; true if that is news.
    pub fn set_healthy(&self, service: &ServiceId, interface: &InterfaceId, healthy: bool) -> bool {
        let is_news = |behind: &mut Behind| std::mem::replace(&mut behind.unhealthy, !healthy) == healthy;
        let news = self.table().behind(service, interface).is_some_and(is_news);
        if news {
            self.tell();
        }
        news
    }

    /// Whether any interface behind an endpoint passes its check, or has none.
    #[must_use]
    pub fn is_healthy(&self, service: &ServiceId) -> bool {
        let table = self.table();
        table.own.get(service).is_some_and(|endpoint| endpoint.behind.values().any(|one| !one.unhealthy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Replica;
    use ripstop_config::{HostName, WorkloadId};

    fn one(id: &str) -> InterfaceId {
        InterfaceId::of("shop/api".parse().unwrap(), Replica::new(id))
    }

    /// An endpoint with replicas a, b and c.
    fn three() -> (Endpoints, ServiceId) {
        let (endpoints, api) = (Endpoints::default(), "shop/api".parse().unwrap());
        endpoints.serve([(&api, ["a", "b", "c"].map(one).to_vec())].into_iter());
        (endpoints, api)
    }

    fn first(endpoints: &Endpoints, api: &ServiceId) -> InterfaceId {
        endpoints.order(api, None, Instant::now()).remove(0)
    }

    #[test]
    fn sessions_go_where_the_fewest_are_and_in_turn_where_as_few_are() {
        let (endpoints, api) = three();
        let turns: Vec<_> = (0..4).map(|_| first(&endpoints, &api)).collect();
        assert_eq!(turns, ["a", "b", "c", "a"].map(one));
        let _held: Vec<_> = ["a", "a", "b", "c", "c"].map(|id| endpoints.serve_by(&api, &one(id)).unwrap()).into();
        for _ in 0..3 {
            assert_eq!(first(&endpoints, &api), one("b"));
        }
        assert_eq!(endpoints.order(&api, None, Instant::now()).len(), 3, "the others follow");
        assert_eq!(endpoints.standing_by(&api, &one("c")), Some((State::Ready, 2)));
        assert!(endpoints.serve_by(&api, &one("d")).is_none());
    }

    #[test]
    fn one_that_missed_a_session_comes_last_for_a_while() {
        let (endpoints, api) = three();
        let now = Instant::now();
        endpoints.missed(&api, &one("a"), now);
        for _ in 0..3 {
            assert_eq!(endpoints.order(&api, None, now).last(), Some(&one("a")));
        }
        let later = now + PASSED_OVER;
        assert!((0..3).any(|_| endpoints.order(&api, None, later)[0] == one("a")));
    }

    #[test]
    fn the_endpoint_takes_sessions_while_any_does() {
        let (endpoints, api) = three();
        assert!(
            endpoints.set_healthy(&api, &one("a"), false) && !endpoints.set_healthy(&api, &one("a"), false),
            "once"
        );
        assert!(endpoints.say(&api, &one("b"), super::super::Word::Draining(true)));
        assert_eq!((endpoints.order(&api, None, Instant::now()), endpoints.ready(&api)), (vec![one("c")], Ok(())));
        assert_eq!(endpoints.standing_by(&api, &one("b")).unwrap().0, State::Draining);
        endpoints.set_healthy(&api, &one("c"), false);
        assert!(endpoints.is_healthy(&api), "b is well");
        assert_eq!(endpoints.own_standing(&api).unwrap().state, State::Unhealthy, "b only drains");
        // Another one in c's place is not what c was, and b's word is gone with b.
        endpoints.serve([(&api, vec![one("a")])].into_iter());
        endpoints.serve([(&api, ["a", "b", "c"].map(one).to_vec())].into_iter());
        assert_eq!(endpoints.order(&api, None, Instant::now()).len(), 2);
        endpoints.drain(Some(&api), true).unwrap();
        assert_eq!(endpoints.standing_by(&api, &one("b")).unwrap().0, State::Draining, "the operator stands above");
    }

    #[test]
    fn the_weights_of_replicas_add_up_and_none_is_a_reserve() {
        let (endpoints, api) = three();
        let weighs = |id: &str, weight| {
            assert!(endpoints.say(&api, &one(id), super::super::Word::Weight(Some(weight))));
        };
        assert_eq!(endpoints.own_weight(&api), None);
        weighs("a", 0);
        weighs("b", 3);
        weighs("c", 4);
        assert_eq!(endpoints.own_weight(&api), Some(7));
        for _ in 0..3 {
            assert_eq!(endpoints.order(&api, None, Instant::now()).last(), Some(&one("a")));
        }
    }

    #[test]
    fn a_sticky_service_keeps_a_caller_at_one_replica() {
        let (endpoints, api) = three();
        let host = HostName::new("alpha").unwrap();
        let order = |caller: &str| {
            let caller: WorkloadId = caller.parse().unwrap();
            endpoints.order(&api, Some(&Sticky { service: &api, caller: &caller, host: &host }), Instant::now())
        };
        let chosen = order("shop/web").remove(0);
        let _held: Vec<_> = (0..5).map(|_| endpoints.serve_by(&api, &chosen).unwrap()).collect();
        assert_eq!(order("shop/web")[0], chosen, "however many sessions it has");
        assert!((0..50).any(|caller| order(&format!("shop/w{caller}"))[0] != chosen), "others go elsewhere");
        endpoints.missed(&api, &chosen, Instant::now());
        assert_ne!(order("shop/web")[0], chosen);
    }
}
