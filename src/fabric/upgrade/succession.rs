//! An agent that takes over from the one before.

use super::{
    Upgraded,
    message::{First, Hello, Interface, Lane, Next, Sockets, hear, say},
};
use crate::{
    admin::Predecessor,
    fabric::{data::InheritedLane, relay::Part, shared::Shared},
};
use anyhow::{Context as _, anyhow, bail};
use nix::unistd::{dup2_stderr, dup2_stdout};
use ripstop_config::{AgentConfig, HostName};
use ripstop_datapath::handover::{self, Channel, ENTRANCE};
use ripstop_datapath::interface::InterfaceId;
use ripstop_kernel::{AttachPlan, Tun, netns::NsId};
use ripstop_telemetry::instruments;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

/// How long the agent before may take for each next thing that it hands over.
const NEXT_MAX: Duration = Duration::from_secs(5);

/// The way to the agent before.
pub(in crate::fabric) struct Succession {
    control: Arc<Channel>,
    hello: Hello,
    journal: File,
    policies: Option<File>,
    drain: Duration,
}

/// What it had.
pub(in crate::fabric) struct Taken {
    pub(super) journal: File,
    pub(super) generation: u8,
    pub(super) sockets: Sockets,
    pub(super) lanes: Vec<InheritedLane>,
    pub(super) admin: OwnedFd,
    pub(super) entrance: OwnedFd,
    pub(super) metrics: Option<OwnedFd>,
    pub(super) enrolment: Option<OwnedFd>,
    pub(super) page: Option<OwnedFd>,
    pub(super) adopted: Adopted,
}

/// What it had besides sockets, and goes on being asked of it.
pub(in crate::fabric) struct Adopted {
    control: Arc<Channel>,
    pid: u32,
    /// Of each data thread.
    peers: Vec<BTreeMap<HostName, SocketAddr>>,
    pub(in crate::fabric) interfaces: Vec<AdoptedInterface>,
}

/// An interface that stands.
pub(in crate::fabric) struct AdoptedInterface {
    pub(in crate::fabric) id: InterfaceId,
    pub(in crate::fabric) attach: AttachPlan,
    pub(in crate::fabric) namespace: Option<NsId>,
    pub(in crate::fabric) since: String,
    pub(in crate::fabric) has_v6: bool,
    /// One of each data thread.
    pub(in crate::fabric) queues: Vec<AdoptedQueue>,
}

/// A data thread's queue of it.
pub(in crate::fabric) struct AdoptedQueue {
    pub(in crate::fabric) device: OwnedFd,
    pub(in crate::fabric) tun: Tun,
    pub(in crate::fabric) part: Part,
}

impl Succession {
    /// Reaches the agent before. Its open sessions may go on for as long as `drain`.
    ///
    /// # Errors
    /// When there is none, it speaks another version, or the settings are of another agent.
    pub(in crate::fabric) async fn begin(config: &AgentConfig, drain: Duration) -> anyhow::Result<Self> {
        let entrance = config.run.join(ENTRANCE);
        let control = handover::reach(&entrance).with_context(|| {
            format!("no agent hands over at {}: start this one without `--take-over`", entrance.display())
        })?;
        let heard = tokio::time::timeout(NEXT_MAX, hear::<First>(&control)).await;
        match heard.context("the agent before says nothing")? {
            Ok(Some((First::Hello(hello), locks))) => {
                let mut locks = locks.into_iter().map(File::from);
                let journal = locks.next().context("the agent before keeps the lock of its journal")?;
                let succession = Self { control: Arc::new(control), hello, journal, policies: locks.next(), drain };
                let checked = succession.check(config);
                if let Err(error) = &checked {
                    succession.fail(error).await;
                }
                checked.map(|()| succession)
            }
            Ok(Some((First::Refused { why }, _))) => bail!("{why}"),
            Ok(_) => bail!("the agent before does not say who it is"),
            Err(error) => {
                // It need not wait for the end of this process.
                let _ = say(&control, &Next::Failed { why: format!("{error:#}") }, &[]).await;
                Err(error)
            }
        }
    }

    fn check(&self, config: &AgentConfig) -> anyhow::Result<()> {
        let Hello { host, listen, run, state, threads, .. } = &self.hello;
        if *host != config.host || *listen != config.listen || *run != config.run || *state != config.state {
            bail!("`host:`, `listen:`, `run:` or `state:` has changed in the settings: restart the agent");
        }
        if *threads != config.data_threads {
            bail!(
                "`data-threads:` has changed in the settings from {threads} to {}: restart the agent",
                config.data_threads
            );
        }
        Ok(())
    }

