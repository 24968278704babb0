//! What the interface of a workload is to be on this host, as far as the host can say by now.

use super::{by_hand::ByHand, containers::Containers};
use crate::{admin::BY_HAND, pods::Pods};
use ripstop_config::{
    WorkloadId,
    graph::{Pod, Run, User},
};
use ripstop_kernel::{
    AttachPlan, Cgroup, Doorway, LINKS, Place,
    netns::{self, NsId},
};
use ripstop_policy::{Policy, WorkloadEntry};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Where users are; read directly, as a static binary cannot load the C library's name services.
const PASSWD: &str = "/etc/passwd";

/// An interface that can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) attach: AttachPlan,
    /// Which namespace the path leads to: another one may take its name.
    pub(super) namespace: Option<NsId>,
}

/// Why an interface cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) why: String,
    /// What it is for is not there. When this host merely failed to look, what is attached stays.
    pub(super) gone: bool,
}

/// Where workloads are that the graph alone does not find.
#[derive(Clone, Copy)]
pub(super) struct Sources<'s> {
    pub(super) containers: &'s Containers,
    pub(super) by_hand: &'s ByHand,
    pub(super) pods: &'s Pods,
    /// Who looks at namespaces that the agent may not look at.
    pub(super) doorway: &'s Doorway,
}

/// What the interface of a workload is to be; the error says what it waits for.
pub(super) fn plan(policy: &Policy, entry: &WorkloadEntry, sources: Sources<'_>) -> Result<Planned, Waiting> {
    let (place, namespace) = match sources.by_hand.get(&entry.id) {
        Some(hand) => in_namespace(hand.network()?, sources)?,
        None => place(entry, sources)?,
    };
    let (resolver, _) = policy.resolver();
    let attach = AttachPlan {
        link: link_name(&entry.id),
        place,
        v4: entry.v4,
        v6: entry.v6,
        ranges: policy.graph().ranges,
        isolated: entry.isolated,
        resolver,
    };
    Ok(Planned { attach, namespace })
}

fn place(entry: &WorkloadEntry, sources: Sources<'_>) -> Result<(Place, Option<NsId>), Waiting> {
    let place = match &entry.run {
        Run::Netns(name) => return in_namespace(netns_path(name), sources),
        Run::Container(container) => {
            let network = sources.containers.find(container)?.network();
            let ended = |error: io::Error| waiting(&error, &format!("the container with the {container}"));
            return in_namespace(network.map_err(ended)?, sources);
        }
        Run::Pod(pod) => return in_pod(pod, sources),
        Run::User(User::Id(uid)) => Place::User { uid: *uid },
        Run::User(User::Name(name)) => Place::User { uid: user_id(name)? },
        Run::Cgroup(path) => {
            let found = Cgroup::find(path);
            Place::Cgroup(found.map_err(|error| waiting(&error, &format!("the control group {path}")))?)
        }
        Run::Host => Place::Host,
    };
    Ok((place, None))
}

fn in_namespace(path: PathBuf, sources: Sources<'_>) -> Result<(Place, Option<NsId>), Waiting> {
    let id = sources.doorway.identify(&path);
    let id = id.map_err(|error| waiting(&error, &format!("namespace {}", path.display())))?;
    Ok((Place::Netns(path), Some(id)))
}

/// Only the namespace that was announced, and not another that has its path by now.
fn in_pod(pod: &Pod, sources: Sources<'_>) -> Result<(Place, Option<NsId>), Waiting> {
    let none = || Waiting { why: format!("no pod {pod} was announced by CNI"), gone: true };
    let (path, announced) = sources.pods.find(pod).ok_or_else(none)?;
    let (place, found) = in_namespace(path, sources)?;
    if found == Some(announced) { Ok((place, found)) } else { Err(none()) }
}

pub(super) fn waiting(error: &io::Error, what: &str) -> Waiting {
    let gone = error.kind() == io::ErrorKind::NotFound;
    let why = if gone { format!("{what} does not exist yet") } else { format!("failed to look at {what}: {error}") };
    Waiting { why, gone }
}

/// The kind of a workload, and where it is, for people and for `ripstop exec`.
pub(super) fn describe(entry: &WorkloadEntry, sources: Sources<'_>) -> (&'static str, String) {
    let shown = |path: PathBuf| path.display().to_string();
    if let Some(hand) = sources.by_hand.get(&entry.id) {
        return (BY_HAND, hand.network().map_or_else(|waiting| waiting.why, shown));
    }
    match &entry.run {
        Run::Netns(name) => ("netns", shown(netns_path(name))),
        Run::User(User::Name(name)) => ("user", user_id(name).map_or_else(|_| name.clone(), |id| id.to_string())),
        Run::User(User::Id(id)) => ("user", id.to_string()),
        Run::Cgroup(path) => ("cgroup", path.clone()),
        Run::Container(container) => {
            let network = sources.containers.find(container).ok().and_then(|process| process.network().ok());
            ("container", network.map_or_else(|| container.to_string(), shown))
        }
        Run::Pod(pod) => ("pod", sources.pods.find(pod).map_or_else(|| pod.to_string(), |(path, _)| shown(path))),
        Run::Host => ("host", "all else".into()),
    }
}

pub(super) fn netns_path(name: &str) -> PathBuf {
    // Joining an absolute path gives that path.
    let named = netns::path_of(name);
    if Path::new(name).is_absolute() { PathBuf::from(name) } else { named }
}

/// Finds a user that is not root.
fn user_id(name: &str) -> Result<u32, Waiting> {
    let users = std::fs::read_to_string(PASSWD).map_err(|error| waiting(&error, PASSWD))?;
    let id = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    let missing = || Waiting { why: format!("{PASSWD} has no user `{name}` other than root"), gone: true };
    id.filter(|id| *id != 0).ok_or_else(missing)
}

/// A name of at most 15 bytes (`IFNAMSIZ`) that is the same at every start: as much of the workload's name as fits, and a
/// hash of all of it. Two workloads could share one in the worst case; the second is then refused.
pub(super) fn link_name(id: &WorkloadId) -> String {
    // FNV-1a, 32 bits.
    let hash =
        id.to_string().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let name: String = id.name.as_str().chars().take(6).collect();
    format!("{LINKS}{name}-{:05x}", hash & 0xf_ffff)
}
