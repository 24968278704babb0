//! One round: every figure once, directly and through the fabric in turn.

use crate::{
    bed::{Bed, Way},
    load,
    table::{Column, Table, Unit},
};
use anyhow::Error;
use std::{
    thread,
    time::{Duration, Instant},
};

/// The longest pause before a figure, for the sessions of the one before it to end.
const QUIET: Duration = Duration::from_secs(10);

/// Takes every figure once; one that cannot be taken is noted in the table, and the next is taken.
pub fn round(bed: &Bed, seconds: u32, table: &mut Table) {
    for (streams, reverse) in [(1, false), (1, true), (8, false), (8, true)] {
        bulk(bed, seconds, streams, reverse, table);
    }
    request_reply(bed, table);
    for parallel in [1, 8] {
        connections(bed, seconds, parallel, table);
    }
}

fn bulk(bed: &Bed, seconds: u32, streams: u32, reverse: bool, table: &mut Table) {
    let direction = if reverse { "from" } else { "to" };
    let plural = if streams == 1 { "" } else { "s" };
    let what = format!("{streams} stream{plural} {direction}");
    for way in Way::ALL {
        settle(bed);
        match load::bulk(bed, way, streams, reverse, seconds) {
            Ok(bulk) => {
                eprintln!("  bulk, {what} {}: {:.2} Gbit/s", endpoint(way), bulk.gbit);
                for of in rows_of(way) {
                    let bulk_row = format!("bulk, {what} {}", endpoint(*of));
                    table.add(&bulk_row, Unit::GbitPerSecond, column(way), bulk.gbit);
                }
                if way != Way::Direct {
                    let cpu_row = format!("both agents' CPU for {what} {}", endpoint(way));
                    table.add(&cpu_row, Unit::SecondsPerGb, Column::Fabric, bulk.cpu);
                }
            }
            Err(error) => failed(table, "bulk", way, &error),
        }
    }
}

fn request_reply(bed: &Bed, table: &mut Table) {
    for way in Way::ALL {
        settle(bed);
        match load::request_reply(bed, way) {
            Ok(exchange) => {
                let (p50, p99) = (exchange.p50, exchange.p99);
                eprintln!("  request and reply, {}: p50 {p50:.1} µs, p99 {p99:.1} µs", endpoint(way));
                for of in rows_of(way) {
                    let what = format!("request and reply, {}", endpoint(*of));
                    table.add(&format!("{what}, p50"), Unit::Microseconds, column(way), p50);
                    table.add(&format!("{what}, p99"), Unit::Microseconds, column(way), p99);
                }
            }
            Err(error) => failed(table, "request and reply", way, &error),
        }
    }
}

fn connections(bed: &Bed, seconds: u32, parallel: usize, table: &mut Table) {
    let what = if parallel == 1 { "one at a time".to_owned() } else { format!("{parallel} in parallel") };
    let what = format!("new connections, {what}");
    for way in [Way::Direct, Way::Namespace] {
        settle(bed);
        match load::connections(bed, way, parallel, seconds) {
            Ok(rate) => {
                eprintln!("  {what}, {}: {rate:.0} /s", endpoint(way));
                table.add(&what, Unit::PerSecond, column(way), rate);
            }
            Err(error) => failed(table, &what, way, &error),
        }
    }
}

/// Both kinds of endpoint are compared with the same direct figure.
fn rows_of(way: Way) -> &'static [Way] {
    match way {
        Way::Direct => &[Way::Namespace, Way::User],
        Way::Namespace => &[Way::Namespace],
        Way::User => &[Way::User],
    }
}

fn endpoint(way: Way) -> &'static str {
    match way {
        Way::Direct => "the host",
        Way::Namespace => "a namespace",
        Way::User => "a user",
    }
}

fn column(way: Way) -> Column {
    match way {
        Way::Direct => Column::Direct,
        Way::Namespace | Way::User => Column::Fabric,
    }
}

fn failed(table: &mut Table, what: &str, way: Way, error: &Error) {
    table.fail(&format!("{what}, {way:?}: {error:#}"));
}

/// Waits until no session is left over.
pub fn settle(bed: &Bed) {
    let start = Instant::now();
    while bed.sessions() != [0, 0] && start.elapsed() < QUIET {
        thread::sleep(Duration::from_millis(20));
    }
}
