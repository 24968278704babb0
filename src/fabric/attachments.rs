//! Keeps the interfaces of this host as the policy wants them.

use super::{
    data::{Attached, Command},
    plan::{self, Planned, Waiting},
    service_manager,
    shared::{self, Shared},
    split_domain::SplitDomain,
    upgrade::{self, AdoptedInterface, Draining, Listeners, Ours, PlanText, Standing},
};
use crate::admin::{AgentView as _, WorkloadState, WorkloadStatus};
use anyhow::Context as _;
use ripstop_config::{
    WorkloadId,
    graph::{Container, Run},
};
use ripstop_datapath::handover::Channel;
use ripstop_datapath::interface::Owner;
use ripstop_kernel::{AttachPlan, Kernel, Place};
use ripstop_policy::WorkloadEntry;
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

type Plans = BTreeMap<WorkloadId, Held>;

/// An interface that is attached.
struct Held {
    planned: Planned,
    since: String,
    has_v6: bool,
    /// The device, for the next agent.
    device: OwnedFd,
}

/// What an agent begins with.
pub(super) struct Beginning {
    /// Dropped once everything was tried once.
    pub(super) starting: Unready,
    /// The interfaces of the agent before, if there was one.
    pub(super) adopted: Option<Vec<AdoptedInterface>>,
    /// The next agents that come to take over.
    pub(super) coming: mpsc::Receiver<Channel>,
}

