//! `operators.yaml`.

use crate::{
    Diagnostics, OperatorKey, OperatorName, Operators,
    operators::{OPERATORS_FILE_MAX, OPERATORS_MAX},
    yaml::{self, Entry, Mark, Node, Report, Shape, names},
};
use std::collections::BTreeMap;

const OPERATORS: Shape = Shape { what: "the file of operators", keys: &["need", "operators"], later: &[] };

/// Reads the operators; see [`Operators::parse`].
pub(crate) fn operators(file: &str, text: &str) -> Result<Operators, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file, text);
    let root = yaml::parse(text, OPERATORS_FILE_MAX, &mut report);
    let operators = root.and_then(|root| read(&root, &mut report));
    report.finish()?;
    // Whatever keeps them from being read is in the report.
    operators.ok_or_else(Diagnostics::default)
}

fn read(root: &Node, report: &mut Report<'_>) -> Option<Operators> {
    let top = OPERATORS.read(root, root.mark, report)?;
    let hint = "write `operators:` with a line `NAME: ed25519:…` for each, as `ripstop operator keygen` prints it";
    let node = top.require("operators", hint, report)?;
    let entries = names::<OperatorName>(node, "`operators`", report);
    if entries.is_empty() || entries.len() > OPERATORS_MAX {
        report.error(node.mark, format!("a fabric has 1 to {OPERATORS_MAX} operators, not {}", entries.len()));
    }
    let count = entries.len();
    let keys = keys(entries, report);
    let need = top.get("need").map_or(Some(1), |node| need(node, count, report));
    Some(Operators { need: need?, keys })
}

/// One person with two names would count twice.
fn keys(entries: Vec<Entry<'_, OperatorName>>, report: &mut Report<'_>) -> BTreeMap<OperatorName, OperatorKey> {
    let mut seen: BTreeMap<OperatorKey, Mark> = BTreeMap::new();
    let mut keys = BTreeMap::new();
    for entry in entries {
        let Some(key) = entry.node.parse::<OperatorKey>("a public key", report) else { continue };
        if let Some(earlier) = seen.insert(key, entry.key) {
            report.error(entry.node.mark, format!("the key is already given on line {}", earlier.line));
        }
        keys.insert(entry.name, key);
    }
    keys
}

fn need(node: &Node, count: usize, report: &mut Report<'_>) -> Option<usize> {
    let need = node.parse::<usize>("a number", report)?;
    if need == 0 || need > count {
        report.error(node.mark, format!("`need` says how many of the {count} operators must sign: 1 to {count}"));
        return None;
    }
    Some(need)
}
