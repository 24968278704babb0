//! What the agent changes in the kernel, and how it is undone: interfaces, routes, rules, namespaces.
//!
//! Life of an interface ([`Kernel::attach`]):
//!
//! 1. The journal says what is about to change and is on disk before anything does ([`journal`]).
//! 2. The door enters the workload's namespace, and hands out sockets and the TUN device that it opens there ([`door`]).
//! 3. Through them the agent gives the interface its addresses, routes, rules and, where needed, its guard ([`attach`],
//!    [`guard`]).
//! 4. Each queue of the device becomes a [`Tun`], and carries packets from wherever the agent runs.
//! 5. [`Kernel::detach`], [`Kernel::restore`] or, after a kill, [`cleanup`] undo all of it. The next agent takes over what
//!    it makes again ([`Kernel::attach`]), so that it stands without a gap, and undoes the rest ([`Kernel::settle`]).
//!
//! Every route and rule carries the protocol number [`ROUTE_PROTOCOL`], and every table of nf_tables the interface's name:
//! that is how they are found again.

mod attach;
mod cgroup;
mod cleanup;
pub mod door;
mod error;
mod guard;
mod host_resolver;
mod journal;
pub mod link;
mod netlink;
pub mod netns;
mod nft;
mod owner;
mod preflight;
mod resolv;
pub mod resolved;
mod route;
mod runnable;
mod sockets;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_closed;
#[cfg(test)]
mod tests_queues;
mod tun;

pub use cgroup::Cgroup;
pub use cleanup::{Report, cleanup, cleanup_through, reset_sessions};
pub use door::{Door, Doorway, is_trusted};
pub use error::Error;
pub use guard::LINKS;
pub use owner::{Owner, Programs, SocketOwner, SocketOwners};
pub use preflight::{Missing, preflight, preflight_with_door, probes};
pub use route::ROUTE_PROTOCOL;
pub use runnable::Runnable;
pub use tun::{QUEUES_MAX, Tun, VNET_HEADER};

use door::Site;
use journal::{Attachment, Journal};
use ripstop_config::graph::Ranges;
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Interfaces of the host's own namespace, of users and control groups: each takes one routing table and one rule priority.
pub const HOST_INTERFACES: u32 = 4096;

/// What one interface is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    /// The interface's name, 1 to 15 bytes.
    pub link: String,
    /// Where it goes and whose packets reach it.
    pub place: Place,
    /// The workload's IPv4 address.
    pub v4: Ipv4Addr,
    /// The workload's IPv6 address.
    pub v6: Ipv6Addr,
    /// What is routed to it.
    pub ranges: Ranges,
    /// Everything else is routed to it as well: the fabric is the workload's only network, also when the agent has died.
    /// Loopback stays.
    pub isolated: bool,
    /// The fabric's resolver, for the `resolv.conf` of a named namespace.
    pub resolver: Ipv4Addr,
    /// Queues of the device, 1 to [`QUEUES_MAX`].
    pub queues: u8,
}

/// Where an interface is, which decides whose packets reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Inside a network namespace, given by a path such as `/run/netns/web`: everything in it.
    Netns(PathBuf),
    /// In the agent's own namespace: everything one user runs.
    User {
        /// The user's numeric id, never 0, and never that of another workload on the host.
        uid: u32,
    },
    /// In the agent's own namespace: everything in one control group and those below it, whoever's it is.
    Cgroup(Cgroup),
    /// In the agent's own namespace: whatever there is no other interface for.
    Host,
}

impl Place {
    /// Which programs of the agent's own namespace it is for; `None` for another namespace.
    #[must_use]
    pub fn programs(&self) -> Option<Programs> {
        match self {
            Self::Netns(_) => None,
            Self::User { uid } => Some(Programs::OfUser(*uid)),
            Self::Cgroup(cgroup) => Some(Programs::OfCgroup(cgroup.clone())),
            Self::Host => Some(Programs::Others),
        }
    }
}

