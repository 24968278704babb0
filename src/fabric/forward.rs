//! DNS for names outside the fabric, on the control thread.

use crate::session::context::ForwardQuery;
use anyhow::Context as _;
use ripstop_config::AgentConfig;
use ripstop_dns::{FabricRanges, Forwarder, Upstreams};
use ripstop_policy::Policy;
use tokio::sync::mpsc;

/// Queries that wait to be taken up; the forwarder bounds those in flight.
const WAITING_MAX: usize = 4_096;
/// The host's own resolver settings.
const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(super) fn start(config: &AgentConfig, policy: &Policy) -> anyhow::Result<mpsc::Sender<ForwardQuery>> {
    let forwarder = Forwarder::new(upstreams(config, policy), FabricRanges::from(policy.graph().ranges))
        .context("failed to set up DNS forwarding; check `dns.upstream`")?;
    let (sender, mut queries) = mpsc::channel::<ForwardQuery>(WAITING_MAX);
    tokio::spawn(async move {
        while let Some(ForwardQuery { workload, query, via, reply }) = queries.recv().await {
            let forwarder = forwarder.clone();
            tokio::spawn(async move {
                // The workload may be gone by the time the answer is there.
                let _ = reply.send(forwarder.resolve(&workload, &query, via).await);
            });
        }
    });
    Ok(sender)
}

fn upstreams(config: &AgentConfig, policy: &Policy) -> Upstreams {
    if let Some(servers) = &config.upstream {
        return Upstreams::new(servers.iter().copied());
    }
    // A host without one forwards nothing, and says so in its answers.
    let found = Upstreams::from_resolv_conf(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    Upstreams::new(found.as_slice().iter().copied().filter(|server| !policy.contains(server.ip())))
}
