//! What ships beside the agent speaks of the metrics that it has: the table in `docs/metrics.md`, alerts, dashboard.

use super::instruments::{COUNTERS, GAUGES, HISTOGRAMS, tests::rendered};
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = "docs/metrics.md";
const START: &str = "<!-- table of the metrics, made by `RIPSTOP_WRITE=1 cargo test -p ripstop-telemetry --lib metrics_are_documented` -->\n";
const END: &str = "<!-- end of the table -->\n";
/// Metrics whose name, labels or meaning may change in a minor version: what they show is of how the agent is built.
const UNSTABLE: [&str; 4] = [
    "ripstop_session_burst_bytes",
    "ripstop_session_records_unwritten",
    "ripstop_packets_dropped_total",
    "ripstop_packets_handed_on_total",
];

/// A file of the repository.
fn file(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names with type and help.
fn metrics() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let counters = COUNTERS.iter().map(|(name, _, help)| (*name, ("counter", *help)));
    let gauges = GAUGES.iter().map(|(name, _, help)| (*name, ("gauge", *help)));
    let histograms = HISTOGRAMS.iter().map(|(name, help, _)| (*name, ("histogram", *help)));
    counters.chain(gauges).chain(histograms).collect()
}

/// The labels that a metric has when it is used, in order; without the histograms' own.
fn labels(scraped: &str, metric: &str) -> Vec<String> {
    let of = |line: &&str| {
        let rest = line.strip_prefix(metric).map(|rest| rest.strip_prefix("_bucket").unwrap_or(rest));
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let line = scraped.lines().find(of).unwrap_or_else(|| panic!("{metric} is not used"));
    let Some((_, inside)) = line.split_once('{') else { return Vec::new() };
    let (inside, _) = inside.rsplit_once('}').unwrap();
    let names = inside.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
    names.filter(|name| name != "le").collect()
}

fn table() -> String {
    let scraped = rendered();
    let mut table = "| name | type | labels | stability | what |\n|---|---|---|---|---|\n".to_owned();
    for (name, (kind, help)) in metrics() {
        let labels: Vec<_> = labels(&scraped, name).iter().map(|label| format!("`{label}`")).collect();
        let stability = if UNSTABLE.contains(&name) { "may change" } else { "stable" };
        table.push_str(&format!("| `{name}` | {kind} | {} | {stability} | {help} |\n", labels.join(" ")));
    }
    table
}

#[test]
fn metrics_are_documented() {
    let document = file(DOCUMENT);
    let (before, rest) = document.split_once(START).expect("the table's start");
    let (found, after) = rest.split_once(END).expect("the table's end");
    let table = format!("\n{}\n", table());
    if std::env::var_os("RIPSTOP_WRITE").is_some() {
        let path = format!("{}/../{DOCUMENT}", env!("CARGO_MANIFEST_DIR"));
        return std::fs::write(path, format!("{before}{START}{table}{END}{after}")).unwrap();
    }
    assert_eq!(found, table, "run this test with RIPSTOP_WRITE=1 and look at what has changed");
    assert!(UNSTABLE.iter().all(|name| metrics().contains_key(name)), "one of UNSTABLE is gone");
}

/// The words of a text that look like metrics of the agent, or of the recording rules.
fn words(text: &str) -> BTreeSet<&str> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    let words = text.split(|char| !is_part(char));
    words.filter(|word| word.starts_with("ripstop_") || word.starts_with("ripstop:")).collect()
}

fn recorded(rules: &str) -> BTreeSet<String> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect()
}

#[track_caller]
fn assert_known(what: &str, text: &str) {
    let (metrics, recorded) = (metrics(), recorded(&file("packaging/prometheus/recording.yml")));
    let found = words(text);
    assert!(!found.is_empty(), "{what} asks for nothing");
    for word in found {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| word.strip_suffix(end));
        let histogram =
            of_histogram.into_iter().any(|name| metrics.get(name).is_some_and(|(kind, _)| *kind == "histogram"));
        assert!(metrics.contains_key(word) || recorded.contains(word) || histogram, "{what} asks for `{word}`");
    }
}

#[test]
fn rules_ask_for_what_there_is() {
    for name in ["recording.yml", "alerts.yml", "tests.yml"] {
        assert_known(name, &file(&format!("packaging/prometheus/{name}")));
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: serde_json::Value = serde_json::from_str(&file("packaging/grafana/ripstop.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is another's");
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(panel["type"] == "row" || !targets.is_empty(), "{title} asks for nothing");
        for target in targets {
            assert_known(title, target["expr"].as_str().unwrap());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            assert_known("a variable", query);
        }
    }
}
