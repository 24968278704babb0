//! The data thread: QUIC, interfaces and sessions, on one current-thread runtime.

use super::{
    inspect,
    relay::{self, Drained as ByHand, Part, Parts, Relay},
};
use crate::admin::{LiveSession, ServiceStatus};
use anyhow::Context as _;
use ripstop_config::{AgentConfig, Reason, ServiceId, agent::BusyPoll};
use ripstop_datapath::capture::Begun;
use ripstop_datapath::handover::Channel;
use ripstop_datapath::interface::{self, Interface, InterfaceId, Owner};
use ripstop_datapath::session::{
    captures::Capture,
    common::Common,
    context::{Context, Control, Stats},
    endpoints::{DrainError, Standing},
    health, ingress,
    observe::{Attempt, Candidate, Staged},
    report,
    voice::{self, Standings, VoiceError, Wish},
};
use ripstop_datapath::stack::TunPort;
use ripstop_datapath::thread;
use ripstop_kernel::{SocketOwners, Tun};
use ripstop_policy::{Policy, StageId};
use ripstop_telemetry::RecordLog;
use ripstop_transport::{Identity, Incoming, Reports, Settings, Transport};
use std::{
    collections::HashMap,
    net::UdpSocket,
    ops::ControlFlow,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Commands that wait for the data thread; it takes them at once unless something is very wrong.
const COMMANDS_MAX: usize = 4_096;
/// How long the control thread waits for the data thread to describe itself.
const INSPECT_MAX: Duration = Duration::from_secs(1);
/// How long sessions and peers have to take notice when the agent stops.
const STOP_MAX: Duration = Duration::from_secs(1);

/// What the control thread asks of the data thread.
pub(super) enum Command {
    /// Puts a policy in force.
    Enforce(Arc<Policy>),
    /// Takes up an interface.
    Attach(Attached),
    /// Lets go of an interface.
    Detach(InterfaceId),
    /// Says that the thread does what it is told.
    Alive { reply: oneshot::Sender<()> },
    /// Describes the open sessions.
    Inspect { list: bool, reply: std_mpsc::SyncSender<Inspection> },
    /// Has the endpoint of a service, or all of this host, take no new sessions, or take them again.
    Drain { service: Option<ServiceId>, draining: bool, reply: std_mpsc::SyncSender<Drained> },
    /// Lists what was denied and last seen within so long.
    Attempts { within: Option<Duration>, reply: std_mpsc::SyncSender<Vec<Attempt>> },
    /// Tries a policy that is not in force, or none; other hosts are told which.
    Stage { candidate: Option<Candidate>, id: StageId },
    /// Tells other hosts that there is news of others.
    Tell,
    /// Says what that would change.
    Staged { reply: std_mpsc::SyncSender<Option<Staged>> },
    /// Has packets copied.
    Capture { capture: Capture, reply: oneshot::Sender<Result<Begun, String>> },
    /// Ends that, by its number.
    EndCapture(u64),
    /// Says what who has an interface is here.
    Standings { who: InterfaceId, reply: oneshot::Sender<Standings> },
    /// Takes the word of who has an interface of itself.
    Voice { who: InterfaceId, service: Option<String>, wish: Wish, reply: oneshot::Sender<Heard> },
    /// Hands everything over to the agent at the other end of a way of packets.
    HandOver { packets: OwnedFd, reply: oneshot::Sender<anyhow::Result<HandedOver>> },
    /// Undoes that.
    TakeBack,
    /// The other agent has taken over: sessions that are open go on, and nothing else.
    OnlyDrain,
    /// The agent before has ended.
    Outlive,
    /// Ends every session, and the thread.
    Stop,
}

/// The endpoints of this host after a drain.
type Drained = Result<Vec<Standing>, DrainError>;

/// What became of a workload's word.
type Heard = Result<Standings, VoiceError>;

/// An interface that was just made.
pub(super) struct Attached {
    pub(super) owner: Owner,
    pub(super) tun: Tun,
    /// The agent before has it, too, and handed this over.
    pub(super) inherited: Option<Part>,
}

/// What the next agent is given of this thread's.
pub(super) struct HandedOver {
    pub(super) socket: UdpSocket,
    pub(super) interfaces: Parts,
    pub(super) endpoints: ByHand,
}

/// What is taken over from the agent before.
pub(super) struct Inherited {
    pub(super) socket: UdpSocket,
    pub(super) packets: OwnedFd,
    /// Of this agent's connection IDs.
    pub(super) generation: u8,
    pub(super) endpoints: ByHand,
}

/// The other agents of this host, while there are any.
#[derive(Default)]
struct Others {
    predecessor: Option<Rc<Relay>>,
    successor: Option<Rc<Relay>>,
}

/// What the data thread says of itself.
#[derive(Default)]
pub(super) struct Inspection {
    pub(super) per_interface: HashMap<InterfaceId, u64>,
    pub(super) sessions: Vec<LiveSession>,
    pub(super) services: Vec<ServiceStatus>,
    /// What workloads said of themselves.
    pub(super) says: HashMap<InterfaceId, Vec<String>>,
}

/// The way to the data thread.
#[derive(Clone)]
pub(super) struct DataHandle {
    commands: mpsc::Sender<Command>,
    transport: Transport,
    stats: Arc<Stats>,
    gone: Arc<tokio::sync::Mutex<mpsc::Receiver<InterfaceId>>>,
}

/// The data thread, to be stopped once.
pub(super) struct Data {
    handle: DataHandle,
    ended: oneshot::Receiver<()>,
}

impl DataHandle {
    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn send(&self, command: Command) -> Result<(), String> {
        self.commands.try_send(command).map_err(|_| "the data thread does not answer".into())
    }

    /// Resolves to an interface that has gone without being told to.
    pub(super) async fn interface_gone(&self) -> Option<InterfaceId> {
        self.gone.lock().await.recv().await
    }

    /// Resolves once the data thread has come to what is asked now, however long that takes; false when there is none any more.
    pub(super) async fn is_alive(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Alive { reply }).await.is_ok() && answer.await.is_ok()
    }

    /// Asks the data thread about its sessions; empty when it does not answer in time.
    pub(super) fn inspect(&self, list: bool) -> Inspection {
        let (reply, answer) = std_mpsc::sync_channel(1);
        let sent = self.send(Command::Inspect { list, reply });
        sent.ok().and_then(|()| answer.recv_timeout(INSPECT_MAX).ok()).unwrap_or_default()
    }

    /// What was denied and last seen within so long.
    pub(super) fn attempts(&self, within: Option<Duration>) -> Result<Vec<Attempt>, String> {
        self.ask(|reply| Command::Attempts { within, reply })
    }

    /// What the staged policy would change, if there is one.
    pub(super) fn staged(&self) -> Result<Option<Staged>, String> {
        self.ask(|reply| Command::Staged { reply })
    }

    /// What who has an interface is here, without blocking.
    pub(super) async fn standings(&self, who: InterfaceId) -> Result<Standings, String> {
        self.wonder(|reply| Command::Standings { who, reply }).await
    }

    /// Has a workload's word of itself taken, without blocking.
    pub(super) async fn voice(&self, who: InterfaceId, service: Option<String>, wish: Wish) -> Result<Heard, String> {
        self.wonder(|reply| Command::Voice { who, service, wish, reply }).await
    }

    /// Has packets copied, without blocking.
    pub(super) async fn capture(&self, capture: Capture) -> Result<Begun, String> {
        self.wonder(|reply| Command::Capture { capture, reply }).await?
    }

    async fn wonder<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        let answered = tokio::time::timeout(INSPECT_MAX, answer).await;
        answered.ok().and_then(Result::ok).ok_or_else(|| "the data thread does not answer".into())
    }

    fn ask<T>(&self, command: impl FnOnce(std_mpsc::SyncSender<T>) -> Command) -> Result<T, String> {
        let (reply, answer) = std_mpsc::sync_channel(1);
        self.send(command(reply))?;
        answer.recv_timeout(INSPECT_MAX).map_err(|_| "the data thread does not answer".into())
    }

    /// Drains endpoints of this host, or ends that; returns how they are.
    pub(super) fn drain(&self, service: Option<ServiceId>, draining: bool) -> Result<Vec<Standing>, String> {
        let (reply, answer) = std_mpsc::sync_channel(1);
        self.send(Command::Drain { service, draining, reply })?;
        let drained = answer.recv_timeout(INSPECT_MAX).map_err(|_| "the data thread does not answer")?;
        drained.map_err(|error| error.to_string())
    }
}