/// The agent's hold on the kernel's state. One per run directory.
///
/// Dropping it undoes nothing, as a kill would: call [`Kernel::restore`].
#[derive(Debug)]
pub struct Kernel {
    doorway: Arc<Doorway>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    journal: Journal,
    /// The interfaces of a killed agent of which more stands than nothing, and which no one has taken over yet.
    left: BTreeSet<String>,
}

impl Kernel {
    /// Locks the run directory, creating it if need be, and undoes what an agent that was killed left behind.
    ///
    /// # Errors
    /// [`Error::Locked`] when an agent uses the directory; [`Error::CorruptJournal`] when what is to be undone cannot
    /// be read: then only this namespace was cleaned, and the journal is set aside so that the next start works.
    pub fn open(run_dir: &Path) -> Result<Self, Error> {
        let kernel = Self::lock(run_dir, Arc::new(Doorway::Here))?;
        kernel.recover()?;
        kernel.settle(&BTreeSet::new())?;
        Ok(kernel)
    }

    /// Locks the run directory, creating it if need be. What a killed agent left behind stays until [`Kernel::attach`]
    /// takes it over or [`Kernel::settle`] undoes it: it keeps traffic from leaving elsewhere. Other namespaces are
    /// entered by the doorway.
    ///
    /// # Errors
    /// [`Error::Locked`] when an agent uses the directory.
    pub fn lock(run_dir: &Path, doorway: Arc<Doorway>) -> Result<Self, Error> {
        let journal = Journal::open(run_dir)?;
        let left = journal.entries().iter().map(|attachment| attachment.link.clone()).collect();
        Ok(Self { doorway, state: Mutex::new(State { journal, left }) })
    }

    /// The same with the lock of another agent, which changes nothing any more. Its interfaces stay until [`Kernel::adopt`]
    /// takes them over, or as what a killed one left.
    ///
    /// # Errors
    /// [`Error::CorruptJournal`] when it is not known what there is.
    pub fn inherit(run_dir: &Path, doorway: Arc<Doorway>, lock: File) -> Result<Self, Error> {
        let journal = Journal::inherit(run_dir, lock)?;
        journal.check()?;
        let left = journal.entries().iter().map(|attachment| attachment.link.clone()).collect();
        Ok(Self { doorway, state: Mutex::new(State { journal, left }) })
    }

