//! Whose program took a connection on this host.

use crate::session::context::Context;
use ripstop_kernel::{Owner, Programs};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a server that listens as root may take to accept a connection as the workload, and the first pause before
/// it is looked at again.
const ACCEPT_MAX: Duration = Duration::from_secs(1);
const ACCEPT_LOOK: Duration = Duration::from_millis(1);

/// Nobody but the workload, or root on its behalf, may listen at an address. Nobody at all is left to be answered by the
/// kernel: who listens on one device only is not found.
///
/// # Errors
/// What was found in its place, for people.
pub(super) fn check_listener(context: &Context, target: SocketAddr, programs: &Programs) -> Result<(), String> {
    match context.owners.of_listener(target) {
        Ok(Some(found)) if !context.is_of(found, programs) && found.uid != 0 => {
            Err(format!(", held by uid {} in place of {programs}", found.uid))
        }
        Ok(Some(_) | None) => Ok(()),
        Err(error) => Err(format!(", whose holder the kernel does not tell: {error}")),
    }
}

/// The program that took the connection from `from` to `target` must be the workload's: on a shared host anyone may
/// listen on a free port. Asked of the connection itself, after it was made, so that no other listener can slip in
/// between. Not knowing is a no.
///
/// Root may listen on the workload's behalf, as servers do that drop their rights later, and systemd for its sockets; then
/// it is waited for who accepts.
///
/// # Errors
/// What was found in its place, for people.
pub(super) async fn check_owner(
    context: &Context,
    from: SocketAddr,
    target: SocketAddr,
    programs: &Programs,
) -> Result<(), String> {
    let started = Instant::now();
    let mut pause = ACCEPT_LOOK;
    let found = loop {
        match context.owners.of_peer(from, target) {
            Ok(Some(Owner::Accepted(owner) | Owner::Listening(owner))) if context.is_of(owner, programs) => {
                return Ok(());
            }
            Ok(Some(Owner::Listening(owner))) if owner.uid == 0 && started.elapsed() < ACCEPT_MAX => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            found => break found,
        }
    };
    Err(match found {
        Ok(Some(Owner::Accepted(found) | Owner::Listening(found))) => {
            format!("held by uid {} in place of {programs}", found.uid)
        }
        Ok(None) => format!("not a socket of this host, so not of {programs}"),
        Err(error) => format!("whose holder the kernel does not tell: {error}"),
    })
}
