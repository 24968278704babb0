//! What sessions that do nothing cost the agents.

use crate::{
    bed::{Bed, HOLD_PORT, HOSTS, Way},
    lab::Server,
    serve::ALL_OPEN,
    table::{Column, Table, Unit},
};
use anyhow::{bail, ensure};
use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Idle sessions whose memory is measured.
const SESSIONS: u64 = 10_000;
/// Processes that open them: each spends a descriptor on each of its sessions.
const PROCESSES: u64 = 2;
/// The longest that opening or ending all of them may take.
const ALL: Duration = Duration::from_secs(120);
/// What the agents may do with their memory before it is read.
const QUIET: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Each agent's memory around ten thousand idle sessions, in bytes.
pub struct Idle {
    start: [u64; 2],
    open: [u64; 2],
    descriptors: [usize; 2],
}

/// Opens the sessions through fresh agents, reads their memory, and ends the sessions.
///
/// The agents have carried nothing before, so that no freed memory is used again and every byte counts.
pub fn idle_sessions(bed: &Bed) -> anyhow::Result<Idle> {
    eprintln!("{SESSIONS} idle sessions");
    let start = bed.resident();
    let count = (SESSIONS / PROCESSES).to_string();
    let to = bed.target(Way::Namespace, HOLD_PORT).to_string();
    let play = |number| bed.play(Way::Namespace, &format!("open-{number}"), &["open", &to, &count]);
    let mut clients: Vec<_> = (0..PROCESSES).map(play).collect();
    let began = Instant::now();
    for (client, log) in &mut clients {
        wait_open(client, log, began)?;
    }
    thread::sleep(QUIET);
    let carried = bed.sessions();
    ensure!(carried == [SESSIONS; 2], "{carried:?} sessions on {HOSTS:?}, not {SESSIONS}");
    let idle = Idle { start, open: bed.resident(), descriptors: bed.descriptors() };
    drop(clients);
    let began = Instant::now();
    while bed.sessions() != [0, 0] {
        ensure!(began.elapsed() < ALL, "{:?} sessions are left on {HOSTS:?}", bed.sessions());
        thread::sleep(PAUSE);
    }
    Ok(idle)
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

/// Puts the figures under those of the rounds.
pub fn add_rows(idle: anyhow::Result<Idle>, after_load: [u64; 2], table: &mut Table) {
    let mut add = |what: &str, host: usize, unit, value: f64| {
        table.add(&format!("agent of {}, {what}", HOSTS[host]), unit, Column::Fabric, value);
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (host, after) in after_load.into_iter().enumerate() {
        if let Ok(idle) = &idle {
            add("resident, idle at start", host, Unit::MiB, mib(idle.start[host]));
        }
        add("resident, after the load", host, Unit::MiB, mib(after));
        if let Ok(idle) = &idle {
            let each = idle.open[host].saturating_sub(idle.start[host]) as f64 / SESSIONS as f64;
            add(&format!("resident, {SESSIONS} idle sessions"), host, Unit::MiB, mib(idle.open[host]));
            add("for one idle session", host, Unit::KiB, each / 1024.0);
            add(&format!("descriptors, {SESSIONS} idle sessions"), host, Unit::Number, idle.descriptors[host] as f64);
        }
    }
    if let Err(error) = idle {
        table.fail(&format!("idle sessions: {error:#}"));
    }
}