impl Data {
    pub(super) fn handle(&self) -> DataHandle {
        self.handle.clone()
    }

    /// Ends every session and waits for the thread, for a bounded time.
    pub(super) async fn stop(self) {
        let _ = self.handle.send(Command::Stop);
        if tokio::time::timeout(STOP_MAX * 2, self.ended).await.is_err() {
            tracing::error!("the data thread did not stop in time");
        }
    }
}

/// Starts the thread; resolves when it has its QUIC address.
pub(super) async fn start(
    config: &AgentConfig,
    identity: Identity,
    policy: Arc<Policy>,
    records: RecordLog,
    control: Control,
    inherited: Option<Inherited>,
) -> anyhow::Result<Data> {
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (bound, binding) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let (gone_sender, gone) = mpsc::channel(COMMANDS_MAX);
    let owners = SocketOwners::open().context("failed to ask the kernel for owners of sockets")?;
    let common = Common::default();
    let stats = Arc::clone(&common.stats);
    let host = config.host.clone();
    let settings = Settings { listen: config.listen, ..Settings::default() };
    let may_poll = may_poll(config.busy_poll);
    let body = move || {
        let runtime = match thread::runtime() {
            Ok(runtime) => runtime,
            Err(error) => return drop(bound.send(Err(anyhow::Error::new(error)))),
        };
        let first = async move {
            match transport(settings, identity, inherited) {
                Ok(Bound { transport, incoming, reports, inherited }) => {
                    let _ = bound.send(Ok(transport.clone()));
                    let context = Context::new(host, transport, policy, records, control, owners, &common);
                    tokio::task::spawn_local(report::listen(Rc::clone(&context), reports));
                    tokio::task::spawn_local(report::tell(Rc::clone(&context)));
                    run(context, incoming, inherited, inbox, gone_sender).await;
                }
                Err(error) => drop(bound.send(Err(error))),
            }
        };
        thread::run(&runtime, may_poll, Box::pin(first));
        // The runtime's tasks are gone from here on, and with them every session has its record.
        drop(runtime);
        let _ = end.send(());
    };
    std::thread::Builder::new().name("data".into()).spawn(body).context("failed to start the data thread")?;
    let transport = binding.await.context("the data thread ended at once")??;
    let gone = Arc::new(tokio::sync::Mutex::new(gone));
    Ok(Data { handle: DataHandle { commands, transport, stats, gone }, ended })
}

