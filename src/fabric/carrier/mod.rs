//! The in-band carrier: hands the signed policy on to other hosts, and gets newer ones from them. Beside it, or in its place,
//! an etcd may carry them ([`etcd`]).
//!
//! 1. Each host reports to those that it is connected with which policy it has (`datapath/src/session/report.rs`): at once when that
//!    changes, and to each that connects. A session's header names it too.
//! 2. Who hears of a newer one asks for it, one host after the other ([`choose`]), and takes it as it would take one from an
//!    operator: verified, kept, in force, and reported on. So it spreads from host to host, and a host can only hand on
//!    what operators signed.
//! 3. Every few seconds one host is asked whatever it said.
//!
//! What hosts say of themselves goes the same ways: [`records`].
//!
//! Whom a host is connected with for that is for [`super::neighbours`] to say. Here, too, requests of other agents are
//! answered, whatever they are about.

mod behind;
mod carried;
mod choose;
#[cfg(feature = "etcd")]
mod etcd;
mod records;
mod stage;

pub(super) use records::Clocks;
pub(super) use stage::ask_all;

use super::{asks, capture, shared::Shared, signed::Refusal};
use bytes::Bytes;
pub(super) use carried::{Carried, Said};
use choose::{FETCHES_MAX, Fetches};
use ripstop_config::{AgentConfig, HostName};
use ripstop_policy::{BundleId, bundle::BUNDLE_MAX};
use ripstop_transport::{AskError, PeerState, Request};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// Requests that wait to be answered; more are turned away.
pub(super) const REQUESTS_WAITING: usize = 64;
/// Answers under way at once; each host has few of them.
const ANSWERS_MAX: usize = 32;
/// How long a bundle may take to come: 16 MiB on a path of 5 Mbit/s.
const FETCH_WAIT: Duration = Duration::from_secs(30);
/// How soon to look again while a newer policy is known of and not here.
const LOOK: Duration = Duration::from_millis(250);
/// How often one host is asked whatever it said, at least; up to half of it is added by chance, so that hosts which started
/// together do not ask together.
const RECONCILE: Duration = Duration::from_secs(4);

/// Bytes of the answer to [`Kind::Ping`].
pub(super) const PONG: usize = 8;

/// What one agent may ask another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The signed policy, if it is newer than the one whose identifier is the body; else an empty answer.
    Policy = 1,
    /// The policy whose identifier is the body, if it is kept; else an empty answer.
    Kept = 2,
    /// A sign of life: the clock, in microseconds since 1970.
    Ping = 3,
    /// The policy that operators staged; an empty answer where there is none.
    Staged = 4,
    /// What that would change on the host that is asked, as JSON.
    Tried = 5,
    /// Packets of workloads, as far as the settings of the host that is asked let it; see [`capture::answer`].
    Capture = 6,
    /// Which records of hosts came after those of which the body says that they are known.
    Heads = 7,
    /// The records of the hosts that the body names.
    Records = 8,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        let all = [
            Self::Policy,
            Self::Kept,
            Self::Ping,
            Self::Staged,
            Self::Tried,
            Self::Capture,
            Self::Heads,
            Self::Records,
        ];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("it does not have what it said")]
    Nothing,
    #[error("what it gave is refused: {0}")]
    Refused(#[from] Refusal),
    #[error("it does not keep the policies in between any more")]
    Between,
    #[error("taking it broke off")]
    BrokeOff,
    #[cfg(feature = "etcd")]
    #[error(transparent)]
    Etcd(#[from] ripstop_transport::etcd::EtcdError),
    #[cfg(feature = "etcd")]
    #[error("{0}")]
    Parts(&'static str),
}

/// What came of asking a host.
struct Fetched {
    host: HostName,
    came: Result<BundleId, FetchError>,
}

/// Carries policies and records for as long as it runs. Where the policy is a file, records alone.
pub(super) async fn carry(shared: Arc<Shared>, requests: mpsc::Receiver<Request>) {
    tokio::join!(
        answer(&shared, requests),
        get(&shared),
        stage::follow(&shared),
        records::run(&shared),
        by_etcd(&shared)
    );
}

#[cfg(feature = "etcd")]
async fn by_etcd(shared: &Arc<Shared>) {
    if let Some(settings) = &shared.config().carrier.etcd {
        etcd::carry(shared, settings).await;
    }
}

/// The settings were refused if they name one: see [`check`].
#[cfg(not(feature = "etcd"))]
async fn by_etcd(_: &Arc<Shared>) {}

/// Whether this program carries as the settings say.
///
/// # Errors
/// When it was built without.
pub(super) fn check(config: &AgentConfig) -> anyhow::Result<()> {
    if cfg!(feature = "etcd") || config.carrier.etcd.is_none() {
        return Ok(());
    }
    anyhow::bail!(
        "`carrier: {{ etcd: … }}` needs a ripstop that was built with it: `cargo build --release --features etcd`"
    )
}

async fn answer(shared: &Arc<Shared>, mut requests: mpsc::Receiver<Request>) {
    let places = Arc::new(Semaphore::new(ANSWERS_MAX));
    while let Some(request) = requests.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let (peer, kind) = (request.peer.clone(), request.kind);
            if let Err(error) = answer_one(&shared, request).await {
                tracing::debug!(%peer, kind, %error, "a request was not answered");
            }
            drop(place);
        });
    }
}

