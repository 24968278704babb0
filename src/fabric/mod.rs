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
//! 5. On SIGTERM or SIGINT: end the sessions, write their records, and restore the kernel's state. When another agent takes over
//!    ([`upgrade`]): leave all that to it, and end the sessions that are open as they end.

mod asks;
mod attachments;
mod by_hand;
mod capture;
mod carrier;
mod certificate;
mod containers;
mod data;
mod door;
mod enrolment;
mod forward;
mod inspect;
mod load;
mod members;
mod neighbours;
mod places;
mod plan;
mod process;
mod relay;
mod renewal;
mod schedule;
mod service_manager;
mod services;
mod shared;
mod signed;
pub(crate) mod source;
#[cfg(feature = "spire")]
mod spire;
mod split_domain;
mod stage;
mod upgrade;
mod voice;
mod watch;

use crate::{admin::AdminSocket, page::Page};
use anyhow::{Context as _, bail};
use attachments::Beginning;
use data::Data;
use door::Doorkeeper;
pub use door::Opened;
use enrolment::Enrolment;
use metrics_exporter_prometheus::PrometheusHandle;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use renewal::Renewing;
use ripstop_config::AgentConfig;
use ripstop_datapath::session::{
    context::{Control, random},
    hearsay::Hearsay,
};
use ripstop_kernel::{Kernel, Missing};
use ripstop_telemetry::{Export, Readiness, RecordLog, instruments};
use ripstop_transport::Identity;
use shared::{Parts, Shared};
use source::Source;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
pub use upgrade::Upgraded;
use upgrade::{Adopted, AdoptedInterface, Draining, Inherited, Listeners, Places, Succession, Upgrades};

/// How long the last records may take to be written when the agent stops.
const RECORDS_MAX: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop, or another one has taken over from it. With `drain` it takes over from the agent that
/// runs, whose open sessions may go on for so long.
///
/// # Errors
/// What kept it from starting, with what to do about it; nothing is left half set up.
pub fn run(config: AgentConfig, door: Opened, drain: Option<Duration>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    runtime.block_on(async {
        // First, as a signal that nobody listens to ends the process.
        let signals = Signals::listen()?;
        let Some(drain) = drain else { return start(config, door, signals, None).await };
        let succession = Succession::begin(&config, drain).await?;
        let control = succession.control();
        let ended = start(config, door, signals, Some(succession)).await;
        if let Err(error) = &ended {
            upgrade::fail(&control, error).await;
        }
        ended
    })
}

