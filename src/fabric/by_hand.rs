//! Workloads that somebody attaches by hand, or keeps detached, until the agent stops or it is undone.

use super::{
    plan::{self, Waiting},
    process::Process,
};
use ripstop_config::WorkloadId;
use ripstop_kernel::Doorway;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What was said of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Hand {
    /// It is in the network namespace of this process, while that lives.
    Process(Process),
    /// It is in this network namespace.
    Netns(PathBuf),
    /// It gets no interface.
    Detached,
}

impl Hand {
    /// The network namespace of a process.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn process(pid: u32) -> Result<Self, String> {
        Process::of(pid).map(Self::Process).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("there is no process {pid} on this host, as the agent sees it"),
            _ => format!("failed to look at the process {pid}: {error}"),
        })
    }

    /// A network namespace, by its name under /run/netns or by its path.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn netns(name: &str, doorway: &Doorway) -> Result<Self, String> {
        let path = plan::netns_path(name);
        match doorway.identify(&path) {
            Ok(_) => Ok(Self::Netns(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("there is no network namespace {}", path.display()))
            }
            Err(error) => Err(format!("failed to look at the network namespace {}: {error}", path.display())),
        }
    }

    /// Where the workload is.
    pub(super) fn network(&self) -> Result<PathBuf, Waiting> {
        match self {
            Self::Process(process) => process.network().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Waiting { why: format!("process {} has ended", process.pid()), gone: true },
                _ => plan::waiting(&error, &format!("process {}", process.pid())),
            }),
            Self::Netns(path) => Ok(path.clone()),
            Self::Detached => Err(Waiting { why: "detached by hand; `ripstop attach` ends that".into(), gone: true }),
        }
    }
}

/// What was said of all of them.
#[derive(Default)]
pub(super) struct ByHand(Mutex<BTreeMap<WorkloadId, Hand>>);

impl ByHand {
    fn all(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, Hand>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said of a workload.
    pub(super) fn get(&self, workload: &WorkloadId) -> Option<Hand> {
        self.all().get(workload).cloned()
    }

    /// All that was said.
    pub(super) fn said(&self) -> BTreeMap<WorkloadId, Hand> {
        self.all().clone()
    }

    /// Says something of a workload, or takes it back; the graph tells again where it is then.
    pub(super) fn set(&self, workload: WorkloadId, hand: Option<Hand>) {
        match hand {
            Some(hand) => drop(self.all().insert(workload, hand)),
            None => drop(self.all().remove(&workload)),
        }
    }

    /// Forgets workloads that are not of this host any more.
    pub(super) fn retain(&self, of_host: impl Fn(&WorkloadId) -> bool) {
        self.all().retain(|workload, _| of_host(workload));
    }
}

/// What may be said by hand of a workload: where it is only if it has a namespace by the graph, as its endpoint is reached
/// accordingly.
pub(super) fn hand(pid: Option<u32>, netns: Option<&str>, doorway: &Doorway) -> Result<Option<Hand>, String> {
    match (pid, netns) {
        (Some(pid), None) => Hand::process(pid).map(Some),
        (None, Some(name)) => Hand::netns(name, doorway).map(Some),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err("both a process and a namespace are given; keep one".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said_at_once() {
        let said = Hand::netns("nonexistent", &Doorway::Here).unwrap_err();
        assert!(said.contains("/run/netns/nonexistent"), "{said}");
        assert!(Hand::process(u32::MAX).unwrap_err().contains("no process"));
        assert!(hand(Some(1), Some("web"), &Doorway::Here).unwrap_err().contains("keep one"));
    }
}
