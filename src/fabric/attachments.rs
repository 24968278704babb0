//! Keeps the interfaces of this host as the policy wants them.

use super::{
    plan::{self, Planned, Waiting},
    service_manager,
    shared::{self, Shared},
    split_domain::SplitDomain,
    upgrade::{self, AdoptedInterface, Draining, Listeners, Ours, PlanText, Standing},
};
use crate::admin::{AgentView as _, WorkloadState, WorkloadStatus};
use anyhow::Context as _;
use ripstop_config::graph::{Container, Run};
use ripstop_datapath::handover::Channel;
use ripstop_datapath::interface::{InterfaceId, Owner, Spread};
use ripstop_kernel::{AttachPlan, Kernel, Place, Tun};
use ripstop_policy::{Policy, WorkloadEntry};
use ripstop_telemetry::Unready;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// How often a workload whose namespace or user is not there yet, or not the same any more, is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What is to be attached, and for which workload.
type All<'p> = BTreeMap<InterfaceId, (&'p WorkloadEntry, Result<Planned, Waiting>)>;

/// What is attached.
pub(super) type Plans = BTreeMap<InterfaceId, Held>;

/// An interface that is attached.
pub(super) struct Held {
    planned: Planned,
    since: String,
    has_v6: bool,
    /// The device by each data thread's queue, for the next agent.
    devices: Vec<OwnedFd>,
}

/// What an agent begins with.
pub(super) struct Beginning {
    /// Dropped once everything was tried once; nothing where interfaces were taken up.
    pub(super) starting: Option<Unready>,
    /// The interfaces of the agent before, if there was one, taken up; or why they could not be.
    pub(super) adopted: anyhow::Result<Option<Plans>>,
    /// The next agents that come to take over.
    pub(super) coming: mpsc::Receiver<Channel>,
}

/// Before anybody can ask what is attached: takes up the interfaces of the agent before, where there is one; of all others is said
/// that they wait.
pub(super) async fn begin(
    shared: &Shared,
    kernel: &Kernel,
    adopted: Option<Vec<AdoptedInterface>>,
) -> anyhow::Result<Option<Plans>> {
    let attached = match adopted {
        Some(interfaces) => Some(adopt(shared, kernel, interfaces).await?),
        None => None,
    };
    foresee(shared, attached.as_ref().unwrap_or(&Plans::new()));
    Ok(attached)
}

/// Says of each workload that the policy places on this host what is known before anything was tried.
fn foresee(shared: &Shared, attached: &Plans) {
    let policy = shared.policy();
    let on_host: Vec<_> = policy.workloads_on(shared.host()).map(|ix| policy.workload_entry(ix)).collect();
    for (id, (entry, planned)) in wanted(&policy, &on_host, shared, attached) {
        let held = attached.get(&id);
        let state = match held {
            Some(_) => WorkloadState::Attached,
            None => WorkloadState::Waiting("the agent has just started".into()),
        };
        let place = plan::describe(entry, &planned, shared.sources());
        let status = status(&id, entry, place, state, held.map(|held| held.since.clone()));
        shared.workloads().insert(id, status);
    }
    shared.publish();
}

/// Attaches what the policy places on this host, follows its changes, and attaches again what went away. Ready once
/// everything was tried once. Returns when another agent has taken over, or on an error that waiting does not mend.
pub(super) async fn keep(
    shared: &Arc<Shared>,
    kernel: &Arc<Kernel>,
    listeners: &Listeners,
    beginning: Beginning,
) -> anyhow::Result<Draining> {
    let Beginning { mut starting, adopted, mut coming } = beginning;
    let mut attached = match adopted? {
        Some(adopted) => adopted,
        None => {
            let recovering = Arc::clone(kernel);
            tokio::task::spawn_blocking(move || recovering.recover()).await.context("recovering broke off")??;
            Plans::new()
        }
    };
    let containers = Arc::clone(&shared.containers);
    tokio::spawn(containers.follow(Arc::clone(&shared.changed)));
    let mut split_domain = SplitDomain::default();
    let mut is_first = true;
    loop {
        reconcile(shared, kernel, &mut attached).await?;
        shared.publish();
        split_domain.keep(shared, host_interface(&attached)).await;
        if std::mem::take(&mut is_first) {
            drop(starting.take());
            resolv_conf(shared);
            tracing::info!(attached = attached.len(), "ready");
            service_manager::serves(shared);
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            Some(id) = shared.data().interface_gone() => drop(attached.remove(&id)),
            Some(control) = coming.recv() => {
                match upgrade::hand_over(ours(shared, kernel, listeners, &attached), control).await {
                    Ok(draining) => return Ok(draining),
                    Err(error) => tracing::error!("{error:#}"),
                }
            }
        }
    }
}

/// What the next agent is given.
fn ours<'s>(shared: &'s Shared, kernel: &'s Kernel, listeners: &'s Listeners, attached: &'s Plans) -> Ours<'s> {
    let standing = |(id, held): (&'s InterfaceId, &'s Held)| Standing {
        id,
        plan: PlanText::new(&held.planned.attach, held.planned.namespace),
        has_v6: held.has_v6,
        since: &held.since,
        devices: held.devices.iter().map(AsFd::as_fd).collect(),
    };
    Ours { shared, kernel, listeners, interfaces: attached.iter().map(standing).collect() }
}

