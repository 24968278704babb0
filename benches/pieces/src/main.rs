//! Counts the instructions of the pieces, and compares them with those on record: `tests/run.sh counts`.
//!
//! 1. For each piece this program runs itself under callgrind, which counts from the first round to the last.
//! 2. The counts of a round are compared with `counts.txt`; what differs by more than [`TOLERANCE`], either way, is a failure:
//!    what is slower must be meant, and what is faster must be on record, or the next one to lose it would not be told.

mod callgrind;
mod table;

use anyhow::{Context, bail};
use clap::Parser;
use ripstop_pieces::{PIECES, Piece, Round};
use std::{collections::BTreeMap, env::consts::ARCH, fs, process::Command, process::ExitCode};
use table::{Cost, Table};

/// Where counts are on record.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.txt");
/// Rounds before: what is made at its first use is there after one. More would show among the allocations.
const WARM: u32 = 1;
/// Rounds that are counted: enough for what happens seldom, such as a table that grows, to show as a small part.
const ROUNDS: u32 = 1_000;
/// By how much a count may differ from the one on record. Two builds of one source in one folder are equal; it leaves room for
/// the choices of an optimiser, and for a code path by processor in a library.
const TOLERANCE: f64 = 0.03;
/// The same for a compiler other than the one on record, whose optimiser is another: what grows by half is seen.
const TOLERANCE_OTHER: f64 = 0.3;
/// Instructions that make no difference: a call or two that the optimiser inlined or did not. The names of symbols, and so the
/// order in which it meets functions, change with the folder of the source.
const FEW: f64 = 40.0;
/// Allocations that make no difference.
const FEW_ALLOCATIONS: f64 = 0.1;