    /// The lock of signed policies.
    pub(in crate::fabric) fn policies(&mut self) -> Option<File> {
        self.policies.take()
    }

    /// Which agent in a row this is.
    pub(in crate::fabric) fn generation(&self) -> u8 {
        self.hello.generation.wrapping_add(1)
    }

    /// How many agents before that one may have sessions.
    pub(super) fn before(&self) -> u8 {
        self.hello.before
    }

    /// The time after which the service manager takes an agent for dead that says nothing.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.hello.watchdog_millis.map(Duration::from_millis)
    }

    /// Tells the agent before why it has to go on.
    pub(in crate::fabric) async fn fail(&self, error: &anyhow::Error) {
        fail(&self.control, error).await;
    }

    /// The channel, to tell of a failure later.
    pub(in crate::fabric) fn control(&self) -> Arc<Channel> {
        Arc::clone(&self.control)
    }

    /// Says that this agent could start, and is given everything.
    ///
    /// # Errors
    /// When the agent before breaks off.
    pub(super) async fn take(self) -> anyhow::Result<Taken> {
        let generation = self.generation();
        let Self { control, hello, journal, drain, .. } = self;
        let drain_millis = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        say(&control, &Next::Prepared { drain_millis }, &[]).await?;
        let (First::Sockets(sockets), descriptors) = next(&control).await? else { bail!(DISORDER) };
        let mut descriptors = descriptors.into_iter();
        let mut one = || descriptors.next().context("the agent before keeps a socket");
        let lane = InheritedLane { socket: one()?.into(), packets: one()? };
        let (admin, entrance) = (one()?, one()?);
        let metrics = sockets.metrics.is_some().then(&mut one).transpose()?;
        let enrolment = sockets.enrolment.then(&mut one).transpose()?;
        let page = sockets.page.is_some().then(&mut one).transpose()?;
        let mut lanes = Lanes { lanes: vec![lane], peers: vec![sockets.peers.clone()] };
        let interfaces = interfaces(&control, &mut lanes).await?;
        let Lanes { lanes, peers } = lanes;
        let threads = usize::from(hello.threads);
        if lanes.len() != threads || interfaces.iter().any(|one| one.queues.len() != threads) {
            bail!("the agent before does not hand over what each of its {threads} data threads has");
        }
        let adopted = Adopted { control, pid: hello.pid, peers, interfaces };
        Ok(Taken { journal, generation, sockets, lanes, admin, entrance, metrics, enrolment, page, adopted })
    }
}

const DISORDER: &str = "the agent before hands over in another order";

/// Tells the agent before why it has to go on.
pub(in crate::fabric) async fn fail(control: &Channel, error: &anyhow::Error) {
    // It may be gone, which is no news.
    let _ = say(control, &Next::Failed { why: format!("{error:#}") }, &[]).await;
}

async fn next(control: &Channel) -> anyhow::Result<(First, Vec<OwnedFd>)> {
    let heard = tokio::time::timeout(NEXT_MAX, hear(control)).await;
    match heard.context("the agent before breaks off")??.context("the agent before has ended")? {
        (First::Refused { why }, _) => bail!("{why}"),
        said => Ok(said),
    }
}

/// What the data threads have.
struct Lanes {
    lanes: Vec<InheritedLane>,
    peers: Vec<BTreeMap<HostName, SocketAddr>>,
}

async fn interfaces(control: &Channel, lanes: &mut Lanes) -> anyhow::Result<Vec<AdoptedInterface>> {
    let mut interfaces: Vec<AdoptedInterface> = Vec::new();
    // Of an interface that is of no use.
    let mut nobodys = Part::default();
    let mut is_nobodys = false;
    loop {
        match next(control).await? {
            (First::Lane(Lane { peers }), descriptors) => {
                let [socket, packets] = <[_; 2]>::try_from(descriptors).map_err(|_| anyhow!(DISORDER))?;
                lanes.lanes.push(InheritedLane { socket: socket.into(), packets });
                lanes.peers.push(peers);
            }
            (First::Interface(interface), descriptors) => {
                let Interface { index, workload, replica, plan, has_v6, since } = *interface;
                let plan = plan.plan();
                is_nobodys = plan.is_none();
                if let Some((attach, namespace)) = plan {
                    let queues = vec![AdoptedQueue::new(descriptors, &attach.link, has_v6, index)?];
                    let id = InterfaceId { workload, replica };
                    interfaces.push(AdoptedInterface { id, attach, namespace, since, has_v6, queues });
                }
            }
            (First::Queue { index }, descriptors) => {
                if let Some(last) = interfaces.last_mut().filter(|_| !is_nobodys) {
                    last.queues.push(AdoptedQueue::new(descriptors, &last.attach.link, last.has_v6, index)?);
                }
            }
            (First::Flows(flows), _) => flows.add_to(&mut last(&mut interfaces, is_nobodys, &mut nobodys).flows),
            (First::Said { words }, _) => last(&mut interfaces, is_nobodys, &mut nobodys).said.extend(words),
            (First::Done {}, _) => return Ok(interfaces),
            (
                First::Hello(_) | First::Sockets(_) | First::Yours { .. } | First::Refused { .. } | First::Left { .. },
                _,
            ) => bail!(DISORDER),
        }
    }
}

