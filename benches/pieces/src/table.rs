//! The counts on record, as a text with a line for each piece.

use anyhow::{Context, bail};
use std::{collections::BTreeMap, fmt::Write};

/// What one round costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
}

/// Counts, and what they are true of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    /// The compiler and the architecture, as [`Table::write`] has them.
    pub(crate) made_by: String,
    /// By piece.
    pub(crate) costs: BTreeMap<String, Cost>,
}

const HEAD: &str = "\
# Instructions and allocations of one round of each piece: of Rust code alone, in the release build.
# Compared by `tests/run.sh counts`; recorded by `tests/run.sh counts --record`. See CONTRIBUTING.md.
";

impl Table {
    /// Reads what [`Table::write`] wrote.
    ///
    /// # Errors
    /// A line that is not one of its.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let made_by = lines.next().context("it is empty")?.to_owned();
        let costs = lines.map(|line| cost(line).with_context(|| format!("`{line}` is no line of counts")));
        Ok(Self { made_by, costs: costs.collect::<anyhow::Result<_>>()? })
    }

    pub(crate) fn write(&self) -> String {
        let mut text = format!("{HEAD}{}\n", self.made_by);
        for (piece, Cost { instructions, allocations }) in &self.costs {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{piece:<16}{instructions:>8.0}{allocations:>8.1}");
        }
        text
    }
}

fn cost(line: &str) -> anyhow::Result<(String, Cost)> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [piece, instructions, allocations] => {
            let cost = Cost { instructions: instructions.parse()?, allocations: allocations.parse()? };
            Ok((piece.to_owned(), cost))
        }
        _ => bail!("a piece and two numbers are expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_written() {
        let cost = |instructions, allocations| Cost { instructions, allocations };
        let costs = BTreeMap::from([("a/b".to_owned(), cost(120.0, 0.5)), ("c/d".to_owned(), cost(7.0, 0.0))]);
        let table = Table { made_by: "rustc 1.95.0 x86_64".into(), costs };
        assert_eq!(Table::parse(&table.write()).expect("it was written so"), table);
        assert!(Table::parse("rustc\na/b 1\n").is_err() && Table::parse("# no more\n").is_err());
    }
}
