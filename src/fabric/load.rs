//! Identity and graph from their files, checked against each other.

use crate::files;
use anyhow::{Context as _, bail};
use ripstop_config::{AgentConfig, FabricName, Graph};
use ripstop_policy::Policy;
use ripstop_transport::Identity;

pub(super) fn identity(config: &AgentConfig) -> anyhow::Result<Identity> {
    let identity = Identity::load(&config.certificate, &config.key, &config.ca)?;
    if *identity.host() != config.host {
        bail!(
            "{}: the certificate is of host `{}`, but the settings say `host: {}`; issue one with `ripstop ca issue host {}`",
            config.certificate.display(),
            identity.host(),
            config.host,
            config.host
        );
    }
    Ok(identity)
}

pub(super) fn read(config: &AgentConfig) -> anyhow::Result<String> {
    files::read(&config.graph).context("failed to read the service graph")
}

/// Compiles the graph, and makes sure that it is of this host's fabric.
pub(super) fn compile(config: &AgentConfig, fabric: &FabricName, text: &str) -> anyhow::Result<Policy> {
    let file = config.graph.display().to_string();
    let graph = Graph::parse(&file, text).map_err(|mistakes| files::mistakes_in(&config.graph, &mistakes))?;
    if graph.fabric != *fabric {
        bail!("{file}: the graph is of fabric `{}`, but this host's certificate is of `{fabric}`", graph.fabric);
    }
    if !graph.hosts.contains_key(&config.host) {
        bail!("{file}: the graph has no host `{}`; add it under `hosts:`", config.host);
    }
    ripstop_policy::compile(graph).with_context(|| format!("failed to compile {file}"))
}
