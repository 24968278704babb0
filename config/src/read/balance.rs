//! `balance:` of a service: how callers choose among its endpoints.

use super::Known;
use crate::{
    HostName,
    graph::{Balance, WEIGHT_MAX, Workload},
    yaml::{Mark, Node, Report, Shape, Value, names, reference},
};
use std::collections::BTreeMap;

const BALANCE: Shape = Shape { what: "`balance`", keys: &["by", "sticky", "weights"], later: &[] };
/// The one way of balancing: on the load that the endpoints report.
const BY: &str = "least-load";

/// Reads the way of balancing among the hosts of a serving workload, which is not there when its own entry is wrong.
pub(super) fn read(node: &Node, server: Option<&Workload>, known: &Known, report: &mut Report<'_>) -> Option<Balance> {
    if matches!(node.value, Value::Text(_)) {
        by(node, report);
        return Some(Balance::default());
    }
    let fields = BALANCE.read(node, node.mark, report)?;
    if let Some(node) = fields.get("by") {
        by(node, report);
    }
    let sticky = fields.optional("sticky", |node| node.flag(report));
    let weights = fields.optional("weights", |node| weights(node, server, known, report));
    Some(Balance { weights: weights?.unwrap_or_default(), sticky: sticky?.unwrap_or_default() })
}

fn by(node: &Node, report: &mut Report<'_>) {
    if let Some(text) = node.text("a way of balancing", report)
        && text != BY
    {
        let hint = format!("`{BY}` is the only one, and the default");
        report.hinted(node.mark, format!("`balance: {text}` is not known"), hint);
    }
}

fn weights(
    node: &Node,
    server: Option<&Workload>,
    known: &Known,
    report: &mut Report<'_>,
) -> Option<BTreeMap<HostName, u32>> {
    let mut weights = BTreeMap::new();
    let mut whole = true;
    for entry in names::<HostName>(node, "`weights`", report) {
        whole &= serves(&entry.name, entry.key, server, known, report);
        match weight(entry.node, report) {
            Some(weight) => drop(weights.insert(entry.name, weight)),
            None => whole = false,
        }
    }
    let all_zero = |server: &Workload| server.on.iter().all(|host| weights.get(host) == Some(&0));
    if whole && !weights.is_empty() && server.is_some_and(all_zero) {
        let hint = "give one of them 1 or more, or take the service's edges away";
        report.hinted(node.mark, "every host of the service has the weight 0", hint);
        whole = false;
    }
    whole.then_some(weights)
}

/// Whether the serving workload runs on a host; otherwise notes that it does not.
fn serves(host: &HostName, at: Mark, server: Option<&Workload>, known: &Known, report: &mut Report<'_>) -> bool {
    if !known.hosts.contains(host) {
        let hosts: Vec<&HostName> =
            server.map_or_else(|| known.hosts.iter().collect(), |server| server.on.iter().collect());
        reference("host", host.as_str(), at, hosts.into_iter().map(HostName::as_str), report);
        return false;
    }
    let Some(server) = server.filter(|server| !server.on.contains(host)) else { return true };
    let on: Vec<&str> = server.on.iter().map(HostName::as_str).collect();
    report.hinted(at, format!("nothing on `{host}` serves it"), format!("its hosts are {}", on.join(", ")));
    false
}

fn weight(node: &Node, report: &mut Report<'_>) -> Option<u32> {
    let text = node.text("a weight", report)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let weight = text.parse().ok().filter(|weight| digits && *weight <= WEIGHT_MAX);
    if weight.is_none() {
        report.error(node.mark, format!("`{text}` is not a weight: write a whole number from 0 to {WEIGHT_MAX}"));
    }
    weight
}
