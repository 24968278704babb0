//! What ten thousand idle sessions cost those that end sessions: memory, and time of a new connection beside them.
//!
//! A sidecar has two descriptors for each, so that it holds fewer where a process may have only 20 000.

use crate::{
    common::{
        bed::{Bed, HOSTS},
        idle::{self, Idle},
        load, process,
        way::Way,
    },
    figures::{Condition, Figure, IDLE, Results},
    peers::Peer,
    system::System,
};
use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit};
use std::{thread, time::Duration};

/// Descriptors that a sidecar keeps for itself and for connections that come and go beside the idle ones.
const RESERVED: u64 = 2000;
/// New connections are timed so often beside each set of idle sessions, and without it: the machine changes from second to second, and
/// those take up to half a minute to open.
const TIMES: u32 = 3;
/// What a system may do with its memory when all its sessions have ended.
const QUIET: Duration = Duration::from_secs(2);

/// Takes the figures; the systems must have been started for this, for memory that was freed would be used again.
pub fn measure(bed: &Bed, peers: &[Peer], rounds: u32, seconds: u32, results: &mut Results) {
    for peer in peers.iter().filter(|peer| peer.system.terminates()) {
        if let Err(error) = one(bed, peer, rounds, seconds, results) {
            results.fail(format!("idle sessions, {}: {error:#}", peer.system.name()));
        }
    }
}

fn one(bed: &Bed, peer: &Peer, rounds: u32, seconds: u32, results: &mut Results) -> anyhow::Result<()> {
    let (way, system) = (peer.way(bed), peer.system);
    let count = sessions(system)?;
    let before = resident(&way);
    // In turn, so that both find the same machine.
    for round in 0..rounds {
        let idle = Idle::open(bed, &way, count)?;
        if system == System::Fabric {
            idle::wait_sessions(bed, count)?;
        }
        if round == 0 {
            let open = resident(&way);
            // Of the host that needs more.
            let each = HOSTS.iter().enumerate().map(|(host, _)| open[host].saturating_sub(before[host])).max();
            let each = each.unwrap_or_default() as f64 / count as f64 / 1024.0;
            results.add(Condition::Plain, Figure::ResidentSession, system, each);
        }
        beside(&way, system, true, seconds, results)?;
        drop(idle);
        bed.settle();
        thread::sleep(QUIET);
        beside(&way, system, false, seconds, results)?;
    }
    Ok(())
}

fn beside(way: &Way, system: System, idle: bool, seconds: u32, results: &mut Results) -> anyhow::Result<()> {
    for _ in 0..TIMES {
        let opened = load::connections(way, 1, seconds).context("a new connection")?;
        results.add(Condition::Plain, Figure::OpenP99 { idle }, system, opened.p99);
    }
    Ok(())
}

fn resident(way: &Way) -> Vec<u64> {
    way.carriers.iter().map(|pid| process::resident(*pid)).collect()
}

/// A sidecar has two descriptors for each session, and no more than the machine gives it.
fn sessions(system: System) -> anyhow::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = if system == System::Fabric { IDLE } else { IDLE.min(hard.saturating_sub(RESERVED) / 2) };
    // Two processes open them.
    Ok(most / 2 * 2)
}
