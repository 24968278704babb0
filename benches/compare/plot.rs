//! The plot: bars of the figures that matter most, as a plain SVG that can be read on a light and on a dark page.

use crate::{
    figures::{Condition, Figure, Results},
    system::{Class, System},
};
use std::fmt::Write;

/// What is plotted, two panels beside each other.
const PANELS: [(Condition, Figure); 8] = [
    (Condition::Plain, Figure::Bulk { streams: 1, reverse: false }),
    (Condition::Plain, Figure::BulkCpu { streams: 1, reverse: false }),
    (Condition::Jumbo, Figure::Bulk { streams: 1, reverse: false }),
    (Condition::Plain, Figure::Reply { mille: 500 }),
    (Condition::Plain, Figure::Connections { parallel: 8 }),
    (Condition::Plain, Figure::Http { kept: false }),
    (Condition::Plain, Figure::Http { kept: true }),
    (Condition::Plain, Figure::Udp { together: false }),
];

const WIDTH: usize = 900;
const PANEL: usize = 440;
const BAR: usize = 18;
/// Where bars begin, and how long the longest is.
const LEFT: usize = 100;
const LONGEST: f64 = 260.0;
/// Above a panel's bars and below them.
const HEAD: usize = 44;
const FOOT: usize = 16;

/// One hue for the fabric, grey for the others; text in a colour that fits the page.
const STYLE: &str = "
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .note { fill: #59636e }
  .bar { fill: #aeb6bf } .fabric { fill: #1f6feb } .plain { fill: #d8dee4 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 }
    .bar { fill: #59636e } .fabric { fill: #58a6ff } .plain { fill: #343b43 }
  }
";

/// The plot as SVG; panels without figures are left out.
pub fn svg(results: &Results) -> String {
    let panels: Vec<_> = PANELS.into_iter().map(|(under, figure)| panel(results, under, figure)).collect();
    let panels: Vec<_> = panels.into_iter().flatten().collect();
    let mut body = String::new();
    let mut top = 8;
    for row in panels.chunks(2) {
        for (column, (_, drawn)) in row.iter().enumerate() {
            let _ = writeln!(body, "<g transform=\"translate({},{top})\">\n{drawn}</g>", 10 + column * PANEL);
        }
        top += row.iter().map(|(height, _)| *height).max().unwrap_or_default();
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" width=\"{WIDTH}\" height=\"{top}\" role=\"img\" \
         aria-label=\"What the systems reach\">\n<style>{STYLE}</style>\n{body}</svg>\n"
    )
}

/// A panel and its height.
fn panel(results: &Results, condition: Condition, figure: Figure) -> Option<(usize, String)> {
    let shape = figure.shape();
    let bars: Vec<_> =
        results.systems().filter_map(|system| Some((system, results.median(condition, figure, system)?))).collect();
    // What is not encrypted may be many times above the others: its bar ends with the panel.
    let most = bars
        .iter()
        .filter(|(system, _)| !matches!(system.class(), Class::Plain | Class::Bare))
        .map(|(_, value)| *value);
    let most = most.fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let (name, direction) = (shape.name, if shape.more_is_better { "more is better" } else { "less is better" });
    let under = if condition == Condition::Plain { String::new() } else { format!(", {}", condition.name()) };
    let mut drawn = format!("<text class=\"title\" y=\"16\">{name}{under}</text>\n");
    let _ = writeln!(drawn, "<text class=\"note\" y=\"32\">{}, {direction}</text>", shape.unit);
    for (at, (system, value)) in bars.iter().enumerate() {
        push_bar(&mut drawn, HEAD + at * BAR, *system, *value, most, shape.decimals);
    }
    Some((HEAD + bars.len() * BAR + FOOT, drawn))
}

fn push_bar(drawn: &mut String, top: usize, system: System, value: f64, most: f64, decimals: usize) {
    let class = match system.class() {
        Class::Fabric => "fabric",
        Class::Plain | Class::Bare => "plain",
        Class::Vpn | Class::Sidecar => "bar",
    };
    let beyond = if value > most { " →" } else { "" };
    let length = (value / most).min(1.0) * LONGEST;
    let (text, end) = (top + 12, LEFT as f64 + length + 6.0);
    // Writing to a text cannot fail.
    let _ = writeln!(drawn, "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>", LEFT - 6, system.name());
    let _ = writeln!(
        drawn,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"14\" rx=\"2\"/>"
    );
    let _ = writeln!(drawn, "<text x=\"{end:.1}\" y=\"{text}\">{value:.decimals$}{beyond}</text>");
}
