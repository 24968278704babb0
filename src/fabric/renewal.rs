//! Keeps this host's certificate fresh: at half its life another one, with another key, takes its place, and no connection
//! notices. An authority that is away is asked again, and missed only when the certificate has expired.

#[cfg(feature = "spire")]
use super::spire;
use super::{schedule::Life, shared::Shared, source};
use crate::{
    authority::{Authority, client},
    durable,
};
use anyhow::{Context as _, bail};
use ripstop_config::{AgentConfig, HostName};
use ripstop_telemetry::instruments;
use ripstop_transport::{Identity, pem, pki};
use std::{
    fs,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};
use tokio::{task::AbortHandle, time::sleep};

/// Where certificates come from.
enum Source {
    /// This host holds the authority.
    Own(Arc<Authority>),
    /// Another host does: its name, and where it was when this one joined.
    Other(HostName, SocketAddr),
}

/// Renews while it is held.
#[must_use]
pub(super) struct Renewing {
    task: Option<AbortHandle>,
    /// It makes and keeps nothing, and only hears of what others do.
    only_follows: bool,
}

impl Renewing {
    /// Another agent of this host renews from here on. What only follows goes on while it is held, for the connections that
    /// are left here.
    pub(super) fn hand_over(self) -> Option<Self> {
        self.only_follows.then_some(self)
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Starts to renew, where the settings say from whom.
pub(super) fn start(shared: &Arc<Shared>, authority: Option<Arc<Authority>>, source: source::Source) -> Renewing {
    match source {
        source::Source::Files => {
            let other = shared.config().renew.clone().map(|renew| Source::Other(renew.host, renew.address));
            let source = authority.map(Source::Own).or(other);
            let task = source.map(|source| tokio::spawn(keep(Arc::clone(shared), source)).abort_handle());
            Renewing { task, only_follows: false }
        }
        #[cfg(feature = "spire")]
        source::Source::Spire(api) => {
            let task = tokio::spawn(spire::follow(Arc::clone(shared), *api)).abort_handle();
            Renewing { task: Some(task), only_follows: true }
        }
    }
}

async fn keep(shared: Arc<Shared>, source: Source) {
    let random = RandomState::new();
    let (mut renewed, mut failures) = (0_u64, 0_u32);
    loop {
        let identity = shared.data().transport().identity();
        let spread = drawn(&random, renewed);
        let life = Life { not_before: identity.not_before(), not_after: identity.not_after(), spread };
        if !life.is_due(SystemTime::now()) {
            // What failed by a clock that is right again is no worry.
            if std::mem::take(&mut failures) > 0 {
                shared.certificate().renewed(&identity);
            }
            sleep(life.look()).await;
            continue;
        }
        match renew(&shared, &source, &identity).await {
            Ok(identity) => {
                (renewed, failures) = (renewed + 1, 0);
                shared.certificate().renewed(&identity);
                instruments::certificate_renewed(true);
                let expires = time::OffsetDateTime::from(identity.not_after());
                tracing::info!(%expires, serial = %identity.certificate(), "this host has a new certificate");
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                instruments::certificate_renewed(false);
                let error = format!("{error:#}");
                match life.is_worrying(SystemTime::now()) {
                    true => tracing::error!(failures, error, "this host's certificate is not renewed and soon no good"),
                    false => tracing::warn!(failures, error, "this host's certificate was not renewed yet"),
                }
                shared.certificate().not_renewed(error);
                sleep(life.pause(failures, drawn(&random, u64::from(failures) << 32 | renewed))).await;
            }
        }
    }
}

/// From 0 to 1.
fn drawn(random: &RandomState, number: u64) -> f64 {
    f64::from(random.hash_one(number) as u32) / f64::from(u32::MAX)
}

async fn renew(shared: &Arc<Shared>, source: &Source, identity: &Identity) -> anyhow::Result<Identity> {
    let (certificate, request) = match source {
        Source::Own(authority) => own(authority, identity)?,
        Source::Other(host, joined_at) => other(shared, host, *joined_at, identity).await?,
    };
    let shared = Arc::clone(shared);
    let installing = tokio::task::spawn_blocking(move || {
        let identity = install(shared.config(), &certificate, &request.key_pem)?;
        shared.data().renew(&identity)?;
        anyhow::Ok(identity)
    });
    installing.await.context("the renewal broke off")?
}

fn own(authority: &Authority, identity: &Identity) -> anyhow::Result<(String, pki::Request)> {
    let request = pki::Request::new(identity.host())?;
    let granted = authority.issue_own(identity.host(), &request.der)?;
    Ok((granted.certificate_pem, request))
}

/// Where the policy says that the authority's host is, and if nothing comes of that, where it was.
async fn other(
    shared: &Shared,
    host: &HostName,
    joined_at: SocketAddr,
    identity: &Identity,
) -> anyhow::Result<(String, pki::Request)> {
    let now_at = shared.address_of(host);
    match now_at.filter(|address| *address != joined_at) {
        None => client::renew(joined_at, host, identity).await,
        Some(address) => match client::renew(address, host, identity).await {
            Ok(renewed) => Ok(renewed),
            Err(error) => client::renew(joined_at, host, identity).await.map_err(|_| error),
        },
    }
}

/// Puts a certificate and its key in the place of those before, in one file and one step, once they are found good.
fn install(config: &AgentConfig, certificate: &str, key: &str) -> anyhow::Result<Identity> {
    let files = config.identity_files().context("no file of this host holds its certificate")?;
    let path = &files.certificate;
    let next = PathBuf::from(format!("{}.next", path.display()));
    let text = pem::joined(certificate, key);
    durable::replace(&next, text.as_bytes(), 0o600).with_context(|| format!("failed to write {}", next.display()))?;
    let identity = Identity::load(&next, &next, &files.ca).context("the new certificate is no good")?;
    if *identity.host() != config.host {
        bail!("the new certificate is of host `{}`", identity.host());
    }
    fs::rename(&next, path)
        .and_then(|()| durable::sync_directory(path))
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(identity)
}
