//! What the agent changes in the kernel, and how it is undone: interfaces, routes, rules, namespaces.
//!
//! Life of an interface ([`Kernel::attach`]):
//!
//! 1. The journal says what is about to change and is on disk before anything does ([`journal`]).
//! 2. A fresh thread enters the workload's namespace, never a runtime's worker ([`netns`]).
//! 3. There it creates the TUN device and gives it its addresses, routes, rules and, where needed, its guard ([`attach`],
//!    [`guard`]).
//! 4. The thread ends; the descriptor comes back as a [`Tun`], and carries packets from wherever the agent runs.
//! 5. [`Kernel::detach`], [`Kernel::restore`] or, after a kill, the next [`Kernel::open`] or [`cleanup`] undo all of it.
//!
//! Every route and rule carries the protocol number [`ROUTE_PROTOCOL`], and every table of nf_tables the interface's name:
//! that is how they are found again.

mod attach;
mod cleanup;
mod error;
mod guard;
mod journal;
pub mod link;
mod netlink;
pub mod netns;
mod nft;
mod owner;
mod preflight;
mod resolv;
mod route;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_closed;
mod tun;

pub use cleanup::{Report, cleanup};
pub use error::Error;
pub use owner::{Owner, SocketOwners};
pub use preflight::{Missing, preflight};
pub use route::ROUTE_PROTOCOL;
pub use tun::{Tun, VNET_HEADER};

use journal::{Attachment, Journal};
use ripstop_config::graph::Ranges;
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Interfaces of the `user` kind on one host: each takes one routing table and one rule priority.
pub const USER_INTERFACES: u32 = 4096;

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
}

/// The agent's hold on the kernel's state. One per run directory.
///
/// Dropping it undoes nothing, as a kill would: call [`Kernel::restore`].
#[derive(Debug)]
pub struct Kernel {
    journal: Mutex<Journal>,
}

impl Kernel {
    /// Locks the run directory, creating it if need be, and undoes what an agent that was killed left behind.
    ///
    /// # Errors
    /// [`Error::Locked`] when an agent uses the directory; [`Error::CorruptJournal`] when what is to be undone cannot
    /// be read: then only this namespace was cleaned, and the journal is set aside so that the next start works.
    pub fn open(run_dir: &Path) -> Result<Self, Error> {
        let kernel = Self::lock(run_dir)?;
        kernel.recover()?;
        Ok(kernel)
    }

    /// Locks the run directory, creating it if need be. What a killed agent left behind stays until [`Kernel::recover`]:
    /// it keeps traffic from leaving elsewhere.
    ///
    /// # Errors
    /// [`Error::Locked`] when an agent uses the directory.
    pub fn lock(run_dir: &Path) -> Result<Self, Error> {
        Ok(Self { journal: Mutex::new(Journal::open(run_dir)?) })
    }

    /// Undoes what an agent that was killed left behind. Call it before the first [`Kernel::attach`].
    ///
    /// # Errors
    /// [`Error::CorruptJournal`] as [`Kernel::open`]; otherwise the first thing the kernel refused.
    pub fn recover(&self) -> Result<(), Error> {
        let report = cleanup::replay(&mut self.journal())?;
        if report.is_anything() {
            tracing::warn!(%report, "cleaned up after an agent that did not stop in order");
        }
        Ok(())
    }

    /// Creates an interface with its addresses, routes and rules. Takes some milliseconds; blocks.
    ///
    /// # Errors
    /// Whatever the kernel refused, by name; what had been done until then is undone.
    pub fn attach(&self, plan: &AttachPlan) -> Result<Tun, Error> {
        let mut journal = self.journal();
        let attachment = attach::plan_attachment(&journal, plan)?;
        attach::check_place(plan, &attachment)?;
        journal.add(attachment.clone())?;
        let attached = attach::attach(plan, &attachment);
        if attached.is_err() {
            let undone = undo_one(&mut journal, &attachment);
            if let Err(error) = undone {
                tracing::error!(%error, link = %plan.link, "failed to undo a failed attachment");
            }
        }
        attached
    }

    /// Removes an interface and what belongs to it; one that is not there is already removed.
    ///
    /// # Errors
    /// Whatever the kernel refused; the rest is removed all the same.
    pub fn detach(&self, link: &str) -> Result<(), Error> {
        let mut journal = self.journal();
        let Some(attachment) = journal.find(link).cloned() else { return Ok(()) };
        undo_one(&mut journal, &attachment)
    }

    /// Removes everything that was added: the kernel's state is as it was before.
    ///
    /// # Errors
    /// The first thing the kernel refused; the rest is removed all the same, and the journal keeps what is left.
    pub fn restore(&self) -> Result<(), Error> {
        cleanup::replay(&mut self.journal()).map(|_| ())
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // The journal on disk is written before memory is changed, so a panic in between leaves nothing half done.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn undo_one(journal: &mut Journal, attachment: &Attachment) -> Result<(), Error> {
    let last_user = journal.entries().iter().filter(|other| other.slot.is_some()).count() <= 1;
    cleanup::undo_attachment(attachment, last_user)?;
    journal.remove(&attachment.link)
}
