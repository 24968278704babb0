//! The policy: its edges with how often each was used, those that never were first.

use super::{
    super::{asked::Asked, facts::Facts},
    age, counted, empty, pill,
};
use crate::shown::bytes;
use maud::{Markup, html};
use ripstop_config::{diagnostic::Location, graph::Edge};
use std::collections::{BTreeSet, HashMap};

/// Edges shown at once.
const SHOWN_MAX: usize = 60;

const COLUMNS: [(&str, &str); 8] = [
    ("Rule", ""),
    ("From", ""),
    ("To", ""),
    ("Ports", ""),
    ("Limits", ""),
    ("Sessions", "number"),
    ("Bytes", "number"),
    ("Last", "number"),
];

struct Row<'f> {
    edge: &'f Edge,
    used: u64,
    open: u64,
    bytes: u64,
    last: Option<f64>,
    in_force: bool,
}

pub(super) fn table(facts: &Facts, asked: &Asked) -> Markup {
    let rows = rows(facts);
    let unused = rows.iter().filter(|row| row.used + row.open == 0).count();
    let more = rows.len().saturating_sub(SHOWN_MAX);
    html! {
        section id="policy" data-live aria-labelledby="policy-title" {
            header {
                h2 id="policy-title" { "Policy" }
                p class="hint" {
                    (counted(rows.len(), "edge")) " " (if asked.is_whole() { "in the graph" } else { "of this host" }) ", " (unused) " unused; "
                    (facts.status.policy.file)
                }
            }
            @if rows.is_empty() {
                (empty("No edges.", if asked.is_filtered() { "None fits the filter." } else { "Nothing is allowed from or to this host." }))
            } @else {
                div class="scroll" tabindex="0" role="region" aria-label="Policy" {
                    table {
                        thead { tr { @for (title, class) in COLUMNS { th scope="col" class=(class) { (title) } } } }
                        tbody { @for one in rows.iter().take(SHOWN_MAX) { (row(one)) } }
                    }
                }
            }
            @if more > 0 { p class="more" { "and " (more) " more; the filter finds them" } }
        }
    }
}

/// The edges of the calls that are asked for: unused ones first, then those that were used the least.
fn rows(facts: &Facts) -> Vec<Row<'_>> {
    let open: HashMap<_, _> = facts.pairs.iter().map(|pair| ((&pair.from, &pair.to), pair.sums.sessions)).collect();
    let dormant: BTreeSet<&Location> = facts.policy.dormant().map(|edge| &edge.at).collect();
    let of_edge = |edge| {
        let edge: &Edge = edge;
        let open = *open.get(&(&edge.from, &edge.to))?;
        let tally = facts.edges.of(&edge.from, &edge.to);
        let last = tally.and_then(|tally| tally.last).map(|at| (facts.now - at).as_seconds_f64().max(0.0));
        let used = tally.map_or(0, |tally| tally.by_rule(&edge.at.to_string()));
        let (bytes, last) = if used > 0 { (tally.map_or(0, |tally| tally.bytes), last) } else { (0, None) };
        Some(Row { edge, used, open, bytes, last, in_force: !dormant.contains(&edge.at) })
    };
    let mut rows: Vec<_> = facts.policy.graph().edges.iter().filter_map(of_edge).collect();
    rows.sort_by_key(|row| (row.used + row.open, &row.edge.at));
    rows
}

fn row(row: &Row<'_>) -> Markup {
    let Row { edge, used, open, bytes: carried, last, in_force } = row;
    let ports: Vec<_> = edge.ports.iter().map(ToString::to_string).collect();
    html! {
        tr {
            td { code title=(edge.at) { (short(&edge.at)) } }
            td { (edge.from) }
            td { (edge.to) }
            td { (if ports.is_empty() { "all".into() } else { ports.join(", ") }) }
            td { (if edge.limits.is_none() { "–".into() } else { edge.limits.to_string() }) }
            td class="number" {
                @if !in_force { (pill("limited", "no consent")) }
                @else if used + open == 0 { (pill("unused", "unused")) }
                @else if *used == 0 { (open) " open" }
                @else if *open > 0 { (used) " + " (open) " open" }
                @else { (used) }
            }
            td class="number" { (if *carried > 0 { bytes(*carried as f64) } else { "–".into() }) }
            td class="number" { (last.map_or_else(|| "–".into(), |ago| format!("{} ago", age(ago)))) }
        }
    }
}

/// Without the directories, which are the same for all.
fn short(at: &Location) -> String {
    let file = at.file.rsplit('/').next().unwrap_or_default();
    format!("{file}:{}", at.line)
}
