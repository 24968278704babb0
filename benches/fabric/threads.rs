//! What agents with several data threads carry: hosts for each number of them, all running at once, measured in turn.

use crate::{
    common::{
        bed::Bed,
        link::Link,
        load::{self, Bulk},
        stats::median,
    },
    target::{self, Target},
};
use comfy_table::{CellAlignment, presets};
use ripstop_config::agent::DATA_THREADS_MAX;
use std::collections::BTreeMap;

/// What is measured of each.
const FIGURES: [Figure; 5] = [
    Figure::Bulk { streams: 1, reverse: false },
    Figure::Bulk { streams: 8, reverse: false },
    Figure::Bulk { streams: 8, reverse: true },
    Figure::Connections { parallel: 8 },
    Figure::Connections { parallel: 64 },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Figure {
    Bulk { streams: u32, reverse: bool },
    Connections { parallel: usize },
}

impl Figure {
    fn name(self) -> String {
        match self {
            Self::Bulk { streams, reverse: false } => format!("bulk, {streams} streams there, Gbit/s"),
            Self::Bulk { streams, reverse: true } => format!("bulk, {streams} streams back, Gbit/s"),
            Self::Connections { parallel } => format!("new connections, {parallel} at a time, /s"),
        }
    }

    fn take(self, bed: &Bed, seconds: u32) -> anyhow::Result<f64> {
        bed.settle();
        let way = Target::Namespace.way(bed);
        match self {
            Self::Bulk { streams, reverse } => {
                load::bulk(&way, Bulk { streams, reverse, seconds, options: &[] }).map(|bulk| bulk.gbit)
            }
            Self::Connections { parallel } => load::connections(&way, parallel, seconds).map(|opened| opened.rate),
        }
    }
}

/// A number of data threads.
///
/// # Errors
/// What is wrong with it, for people.
pub fn number(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| (1..=DATA_THREADS_MAX).contains(number));
    number.ok_or_else(|| format!("write numbers from 1 to {DATA_THREADS_MAX}, as in 1,2,4"))
}

/// Measures each number of data threads; returns the table of the medians, each beside its ratio to the first number's.
///
/// # Errors
/// What could not be measured.
pub fn measure(numbers: &[u8], rounds: u32, seconds: u32) -> anyhow::Result<String> {
    let mut beds = Vec::new();
    for number in numbers {
        let mut bed = Bed::build_with(Link::default(), &format!("data-threads: {number}"))?;
        target::serve(&mut bed);
        beds.push(bed);
    }
    let mut taken = BTreeMap::<(Figure, usize), Vec<f64>>::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for figure in FIGURES {
            for (at, bed) in beds.iter().enumerate() {
                taken.entry((figure, at)).or_default().push(figure.take(bed, seconds)?);
            }
        }
    }
    Ok(table(numbers, &taken))
}

fn table(numbers: &[u8], taken: &BTreeMap<(Figure, usize), Vec<f64>>) -> String {
    let mut table = comfy_table::Table::new();
    let heads = numbers.iter().map(|number| format!("data-threads: {number}"));
    table.load_preset(presets::ASCII_MARKDOWN).set_header([String::from("median")].into_iter().chain(heads));
    for figure in FIGURES {
        let medians: Vec<_> = (0..numbers.len())
            .map(|at| taken.get(&(figure, at)).and_then(|values| median(values)).unwrap_or_default())
            .collect();
        let cells = medians.iter().map(|value| format!("{value:.2} ({:.2}x)", value / medians[0]));
        table.add_row([figure.name()].into_iter().chain(cells));
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}
