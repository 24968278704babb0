//! The map as SVG.

use super::{
    super::{asked::Asked, pairs::Tone},
    Carried, Line, Map, Node, Who,
};
use crate::shown::bytes;
use maud::{Markup, html};

/// Sizes in the drawing's own units, which are pixels at its full width.
const WIDTH: usize = 1_120;
const NODE: usize = 264;
const HIGH: usize = 34;
const STEP: usize = 44;
const HEAD: usize = 30;
/// Along so much of a place's side its lines are spread.
const SPREAD: f64 = 26.0;
/// Characters that fit beside a figure.
const LABEL_MAX: usize = 25;
/// Widths of lines: of what carries nothing, and of the most; ten times the bytes are 1.6 units more.
const THIN: f64 = 1.5;
const THICK: f64 = 13.0;

/// Draws a map; of nothing there is none.
pub(in crate::page) fn draw(map: &Map, asked: &Asked) -> Markup {
    let rows = map.columns.iter().map(Vec::len).max().unwrap_or(0);
    let height = HEAD + rows * STEP + 4;
    let titles = if map.grouped {
        ["Callers, by tenant", "Services, by tenant", "Hosts of endpoints"]
    } else {
        ["Callers", "Services", "Hosts of endpoints"]
    };
    html! {
        svg class="map" viewBox=(format!("0 0 {WIDTH} {height}")) role="group" aria-label="Service map: callers, services, hosts of endpoints" {
            @for (column, title) in titles.iter().enumerate() {
                text class="head" x=(left(column)) y="14" { (title) }
            }
            g class="lines" {
                @for (column, lines) in map.lines.iter().enumerate() {
                    @for (number, line) in lines.iter().enumerate() {
                        (draw_line(map, column, line, (spread(lines, number, |line| line.from), spread(lines, number, |line| line.to)), height))
                    }
                }
            }
            @for (column, nodes) in map.columns.iter().enumerate() {
                @for (row, node) in nodes.iter().enumerate() {
                    (draw_node(node, column, top(row, nodes.len(), height), asked))
                }
            }
        }
    }
}

fn left(column: usize) -> usize {
    column * (WIDTH - NODE) / 2
}

/// A shorter column is in the middle of the longest.
fn top(row: usize, rows: usize, height: usize) -> usize {
    HEAD + (height - HEAD - 4 - rows * STEP) / 2 + row * STEP
}

/// By how much a line begins or ends below the middle of its place, so that several of them can be told apart. The lines
/// are in the order of their other ends.
fn spread(lines: &[Line], number: usize, end: impl Fn(&Line) -> usize) -> f64 {
    let own = |line: &&Line| end(line) == end(&lines[number]);
    let (all, before) = (lines.iter().filter(own).count(), lines[..number].iter().filter(own).count());
    let step = (SPREAD / all as f64).min(SPREAD / 4.0);
    (before as f64 - (all as f64 - 1.0) / 2.0) * step
}

fn draw_line(map: &Map, column: usize, line: &Line, (down, end_down): (f64, f64), height: usize) -> Markup {
    let (from, to) = (&map.columns[column], &map.columns[column + 1]);
    let (x, end) = (left(column) + NODE, left(column + 1));
    let middle = |row: usize, rows: usize, down: f64| (top(row, rows, height) + HIGH / 2) as f64 + down;
    let (y, end_y) = (middle(line.from, from.len(), down), middle(line.to, to.len(), end_down));
    let bend = usize::midpoint(x, end);
    let path = format!("M{x} {y:.1}C{bend} {y:.1} {bend} {end_y:.1} {end} {end_y:.1}");
    let says = format!("{} → {}: {}", plain(&from[line.from]), plain(&to[line.to]), said(&line.carried));
    html! {
        path class=(class(line.carried.tone)) d=(path) stroke-width=(format!("{:.1}", width(line.carried.rate()))) {
            title { (says) }
        }
    }
}

fn class(tone: Option<Tone>) -> &'static str {
    tone.map_or("unused", Tone::class)
}

