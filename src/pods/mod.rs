//! The pods of this host: whose namespaces a container runtime has announced by CNI (`src/cni/`), until it says that they are gone.
//!
//! 1. The plugin announces a pod's namespace once the runtime has made it: [`Pods::announce`]. It is taken only for a workload
//!    that the graph places on this host. Several pods may be the same workload: each is a replica of it, by its container's id.
//! 2. The agent attaches the workload there ([`Pods::of`]), as long as the path leads to the namespace that was announced.
//! 3. The runtime says that the pod is gone ([`Pods::retract`]), or which of a network are left ([`Pods::keep_only`]).
//!
//! All of it is kept in a file beside the admin socket, so that the next agent attaches pods that outlive this one. That is below
//! `/run`, which goes when the machine stops, as the namespaces do.

#[cfg(test)]
mod tests;

use crate::durable;
use ripstop_config::{
    HostName, WorkloadId,
    graph::{Pod, Run},
};
use ripstop_kernel::{Doorway, netns::NsId};
use ripstop_policy::Policy;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// The file's name in the agent's run directory.
const FILE: &str = "pods.json";
/// Pods at once; a node of a cluster has some hundreds.
pub const PODS_MAX: usize = 4_096;
/// Pods of one workload on one host at once: more than a node of a cluster has of all (110 unless it is told otherwise).
pub const REPLICAS_MAX: usize = 256;
/// Bytes of a name that a runtime gives: a container's is a hash in hex, a network's that of a file.
const NAME_MAX: usize = 255;
/// Bytes of a namespace's path (`PATH_MAX` less its end).
const PATH_MAX: usize = 4_095;

/// What the runtime attaches to what, by its own names: a container, an interface of it, a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sandbox {
    /// The container's id (`CNI_CONTAINERID`).
    pub container: String,
    /// The interface's name (`CNI_IFNAME`), which is another plugin's where there are several.
    pub interface: String,
    /// The network's name.
    pub network: String,
}

/// A pod and its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The runtime's names for it.
    #[serde(flatten)]
    pub sandbox: Sandbox,
    /// Which pod it is.
    pub pod: Pod,
    /// Its network namespace.
    pub netns: PathBuf,
}

/// What came of an announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announced {
    /// It is this workload, which is being attached.
    Workload(WorkloadId),
    /// The graph has no such workload on this host: why, for people.
    Unknown(String),
    /// Not now: why, for people.
    Later(String),
}

/// A pod that was announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    #[serde(flatten)]
    announced: Announcement,
    /// Which namespace it was: another may get its path.
    id: NsId,
}

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its container's id.
    pub container: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Which namespace that was.
    pub id: NsId,
}

/// The pods of this host.
pub struct Pods {
    file: PathBuf,
    doorway: Arc<Doorway>,
    changed: Arc<Notify>,
    held: Mutex<Vec<Held>>,
}

impl Pods {
    /// Those that were announced to the agent before, from its run directory. A file that cannot be understood is logged, and none.
    #[must_use]
    pub fn open(run: &Path, doorway: Arc<Doorway>, changed: Arc<Notify>) -> Arc<Self> {
        let file = run.join(FILE);
        let held = load(&file).unwrap_or_else(|error| {
            tracing::error!("{}: {error}: pods are not attached until their runtime starts them again", file.display());
            Vec::new()
        });
        Arc::new(Self { file, doorway, changed, held: Mutex::new(held) })
    }

    /// Takes a pod's namespace for a workload of this host, and has that attached. May block.
    ///
    /// # Errors
    /// What is wrong with what was said, or that it cannot be kept, as text; nothing has changed.
    pub fn announce(&self, policy: &Policy, host: &HostName, announced: Announcement) -> Result<Announced, String> {
        check(&announced)?;
        let pod = &announced.pod;
        let of_host = policy.workloads_on(host).map(|ix| policy.workload_entry(ix));
        let mut fitting = of_host.filter(|entry| entry.run == Run::Pod(pod.clone()));
        let Some(workload) = fitting.next().map(|entry| entry.id.clone()) else {
            let why = format!("the graph places no workload with `run: {{ pod: {pod} }}` on {host}");
            return Ok(Announced::Unknown(why));
        };
        let netns = announced.netns.display();
        let id = self.doorway.identify(&announced.netns);
        let id = id.map_err(|error| format!("failed to look at the network namespace {netns}: {error}"))?;
        let mut held = self.held();
        let mut next: Vec<_> = held.iter().filter(|one| one.announced.sandbox != announced.sandbox).cloned().collect();
        next.retain(|one| self.is_there(one));
        if let Some(why) = no_room(&next, &announced, id, host) {
            return Ok(Announced::Later(why));
        }
        tracing::info!(%workload, %pod, %netns, "a pod is announced");
        next.push(Held { announced, id });
        self.keep(&mut held, next)?;
        Ok(Announced::Workload(workload))
    }