/// What the thread polls for comes from others, who need a processor: it is not to be the only one.
fn may_poll(setting: BusyPoll) -> bool {
    match setting {
        // By affinity and by quota.
        BusyPoll::Auto => std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1),
        BusyPoll::On => true,
        BusyPoll::Off => false,
    }
}

struct Bound {
    transport: Transport,
    incoming: Incoming,
    reports: Reports,
    inherited: Option<(Rc<Relay>, ByHand)>,
}

fn transport(settings: Settings, identity: Identity, inherited: Option<Inherited>) -> anyhow::Result<Bound> {
    let Some(Inherited { socket, packets, generation, endpoints }) = inherited else {
        let (transport, incoming, reports) = Transport::bind(settings, identity)?;
        return Ok(Bound { transport, incoming, reports, inherited: None });
    };
    let channel = Arc::new(Channel::new(packets)?);
    let foreign = relay::foreign(Arc::clone(&channel));
    let (transport, incoming, reports) = Transport::inherit(settings, identity, socket, generation, foreign)?;
    Ok(Bound { transport, incoming, reports, inherited: Some((Relay::new(channel), endpoints)) })
}

async fn run(
    context: Rc<Context>,
    incoming: Incoming,
    inherited: Option<(Rc<Relay>, ByHand)>,
    mut inbox: mpsc::Receiver<Command>,
    gone: mpsc::Sender<InterfaceId>,
) {
    tokio::task::spawn_local(ingress::accept(Rc::clone(&context), incoming));
    health::follow(&context);
    let mut others = Others::begin(&context, inherited);
    while let Some(command) = inbox.recv().await {
        if obey(&context, &mut others, &gone, command).is_break() {
            break;
        }
    }
    end(&context).await;
}

