//! A data thread.

use super::{
    Attached, ByHand, Command, HandedOver, Inherited, InheritedLane, STOP_MAX,
    handle::{Data, DataHandle, Thread},
};
use crate::fabric::{
    inspect,
    relay::{self, Relay},
};
use anyhow::Context as _;
use ripstop_config::{AgentConfig, HostName, Reason, agent::BusyPoll};
use ripstop_datapath::{
    handover::Channel,
    interface::{self, Interface, InterfaceId, Siblings, Strays},
    session::{
        common::Common,
        context::{Context, Control, Ways},
        health, ingress, lanes, report, voice,
    },
    stack::TunPort,
    thread,
};
use ripstop_kernel::SocketOwners;
use ripstop_policy::Policy;
use ripstop_telemetry::RecordLog;
use ripstop_transport::{Identity, Incoming, Reports, Settings, Transport};
use std::{
    ops::ControlFlow,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Commands that wait for a data thread; it takes them at once unless something is very wrong.
const COMMANDS_MAX: usize = 4_096;

/// What every data thread begins with.
#[derive(Clone)]
struct Beginning {
    host: HostName,
    identity: Identity,
    policy: Arc<Policy>,
    records: RecordLog,
    control: Control,
    common: Common,
    transports: Arc<OnceLock<Vec<Transport>>>,
    gone: mpsc::Sender<InterfaceId>,
    may_poll: bool,
}

/// What one of them begins with.
struct Own {
    settings: Settings,
    siblings: Siblings,
    strays: Strays,
    /// The first thread's transport, for the others.
    first: Option<Transport>,
    inherited: Option<TakenOver>,
}

/// What one of them takes over from the same one of the agent before.
struct TakenOver {
    lane: InheritedLane,
    generation: u8,
    /// Of the first one.
    endpoints: ByHand,
}

/// Starts the threads; resolves when they have their QUIC addresses.
pub(in crate::fabric) async fn start(
    config: &AgentConfig,
    identity: Identity,
    policy: Arc<Policy>,
    records: RecordLog,
    control: Control,
    inherited: Option<Inherited>,
) -> anyhow::Result<Data> {
    let (gone_sender, gone) = mpsc::channel(COMMANDS_MAX);
    let (common, lanes) = (Common::default(), Arc::clone(&control.lanes));
    let (stats, transports) = (Arc::clone(&common.stats), Arc::<OnceLock<_>>::default());
    let beginning = Beginning {
        host: config.host.clone(),
        identity,
        policy,
        records,
        control,
        common,
        transports: Arc::clone(&transports),
        gone: gone_sender,
        may_poll: may_poll(config.busy_poll, config.data_threads.into()),
    };
    let mut inherited = taken_over(inherited).into_iter();
    let (mut threads, mut all_ended) = (Vec::<Thread>::new(), Vec::new());
    for (number, (siblings, strays)) in (0..).zip(Siblings::of(config.data_threads)) {
        let listen = lanes::lane(config.listen, number).context("no port is left for a data thread")?;
        let settings = Settings { listen, ..Settings::default() };
        let first = threads.first().map(|first| first.transport.clone());
        let own = Own { settings, siblings, strays, first, inherited: inherited.next() };
        let (thread, ended) = spawn(number, beginning.clone(), own).await?;
        threads.push(thread);
        all_ended.push(ended);
    }
    transports.get_or_init(|| threads.iter().map(|thread| thread.transport.clone()).collect());
    Ok(Data::new(DataHandle::new(threads, lanes, stats, gone), all_ended))
}

fn taken_over(inherited: Option<Inherited>) -> Vec<TakenOver> {
    let Some(Inherited { lanes, generation, mut endpoints }) = inherited else { return Vec::new() };
    let taken_over = |lane| TakenOver { lane, generation, endpoints: std::mem::take(&mut endpoints) };
    lanes.into_iter().map(taken_over).collect()
}

async fn spawn(number: u8, beginning: Beginning, own: Own) -> anyhow::Result<(Thread, oneshot::Receiver<()>)> {
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (bound, binding) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let body = move || {
        let runtime = match thread::runtime() {
            Ok(runtime) => runtime,
            Err(error) => return drop(bound.send(Err(anyhow::Error::new(error)))),
        };
        let may_poll = beginning.may_poll;
        thread::run(&runtime, may_poll, Box::pin(live(beginning, own, bound, inbox)));
        // The runtime's tasks are gone from here on, and with them every session has its record.
        drop(runtime);
        let _ = end.send(());
    };
    let name = if number == 0 { "data".into() } else { format!("data-{number}") };
    std::thread::Builder::new().name(name).spawn(body).context("failed to start a data thread")?;
    let transport = binding.await.context("a data thread ended at once")??;
    Ok((Thread { commands, transport }, ended))
}

/// From its beginning to its end.
async fn live(
    beginning: Beginning,
    own: Own,
    bound: oneshot::Sender<anyhow::Result<Transport>>,
    inbox: mpsc::Receiver<Command>,
) {
    let Beginning { host, identity, policy, records, control, common, transports, gone, .. } = beginning;
    let Own { settings, siblings, strays, first, inherited } = own;
    let begun = SocketOwners::open()
        .context("failed to ask the kernel for owners of sockets")
        .and_then(|owners| Ok((owners, transport(settings, identity, inherited)?)));
    let (owners, Bound { transport, incoming, reports, inherited }) = match begun {
        Ok(begun) => begun,
        Err(error) => return drop(bound.send(Err(error))),
    };
    let _ = bound.send(Ok(transport.clone()));
    let first = first.unwrap_or_else(|| transport.clone());
    let ways = Ways { own: transport, first, all: transports, siblings };
    let context = Context::new(host, ways, policy, records, control, owners, &common);
    tokio::task::spawn_local(interface::take_strays(Rc::clone(&context), strays));
    if context.siblings.is_first() {
        tokio::task::spawn_local(report::listen(Rc::clone(&context), reports));
        tokio::task::spawn_local(report::tell(Rc::clone(&context)));
    }
    run(context, incoming, inherited, inbox, gone).await;
}

/// The other agents of this host, while there are any.
#[derive(Default)]
struct Others {
    predecessor: Option<Rc<Relay>>,
    successor: Option<Rc<Relay>>,
}

/// What the threads poll for comes from others, who need a processor: there is to be one more than there are threads.
fn may_poll(setting: BusyPoll, threads: usize) -> bool {
    match setting {
        // By affinity and by quota.
        BusyPoll::Auto => std::thread::available_parallelism().is_ok_and(|processors| processors.get() > threads),
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

fn transport(settings: Settings, identity: Identity, inherited: Option<TakenOver>) -> anyhow::Result<Bound> {
    let Some(TakenOver { lane: InheritedLane { socket, packets }, generation, endpoints }) = inherited else {
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
    keep_up(&context, |_| ());
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
            keep_up(context, voice::obey);
        }
        Command::Attach { attached, done } => {
            attach(context, others, attached, gone);
            let _ = done.send(());
        }
        Command::Detach { id, done } => detach(context, &id, done),
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
    keep_up(context, |context| voice::forget(context, &id));
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
            // All threads see it; one tells.
            if context.siblings.is_first() {
                let _ = gone.try_send(id);
            }
        }
    });
}

/// The device is deleted after the answer: what the workload has open is reset by then.
fn detach(context: &Rc<Context>, id: &InterfaceId, done: oneshot::Sender<()>) {
    let interface = context.detach(id);
    if let Some(interface) = &interface {
        interface.close();
    }
    detached(context, id);
    tokio::task::spawn_local(async move {
        if let Some(interface) = interface {
            interface.emptied().await;
        }
        let _ = done.send(());
    });
}

/// What follows from an interface being gone: its sessions end, what it said is forgotten, and nothing is asked of it any more.
fn detached(context: &Rc<Context>, id: &InterfaceId) {
    context.cut_interface(id);
    keep_up(context, |context| voice::forget(context, id));
}

/// What endpoints say of themselves and what is checked, as the policy and the interfaces have changed: the first thread does it
/// for all.
fn keep_up(context: &Rc<Context>, said: impl FnOnce(&Context)) {
    if context.siblings.is_first() {
        said(context);
        health::follow(context);
    }
}
