//! How many data threads other hosts have, as they say themselves: those with the same number are connected, each by a port of
//! its own, so that what belongs to a session is one thread's on either host.

use ripstop_config::HostName;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Hosts of which something is kept: all that can be connected.
const HOSTS_MAX: usize = 4_096;

/// What is known of it. Heard by the first data thread, looked at by the control thread.
#[derive(Debug, Default)]
pub struct Lanes {
    /// Of hosts that have more than one.
    threads: Mutex<BTreeMap<HostName, u8>>,
    news: Notify,
}

impl Lanes {
    fn threads(&self) -> MutexGuard<'_, BTreeMap<HostName, u8>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host says how many data threads it has.
    pub fn hear(&self, host: &HostName, threads: u8) {
        let mut known = self.threads();
        let before = known.get(host).copied().unwrap_or(1);
        if before == threads || (known.len() >= HOSTS_MAX && !known.contains_key(host)) {
            return;
        }
        match threads {
            0 | 1 => known.remove(host),
            several => known.insert(host.clone(), several),
        };
        drop(known);
        self.news.notify_one();
    }

    /// Resolves when a host has said something else.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Forgets hosts that may not be connected any more.
    pub fn retain(&self, may_connect: impl Fn(&HostName) -> bool) {
        self.threads().retain(|host, _| may_connect(host));
    }

    /// Where the data threads of that number are, of those of some hosts that have one.
    #[must_use]
    pub fn of(&self, number: u8, hosts: &BTreeMap<HostName, SocketAddr>) -> BTreeMap<HostName, SocketAddr> {
        let threads = self.threads();
        let has = |host: &HostName| number == 0 || threads.get(host).is_some_and(|threads| *threads > number);
        let with = hosts.iter().filter(|(host, _)| has(host));
        with.filter_map(|(host, address)| Some((host.clone(), lane(*address, number)?))).collect()
    }
}

/// Where the data thread of that number takes QUIC, by where the first one does; `None` beyond the last port.
#[must_use]
pub fn lane(first: SocketAddr, number: u8) -> Option<SocketAddr> {
    Some(SocketAddr::new(first.ip(), first.port().checked_add(number.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    #[tokio::test]
    async fn only_hosts_that_have_a_thread_of_that_number_are_dialled_there() {
        let lanes = Lanes::default();
        let all = [("beta", 7477), ("gamma", 7500)].map(|(name, port)| (host(name), ([192, 0, 2, 1], port).into()));
        let all = BTreeMap::from(all);
        let ports = |number| lanes.of(number, &all).into_values().map(|at| at.port()).collect::<Vec<_>>();
        assert_eq!((ports(0), ports(1)), (vec![7477, 7500], vec![]));
        lanes.hear(&host("beta"), 3);
        lanes.hear(&host("gamma"), 2);
        lanes.news().await;
        assert_eq!([ports(1), ports(2), ports(3)], [vec![7478, 7501], vec![7479], vec![]]);
        lanes.hear(&host("beta"), 1);
        assert_eq!(ports(1), [7501], "it restarted with one");
        lanes.retain(|known| *known == host("beta"));
        assert!(ports(1).is_empty());
        let none = async || tokio::time::timeout(std::time::Duration::from_millis(1), lanes.news()).await.is_err();
        lanes.news().await;
        lanes.hear(&host("beta"), 1);
        assert!(none().await, "that is no news");
    }

    #[test]
    fn what_hosts_claim_is_bounded() {
        let lanes = Lanes::default();
        for number in 0..HOSTS_MAX + 9 {
            lanes.hear(&host(&format!("h{number}")), 255);
        }
        assert_eq!(lanes.threads().len(), HOSTS_MAX);
        assert_eq!(lane(([192, 0, 2, 1], 65_535).into(), 1), None);
    }
}
