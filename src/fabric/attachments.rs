//! Keeps the interfaces of this host as the policy wants them.

use super::{
    data::{Attached, Command},
    shared::Shared,
};
use crate::{
    admin::{AgentView as _, WorkloadState, WorkloadStatus},
    interface::Owner,
    kernel::{AttachPlan, Kernel, Place},
    telemetry::Unready,
};
use anyhow::Context as _;
use ripstop_config::{
    WorkloadId,
    graph::{Run, User},
};
use ripstop_policy::{Policy, WorkloadEntry};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// How often a workload whose namespace or user is not there yet is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Where named namespaces are (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";
/// Where users are; read directly, as a static binary cannot load the C library's name services.
const PASSWD: &str = "/etc/passwd";

/// Attaches what the policy places on this host, follows its changes, and attaches again what went away. Ready once
/// everything was tried once. Returns only on an error that waiting does not mend.
pub(super) async fn keep(shared: &Arc<Shared>, kernel: &Arc<Kernel>, starting: Unready) -> anyhow::Result<()> {
    let mut attached = BTreeMap::new();
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
            Some(workload) = shared.data().interface_gone() => {
                if let Some(plan) = attached.remove(&workload) {
                    detach(kernel, plan).await?;
                }
            }
        }
    }
}

type Plans = BTreeMap<WorkloadId, AttachPlan>;

async fn reconcile(shared: &Arc<Shared>, kernel: &Arc<Kernel>, attached: &mut Plans) -> anyhow::Result<()> {
    let policy = shared.policy();
    let wanted: BTreeMap<_, _> = policy
        .workloads_on(shared.host())
        .map(|ix| policy.workload_entry(ix))
        .map(|entry| (entry.id.clone(), entry))
        .collect();
    shared.workloads().retain(|id, _| wanted.contains_key(id));
    let plans: BTreeMap<_, _> = wanted.iter().map(|(id, entry)| (id.clone(), plan(&policy, entry))).collect();
    let stale: Vec<_> =
        attached.iter().filter(|(id, plan)| !is_still_wanted(&plans, id, plan)).map(|(id, _)| id.clone()).collect();
    for id in stale {
        shared.data().send(Command::Detach(id.clone())).map_err(anyhow::Error::msg)?;
        if let Some(plan) = attached.remove(&id) {
            detach(kernel, plan).await?;
        }
    }
    for (id, plan) in plans {
        let Some(entry) = wanted.get(&id) else { continue };
        let state = match plan {
            Ok(plan) if attached.contains_key(&id) => {
                report(shared, entry, &plan.link, WorkloadState::Attached);
                continue;
            }
            Ok(plan) => match attach(shared, kernel, entry, plan.clone()).await {
                Ok(()) => {
                    tracing::info!(workload = %id, link = plan.link, "attached");
                    report(shared, entry, &plan.link, WorkloadState::Attached);
                    attached.insert(id, plan);
                    continue;
                }
                Err(error) => WorkloadState::Waiting(format!("{error:#}")),
            },
            Err(why) => WorkloadState::Waiting(why),
        };
        if report(shared, entry, &link_name(&id), state.clone()) {
            tracing::warn!(workload = %id, %state, "not attached");
        }
    }
    Ok(())
}

fn is_still_wanted(
    plans: &BTreeMap<WorkloadId, Result<AttachPlan, String>>,
    id: &WorkloadId,
    plan: &AttachPlan,
) -> bool {
    matches!(plans.get(id), Some(Ok(wanted)) if wanted == plan)
}

/// True when it is news.
fn report(shared: &Shared, entry: &WorkloadEntry, link: &str, state: WorkloadState) -> bool {
    let (kind, place) = match &entry.run {
        Run::Netns(name) => ("netns", netns_path(name).display().to_string()),
        Run::User(User::Name(name)) => ("user", user_id(name).map_or_else(|| name.clone(), |id| id.to_string())),
        Run::User(User::Id(id)) => ("user", id.to_string()),
    };
    let status = WorkloadStatus {
        id: entry.id.clone(),
        link: link.into(),
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

async fn attach(shared: &Shared, kernel: &Arc<Kernel>, entry: &WorkloadEntry, plan: AttachPlan) -> anyhow::Result<()> {
    let (attaching, planned) = (Arc::clone(kernel), plan.clone());
    let user = match plan.place {
        Place::User { uid } => Some(uid),
        Place::Netns(_) => None,
    };
    let tun =
        tokio::task::spawn_blocking(move || attaching.attach(&planned)).await.context("attaching broke off")??;
    let owner = Owner { workload: entry.id.clone(), v4: entry.v4, v6: entry.v6, user };
    let taken = shared.data().send(Command::Attach(Attached { owner, tun }));
    if taken.is_err() {
        detach(kernel, plan).await?;
    }
    taken.map_err(anyhow::Error::msg)
}

async fn detach(kernel: &Arc<Kernel>, plan: AttachPlan) -> anyhow::Result<()> {
    let kernel = Arc::clone(kernel);
    let link = plan.link.clone();
    let detached =
        tokio::task::spawn_blocking(move || kernel.detach(&plan.link)).await.context("detaching broke off")?;
    if let Err(error) = detached {
        tracing::warn!(link, %error, "not everything of the interface was removed; `ripstop cleanup` will");
    }
    Ok(())
}

/// What the interface of a workload is to be; the error says what it waits for.
fn plan(policy: &Policy, entry: &WorkloadEntry) -> Result<AttachPlan, String> {
    let place = match &entry.run {
        Run::Netns(name) => {
            let path = netns_path(name);
            if !path.exists() {
                return Err(format!("namespace {} does not exist yet", path.display()));
            }
            Place::Netns(path)
        }
        Run::User(User::Id(uid)) => Place::User { uid: *uid },
        Run::User(User::Name(name)) => {
            Place::User { uid: user_id(name).ok_or_else(|| format!("no user `{name}` in {PASSWD}"))? }
        }
    };
    let (resolver, _) = policy.resolver();
    Ok(AttachPlan {
        link: link_name(&entry.id),
        place,
        v4: entry.v4,
        v6: entry.v6,
        ranges: policy.graph().ranges,
        isolated: entry.isolated,
        resolver,
    })
}

fn netns_path(name: &str) -> PathBuf {
    // Joining an absolute path gives that path.
    PathBuf::from(NAMESPACES).join(name)
}

/// Finds a user that is not root.
fn user_id(name: &str) -> Option<u32> {
    let users = std::fs::read_to_string(PASSWD).ok()?;
    let id = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })?;
    (id != 0).then_some(id)
}

/// A name of at most 15 bytes (`IFNAMSIZ`) that is the same at every start and differs between workloads: as much of the
/// workload's name as fits, and a hash of all of it.
fn link_name(id: &WorkloadId) -> String {
    // FNV-1a, 32 bits.
    let hash =
        id.to_string().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let name: String = id.name.as_str().chars().take(6).collect();
    format!("rs-{name}-{:05x}", hash & 0xf_ffff)
}
