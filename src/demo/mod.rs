//! `ripstop demo`: three hosts on one machine, real agents, real requests.
//!
//! 1. What is missing on the machine is said, and nothing is touched ([`ripstop_kernel::preflight`]).
//! 2. The leftovers of a demo that was killed are removed ([`sweep`]).
//! 3. Three namespaces become hosts, joined by a bridge in a fourth; each gets a certificate, a graph and an agent, a
//!    process of this same program ([`world`]).
//! 4. Small servers start where the graph places their workloads ([`server`]).
//! 5. Requests are made by name from the workloads' namespaces, and each is held against what it should do ([`acts`]).
//! 6. Unless it is to stop, the fabric stays up until a signal comes. Whichever way it ends, everything is removed.

mod acts;
mod cast;
mod client;
mod dns;
mod probes;
mod records;
mod screen;
mod server;
mod signals;
mod sweep;
mod world;

pub use server::{ServeArgs, serve};

use anyhow::{Context, bail};
use screen::Screen;
use signals::Signals;
use std::time::Instant;
use world::World;

/// Runs the demo; with `once`, only the requests.
///
/// # Errors
/// What is missing on the machine; why the hosts could not be built; with `once`, that a request did not go as it
/// should. Nothing is left behind either way.
pub fn run(once: bool) -> anyhow::Result<()> {
    check_machine()?;
    let signals = Signals::start()?;
    let screen = Screen::new();
    let started = Instant::now();
    let mut world = World::build(&screen, &signals)?;
    let failed = acts::play(&mut world, &screen, &signals)?;
    screen.summary(failed, started.elapsed());
    if !once {
        world.revive().context("failed to start the killed host again")?;
        screen.invite();
        signals.wait();
        screen.say("stopping");
    }
    drop(world);
    if once && failed > 0 {
        bail!("{failed} of the demo's lines are not as they should be");
    }
    Ok(())
}

fn check_machine() -> anyhow::Result<()> {
    let missing = ripstop_kernel::preflight();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = missing.iter().map(|one| format!("\n  - {one}")).collect();
    bail!("the demo builds network namespaces and TUN devices, and something for that is missing:{}", lines.concat())
}
