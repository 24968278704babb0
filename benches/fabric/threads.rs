//! What agents with several data threads carry: hosts for each number of them, all running at once, measured in turn, beside
//! the kernels' TCP and UDP over the same kind of link, which say what the clients and servers themselves can do.

use crate::{
    Options,
    common::{bed::Bed, link::Link, load, process, stats::median, way::Way},
    many,
    target::{self, Target},
};
use anyhow::ensure;
use comfy_table::{CellAlignment, presets};
use ripstop_config::agent::DATA_THREADS_MAX;
use std::{collections::BTreeMap, time::Instant};

/// What is measured of each.
const FIGURES: [Figure; 8] = [
    Figure::Bulk { streams: 1, reverse: false },
    Figure::Bulk { streams: 8, reverse: false },
    Figure::Bulk { streams: 8, reverse: true },
    Figure::Connections { parallel: 8 },
    Figure::Connections { parallel: 64 },
    Figure::Connections { parallel: 192 },
    Figure::Exchanges { connections: 256 },
    Figure::Datagrams { flows: 64 },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Figure {
    Bulk { streams: usize, reverse: bool },
    Connections { parallel: usize },
    Exchanges { connections: usize },
    Datagrams { flows: usize },
}

impl Figure {
    fn name(self) -> String {
        match self {
            Self::Bulk { streams, reverse: false } => format!("bulk, {streams} streams there, Gbit/s"),
            Self::Bulk { streams, reverse: true } => format!("bulk, {streams} streams back, Gbit/s"),
            Self::Connections { parallel } => format!("new connections, {parallel} at a time, 1000/s"),
            Self::Exchanges { connections } => format!("requests on {connections} kept connections, 1000/s"),
            Self::Datagrams { flows } => format!("datagrams of 1 200 bytes there and back, {flows} flows, 1000/s"),
        }
    }

    fn take(self, way: &Way, seconds: u32) -> anyhow::Result<f64> {
        match self {
            Self::Bulk { streams, reverse } => many::bulk(way, streams, reverse, seconds),
            Self::Connections { parallel } => load::connections(way, parallel, seconds).map(|opened| opened.rate / 1e3),
            Self::Exchanges { connections } => many::exchanges(way, connections, seconds).map(|rate| rate / 1e3),
            Self::Datagrams { flows } => many::datagrams(way, flows, seconds).map(|rate| rate / 1e3),
        }
    }
}

/// What one figure of one round showed.
#[derive(Debug, Clone, Copy)]
struct Taken {
    value: f64,
    /// Processors that both agents together kept busy.
    busy: f64,
}

/// A number of data threads.
///
/// # Errors
/// What is wrong with it, for people.
pub fn number(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| (1..=DATA_THREADS_MAX).contains(number));
    number.ok_or_else(|| format!("write numbers from 1 to {DATA_THREADS_MAX}, as in 1,2,4"))
}

/// Measures agents of each number of data threads that the options name; returns the table of the medians, each beside its ratio to the first number's and
/// the processors that the agents kept busy.
///
/// # Errors
/// What could not be measured.
pub fn measure(options: &Options) -> anyhow::Result<String> {
    let Options { data_threads: numbers, only, settings, rounds, seconds, .. } = options;
    let figures: Vec<_> = FIGURES.into_iter().filter(|figure| figure.name().contains(only.as_str())).collect();
    ensure!(!figures.is_empty(), "no figure is named like {only}");
    let beds = numbers.iter().map(|number| bed(*number, settings)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut taken = BTreeMap::<(Figure, usize), Vec<Taken>>::new();
    for round in 1..=*rounds {
        eprintln!("round {round} of {rounds}");
        for figure in &figures {
            for (column, way) in ways(&beds).into_iter().enumerate() {
                beds.iter().for_each(Bed::settle);
                let one = take(*figure, &way, *seconds)?;
                eprintln!("  {}: {:.2}", figure.name(), one.value);
                taken.entry((*figure, column)).or_default().push(one);
            }
        }
    }
    Ok(table(numbers, &figures, &taken))
}

fn bed(number: u8, settings: &str) -> anyhow::Result<Bed> {
    let mut bed = Bed::build_with(Link::default(), &format!("data-threads: {number}\n{settings}"))?;
    target::serve(&mut bed);
    for target in [Target::Direct, Target::Namespace] {
        let (place, address) = target.server(&bed);
        for server in many::servers(&place, &address, |name| bed.lab.file(name)) {
            bed.keep(server);
        }
    }
    Ok(bed)
}

/// Directly between the hosts of the first bed, and through the agents of each.
fn ways(beds: &[Bed]) -> Vec<Way> {
    let direct = beds.first().map(|bed| Target::Direct.way(bed));
    direct.into_iter().chain(beds.iter().map(|bed| Target::Namespace.way(bed))).collect()
}

fn take(figure: Figure, way: &Way, seconds: u32) -> anyhow::Result<Taken> {
    let (start, before) = (Instant::now(), process::cpu(&way.carriers));
    let value = figure.take(way, seconds)?;
    let busy = (process::cpu(&way.carriers) - before) / start.elapsed().as_secs_f64();
    Ok(Taken { value, busy })
}

fn table(numbers: &[u8], figures: &[Figure], taken: &BTreeMap<(Figure, usize), Vec<Taken>>) -> String {
    let mut table = comfy_table::Table::new();
    let heads = numbers.iter().map(|number| format!("data-threads: {number}"));
    let first = ["median (ratio; processors of both agents)", "direct"].map(String::from);
    table.load_preset(presets::ASCII_MARKDOWN).set_header(first.into_iter().chain(heads));
    for figure in figures {
        let of = |column, what: fn(&Taken) -> f64| {
            let values: Vec<_> = taken.get(&(*figure, column)).into_iter().flatten().map(what).collect();
            median(&values).unwrap_or_default()
        };
        let value = |column| of(column, |taken| taken.value);
        let cells = (1..=numbers.len()).map(|column| {
            let busy = of(column, |taken| taken.busy);
            format!("{:.2} ({:.2}x; {busy:.1})", value(column), value(column) / value(1))
        });
        table.add_row([figure.name(), format!("{:.2}", value(0))].into_iter().chain(cells));
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}
