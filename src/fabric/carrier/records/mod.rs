//! Hosts' records in band: what each says of itself, signed, goes from host to host along the connections that there are.
//!
//! 1. A host signs its record anew when it has something new to say, and else at half of its life ([`own`]).
//! 2. Every few seconds, and at once when one reports that it has news (`datapath/src/session/report.rs`), a host asks each of its neighbours
//!    which records came there since it asked last: names and times, some 20 bytes each. It asks for those that are
//!    later than what it has, once each, whoever else has them too.
//! 3. What comes is held against the policy, the clock and the signature of its host ([`judge`]), and kept where it is the latest
//!    ([`ripstop_datapath::session::hearsay`]). A neighbour that hands on what its host has not signed is left alone for a while.
//!
//! Nothing is pushed, so nobody can make a host take, keep or verify more than it asked for. `docs/scale.md` says what that
//! comes to.

mod clocks;
pub(super) mod judge;
mod own;
mod wire;

use super::{Kind, up};
use crate::{
    admin::AgentView as _,
    fabric::{members, neighbours, places, shared::Shared},
};
use bytes::Bytes;
pub(in crate::fabric) use clocks::Clocks;
use judge::{Judge, Refused};
use ripstop_config::HostName;
use ripstop_datapath::session::hearsay::{Cursor, Hearsay, Taken};
use ripstop_telemetry::instruments;
use ripstop_transport::{AskError, RECORD_MAX};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Neighbours that are asked: those of the ring of a million hosts, and others while there is room.
const ASKED_MAX: usize = 40;
/// Of them at once.
const ASKS_MAX: usize = 8;
/// How often each is asked whatever it reports, at least; up to half of it is added by chance.
const RECONCILE: Duration = Duration::from_secs(2);
/// Least time between two questions to one of them.
const LEAST: Duration = Duration::from_millis(250);
/// How long one is left alone that handed on what nobody signed, or does not answer such questions.
const REST: Duration = Duration::from_secs(30);
/// How long an answer may take: a round trip on a bad path, and 256 KiB.
const WAIT: Duration = Duration::from_secs(2);
/// How long all that one list makes a host ask for may take; others can be asked for it then.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// Records asked for at once.
const WANTED_MAX: usize = 64;
/// Bytes of records in an answer: those of 64 hosts as they are usual, and four of the longest.
const RECORDS_MAX: usize = 4 * RECORD_MAX;
/// How often what is not good any more is forgotten.
const TIDY: Duration = Duration::from_secs(1);

/// Tells of this host, hands on what others tell, and forgets it, for as long as it runs.
pub(super) async fn run(shared: &Arc<Shared>) {
    tokio::join!(own::tell(shared), spread(shared), tidy(shared));
}

/// Which records came after those that a host has read of, for that host.
pub(super) fn heads(shared: &Shared, peer: &HostName, body: &[u8]) -> Option<Bytes> {
    let seen = shared.data().transport().address_of(peer);
    Some(wire::heads(&shared.hearsay.heads(wire::read_cursor(body)?), seen))
}

/// The records of hosts, for another host.
pub(super) fn records(shared: &Shared, body: &[u8]) -> Option<Bytes> {
    let (names, now) = (wire::read_names(body)?, Instant::now());
    Some(wire::records(names.iter().filter_map(|host| shared.hearsay.record(host, now))))
}

/// Forgets what is not good any more, by its time or by the policy; and says where hosts may be dialled besides.
async fn tidy(shared: &Arc<Shared>) {
    let (mut policy, mut shut_out) = (shared.policy(), members::shut_out(&shared.policy()));
    let (mut hints, mut alone) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let now = Instant::now();
        instruments::host_records(shared.hearsay.expire(now));
        let newest = shared.policy();
        let addresses = places::by_records(&shared.hearsay, &newest, now);
        if addresses != hints {
            hints.clone_from(&addresses);
            let before = std::mem::replace(&mut alone, places::without_address(&addresses, &newest));
            shared.data().set_hints(&addresses);
            if alone != before {
                shared.connect_peers();
            }
        }
        if !Arc::ptr_eq(&newest, &policy) {
            policy = newest;
            shared.hearsay.keep(|host| judge::is_member(&policy, host));
            let now_shut_out = members::shut_out(&policy);
            if now_shut_out != shut_out {
                shut_out = now_shut_out;
                let judge = Judge::new(shared);
                // Of those that were good some may be signed with a certificate that is shut out by now.
                let _ = tokio::task::spawn_blocking(move || judge.again()).await;
            }
        }
        tokio::time::sleep(TIDY).await;
    }
}