/// Takes up the interfaces of the agent before, as they stand. Those that the policy wants otherwise follow after that.
async fn adopt(shared: &Shared, kernel: &Kernel, interfaces: Vec<AdoptedInterface>) -> anyhow::Result<Plans> {
    let mut attached = Plans::new();
    for one in interfaces {
        if !kernel.adopt(&one.attach.link) {
            tracing::warn!(link = one.attach.link, "the journal does not have it; it is made anew");
            continue;
        }
        let AttachPlan { v4, v6, .. } = one.attach;
        let (programs, has_v6) = (one.attach.place.programs(), one.has_v6);
        let owner = Owner { id: one.id.clone(), v4, v6, has_v6, programs, spread: Spread::new(one.id.clone()) };
        let (devices, queues) =
            one.queues.into_iter().map(|queue| (queue.device, (queue.tun, Some(queue.part)))).unzip();
        shared.data().attach(&owner, queues).await.map_err(anyhow::Error::msg)?;
        let planned = Planned { attach: one.attach, namespace: one.namespace };
        attached.insert(one.id, Held { planned, since: one.since, has_v6, devices });
    }
    Ok(attached)
}

/// Puts the fabric's resolver first on the host, if that is wanted. Names of the fabric do not resolve for workloads on the
/// host without it, which is no reason to serve nobody.
fn resolv_conf(shared: &Shared) {
    let (resolver, _) = shared.policy().resolver();
    let made = if shared.wants_resolv_conf() { shared.door.doorway.install_host_resolver(resolver) } else { Ok(()) };
    if let Err(error) = made {
        tracing::error!("{:#}", anyhow::Error::new(error).context("`dns.resolv-conf` is not done"));
    }
}

/// The interface of the workload that is the host itself, and since when it is there.
fn host_interface(attached: &Plans) -> Option<(&str, &str)> {
    let host = attached.values().find(|held| matches!(held.planned.attach.place, Place::Host));
    host.map(|held| (held.planned.attach.link.as_str(), held.since.as_str()))
}

async fn reconcile(shared: &Arc<Shared>, kernel: &Arc<Kernel>, attached: &mut Plans) -> anyhow::Result<()> {
    let policy = shared.policy();
    let on_host = policy.workloads_on(shared.host()).map(|ix| policy.workload_entry(ix));
    let on_host: Vec<_> = on_host.collect();
    shared.containers.want(containers(&on_host));
    shared.by_hand.retain(|id| on_host.iter().any(|entry| entry.id == *id));
    let wanted = wanted(&policy, &on_host, shared, attached);
    shared.workloads().retain(|id, _| wanted.contains_key(id));
    let stale = |id: &InterfaceId, held: &Held| match wanted.get(id) {
        Some((_, Ok(wanted))) => *wanted != held.planned,
        Some((_, Err(waiting))) => waiting.gone,
        None => true,
    };
    for (id, Held { planned, .. }) in attached.extract_if(.., |id, held| stale(id, held)) {
        // A data thread that did not hear it notices that the device is gone.
        if let Err(error) = shared.data().detach(&id).await {
            tracing::warn!(workload = %id, error, "what the workload has open may hang");
        }
        if let Err(error) = detach(kernel, &planned).await {
            tracing::warn!(link = planned.attach.link, "{error:#}; it is tried again before the link is used");
        }
    }
    // Nothing is sure of these yet, so what a killed agent left of them goes on keeping their traffic in.
    let unsure = wanted.iter().filter(|(_, (_, planned))| planned.as_ref().is_err_and(|waiting| !waiting.gone));
    let mut keep: BTreeSet<_> = unsure.flat_map(|(id, _)| links(id)).collect();
    for (id, (entry, planned)) in wanted {
        let possible = planned.is_ok();
        let (kind, place) = plan::describe(entry, &planned, shared.sources());
        let state = if attached.contains_key(&id) {
            WorkloadState::Attached
        } else {
            match try_attach(shared, kernel, &id, planned).await {
                Ok(held) => {
                    tracing::info!(workload = %id, link = held.planned.attach.link, "attached");
                    attached.insert(id.clone(), held);
                    WorkloadState::Attached
                }
                Err(why) => {
                    keep.extend(links(&id).into_iter().filter(|_| possible));
                    WorkloadState::Waiting(why)
                }
            }
        };
        let since = attached.get(&id).map(|held| held.since.clone());
        let status = status(&id, entry, (kind, place), state, since);
        if report(shared, id, &status) && status.state != WorkloadState::Attached {
            tracing::warn!(workload = %status.id, state = %status.state, "not attached");
        }
    }
    settle(kernel, keep).await
}

