//! What each verb of CNI does.

use super::{
    config::Config,
    environment::{Environment, Verb},
    error::{CniError, Code},
    result,
};
use crate::{
    admin::{Client, Status, WorkloadState, WorkloadStatus, pods::Left},
    pods::{Announced, Announcement, Sandbox},
};
use ripstop_config::WorkloadId;
use serde_json::Value;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How long an interface may take to be made, or to go: some milliseconds, unless the agent is at its graph. A runtime tries again.
const DONE_MAX: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Does it; returns what is to be printed.
pub(super) fn act(environment: &Environment, config: &Config) -> Result<Option<Value>, CniError> {
    let client = Client::new(&config.socket());
    match environment.verb {
        Verb::Add => add(environment, config, &client).map(Some),
        Verb::Del => del(environment, config, &client).map(|()| None),
        Verb::Check => check(environment, config, &client).map(|()| None),
        Verb::Gc => gc(config, &client).map(|()| None),
        Verb::Status => status(&client).map(|()| None),
    }
}

fn add(environment: &Environment, config: &Config, client: &Client) -> Result<Value, CniError> {
    let sandbox = environment.sandbox(&config.name)?;
    let (said, netns) = environment.netns()?;
    let Some(pod) = config.pod(environment.pod_namespace.as_deref())? else { return Ok(result::before(config)) };
    let announcement = Announcement { sandbox: sandbox.clone(), pod, netns: netns.clone() };
    let announced = client.announce_pod(&announcement).map_err(|error| CniError::agent(Code::Later, &error))?;
    let id = match announced {
        Announced::Workload(id) => id,
        Announced::Unknown(why) => {
            return Err(CniError::new(Code::Unknown, "the pod is no workload of this host", why));
        }
        Announced::Later(why) => return Err(CniError::new(Code::Later, "the pod cannot be attached now", why)),
    };
    match wait(client, &id, |workload| is_attached(workload, &netns) && is_of(workload, &sandbox)) {
        Ok(Some((status, workload))) => Ok(result::of(config, &status, &workload, said)),
        other => {
            // What a pod that does not start would leave; the runtime says DEL as well.
            let _ = client.retract_pod(&sandbox);
            other?;
            let details = format!("{id} is not attached after {DONE_MAX:?}; `ripstop workloads` says why");
            Err(CniError::new(Code::Later, "the pod has no interface yet", details))
        }
    }
}

/// Also where there was nothing, and where there is no agent: the next one sees that the namespace is gone.
fn del(environment: &Environment, config: &Config, client: &Client) -> Result<(), CniError> {
    let sandbox = environment.sandbox(&config.name)?;
    let pods = match client.pods() {
        Err(error) if error.is_unreachable() => {
            eprintln!("{error}: it forgets the pod when it is there again and the pod's namespace is not");
            return Ok(());
        }
        other => other.map_err(|error| CniError::agent(Code::Later, &error))?,
    };
    let Some(known) = pods.into_iter().find(|one| one.sandbox == sandbox) else { return Ok(()) };
    client.retract_pod(&sandbox).map_err(|error| CniError::agent(Code::Later, &error))?;
    // Until the interface is gone, so that nothing of it is in the namespace that the runtime removes. It goes with that anyway.
    let started = Instant::now();
    while started.elapsed() < DONE_MAX {
        let workloads = client.status().map(|status| status.workloads).unwrap_or_default();
        if !workloads.iter().any(|workload| is_attached(workload, &known.netns) && is_of(workload, &sandbox)) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn check(environment: &Environment, config: &Config, client: &Client) -> Result<(), CniError> {
    let sandbox = environment.sandbox(&config.name)?;
    let (said, netns) = environment.netns()?;
    if config.pod(environment.pod_namespace.as_deref())?.is_none() {
        return Ok(());
    }
    let asked = |error| CniError::agent(Code::Later, &error);
    let known = client.pods().map_err(asked)?.iter().any(|one: &Announcement| one.sandbox == sandbox);
    let status = client.status().map_err(asked)?;
    let own = |workload: &&WorkloadStatus| is_attached(workload, &netns) && is_of(workload, &sandbox);
    let attached = status.workloads.iter().find(own).filter(|_| known);
    let detached = |details: String| CniError::new(Code::Detached, "the pod is not attached as it was", details);
    let Some(workload) = attached else { return Err(detached(format!("no workload is attached to {said}"))) };
    match &config.prev_result {
        Some(before) if !result::has(before, &workload.link, said) => {
            Err(detached(format!("its interface is {}, which it was not given", workload.link)))
        }
        Some(_) | None => Ok(()),
    }
}

fn gc(config: &Config, client: &Client) -> Result<(), CniError> {
    let left = Left { network: config.name.clone(), sandboxes: config.left()? };
    client.keep_pods(&left).map_err(|error| CniError::agent(Code::Later, &error))?;
    Ok(())
}

fn status(client: &Client) -> Result<(), CniError> {
    let status = client.status().map_err(|error| CniError::agent(Code::Limited, &error))?;
    if status.waiting_for.is_empty() {
        return Ok(());
    }
    Err(CniError::new(Code::Unavailable, "the agent of this host is not ready", status.waiting_for.join(", ")))
}

fn is_attached(workload: &WorkloadStatus, netns: &Path) -> bool {
    workload.state == WorkloadState::Attached && Path::new(&workload.place) == netns
}

/// Whether it is the replica that this container is.
fn is_of(workload: &WorkloadStatus, sandbox: &Sandbox) -> bool {
    workload.replica.as_ref().is_some_and(|replica| replica.as_str() == sandbox.container)
}

/// The workload once it is as wanted; `None` when it does not become so.
fn wait(
    client: &Client,
    id: &WorkloadId,
    wanted: impl Fn(&WorkloadStatus) -> bool,
) -> Result<Option<(Status, WorkloadStatus)>, CniError> {
    let started = Instant::now();
    loop {
        let status = client.status().map_err(|error| CniError::agent(Code::Later, &error))?;
        let found = status.workloads.iter().find(|workload| workload.id == *id && wanted(workload)).cloned();
        match found {
            Some(workload) => return Ok(Some((status, workload))),
            None if started.elapsed() > DONE_MAX => return Ok(None),
            None => std::thread::sleep(LOOK),
        }
    }
}
