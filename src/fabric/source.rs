//! Where this host's identity comes from: files, or a Workload API of SPIFFE.

#[cfg(feature = "spire")]
use super::spire;
use super::{Signals, load};
use ripstop_config::{AgentConfig, agent::IdentitySource};
use ripstop_transport::Identity;
#[cfg(feature = "spire")]
use ripstop_transport::workload_api::WorkloadApi;
use std::path::Path;

/// What an identity came from, and its next one will.
pub(super) enum Source {
    /// Files, which the authority's host or people renew.
    Files,
    /// A Workload API, which says by itself when there is another one.
    #[cfg(feature = "spire")]
    Spire(Box<WorkloadApi>),
}

/// This host's identity, once it has one. `None` when the agent was told to stop before; an agent that takes over from another
/// does not wait.
///
/// # Errors
/// When the files are no good, or this program was built without what the settings name.
pub(super) async fn begin(
    config: &AgentConfig,
    signals: &mut Signals,
    takes_over: bool,
) -> anyhow::Result<Option<(Identity, Source)>> {
    match &config.identity {
        IdentitySource::Files(files) => Ok(Some((load::identity(config, files)?, Source::Files))),
        IdentitySource::Spire(socket) => by_spire(config, socket, signals, takes_over).await,
    }
}

#[cfg(feature = "spire")]
async fn by_spire(
    config: &AgentConfig,
    socket: &Path,
    signals: &mut Signals,
    takes_over: bool,
) -> anyhow::Result<Option<(Identity, Source)>> {
    let begun = match takes_over {
        true => Some(spire::at_once(config, socket, spire::TAKE_OVER_MAX).await?),
        false => spire::wait(config, socket, signals).await?,
    };
    Ok(begun.map(|(identity, api)| (identity, Source::Spire(Box::new(api)))))
}

#[cfg(not(feature = "spire"))]
async fn by_spire(_: &AgentConfig, _: &Path, _: &mut Signals, _: bool) -> anyhow::Result<Option<(Identity, Source)>> {
    Err(missing())
}

/// This host's identity as it is now, for who only looks; one whose certificate has expired, too, where it is files. Blocks, for
/// some seconds at most.
///
/// # Errors
/// When there is none that can be used.
pub(crate) fn look(config: &AgentConfig) -> anyhow::Result<Identity> {
    match &config.identity {
        IdentitySource::Files(files) => Ok(Identity::load_whenever(&files.certificate, &files.key, &files.ca)?),
        #[cfg(feature = "spire")]
        IdentitySource::Spire(socket) => spire::look(config, socket),
        #[cfg(not(feature = "spire"))]
        IdentitySource::Spire(_) => Err(missing()),
    }
}

#[cfg(not(feature = "spire"))]
fn missing() -> anyhow::Error {
    anyhow::anyhow!(
        "`identity: {{ spire: … }}` needs a ripstop that was built with it: `cargo build --release --features spire`"
    )
}

/// The source, for people.
pub(crate) fn shown(config: &AgentConfig) -> String {
    match &config.identity {
        IdentitySource::Files(files) => files.certificate.display().to_string(),
        IdentitySource::Spire(socket) => format!("SPIRE at unix://{}", socket.display()),
    }
}