fn last<'p>(interfaces: &'p mut [AdoptedInterface], is_nobodys: bool, nobodys: &'p mut Part) -> &'p mut Part {
    match interfaces.last_mut() {
        Some(AdoptedInterface { queues, .. }) if !is_nobodys => {
            queues.last_mut().map_or(nobodys, |queue| &mut queue.part)
        }
        Some(_) | None => nobodys,
    }
}

impl AdoptedQueue {
    fn new(descriptors: Vec<OwnedFd>, link: &str, has_v6: bool, index: u16) -> anyhow::Result<Self> {
        let device = descriptors.into_iter().next().context("the agent before keeps a device")?;
        let tun = Tun::of(device.try_clone()?, link, has_v6);
        Ok(Self { device, tun, part: Part { index, ..Part::default() } })
    }
}

impl Adopted {
    /// Says that this agent reads, and makes sure that all is its own: there is no way back then. Whoever started it, its data
    /// thread and other hosts are told, and the agent before is followed to its end.
    ///
    /// # Errors
    /// When the agent before goes on: this one has to end, and leave everything as it is.
    pub(in crate::fabric) async fn settle(self, shared: &Arc<Shared>) -> anyhow::Result<Vec<AdoptedInterface>> {
        let Self { control, pid: former, peers, interfaces } = self;
        say(&control, &Next::Running {}, &[]).await?;
        let (First::Yours { sessions }, streams) = next(&control).await? else { bail!(DISORDER) };
        let upgraded = Upgraded { pid: std::process::id(), former, sessions };
        shared.connect_peers();
        shared.data().reconnect(peers);
        if let Err(error) = take_streams(&upgraded, streams) {
            tracing::warn!("failed to log and record to where the agent before did: {error:#}");
        }
        tracing::info!(from = former, sessions, "taken over");
        shared.upgrades.set_predecessor(Some(Predecessor { pid: former, sessions }));
        tokio::spawn(accompany(Arc::clone(shared), control, former));
        Ok(interfaces)
    }
}

/// Tells whoever started this agent, who hears the end of standard output next, and goes on with those of the agent before.
/// Standard error comes first: nobody reads what it was once that is told.
fn take_streams(upgraded: &Upgraded, streams: Vec<OwnedFd>) -> anyhow::Result<()> {
    let mut streams = streams.into_iter();
    let mut next = || streams.next().context("they did not come along");
    let (output, error) = (next(), next());
    let logs = error.and_then(|error| Ok(dup2_stderr(error)?));
    let mut told = io::stdout();
    // Nobody may listen.
    let _ = writeln!(told, "{}", serde_json::to_string(upgraded)?).and_then(|()| told.flush());
    dup2_stdout(output?)?;
    logs
}

/// Hears how many sessions the agent before has, and tells it of policies, until it has ended.
async fn accompany(shared: Arc<Shared>, control: Arc<Channel>, pid: u32) {
    let telling = async {
        loop {
            shared.upgrades.changed.notified().await;
            if say(&control, &Next::PolicyChanged {}, &[]).await.is_err() {
                return;
            }
        }
    };
    let hearing = async {
        while let Ok(Some((said, _))) = hear::<First>(&control).await {
            if let First::Left { sessions } = said {
                instruments::predecessor_sessions(sessions);
                shared.upgrades.set_predecessor(Some(Predecessor { pid, sessions }));
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = hearing => {}
    }
    instruments::predecessor_sessions(0);
    shared.upgrades.set_predecessor(None);
    tracing::info!(pid, "the agent before has ended");
    shared.data().outlive();
}
