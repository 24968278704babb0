//! Fifty small sessions beside one that takes all it can get.
//!
//! Both workloads call the same endpoint over the same connection between the hosts. Three things can be what there is too
//! little of:
//!
//! - the processors: the rogue has no limit, and all of the applications and agents share this machine's cores;
//! - nothing: the rogue has a limit of 500 Mbit/s, as its edge's limit says, or as iperf3 paces itself directly;
//! - the link: 500 Mbit/s with a queue of 10 ms, of which the rogue wants all.
//!
//! The direct column says what the machine and the link do to small sessions without any fabric.

use crate::{
    common::{
        bed::{BULK_PORT, Bed, ECHO_PORTS},
        load::{self, Bulk, Carried},
    },
    small::{self, Fared},
    table::{Table, Unit},
    target::Target,
};
use anyhow::{Context, anyhow};
use std::{thread, time::Duration};

/// Small sessions at once.
const SMALL: usize = 50;
/// Mbit/s of a rogue that is held to a limit, and of a link that is less than the rogue wants.
const RATE: u32 = 500;
/// Seconds for which the rogue runs before and after what is measured.
const AROUND: u32 = 1;

/// What the small sessions are beside.
struct Rogue {
    what: &'static str,
    streams: u32,
    reverse: bool,
    held: bool,
}

const UP: Rogue = Rogue { what: "1 stream to the endpoint", streams: 1, reverse: false, held: false };
const DOWN: Rogue = Rogue { what: "1 stream from it", streams: 1, reverse: true, held: false };
const MANY: Rogue = Rogue { what: "20 streams from it", streams: 20, reverse: true, held: false };
const HELD_UP: Rogue = Rogue { what: "1 stream to it with a limit of 500 Mbit/s", held: true, ..UP };
const HELD_DOWN: Rogue = Rogue { what: "1 stream from it with a limit of 500 Mbit/s", held: true, ..DOWN };

/// Takes every figure once.
pub fn round(bed: &Bed, seconds: u32, table: &mut Table) {
    for target in [Target::Direct, Target::Namespace] {
        beside_all(bed, target, "", &[UP, DOWN, MANY, HELD_UP, HELD_DOWN], seconds, table);
    }
    bed.thin(Some(RATE));
    for target in [Target::Direct, Target::Namespace] {
        beside_all(bed, target, "on a link of 500 Mbit/s ", &[UP, DOWN, MANY], seconds, table);
    }
    bed.thin(None);
}

fn beside_all(bed: &Bed, target: Target, link: &str, rogues: &[Rogue], seconds: u32, table: &mut Table) {
    let mut taken = || -> anyhow::Result<()> {
        bed.settle();
        let idle = small_ones(bed, target, 0, seconds)()?;
        add(table, target, &format!("{SMALL} small sessions {link}alone"), &idle);
        for rogue in rogues {
            bed.settle();
            let (fared, bulk) = beside(bed, target, rogue, seconds)?;
            let what = format!("{SMALL} small sessions {link}beside {}", rogue.what);
            add(table, target, &what, &fared);
            let ratio = fared.percentile(99).as_secs_f64() / idle.percentile(99).as_secs_f64();
            eprintln!("    p99 is {ratio:.2} x that alone; the rogue has {:.2} Gbit/s", bulk.gbit);
            table.add(&format!("{what}, p99 over p99 alone"), Unit::Ratio, target.column(), ratio);
            table.add(&format!("{what}, Jain's index"), Unit::Ratio, target.column(), fared.jain());
            table.add(&format!("{what}, which has"), Unit::GbitPerSecond, target.column(), bulk.gbit);
        }
        Ok(())
    };
    if let Err(error) = taken() {
        table.fail(&format!("small sessions, {target:?}: {error:#}"));
    }
}

/// To be run where the client is, after a pause; the lab itself stays on its thread.
fn small_ones(bed: &Bed, target: Target, after: u32, seconds: u32) -> impl FnOnce() -> anyhow::Result<Fared> + Send {
    let way = target.way(bed);
    let (place, to) = (way.client.clone(), ECHO_PORTS.map(|port| way.target(port)));
    let (after, length) = (Duration::from_secs(after.into()), Duration::from_secs(seconds.into()));
    move || {
        thread::sleep(after);
        place.inside(|| small::sessions(&to, SMALL, length)).context("a small session ended")
    }
}

fn beside(bed: &Bed, target: Target, rogue: &Rogue, seconds: u32) -> anyhow::Result<(Fared, Carried)> {
    let pace = format!("{RATE}M");
    let options: &[&str] = if rogue.held && target == Target::Direct { &["-b", &pace] } else { &[] };
    let small_ones = small_ones(bed, target, AROUND, seconds);
    thread::scope(|scope| {
        let fared = scope.spawn(small_ones);
        let Rogue { streams, reverse, .. } = *rogue;
        let all = Bulk { streams, reverse, seconds: seconds + 2 * AROUND, port: BULK_PORT, options };
        let bulk = load::bulk(&target.way_of_rogue(bed, rogue.held), all)?;
        Ok((fared.join().map_err(|_| anyhow!("the small sessions panicked"))??, bulk))
    })
}

fn add(table: &mut Table, target: Target, what: &str, fared: &Fared) {
    let micros = |percent| fared.percentile(percent).as_secs_f64() * 1e6;
    let (p50, p99) = (micros(50), micros(99));
    eprintln!("  {what}, {target:?}: p50 {p50:.0} µs, p99 {p99:.0} µs");
    table.add(&format!("{what}, p50"), Unit::Microseconds, target.column(), p50);
    table.add(&format!("{what}, p99"), Unit::Microseconds, target.column(), p99);
}
