//! The agent: from its settings to a running host of the fabric, and back to a clean one.
//!
//! 1. Check what can be checked without changing anything: rights, identity, graph, addresses in use. Between the rights and
//!    the rest, while there is one thread, the door is started and all rights but its own few are given up
//!    ([`crate::confine`]).
//! 2. Take the run directory, and the addresses.
//! 3. Start the data thread (QUIC, interfaces, sessions); this thread keeps admin, metrics, DNS forwarding, reloads and the
//!    carrier of signed policies, so that a scrape never costs a packet.
//! 4. End the sessions that a killed agent left behind, attach the workloads of this host, taking over what still stands, and
//!    keep them attached.
//! 5. On SIGTERM or SIGINT: end the sessions, write their records, and restore the kernel's state.

mod asks;
mod attachments;
mod by_hand;
mod carrier;
mod certificate;
mod containers;
mod data;
mod door;
mod enrolment;
mod forward;
mod load;
mod members;
mod neighbours;
mod plan;
mod process;
mod renewal;
mod schedule;
mod services;
mod shared;
mod signed;
mod split_domain;
mod stage;
mod voice;
mod watch;

use crate::{
    admin::{AdminSocket, Rights, SOCKET},
    kernel::{Kernel, Missing},
    page::Page,
    session::context::Control,
    telemetry::{self, Readiness, RecordLog, instruments},
};
use anyhow::{Context as _, bail};
use door::Doorkeeper;
pub use door::Opened;
use enrolment::Enrolment;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::geteuid,
};
use ripstop_config::AgentConfig;
use ripstop_transport::Identity;
use shared::Shared;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// How long the last records may take to be written when the agent stops.
const RECORDS_MAX: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// What kept it from starting, with what to do about it; nothing is left half set up.
pub fn run(config: AgentConfig, door: Opened) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    runtime.block_on(async {
        // First, as a signal that nobody listens to ends the process.
        let signals = Signals::listen()?;
        let identity = load::identity(&config)?;
        let start = load::start(&config, identity.fabric())?;
        serve(config, identity, start, door, signals).await
    })
}

/// Whether this host can run an agent.
///
/// # Errors
/// All that is missing, with what to do about it.
pub fn preflight(missing: &[Missing]) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = missing.iter().map(|one| format!("  {}: {}", one.what, one.remedy)).collect();
    bail!("this host cannot run an agent:\n{}", lines.join("\n"))
}

/// Each session of an endpoint on the host takes a descriptor, and the usual soft limit is 1024.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) => tracing::debug!(limit, "descriptors"),
        Err(error) => tracing::warn!(%error, "failed to raise the limit of open descriptors"),
    }
}

/// What the agent listens to besides its own parts.
struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self {
            reload: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

async fn serve(
    config: AgentConfig,
    identity: Identity,
    start: load::Start,
    door: Opened,
    signals: Signals,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let readiness = Readiness::new();
    let starting = readiness.hold("starting");
    let metrics = instruments::install().context("failed to set up metrics")?;
    let door = Doorkeeper::watch(door, readiness.clone())?;
    // Before all else, as another agent that already runs would hold everything else too.
    let kernel = Arc::new(Kernel::lock(&config.run, Arc::clone(&door.doorway))?);
    instruments::build_info();
    if let Some(address) = config.metrics {
        let listener = telemetry::http::bind(address).await?;
        tokio::spawn(telemetry::http::serve(listener, metrics, readiness.clone()));
    } else {
        tokio::spawn(telemetry::http::upkeep(metrics));
    }
    let page = match config.page {
        Some(address) => Some(telemetry::http::bind_as(address, "page").await?),
        None => None,
    };
    let admin = AdminSocket::bind(&config.run.join(SOCKET), Rights::new(config.admin.clone(), geteuid().as_raw()))?;
    let enrolment = Enrolment::prepare(&config, &identity).await?;
    let records = RecordLog::start(&config.sessions)?;
    let forward = forward::start(&config, start.policy.graph().ranges)?;
    let (requests, asked) = mpsc::channel(carrier::REQUESTS_WAITING);
    let (voices, calls) = mpsc::channel(voice::CALLS_WAITING);
    let control = Control { forward: forward.queries.clone(), requests, policies: start.policies(), voices };
    announce(&config, &start);
    let data = data::start(&config, identity, Arc::clone(&start.policy), records.clone(), control).await?;
    let shared = Shared::new(config, start, enrolment.authority(), data.handle(), forward, &records, door);
    serve_admin(admin, page, &shared);
    tokio::spawn(voice::listen(Arc::clone(&shared), calls));
    tokio::spawn(carrier::carry(Arc::clone(&shared), asked));
    shared.connect_peers();
    let renewing = enrolment.begin(&shared);
    let stopped = run_until_told(&shared, &kernel, signals, starting).await;
    let stopping = readiness.hold("stopping");
    drop(renewing);
    tracing::info!("stopping");
    data.stop().await;
    let written = records.finish(RECORDS_MAX).context("failed to write the last session records");
    let restored = kernel.restore().context("failed to restore the kernel's state; run `ripstop cleanup`");
    drop(stopping);
    stopped.and(restored).and(written)
}

/// The API, and the page beside it.
fn serve_admin(admin: AdminSocket, page: Option<TcpListener>, shared: &Arc<Shared>) {
    let shown = Page::new(Arc::clone(shared) as _, shared.config().page);
    tokio::spawn(admin.serve(Arc::clone(shared) as _, shown.on_socket()));
    if let Some(listener) = page {
        tokio::spawn(shown.serve(listener));
    }
}

fn announce(config: &AgentConfig, start: &load::Start) {
    let policy = &start.policy;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        host = %config.host,
        fabric = %policy.fabric(),
        policy = %policy.digest(),
        version = %policy.version(),
        listen = %config.listen,
        metrics = config.metrics.map(tracing::field::display),
        "starting"
    );
    if let Some(error) = &start.error {
        tracing::error!("{error}");
    }
}

async fn run_until_told(
    shared: &Arc<Shared>,
    kernel: &Arc<Kernel>,
    mut signals: Signals,
    starting: telemetry::Unready,
) -> anyhow::Result<()> {
    let mut changes = shared.graph_file().map(watch::graph).transpose()?;
    // What changed since it was read is no notice any more.
    shared.reload_if_changed().await;
    let attaching = attachments::keep(shared, kernel, starting);
    let mut attaching = std::pin::pin!(attaching);
    loop {
        tokio::select! {
            ended = &mut attaching => return ended,
            Some(()) = watch::next(&mut changes) => shared.reload_if_changed().await,
            _ = signals.reload.recv() => shared.reload_now(),
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
        }
    }
}
