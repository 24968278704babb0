//! What hosts say of themselves in records, which other hosts hand on: at most one of each host, the latest, for as long as it is
//! good. It decides nothing: an endpoint that a record says is drained or busy is passed over while there is another, and an address
//! in it is tried, where the host that answers has to show that it is that host.
//!
//! 1. The control thread takes records in, once they are verified, and forgets them (`fabric/carrier/records`).
//! 2. The data thread looks at them for hosts that it hears nothing of by a connection. What a host says over that counts more.
//! 3. A record that is forgotten leaves its time behind: an older one of its host is never taken again.

use super::endpoints::{Standing, State};
use bytes::Bytes;
use ripstop_config::{HostName, ServiceId};
use ripstop_policy::BundleId;
use ripstop_transport::Stamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Hosts of which something is kept: all that can be connected.
const HOSTS_MAX: usize = 4_096;
/// Records named in one list: with names as they are usual, 16 KiB.
pub const HEADS_MAX: usize = 1_024;
/// Addresses of a host that are kept: an address of each family, and those of two networks.
pub const ADDRESSES_MAX: usize = 4;

/// The records of all hosts, this one's own among them. Shared by two threads; locked for moments.
#[derive(Debug)]
pub struct Hearsay {
    own: HostName,
    state: Mutex<Table>,
    hints: Notify,
}

#[derive(Debug, Default)]
struct Table {
    hosts: BTreeMap<HostName, Kept>,
    /// Those that are good, in the order in which they came.
    order: BTreeMap<u64, HostName>,
    changes: u64,
    /// How often one came that said something else than the one before.
    news: u64,
    /// Which table it is: numbers of an earlier life of this agent say nothing.
    id: u64,
    /// What other hosts say of their `news`.
    hinted: BTreeMap<HostName, u64>,
    /// Hosts whose record somebody is being asked for.
    asked_for: BTreeSet<HostName>,
    /// Where other hosts see this one.
    seen: BTreeMap<HostName, SocketAddr>,
}

#[derive(Debug)]
struct Kept {
    /// When the latest that was ever taken was issued, by its host's clock.
    issued: u64,
    change: u64,
    /// Nothing once it is not good any more.
    good: Option<Good>,
}

#[derive(Debug)]
struct Good {
    taken: Instant,
    until: Instant,
    said: Said,
}

/// What a verified record says.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its bytes, to be handed on.
    pub record: Bytes,
    /// When it was issued, and for how long.
    pub stamp: Stamp,
    /// The signed policy that its host runs.
    pub policy: BundleId,
    /// The endpoints of its host.
    pub endpoints: Vec<Standing>,
    /// Where its host can be reached, as it believes.
    pub addresses: Vec<SocketAddr>,
}

impl Said {
    /// What of it is worth telling at once.
    fn essence(&self) -> (&[SocketAddr], impl Iterator<Item = (&ServiceId, State, Option<u32>)>) {
        (&self.addresses, self.endpoints.iter().map(|one| (&one.service, one.state, one.weight)))
    }

    fn says_the_same_as(&self, other: &Self) -> bool {
        let ((own, ours), (their, theirs)) = (self.essence(), other.essence());
        own == their && ours.eq(theirs)
    }
}

/// What came of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It says something new.
    News,
    /// It says what the one before said.
    Renewed,
    /// One that is as late was here already, or there is no room.
    Late,
}

/// How far somebody has read the list of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Which table.
    pub table: u64,
    /// The last number that was read.
    pub change: u64,
}

/// Records by name and time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heads {
    /// Up to where this list goes.
    pub cursor: Cursor,
    /// There are more.
    pub more: bool,
    /// The hosts, and when their records were issued.
    pub list: Vec<(HostName, u64)>,
}

/// What a record says of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// How it is.
    pub standing: Standing,
    /// How old it is by both hosts' clocks, of which the part before it came is a quarter of its life at most.
    pub age: Duration,
}

