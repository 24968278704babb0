//! `ripstop door`, which the agent or a service manager starts, and the way to one that runs.

use super::Exit;
use crate::confine;
use anyhow::Context as _;
use ripstop_kernel::{Door, door};
use std::path::Path;

/// Serves the agent at the other end of standard input.
pub(super) fn run() -> anyhow::Result<Exit> {
    door::serve(confine::door)?;
    Ok(Exit::Ok)
}

/// A door of a service manager, by the socket that leads to it.
pub(super) fn connect(socket: &Path) -> anyhow::Result<Door> {
    let shown = socket.display();
    Door::connect(socket)
        .with_context(|| format!("no door answers on {shown}; see `systemctl status ripstop-door.socket`"))
}
