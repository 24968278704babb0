//! The endpoints of services: whether those of this host take sessions, how many they have, and what other hosts say of
//! theirs.
//!
//! What a host says is believed only of its own endpoints, only while there is a connection to it, and only to pass them over.
//! Where there is none, what it says by others, signed, is used in the same way, and for as long as that is good
//! ([`super::hearsay`]). An endpoint is as its own host finds it when a session comes.

mod behind;
mod said;

pub use behind::Serves;
pub use said::{INSTANCES_MAX, Said, Word};

use crate::interface::InterfaceId;
use behind::Behind;
use ripstop_config::{HostName, Reason, ServiceId};
use ripstop_policy::{Policy, ServiceEntry};
use serde::{Deserialize, Serialize};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};
use tokio::sync::Notify;

/// Whether an endpoint takes new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Ready,
    /// It fails its health check.
    Unhealthy,
    /// It is being drained.
    Draining,
    /// Its workload has no interface.
    Absent,
}

impl State {
    /// Whether it takes new sessions.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(self) -> Result<(), Reason> {
        match self {
            Self::Ready => Ok(()),
            Self::Unhealthy => Err(Reason::EndpointUnhealthy),
            Self::Draining => Err(Reason::Draining),
            Self::Absent => Err(Reason::NoInterface),
        }
    }
}

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The service.
    pub service: ServiceId,
    /// Whether it takes new sessions.
    pub state: State,
    /// Sessions that it has, of all callers.
    pub sessions: u32,
    /// Its share by its workload's own word, in place of the graph's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Why an endpoint cannot be drained, or drained no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// It is not of this host.
    #[error("this host does not serve {0}; see `ripstop status`")]
    NotServedHere(ServiceId),
    /// More than it was drained.
    #[error("the whole host is drained; undo that with `ripstop drain --undo`")]
    WholeHost,
}

/// What is known of endpoints.
#[derive(Default)]
pub struct Endpoints {
    own: RefCell<BTreeMap<ServiceId, Rc<Own>>>,
    /// The host is drained, with what it will serve.
    drained: Cell<bool>,
    /// Bounded by the policy: only what it places on a host is kept.
    heard: RefCell<HashMap<HostName, HashMap<ServiceId, Standing>>>,
    changed: Notify,
}

/// An endpoint of this host.
#[derive(Debug, Default)]
struct Own {
    open: Cell<u32>,
    /// By its operator's word.
    draining: Cell<bool>,
    /// The interfaces of its workload.
    behind: RefCell<BTreeMap<InterfaceId, Rc<Behind>>>,
    /// Sessions that they were given, to deal them in turn.
    turn: Cell<usize>,
}

/// A session that counts for its endpoint on this host until it is dropped.
#[derive(Debug)]
pub struct Counted(Rc<Own>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// The services of which a policy places an endpoint on a host.
pub fn served<'p>(policy: &'p Policy, host: &HostName) -> impl Iterator<Item = &'p ServiceEntry> {
    let here: BTreeSet<_> = policy.workloads_on(host).collect();
    policy.services().map(|service| policy.service_entry(service)).filter(move |entry| here.contains(&entry.by))
}

