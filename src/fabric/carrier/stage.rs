//! Staged policies: each host reports which one it has, and who hears of a later one asks for it. What came of it on live
//! traffic is asked of all hosts by the one that its operator asks.

use super::{FETCH_WAIT, FetchError, Kind};
use crate::{
    admin::{HostPolicy, HostStage, Reach, Staged},
    fabric::shared::Shared,
};
use bytes::Bytes;
use ripstop_config::HostName;
use ripstop_policy::bundle::BUNDLE_MAX;
use ripstop_transport::Transport;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinSet};

/// How often it is looked for a later one, besides when one is heard of.
const LOOK: Duration = Duration::from_secs(5);
/// How long a host is not asked that did not have what it said.
const REST: Duration = Duration::from_secs(10);
/// Attempts of each kind in an answer: some 200 bytes each.
const TOLD_MAX: usize = 500;
/// Bytes of an answer.
const ANSWER_MAX: usize = 512 << 10;
/// Hosts asked at once.
const ASKED_MAX: usize = 32;
/// How long one may take: a round trip on a bad path.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Follows what operators stage on other hosts, for as long as it runs.
pub(super) async fn follow(shared: &Arc<Shared>) {
    let Some(signed) = shared.signed() else { return };
    let mut resting: BTreeMap<HostName, Instant> = BTreeMap::new();
    loop {
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
        let stages = signed.policies.stages();
        let wanted = stages.into_iter().filter(|(host, id)| shared.wants_stage(*id) && !resting.contains_key(host));
        let Some((host, _)) = wanted.max_by_key(|(_, id)| *id) else {
            tokio::select! {
                () = signed.policies.stage_news() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            continue;
        };
        if let Err(error) = fetch(shared, &host).await {
            tracing::debug!(%host, %error, "a staged policy was not to be had from a host that named it");
            resting.insert(host, now + REST);
        }
    }
}

async fn fetch(shared: &Arc<Shared>, host: &HostName) -> Result<(), FetchError> {
    let transport = shared.data().transport();
    let bytes = transport.ask(host, Kind::Staged as u8, &[], BUNDLE_MAX, FETCH_WAIT).await?;
    if bytes.is_empty() {
        return Err(FetchError::Nothing);
    }
    let taking = Arc::clone(shared);
    let took = tokio::task::spawn_blocking(move || taking.take_stage(&bytes)).await;
    let id = took.map_err(|_| FetchError::BrokeOff)?.map_err(|why| FetchError::Refused(why.into()))?;
    tracing::info!(%host, number = id.number, version = %id.bundle.version, "a staged policy came from another host");
    Ok(())
}

/// What is staged here, for another host.
pub(super) fn staged(shared: &Shared) -> Bytes {
    shared.signed().and_then(|signed| signed.stage.bytes()).map(Bytes::from_owner).unwrap_or_default()
}

/// What it would change here, for the host that was asked; without the graph, which that one has.
pub(super) async fn tried(shared: &Arc<Shared>) -> Bytes {
    let asking = Arc::clone(shared);
    let staged = tokio::task::spawn_blocking(move || asking.data().staged()).await;
    let staged = staged.ok().and_then(Result::ok).flatten().map(cut);
    serde_json::to_vec(&staged).map(Bytes::from).unwrap_or_default()
}

fn cut(mut staged: Staged) -> Staged {
    staged.graph = String::new();
    for attempts in [&mut staged.would_allow, &mut staged.would_deny] {
        attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.count));
        staged.left_out += attempts.len().saturating_sub(TOLD_MAX);
        attempts.truncate(TOLD_MAX);
    }
    staged
}

/// Asks other hosts what a staged policy would change there, those at once that are connected.
pub(in crate::fabric) async fn ask_all(transport: &Transport, hosts: Vec<HostPolicy>) -> Vec<HostStage> {
    let (places, mut asking) = (Arc::new(Semaphore::new(ASKED_MAX)), JoinSet::new());
    let mut all: BTreeMap<HostName, HostStage> = BTreeMap::new();
    for HostPolicy { host, reach, .. } in hosts {
        if reach == Reach::Up {
            let (transport, places, host) = (transport.clone(), Arc::clone(&places), host.clone());
            asking.spawn(async move {
                let _place = places.acquire_owned().await;
                let said = ask_one(&transport, &host).await;
                (host, said)
            });
        }
        all.insert(host.clone(), HostStage { host, reach, answered: false, staged: None });
    }
    while let Some(done) = asking.join_next().await {
        let Ok((host, Some(staged))) = done else { continue };
        if let Some(one) = all.get_mut(&host) {
            (one.answered, one.staged) = (true, staged);
        }
    }
    all.into_values().collect()
}

async fn ask_one(transport: &Transport, host: &HostName) -> Option<Option<Staged>> {
    match transport.ask(host, Kind::Tried as u8, &[], ANSWER_MAX, ANSWER_WAIT).await {
        Ok(answer) => serde_json::from_slice(&answer).ok(),
        Err(error) => {
            tracing::debug!(%host, %error, "a host did not say what the staged policy would change");
            None
        }
    }
}
