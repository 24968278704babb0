//! One agent hands over to the next, of another binary, while sessions go on.
//!
//! 1. Whoever may start an agent starts the next one (`ripstop upgrade`). It gives up its rights like any agent, comes to the
//!    first one by a socket of the run directory ([`ripstop_datapath::handover::Entrance`]), and reads its settings, its identity and its
//!    policy ([`Succession`]). Until it says that it is prepared, nothing has changed.
//! 2. The first one stops reading: what arrives waits in the kernel. It hands over its sockets, its devices, the lock of its
//!    journal, and which flows it has (`message.rs`).
//! 3. The next one reads, and says so; the first one says that all is the next one's. From there on that one answers for this
//!    host: it decides, keeps interfaces and the journal, and is connected with the other hosts anew. What it reads of the
//!    first one's flows and connections it hands back (`datapath/src/interface/handed.rs`, `transport/src/handed.rs`).
//! 4. The first one ends what it has ([`drain`]): when that has ended by itself, or the time for it is over.
//!
//! Whatever fails before the end of 3. is undone: the next agent ends, and the first one reads again. When the first one ends
//! too early, its sessions are reset; when the next one does, the first one ends with it, as nobody reads any more.

mod drain;
mod listeners;
mod message;
mod places;
mod succession;

pub(super) use drain::drain;
pub(super) use listeners::Listeners;
pub(super) use message::PlanText;
pub(super) use places::{Inherited, Places};
pub(super) use succession::{Adopted, AdoptedInterface, Succession, fail};

use super::{relay::Part, service_manager, shared::Shared, signed::Signed};
use crate::admin::{AgentView as _, Predecessor};
use anyhow::{Context as _, bail};
use message::{First, Flows, Hello, Interface, Lane, Next, SAID_MAX, Sockets, hear, say};
use ripstop_config::{HostName, ServiceId};
use ripstop_datapath::handover::{Channel, Entrance, pair};
use ripstop_datapath::interface::InterfaceId;
use ripstop_kernel::Kernel;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, task::AbortHandle};

/// How long the next agent may take to read what it needs: the policy of a large fabric takes seconds to compile.
const PREPARE_MAX: Duration = Duration::from_secs(15);
/// How long it may take from there until it reads: packets wait meanwhile.
const TAKE_MAX: Duration = Duration::from_secs(5);
/// How long an agent that has failed may take to end, before this one reads again all the same.
const END_MAX: Duration = Duration::from_secs(2);
/// Agents before one that may have sessions at most: more could not be told apart by their connection IDs.
const BEFORE_MAX: u8 = 6;
/// Pause before the next agent is waited for again when the system has refused.
const RETRY: Duration = Duration::from_secs(1);

/// One agent has taken over from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The process id of the one that runs, as agents see it.
    pub pid: u32,
    /// That of the one before.
    pub former: u32,
    /// The sessions that it has left.
    pub sessions: u64,
}

/// What an agent knows of those before and after it.
#[derive(Default)]
pub(super) struct Upgrades {
    /// Which agent in a row it is, for its connection IDs.
    generation: u8,
    /// How many before the one that it took over from may have sessions.
    before: u8,
    /// The time after which the service manager takes an agent for dead that says nothing.
    watchdog: Option<Duration>,
    /// Nothing that is on disk may change: the next agent reads it.
    still: AtomicBool,
    predecessor: Mutex<Option<Predecessor>>,
    /// Tells the agent before that the policy changed.
    changed: tokio::sync::Notify,
}

/// An interface that stands.
pub(super) struct Standing<'s> {
    pub(super) id: &'s InterfaceId,
    pub(super) plan: PlanText,
    pub(super) has_v6: bool,
    pub(super) since: &'s str,
    /// One of each data thread.
    pub(super) devices: Vec<BorrowedFd<'s>>,
}

/// What an agent has to hand over.
pub(super) struct Ours<'s> {
    pub(super) shared: &'s Shared,
    pub(super) kernel: &'s Kernel,
    pub(super) listeners: &'s Listeners,
    pub(super) interfaces: Vec<Standing<'s>>,
}

/// An agent that has handed over.
pub(super) struct Draining {
    control: Channel,
    most: Duration,
}

impl Upgrades {
    /// Of an agent that succeeds another one, or none.
    pub(super) fn new(succession: Option<&Succession>) -> Self {
        Self {
            generation: succession.map_or(0, Succession::generation),
            before: succession.map_or(0, Succession::before),
            // To one that takes over the manager has said nothing itself.
            watchdog: succession.map_or_else(service_manager::watchdog, Succession::watchdog),
            ..Self::default()
        }
    }