    /// Forgets a pod; `false` when it was not known. May block.
    ///
    /// # Errors
    /// That it cannot be kept, as text.
    pub fn retract(&self, sandbox: &Sandbox) -> Result<bool, String> {
        self.retain(|one| one.sandbox != *sandbox).map(|gone| gone > 0)
    }

    /// Forgets the pods of a network that are not among these; says how many. May block.
    ///
    /// # Errors
    /// That it cannot be kept, as text.
    pub fn keep_only(&self, network: &str, left: &[Sandbox]) -> Result<usize, String> {
        self.retain(|one| one.sandbox.network != network || left.contains(&one.sandbox))
    }

    /// The pods that are announced.
    #[must_use]
    pub fn all(&self) -> Vec<Announcement> {
        self.held().iter().map(|one| one.announced.clone()).collect()
    }

    /// The pods that are announced as this one.
    #[must_use]
    pub fn of(&self, pod: &Pod) -> Vec<Found> {
        let held = self.held();
        let all = held.iter().filter(|one| one.announced.pod == *pod);
        let found = |one: &Held| Found {
            container: one.announced.sandbox.container.clone(),
            netns: one.announced.netns.clone(),
            id: one.id,
        };
        all.map(found).collect()
    }

    fn retain(&self, stays: impl Fn(&Announcement) -> bool) -> Result<usize, String> {
        let mut held = self.held();
        let next: Vec<_> = held.iter().filter(|one| stays(&one.announced)).cloned().collect();
        let gone = held.len() - next.len();
        if gone > 0 {
            self.keep(&mut held, next)?;
        }
        Ok(gone)
    }

    /// On the disk first, or the next agent would not know what this one has said.
    fn keep(&self, held: &mut Vec<Held>, next: Vec<Held>) -> Result<(), String> {
        let text = serde_json::to_vec(&next).map_err(|error| error.to_string())?;
        let kept = durable::replace(&self.file, &text, 0o600);
        kept.map_err(|error| format!("failed to write {}: {error}", self.file.display()))?;
        *held = next;
        self.changed.notify_one();
        Ok(())
    }

    /// Whether its namespace is still the one that was announced. What cannot be looked at may be.
    fn is_there(&self, one: &Held) -> bool {
        match self.doorway.identify(&one.announced.netns) {
            Ok(id) => id == one.id,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a pod cannot be taken beside those that are there, if so.
fn no_room(there: &[Held], new: &Announcement, id: NsId, host: &HostName) -> Option<String> {
    let other = |one: &&Held| one.id == id || one.announced.sandbox.container == new.sandbox.container;
    if let Some(other) = there.iter().find(other) {
        // Its interface would be the second of the fabric there, with the same addresses.
        let Sandbox { container, interface, network } = &other.announced.sandbox;
        let pod = &other.announced.pod;
        return Some(format!("its container is {pod} on {host} already: {container}, by {interface} of {network}"));
    }
    let replicas = there.iter().filter(|one| one.announced.pod == new.pod).count();
    if replicas >= REPLICAS_MAX {
        return Some(format!(
            "{replicas} pods are {} on {host}, which is all that it attaches of one workload",
            new.pod
        ));
    }
    (there.len() >= PODS_MAX).then(|| format!("{PODS_MAX} pods are announced on {host}, which is all that it keeps"))
}

fn load(file: &Path) -> io::Result<Vec<Held>> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn check(announced: &Announcement) -> Result<(), String> {
    let Sandbox { container, interface, network } = &announced.sandbox;
    for (what, name) in [("container", container), ("interface", interface), ("network", network)] {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(char::is_control) {
            return Err(format!("the {what}'s name has 1 to {NAME_MAX} bytes, and no control characters"));
        }
    }
    if !announced.netns.is_absolute() || announced.netns.as_os_str().len() > PATH_MAX {
        return Err(format!("a network namespace is named by an absolute path of {PATH_MAX} bytes at most"));
    }
    Ok(())
}
