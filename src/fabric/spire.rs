//! This host's identity by a Workload API of SPIFFE.
//!
//! 1. Before it has an identity the agent serves nothing ([`wait`]): it asks until it is given one. Meanwhile its admin socket and the
//!    service manager say what it waits for. One that takes over from another agent gives up soon, and that one goes on.
//! 2. From there on each message stands in the place of those before ([`follow`]): connections begin with its certificate, and those
//!    that are open stay, but for hosts for whom no CA of its trust bundle vouches.
//! 3. While nobody answers all stays as it is, until the certificate expires. What is said of that is what is said of every
//!    certificate that is not renewed.

use super::{Signals, load, schedule::Life, service_manager, shared::Shared};
use crate::admin::{AdminSocket, Rights, SOCKET};
use anyhow::{Context as _, anyhow};
use nix::unistd::geteuid;
use ripstop_config::{AgentConfig, FabricName, HostName};
use ripstop_telemetry::instruments;
use ripstop_transport::{
    Identity,
    workload_api::{Offer, SourceError, WorkloadApi},
};
use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

/// How long an agent that takes over waits: a part of what the one before allows for all that it prepares.
pub(super) const TAKE_OVER_MAX: Duration = Duration::from_secs(5);
/// How long one waits who only looks.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// How often the service manager is told that the agent waits; it waits three times as long.
const TOLD_EVERY: Duration = Duration::from_secs(20);
/// How often what was refused is judged again.
const JUDGED_AGAIN: Duration = Duration::from_secs(30);
/// Pauses after failures: the first, and the longest. It is a socket of this host, and what it has may have been waited for.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The first identity, however long that takes; `None` when the agent was told to stop before.
///
/// # Errors
/// When the graph cannot be read, or another agent answers on the admin socket.
pub(super) async fn wait(
    config: &AgentConfig,
    socket: &Path,
    signals: &mut Signals,
) -> anyhow::Result<Option<(Identity, WorkloadApi)>> {
    let fabric = load::fabric(config)?;
    let mut api = WorkloadApi::at(socket);
    let waiting = Waiting::begin(config)?;
    let asked = tokio::select! {
        identity = ask(&mut api, &config.host, fabric.as_ref(), |why| waiting.says(why)) => Some(identity),
        never = waiting.tell_service_manager() => match never {},
        _ = signals.terminate.recv() => None,
        _ = signals.interrupt.recv() => None,
    };
    waiting.end().await;
    asked.map(|identity| Ok((of_host(config, identity)?, api))).transpose()
}

/// The same for who does not wait long.
///
/// # Errors
/// Also when there is none by then, with why.
pub(super) async fn at_once(
    config: &AgentConfig,
    socket: &Path,
    longest: Duration,
) -> anyhow::Result<(Identity, WorkloadApi)> {
    let (identity, api) = soon(config, socket, longest).await?;
    Ok((of_host(config, identity)?, api))
}

/// What is handed out now, for who only looks. Blocks.
///
/// # Errors
/// When there is none within some seconds, with why.
pub(super) fn look(config: &AgentConfig, socket: &Path) -> anyhow::Result<Identity> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(soon(config, socket, LOOK_MAX))?.0)
}

async fn soon(config: &AgentConfig, socket: &Path, longest: Duration) -> anyhow::Result<(Identity, WorkloadApi)> {
    let fabric = load::fabric(config)?;
    let mut api = WorkloadApi::at(socket);
    let mut why = format!("unix://{} does not answer", socket.display());
    let asking = ask(&mut api, &config.host, fabric.as_ref(), |said| why = said.to_owned());
    let asked = tokio::time::timeout(longest, asking).await;
    let identity = asked.map_err(|_| anyhow!(why))?;
    Ok((identity, api))
}

/// The keys of the QUIC endpoint stay when the certificate and its key are replaced.
fn of_host(config: &AgentConfig, identity: Identity) -> anyhow::Result<Identity> {
    Ok(identity.with_endpoint_secret_of(&config.state.join(load::ENDPOINT_SECRET))?)
}

/// Asks until there is an identity, and says each time why there is none.
async fn ask(
    api: &mut WorkloadApi,
    host: &HostName,
    fabric: Option<&FabricName>,
    mut says: impl FnMut(&str),
) -> Identity {
    let (mut pauses, mut refused) = (Pauses::default(), None);
    loop {
        match next(api, refused.take()).await {
            Ok(offer) => {
                pauses.failures = 0;
                match offer.identity(host, fabric) {
                    Ok(identity) => return identity,
                    Err(why) => says(&why.to_string()),
                }
                refused = Some(offer);
            }
            Err(why) => {
                says(&why.to_string());
                sleep(pauses.next()).await;
            }
        }
    }
}

/// Follows what the Workload API says for as long as it runs.
pub(super) async fn follow(shared: Arc<Shared>, mut api: WorkloadApi) {
    let (mut pauses, mut refused) = (Pauses::default(), None);
    loop {
        match next(&mut api, refused.take()).await {
            Ok(offer) => {
                if std::mem::take(&mut pauses.failures) > 0 {
                    tracing::info!(socket = %api.socket().display(), "the Workload API answers again");
                }
                shared.certificate().source_answers();
                refused = (!take(&shared, &offer)).then_some(offer);
            }
            Err(error) => {
                let pause = pauses.next();
                away(&shared, &error, pauses.failures);
                sleep(pause).await;
            }
        }
    }
}