impl Hearsay {
    /// A table of a host, of which `id` tells it from others.
    #[must_use]
    pub fn new(own: HostName, id: u64) -> Self {
        Self { own, state: Mutex::new(Table { id, ..Table::default() }), hints: Notify::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a record that a host issued then would be later than what was had of it. Nobody tells this host of itself.
    #[must_use]
    pub fn wants(&self, host: &HostName, issued: u64) -> bool {
        *host != self.own && self.table().is_later(host, issued)
    }

    /// Takes a record that was verified, good for so long from now.
    pub fn take(&self, host: &HostName, said: Said, good_for: Duration, now: Instant) -> Taken {
        let mut table = self.table();
        let has_room = table.hosts.len() < HOSTS_MAX || table.hosts.contains_key(host);
        if !table.is_later(host, said.stamp.issued) || !has_room {
            return Taken::Late;
        }
        table.changes += 1;
        let (change, issued) = (table.changes, said.stamp.issued);
        let good = Good { taken: now, until: now + good_for, said };
        let before = table.hosts.remove(host);
        if let Some(before) = &before {
            table.order.remove(&before.change);
        }
        let before = before.and_then(|before| before.good);
        let is_news = before.is_none_or(|before| !before.said.says_the_same_as(&good.said));
        table.news += u64::from(is_news);
        table.order.insert(change, host.clone());
        table.hosts.insert(host.clone(), Kept { issued, change, good: Some(good) });
        if is_news { Taken::News } else { Taken::Renewed }
    }

    /// Forgets what is not good any more; says how many records are left.
    pub fn expire(&self, now: Instant) -> usize {
        let Table { hosts, order, .. } = &mut *self.table();
        for (host, kept) in hosts.iter_mut() {
            if kept.good.take_if(|good| good.until <= now).is_some() {
                tracing::debug!(%host, "its record is not good any more");
                order.remove(&kept.change);
            }
        }
        order.len()
    }

    /// Forgets a host's record, but not of when it was.
    pub fn forget(&self, host: &HostName) {
        let Table { hosts, order, .. } = &mut *self.table();
        if let Some(kept) = hosts.get_mut(host) {
            kept.good = None;
            order.remove(&kept.change);
        }
    }

    /// Forgets hosts that are not of the fabric any more.
    pub fn keep(&self, is_member: impl Fn(&HostName) -> bool) {
        let Table { hosts, order, .. } = &mut *self.table();
        hosts.retain(|host, _| is_member(host));
        order.retain(|_, host| is_member(host));
    }

    /// What a host's record says of its endpoint of a service.
    #[must_use]
    pub fn of(&self, host: &HostName, service: &ServiceId, now: Instant) -> Option<Heard> {
        let table = self.table();
        let good = table.good(host, now)?;
        let standing = good.said.endpoints.iter().find(|one| one.service == *service)?.clone();
        let left = good.until.saturating_duration_since(now);
        Some(Heard { standing, age: good.said.stamp.life().saturating_sub(left) })
    }

    /// Which policy a host's record says that it runs.
    #[must_use]
    pub fn policy(&self, host: &HostName, now: Instant) -> Option<BundleId> {
        self.table().good(host, now).map(|good| good.said.policy)
    }

    /// How old each record is, by host.
    #[must_use]
    pub fn ages(&self, now: Instant) -> BTreeMap<HostName, Duration> {
        let table = self.table();
        let good = table.order.values().filter_map(|host| Some((host.clone(), table.good(host, now)?)));
        good.map(|(host, good)| (host, now.saturating_duration_since(good.taken))).collect()
    }

    /// Where hosts say that they can be reached.
    #[must_use]
    pub fn addresses(&self, now: Instant) -> BTreeMap<HostName, Vec<SocketAddr>> {
        let table = self.table();
        let good = table.order.values().filter_map(|host| Some((host.clone(), table.good(host, now)?)));
        let addresses = good.map(|(host, good)| (host, good.said.addresses.clone()));
        addresses.filter(|(host, addresses)| *host != self.own && !addresses.is_empty()).collect()
    }
}

/// What hosts ask each other for.
impl Hearsay {
    /// Which records came after those that somebody has read of.
    #[must_use]
    pub fn heads(&self, read: Cursor) -> Heads {
        let table = self.table();
        let since = if read.table == table.id { read.change } else { 0 };
        let mut left = table.order.range(since.saturating_add(1)..);
        let mut heads = Heads { cursor: Cursor { table: table.id, change: since }, ..Heads::default() };
        for (change, host) in left.by_ref().take(HEADS_MAX) {
            heads.cursor.change = *change;
            heads.list.extend(table.hosts.get(host).map(|kept| (host.clone(), kept.issued)));
        }
        heads.more = left.next().is_some();
        heads
    }

    /// A host's record, to be handed on.
    #[must_use]
    pub fn record(&self, host: &HostName, now: Instant) -> Option<Bytes> {
        self.table().good(host, now).map(|good| good.said.record.clone())
    }

    /// Of those in a list, the hosts whose records are later than what is here: those that nobody is being asked for, which
    /// somebody is from now on until they are [released](Self::release), and whether there are others.
    #[must_use]
    pub fn claim(&self, list: &[(HostName, u64)], is_member: impl Fn(&HostName) -> bool) -> (Vec<HostName>, bool) {
        let mut table = self.table();
        let (mut claimed, mut others) = (Vec::new(), false);
        for (host, issued) in list {
            if *host == self.own || !is_member(host) || !table.is_later(host, *issued) {
                continue;
            }
            match table.asked_for.insert(host.clone()) {
                true => claimed.push(host.clone()),
                false => others = true,
            }
        }
        (claimed, others)
    }

    /// Nobody is being asked for the records of these hosts any more.
    pub fn release(&self, hosts: &[HostName]) {
        self.table().asked_for.retain(|host| !hosts.contains(host));
    }

    /// How often a record came that says something else than the one before: other hosts are told the number.
    #[must_use]
    pub fn news(&self) -> u64 {
        self.table().news
    }

    /// A connected host says that number of its own.
    pub fn hear(&self, host: &HostName, news: u64) {
        let mut table = self.table();
        let has_room = table.hinted.len() < HOSTS_MAX || table.hinted.contains_key(host);
        if has_room && table.hinted.insert(host.clone(), news) != Some(news) {
            drop(table);
            self.hints.notify_one();
        }
    }

    /// The number that a connected host last said.
    #[must_use]
    pub fn hinted(&self, host: &HostName) -> u64 {
        self.table().hinted.get(host).copied().unwrap_or(0)
    }

    /// Resolves when a host has said another one.
    pub async fn hints(&self) {
        self.hints.notified().await;
    }

    /// A connected host sees this one at an address.
    pub fn seen(&self, by: &HostName, at: SocketAddr) {
        let mut table = self.table();
        if table.seen.len() < HOSTS_MAX || table.seen.contains_key(by) {
            table.seen.insert(by.clone(), at);
        }
    }

    /// Where this host can be reached: where most of the connected hosts see it, then where fewer do.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<SocketAddr> {
        let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for at in self.table().seen.values() {
            *counts.entry(*at).or_default() += 1;
        }
        let mut addresses: Vec<_> = counts.into_iter().collect();
        addresses.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        addresses.truncate(ADDRESSES_MAX);
        // In one order, so that a count that changes is no news.
        let mut addresses: Vec<_> = addresses.into_iter().map(|(address, _)| address).collect();
        addresses.sort();
        addresses
    }

    /// Forgets what was said by hosts that are not connected any more.
    pub fn keep_connected(&self, is_connected: impl Fn(&HostName) -> bool) {
        let mut table = self.table();
        table.hinted.retain(|host, _| is_connected(host));
        table.seen.retain(|host, _| is_connected(host));
    }
}

impl Table {
    fn is_later(&self, host: &HostName, issued: u64) -> bool {
        self.hosts.get(host).is_none_or(|kept| issued > kept.issued)
    }

    fn good(&self, host: &HostName, now: Instant) -> Option<&Good> {
        self.hosts.get(host)?.good.as_ref().filter(|good| good.until > now)
    }
}

#[cfg(test)]
#[path = "hearsay_tests.rs"]
mod tests;
