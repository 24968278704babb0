//! Which agent is asked.

use super::args;
use crate::admin::{Client, ClientError, SOCKET, Status};
use ripstop_config::HostName;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The run directory that agents use unless told otherwise.
const RUN: &str = "/run/ripstop";
/// Sockets tried at most: as many agents as anybody runs on one machine.
const SOCKETS_MAX: usize = 64;

/// The agents that may be meant: the one that was named; else this host's; else those of the directories below, as the
/// demo has them. Never empty.
pub(super) fn clients(socket: &args::Socket) -> Vec<Client> {
    paths(socket).iter().map(|path| Client::new(path)).collect()
}

fn paths(socket: &args::Socket) -> Vec<PathBuf> {
    match &socket.socket {
        Some(named) => vec![named.clone()],
        None => candidates(Path::new(RUN)),
    }
}

/// The one agent that is meant.
///
/// # Errors
/// When several run here and none was named.
pub(super) fn one(socket: &args::Socket) -> anyhow::Result<Client> {
    match paths(socket).as_slice() {
        [path] => Ok(Client::new(path)),
        several => {
            let named: String = several.iter().map(|path| format!("\n  --socket {}", path.display())).collect();
            anyhow::bail!("several agents run here; say which is meant:{named}")
        }
    }
}

fn candidates(run: &Path) -> Vec<PathBuf> {
    let own = run.join(SOCKET);
    if own.exists() {
        return vec![own];
    }
    let mut below: Vec<PathBuf> = std::fs::read_dir(run)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join(SOCKET)))
        .filter(|path| path.exists())
        .take(SOCKETS_MAX)
        .collect();
    below.sort();
    if below.is_empty() { vec![own] } else { below }
}

/// An agent that answered.
pub(super) struct Found {
    pub(super) status: Status,
    /// Its process id as seen from here.
    pub(super) pid: Option<i32>,
}

/// A row of what agents say.
#[derive(Serialize)]
pub(super) struct Said<T> {
    /// The host whose agent says it, where several were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<HostName>,
    #[serde(flatten)]
    pub(super) value: T,
}

impl<T> Said<T> {
    /// What one agent says.
    pub(super) fn of_one(values: Vec<T>) -> Vec<Self> {
        values.into_iter().map(|value| Self { agent: None, value }).collect()
    }
}

/// What each agent that answers says of something.
///
/// # Errors
/// As [`answering`].
pub(super) fn each<T>(socket: &args::Socket, of: impl Fn(Status) -> Vec<T>) -> Result<Vec<Said<T>>, ClientError> {
    let found = answering(socket)?;
    let several = found.len() > 1;
    let said = found.into_iter().flat_map(|one| {
        let agent = several.then(|| one.status.host.clone());
        of(one.status).into_iter().map(move |value| Said { agent: agent.clone(), value })
    });
    Ok(said.collect())
}

/// Every agent that answers.
///
/// # Errors
/// The first one's error when none answers.
pub(super) fn answering(socket: &args::Socket) -> Result<Vec<Found>, ClientError> {
    let (mut found, mut failed) = (Vec::new(), None);
    for client in clients(socket) {
        match client.status_and_pid() {
            Ok((status, pid)) => found.push(Found { status, pid }),
            // Of several agents the others are still asked.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        Some(_) | None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_agent_comes_before_those_below() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(candidates(run.path()), [run.path().join(SOCKET)], "what is shown when there is none");
        for host in ["beta", "alpha"] {
            std::fs::create_dir(run.path().join(host)).unwrap();
            std::fs::write(run.path().join(host).join(SOCKET), "").unwrap();
        }
        let below = ["alpha", "beta"].map(|host| run.path().join(host).join(SOCKET));
        assert_eq!(candidates(run.path()), below);
        std::fs::write(run.path().join(SOCKET), "").unwrap();
        assert_eq!(candidates(run.path()), [run.path().join(SOCKET)]);
    }
}