async fn start(
    config: AgentConfig,
    door: Opened,
    mut signals: Signals,
    mut succession: Option<Succession>,
) -> anyhow::Result<()> {
    let begun = source::begin(&config, &mut signals, succession.is_some()).await?;
    let Some((identity, source)) = begun else { return Ok(()) };
    let locked = succession.as_mut().and_then(Succession::policies);
    let start = load::start(&config, identity.fabric(), locked)?;
    serve(config, (identity, source), start, door, signals, succession).await
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

/// The agent once it listens.
struct Serving {
    shared: Arc<Shared>,
    kernel: Arc<Kernel>,
    listeners: Listeners,
    readiness: Readiness,
    data: Data,
    records: RecordLog,
    renewing: Renewing,
}

async fn serve(
    config: AgentConfig,
    (identity, source): (Identity, Source),
    start: load::Start,
    door: Opened,
    signals: Signals,
    succession: Option<Succession>,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let readiness = Readiness::new();
    let starting = readiness.hold("starting");
    let metrics = instruments::install().context("failed to set up metrics")?;
    let door = Doorkeeper::watch(door, readiness.clone())?;
    let upgrades = Upgrades::new(succession.as_ref());
    let Places { kernel, metrics: listener, page, admin, entrance, inherited } =
        Places::of(&config, Arc::clone(&door.doorway), succession).await?;
    let Inherited { enrolment, data: inherited, by_hand, adopted } = inherited;
    let mut listeners = Listeners::new(&admin, &entrance)?;
    instruments::build_info();
    let enrolment = Enrolment::prepare(&config, &identity, enrolment).await?;
    listeners.set_enrolment(enrolment.descriptor()?);
    listeners.metrics(listener.as_ref())?;
    listeners.page(page.as_ref())?;
    let export = Export::start(&config, identity.fabric())?;
    // Standard output is that of whoever started this agent until the one before has given its own.
    let (unsettled, after) = std::sync::mpsc::sync_channel(0);
    let records = RecordLog::start_after(after, &config.sessions, export)?;
    let forward = forward::start(&config, start.policy.graph().ranges)?;
    let (requests, asked) = mpsc::channel(carrier::REQUESTS_WAITING);
    let (voices, calls) = mpsc::channel(voice::CALLS_WAITING);
    let hearsay = Arc::new(Hearsay::new(config.host.clone(), random()));
    let control = Control {
        forward: forward.queries.clone(),
        requests,
        policies: start.policies(),
        hearsay: Arc::clone(&hearsay),
        lanes: Arc::default(),
        voices,
    };
    announce(&config, &start);
    let policy = Arc::clone(&start.policy);
    let data = data::start(&config, identity, policy, records.clone(), control, inherited).await?;
    let parts = Parts { authority: enrolment.authority(), forward, door, upgrades, hearsay };
    let shared = Shared::new(config, start, data.handle(), &records, parts);
    by_hand.into_iter().for_each(|(workload, hand)| shared.by_hand.set(workload, Some(hand)));
    let adopted = settle(&shared, adopted).await?;
    drop(unsettled);
    // From here on all is this agent's, to keep in order and to undo.
    if let Err(error) = admin.own() {
        tracing::error!("{:#}", anyhow::Error::new(error));
    }
    tokio::spawn(voice::listen(Arc::clone(&shared), calls));
    // Whoever asks meanwhile waits, and sees the host as it is. What cannot be taken up is undone like all else.
    let adopted = attachments::begin(&shared, &kernel, adopted).await;
    // What was attached goes on being so.
    let starting = Some(starting).filter(|_| !matches!(adopted, Ok(Some(_))));
    serve_metrics(listener, metrics, &readiness, &mut listeners);
    serve_admin(admin, page, &shared, &mut listeners);
    listeners.served_by(tokio::spawn(carrier::carry(Arc::clone(&shared), asked)).abort_handle());
    let (renewing, enrolling) = enrolment.begin(&shared, source);
    enrolling.into_iter().for_each(|task| listeners.served_by(task));
    let (coming, receiving) = upgrade::receive(entrance);
    listeners.served_by(receiving);
    service_manager::lives(&shared).into_iter().for_each(|signs| listeners.served_by(signs));
    let serving = Serving { shared, kernel: Arc::new(kernel), listeners, readiness, data, records, renewing };
    serving.until_told(signals, Beginning { starting, adopted, coming }).await
}

/// Takes up what the agent before has, where there is one; else begins to connect.
async fn settle(shared: &Arc<Shared>, adopted: Option<Adopted>) -> anyhow::Result<Option<Vec<AdoptedInterface>>> {
    let Some(adopted) = adopted else {
        shared.connect_peers();
        return Ok(None);
    };
    adopted.settle(shared).await.map(Some)
}

impl Serving {
    async fn until_told(self, mut signals: Signals, beginning: Beginning) -> anyhow::Result<()> {
        let Self { shared, kernel, listeners, readiness, data, records, renewing } = self;
        let ended = run_until_told(&shared, &kernel, &listeners, &mut signals, beginning).await;
        let stopping = readiness.hold("stopping");
        // Held to the end, where it goes on.
        let _following = match &ended {
            Ok(Ended::HandedOver(_)) => renewing.hand_over(),
            Ok(Ended::Told) | Err(_) => None,
        };
        let stopped = match ended {
            Ok(Ended::HandedOver(draining)) => {
                listeners.hand_over();
                return upgrade::drain(&shared, draining, signals, data, &records).await;
            }
            Ok(Ended::Told) => Ok(()),
            Err(error) => Err(error),
        };
        tracing::info!("stopping");
        service_manager::stops();
        data.stop().await;
        let written = records.finish(RECORDS_MAX).context("failed to write the last session records");
        let restored = kernel.restore().context("failed to restore the kernel's state; run `ripstop cleanup`");
        drop(stopping);
        stopped.and(restored).and(written)
    }
}

/// Serves `/metrics`, where that is wanted.
fn serve_metrics(
    listener: Option<TcpListener>,
    metrics: PrometheusHandle,
    readiness: &Readiness,
    listeners: &mut Listeners,
) {
    let Some(listener) = listener else {
        tokio::spawn(ripstop_telemetry::http::upkeep(metrics));
        return;
    };
    listeners
        .served_by(tokio::spawn(ripstop_telemetry::http::serve(listener, metrics, readiness.clone())).abort_handle());
}

/// The API, and the page beside it.
fn serve_admin(admin: AdminSocket, page: Option<TcpListener>, shared: &Arc<Shared>, listeners: &mut Listeners) {
    let shown = Page::new(Arc::clone(shared) as _, shared.config().page);
    let serving = tokio::spawn(admin.serve(Arc::clone(shared) as _, shown.on_socket()));
    listeners.served_by(serving.abort_handle());
    if let Some(listener) = page {
        listeners.served_by(tokio::spawn(shown.serve(listener)).abort_handle());
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

/// How an agent ends.
enum Ended {
    /// It was told to stop.
    Told,
    /// Another one has taken over.
    HandedOver(Draining),
}

async fn run_until_told(
    shared: &Arc<Shared>,
    kernel: &Arc<Kernel>,
    listeners: &Listeners,
    signals: &mut Signals,
    beginning: Beginning,
) -> anyhow::Result<Ended> {
    let mut changes = shared.graph_file().map(watch::graph).transpose()?;
    // What changed since it was read is no notice any more.
    shared.reload_if_changed().await;
    let attaching = attachments::keep(shared, kernel, listeners, beginning);
    let mut attaching = std::pin::pin!(attaching);
    loop {
        tokio::select! {
            ended = &mut attaching => return ended.map(Ended::HandedOver),
            noticed = watch::next(changes.as_ref()) => {
                if let Err(error) = noticed {
                    tracing::warn!(%error, "the kernel no longer tells when the service graph changes: it is looked at");
                    changes = shared.graph_file().map(watch::by_looking);
                }
                shared.reload_if_changed().await;
            }
            () = shared.data().lanes_changed() => shared.connect_peers(),
            _ = signals.reload.recv() => shared.reload_now(),
            _ = signals.terminate.recv() => return Ok(Ended::Told),
            _ = signals.interrupt.recv() => return Ok(Ended::Told),
        }
    }
}
