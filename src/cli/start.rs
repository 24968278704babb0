//! Starting the agent of a host that has just become one of a fabric.

use crate::admin::{Client, SOCKET};
use anyhow::{Context, bail};
use std::{
    fs::{self, OpenOptions},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// There is a systemd to talk to (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
const UNIT: &str = "ripstop.service";
/// Where units of the machine's administrator are (systemd.unit(5)).
const UNITS: &str = "/etc/systemd/system";
/// The unit as it is packaged, with what it says of the binary and the settings.
const PACKAGED: &str = include_str!("../../packaging/ripstop.service");
const PACKAGED_BINARY: &str = "/usr/local/bin/ripstop ";
/// The units by which its door is started.
const DOORS: [(&str, &str); 2] = [
    ("ripstop-door.socket", include_str!("../../packaging/ripstop-door.socket")),
    ("ripstop-door@.service", include_str!("../../packaging/ripstop-door@.service")),
];
const PACKAGED_SETTINGS: &str = "/etc/ripstop/agent.yaml";
/// Where the unit sees nothing of the host's (`ProtectHome=`, `PrivateTmp=`).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
/// Longest wait for an agent to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// Lines of the log that are shown when the agent did not start.
const LOG_SHOWN: usize = 12;

/// How the agent runs now.
pub(super) enum Started {
    /// As a service.
    Systemd,
    /// As a process of its own, with its log.
    Process(u32, PathBuf),
    /// Not yet: the command that starts it.
    Not(String),
}

impl std::fmt::Display for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Systemd => write!(f, "Its agent runs as {UNIT}; `journalctl -u {UNIT}` shows its log."),
            Self::Process(pid, log) => write!(f, "Its agent runs, pid {pid}; its log is {}.", log.display()),
            Self::Not(command) => write!(f, "Start its agent with: {command}"),
        }
    }
}

/// Starts the agent under systemd where that runs, else, if it is wanted, as a process of its own; and waits until it
/// answers.
pub(super) fn start(settings: &Path, state: &Path, wanted: bool) -> anyhow::Result<Started> {
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    // Another agent than that of the unit is nothing for systemd.
    if Path::new(SYSTEMD).exists() && settings == Path::new(PACKAGED_SETTINGS) {
        by_systemd(&binary, settings)?;
        return Ok(Started::Systemd);
    }
    if !wanted {
        return Ok(Started::Not(format!("{} agent --config {}", binary.display(), settings.display())));
    }
    let log = state.join("agent.log");
    let child = spawn(&binary, settings, &log)?;
    let pid = child.id();
    wait(child, settings, &log)?;
    Ok(Started::Process(pid, log))
}

fn by_systemd(binary: &Path, settings: &Path) -> anyhow::Result<()> {
    let run = |arguments: &[&str]| {
        let output = Command::new("systemctl").args(arguments).output().context("cannot run systemctl")?;
        match output.status.success() {
            true => Ok(()),
            false => bail!("systemctl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()),
        }
    };
    if run(&["cat", UNIT]).is_err() {
        if let Some(hidden) = HIDDEN.iter().find(|hidden| binary.starts_with(hidden)) {
            bail!("{UNIT} sees nothing in {hidden}: put {} in /usr/local/bin, and run it from there", binary.display());
        }
        let binary = format!("{} ", binary.display());
        for (unit, packaged) in [(UNIT, PACKAGED)].into_iter().chain(DOORS) {
            let path = Path::new(UNITS).join(unit);
            fs::write(&path, packaged.replace(PACKAGED_BINARY, &binary))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        run(&["daemon-reload"])?;
    }
    run(&["enable", "--now", UNIT])?;
    let socket = socket_of(settings)?;
    match answers(&socket, || true) {
        true => Ok(()),
        false => bail!("the agent does not answer; see `journalctl -u {UNIT}`"),
    }
}

/// In a process group of its own, so that what ends this command does not end it.
fn spawn(binary: &Path, settings: &Path, log: &Path) -> anyhow::Result<Child> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(binary);
    command.args(["agent", "--config"]).arg(settings).process_group(0).stdin(Stdio::null());
    command.stdout(file.try_clone()?).stderr(file);
    command.spawn().with_context(|| format!("cannot start {}", binary.display()))
}

fn wait(mut child: Child, settings: &Path, log: &Path) -> anyhow::Result<()> {
    if answers(&socket_of(settings)?, || matches!(child.try_wait(), Ok(None))) {
        return Ok(());
    }
    // It may run and be stuck; two agents must not.
    let _ = child.kill();
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(LOG_SHOWN)..].join("\n  ");
    bail!("the agent did not start; everything else is in place. The end of {}:\n  {end}", log.display())
}

fn answers(socket: &Path, alive: impl FnMut() -> bool) -> bool {
    let (start, client, mut alive) = (Instant::now(), Client::new(socket), alive);
    while alive() && start.elapsed() < ANSWERS_WITHIN {
        if client.status().is_ok() {
            return true;
        }
        thread::sleep(LOOK);
    }
    false
}

fn socket_of(settings: &Path) -> anyhow::Result<PathBuf> {
    let text = crate::files::read(settings)?;
    let config = ripstop_config::AgentConfig::parse(&settings.display().to_string(), &text);
    Ok(config.map_err(|mistakes| crate::files::mistakes_in(settings, &mistakes))?.run.join(SOCKET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_unit_is_the_one_that_is_changed() {
        assert_eq!(PACKAGED.matches(PACKAGED_BINARY).count(), 3);
        assert_eq!(DOORS.map(|(_, unit)| unit.matches(PACKAGED_BINARY).count()), [0, 1]);
        assert!(PACKAGED.contains(&format!("agent --config {PACKAGED_SETTINGS} --door /run/ripstop-door.sock\n")));
    }
}
