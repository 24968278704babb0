//! Figures of several rounds, and the table of their medians.

use crate::common::stats::median;
use comfy_table::{CellAlignment, presets};
use std::fmt;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    GbitPerSecond,
    SecondsPerGb,
    Microseconds,
    PerSecond,
    MiB,
    KiB,
    Number,
    Ratio,
}

impl Unit {
    /// What is written after the row's name, and the figures' decimals.
    fn shape(self) -> (&'static str, usize) {
        match self {
            Self::GbitPerSecond => (", Gbit/s", 2),
            Self::SecondsPerGb => (", s/GB", 2),
            Self::Microseconds => (", µs", 1),
            Self::PerSecond => (", /s", 0),
            Self::MiB => (", MiB", 1),
            Self::KiB => (", KiB", 1),
            Self::Number => ("", 0),
            Self::Ratio => ("", 3),
        }
    }
}

/// Where a figure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Direct,
    Fabric,
}

struct Row {
    what: String,
    unit: Unit,
    direct: Vec<f64>,
    fabric: Vec<f64>,
}

/// All figures so far, and what could not be taken.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Table {
    /// Adds one round's figure to its row.
    pub fn add(&mut self, what: &str, unit: Unit, column: Column, value: f64) {
        let known = self.rows.iter().position(|row| row.what == what);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row { what: what.to_owned(), unit, direct: Vec::new(), fabric: Vec::new() });
            self.rows.len() - 1
        });
        match column {
            Column::Direct => self.rows[at].direct.push(value),
            Column::Fabric => self.rows[at].fabric.push(value),
        }
    }

    /// Notes that a figure could not be taken.
    pub fn fail(&mut self, why: &str) {
        eprintln!("  FAILED: {why}");
        self.failures.push(why.to_owned());
    }

    /// How many figures could not be taken.
    pub fn failures(&self) -> usize {
        self.failures.len()
    }
}

impl Row {
    fn cells(&self) -> [String; 4] {
        let (suffix, decimals) = self.unit.shape();
        let (direct, fabric) = (median(&self.direct), median(&self.fabric));
        let show = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"));
        let ratio = direct.zip(fabric).filter(|(direct, _)| *direct > 0.0);
        let ratio = ratio.map_or("-".to_owned(), |(direct, fabric)| format!("{:.2}", fabric / direct));
        [format!("{}{suffix}", self.what), show(direct), show(fabric), ratio]
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = comfy_table::Table::new();
        shown.load_preset(presets::NOTHING).set_header(["what", "direct", "fabric", "fabric / direct"]);
        shown.add_rows(self.rows.iter().map(Row::cells));
        shown.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        writeln!(f, "{}", shown.trim_fmt())?;
        self.failures.iter().try_for_each(|why| writeln!(f, "FAILED: {why}"))
    }
}
