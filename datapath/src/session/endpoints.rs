//! The endpoints of services: whether those of this host take sessions, how many they have, and what other hosts say of
//! theirs.
//!
//! What a host says is believed only of its own endpoints, only while there is a connection to it, and only to pass them over.
//! Where there is none, what it says by others, signed, is used in the same way, and for as long as that is good
//! ([`super::hearsay`]). An endpoint is as its own host finds it when a session comes.
//!
//! All data threads of the host share it. One lock is around all of it: a session takes it a few times, bytes never. Nothing that
//! a caller hands in is called while it is held, nor anything else that has a lock.

mod behind;
mod said;

pub use said::{INSTANCES_MAX, Said, Word};

use crate::interface::InterfaceId;
use behind::Behind;
use ripstop_config::{HostName, Reason, ServiceId};
use ripstop_policy::{Policy, ServiceEntry};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
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
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    own: BTreeMap<ServiceId, Own>,
    /// The host is drained, with what it will serve.
    drained: bool,
    /// Bounded by the policy: only what it places on a host is kept.
    heard: HashMap<HostName, Arc<HashMap<ServiceId, Standing>>>,
}

/// An endpoint of this host.
#[derive(Debug, Default)]
struct Own {
    open: Open,
    /// By its operator's word.
    draining: bool,
    /// The interfaces of its workload.
    behind: BTreeMap<InterfaceId, Behind>,
    /// Sessions that they were given, to deal them in turn.
    turn: usize,
}

/// How many sessions something has. They outlive it, and end on their own threads without the table's lock.
#[derive(Debug, Default)]
struct Open(Arc<AtomicU32>);

impl Open {
    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn one_more(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.0))
    }
}

/// A session that counts until it is dropped: for its endpoint on this host, or for the interface by which that serves it.
#[derive(Debug)]
pub struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The services of which a policy places an endpoint on a host.
pub fn served<'p>(policy: &'p Policy, host: &HostName) -> impl Iterator<Item = &'p ServiceEntry> {
    let here: BTreeSet<_> = policy.workloads_on(host).collect();
    policy.services().map(|service| policy.service_entry(service)).filter(move |entry| here.contains(&entry.by))
}

impl Endpoints {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which services this host serves, and which interfaces their workloads have. Others are forgotten.
    pub fn serve<'s>(&self, services: impl Iterator<Item = (&'s ServiceId, Vec<InterfaceId>)>) {
        let services: Vec<_> = services.collect();
        self.table().serve(services);
        self.changed.notify_one();
    }

    /// Whether the endpoint of a service on this host takes new sessions.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(&self, service: &ServiceId) -> Result<(), Reason> {
        self.table().ready(service).map(drop)
    }

    /// Takes a new session for the endpoint of a service on this host; it counts for it until it is dropped.
    ///
    /// # Errors
    /// Why the endpoint does not take it.
    pub fn take(&self, service: &ServiceId) -> Result<Counted, Reason> {
        self.table().ready(service).map(|endpoint| endpoint.open.one_more())
    }

    /// Sessions that the endpoint of a service on this host has open.
    #[must_use]
    pub fn sessions(&self, service: &ServiceId) -> u32 {
        self.table().own.get(service).map_or(0, |endpoint| endpoint.open.count())
    }

    /// How every endpoint of this host is, in order of name.
    #[must_use]
    pub fn own(&self) -> Vec<Standing> {
        let table = self.table();
        table.own.iter().map(|(service, endpoint)| table.standing(service, endpoint)).collect()
    }

    /// How the endpoint of a service on this host is; none when it has none.
    #[must_use]
    pub fn own_standing(&self, service: &ServiceId) -> Option<Standing> {
        let table = self.table();
        table.own.get(service).map(|endpoint| table.standing(service, endpoint))
    }

    /// What [`Endpoints::drain`] was told and is not undone: whether all of this host is drained, and which services are.
    #[must_use]
    pub fn drained(&self) -> (bool, Vec<ServiceId>) {
        let table = self.table();
        let services = table.own.iter().filter(|(_, endpoint)| endpoint.draining).map(|(service, _)| service.clone());
        (table.drained, services.collect())
    }

    /// Resolves when the state of an endpoint of this host may have changed. One task waits for it, on whichever thread.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Something else is to be told to other hosts.
    pub fn tell(&self) {
        self.changed.notify_one();
    }

    /// Has the endpoint of a service, or all of this host with those to come, take no new sessions, or take them again.
    /// A service that is named takes them again whatever its workload said.
    ///
    /// # Errors
    /// [`DrainError`]; nothing has changed.
    pub fn drain(&self, service: Option<&ServiceId>, draining: bool) -> Result<(), DrainError> {
        match service {
            None => self.table().drain_all(draining),
            Some(service) => self.table().drain(service, draining)?,
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
        let heard = said.iter().map(|standing| (standing.service.clone(), standing.clone())).collect();
        self.table().heard.insert(host.clone(), Arc::new(heard));
        said
    }

    /// What a host last said of its endpoint of a service.
    #[must_use]
    pub fn heard(&self, host: &HostName, service: &ServiceId) -> Option<Standing> {
        self.table().heard.get(host)?.get(service).cloned()
    }

    /// Whether a host has said how its endpoints are.
    #[must_use]
    pub fn has_heard(&self, host: &HostName) -> bool {
        self.table().heard.contains_key(host)
    }

    /// Forgets what was said by hosts that are not to be believed any more.
    pub fn forget(&self, is_believed: impl Fn(&HostName) -> bool) {
        let heard: Vec<_> = self.table().heard.iter().map(|(host, said)| (host.clone(), Arc::clone(said))).collect();
        for (host, said) in heard.into_iter().filter(|(host, _)| !is_believed(host)) {
            let mut table = self.table();
            // What it said since it was judged, over a new connection, stays.
            if table.heard.get(&host).is_some_and(|latest| Arc::ptr_eq(latest, &said)) {
                table.heard.remove(&host);
            }
        }
    }
}

impl Table {
    fn serve(&mut self, services: Vec<(&ServiceId, Vec<InterfaceId>)>) {
        let mut before = std::mem::take(&mut self.own);
        for (service, interfaces) in services {
            let known = before.remove_entry(service);
            let (service, mut endpoint) = known.unwrap_or_else(|| (service.clone(), Own::default()));
            endpoint.stand_behind(interfaces);
            self.own.insert(service, endpoint);
        }
    }

    /// An endpoint that takes new sessions, or why it does not.
    fn ready(&self, service: &ServiceId) -> Result<&Own, Reason> {
        let endpoint = self.own.get(service).ok_or(Reason::NotServedHere)?;
        self.state(endpoint).ready().map(|()| endpoint)
    }

    fn standing(&self, service: &ServiceId, endpoint: &Own) -> Standing {
        let (state, sessions, weight) = (self.state(endpoint), endpoint.open.count(), endpoint.weight());
        Standing { service: service.clone(), state, sessions, weight }
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
        self.drained || endpoint.draining
    }

    fn drain_all(&mut self, draining: bool) {
        self.drained = draining;
        if !draining {
            self.own.values_mut().for_each(|endpoint| endpoint.draining = false);
        }
    }

    fn drain(&mut self, service: &ServiceId, draining: bool) -> Result<(), DrainError> {
        let endpoint = self.own.get_mut(service).ok_or_else(|| DrainError::NotServedHere(service.clone()))?;
        if !draining && self.drained {
            return Err(DrainError::WholeHost);
        }
        endpoint.draining = draining;
        if !draining {
            endpoint.behind.values_mut().for_each(|one| one.said.draining = false);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