/// The next message. One that was refused is had again after a while: it may have been this machine's clock, and the server
/// says nothing twice.
async fn next(api: &mut WorkloadApi, refused: Option<Offer>) -> Result<Offer, SourceError> {
    match refused {
        None => api.next().await,
        Some(offer) => tokio::time::timeout(JUDGED_AGAIN, api.next()).await.unwrap_or(Ok(offer)),
    }
}

/// Puts what is handed out in the place of what there was, or says that it is no good.
fn take(shared: &Shared, offer: &Offer) -> bool {
    let transport = shared.data().transport();
    let before = transport.identity();
    let taken = match offer.identity(before.host(), Some(before.fabric())) {
        Ok(next) if next.certificate() == before.certificate() && next.trusts_as(&before) => Ok(before),
        Ok(next) => renew(shared, &before, next),
        Err(why) => {
            trust(shared, &before, offer);
            Err(anyhow!(why))
        }
    };
    match taken {
        Ok(identity) => {
            shared.certificate().renewed(&identity);
            true
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(error, "what the Workload API hands out is no identity for this host");
            instruments::certificate_renewed(false);
            shared.certificate().not_renewed(error);
            false
        }
    }
}

fn renew(shared: &Shared, before: &Identity, next: Identity) -> anyhow::Result<Identity> {
    let trusted_as_before = next.trusts_as(before);
    shared.data().renew(&next)?;
    if next.certificate() != before.certificate() {
        instruments::certificate_renewed(true);
        let expires = time::OffsetDateTime::from(next.not_after());
        tracing::info!(%expires, serial = %next.certificate(), "this host has a new certificate");
    }
    if !trusted_as_before {
        tracing::info!("the fabric's trust bundle has changed: hosts for whom it does not vouch are disconnected");
    }
    Ok(next)
}

/// A CA that is trusted no more is trusted no more, also where this host's own certificate is no good.
fn trust(shared: &Shared, before: &Identity, offer: &Offer) {
    let Some(bundle) = offer.bundle(before.fabric()) else { return };
    let trusted = before.trusting(&bundle).map_err(anyhow::Error::new).and_then(|next| match next.trusts_as(before) {
        true => Ok(before.clone()),
        false => renew(shared, before, next),
    });
    if let Err(error) = trusted {
        tracing::error!("the fabric's trust bundle is no good, and the one before stays: {error:#}");
    }
}

/// Nobody answers: that is told at once, and is an alarm when another certificate is due.
fn away(shared: &Shared, error: &SourceError, failures: u32) {
    let identity = shared.data().transport().identity();
    let life = Life { not_before: identity.not_before(), not_after: identity.not_after(), spread: 0.0 };
    let (now, why) = (SystemTime::now(), error.to_string());
    if life.is_due(now) {
        instruments::certificate_renewed(false);
        shared.certificate().not_renewed(why.clone());
    }
    match life.is_worrying(now) {
        true => tracing::error!(failures, why, "this host's certificate is not renewed and soon no good"),
        false if failures == 1 => {
            tracing::warn!(why, "the Workload API is away; the certificate stays until it expires");
        }
        false => tracing::debug!(failures, why, "the Workload API is away"),
    }
    shared.certificate().source_away(why);
}

/// Pauses after failures in a row, growing, each drawn from its upper half so that the agents of many hosts do not ask in step.
#[derive(Default)]
struct Pauses {
    failures: u32,
    random: RandomState,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let growing = PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        let drawn = f64::from(self.random.hash_one(self.failures) as u32) / f64::from(u32::MAX);
        growing.mul_f64(0.5 + drawn / 2.0)
    }
}

/// Says what the agent waits for before it has an identity: to who asks its admin socket, to the service manager, in the log.
struct Waiting {
    why: watch::Sender<String>,
    serving: JoinHandle<()>,
    host: HostName,
}

impl Waiting {
    fn begin(config: &AgentConfig) -> anyhow::Result<Self> {
        let rights = Rights::new(config.admin.clone(), geteuid().as_raw());
        let admin = AdminSocket::bind(&config.run.join(SOCKET), rights).context("failed to say what is waited for")?;
        let (why, said) =
            watch::channel(format!("host {} waits for its identity, and serves nothing yet", config.host));
        Ok(Self { why, serving: tokio::spawn(admin.refuse_all(said)), host: config.host.clone() })
    }

    fn says(&self, why: &str) {
        let text = format!("host {} waits for its identity, and serves nothing until then: {why}", self.host);
        let is_news = self.why.send_if_modified(|said| {
            let before = std::mem::replace(said, text.clone());
            before != text
        });
        if is_news {
            tracing::warn!("{text}");
        }
    }

    /// Has the service manager wait on, and know for what.
    async fn tell_service_manager(&self) -> Infallible {
        let mut said = self.why.subscribe();
        loop {
            service_manager::waits(&said.borrow_and_update(), TOLD_EVERY * 3);
            // One that is late is as good, as the sender is this one.
            let _ = tokio::time::timeout(TOLD_EVERY, said.changed()).await;
        }
    }

    /// Lets go of the admin socket: it is gone when this returns.
    async fn end(self) {
        self.serving.abort();
        // It was aborted, which is what is waited for.
        let _ = self.serving.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_no_further() {
        let mut pauses = Pauses::default();
        let all: Vec<_> = (0..40).map(|_| pauses.next()).collect();
        assert!((PAUSE_MIN / 2..=PAUSE_MIN).contains(&all[0]), "{:?}", all[0]);
        assert!(all.iter().all(|pause| *pause <= PAUSE_MAX) && all[39] >= PAUSE_MAX / 2);
        assert!(all[..6].windows(3).all(|three| three[2] > three[0]), "{all:?}");
    }
}
