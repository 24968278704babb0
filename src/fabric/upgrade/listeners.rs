//! Where an agent listens, besides QUIC: for the next one.

use crate::admin::AdminSocket;
use ripstop_datapath::handover::Entrance;
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::task::AbortHandle;

/// The listening sockets, and who serves them.
#[derive(Default)]
pub(in crate::fabric) struct Listeners {
    admin: Option<OwnedFd>,
    entrance: Option<OwnedFd>,
    /// Set while another agent has the files of both.
    moved: Arc<AtomicBool>,
    metrics: Option<OwnedFd>,
    enrolment: Option<OwnedFd>,
    page: Option<OwnedFd>,
    tasks: Vec<AbortHandle>,
}

impl Listeners {
    /// Those of the run directory, and nothing else yet.
    pub(in crate::fabric) fn new(admin: &AdminSocket, entrance: &Entrance) -> std::io::Result<Self> {
        let (descriptor, moved) = admin.descriptor()?;
        Ok(Self { admin: Some(descriptor), entrance: Some(entrance.descriptor()?), moved, ..Self::default() })
    }

    /// That of `/metrics`, where it is wanted.
    pub(in crate::fabric) fn metrics(&mut self, listener: Option<&impl AsFd>) -> std::io::Result<()> {
        self.metrics = listener.map(|listener| listener.as_fd().try_clone_to_owned()).transpose()?;
        Ok(())
    }

    /// That of the page, where it is wanted.
    pub(in crate::fabric) fn page(&mut self, listener: Option<&impl AsFd>) -> std::io::Result<()> {
        self.page = listener.map(|listener| listener.as_fd().try_clone_to_owned()).transpose()?;
        Ok(())
    }

    /// That of hosts that join or renew.
    pub(in crate::fabric) fn set_enrolment(&mut self, descriptor: Option<OwnedFd>) {
        self.enrolment = descriptor;
    }

    /// What ends when another agent listens.
    pub(in crate::fabric) fn served_by(&mut self, task: AbortHandle) {
        self.tasks.push(task);
    }

    pub(super) fn enrolment(&self) -> Option<&OwnedFd> {
        self.enrolment.as_ref()
    }

    /// In the order in which they are handed over.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.admin, &self.entrance, &self.metrics, &self.enrolment, &self.page].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Another agent listens: nothing is accepted here any more. Connections that were are served to their end.
    pub(in crate::fabric) fn hand_over(self) {
        self.moved.store(true, Ordering::Relaxed);
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}
