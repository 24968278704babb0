//! What the interfaces of a workload are to be on this host, as far as the host can say by now.

use super::{by_hand::ByHand, containers::Containers, process::Process};
use crate::{
    admin::BY_HAND,
    pods::{self, Pods},
};
use ripstop_config::{
    WorkloadId,
    agent::DATA_THREADS_MAX,
    graph::{Container, Pod, Run, User},
};
use ripstop_datapath::interface::Replica;
use ripstop_kernel::{
    AttachPlan, Cgroup, Doorway, LINKS, Place, QUEUES_MAX,
    netns::{self, NsId},
};
use ripstop_policy::{Policy, WorkloadEntry};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Where users are; read directly, as a static binary cannot load the C library's name services.
const PASSWD: &str = "/etc/passwd";

const _: () = assert!(DATA_THREADS_MAX <= QUEUES_MAX, "each data thread has a queue of every interface");

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
    /// Queues of an interface: one for each data thread.
    pub(super) queues: u8,
}

/// What an interface of a workload is to be, by whose replica's it is; the error says what it waits for.
pub(super) type Wanted = (Option<Replica>, Result<Planned, Waiting>);

/// Where an interface is to be, and which namespace that is.
type Placed = Result<(Place, Option<NsId>), Waiting>;

/// What the interfaces of a workload are to be: one for each replica, where there are some, else one.
pub(super) fn plan(policy: &Policy, entry: &WorkloadEntry, sources: Sources<'_>) -> Vec<Wanted> {
    let (resolver, _) = policy.resolver();
    let planned = |(replica, placed): (Option<Replica>, Placed)| {
        let planned = placed.map(|(place, namespace)| {
            let WorkloadEntry { v4, v6, isolated, .. } = *entry;
            let (link, ranges) = (link_name(&entry.id, replica.as_ref()), policy.graph().ranges);
            Planned {
                attach: AttachPlan { link, place, v4, v6, ranges, isolated, resolver, queues: sources.queues },
                namespace,
            }
        });
        (replica, planned)
    };
    let places = match sources.by_hand.get(&entry.id) {
        Some(hand) => vec![(None, hand.network().and_then(|path| in_namespace(path, sources)))],
        None => places(entry, sources),
    };
    places.into_iter().map(planned).collect()
}

fn places(entry: &WorkloadEntry, sources: Sources<'_>) -> Vec<(Option<Replica>, Placed)> {
    let one = match &entry.run {
        Run::Container(container) => return in_containers(container, sources),
        Run::Pod(pod) => return in_pods(pod, sources),
        Run::Netns(name) => in_namespace(netns_path(name), sources),
        Run::User(User::Id(uid)) => Ok((Place::User { uid: *uid }, None)),
        Run::User(User::Name(name)) => user_id(name).map(|uid| (Place::User { uid }, None)),
        Run::Cgroup(path) => {
            let found = Cgroup::find(path).map_err(|error| waiting(&error, &format!("the control group {path}")));
            found.map(|group| (Place::Cgroup(group), None))
        }
        Run::Host => Ok((Place::Host, None)),
    };
    vec![(None, one)]
}

fn in_containers(container: &Container, sources: Sources<'_>) -> Vec<(Option<Replica>, Placed)> {
    let found = match sources.containers.find(container) {
        Ok(found) => found,
        Err(waiting) => return vec![(None, Err(waiting))],
    };
    let ended = |error: io::Error| waiting(&error, &format!("the container with the {container}"));
    let place = |process: Result<Process, Waiting>| in_namespace(process?.network().map_err(ended)?, sources);
    found.into_iter().map(|(id, process)| (Some(Replica::new(id)), place(process))).collect()
}

fn in_namespace(path: PathBuf, sources: Sources<'_>) -> Result<(Place, Option<NsId>), Waiting> {
    let id = sources.doorway.identify(&path);
    let id = id.map_err(|error| waiting(&error, &format!("namespace {}", path.display())))?;
    Ok((Place::Netns(path), Some(id)))
}