/// Does what the control thread asks; says when that is to stop.
fn obey(
    context: &Rc<Context>,
    others: &mut Others,
    gone: &mpsc::Sender<InterfaceId>,
    command: Command,
) -> ControlFlow<()> {
    match command {
        Command::Enforce(policy) => {
            context.enforce(policy);
            voice::obey(context);
            health::follow(context);
        }
        Command::Attach(attached) => attach(context, others, attached, gone),
        Command::Detach(id) => {
            if let Some(interface) = context.detach(&id) {
                interface.close();
            }
            detached(context, &id);
        }
        Command::Alive { reply } => drop(reply.send(())),
        Command::Inspect { list, reply } => drop(reply.try_send(inspect::inspect(context, list))),
        Command::Drain { service, draining, reply } => {
            let drained = context.endpoints.drain(service.as_ref(), draining);
            let _ = reply.try_send(drained.map(|()| context.endpoints.own()));
        }
        Command::Attempts { within, reply } => drop(reply.try_send(context.observed.denied(within))),
        Command::Stage { candidate, id } => {
            context.observed.stage(candidate, id);
            context.endpoints.tell();
        }
        Command::Tell => context.endpoints.tell(),
        Command::Staged { reply } => drop(reply.try_send(inspect::staged(context))),
        Command::Capture { capture, reply } => {
            let id = capture.id;
            // Who asked may have gone meanwhile.
            if reply.send(context.captures.begin(context, capture)).is_err() {
                context.captures.end(context, id);
            }
        }
        Command::EndCapture(id) => context.captures.end(context, id),
        Command::Standings { who, reply } => drop(reply.send(voice::standings(context, &who))),
        Command::Voice { who, service, wish, reply } => {
            drop(reply.send(voice::hear(context, &who, service.as_deref(), &wish)));
        }
        Command::HandOver { packets, reply } => drop(reply.send(others.hand_over(context, packets))),
        Command::TakeBack => {
            if let Some(relay) = others.successor.take() {
                relay.take_back(context);
            }
        }
        Command::OnlyDrain => relay::only_drain(context),
        Command::Outlive => {
            if let Some(relay) = others.predecessor.take() {
                relay.outlive(context);
            }
        }
        Command::Stop => return ControlFlow::Break(()),
    }
    ControlFlow::Continue(())
}

/// Ends all sessions, and the connections after them.
async fn end(context: &Context) {
    context.live.for_each(|live| live.cut(Reason::Shutdown));
    let ending = async {
        while !context.live.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        context.transport.close();
        context.transport.wait_idle().await;
    };
    if tokio::time::timeout(STOP_MAX, ending).await.is_err() {
        context.transport.close();
    }
}

impl Others {
    fn begin(context: &Rc<Context>, inherited: Option<(Rc<Relay>, ByHand)>) -> Self {
        let Some((relay, (host, services))) = inherited else { return Self::default() };
        for service in services.iter().map(Some).chain(host.then_some(None)) {
            if let Err(error) = context.endpoints.drain(service, true) {
                tracing::warn!(%error, "what was drained before is not any more");
            }
        }
        tokio::task::spawn_local(Rc::clone(&relay).follow_predecessor(Rc::clone(context)));
        Self { predecessor: Some(relay), successor: None }
    }

    fn hand_over(&mut self, context: &Rc<Context>, packets: OwnedFd) -> anyhow::Result<HandedOver> {
        let relay = Relay::new(Arc::new(Channel::new(packets)?));
        let handed = relay.hand_over(context)?;
        tokio::task::spawn_local(Rc::clone(&relay).follow_successor(Rc::clone(context)));
        self.successor = Some(relay);
        Ok(handed)
    }
}

fn attach(context: &Rc<Context>, others: &Others, attached: Attached, gone: &mpsc::Sender<InterfaceId>) {
    let Attached { owner, tun, inherited } = attached;
    let id = owner.id.clone();
    let tun = Rc::new(tun);
    let port = TunPort::new(Rc::clone(&tun) as _);
    let interface = Interface::new(context, owner, port.clone());
    if let Some(before) = context.attach(&interface) {
        before.close();
    }
    context.captures.attached(&interface);
    // Of another interface, another one's health.
    context.checks.stop(&id);
    voice::forget(context, &id);
    health::follow(context);
    if let (Some(part), Some(relay)) = (inherited, &others.predecessor) {
        relay.inherit(context, &interface, part);
    }
    let gone = gone.clone();
    let serving = interface::serve(Rc::clone(context), Rc::clone(&interface), tun);
    let context = Rc::clone(context);
    tokio::task::spawn_local(async move {
        let shared = tokio::task::spawn_local(port.run());
        serving.await;
        shared.abort();
        // Unless another took its place, it went by itself: its namespace is gone.
        let current = context.interface(&id);
        if current.is_some_and(|current| Rc::ptr_eq(&current, &interface)) {
            context.detach(&id);
            detached(&context, &id);
            let _ = gone.try_send(id);
        }
    });
}

/// What follows from an interface being gone: its sessions end, what it said is forgotten, and nothing is asked of it any more.
fn detached(context: &Rc<Context>, id: &InterfaceId) {
    context.cut_interface(id);
    voice::forget(context, id);
    health::follow(context);
}