/// A host that is asked.
struct Neighbour {
    cursor: Cursor,
    /// What it last reported of its news when it was asked.
    hinted: u64,
    /// When to ask it whatever it reports.
    due: Instant,
    /// Not before.
    rests: Instant,
    is_asked: bool,
}

/// Those that are.
#[derive(Default)]
struct Neighbours(BTreeMap<HostName, Neighbour>);

/// Why a host did not tell.
#[derive(Debug, thiserror::Error)]
enum Untold {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("its answer is malformed")]
    Malformed,
    #[error("it handed on a record of {0} that is {1}")]
    Forged(HostName, Refused),
    #[error("it took too long")]
    Late,
}

/// What came of asking.
struct Asked {
    host: HostName,
    came: Result<Read, Untold>,
}

/// What was read of a host's list.
struct Read {
    cursor: Cursor,
    /// There is more at once.
    more: bool,
}

async fn spread(shared: &Arc<Shared>) {
    if !shared.config().carrier.in_band {
        return;
    }
    let (mut neighbours, mut running) = (Neighbours::default(), JoinSet::new());
    let mut policy = shared.policy();
    loop {
        let now = Instant::now();
        if !Arc::ptr_eq(&policy, &shared.policy()) {
            // Hosts that were unknown may be known now: all is looked at again.
            policy = shared.policy();
            neighbours.0.values_mut().for_each(|one| one.cursor = Cursor::default());
        }
        neighbours.follow(shared, now);
        while running.len() < ASKS_MAX
            && let Some((host, cursor)) = neighbours.next(&shared.hearsay, now)
        {
            running.spawn(ask(Arc::clone(shared), host, cursor));
        }
        tokio::select! {
            Some(done) = running.join_next() => if let Ok(asked) = done { neighbours.settle(asked) },
            () = shared.hearsay.hints() => {}
            () = tokio::time::sleep(neighbours.wait(now)) => {}
        }
    }
}

impl Neighbours {
    /// Keeps to hosts that are connected: those of the ring first.
    fn follow(&mut self, shared: &Shared, now: Instant) {
        let up = up(shared);
        shared.hearsay.keep_connected(|host| up.contains(host));
        let policy = shared.policy();
        let ring: BTreeSet<_> = neighbours::around(shared.host(), policy.graph().hosts.keys()).into_iter().collect();
        let (near, others): (Vec<_>, Vec<_>) = up.iter().partition(|host| ring.contains(host));
        let asked: BTreeSet<_> = near.into_iter().chain(others).take(ASKED_MAX).collect();
        self.0.retain(|host, _| asked.contains(host));
        for host in asked {
            let new = || Neighbour { cursor: Cursor::default(), hinted: 0, due: now, rests: now, is_asked: false };
            self.0.entry(host.clone()).or_insert_with(new);
        }
    }

    /// Whom to ask now, from where on.
    fn next(&mut self, hearsay: &Hearsay, now: Instant) -> Option<(HostName, Cursor)> {
        let is_due = |host: &HostName, one: &Neighbour| one.due <= now || one.hinted != hearsay.hinted(host);
        let mut all = self.0.iter_mut();
        let (host, one) = all.find(|(host, one)| !one.is_asked && one.rests <= now && is_due(host, one))?;
        (one.is_asked, one.hinted) = (true, hearsay.hinted(host));
        Some((host.clone(), one.cursor))
    }

    fn settle(&mut self, Asked { host, came }: Asked) {
        let now = Instant::now();
        let Some(one) = self.0.get_mut(&host) else { return };
        (one.is_asked, one.due, one.rests) = (false, now + pause(), now + LEAST);
        match came {
            Ok(Read { cursor, more }) => {
                one.cursor = cursor;
                if more {
                    one.due = now;
                }
            }
            Err(Untold::Ask(AskError::NotConnected(_) | AskError::PeerLost(_) | AskError::Timeout)) => {}
            Err(error) => {
                tracing::warn!(%host, %error, "a host does not hand on others' records as it should");
                one.rests = now + REST;
            }
        }
    }

