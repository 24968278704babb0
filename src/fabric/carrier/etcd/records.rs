//! Hosts' records in etcd: the same ones that go from host to host, each gone with its host's lease. They say which policy a
//! host runs to who applies one, and how the endpoints are of hosts that this one has no connection to. They grant nothing:
//! whoever has etcd may keep an old one of a host there for as long as that is good, but none that it has not signed.

use super::{Carrier, Session, keys::Keys};
use crate::{
    admin::AgentView as _,
    fabric::{carrier::records::judge::Judge, shared::Shared},
};
use ripstop_config::HostName;
use ripstop_transport::{
    RECORD_MAX,
    etcd::{Client, EtcdError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Records that are read at once: 4 MiB at worst.
const PAGE: u32 = 64;
/// Hosts of which something is kept: all that can be connected.
const HOSTS_MAX: usize = 4_096;
/// Hosts that are not connected whose records are looked for in one turn; the others have theirs.
const FOLLOWED_MAX: usize = 32;

impl Carrier<'_> {
    /// Puts this host's record there, if it has one.
    pub(super) async fn tell(&self, session: &mut Session) -> Result<(), EtcdError> {
        let record = session.record.borrow_and_update().clone();
        if record.is_empty() {
            return Ok(());
        }
        let key = self.keys.host(self.shared.host());
        session.client.put(&key, &record, Some(&session.lease)).await
    }

    /// Reads the records of hosts that workloads here may call and that are not connected.
    pub(super) async fn follow(&mut self, session: &mut Session) -> Result<(), EtcdError> {
        let (policy, transport) = (self.shared.policy(), self.shared.data().transport());
        let called: BTreeSet<_> = self.shared.called(&policy).collect();
        let is_wanted = |host: &&&HostName| **host != self.shared.host() && !transport.is_up(host);
        let wanted: BTreeSet<HostName> = called.iter().filter(is_wanted).map(|host| (*host).clone()).collect();
        self.others.found.retain(|host| wanted.contains(host));
        let judge = Judge::new(self.shared);
        for host in self.others.turn(&wanted) {
            match session.client.get(&self.keys.host(&host)).await? {
                Some(record) => {
                    take(&judge, &host, &record);
                    self.others.found.insert(host);
                }
                // Its lease is over.
                None if self.others.found.remove(&host) => self.shared.hearsay.forget(&host),
                None => {}
            }
        }
        Ok(())
    }
}

fn take(judge: &Judge, host: &HostName, record: &[u8]) {
    if let (_, Err(refused)) = judge.judge(record, |of| of == host) {
        tracing::debug!(%host, %refused, "a host's record in etcd is not believed");
    }
}

/// Other hosts' records.
#[derive(Default)]
pub(super) struct Others {
    /// Hosts that are followed and had one.
    found: BTreeSet<HostName>,
    /// The last host of the turn before.
    last: Option<HostName>,
}

impl Others {
    /// The hosts whose turn it is.
    fn turn(&mut self, wanted: &BTreeSet<HostName>) -> Vec<HostName> {
        let after = wanted.iter().filter(|host| self.last.as_ref().is_none_or(|last| *host > last));
        let before = wanted.iter().filter(|host| self.last.as_ref().is_some_and(|last| *host <= last));
        let turn: Vec<_> = after.chain(before).take(FOLLOWED_MAX).cloned().collect();
        self.last = turn.last().cloned();
        turn
    }

    /// Reads what all hosts of the policy say, and which policy they run.
    pub(super) async fn read(&mut self, shared: &Shared, keys: &Keys, client: &mut Client) -> Result<(), EtcdError> {
        let (judge, policy) = (Judge::new(shared), shared.policy());
        let (mut said, mut before) = (BTreeMap::new(), None::<String>);
        for _ in 0..HOSTS_MAX.div_ceil(PAGE as usize) {
            let page = client.list(&keys.hosts(), before.as_deref(), PAGE, RECORD_MAX * PAGE as usize).await?;
            for entry in &page.entries {
                let host = keys.host_of(&entry.key).filter(|host| policy.graph().hosts.contains_key(host));
                let Some(host) = host else { continue };
                take(&judge, &host, &entry.value);
                let runs = shared.hearsay.policy(&host, Instant::now());
                said.extend(runs.map(|runs| (host, runs)));
            }
            match page.entries.last() {
                Some(last) if page.entries.len() == PAGE as usize => before = Some(last.key.clone()),
                Some(_) | None => break,
            }
        }
        shared.carried.said(said);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_hosts_take_turns() {
        let hosts = |count: usize| -> BTreeSet<_> {
            (0..count).map(|number| HostName::new(&format!("h{number:03}")).unwrap()).collect()
        };
        let (all, mut others) = (hosts(70), Others::default());
        let turns: Vec<_> = (0..3).map(|_| others.turn(&all)).collect();
        assert!(turns.iter().all(|turn| turn.len() == FOLLOWED_MAX));
        assert_eq!(turns.concat().into_iter().collect::<BTreeSet<_>>(), all);
        assert_eq!((others.turn(&hosts(3)).len(), others.turn(&hosts(0)).len()), (3, 0));
    }
}
