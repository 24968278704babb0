//! The process behind the door.

use super::{
    act,
    wire::{self, Answer, Request},
};
use crate::Error;
use anyhow::{Context as _, bail};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
};

/// Serves the agent at the other end of standard input until it closes that; `confine` gives up what the door does not need.
///
/// # Errors
/// When standard input is no such socket, or what `confine` says.
pub fn serve(confine: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let input = io::stdin();
    if !is_agent(input.as_fd()) {
        bail!("this is a part of `ripstop agent`, which starts it by itself; there is nothing else to run it for");
    }
    confine().context("the door keeps no more rights than it needs, and could not give up the others")?;
    converse(input.as_fd())
}

fn is_agent(input: BorrowedFd<'_>) -> bool {
    let domain = sockopt::socket_domain(input).is_ok_and(|domain| domain == AddressFamily::UNIX);
    let kind = sockopt::socket_type(input).is_ok_and(|kind| kind == SocketType::SEQPACKET);
    domain && kind && wire::is_trusted(input)
}

/// Answers one request after the other until the other end is closed.
pub(super) fn converse(socket: BorrowedFd<'_>) -> anyhow::Result<()> {
    loop {
        let outcome = match wire::receive::<Request>(socket, wire::WITH_REQUEST) {
            Ok(None) => return Ok(()),
            Ok(Some((request, mut namespace))) => act::act(&request, namespace.pop().map(File::from).as_ref()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Error::Door(error.to_string())),
            Err(error) => return Err(error).context("failed to hear the agent"),
        };
        let (answer, descriptors) = Answer::of(outcome);
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        match wire::send(socket, &answer, &descriptors) {
            // It went between its request and the answer.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            sent => sent.context("failed to answer the agent")?,
        }
    }
}
