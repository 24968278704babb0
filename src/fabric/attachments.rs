//! Keeps the interfaces of this host as the policy wants them.

use super::{
    data::{Attached, Command},
    plan::{self, Planned, Waiting},
    shared::Shared,
};
use crate::{
    admin::{AgentView as _, WorkloadState, WorkloadStatus},
    interface::Owner,
    kernel::{Kernel, Place},
    telemetry::Unready,
};
use anyhow::Context as _;
use ripstop_config::WorkloadId;
use ripstop_policy::WorkloadEntry;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often a workload whose namespace or user is not there yet, or not the same any more, is looked for.
const LOOK: Duration = Duration::from_secs(1);

type Plans = BTreeMap<WorkloadId, Planned>;

/// Attaches what the policy places on this host, follows its changes, and attaches again what went away. Ready once
/// everything was tried once. Returns only on an error that waiting does not mend.
pub(super) async fn keep(shared: &Arc<Shared>, kernel: &Arc<Kernel>, starting: Unready) -> anyhow::Result<()> {
    let recovering = Arc::clone(kernel);
    // Only when everything else stands, so that what a killed agent left to keep traffic in is away for as short as can be.
    tokio::task::spawn_blocking(move || recovering.recover()).await.context("recovering broke off")??;
    let mut attached = Plans::new();
    let mut starting = Some(starting);
    loop {
        reconcile(shared, kernel, &mut attached).await?;
        shared.publish();
        if starting.take().is_some() {
            tracing::info!(attached = attached.len(), "ready");
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            Some(workload) = shared.data().interface_gone() => drop(attached.remove(&workload)),
        }
    }
}

async fn reconcile(shared: &Arc<Shared>, kernel: &Arc<Kernel>, attached: &mut Plans) -> anyhow::Result<()> {
    let policy = shared.policy();
    let on_host = policy.workloads_on(shared.host()).map(|ix| policy.workload_entry(ix));
    let wanted: BTreeMap<_, _> = on_host.map(|entry| (entry.id.clone(), (entry, plan::plan(&policy, entry)))).collect();
    shared.workloads().retain(|id, _| wanted.contains_key(id));
    let stale = |id: &WorkloadId, planned: &Planned| match wanted.get(id) {
        Some((_, Ok(wanted))) => wanted != planned,
        Some((_, Err(waiting))) => waiting.gone,
        None => true,
    };
    for (id, planned) in attached.extract_if(.., |id, planned| stale(id, planned)) {
        shared.data().send(Command::Detach(id)).map_err(anyhow::Error::msg)?;
        if let Err(error) = detach(kernel, &planned).await {
            tracing::warn!(link = planned.attach.link, "{error:#}; it is tried again before the link is used");
        }
    }
    for (id, (entry, planned)) in wanted {
        let state = if attached.contains_key(&id) {
            WorkloadState::Attached
        } else {
            match try_attach(shared, kernel, entry, planned).await {
                Ok(planned) => {
                    tracing::info!(workload = %id, link = planned.attach.link, "attached");
                    attached.insert(id.clone(), planned);
                    WorkloadState::Attached
                }
                Err(why) => WorkloadState::Waiting(why),
            }
        };
        if report(shared, entry, state.clone()) && state != WorkloadState::Attached {
            tracing::warn!(workload = %id, %state, "not attached");
        }
    }
    Ok(())
}

/// True when it is news.
fn report(shared: &Shared, entry: &WorkloadEntry, state: WorkloadState) -> bool {
    let (kind, place) = plan::describe(entry);
    let status = WorkloadStatus {
        id: entry.id.clone(),
        link: plan::link_name(&entry.id),
        kind: kind.into(),
        place,
        v4: entry.v4,
        v6: entry.v6,
        sessions: 0,
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
) -> Result<Planned, String> {
    let planned = planned.map_err(|waiting| waiting.why)?;
    attach(shared, kernel, entry, &planned).await.map_err(|error| format!("{error:#}"))?;
    Ok(planned)
}

async fn attach(shared: &Shared, kernel: &Arc<Kernel>, entry: &WorkloadEntry, planned: &Planned) -> anyhow::Result<()> {
    // What an earlier attempt may have left.
    detach(kernel, planned).await?;
    let (attaching, plan) = (Arc::clone(kernel), planned.attach.clone());
    let user = match plan.place {
        Place::User { uid } => Some(uid),
        Place::Netns(_) => None,
    };
    let tun = tokio::task::spawn_blocking(move || attaching.attach(&plan)).await.context("attaching broke off")??;
    let owner = Owner { workload: entry.id.clone(), v4: entry.v4, v6: entry.v6, has_v6: tun.has_v6(), user };
    let taken = shared.data().send(Command::Attach(Attached { owner, tun }));
    if taken.is_err() {
        detach(kernel, planned).await?;
    }
    taken.map_err(anyhow::Error::msg)
}

async fn detach(kernel: &Arc<Kernel>, planned: &Planned) -> anyhow::Result<()> {
    let (kernel, link) = (Arc::clone(kernel), planned.attach.link.clone());
    let detached = tokio::task::spawn_blocking(move || kernel.detach(&link)).await.context("detaching broke off")?;
    detached.context("failed to remove everything of an interface")
}
