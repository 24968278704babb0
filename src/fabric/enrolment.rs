//! The authority, where this host holds it, and what keeps this host's certificate fresh.

use super::{
    members::Desk,
    renewal::{self, Renewing},
    shared::Shared,
    source::{self, Source},
};
use crate::authority::{Authority, listener};
use anyhow::{Context as _, bail};
use ripstop_config::AgentConfig;
use ripstop_transport::Identity;
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};
use tokio::{net::TcpListener, task::AbortHandle};

/// What there is before the agent runs.
pub(super) struct Enrolment {
    held: Option<(Arc<Authority>, TcpListener)>,
}

impl Enrolment {
    /// Opens the authority and takes its address, where the settings say so. The authority's CA must be one that the hosts
    /// trust. `inherited` is the address as another agent of this host has it.
    pub(super) async fn prepare(
        config: &AgentConfig,
        identity: &Identity,
        inherited: Option<TcpListener>,
    ) -> anyhow::Result<Self> {
        let Some(settings) = &config.authority else { return Ok(Self { held: None }) };
        let shown = settings.directory.display();
        let authority = Authority::open(&settings.directory, settings.certificates)
            .with_context(|| format!("failed to open the authority in {shown}"))?;
        if !authority.ca().is_trusted_by(identity) {
            bail!("the CA in {shown} does not vouch for {}: are both of the same fabric?", source::shown(config));
        }
        let listener = match inherited {
            Some(listener) => listener,
            None => listener::bind(config.listen).await.with_context(|| {
                format!(
                    "failed to listen on TCP {} for hosts that join; what listens there? See `ss -tlpn`",
                    config.listen
                )
            })?,
        };
        Ok(Self { held: Some((Arc::new(authority), listener)) })
    }

    /// The address, for another agent of this host.
    pub(super) fn descriptor(&self) -> std::io::Result<Option<OwnedFd>> {
        self.held.as_ref().map(|(_, listener)| listener.as_fd().try_clone_to_owned()).transpose()
    }

    /// The authority, if this host holds it.
    pub(super) fn authority(&self) -> Option<Arc<Authority>> {
        self.held.as_ref().map(|(authority, _)| Arc::clone(authority))
    }

    /// Lets hosts join until the task is aborted, and renews this host's certificate while the guard is held.
    pub(super) fn begin(self, shared: &Arc<Shared>, source: Source) -> (Renewing, Option<AbortHandle>) {
        let renewing = renewal::start(shared, self.authority(), source);
        let serving = self.held.map(|(authority, listener)| {
            let desk = Desk::new(shared, Arc::clone(&authority));
            tokio::spawn(listener::serve(listener, authority, Arc::new(desk))).abort_handle()
        });
        (renewing, serving)
    }
}