    /// The lock, for another agent of this host: it lasts as long as either has it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn lock_file(&self) -> io::Result<File> {
        self.state().journal.lock_file()
    }

    /// Takes over an interface that stands, with its device; says whether the journal has it.
    pub fn adopt(&self, link: &str) -> bool {
        let mut state = self.state();
        let known = state.journal.find(link).is_some();
        if known {
            state.left.remove(link);
        }
        known
    }

    /// Ends the sockets of a killed agent's sessions, so that nobody waits for them. Call it before the first
    /// [`Kernel::attach`].
    ///
    /// # Errors
    /// [`Error::CorruptJournal`] as [`Kernel::open`].
    pub fn recover(&self) -> Result<(), Error> {
        let mut state = self.state();
        cleanup::purge_corrupt(&mut state.journal)?;
        let sockets = cleanup::reset_sockets(&self.doorway, state.journal.entries());
        if !state.left.is_empty() {
            tracing::warn!(interfaces = state.left.len(), sockets, "an agent did not stop in order; taking over");
        }
        Ok(())
    }

    /// Undoes what a killed agent left behind and nobody has taken over, but for the interfaces whose names begin so.
    ///
    /// # Errors
    /// The first thing the kernel refused, the rest being undone all the same.
    pub fn settle(&self, keep: &BTreeSet<String>) -> Result<(), Error> {
        let mut state = self.state();
        let mut failed = None;
        let is_kept = |link: &str| keep.iter().any(|begins| link.starts_with(begins));
        let over: Vec<_> = state.left.iter().filter(|link| !is_kept(link)).cloned().collect();
        for link in over {
            failed = failed.or(state.undo(&self.doorway, &link).err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Creates an interface with its addresses, routes and rules; its queues, as many as planned. Takes some milliseconds;
    /// blocks.
    ///
    /// # Errors
    /// Whatever the kernel refused, by name; what had been done until then is undone.
    pub fn attach(&self, plan: &AttachPlan) -> Result<Vec<Tun>, Error> {
        let mut state = self.state();
        let is_left = |attachment: &Attachment| state.left.contains(&attachment.link);
        let fresh = attach::plan_attachment(&self.doorway, &state.journal, is_left, plan)?;
        let rivals = state.journal.entries().iter().filter(|other| is_left(other) && other.link != fresh.link);
        let rivals: Vec<_> = rivals.filter(|other| other.is_rival(&fresh)).map(|other| other.link.clone()).collect();
        for link in rivals {
            state.undo(&self.doorway, &link)?;
        }
        let gone = || Error::namespace("find", fresh.namespace.clone().unwrap_or_default(), io::ErrorKind::NotFound);
        let site = Site::find(&self.doorway, fresh.id, fresh.namespace.as_deref())?.ok_or_else(gone)?;
        let (attachment, taken_over) = state.take_over(&self.doorway, &site, fresh)?;
        if !taken_over {
            attach::check_place(&site, plan, &attachment)?;
        }
        state.journal.put(attachment.clone())?;
        let attached = attach::attach(&self.doorway, &site, plan, &attachment);
        match (&attached, taken_over) {
            (Ok(_), _) => drop(state.left.remove(&plan.link)),
            // What stands goes on keeping traffic in, until it is tried again or settled.
            (Err(_), true) => {}
            (Err(_), false) => {
                if let Err(error) = state.undo(&self.doorway, &plan.link) {
                    tracing::error!(%error, link = %plan.link, "failed to undo a failed attachment");
                }
            }
        }
        attached
    }

    /// Removes an interface and what belongs to it; one that is not there is already removed, and what a killed agent left
    /// of one stays.
    ///
    /// # Errors
    /// Whatever the kernel refused; the rest is removed all the same.
    pub fn detach(&self, link: &str) -> Result<(), Error> {
        let mut state = self.state();
        if state.left.contains(link) || state.journal.find(link).is_none() {
            return Ok(());
        }
        state.undo(&self.doorway, link)
    }

    /// Removes everything that was added: the kernel's state is as it was before.
    ///
    /// # Errors
    /// The first thing the kernel refused; the rest is removed all the same, and the journal keeps what is left.
    pub fn restore(&self) -> Result<(), Error> {
        let replayed = cleanup::replay(&self.doorway, &mut self.state().journal).map(|_| ());
        replayed.and(self.doorway.restore_host_resolver().map(drop))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The journal on disk is written before memory is changed, so a panic in between leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What becomes of a killed agent's interface of this name: it is taken over if all that stands of it is what would be
    /// made again, else undone.
    fn take_over(
        &mut self,
        doorway: &Doorway,
        site: &Site<'_>,
        fresh: Attachment,
    ) -> Result<(Attachment, bool), Error> {
        if !self.left.contains(&fresh.link) {
            return Ok((fresh, false));
        }
        match self.journal.find(&fresh.link).filter(|found| found.is_like(&fresh)) {
            Some(found) => {
                let Attachment { slot, resolver_for, directories, .. } = found.clone();
                // Its process may be about to end, and its device with it.
                attach::remove_link(site, &fresh)?;
                Ok((Attachment { slot, resolver_for, directories, ..fresh }, true))
            }
            None => {
                self.undo(doorway, &fresh.link)?;
                Ok((fresh, false))
            }
        }
    }

    fn undo(&mut self, doorway: &Doorway, link: &str) -> Result<(), Error> {
        if let Some(attachment) = self.journal.find(link).cloned() {
            let on_host = self.journal.entries().iter().filter(|other| other.slot.is_some()).count();
            cleanup::undo_attachment(doorway, &attachment, on_host <= 1)?;
            self.journal.remove(link)?;
        }
        self.left.remove(link);
        Ok(())
    }
}