async fn answer_one(shared: &Arc<Shared>, request: Request) -> Result<(), ripstop_transport::AnswerError> {
    match Kind::of(request.kind) {
        Some(Kind::Policy) => match (shared.bundle(), BundleId::decode(&request.body)) {
            (_, None) => request.refuse("that is no identifier of a policy").await,
            (Some(bundle), Some(theirs)) if bundle.id() > theirs => {
                request.answer(Bytes::from_owner(Arc::clone(bundle.bytes()))).await
            }
            (_, Some(_)) => request.answer(Bytes::new()).await,
        },
        Some(Kind::Kept) => match BundleId::decode(&request.body) {
            None => request.refuse("that is no identifier of a policy").await,
            Some(id) => request.answer(behind::kept(shared, id).await).await,
        },
        Some(Kind::Ping) => request.answer(Bytes::copy_from_slice(&asks::pong())).await,
        Some(Kind::Staged) => request.answer(stage::staged(shared)).await,
        Some(Kind::Tried) => request.answer(stage::tried(shared).await).await,
        Some(Kind::Capture) => match capture::answer(shared, &request.peer, &request.body).await {
            Ok(answer) => request.answer(answer).await,
            Err(why) => request.refuse(&why).await,
        },
        Some(Kind::Heads) => match records::heads(shared, &request.peer, &request.body) {
            Some(answer) => request.answer(answer).await,
            None => request.refuse("that is no place in a list of records").await,
        },
        Some(Kind::Records) => match records::records(shared, &request.body) {
            Some(answer) => request.answer(answer).await,
            None => request.refuse("those are no names of hosts").await,
        },
        None => request.refuse("this version of ripstop does not know such a request").await,
    }
}

async fn get(shared: &Arc<Shared>) {
    let Some(signed) = shared.signed() else { return };
    let in_band = shared.config().carrier.in_band;
    let (mut fetches, mut running) = (Fetches::default(), JoinSet::new());
    let mut reconcile = Instant::now() + pause();
    loop {
        let now = Instant::now();
        shared.stop_watching_hosts(now);
        let up = up(shared);
        fetches.keep(|host| up.contains(host), now);
        signed.policies.keep(|host| up.contains(host), fetches.resting(now));
        let heard = if in_band { signed.policies.heard() } else { BTreeMap::new() };
        while let Some(host) = fetches.next(&heard, |id| signed.takes(id), now) {
            running.spawn(fetch(Arc::clone(shared), host));
        }
        if now >= reconcile {
            reconcile = now + pause();
            if let Some(host) = any(&up).filter(|_| in_band && fetches.is_idle() && running.len() < FETCHES_MAX) {
                running.spawn(ask_anyway(Arc::clone(shared), host));
            }
        }
        let waiting = heard.values().any(|id| signed.takes(*id));
        let look = if waiting { LOOK } else { reconcile.saturating_duration_since(now).min(Duration::from_secs(1)) };
        tokio::select! {
            Some(done) = running.join_next() => if let Ok(Some(fetched)) = done { settle(&mut fetches, &fetched) },
            () = signed.policies.news() => {}
            () = tokio::time::sleep(look) => {}
        }
    }
}

fn settle(fetches: &mut Fetches, Fetched { host, came }: &Fetched) {
    match came {
        Ok(id) => tracing::info!(%host, policy = %id, "the policy came from another host"),
        Err(error) => tracing::warn!(%host, %error, "a newer policy was not to be had from a host that named it"),
    }
    fetches.finished(host, came.is_ok(), Instant::now());
}

async fn fetch(shared: Arc<Shared>, host: HostName) -> Option<Fetched> {
    let came = match ask(&shared, &host).await {
        Ok(Some(id)) => Ok(id),
        // It came from elsewhere meanwhile, or never was.
        Ok(None) if shared.signed().is_some_and(|signed| signed.still_wants(&host)) => Err(FetchError::Nothing),
        Ok(None) => Ok(shared.bundle_id()),
        Err(error) => Err(error),
    };
    Some(Fetched { host, came })
}

/// Without a reason to: nothing is expected, and nothing held against the host.
async fn ask_anyway(shared: Arc<Shared>, host: HostName) -> Option<Fetched> {
    match ask(&shared, &host).await {
        Ok(Some(id)) => tracing::info!(%host, policy = %id, "the policy came from another host, which had not said so"),
        Ok(None) => {}
        Err(error) => tracing::debug!(%host, %error, "a host could not be asked for its policy"),
    }
    None
}

/// Asks a host for a newer policy and takes it; `None` when it has none.
async fn ask(shared: &Arc<Shared>, host: &HostName) -> Result<Option<BundleId>, FetchError> {
    let own = shared.bundle_id().encode();
    let transport = shared.data().transport();
    let bytes = transport.ask(host, Kind::Policy as u8, &own, BUNDLE_MAX, FETCH_WAIT).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    behind::take(shared, &mut behind::Other { shared, host }, bytes).await.map(Some)
}

fn up(shared: &Shared) -> BTreeSet<HostName> {
    let peers = shared.data().transport().peers();
    peers.into_iter().filter(|peer| peer.state == PeerState::Up).map(|peer| peer.host).collect()
}

/// One of the hosts, by chance.
fn any(hosts: &BTreeSet<HostName>) -> Option<HostName> {
    let at = ripstop_datapath::session::context::random().checked_rem(hosts.len() as u64)?;
    hosts.iter().nth(usize::try_from(at).unwrap_or(0)).cloned()
}

fn pause() -> Duration {
    let share = ripstop_datapath::session::context::random() % 1_000;
    RECONCILE + RECONCILE.mul_f64(f64::from(u32::try_from(share).unwrap_or(0)) / 2_000.0)
}