/// Of a line that carries so many bytes a second.
fn width(rate: f64) -> f64 {
    if rate < 1.0 { THIN } else { (THIN + 1.6 * (rate / 100.0).max(1.0).log10()).clamp(THIN + 0.5, THICK) }
}

fn said(carried: &Carried) -> String {
    let tone = carried.tone.map_or("", Tone::word);
    let rate = if carried.rate() >= 1.0 { format!("{}/s, ", bytes(carried.rate())) } else { String::new() };
    let denied = if carried.denied > 0 { format!(", {} denied", carried.denied) } else { String::new() };
    let open = if carried.sums.sessions > 0 { format!(", {} open", carried.sums.sessions) } else { String::new() };
    let ended = if carried.allowed > 0 { format!(", {} ended", carried.allowed) } else { String::new() };
    format!("{rate}{tone}{open}{ended}{denied}")
}

fn plain(node: &Node) -> String {
    match &node.who {
        Who::One(name) => name.clone(),
        Who::Tenant(tenant) if node.count > 1 => format!("{tenant} ({})", node.count),
        Who::Tenant(tenant) => tenant.clone(),
        Who::More => format!("{} more", node.count),
    }
}

fn draw_node(node: &Node, column: usize, y: usize, asked: &Asked) -> Markup {
    let (x, text) = (left(column), y + HIGH / 2 + 5);
    let class = format!("node {}", class(node.carried.tone));
    let says = format!("{}: {}", plain(node), said(&node.carried));
    let shape = html! {
        g class=(class) {
            title { (says) }
            rect x=(x) y=(y) width=(NODE) height=(HIGH) rx="7" {}
            rect class="mark" x=(x) y=(y) width="4" height=(HIGH) rx="2" {}
            text x=(x + 14) y=(text) { (label(node)) }
            text class="figure" x=(x + NODE - 12) y=(text) text-anchor="end" { (figure(&node.carried)) }
        }
    };
    match link(node, column, asked) {
        Some(address) => html! { a href=(address) { (shape) } },
        None => shape,
    }
}

/// Where its calls alone are shown.
fn link(node: &Node, column: usize, asked: &Asked) -> Option<String> {
    match (&node.who, column) {
        (Who::One(name), 0) => Some(asked.with(|asked| asked.from.clone_from(name))),
        (Who::One(name), 1) => Some(asked.with(|asked| asked.to.clone_from(name))),
        (Who::Tenant(tenant), _) => Some(asked.with(|asked| asked.tenant.clone_from(tenant))),
        (Who::One(_) | Who::More, _) => None,
    }
}

fn figure(carried: &Carried) -> String {
    match (carried.rate() >= 1.0, carried.sums.sessions, carried.denied) {
        (true, _, _) => format!("{}/s", bytes(carried.rate())),
        (false, 0, 0) => String::new(),
        (false, 0, denied) if carried.allowed == 0 => format!("{denied} denied"),
        (false, 0, _) => String::new(),
        (false, open, _) => format!("{open} open"),
    }
}

/// The tenant stands back behind the name; what does not fit is in the title.
fn label(node: &Node) -> Markup {
    match &node.who {
        Who::One(name) => {
            let fits = short(name);
            let (tenant, name) = fits.rsplit_once('/').map_or(("", &*fits), |(tenant, name)| (tenant, name));
            html! { @if !tenant.is_empty() { tspan class="tenant" { (tenant) "/" } } (name) }
        }
        Who::Tenant(tenant) => {
            html! { (short(tenant)) @if node.count > 1 { tspan class="tenant" { " · " (node.count) } } }
        }
        Who::More => html! { tspan class="tenant" { "and " (node.count) " more" } },
    }
}

/// The end of a long name, which tells it from others.
fn short(name: &str) -> String {
    let count = name.chars().count();
    if count <= LABEL_MAX {
        return name.into();
    }
    let kept: String = name.chars().skip(count + 1 - LABEL_MAX).collect();
    format!("…{kept}")
}
