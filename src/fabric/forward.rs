//! DNS for names outside the fabric, on the control thread.

use anyhow::Context as _;
use ripstop_config::{AgentConfig, graph::Ranges};
use ripstop_datapath::session::context::ForwardQuery;
use ripstop_dns::{FabricRanges, Forwarder, Upstreams};
use std::net::SocketAddr;
use tokio::sync::{mpsc, watch};

/// Queries that wait to be taken up; the forwarder bounds those in flight.
const WAITING_MAX: usize = 4_096;
/// The host's own resolver settings.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The way to the forwarder.
pub(super) struct Forward {
    pub(super) queries: mpsc::Sender<ForwardQuery>,
    /// The fabric's ranges: no answer from outside may point into them.
    pub(super) ranges: watch::Sender<Ranges>,
}

pub(super) fn start(config: &AgentConfig, ranges: Ranges) -> anyhow::Result<Forward> {
    let given = config.upstream.clone();
    let mut forwarder =
        forwarder(given.as_deref(), ranges).context("failed to set up DNS forwarding; check `dns.upstream`")?;
    let (queries, mut asked) = mpsc::channel::<ForwardQuery>(WAITING_MAX);
    let (sender, mut ranges) = watch::channel(ranges);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                // What was cached under other ranges may point into these.
                Ok(()) = ranges.changed() => match self::forwarder(given.as_deref(), *ranges.borrow_and_update()) {
                    Ok(another) => forwarder = another,
                    Err(error) => tracing::error!(%error, "DNS forwarding stays with the ranges it had"),
                },
                query = asked.recv() => match query {
                    Some(query) => answer(forwarder.clone(), query),
                    None => return,
                },
            }
        }
    });
    Ok(Forward { queries, ranges: sender })
}

fn answer(forwarder: Forwarder, ForwardQuery { workload, query, via, reply }: ForwardQuery) {
    tokio::spawn(async move {
        // The workload may be gone by the time the answer is there.
        let _ = reply.send(forwarder.resolve(&workload, &query, via).await);
    });
}

fn forwarder(given: Option<&[SocketAddr]>, ranges: Ranges) -> Result<Forwarder, ripstop_dns::UpstreamError> {
    Forwarder::new(upstreams(given, &ranges), FabricRanges::from(ranges))
}

fn upstreams(given: Option<&[SocketAddr]>, ranges: &Ranges) -> Upstreams {
    if let Some(servers) = given {
        return Upstreams::new(servers.iter().copied());
    }
    // A host without one forwards nothing, and says so in its answers.
    let found = Upstreams::from_resolv_conf(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    Upstreams::new(found.as_slice().iter().copied().filter(|server| !ranges.contain(server.ip())))
}
