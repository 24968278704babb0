//! `ripstop agent`: logging and settings, then the fabric.

use super::{
    Exit,
    args::{self, LogFormat},
    door, upgrade,
};
use crate::{
    confine,
    fabric::{self, Opened},
    files,
};
use anyhow::Context;
use nix::sys::prctl;
use ripstop_config::AgentConfig;
use std::{
    io::{self, IsTerminal},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};
use tracing_subscriber::{Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Runs the agent until it is told to stop.
pub(super) fn run(agent: &args::Agent) -> anyhow::Result<Exit> {
    if agent.detach {
        return upgrade::detach();
    }
    let how = &agent.how;
    log_to_stderr(&how.log, how.log_format)?;
    // Again, where the first look could not see or do it.
    if let Err(error) = prctl::set_thp_disable(true) {
        tracing::warn!(%error, "failed to do without huge pages; sessions will take more memory");
    }
    let config = settings(&how.config)?;
    let door = match &how.door {
        Some(socket) => {
            fabric::preflight(&ripstop_kernel::preflight_with_door())?;
            Opened::by_other(door::connect(socket)?)
        }
        None => {
            fabric::preflight(&ripstop_kernel::preflight())?;
            Opened::start()?
        }
    };
    confine::agent(&config)?;
    fabric::run(config, door, agent.take_over.map(ripstop_config::Span::duration))?;
    Ok(Exit::Ok)
}

/// The settings in a file.
pub(super) fn settings(path: &Path) -> anyhow::Result<AgentConfig> {
    let text = files::read(path)
        .context("the agent's settings cannot be had; run it as root, and name their file with --config")?;
    let config = AgentConfig::parse(&path.display().to_string(), &text);
    config.map_err(|mistakes| files::mistakes_in(path, &mistakes))
}

/// Buffers are made large and used as far as needed: huge pages would make all of each resident. Of an agent's process alone, as
/// what another command runs would inherit it; from its very start, as the allocator has taken what it begins with by now: so the
/// process starts anew, once, as the kernel keeps what is asked for here.
pub(super) fn forgo_huge_pages() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    let is_agent = arguments.first().is_some_and(|command| command == "agent");
    // An error is seen once there is a log, and costs nothing but memory.
    if is_agent
        && matches!(prctl::get_thp_disable(), Ok(false))
        && prctl::set_thp_disable(true).is_ok()
        && let Ok(program) = std::env::current_exe()
    {
        let _error = Command::new(program).arg0(name).args(arguments).exec();
    }
}

/// Standard output is left to session records.
fn log_to_stderr(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let targets: Targets =
        filter.parse().with_context(|| format!("`{filter}` is not a log filter; write `info` or `ripstop=debug`"))?;
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = fmt::layer().with_writer(io::stderr);
    let log = match format {
        LogFormat::Text => log.with_target(false).with_ansi(io::stderr().is_terminal() && !unwanted).boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(log).with(targets).init();
    Ok(())
}
