//! `ripstop agent`: logging and settings, then the fabric.

use super::{
    Exit,
    args::{self, LogFormat},
    door,
};
use crate::{
    confine,
    fabric::{self, Opened},
    files, kernel,
};
use anyhow::Context;
use ripstop_config::AgentConfig;
use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// Runs the agent until it is told to stop.
pub(super) fn run(agent: &args::Agent) -> anyhow::Result<Exit> {
    log_to_stderr(&agent.log, agent.log_format)?;
    // Again, where options before the command hid it from the first look.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::warn!(%error, "failed to do without huge pages; sessions will take more memory");
    }
    let path = &agent.config;
    let text = files::read(path)
        .context("the agent's settings cannot be had; run it as root, and name their file with --config")?;
    let config = AgentConfig::parse(&path.display().to_string(), &text);
    let config = config.map_err(|mistakes| files::mistakes_in(path, &mistakes))?;
    let door = match &agent.door {
        Some(socket) => {
            fabric::preflight(&kernel::preflight_with_door())?;
            Opened::by_other(door::connect(socket)?)
        }
        None => {
            fabric::preflight(&kernel::preflight())?;
            Opened::start()?
        }
    };
    confine::agent(&config)?;
    fabric::run(config, door)?;
    Ok(Exit::Ok)
}

/// Buffers are made large and used as far as needed: huge pages would make all of each resident. Of an agent's process alone, as
/// what another command runs would inherit it; first of all, as the allocator takes what it begins with at once.
pub(super) fn forgo_huge_pages() {
    if std::env::args_os().nth(1).is_some_and(|command| command == "agent") {
        // An error is seen once there is a log.
        let _ = nix::sys::prctl::set_thp_disable(true);
    }
}

/// Standard output is left to session records.
fn log_to_stderr(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("`{filter}` is not a log filter; write `info` or `ripstop=debug`"))?;
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).with_ansi(io::stderr().is_terminal() && !unwanted).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