/// Attaches what the policy places on this host, follows its changes, and attaches again what went away. Ready once
/// everything was tried once. Returns when another agent has taken over, or on an error that waiting does not mend.
pub(super) async fn keep(
    shared: &Arc<Shared>,
    kernel: &Arc<Kernel>,
    listeners: &Listeners,
    beginning: Beginning,
) -> anyhow::Result<Draining> {
    let Beginning { starting, adopted, mut coming } = beginning;
    let mut attached = match adopted {
        Some(adopted) => adopt(shared, kernel, adopted)?,
        None => {
            let recovering = Arc::clone(kernel);
            tokio::task::spawn_blocking(move || recovering.recover()).await.context("recovering broke off")??;
            Plans::new()
        }
    };
    let containers = Arc::clone(&shared.containers);
    tokio::spawn(containers.follow(Arc::clone(&shared.changed)));
    let mut split_domain = SplitDomain::default();
    let mut starting = Some(starting);
    loop {
        reconcile(shared, kernel, &mut attached).await?;
        shared.publish();
        split_domain.keep(shared, host_interface(&attached)).await;
        if starting.take().is_some() {
            resolv_conf(shared);
            tracing::info!(attached = attached.len(), "ready");
            service_manager::serves(shared);
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            Some(workload) = shared.data().interface_gone() => drop(attached.remove(&workload)),
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
    let standing = |(workload, held): (&'s WorkloadId, &'s Held)| Standing {
        workload,
        plan: PlanText::new(&held.planned.attach, held.planned.namespace),
        has_v6: held.has_v6,
        since: &held.since,
        device: held.device.as_fd(),
    };
    Ours { shared, kernel, listeners, interfaces: attached.iter().map(standing).collect() }
}

/// Takes up the interfaces of the agent before, as they stand. Those that the policy wants otherwise follow after that.
fn adopt(shared: &Shared, kernel: &Kernel, interfaces: Vec<AdoptedInterface>) -> anyhow::Result<Plans> {
    let mut attached = Plans::new();
    for one in interfaces {
        if !kernel.adopt(&one.attach.link) {
            tracing::warn!(link = one.attach.link, "the journal does not have it; it is made anew");
            continue;
        }
        let AttachPlan { v4, v6, .. } = one.attach;
        let (programs, has_v6) = (one.attach.place.programs(), one.tun.has_v6());
        let owner = Owner { workload: one.workload.clone(), v4, v6, has_v6, programs };
        let taken = Attached { owner, tun: one.tun, inherited: Some(one.part) };
        shared.data().send(Command::Attach(taken)).map_err(anyhow::Error::msg)?;
        let planned = Planned { attach: one.attach, namespace: one.namespace };
        attached.insert(one.workload, Held { planned, since: one.since, has_v6, device: one.device });
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
    let plan = |entry: &WorkloadEntry| plan::plan(&policy, entry, shared.sources());
    let wanted: BTreeMap<_, _> = on_host.into_iter().map(|entry| (entry.id.clone(), (entry, plan(entry)))).collect();
    shared.workloads().retain(|id, _| wanted.contains_key(id));
    shared.by_hand.retain(|id| wanted.contains_key(id));
    let stale = |id: &WorkloadId, held: &Held| match wanted.get(id) {
        Some((_, Ok(wanted))) => *wanted != held.planned,
        Some((_, Err(waiting))) => waiting.gone,
        None => true,
    };
    for (id, Held { planned, .. }) in attached.extract_if(.., |id, held| stale(id, held)) {
        shared.data().send(Command::Detach(id)).map_err(anyhow::Error::msg)?;
        if let Err(error) = detach(kernel, &planned).await {
            tracing::warn!(link = planned.attach.link, "{error:#}; it is tried again before the link is used");
        }
    }
    // Nothing is sure of these yet, so what a killed agent left of them goes on keeping their traffic in.
    let unsure = wanted.values().filter(|(_, planned)| planned.as_ref().is_err_and(|waiting| !waiting.gone));
    let mut keep: BTreeSet<_> = unsure.map(|(entry, _)| plan::link_name(&entry.id)).collect();
    for (id, (entry, planned)) in wanted {
        let possible = planned.is_ok();
        let state = if attached.contains_key(&id) {
            WorkloadState::Attached
        } else {
            match try_attach(shared, kernel, entry, planned).await {
                Ok(held) => {
                    tracing::info!(workload = %id, link = held.planned.attach.link, "attached");
                    attached.insert(id.clone(), held);
                    WorkloadState::Attached
                }
                Err(why) => {
                    keep.extend(possible.then(|| plan::link_name(&id)));
                    WorkloadState::Waiting(why)
                }
            }
        };
        let since = attached.get(&id).map(|held| held.since.clone());
        if report(shared, entry, state.clone(), since) && state != WorkloadState::Attached {
            tracing::warn!(workload = %id, %state, "not attached");
        }
    }
    settle(kernel, keep).await
}

/// Undoes what a killed agent left and is not wanted any more.
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

/// True when it is news.
fn report(shared: &Shared, entry: &WorkloadEntry, state: WorkloadState, since: Option<String>) -> bool {
    let (kind, place) = plan::describe(entry, shared.sources());
    let status = WorkloadStatus {
        id: entry.id.clone(),
        link: plan::link_name(&entry.id),
        kind: kind.into(),
        place,
        v4: entry.v4,
        v6: entry.v6,
        sessions: 0,
        says: Vec::new(),
        since,
        state,
    };
    let before = shared.workloads().insert(entry.id.clone(), status.clone());
    before.is_none_or(|before| before.state != status.state)
}

async fn try_attach(
    shared: &Shared,
    kernel: &Arc<Kernel>,
    entry: &WorkloadEntry,
    planned: Result<Planned, Waiting>,
) -> Result<Held, String> {
    let planned = planned.map_err(|waiting| waiting.why)?;
    attach(shared, kernel, entry, planned).await.map_err(|error| format!("{error:#}"))
}

async fn attach(
    shared: &Shared,
    kernel: &Arc<Kernel>,
    entry: &WorkloadEntry,
    planned: Planned,
) -> anyhow::Result<Held> {
    // What an earlier attempt may have left.
    detach(kernel, &planned).await?;
    let (attaching, plan) = (Arc::clone(kernel), planned.attach.clone());
    let programs = plan.place.programs();
    let tun = tokio::task::spawn_blocking(move || attaching.attach(&plan)).await.context("attaching broke off")??;
    let has_v6 = tun.has_v6();
    let owner = Owner { workload: entry.id.clone(), v4: entry.v4, v6: entry.v6, has_v6, programs };
    let taken = tun.descriptor().map_err(anyhow::Error::from).and_then(|device| {
        let attached = Attached { owner, tun, inherited: None };
        shared.data().send(Command::Attach(attached)).map_err(anyhow::Error::msg)?;
        Ok(device)
    });
    match taken {
        Ok(device) => Ok(Held { planned, since: shared::rfc3339(OffsetDateTime::now_utc()), has_v6, device }),
        Err(error) => {
            detach(kernel, &planned).await?;
            Err(error)
        }
    }
}

async fn detach(kernel: &Arc<Kernel>, planned: &Planned) -> anyhow::Result<()> {
    let (kernel, link) = (Arc::clone(kernel), planned.attach.link.clone());
    let detached = tokio::task::spawn_blocking(move || kernel.detach(&link)).await.context("detaching broke off")?;
    detached.context("failed to remove everything of an interface")
}
