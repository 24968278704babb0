//! `operators.yaml`.

use crate::{
    Diagnostics, OperatorKey, OperatorName, Operators, TenantName,
    operators::{OPERATORS_FILE_MAX, OPERATORS_MAX},
    yaml::{self, Entry, Mark, Node, Report, Shape, Value, names},
};
use std::collections::{BTreeMap, BTreeSet};

const OPERATORS: Shape = Shape { what: "the file of operators", keys: &["need", "operators"], later: &[] };

/// An operator who is limited to tenants; one who is not is written as the key alone.
const OPERATOR: Shape = Shape { what: "an operator", keys: &["key", "tenants"], later: &[] };

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
    let (keys, limited) = keys(entries, report);
    let need = top.get("need").map_or(Some(1), |node| need(node, count, report))?;
    let whole = count - limited.len();
    if (1..=count).contains(&need) && whole < need {
        let message = format!("{whole} of the operators may change the whole fabric, and {need} must sign");
        report.hinted(node.mark, message, "leave `tenants` out of as many: the fabric's own parts are theirs");
    }
    Some(Operators { need, keys, limited })
}

type Keys = BTreeMap<OperatorName, OperatorKey>;
type Limited = BTreeMap<OperatorName, BTreeSet<TenantName>>;

/// One person with two names would count twice.
fn keys(entries: Vec<Entry<'_, OperatorName>>, report: &mut Report<'_>) -> (Keys, Limited) {
    let mut seen: BTreeMap<OperatorKey, Mark> = BTreeMap::new();
    let (mut keys, mut limited) = (Keys::new(), Limited::new());
    for entry in entries {
        let (node, tenants) = match &entry.node.value {
            Value::Map(_) => {
                let Some(fields) = OPERATOR.read(entry.node, entry.key, report) else { continue };
                let key =
                    fields.require("key", "write `key: ed25519:…`, as `ripstop operator keygen` prints it", report);
                let hint = "write `tenants: [TENANT, …]`; the key alone is that of who may change everything";
                let tenants = fields.require("tenants", hint, report);
                let (Some(key), Some(tenants)) = (key, tenants) else { continue };
                (key, Some(tenants.set::<TenantName>("`tenants`", "a tenant's name", report)))
            }
            Value::Nothing | Value::Text(_) | Value::List(_) => (entry.node, None),
        };
        let Some(key) = node.parse::<OperatorKey>("a public key", report) else { continue };
        if let Some(earlier) = seen.insert(key, entry.key) {
            report.error(node.mark, format!("the key is already given on line {}", earlier.line));
        }
        if let Some(tenants) = tenants {
            limited.insert(entry.name.clone(), tenants.into_iter().map(|(tenant, _)| tenant).collect());
        }
        keys.insert(entry.name, key);
    }
    (keys, limited)
}

fn need(node: &Node, count: usize, report: &mut Report<'_>) -> Option<usize> {
    let need = node.parse::<usize>("a number", report)?;
    if need == 0 || need > count {
        report.error(node.mark, format!("`need` says how many of the {count} operators must sign: 1 to {count}"));
        return None;
    }
    Some(need)
}
