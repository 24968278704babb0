//! Sessions that do nothing, opened by processes of their own.

use super::{
    bed::{Bed, HOLD_PORT},
    lab::Server,
    serve::ALL_OPEN,
    way::Way,
};
use anyhow::{bail, ensure};
use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Processes that open them: each spends a descriptor on each of its sessions.
const PROCESSES: u64 = 2;
/// The longest that opening or ending all of them may take.
const ALL: Duration = Duration::from_secs(120);
/// What the carriers may do with their memory before it is read.
const QUIET: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Idle sessions; they end when this is dropped.
pub struct Idle {
    _clients: Vec<(Server, PathBuf)>,
}

impl Idle {
    /// Opens so many sessions, an even number, and waits until all are open and their memory is settled.
    pub fn open(bed: &Bed, way: &Way, sessions: u64) -> anyhow::Result<Self> {
        eprintln!("{sessions} idle sessions");
        let count = (sessions / PROCESSES).to_string();
        let to = way.target(HOLD_PORT).to_string();
        let play = |number| bed.play(&way.client, &format!("open-{number}"), &["open", &to, &count]);
        let mut clients: Vec<_> = (0..PROCESSES).map(play).collect();
        let began = Instant::now();
        for (client, log) in &mut clients {
            wait_open(client, log, began)?;
        }
        thread::sleep(QUIET);
        Ok(Self { _clients: clients })
    }
}

/// Waits until the agents carry so many sessions.
pub fn wait_sessions(bed: &Bed, count: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    while bed.sessions() != [count; 2] {
        ensure!(began.elapsed() < ALL, "{:?} sessions on the hosts, not {count}", bed.sessions());
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn wait_open(client: &mut Server, log: &PathBuf, began: Instant) -> anyhow::Result<()> {
    loop {
        let said = fs::read_to_string(log).unwrap_or_default();
        if said.contains(ALL_OPEN) {
            return Ok(());
        }
        if !client.is_running() || began.elapsed() > ALL {
            bail!("the sessions are not open: {said}");
        }
        thread::sleep(PAUSE);
    }
}
