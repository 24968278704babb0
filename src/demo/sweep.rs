//! Removing a demo, this one or one that was killed: processes, what agents left in the kernel, namespaces, files.
//!
//! Everything has a fixed name, and [`DemoLock`] lets one demo run at a time: so a demo that was killed is found and
//! removed by the next, and a demo that panics where panics abort is removed by the panic hook.

use super::cast::{self, BASE, Host};
use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ripstop_kernel::netns;
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long agents may take to stop in order before they are killed.
const STOP: Duration = Duration::from_secs(5);
/// How long the kernel may take to end a killed process.
const KILL: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// One demo at a time on a machine.
#[derive(Debug)]
pub(super) struct DemoLock {
    path: PathBuf,
    _file: File,
}

impl DemoLock {
    pub(super) fn take() -> anyhow::Result<Self> {
        let path = Path::new(BASE).join("demo.lock");
        let file = fs::create_dir_all(BASE).and_then(|()| File::create(&path));
        let file = file.with_context(|| format!("failed to create {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _file: file }),
            Err(TryLockError::WouldBlock) => {
                bail!("another demo is running on this machine: stop it with Ctrl-C first")
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("failed to lock {}", path.display())),
        }
    }
}

impl Drop for DemoLock {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
        // Only if nothing else is in it: an agent of this machine may have its own files there.
        drop(fs::remove_dir(BASE));
    }
}

/// Whether something of a demo is there. Only asked while holding the lock, so it is not a living one's.
pub(super) fn is_anything_left() -> bool {
    Host::ALL.into_iter().any(|host| host.directory().exists())
}

/// Removes everything; says what could not be.
pub(super) fn sweep() -> Vec<anyhow::Error> {
    let mut failed = Vec::new();
    stop_processes();
    for host in Host::ALL.into_iter().filter(|host| host.directory().exists()) {
        let cleaned = ripstop_kernel::cleanup(&host.directory()).map(drop).map_err(anyhow::Error::from);
        failed.extend(cleaned.err());
    }
    for name in cast::namespaces().filter(|name| netns::exists(name)) {
        failed.extend(netns::remove(&name).err().map(anyhow::Error::from));
    }
    for host in Host::ALL {
        match fs::remove_dir_all(host.directory()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failed.push(
                    anyhow::Error::from(error).context(format!("failed to remove {}", host.directory().display())),
                );
            }
            Ok(()) | Err(_) => {}
        }
    }
    failed
}

/// Ends agents and servers: in order, then by force.
fn stop_processes() {
    for (signal, patience) in [(Signal::SIGTERM, STOP), (Signal::SIGKILL, KILL)] {
        for process in processes() {
            // One that ended meanwhile is what was wanted.
            let _ = kill(process, signal);
        }
        let deadline = Instant::now() + patience;
        while !processes().is_empty() && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
    }
}

/// The agents and servers of a demo, by their command lines; a process that ended but is not reaped has none.
fn processes() -> Vec<Pid> {
    let numbered = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = numbered.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<i32>().ok()?, entry.path())));
    let ours = numbered.filter(|(_, path)| fs::read(path.join("cmdline")).is_ok_and(|line| is_ours(&line)));
    ours.map(|(pid, _)| Pid::from_raw(pid)).collect()
}

fn is_ours(command_line: &[u8]) -> bool {
    let mut words = command_line.split(|byte| *byte == 0).skip(1);
    let is_settings =
        |word: &[u8]| Host::ALL.iter().any(|host| word == settings_of(*host).as_os_str().as_encoded_bytes());
    match words.next() {
        Some(b"demo-serve") => true,
        Some(b"agent") => words.any(is_settings),
        Some(_) | None => false,
    }
}

/// The file with an agent's settings.
pub(super) fn settings_of(host: Host) -> PathBuf {
    host.settings().join("agent.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_demos_processes_are_ours() {
        let line = |words: &[&str]| words.join("\0").into_bytes();
        assert!(is_ours(&line(&["ripstop", "agent", "--config", "/run/ripstop/demo-beta/etc/agent.yaml", ""])));
        assert!(is_ours(&line(&["/x/ripstop", "demo-serve", "--kind", "http", ""])));
        for other in [
            &["ripstop", "agent", "--config", "/etc/ripstop/agent.yaml", ""] as &[&str],
            &["tail", "-f", "/run/ripstop/demo-beta/etc/agent.yaml", ""],
            &["ripstop", "demo", ""],
            &[""],
        ] {
            assert!(!is_ours(&line(other)), "{other:?}");
        }
    }
}
