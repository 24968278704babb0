//! Identity and policy as they are at the start, checked against each other.

use super::{
    carrier,
    signed::{self, Signed},
};
use crate::files;
use anyhow::{Context as _, bail};
use ripstop_config::{
    AgentConfig, FabricName, Graph,
    agent::{IdentityFiles, PolicySource},
};
use ripstop_datapath::session::policies::Policies;
use ripstop_policy::Policy;
use ripstop_transport::Identity;
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// In the state directory: what keys of the QUIC endpoint are taken from where certificates change.
pub(super) const ENDPOINT_SECRET: &str = "endpoint.key";

/// Where the policy comes from.
pub(super) enum Source {
    /// A graph's file on this host.
    File(PathBuf),
    /// Operators sign it.
    Signed(Box<Signed>),
}

/// What the agent starts with.
pub(super) struct Start {
    pub(super) source: Source,
    pub(super) policy: Arc<Policy>,
    /// What the policy was compiled from, if it is a file.
    pub(super) text: Option<String>,
    /// What is wrong, although the agent can start.
    pub(super) error: Option<String>,
}

impl Start {
    /// What other hosts have, where policies are signed.
    pub(super) fn policies(&self) -> Option<Arc<Policies>> {
        match &self.source {
            Source::File(_) => None,
            Source::Signed(signed) => Some(Arc::clone(&signed.policies)),
        }
    }
}

pub(super) fn identity(config: &AgentConfig, files: &IdentityFiles) -> anyhow::Result<Identity> {
    // One that is renewed may have expired while the host was off: with it another one is asked for.
    let identity = match config.authority.is_some() || config.renew.is_some() {
        true => Identity::load_whenever(&files.certificate, &files.key, &files.ca)?
            .with_endpoint_secret_of(&config.state.join(ENDPOINT_SECRET))?,
        false => Identity::load(&files.certificate, &files.key, &files.ca)?,
    };
    if *identity.host() != config.host {
        bail!(
            "{}: the certificate is of host `{}`, but the settings say `host: {}`; issue one with `ripstop ca issue host {}`",
            files.certificate.display(),
            identity.host(),
            config.host,
            config.host
        );
    }
    Ok(identity)
}

/// The policy at the start, of a fabric. `locked` is the lock of signed policies where another agent of this host has it.
pub(super) fn start(config: &AgentConfig, fabric: &FabricName, locked: Option<File>) -> anyhow::Result<Start> {
    carrier::check(config)?;
    match &config.policy {
        PolicySource::File(file) => {
            let text = read(file)?;
            let policy = Arc::new(compile(config, file, fabric, &text)?);
            Ok(Start { source: Source::File(file.clone()), policy, text: Some(text), error: None })
        }
        PolicySource::Signed(trust) => {
            let signed::Start { signed, policy, damage } = Signed::start(config, trust, fabric, locked)?;
            let source = Source::Signed(Box::new(signed));
            Ok(Start { source, policy: Arc::new(policy), text: None, error: damage })
        }
    }
}

pub(super) fn read(file: &Path) -> anyhow::Result<String> {
    files::read(file).context("failed to read the service graph")
}

/// The fabric that the graph's file names. A policy that operators sign is of the fabric that the certificate names.
#[cfg(feature = "spire")]
pub(super) fn fabric(config: &AgentConfig) -> anyhow::Result<Option<FabricName>> {
    let PolicySource::File(path) = &config.policy else { return Ok(None) };
    let graph = Graph::parse(&path.display().to_string(), &read(path)?);
    Ok(Some(graph.map_err(|mistakes| files::mistakes_in(path, &mistakes))?.fabric))
}

/// Compiles the graph, and makes sure that it is of this host's fabric.
pub(super) fn compile(config: &AgentConfig, path: &Path, fabric: &FabricName, text: &str) -> anyhow::Result<Policy> {
    let file = path.display().to_string();
    let graph = Graph::parse(&file, text).map_err(|mistakes| files::mistakes_in(path, &mistakes))?;
    if graph.fabric != *fabric {
        bail!("{file}: the graph is of fabric `{}`, but this host's certificate is of `{fabric}`", graph.fabric);
    }
    if !graph.hosts.contains_key(&config.host) {
        bail!("{file}: the graph has no host `{}`; add it under `hosts:`", config.host);
    }
    ripstop_policy::compile(graph).with_context(|| format!("failed to compile {file}"))
}
