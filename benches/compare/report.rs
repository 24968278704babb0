//! The tables: on the terminal, and in a file.

use crate::{
    figures::{Condition, Figure, Results},
    goals::{self, Outcome},
    system::{Class, System},
};
use comfy_table::{CellAlignment, presets};
use std::fmt::Write;

/// What is not to be read off a table.
const CAVEAT: &str = "Both hosts, both applications and both ends of every system share the processors of one machine, so what \
bounds most figures is processor time, and neither the link nor one core. Other machines have other figures; the ratios are \
what to look at. Where a virtual machine has its processors from a shared host, single runs are up to a quarter apart, which \
is why every figure is taken through all systems in turn and the medians are compared. What was measured just before may show too, so \
the order is another one in each round. New connections beside idle sessions, and without them, are timed three times a round.\n\n\
The fabric's binary that ships is optimised by a profile of these loads (`packaging/pgo`), unlike the one that cargo builds. The other \
systems are as their packages have them.\n\n\
Among the goals, *direct* is the ratio that plain TCP or UDP reaches, with neither encryption nor identity, and \
*bare TUN* that of a program of some hundred lines (`benches/common/tunnel.rs`) which reads packets from a TUN interface, sends each in a UDP \
datagram, and writes what comes to the interface: what it costs to carry packets in userspace, before anything is encrypted, authorised or \
recorded. It takes them one by one, as long as the link's are, so that for bulk and for what is sent together it is no bound.";

/// A table of texts.
struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// What a report is made of besides its figures.
pub struct About {
    /// The machine, the day, the rounds.
    pub conditions: String,
    pub command: String,
    /// Each system and its version.
    pub versions: Vec<(String, String)>,
}

/// The tables as a terminal shows them.
pub fn terminal(results: &Results, about: &About) -> String {
    let mut text = format!("{}\n", about.conditions);
    for table in tables(results) {
        let mut shown = comfy_table::Table::new();
        shown.load_preset(presets::NOTHING).set_header(&table.head).add_rows(&table.rows);
        shown.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        text.push_str(&format!("\n{}\n{}\n", table.title, shown.trim_fmt()));
    }
    for note in notes(results) {
        text.push_str(&format!("\n{note}"));
    }
    text
}

/// The same as Markdown, for `docs/performance.md`.
pub fn markdown(results: &Results, about: &About) -> String {
    let mut text = format!(
        "# Performance\n\nTwo hosts in network namespaces on one machine, measured side by side in one sitting. This file is written by \
         `{}`;\n`benches/compare/peers.sh` installs the peers.\n\n{}\n\n![What the systems reach](performance.svg)\n\n{CAVEAT}\n",
        about.command, about.conditions
    );
    for table in tables(results) {
        text.push_str(&format!("\n## {}\n\n", table.title));
        push_row(&mut text, &table.head);
        let line = table.head.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" }.to_owned());
        push_row(&mut text, &line.collect::<Vec<_>>());
        table.rows.iter().for_each(|row| push_row(&mut text, row));
    }
    text.push_str("\n## Versions\n\n| system | version |\n|---|---|\n");
    about.versions.iter().for_each(|(name, version)| push_row(&mut text, &[name.clone(), version.clone()]));
    let notes = notes(results);
    if !notes.is_empty() {
        text.push_str("\n## What could not be measured\n\n");
        notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
    }
    text
}

fn push_row(text: &mut String, cells: &[String]) {
    // Writing to a text cannot fail.
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn notes(results: &Results) -> Vec<String> {
    let absent = results.absent.iter().map(|(system, why)| format!("ABSENT: {}: {why}", system.name()));
    let left_out = results.left_out.iter().map(|system| format!("LEFT OUT: {}", system.name()));
    absent.chain(left_out).chain(results.failures.iter().map(|why| format!("FAILED: {why}"))).collect()
}

fn tables(results: &Results) -> Vec<Table> {
    let mut all: Vec<_> = Condition::ALL.into_iter().filter_map(|condition| figures(results, condition)).collect();
    let outcomes = goals::outcomes(results);
    if !outcomes.is_empty() {
        all.push(goals_table(&outcomes));
    }
    all
}

fn figures(results: &Results, condition: Condition) -> Option<Table> {
    let systems: Vec<_> = results.systems().collect();
    let rows: Vec<_> = results.figures(condition).map(|figure| row(results, condition, figure, &systems)).collect();
    if rows.is_empty() {
        return None;
    }
    let mut head = vec!["median ± half of the spread; ↑ more is better, ↓ less is".to_owned()];
    head.extend(systems.iter().map(|system| system.name().to_owned()));
    head.extend(["fabric / best VPN".to_owned(), "fabric / haproxy pair".to_owned()]);
    Some(Table { title: condition.name().to_owned(), head, rows })
}

fn row(results: &Results, condition: Condition, figure: Figure, systems: &[System]) -> Vec<String> {
    let shape = figure.shape();
    let mut name = figure.title();
    if figure == Figure::Dns {
        let unbound = results.median(condition, figure, System::Unbound);
        let _ = write!(name, " (unbound on loopback: {})", unbound.map_or("-".to_owned(), |rate| format!("{rate:.0}")));
    }
    let cell = |system: &System| {
        let missing = if results.is_absent(*system) { "ABSENT" } else { "–" };
        let Some(middle) = results.median(condition, figure, *system) else { return missing.to_owned() };
        let spread = results.spread(condition, figure, *system);
        let spread = spread.map_or(String::new(), |spread| format!(" ±{:.0} %", spread * 100.0));
        format!("{middle:.*}{spread}", shape.decimals)
    };
    let ours = results.median(condition, figure, System::Fabric);
    let ratio = |class| {
        let pair = ours.zip(results.best(condition, figure, Some(class)));
        let pair = pair.filter(|(_, (_, theirs))| *theirs > 0.0);
        pair.map_or("–".to_owned(), |(ours, (_, theirs))| format!("{:.2}", ours / theirs))
    };
    let mut cells = vec![name];
    cells.extend(systems.iter().map(cell));
    cells.extend([ratio(Class::Vpn), ratio(Class::Sidecar)]);
    cells
}

fn goals_table(outcomes: &[Outcome]) -> Table {
    let met = outcomes.iter().filter(|outcome| outcome.met == Some(true)).count();
    let row = |outcome: &Outcome| {
        let met = match outcome.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        let Outcome { what, ours, against, reached, direct, bare, goal, .. } = outcome;
        vec![
            what.clone(),
            ours.clone(),
            against.clone(),
            reached.clone(),
            direct.clone(),
            bare.clone(),
            goal.clone(),
            met.to_owned(),
        ]
    };
    Table {
        title: format!("Goals: {met} of {} met", outcomes.len()),
        head: ["what", "fabric", "against", "reached", "direct", "bare TUN", "goal", ""].map(str::to_owned).into(),
        rows: outcomes.iter().map(row).collect(),
    }
}