    /// How long there is nothing to do, unless a host reports news.
    fn wait(&self, now: Instant) -> Duration {
        let soonest = self.0.values().filter(|one| !one.is_asked).map(|one| one.due.max(one.rests)).min();
        soonest.map_or(TIDY, |at| at.saturating_duration_since(now)).clamp(LEAST, TIDY)
    }
}

fn pause() -> Duration {
    let share = ripstop_datapath::session::context::random() % 1_000;
    RECONCILE + RECONCILE.mul_f64(f64::from(u32::try_from(share).unwrap_or(0)) / 2_000.0)
}

/// Hosts whose records nobody else is asked for while this is kept.
struct Claim<'s> {
    hearsay: &'s Hearsay,
    hosts: Vec<HostName>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.hearsay.release(&self.hosts);
    }
}

async fn ask(shared: Arc<Shared>, host: HostName, cursor: Cursor) -> Asked {
    let came = ask_one(&shared, &host, cursor).await;
    Asked { host, came }
}

async fn ask_one(shared: &Arc<Shared>, host: &HostName, cursor: Cursor) -> Result<Read, Untold> {
    let transport = shared.data().transport();
    let body = wire::cursor(cursor);
    let answer = transport.ask(host, Kind::Heads as u8, &body, wire::HEADS_BYTES_MAX, WAIT).await?;
    let (heads, seen) = wire::read_heads(&answer).ok_or(Untold::Malformed)?;
    if let Some(at) = seen {
        shared.hearsay.seen(host, at);
    }
    let policy = shared.policy();
    let (hosts, others) = shared.hearsay.claim(&heads.list, |host| judge::is_member(&policy, host));
    let claim = Claim { hearsay: &shared.hearsay, hosts };
    let fetching = fetch(shared, host, &claim.hosts);
    tokio::time::timeout(FETCH_WAIT, fetching).await.map_err(|_| Untold::Late)??;
    // What another neighbour is being asked for may not come from there: then it is listed again here.
    let cursor = if others { cursor } else { heads.cursor };
    Ok(Read { cursor, more: heads.more && !others })
}

/// Asks for records of hosts, and takes those that are good.
async fn fetch(shared: &Arc<Shared>, from: &HostName, wanted: &[HostName]) -> Result<(), Untold> {
    let mut left: BTreeSet<HostName> = wanted.iter().cloned().collect();
    while !left.is_empty() {
        let names: Vec<_> = left.iter().take(WANTED_MAX).cloned().collect();
        let transport = shared.data().transport();
        let answer = transport.ask(from, Kind::Records as u8, &wire::names(&names), RECORDS_MAX, WAIT).await?;
        let judge = Judge::new(shared);
        let judging = tokio::task::spawn_blocking(move || take(&judge, &names, &answer));
        let (came, outcome) = judging.await.map_err(|_| Untold::Malformed)?;
        if came.iter().any(|(_, taken)| *taken == Taken::News) {
            // Whoever is connected asks for it at once.
            shared.data().tell();
        }
        outcome?;
        if came.is_empty() {
            // It had them when it named them, and has not any more.
            return Ok(());
        }
        left.retain(|host| came.iter().all(|(one, _)| one != host));
    }
    Ok(())
}

/// Takes the records of an answer that are good; the first that its host has not signed ends it.
fn take(judge: &Judge, asked: &[HostName], answer: &[u8]) -> (Vec<(HostName, Taken)>, Result<(), Untold>) {
    let mut came = Vec::new();
    let Some(records) = wire::read_records(answer) else { return (came, Err(Untold::Malformed)) };
    for record in records {
        let (of, judged) = judge.judge(record, |host| asked.contains(host));
        let Some(of) = of.filter(|_| came.len() < asked.len()) else { return (came, Err(Untold::Malformed)) };
        match judged {
            Ok(taken) => came.push((of, taken)),
            Err(refused) if refused.is_of_who_hands_it_on() => return (came, Err(Untold::Forged(of, refused))),
            Err(refused) => {
                tracing::debug!(host = %of, %refused, "a record is not believed");
                came.push((of, Taken::Late));
            }
        }
    }
    (came, Ok(()))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
