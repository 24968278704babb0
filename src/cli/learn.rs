//! `ripstop learn`: edges for what was denied, to be looked at before they are written into the graph.

use super::{Exit, args, output::Output, socket};
use crate::admin::Attempt;
use ripstop_config::{Port, ServiceId, WorkloadId};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// An edge that would have allowed attempts.
#[derive(Debug, Serialize)]
struct Proposed {
    from: WorkloadId,
    to: ServiceId,
    /// The ports that were tried; empty when only the name was asked for.
    ports: BTreeSet<Port>,
    count: u64,
    first: String,
    last: String,
}

/// Proposes edges.
pub(super) fn run(learn: &args::learn::Learn, output: &Output) -> anyhow::Result<Exit> {
    let client = socket::one(&learn.socket)?;
    let proposed = edges(&client.attempts(Some(learn.since.duration()))?);
    let host = client.status()?.host;
    output.show_list("attempts", &proposed, || {
        let head = format!("# Denied to workloads of {host} in the last {}. Keep what is meant to be.\n", learn.since);
        head + &yaml(&proposed)
    })?;
    Ok(Exit::Ok)
}

/// One edge for each caller and service. A name that was asked for says no port; where ports were tried, they alone are proposed.
fn edges(attempts: &[Attempt]) -> Vec<Proposed> {
    let mut edges: BTreeMap<(&ServiceId, &WorkloadId), Proposed> = BTreeMap::new();
    for attempt in attempts {
        let Attempt { caller, service, port, count, first, last } = attempt;
        let edge = edges.entry((service, caller)).or_insert_with(|| Proposed {
            from: caller.clone(),
            to: service.clone(),
            ports: BTreeSet::new(),
            count: 0,
            first: first.clone(),
            last: last.clone(),
        });
        edge.ports.extend(port);
        edge.count += count;
        // RFC 3339 in UTC and whole seconds: in the order of time.
        edge.first = edge.first.clone().min(first.clone());
        edge.last = edge.last.clone().max(last.clone());
    }
    edges.into_values().collect()
}

/// The edges as they stand in a graph.
fn yaml(edges: &[Proposed]) -> String {
    if edges.is_empty() {
        return "# nothing\n".into();
    }
    let mut text = String::from("tenants:\n");
    let mut tenant = None;
    for edge in edges {
        // Writing to a String does not fail.
        if tenant.replace(&edge.to.tenant) != Some(&edge.to.tenant) {
            let _ = writeln!(text, "  {}:\n    allow:", edge.to.tenant);
        }
        let own = edge.from.tenant == edge.to.tenant;
        let from = if own { edge.from.name.to_string() } else { edge.from.to_string() };
        let ports: Vec<_> = edge.ports.iter().map(ToString::to_string).collect();
        let ports = if ports.is_empty() { String::new() } else { format!(", ports: [{}]", ports.join(", ")) };
        let named = if edge.ports.is_empty() { ", by name alone" } else { "" };
        let export =
            if own { String::new() } else { format!("; {} needs export: [{}]", edge.to.name, edge.from.tenant) };
        let Proposed { to, count, first, last, .. } = edge;
        let _ = writeln!(
            text,
            "      - {{ from: {from}, to: {}{ports} }} # {count} times{named}, {first} to {last}{export}",
            to.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(caller: &str, service: &str, port: Option<&str>, first: &str) -> Attempt {
        Attempt {
            caller: caller.parse().unwrap(),
            service: service.parse().unwrap(),
            port: port.map(|port| port.parse().unwrap()),
            count: 2,
            first: first.into(),
            last: "2026-01-01T09:00:00Z".into(),
        }
    }

    #[test]
    fn edges_are_written_as_a_graph_has_them() {
        let edges = edges(&[
            attempt("shop/web", "shop/db", None, "2026-01-01T08:00:00Z"),
            attempt("shop/web", "shop/db", Some("5432"), "2026-01-01T07:00:00Z"),
            attempt("shop/web", "billing/pay", None, "2026-01-01T08:00:00Z"),
        ]);
        assert_eq!(
            yaml(&edges),
            "tenants:\n  billing:\n    allow:\n      - { from: shop/web, to: pay } # 2 times, by name alone, \
             2026-01-01T08:00:00Z to 2026-01-01T09:00:00Z; pay needs export: [shop]\n  shop:\n    allow:\n      \
             - { from: web, to: db, ports: [5432/tcp] } # 4 times, 2026-01-01T07:00:00Z to 2026-01-01T09:00:00Z\n"
        );
        assert_eq!(yaml(&[]), "# nothing\n");
    }
}