/// Only the namespaces that were announced, and not others that have their paths by now.
fn in_pods(pod: &Pod, sources: Sources<'_>) -> Vec<(Option<Replica>, Placed)> {
    let none = || Waiting { why: format!("no pod {pod} was announced by CNI"), gone: true };
    let place = |announced: &pods::Found| {
        let (place, found) = in_namespace(announced.netns.clone(), sources)?;
        if found == Some(announced.id) { Ok((place, found)) } else { Err(none()) }
    };
    let all = sources.pods.of(pod);
    let placed: Vec<_> = all.iter().map(|one| (Some(Replica::new(&one.container)), place(one))).collect();
    // Those that are gone are of interest only where there are no others.
    let is_there = |(_, placed): &(_, Placed)| placed.as_ref().map_or_else(|waiting| !waiting.gone, |_| true);
    let there: Vec<_> = placed.into_iter().filter(is_there).collect();
    if there.is_empty() { vec![(None, Err(none()))] } else { there }
}

pub(super) fn waiting(error: &io::Error, what: &str) -> Waiting {
    let gone = error.kind() == io::ErrorKind::NotFound;
    let why = if gone { format!("{what} does not exist yet") } else { format!("failed to look at {what}: {error}") };
    Waiting { why, gone }
}

/// The kind of a workload, and where its interface is, for people and for `ripstop exec`.
pub(super) fn describe(
    entry: &WorkloadEntry,
    planned: &Result<Planned, Waiting>,
    sources: Sources<'_>,
) -> (&'static str, String) {
    let place = match planned {
        Ok(planned) => Some(match &planned.attach.place {
            Place::Netns(path) => path.display().to_string(),
            Place::User { uid } => uid.to_string(),
            Place::Cgroup(group) => group.path.clone(),
            Place::Host => "all else".into(),
        }),
        Err(_) => None,
    };
    if let Some(hand) = sources.by_hand.get(&entry.id) {
        let network = || hand.network().map_or_else(|waiting| waiting.why, |path| path.display().to_string());
        return (BY_HAND, place.unwrap_or_else(network));
    }
    let (kind, named) = match &entry.run {
        Run::Netns(name) => ("netns", netns_path(name).display().to_string()),
        Run::User(User::Name(name)) => ("user", name.clone()),
        Run::User(User::Id(id)) => ("user", id.to_string()),
        Run::Cgroup(path) => ("cgroup", path.clone()),
        Run::Container(container) => ("container", container.to_string()),
        Run::Pod(pod) => ("pod", pod.to_string()),
        Run::Host => ("host", "all else".into()),
    };
    (kind, place.unwrap_or(named))
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

/// The name of an interface, at most 15 bytes (`IFNAMSIZ`), the same at every start: as much of the workload's name as fits, and
/// hashes of all of it and of the replica. Two could share one in the worst case; the second is then refused.
pub(super) fn link_name(id: &WorkloadId, replica: Option<&Replica>) -> String {
    match replica {
        None => {
            let name: String = id.name.as_str().chars().take(6).collect();
            format!("{LINKS}{name}-{:05x}", hash(&id.to_string()) & 0xf_ffff)
        }
        Some(replica) => format!("{}{}", link_prefix(id), digits(hash(replica.as_str()), REPLICA_DIGITS)),
    }
}

/// What the names of the interfaces of a workload's replicas begin with.
pub(super) fn link_prefix(id: &WorkloadId) -> String {
    let name: String = id.name.as_str().chars().take(3).collect();
    format!("{LINKS}{name}-{}", digits(hash(&id.to_string()), WORKLOAD_DIGITS))
}

/// Digits of the workload's hash and of the replica's, 5 bits each: of 256 replicas two share a name once in a thousand times.
const WORKLOAD_DIGITS: usize = 3;
const REPLICA_DIGITS: usize = 5;

fn digits(hash: u32, count: usize) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    (0..count).map(|at| char::from(DIGITS[(hash >> (5 * at)) as usize % DIGITS.len()])).collect()
}

/// FNV-1a, 32 bits.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
