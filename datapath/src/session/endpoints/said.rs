//! What a workload says of its own endpoints on this host ([`crate::session::voice`]): beside what its operator and its
//! checks say, and gone with its interface.

use super::{Endpoints, Own};
use crate::interface::InterfaceId;
use ripstop_config::{ServiceId, graph::Change, graph::WEIGHT_MAX};

/// Instances of one endpoint at most: more programs behind one service of one host are better dealt with by the workload.
pub const INSTANCES_MAX: usize = 16;

/// What was said by one interface of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) draining: bool,
    pub(super) weight: Option<u32>,
    instances: Vec<u16>,
    /// Sessions that instances were given, to deal them in turn.
    turn: usize,
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
    /// With the table's lock held: `look` has what it needs.
    fn words<T>(&self, service: &ServiceId, by: &InterfaceId, look: impl FnOnce(&mut Words) -> T) -> Option<T> {
        self.table().behind(service, by).map(|behind| look(&mut behind.said))
    }

    /// What an interface said of the endpoint of a service on this host; none when it is not behind it.
    #[must_use]
    pub fn said(&self, service: &ServiceId, by: &InterfaceId) -> Option<Said> {
        self.words(service, by, |words| Said {
            draining: words.draining,
            weight: words.weight,
            instances: words.instances.clone(),
        })
    }

    /// An interface says one thing of the endpoint of a service on this host; false when there is no room for it, or no such endpoint.
    pub fn say(&self, service: &ServiceId, by: &InterfaceId, word: Word) -> bool {
        let said = self.words(service, by, |words| words.say(word)).unwrap_or(false);
        self.changed.notify_one();
        said
    }

    /// Forgets what an interface said of an endpoint, but for what still may be.
    pub fn unsay(&self, service: &ServiceId, by: &InterfaceId, may: impl Fn(Change) -> bool) {
        let [drain, weight, instances] = [Change::Drain, Change::Weight, Change::Instances].map(may);
        let forget = |words: &mut Words| {
            words.draining &= drain;
            words.weight = words.weight.filter(|_| weight);
            if !instances {
                words.instances.clear();
            }
        };
        if self.words(service, by, forget).is_some() {
            self.changed.notify_one();
        }
    }

    /// The share that was said for the endpoint of a service on this host: what its replicas said, together.
    #[must_use]
    pub fn own_weight(&self, service: &ServiceId) -> Option<u32> {
        self.table().own.get(service)?.weight()
    }

    /// The ports of an interface's instances, in the order in which to try them for one session; none where the graph's holds.
    #[must_use]
    pub fn instances(&self, service: &ServiceId, by: &InterfaceId) -> Vec<u16> {
        self.words(service, by, Words::deal).unwrap_or_default()
    }
}

impl Own {
    /// Those that said nothing add nothing to what others said.
    pub(super) fn weight(&self) -> Option<u32> {
        let said = self.behind.values().filter_map(|one| one.said.weight);
        said.reduce(u32::saturating_add).map(|sum| sum.min(WEIGHT_MAX))
    }
}

impl Words {
    fn say(&mut self, word: Word) -> bool {
        let instances = &mut self.instances;
        match word {
            Word::Draining(draining) => self.draining = draining,
            Word::Weight(weight) => self.weight = weight,
            Word::Instance(port) if instances.contains(&port) => {}
            Word::Instance(_) if instances.len() >= INSTANCES_MAX => return false,
            Word::Instance(port) => instances.push(port),
            Word::NoInstance(port) => instances.retain(|one| *one != port),
        }
        true
    }

    fn deal(&mut self) -> Vec<u16> {
        let mut ports = self.instances.clone();
        if !ports.is_empty() {
            let first = self.turn % ports.len();
            self.turn = self.turn.wrapping_add(1);
            ports.rotate_left(first);
        }
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn own() -> InterfaceId {
        InterfaceId::only("shop/api".parse().unwrap())
    }

    fn serving() -> (Endpoints, ServiceId) {
        let (endpoints, api) = (Endpoints::default(), "shop/api".parse().unwrap());
        endpoints.serve([(&api, vec![own()])].into_iter());
        (endpoints, api)
    }

    #[test]
    fn sessions_are_dealt_among_instances_in_turn() {
        let (endpoints, api) = serving();
        assert!(endpoints.instances(&api, &own()).is_empty());
        for port in [8081, 8082, 8081] {
            assert!(endpoints.say(&api, &own(), Word::Instance(port)));
        }
        let firsts: Vec<_> = (0..4).map(|_| endpoints.instances(&api, &own())[0]).collect();
        assert_eq!(firsts, [8081, 8082, 8081, 8082]);
        assert_eq!(endpoints.instances(&api, &own()).len(), 2, "the others follow");
        assert!(endpoints.say(&api, &own(), Word::NoInstance(8082)));
        assert_eq!(endpoints.instances(&api, &own()), [8081]);
        let fits = (1..=u16::MAX).filter(|port| endpoints.say(&api, &own(), Word::Instance(*port))).count();
        assert_eq!(fits, INSTANCES_MAX, "8081 again, and as many as fit");
        assert!(!endpoints.say(&"shop/db".parse().unwrap(), &own(), Word::Draining(true)), "not of this host");
    }

    #[test]
    fn what_may_not_be_said_any_more_is_forgotten() {
        let (endpoints, api) = serving();
        for word in [Word::Draining(true), Word::Weight(Some(3)), Word::Instance(8081)] {
            assert!(endpoints.say(&api, &own(), word));
        }
        assert_eq!(endpoints.own_standing(&api).map(|one| (one.state, one.weight)), Some((State::Draining, Some(3))));
        endpoints.unsay(&api, &own(), |change| change == Change::Weight);
        let left = Said { weight: Some(3), ..Said::default() };
        assert_eq!((endpoints.said(&api, &own()), endpoints.ready(&api)), (Some(left), Ok(())));
        endpoints.unsay(&api, &own(), |_| false);
        assert_eq!(endpoints.said(&api, &own()), Some(Said::default()));
    }

    #[test]
    fn an_operator_ends_what_a_workload_said_but_not_the_other_way_round() {
        let (endpoints, api) = serving();
        assert!(endpoints.say(&api, &own(), Word::Draining(true)));
        endpoints.drain(Some(&api), false).unwrap();
        assert!(endpoints.ready(&api).is_ok(), "the operator stands above");
        endpoints.drain(Some(&api), true).unwrap();
        assert!(endpoints.say(&api, &own(), Word::Draining(false)));
        assert!(endpoints.ready(&api).is_err());
        endpoints.drain(None, false).unwrap();
        assert!(endpoints.say(&api, &own(), Word::Draining(true)));
        endpoints.drain(None, false).unwrap();
        assert!(endpoints.ready(&api).is_err(), "the host is not drained any more, the workload is");
    }
}
