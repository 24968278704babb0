//! `ripstop attach` and `ripstop detach`.

use super::{
    Exit, args,
    output::Output,
    socket::{self, Said},
    workloads,
};
use crate::admin::{BY_HAND, Client, WorkloadState, WorkloadStatus};
use anyhow::bail;
use ripstop_config::WorkloadId;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How long an interface may take to be made or to go: some milliseconds, unless the agent is at its graph.
const DONE_MAX: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Has a workload attached, and waits until it is.
pub(super) fn attach(attach: &args::Attach, output: &Output) -> anyhow::Result<Exit> {
    let client = socket::one(&attach.socket)?;
    let id = client.attach(&attach.workload, attach.pid, attach.netns.as_deref())?;
    let is_attached = |one: &WorkloadStatus| one.state == WorkloadState::Attached;
    let all = wait(&client, &id, |all| all.iter().all(|one| is_attached(one) && is_there(one, attach)))?;
    let attached = all.iter().all(is_attached);
    workloads::show(&Said::of_one(all), output)?;
    Ok(if attached { Exit::Ok } else { Exit::Failed })
}

/// Has a workload's interface taken away, and waits until it is.
pub(super) fn detach(detach: &args::Detach, output: &Output) -> anyhow::Result<Exit> {
    let client = socket::one(&detach.socket)?;
    let id = client.detach(&detach.workload)?;
    let is_detached = |all: &[WorkloadStatus]| all.iter().all(|one| one.state != WorkloadState::Attached);
    let all = wait(&client, &id, is_detached)?;
    let detached = is_detached(&all);
    workloads::show(&Said::of_one(all), output)?;
    Ok(if detached { Exit::Ok } else { Exit::Failed })
}

/// Whether it is where it was asked to be, and not still where it was before.
fn is_there(status: &WorkloadStatus, asked: &args::Attach) -> bool {
    let by_hand = status.kind == BY_HAND;
    match (asked.pid, &asked.netns) {
        (Some(pid), _) => by_hand && status.place == format!("/proc/{pid}/ns/net"),
        (None, Some(name)) => by_hand && Path::new(&status.place).ends_with(name.trim_start_matches('/')),
        (None, None) => !by_hand,
    }
}

/// The workload's interfaces once they are as wanted, or as they are when they have not become so.
fn wait(
    client: &Client,
    id: &WorkloadId,
    wanted: impl Fn(&[WorkloadStatus]) -> bool,
) -> anyhow::Result<Vec<WorkloadStatus>> {
    let started = Instant::now();
    loop {
        // What was asked for is done a moment later.
        std::thread::sleep(LOOK);
        let all = client.status()?.workloads.into_iter().filter(|workload| workload.id == *id).collect::<Vec<_>>();
        if all.is_empty() {
            bail!("{id} is not a workload of that host any more");
        }
        if wanted(&all) || started.elapsed() > DONE_MAX {
            return Ok(all);
        }
    }
}