impl Endpoints {
    /// Says which services this host serves, and which interfaces their workloads have. Others are forgotten.
    pub fn serve<'s>(&self, services: impl Iterator<Item = (&'s ServiceId, Vec<InterfaceId>)>) {
        let mut own = self.own.borrow_mut();
        let mut before = std::mem::take(&mut *own);
        for (service, interfaces) in services {
            let (service, endpoint) = before.remove_entry(service).unwrap_or_else(|| (service.clone(), Rc::default()));
            endpoint.stand_behind(interfaces);
            own.insert(service, endpoint);
        }
        self.changed.notify_one();
    }

    /// Whether the endpoint of a service on this host takes new sessions.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(&self, service: &ServiceId) -> Result<(), Reason> {
        let own = self.own.borrow();
        let endpoint = own.get(service).ok_or(Reason::NotServedHere)?;
        self.state(endpoint).ready()
    }

    /// Takes a new session for the endpoint of a service on this host; it counts for it until it is dropped.
    ///
    /// # Errors
    /// Why the endpoint does not take it.
    pub fn take(&self, service: &ServiceId) -> Result<Counted, Reason> {
        self.ready(service)?;
        let own = self.own.borrow();
        let endpoint = own.get(service).ok_or(Reason::NotServedHere)?;
        endpoint.open.set(endpoint.open.get().saturating_add(1));
        Ok(Counted(Rc::clone(endpoint)))
    }

    /// Sessions that the endpoint of a service on this host has open.
    #[must_use]
    pub fn sessions(&self, service: &ServiceId) -> u32 {
        self.own.borrow().get(service).map_or(0, |endpoint| endpoint.open.get())
    }

    /// How every endpoint of this host is, in order of name.
    #[must_use]
    pub fn own(&self) -> Vec<Standing> {
        self.own.borrow().iter().map(|(service, endpoint)| self.standing(service, endpoint)).collect()
    }

    /// How the endpoint of a service on this host is; none when it has none.
    #[must_use]
    pub fn own_standing(&self, service: &ServiceId) -> Option<Standing> {
        self.own.borrow().get(service).map(|endpoint| self.standing(service, endpoint))
    }

    fn standing(&self, service: &ServiceId, endpoint: &Own) -> Standing {
        let (state, sessions, weight) = (self.state(endpoint), endpoint.open.get(), endpoint.weight());
        Standing { service: service.clone(), state, sessions, weight }
    }

    /// What [`Endpoints::drain`] was told and is not undone: whether all of this host is drained, and which services are.
    #[must_use]
    pub fn drained(&self) -> (bool, Vec<ServiceId>) {
        let own = self.own.borrow();
        let services = own.iter().filter(|(_, endpoint)| endpoint.draining.get()).map(|(service, _)| service.clone());
        (self.drained.get(), services.collect())
    }

    /// Resolves when the state of an endpoint of this host may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Something else is to be told to other hosts.
    pub fn tell(&self) {
        self.changed.notify_one();
    }

    fn state(&self, endpoint: &Own) -> State {
        match endpoint.best() {
            State::Absent => State::Absent,
            State::Ready | State::Unhealthy | State::Draining if self.is_drained(endpoint) => State::Draining,
            best @ (State::Ready | State::Unhealthy | State::Draining) => best,
        }
    }

    /// By its operator's word.
    fn is_drained(&self, endpoint: &Own) -> bool {
        self.drained.get() || endpoint.draining.get()
    }

    /// Has the endpoint of a service, or all of this host with those to come, take no new sessions, or take them again.
    /// A service that is named takes them again whatever its workload said.
    ///
    /// # Errors
    /// [`DrainError`]; nothing has changed.
    pub fn drain(&self, service: Option<&ServiceId>, draining: bool) -> Result<(), DrainError> {
        let own = self.own.borrow();
        match service {
            None => {
                self.drained.set(draining);
                if !draining {
                    own.values().for_each(|endpoint| endpoint.draining.set(false));
                }
            }
            Some(service) => {
                let endpoint = own.get(service).ok_or_else(|| DrainError::NotServedHere(service.clone()))?;
                if !draining && self.drained.get() {
                    return Err(DrainError::WholeHost);
                }
                endpoint.draining.set(draining);
                if !draining {
                    endpoint.behind.borrow().values().for_each(|one| one.said.draining.set(false));
                }
            }
        }
        self.changed.notify_one();
        Ok(())
    }

    /// A host says how its endpoints are, in place of what it said before. What the policy does not place there is passed
    /// over; the rest is returned.
    pub fn hear(&self, policy: &Policy, host: &HostName, said: Vec<Standing>) -> Vec<Standing> {
        let mut said = said;
        said.retain(|standing| {
            let service = policy.service(&standing.service);
            service.is_some_and(|service| policy.service_entry(service).hosts.contains(host))
        });
        let table = said.iter().map(|standing| (standing.service.clone(), standing.clone())).collect();
        self.heard.borrow_mut().insert(host.clone(), table);
        said
    }

    /// What a host last said of its endpoint of a service.
    #[must_use]
    pub fn heard(&self, host: &HostName, service: &ServiceId) -> Option<Standing> {
        self.heard.borrow().get(host)?.get(service).cloned()
    }

    /// Whether a host has said how its endpoints are.
    #[must_use]
    pub fn has_heard(&self, host: &HostName) -> bool {
        self.heard.borrow().contains_key(host)
    }

    /// Forgets what was said by hosts that are not to be believed any more.
    pub fn forget(&self, is_believed: impl Fn(&HostName) -> bool) {
        self.heard.borrow_mut().retain(|host, _| is_believed(host));
    }
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
