//! What sessions that do nothing cost the agents.

use crate::{
    common::{
        bed::{Bed, HOSTS},
        idle::{self, Idle},
    },
    table::{Column, Table, Unit},
    target::Target,
};

/// Idle sessions whose memory is measured.
const SESSIONS: u64 = 10_000;

/// Each agent's memory around ten thousand idle sessions, in bytes.
pub struct Memory {
    start: [u64; 2],
    open: [u64; 2],
    descriptors: [usize; 2],
}

/// Opens the sessions through fresh agents, reads their memory, and ends the sessions.
///
/// The agents have carried nothing before, so that no freed memory is used again and every byte counts.
pub fn of_idle_sessions(bed: &Bed) -> anyhow::Result<Memory> {
    let start = bed.resident();
    let idle = Idle::open(bed, &Target::Namespace.way(bed), SESSIONS)?;
    idle::wait_sessions(bed, SESSIONS)?;
    let memory = Memory { start, open: bed.resident(), descriptors: bed.descriptors() };
    drop(idle);
    idle::wait_sessions(bed, 0)?;
    Ok(memory)
}

/// Puts the figures under those of the rounds.
pub fn add_rows(memory: anyhow::Result<Memory>, after_load: [u64; 2], table: &mut Table) {
    let mut add = |what: &str, host: usize, unit, value: f64| {
        table.add(&format!("agent of {}, {what}", HOSTS[host]), unit, Column::Fabric, value);
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (host, after) in after_load.into_iter().enumerate() {
        if let Ok(idle) = &memory {
            add("resident, idle at start", host, Unit::MiB, mib(idle.start[host]));
        }
        add("resident, after the load", host, Unit::MiB, mib(after));
        if let Ok(idle) = &memory {
            let each = idle.open[host].saturating_sub(idle.start[host]) as f64 / SESSIONS as f64;
            add(&format!("resident, {SESSIONS} idle sessions"), host, Unit::MiB, mib(idle.open[host]));
            add("for one idle session", host, Unit::KiB, each / 1024.0);
            add(&format!("descriptors, {SESSIONS} idle sessions"), host, Unit::Number, idle.descriptors[host] as f64);
        }
    }
    if let Err(error) = memory {
        table.fail(&format!("idle sessions: {error:#}"));
    }
}
