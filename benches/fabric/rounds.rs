//! One round: every figure once, directly and through the fabric in turn.

use crate::{
    common::{
        bed::{BULK_PORT, Bed},
        load::{self, Bulk},
    },
    table::{Column, Table, Unit},
    target::Target,
};
use anyhow::Error;

/// Exchanges that the percentiles are taken from.
const EXCHANGES: usize = 20_000;

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
    for target in Target::ALL {
        bed.settle();
        match load::bulk(&target.way(bed), Bulk { streams, reverse, seconds, port: BULK_PORT, options: &[] }) {
            Ok(bulk) => {
                eprintln!("  bulk, {what} {}: {:.2} Gbit/s", endpoint(target), bulk.gbit);
                for of in rows_of(target) {
                    let bulk_row = format!("bulk, {what} {}", endpoint(*of));
                    table.add(&bulk_row, Unit::GbitPerSecond, target.column(), bulk.gbit);
                }
                if target != Target::Direct {
                    let cpu_row = format!("both agents' CPU for {what} {}", endpoint(target));
                    table.add(&cpu_row, Unit::SecondsPerGb, Column::Fabric, bulk.cpu);
                }
            }
            Err(error) => failed(table, "bulk", target, &error),
        }
    }
}

fn request_reply(bed: &Bed, table: &mut Table) {
    for target in Target::ALL {
        bed.settle();
        match load::request_reply(&target.way(bed), EXCHANGES) {
            Ok(exchange) => {
                let (p50, p99) = (exchange.p50, exchange.p99);
                eprintln!("  request and reply, {}: p50 {p50:.1} µs, p99 {p99:.1} µs", endpoint(target));
                for of in rows_of(target) {
                    let what = format!("request and reply, {}", endpoint(*of));
                    table.add(&format!("{what}, p50"), Unit::Microseconds, target.column(), p50);
                    table.add(&format!("{what}, p99"), Unit::Microseconds, target.column(), p99);
                }
            }
            Err(error) => failed(table, "request and reply", target, &error),
        }
    }
}

fn connections(bed: &Bed, seconds: u32, parallel: usize, table: &mut Table) {
    let what = if parallel == 1 { "one at a time".to_owned() } else { format!("{parallel} in parallel") };
    let what = format!("new connections, {what}");
    for target in [Target::Direct, Target::Namespace] {
        bed.settle();
        match load::connections(&target.way(bed), parallel, seconds) {
            Ok(opened) => {
                eprintln!("  {what}, {}: {:.0} /s", endpoint(target), opened.rate);
                table.add(&what, Unit::PerSecond, target.column(), opened.rate);
            }
            Err(error) => failed(table, &what, target, &error),
        }
    }
}

/// Both kinds of endpoint are compared with the same direct figure.
fn rows_of(target: Target) -> &'static [Target] {
    match target {
        Target::Direct => &[Target::Namespace, Target::User],
        Target::Namespace => &[Target::Namespace],
        Target::User => &[Target::User],
    }
}

fn endpoint(target: Target) -> &'static str {
    match target {
        Target::Direct => "the host",
        Target::Namespace => "a namespace",
        Target::User => "a user",
    }
}

fn failed(table: &mut Table, what: &str, target: Target, error: &Error) {
    table.fail(&format!("{what}, {target:?}: {error:#}"));
}
