//! A process of this host that will not be taken for another.

use serde::{Deserialize, Serialize};
use std::{fs, io, path::PathBuf};

/// A process: its number, and when it was started, as numbers are given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pid: u32,
    /// In clock ticks after boot.
    started: u64,
}

impl Process {
    /// The process that has a number now.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| {
            if error.raw_os_error() == Some(libc::ESRCH) { io::ErrorKind::NotFound.into() } else { error }
        })?;
        let started = start_of(&stat);
        Ok(Self { pid, started: started.ok_or_else(|| io::Error::other("/proc/PID/stat is not as proc(5) has it"))? })
    }

    /// Its network namespace, by a path that leads there while it lives.
    ///
    /// # Errors
    /// `NotFound` when it has ended, also when its number is another's by now.
    pub(super) fn network(self) -> io::Result<PathBuf> {
        match Self::of(self.pid)? {
            now if now == self => Ok(PathBuf::from(format!("/proc/{}/ns/net", self.pid))),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Its number.
    pub(super) fn pid(self) -> u32 {
        self.pid
    }
}

/// Field 22 of proc_pid_stat(5); the name before may have spaces and brackets in it.
fn start_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_another_with_its_number() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.network().unwrap().exists());
        let other = Process { started: own.started + 1, ..own };
        assert_eq!(other.network().unwrap_err().kind(), io::ErrorKind::NotFound);
        let ended = std::process::Command::new("true").spawn().and_then(|mut child| child.wait().map(|_| child.id()));
        assert_eq!(Process::of(ended.unwrap()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_may_look_like_fields() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        assert_eq!(start_of(&format!("7 (a) S (b) {}", fields.join(" "))), Some(22));
    }
}
