//! What a workload says of its own endpoints on this host ([`crate::session::voice`]): beside what its operator and its
//! checks say, and gone with its interface.

use super::{Endpoints, Own};
use ripstop_config::{ServiceId, graph::Change};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

/// Instances of one endpoint at most: more programs behind one service of one host are better dealt with by the workload.
pub const INSTANCES_MAX: usize = 16;

/// What was said of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) draining: Cell<bool>,
    pub(super) weight: Cell<Option<u32>>,
    instances: RefCell<Vec<u16>>,
    /// Sessions that instances were given, to deal them in turn.
    turn: Cell<usize>,
}

/// The same, to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// It takes no new sessions.
    pub draining: bool,
    /// Its share, in place of the graph's.
    pub weight: Option<u32>,
    /// The ports at which its instances listen, in place of the graph's.
    pub instances: Vec<u16>,
}

/// One thing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It takes no new sessions, or takes them again.
    Draining(bool),
    /// Its share; without one, the graph's.
    Weight(Option<u32>),
    /// An instance listens at that port.
    Instance(u16),
    /// No instance listens at that port any more.
    NoInstance(u16),
}

impl Endpoints {
    fn words<T>(&self, service: &ServiceId, look: impl FnOnce(&Words) -> T) -> Option<T> {
        self.own.borrow().get(service).map(|endpoint: &Rc<Own>| look(&endpoint.said))
    }

    /// What was said of the endpoint of a service on this host; none when it has none.
    #[must_use]
    pub fn said(&self, service: &ServiceId) -> Option<Said> {
        self.words(service, |words| Said {
            draining: words.draining.get(),
            weight: words.weight.get(),
            instances: words.instances.borrow().clone(),
        })
    }

    /// Says one thing of the endpoint of a service on this host; false when there is no room for it, or no such endpoint.
    pub fn say(&self, service: &ServiceId, word: Word) -> bool {
        let said = self.words(service, |words| words.say(word)).unwrap_or(false);
        self.changed.notify_one();
        said
    }

    /// Forgets what was said of an endpoint, but for what still may be.
    pub fn unsay(&self, service: &ServiceId, may: impl Fn(Change) -> bool) {
        let forget = |words: &Words| {
            words.draining.set(words.draining.get() && may(Change::Drain));
            words.weight.set(words.weight.get().filter(|_| may(Change::Weight)));
            if !may(Change::Instances) {
                words.instances.borrow_mut().clear();
            }
        };
        if self.words(service, forget).is_some() {
            self.changed.notify_one();
        }
    }

    /// The share that was said for the endpoint of a service on this host.
    #[must_use]
    pub fn own_weight(&self, service: &ServiceId) -> Option<u32> {
        self.words(service, |words| words.weight.get()).flatten()
    }

    /// The ports of its instances, in the order in which to try them for one session; none where the graph's holds.
    #[must_use]
    pub fn instances(&self, service: &ServiceId) -> Vec<u16> {
        self.words(service, Words::deal).unwrap_or_default()
    }
}

impl Words {
    fn say(&self, word: Word) -> bool {
        let mut instances = self.instances.borrow_mut();
        match word {
            Word::Draining(draining) => self.draining.set(draining),
            Word::Weight(weight) => self.weight.set(weight),
            Word::Instance(port) if instances.contains(&port) => {}
            Word::Instance(_) if instances.len() >= INSTANCES_MAX => return false,
            Word::Instance(port) => instances.push(port),
            Word::NoInstance(port) => instances.retain(|one| *one != port),
        }
        true
    }

    fn deal(&self) -> Vec<u16> {
        let mut ports = self.instances.borrow().clone();
        if !ports.is_empty() {
            let turn = self.turn.get();
            self.turn.set(turn.wrapping_add(1));
            let first = turn % ports.len();
            ports.rotate_left(first);
        }
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn serving() -> (Endpoints, ServiceId) {
        let (endpoints, api) = (Endpoints::default(), "shop/api".parse().unwrap());
        endpoints.serve([(&api, true)].into_iter());
        (endpoints, api)
    }

    #[test]
    fn sessions_are_dealt_among_instances_in_turn() {
        let (endpoints, api) = serving();
        assert!(endpoints.instances(&api).is_empty());
        for port in [8081, 8082, 8081] {
            assert!(endpoints.say(&api, Word::Instance(port)));
        }
        let firsts: Vec<_> = (0..4).map(|_| endpoints.instances(&api)[0]).collect();
        assert_eq!(firsts, [8081, 8082, 8081, 8082]);
        assert_eq!(endpoints.instances(&api).len(), 2, "the others follow");
        assert!(endpoints.say(&api, Word::NoInstance(8082)));
        assert_eq!(endpoints.instances(&api), [8081]);
        let fits = (1..=u16::MAX).filter(|port| endpoints.say(&api, Word::Instance(*port))).count();
        assert_eq!(fits, INSTANCES_MAX, "8081 again, and as many as fit");
        assert!(!endpoints.say(&"shop/db".parse().unwrap(), Word::Draining(true)), "not of this host");
    }

    #[test]
    fn what_may_not_be_said_any_more_is_forgotten() {
        let (endpoints, api) = serving();
        for word in [Word::Draining(true), Word::Weight(Some(3)), Word::Instance(8081)] {
            assert!(endpoints.say(&api, word));
        }
        assert_eq!(endpoints.own_standing(&api).map(|one| (one.state, one.weight)), Some((State::Draining, Some(3))));
        endpoints.unsay(&api, |change| change == Change::Weight);
        let left = Said { weight: Some(3), ..Said::default() };
        assert_eq!((endpoints.said(&api), endpoints.ready(&api)), (Some(left), Ok(())));
        endpoints.unsay(&api, |_| false);
        assert_eq!(endpoints.said(&api), Some(Said::default()));
    }

    #[test]
    fn an_operator_ends_what_a_workload_said_but_not_the_other_way_round() {
        let (endpoints, api) = serving();
        assert!(endpoints.say(&api, Word::Draining(true)));
        endpoints.drain(Some(&api), false).unwrap();
        assert!(endpoints.ready(&api).is_ok(), "the operator stands above");
        endpoints.drain(Some(&api), true).unwrap();
        assert!(endpoints.say(&api, Word::Draining(false)));
        assert!(endpoints.ready(&api).is_err());
        endpoints.drain(None, false).unwrap();
        assert!(endpoints.say(&api, Word::Draining(true)));
        endpoints.drain(None, false).unwrap();
        assert!(endpoints.ready(&api).is_err(), "the host is not drained any more, the workload is");
    }
}