    /// Whether what is on disk may be changed.
    ///
    /// # Errors
    /// Why not, for people.
    pub(super) fn may_change(&self) -> Result<(), String> {
        match self.still.load(Ordering::Relaxed) {
            true => Err("this host's agent is being replaced by a new one; ask again in a moment".into()),
            false => Ok(()),
        }
    }

    /// The time after which the service manager takes an agent for dead that says nothing.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The agent before this one, while it has sessions.
    pub(super) fn predecessor(&self) -> Option<Predecessor> {
        *self.predecessor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many agents before this one may have sessions.
    fn before(&self) -> u8 {
        self.predecessor().map_or(0, |_| self.before.saturating_add(1))
    }

    fn set_predecessor(&self, predecessor: Option<Predecessor>) {
        *self.predecessor.lock().unwrap_or_else(PoisonError::into_inner) = predecessor;
    }

    /// The policy has changed: an agent before this one follows.
    pub(super) fn policy_changed(&self) {
        self.changed.notify_one();
    }
}

/// Hears those who come to take over, one at a time, until the task is aborted.
pub(super) fn receive(entrance: Entrance) -> (mpsc::Receiver<Channel>, AbortHandle) {
    let (come, coming) = mpsc::channel(1);
    let receiving = async move {
        loop {
            match entrance.accept().await {
                Ok(control) => {
                    if let Err(refused) = come.try_send(control) {
                        let why = "this agent hands over to another one already, or stops".to_owned();
                        // It may be gone, which is no news.
                        let _ = say(&refused.into_inner(), &First::Refused { why }, &[]).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to wait for the next agent");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    (coming, tokio::spawn(receiving).abort_handle())
}

/// Hands over to the agent at the other end, or leaves all as it was.
///
/// # Errors
/// Why it did not take over.
pub(super) async fn hand_over(ours: Ours<'_>, control: Channel) -> anyhow::Result<Draining> {
    tracing::info!("another agent comes to take over");
    let shared = ours.shared;
    shared.upgrades.still.store(true, Ordering::Relaxed);
    match attempt(&ours, &control).await {
        Ok(most) => {
            // The channel to the data thread is empty but for what is asked here.
            shared.data().only_drain();
            shared.door.retire();
            let sessions = left(shared);
            tracing::info!(sessions, "another agent has taken over; open sessions end here");
            Ok(Draining { control, most })
        }
        Err(error) => {
            refuse(&control, &error).await;
            undo(shared).await;
            Err(error.context("another agent did not take over; this one goes on"))
        }
    }
}

/// Sessions of this agent, and of those before it.
fn left(shared: &Shared) -> u64 {
    shared.data().stats().sessions() + shared.upgrades.predecessor().map_or(0, |before| before.sessions)
}

/// Tells an agent that has nothing to take over to end, and waits until it has: it may read until then.
async fn refuse(control: &Channel, error: &anyhow::Error) {
    // It may be gone, which is as good.
    let _ = say(control, &First::Refused { why: format!("{error:#}") }, &[]).await;
    control.finish();
    let ended = async { while let Ok(Some(_)) = hear::<serde_json::Value>(control).await {} };
    if tokio::time::timeout(END_MAX, ended).await.is_err() {
        tracing::error!("the agent that did not take over does not end: end it, or it takes what arrives for this one");
    }
}

/// Once the next agent reads nothing any more.
async fn undo(shared: &Shared) {
    shared.data().take_back();
    if let Some(authority) = shared.authority() {
        authority.hand_over(false);
    }
    shared.upgrades.still.store(false, Ordering::Relaxed);
    shared.connect_peers();
    // What changed meanwhile was not looked at.
    shared.reload_if_changed().await;
}

/// Says for how long sessions that are open may go on.
async fn attempt(ours: &Ours<'_>, control: &Channel) -> anyhow::Result<Duration> {
    if std::process::id() == 1 {
        bail!("the agent is process 1 of its container, which would end with it: start another container in its place");
    }
    if ours.shared.upgrades.before() >= BEFORE_MAX {
        bail!("{BEFORE_MAX} agents before this one may still have sessions: wait until `ripstop status` shows none");
    }
    let prepared = tokio::time::timeout(PREPARE_MAX, prepare(ours, control)).await;
    let most = prepared.with_context(|| format!("it was not prepared within {PREPARE_MAX:?}"))??;
    if let Some(authority) = ours.shared.authority() {
        authority.hand_over(true);
    }
    let taken = tokio::time::timeout(TAKE_MAX, give(ours, control)).await;
    taken.with_context(|| format!("it did not run within {TAKE_MAX:?}"))??;
    // With what this one logs and records to, which may be standard output.
    let yours = First::Yours { sessions: left(ours.shared) };
    say(control, &yours, &[io::stdout().as_fd(), io::stderr().as_fd()]).await?;
    Ok(most)
}

async fn prepare(ours: &Ours<'_>, control: &Channel) -> anyhow::Result<Duration> {
    let config = ours.shared.config();
    let threads = ours.shared.data().threads();
    let hello = Hello {
        version: Hello::version(threads),
        pid: std::process::id(),
        host: config.host.clone(),
        listen: config.listen,
        run: config.run.clone(),
        state: config.state.clone(),
        generation: ours.shared.upgrades.generation,
        before: ours.shared.upgrades.before(),
        watchdog_millis: ours.shared.upgrades.watchdog.and_then(|within| u64::try_from(within.as_millis()).ok()),
        threads,
    };
    let journal = ours.kernel.lock_file()?;
    let policies = ours.shared.signed().map(Signed::lock_file).transpose().map_err(anyhow::Error::msg)?;
    let locks: Vec<_> = [Some(&journal), policies.as_ref()].into_iter().flatten().map(File::as_fd).collect();
    say(control, &First::Hello(hello), &locks).await?;
    match answer(control).await? {
        Next::Prepared { drain_millis } => Ok(Duration::from_millis(drain_millis)),
        Next::Running {} | Next::Failed { .. } | Next::PolicyChanged {} => bail!(DISORDER),
    }
}

/// Everything but the sessions. From the first line on nothing is read here.
async fn give(ours: &Ours<'_>, control: &Channel) -> anyhow::Result<()> {
    let data = ours.shared.data();
    let ways = (0..data.threads()).map(|_| pair()).collect::<Result<Vec<_>, _>>()?;
    let (ways, theirs): (Vec<_>, Vec<_>) = ways.into_iter().unzip();
    let mut handed = data.hand_over(ways).await?;
    let mut peers = data.connected().into_iter();
    let mut lanes = handed.iter().zip(&theirs).map(|(handed, way)| [handed.socket.as_fd(), way.as_fd()]);
    let mut descriptors = lanes.next().context("no data thread hands over")?.to_vec();
    descriptors.extend(ours.listeners.all());
    let first = Sockets::of(ours, peers.next().unwrap_or_default(), handed[0].endpoints.clone());
    say(control, &First::Sockets(first), &descriptors).await?;
    for (descriptors, peers) in lanes.zip(peers) {
        say(control, &First::Lane(Lane { peers }), &descriptors).await?;
    }
    let mut interfaces: Vec<_> = handed.iter_mut().map(|handed| std::mem::take(&mut handed.interfaces)).collect();
    for one in &ours.interfaces {
        let mut parts = interfaces.iter_mut().map(|of_thread| of_thread.remove(one.id)).zip(&one.devices);
        // What the data threads have not, is just going away.
        let Some((Some(Part { index, flows, said }), device)) = parts.next() else { continue };
        let interface = Interface {
            index,
            workload: one.id.workload.clone(),
            replica: one.id.replica.clone(),
            plan: one.plan.clone(),
            has_v6: one.has_v6,
            since: one.since.to_owned(),
        };
        say(control, &First::Interface(Box::new(interface)), &[*device]).await?;
        say_flows(control, &flows).await?;
        for words in said.chunks(SAID_MAX) {
            say(control, &First::Said { words: words.to_vec() }, &[]).await?;
        }
        for (part, device) in parts {
            let Part { index, flows, .. } = part.unwrap_or_default();
            say(control, &First::Queue { index }, &[*device]).await?;
            say_flows(control, &flows).await?;
        }
    }
    say(control, &First::Done {}, &[]).await?;
    match answer(control).await? {
        Next::Running {} => Ok(()),
        Next::Prepared { .. } | Next::Failed { .. } | Next::PolicyChanged {} => bail!(DISORDER),
    }
}

async fn say_flows(control: &Channel, flows: &ripstop_datapath::interface::Flows) -> anyhow::Result<()> {
    for flows in Flows::messages(flows) {
        say(control, &First::Flows(flows), &[]).await?;
    }
    Ok(())
}

impl Sockets {
    fn of(
        ours: &Ours<'_>,
        peers: BTreeMap<HostName, SocketAddr>,
        (drained_host, drained): (bool, Vec<ServiceId>),
    ) -> Self {
        Self {
            metrics: ours.shared.config().metrics,
            enrolment: ours.listeners.enrolment().is_some(),
            page: ours.shared.config().page,
            peers,
            drained_host,
            drained,
            by_hand: ours.shared.by_hand.said(),
        }
    }
}

const DISORDER: &str = "it says what was not asked";

/// What the next agent has to say, other than that it failed.
async fn answer(control: &Channel) -> anyhow::Result<Next> {
    match hear::<Next>(control).await? {
        Some((Next::Failed { why }, _)) => bail!("{why}"),
        Some((said, _)) => Ok(said),
        None => bail!("it ended; see what it said"),
    }
}