/// Counts the instructions of the pieces of the hot paths.
#[derive(Parser)]
struct Arguments {
    /// Writes the counts down instead of comparing them.
    #[arg(long)]
    record: bool,
    /// Only runs the rounds of one piece: what is run under callgrind.
    #[arg(long, hide = true, value_name = "PIECE")]
    run: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.run {
        Some(name) => rounds_of(name).map(|()| true),
        None => counted().and_then(|now| if arguments.record { record(&now) } else { compare(&now) }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("counts: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn rounds_of(name: &str) -> anyhow::Result<()> {
    let piece = PIECES.iter().find(|piece| piece.name == name).with_context(|| format!("no piece is called {name}"))?;
    let mut round = (piece.set_up)();
    (0..WARM).for_each(|_| round());
    counted_rounds(&mut round);
    Ok(())
}

/// What callgrind counts, by its name.
#[inline(never)]
fn counted_rounds(round: &mut Round) {
    (0..ROUNDS).for_each(|_| round());
}

fn counted() -> anyhow::Result<Table> {
    let pieces = PIECES.iter().filter(|piece| piece.counted);
    let costs = pieces.map(|piece| Ok((piece.name.to_owned(), cost(piece)?)));
    Ok(Table { made_by: made_by()?, costs: costs.collect::<anyhow::Result<_>>()? })
}

fn cost(piece: &Piece) -> anyhow::Result<Cost> {
    let tally = callgrind::run(&["--run", piece.name], "counted_rounds")?;
    let each = |count: u64| count as f64 / f64::from(ROUNDS);
    Ok(Cost { instructions: each(tally.instructions), allocations: each(tally.allocations) })
}

/// The compiler that this was built by, most likely: the one that is here.
fn made_by() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("failed to ask rustc for its version")?;
    let text = String::from_utf8(output.stdout)?;
    let version = text.split(' ').nth(1).context("rustc does not say its version")?;
    Ok(format!("rustc {} {ARCH}", version.trim()))
}

fn record(now: &Table) -> anyhow::Result<bool> {
    fs::write(RECORD, now.write()).with_context(|| format!("failed to write {RECORD}"))?;
    print!("{}", now.write());
    println!("written to {RECORD}; say in the commit's message why they changed");
    Ok(true)
}

/// Shows each piece beside what is on record; false when one differs.
fn compare(now: &Table) -> anyhow::Result<bool> {
    let text = fs::read_to_string(RECORD).with_context(|| format!("failed to read {RECORD}"))?;
    let before = Table::parse(&text).with_context(|| format!("failed to read {RECORD}"))?;
    if !before.made_by.ends_with(ARCH) {
        bail!("the counts on record are of `{}`, and this is {ARCH}", before.made_by);
    }
    let same = before.made_by == now.made_by;
    let tolerance = if same { TOLERANCE } else { TOLERANCE_OTHER };
    if !same {
        println!("recorded with {}, and this is {}: only large differences count", before.made_by, now.made_by);
    }
    let wrong = differing(&before.costs, &now.costs, tolerance);
    if wrong == 0 {
        return Ok(true);
    }
    println!(
        "{wrong} pieces are not as on record (within {:.0} %). Where that is meant, record them with \
         `tests/run.sh counts --record`, and say why in the commit's message.",
        tolerance * 100.0
    );
    Ok(false)
}

fn differing(before: &BTreeMap<String, Cost>, now: &BTreeMap<String, Cost>, tolerance: f64) -> usize {
    println!("{:<16}{:>14}{:>10}{:>14}{:>10}", "piece", "instructions", "recorded", "allocations", "recorded");
    let gone = before.keys().filter(|piece| !now.contains_key(*piece));
    let gone = gone.inspect(|piece| println!("{piece:<16}  is on record, and is no piece any more")).count();
    let mut wrong = gone;
    for (piece, Cost { instructions, allocations }) in now {
        let Some(known) = before.get(piece) else {
            println!("{piece:<16}{instructions:>14.0}{:>10}{allocations:>14.1}{:>10}  NOT ON RECORD", "-", "-");
            wrong += 1;
            continue;
        };
        let differs = (instructions - known.instructions).abs() > (known.instructions * tolerance).max(FEW)
            || (allocations - known.allocations).abs() > FEW_ALLOCATIONS;
        wrong += usize::from(differs);
        println!(
            "{piece:<16}{instructions:>14.0}{:>10.0}{allocations:>14.1}{:>10.1}{}",
            known.instructions,
            known.allocations,
            if differs { "  DIFFERS" } else { "" }
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(all: &[(&str, f64, f64)]) -> BTreeMap<String, Cost> {
        let cost = |instructions, allocations| Cost { instructions, allocations };
        all.iter()
            .map(|(piece, instructions, allocations)| ((*piece).to_owned(), cost(*instructions, *allocations)))
            .collect()
    }

    #[test]
    fn more_and_less_and_new_and_gone_are_told() {
        let before = costs(&[("a", 1_000.0, 2.0), ("few", 10.0, 0.0)]);
        let wrong = |now: &[(&str, f64, f64)]| differing(&before, &costs(now), TOLERANCE);
        assert_eq!(wrong(&[("a", 1_040.0, 2.0), ("few", 50.0, 0.0)]), 0);
        assert_eq!(wrong(&[("a", 1_041.0, 2.0), ("few", 51.0, 0.0)]), 2);
        assert_eq!(wrong(&[("a", 959.0, 2.0), ("few", 10.0, 0.2)]), 2);
        assert_eq!(wrong(&[("a", 1_000.0, 2.0), ("b", 1.0, 0.0)]), 2);
        let large = costs(&[("large", 10_000.0, 0.0)]);
        assert_eq!(differing(&large, &costs(&[("large", 10_299.0, 0.0)]), TOLERANCE), 0);
        assert_eq!(differing(&large, &costs(&[("large", 10_301.0, 0.0)]), TOLERANCE), 1);
    }

    #[test]
    fn every_piece_runs() {
        // Those that hold 100 000 sessions take long where nothing is optimised.
        PIECES.iter().filter(|piece| piece.counted).for_each(|piece| {
            let mut round = (piece.set_up)();
            (0..3).for_each(|_| round());
        });
    }
}