/// What the policy wants attached on this host, as far as it can be found. While nobody can say which replicas a workload has,
/// those that are attached stay.
fn wanted<'p>(policy: &Policy, on_host: &[&'p WorkloadEntry], shared: &Shared, attached: &Plans) -> All<'p> {
    let mut all = All::new();
    for entry in on_host {
        for (replica, planned) in plan::plan(policy, entry, shared.sources()) {
            all.insert(InterfaceId { workload: entry.id.clone(), replica }, (*entry, planned));
        }
        let unnamed = InterfaceId::only(entry.id.clone());
        let unsure = matches!(all.get(&unnamed), Some((_, Err(waiting))) if !waiting.gone);
        let mut standing = attached.iter().filter(|(id, _)| id.workload == entry.id && id.replica.is_some()).peekable();
        if unsure && standing.peek().is_some() {
            all.remove(&unnamed);
            all.extend(standing.map(|(id, held)| (id.clone(), (*entry, Ok(held.planned.clone())))));
        }
    }
    all
}

/// What the names of what a killed agent may have left of an interface, or of all of a workload's, begin with.
fn links(id: &InterfaceId) -> Vec<String> {
    match &id.replica {
        Some(replica) => vec![plan::link_name(&id.workload, Some(replica))],
        None => vec![plan::link_name(&id.workload, None), plan::link_prefix(&id.workload)],
    }
}

/// Undoes what a killed agent left and is not wanted any more: all but what has a name that begins so.
async fn settle(kernel: &Arc<Kernel>, keep: BTreeSet<String>) -> anyhow::Result<()> {
    let kernel = Arc::clone(kernel);
    let settled = tokio::task::spawn_blocking(move || kernel.settle(&keep)).await.context("cleaning up broke off")?;
    if let Err(error) = settled {
        tracing::warn!("failed to undo all that an agent left that did not stop in order: {error}");
    }
    Ok(())
}

fn containers(entries: &[&WorkloadEntry]) -> BTreeSet<Container> {
    let wanted = entries.iter().filter_map(|entry| match &entry.run {
        Run::Container(container) => Some(container.clone()),
        Run::Netns(_) | Run::User(_) | Run::Cgroup(_) | Run::Pod(_) | Run::Host => None,
    });
    wanted.collect()
}

fn status(
    id: &InterfaceId,
    entry: &WorkloadEntry,
    (kind, place): (&str, String),
    state: WorkloadState,
    since: Option<String>,
) -> WorkloadStatus {
    WorkloadStatus {
        id: id.workload.clone(),
        replica: id.replica.clone(),
        link: plan::link_name(&id.workload, id.replica.as_ref()),
        kind: kind.into(),
        place,
        v4: entry.v4,
        v6: entry.v6,
        sessions: 0,
        says: Vec::new(),
        since,
        state,
    }
}

/// True when it is news.
fn report(shared: &Shared, id: InterfaceId, status: &WorkloadStatus) -> bool {
    let before = shared.workloads().insert(id, status.clone());
    before.is_none_or(|before| before.state != status.state)
}

async fn try_attach(
    shared: &Shared,
    kernel: &Arc<Kernel>,
    id: &InterfaceId,
    planned: Result<Planned, Waiting>,
) -> Result<Held, String> {
    let planned = planned.map_err(|waiting| waiting.why)?;
    attach(shared, kernel, id, planned).await.map_err(|error| format!("{error:#}"))
}

async fn attach(shared: &Shared, kernel: &Arc<Kernel>, id: &InterfaceId, planned: Planned) -> anyhow::Result<Held> {
    // What an earlier attempt may have left.
    detach(kernel, &planned).await?;
    let (attaching, plan) = (Arc::clone(kernel), planned.attach.clone());
    let programs = plan.place.programs();
    let queues =
        tokio::task::spawn_blocking(move || attaching.attach(&plan)).await.context("attaching broke off")??;
    let has_v6 = queues.iter().all(Tun::has_v6);
    let AttachPlan { v4, v6, .. } = planned.attach;
    let owner = Owner { id: id.clone(), v4, v6, has_v6, programs, spread: Spread::new(id.clone()) };
    match take_up(shared, &owner, queues).await {
        Ok(devices) => Ok(Held { planned, since: shared::rfc3339(OffsetDateTime::now_utc()), has_v6, devices }),
        Err(error) => {
            detach(kernel, &planned).await?;
            Err(error)
        }
    }
}

/// Has the data threads take up an interface; returns its queues' descriptors.
async fn take_up(shared: &Shared, owner: &Owner, queues: Vec<Tun>) -> anyhow::Result<Vec<OwnedFd>> {
    let devices = queues.iter().map(Tun::descriptor).collect::<Result<Vec<_>, _>>()?;
    let queues = queues.into_iter().map(|tun| (tun, None)).collect();
    shared.data().attach(owner, queues).await.map_err(anyhow::Error::msg)?;
    Ok(devices)
}

async fn detach(kernel: &Arc<Kernel>, planned: &Planned) -> anyhow::Result<()> {
    let (kernel, link) = (Arc::clone(kernel), planned.attach.link.clone());
    let detached = tokio::task::spawn_blocking(move || kernel.detach(&link)).await.context("detaching broke off")?;
    detached.context("failed to remove everything of an interface")
}
