//! `ripstop upgrade`: starts the next agent, which takes over from the one that runs.
//!
//! What is started is this very program, with what root's command line or the unit says: nothing that the running agent names,
//! as that may be another's by now. Where a service manager runs the agent, the next one has to be of its unit as well, with
//! what that allows; so the unit does it, by its `ExecReload=`.

use super::{
    Exit,
    agent::settings,
    args,
    output::{self, Output},
};
use crate::{
    admin::{Client, SOCKET},
    fabric::Upgraded,
};
use anyhow::{Context as _, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// There is a systemd to talk to (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// The longest that the next agent may take until it runs: what each step of a hand-over may take, and a door's start.
const RUNS_WITHIN: Duration = Duration::from_secs(40);
/// Of what the next agent logs until it runs, or fails, so much is kept, bytes.
const LOG_MAX: u64 = 64 << 10;
/// Wait for the last lines of an agent that has ended: its door may have their file open still.
const LAST_LINES: Duration = Duration::from_millis(200);
/// The flag of the agent by which [`detach`] is asked for.
const DETACH: &str = "--detach";

/// Has another agent take over.
pub(super) fn run(upgrade: &args::Upgrade, output: &Output) -> anyhow::Result<Exit> {
    let config = settings(&upgrade.how.config)?;
    let client = Client::new(&config.run.join(SOCKET));
    let (status, pid) = client.status_and_pid()?;
    // As the kernel shows it here, which another namespace of processes may show otherwise.
    let seen = pid.unwrap_or(status.pid.cast_signed());
    let upgraded = match unit_of(&seen.to_string()).filter(|unit| unit_of("self").as_ref() != Some(unit)) {
        Some(unit) if Path::new(SYSTEMD).exists() => reload(&unit, &client, status.pid)?,
        Some(_) | None => launch(upgrade)?,
    };
    output.show(&upgraded, || {
        let Upgraded { pid, former, sessions } = upgraded;
        match sessions {
            0 => format!("pid {pid} has taken over from pid {former}\n"),
            _ => format!("pid {pid} has taken over from pid {former}, which ends its {sessions} open sessions\n"),
        }
    })?;
    Ok(Exit::Ok)
}

/// The path of the control group of a system service's processes, if that is what a process is of.
fn unit_of(process: &str) -> Option<String> {
    unit_in(&fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?)
}

/// The same, from what the kernel says (cgroups(7)): systemd's own hierarchy, or the one of all.
fn unit_in(groups: &str) -> Option<String> {
    let paths = groups
        .lines()
        .filter_map(|line| line.strip_prefix("0::").or(line.split_once(":name=systemd:").map(|(_, path)| path)));
    let mut units = paths.filter_map(|path| {
        let end = path.rfind(".service").map(|at| at + ".service".len())?;
        let is_whole = path[end..].is_empty() || path[end..].starts_with('/');
        // What a user's own manager runs is not root's to reload.
        (is_whole && !path.contains("/user@")).then(|| path[..end].to_owned())
    });
    units.next_back()
}

/// Has the unit's own command do it, and says what has become of it.
fn reload(unit: &str, client: &Client, former: u32) -> anyhow::Result<Upgraded> {
    let name = unit.rsplit('/').next().unwrap_or(unit);
    let own = env::current_exe().context("cannot find this program's own file")?;
    let Some(started) = started_by(&systemctl(&["show", "--value", "--property=ExecReload", name])?) else {
        bail!("{name} has no `ExecReload=` that runs `ripstop upgrade`, as the packaged unit has: bring it up to date");
    };
    if fs::canonicalize(&started).ok().as_ref() != Some(&own) {
        let (started, own) = (started.display(), own.display());
        bail!("{name} would start {started}: put {own} in its place, and run `ripstop upgrade` from there");
    }
    systemctl(&["reload", name])
        .with_context(|| format!("the agent that ran goes on; `journalctl -u {name}` says why"))?;
    let status = client.status()?;
    let sessions = status.predecessor.map_or(0, |before| before.sessions);
    Ok(Upgraded { pid: status.pid, former, sessions })
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new("systemctl").args(arguments).output().context("cannot run systemctl")?;
    if !done.status.success() {
        bail!("systemctl {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The program of a unit's command, as `systemctl show` tells it, if that is `ripstop upgrade`.
fn started_by(command: &str) -> Option<PathBuf> {
    let (_, path) = command.split_once("path=")?;
    let (path, rest) = path.split_once(" ;")?;
    let (_, arguments) = rest.split_once("argv[]=")?;
    (arguments.split(' ').nth(1) == Some("upgrade")).then(|| PathBuf::from(path))
}

/// Starts the next agent, of this program, and waits until it has taken over. It is no child of this process, so that a service
/// manager hears of its end.
fn launch(upgrade: &args::Upgrade) -> anyhow::Result<Upgraded> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(&program);
    command.args(arguments(upgrade)).arg(DETACH);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut between = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let (answers, log) = (read(between.stdout.take())?, read(between.stderr.take())?);
    between.wait().context("cannot wait for the next agent")?;
    match hear(&answers) {
        Heard::Runs(upgraded) => {
            tell_service_manager(&upgraded);
            Ok(upgraded)
        }
        Heard::Ended => Err(failed("the next agent did not take over", &log)),
        Heard::Nothing(next) => {
            // It reads nothing: else it would have said so, or ended.
            if let Some(next) = next {
                let _ = kill(Pid::from_raw(next), Signal::SIGKILL);
            }
            Err(failed(&format!("the next agent did not run within {} s", RUNS_WITHIN.as_secs()), &log))
        }
    }
}

/// Where a unit's `ExecReload=` is what runs: the next agent is its main process now. That is for this process to say, as systemd
/// takes nothing from others of the unit (`NotifyAccess=exec`); the former agent stays until it has no sessions for a while.
fn tell_service_manager(upgraded: &Upgraded) {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::MainPid(upgraded.pid)]) {
        output::print_error(
            &anyhow!(error).context("failed to tell the service manager which process the agent is now"),
        );
    }
}

/// What has become of the next agent.
enum Heard {
    Runs(Upgraded),
    Ended,
    /// It takes too long; its process id, if that was heard.
    Nothing(Option<i32>),
}

/// [`detach`] says which process it is, and the next agent, when it has taken over, what [`Upgraded`] has.
fn hear(answers: &Lines) -> Heard {
    let (begun, mut next) = (Instant::now(), None);
    while let Some(line) = answers.line(RUNS_WITHIN.saturating_sub(begun.elapsed())) {
        if line.is_empty() {
            return Heard::Ended;
        }
        match serde_json::from_str(&line) {
            Ok(upgraded) => return Heard::Runs(upgraded),
            Err(_) => next = next.or(line.trim().parse().ok()),
        }
    }
    Heard::Nothing(next)
}

/// With the last that the next agent has said.
fn failed(what: &str, log: &Lines) -> anyhow::Error {
    let said = log.rest(LAST_LINES);
    let said = said.trim();
    anyhow!("{what}; the agent that ran goes on{}{said}", if said.is_empty() { "" } else { ":\n" })
}

/// Those of the next agent.
fn arguments(upgrade: &args::Upgrade) -> Vec<OsString> {
    let args::How { config, log, log_format, door } = &upgrade.how;
    let format = clap::ValueEnum::to_possible_value(log_format).map(|value| value.get_name().to_owned());
    let mut arguments = vec!["agent".into(), "--config".into(), config.into(), "--log".into(), log.into()];
    arguments.extend(format.into_iter().flat_map(|format| ["--log-format".into(), format.into()]));
    arguments.extend(door.iter().flat_map(|door| ["--door".into(), door.into()]));
    arguments.extend(["--take-over".into(), upgrade.drain.to_string().into()]);
    arguments
}

/// Starts the agent that these arguments are of, in a session of its own, and says which process it is.
pub(super) fn detach() -> anyhow::Result<Exit> {
    // A terminal that closes is no reason to end, nor what is typed there.
    setsid().context("failed to leave the terminal")?;
    let program = env::current_exe().context("cannot find this program's own file")?;
    let arguments = env::args_os().skip(1).filter(|argument| argument != OsStr::new(DETACH));
    let agent = Command::new(&program).args(arguments).spawn();
    let agent = agent.with_context(|| format!("cannot start {}", program.display()))?;
    output::print(&format!("{}\n", agent.id()))?;
    Ok(Exit::Ok)
}

/// What comes out of a pipe, line by line.
struct Lines(mpsc::Receiver<String>);

/// Reads a pipe to its end, on a thread.
fn read(pipe: Option<impl Read + Send + 'static>) -> anyhow::Result<Lines> {
    let pipe = pipe.context("there is no way to hear the next agent")?;
    // A line each, of what is kept.
    let (sender, lines) = mpsc::sync_channel(usize::try_from(LOG_MAX).unwrap_or(usize::MAX));
    let reading = move || {
        let kept = io::BufRead::lines(io::BufReader::new(pipe.take(LOG_MAX)));
        // Nobody may listen any more.
        kept.map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
    };
    thread::Builder::new().name("next".into()).spawn(reading).context("no thread is left")?;
    Ok(Lines(lines))
}

impl Lines {
    /// The next line; an empty one at the end, none when neither comes in time.
    fn line(&self, within: Duration) -> Option<String> {
        match self.0.recv_timeout(within) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(String::new()),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
        }
    }

    /// What has come, and comes until there is a pause.
    fn rest(&self, pause: Duration) -> String {
        let lines: Vec<_> = std::iter::from_fn(|| self.0.recv_timeout(pause).ok()).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_process_is_what_systemd_says() {
        let unit = |groups: &str| unit_in(groups);
        assert_eq!(unit("0::/system.slice/ripstop.service\n").as_deref(), Some("/system.slice/ripstop.service"));
        assert_eq!(unit("0::/system.slice/a.service/sub\n").as_deref(), Some("/system.slice/a.service"));
        let hybrid = "9:name=systemd:/system.slice/x.service\n4:memory:/y.service\n0::/\n";
        assert_eq!(unit(hybrid).as_deref(), Some("/system.slice/x.service"));
        for other in [
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "0::/user.slice/user@0.service/a.service\n",
            "0::/\n",
            "0::/a.services\n",
            "",
        ] {
            assert_eq!(unit(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_reload_starts_is_what_systemd_says() {
        let says = "{ path=/usr/bin/ripstop ; argv[]=/usr/bin/ripstop upgrade --config /c ; ignore_errors=no ; pid=0 }";
        assert_eq!(started_by(says), Some("/usr/bin/ripstop".into()));
        let other = "{ path=/bin/kill ; argv[]=/bin/kill -HUP $MAINPID ; ignore_errors=no ; pid=0 }";
        assert_eq!((started_by(other), started_by("\n")), (None, None));
    }

    #[test]
    fn the_next_agent_is_started_as_this_command_was_told() {
        use clap::Parser as _;
        let line = ["ripstop", "upgrade", "--config", "/c", "--door", "/d", "--log", "debug", "--drain", "90s"];
        let args::Command::Upgrade(upgrade) = args::Arguments::parse_from(line).command else {
            panic!("another command")
        };
        let mut started = vec![OsString::from("ripstop")];
        started.extend(arguments(&upgrade));
        let args::Command::Agent(agent) = args::Arguments::parse_from(started).command else {
            panic!("another command")
        };
        assert_eq!((agent.how.config, agent.how.door), ("/c".into(), Some("/d".into())));
        assert_eq!((agent.how.log.as_str(), agent.take_over), ("debug", Some(upgrade.drain)));
    }
}
