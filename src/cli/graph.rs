//! `ripstop graph check`, `ripstop graph test` and `ripstop graph show`.

use super::{
    Exit, files,
    output::{self, Output},
};
use ripstop_config::{
    ByteRate, Diagnostic, Diagnostics, Graph, OpenRate, Span, TenantName,
    graph::{Balance, Edge, Limits, Never, Source, Tenant},
};
use ripstop_policy::{Policy, ServiceEntry, WorkloadEntry};
use serde_json::json;
use std::path::Path;

/// Edges that are not in force, told one by one.
const DORMANT_MAX: usize = 20;

/// Says every mistake, or what is in the graph.
pub(super) fn check(file: &Path, output: &Output) -> anyhow::Result<Exit> {
    let text = crate::files::read(file)?;
    if let (true, Err(mistakes)) = (output.is_json(), Graph::parse(&file.display().to_string(), &text)) {
        output.show(&mistakes_as_json(&mistakes), String::new)?;
        return Ok(Exit::Failed);
    }
    let policy = files::policy(file)?;
    let graph = policy.graph();
    let counts = [
        ("hosts", graph.hosts.len()),
        ("tenants", graph.tenants.len()),
        ("workloads", graph.workloads.len()),
        ("services", graph.services.len()),
        ("edges", graph.edges.len()),
    ];
    let digest = policy.digest().to_string();
    let not_in_force = policy.dormant().map(edge_json).collect::<Vec<_>>();
    let value = json!({ "fabric": graph.fabric, "digest": digest, "not_in_force": not_in_force, "counts": counts.into_iter().collect::<std::collections::BTreeMap<_, _>>() });
    output.show(&value, || {
        let counts: Vec<_> = counts.iter().map(|(what, count)| counted(*count, what)).collect();
        format!("ok: {} (fabric {}, digest {digest})\n{}", counts.join(", "), graph.fabric, dormant(&policy).join(""))
    })?;
    Ok(Exit::Ok)
}

/// A line for each edge to which the service's side does not consent, with what would make it count; the first of them.
pub(super) fn dormant(policy: &Policy) -> Vec<String> {
    let line = |edge: &Edge| {
        let Edge { from, to, at, .. } = edge;
        let service = policy.graph().services.get(to).map(|service| format!(" ({})", service.at)).unwrap_or_default();
        format!(
            "note: {at}: the edge from {from} to {to} is not in force, as {to} is not exported to {0}: to consent to it, \
             write `export: [{0}]` into the service{service}\n",
            from.tenant
        )
    };
    let more = policy.dormant().len().saturating_sub(DORMANT_MAX);
    let more = (more > 0).then(|| format!("note: and {more} more edges are not in force\n"));
    policy.dormant().take(DORMANT_MAX).map(line).chain(more).collect()
}

/// Tries the graph's own tests.
pub(super) fn test(file: &Path, output: &Output) -> anyhow::Result<Exit> {
    let policy = files::policy(file)?;
    let tested: Vec<_> = policy.tests().collect();
    let broken = tested.iter().filter(|one| !one.holds()).count();
    let value: Vec<_> = tested.iter().map(|one| json!({ "test": one.to_string(), "holds": one.holds() })).collect();
    output.show_list("tests", &value, || {
        let lines = tested.iter().filter(|one| !one.holds()).map(|one| format!("{one}\n"));
        format!("{}{} hold, {broken} do not\n", lines.collect::<String>(), tested.len() - broken)
    })?;
    Ok(if broken == 0 { Exit::Ok } else { Exit::Failed })
}

fn mistakes_as_json(mistakes: &Diagnostics) -> serde_json::Value {
    let one = |mistake: &Diagnostic| {
        let Diagnostic { at, source_line, message, hint, .. } = mistake;
        json!({ "file": *at.file, "line": at.line, "column": at.column, "source": source_line, "message": message, "hint": hint })
    };
    json!({ "mistakes": mistakes.0.iter().map(one).collect::<Vec<_>>() })
}

/// `1 host`, `3 hosts`.
fn counted(count: usize, plural: &str) -> String {
    let noun = if count == 1 { plural.strip_suffix('s').unwrap_or(plural) } else { plural };
    format!("{count} {noun}")
}

/// Shows services, workloads, tenants and edges.
pub(super) fn show(file: &Path, output: &Output) -> anyhow::Result<Exit> {
    let policy = files::policy(file)?;
    output.show(&as_json(&policy), || {
        let resolver = policy.resolver();
        let head =
            format!("fabric {}, digest {}, resolver {} {}\n", policy.fabric(), policy.digest(), resolver.0, resolver.1);
        [
            head,
            services(&policy, output),
            workloads(&policy, output),
            tenants(&policy, output),
            edges(&policy, output),
            never(&policy, output),
        ]
        .join("\n")
    })?;
    Ok(Exit::Ok)
}

fn services(policy: &Policy, output: &Output) -> String {
    let mut table = output.table(&["SERVICE", "NAME", "ADDRESSES", "PORTS", "BY", "HOSTS", "SETTINGS"]);
    for ix in policy.services() {
        let entry = policy.service_entry(ix);
        table.add_row([
            entry.id.to_string(),
            entry.id.dns_name(policy.fabric()),
            format!("{} {}", entry.v4, entry.v6),
            ports(entry),
            policy.workload_entry(entry.by).id.to_string(),
            joined(&entry.hosts),
            settings(entry),
        ]);
    }
    output::lines(&table)
}

fn workloads(policy: &Policy, output: &Output) -> String {
    let mut table = output.table(&["WORKLOAD", "ADDRESSES", "RUN", "HOSTS", "ISOLATED", "LIMITS", "MAY"]);
    for ix in policy.workloads() {
        let entry = policy.workload_entry(ix);
        let isolated = if entry.isolated { "yes" } else { "no" };
        table.add_row([
            entry.id.to_string(),
            format!("{} {}", entry.v4, entry.v6),
            entry.run.to_string(),
            joined(&entry.on),
            isolated.to_string(),
            entry.limits.to_string(),
            may(policy, entry),
        ]);
    }
    output::lines(&table)
}

/// What a workload may change by its own word.
fn may(policy: &Policy, entry: &WorkloadEntry) -> String {
    let may = policy.graph().workloads.get(&entry.id).map(|workload| &workload.may);
    let may: Vec<_> = may.into_iter().flatten().map(|change| change.as_str()).collect();
    if may.is_empty() { "-".into() } else { may.join(", ") }
}

fn tenants(policy: &Policy, output: &Output) -> String {
    let mut table = output.table(&["TENANT", "LIMITS"]);
    for (name, tenant) in &policy.graph().tenants {
        table.add_row([name.to_string(), tenant.limits.to_string()]);
    }
    output::lines(&table)
}

fn edges(policy: &Policy, output: &Output) -> String {
    let mut table = output.table(&["FROM", "TO", "PORTS", "LIMITS", "RULE"]);
    for edge in &policy.graph().edges {
        let ports = if edge.ports.is_empty() { "all".into() } else { joined(&edge.ports) };
        table.add_row([
            edge.from.to_string(),
            edge.to.to_string(),
            ports,
            edge.limits.to_string(),
            edge.at.to_string(),
        ]);
    }
    output::lines(&table)
}

/// Tenants that are kept apart; nothing where none are.
fn never(policy: &Policy, output: &Output) -> String {
    let rules = &policy.graph().never;
    if rules.is_empty() {
        return String::new();
    }
    let mut table = output.table(&["NEVER", "BETWEEN", "RULE"]);
    for Never { between: [first, second], at } in rules {
        table.add_row([first.to_string(), second.to_string(), at.to_string()]);
    }
    output::lines(&table)
}

fn ports(entry: &ServiceEntry) -> String {
    joined(&entry.ports)
}

fn joined<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// What the graph says of a service besides its ports and hosts, where that is not the default.
fn settings(entry: &ServiceEntry) -> String {
    let parts = [
        entry.health.as_ref().map(|health| format!("health {health}")),
        Some(entry.source).filter(|source| *source != Source::default()).map(|source| format!("source {source}")),
        Some(&entry.balance)
            .filter(|balance| **balance != Balance::default())
            .map(|balance| format!("balance {balance}")),
        entry.idle.and_then(Span::of).map(|idle| format!("idle {idle}")),
        Some(entry.limits).filter(|limits| !limits.is_none()).map(|limits| format!("limits {limits}")),
    ];
    let given: Vec<_> = parts.into_iter().flatten().collect();
    if given.is_empty() { "-".into() } else { given.join("; ") }
}

fn as_json(policy: &Policy) -> serde_json::Value {
    let (v4, v6) = policy.resolver();
    json!({
        "fabric": policy.fabric(),
        "digest": policy.digest().to_string(),
        "resolver": [v4.to_string(), v6.to_string()],
        "services": policy.services().map(|ix| service_json(policy, policy.service_entry(ix))).collect::<Vec<_>>(),
        "workloads": policy.workloads().map(|ix| workload_json(policy, policy.workload_entry(ix))).collect::<Vec<_>>(),
        "tenants": policy.graph().tenants.iter().map(tenant_json).collect::<Vec<_>>(),
        "edges": policy.graph().edges.iter().map(edge_json).collect::<Vec<_>>(),
        "never": policy.graph().never.iter().map(|Never { between, at }| json!({ "between": between, "rule": at.to_string() })).collect::<Vec<_>>(),
    })
}

fn service_json(policy: &Policy, entry: &ServiceEntry) -> serde_json::Value {
    json!({
        "service": entry.id,
        "name": entry.id.dns_name(policy.fabric()),
        "addresses": [entry.v4.to_string(), entry.v6.to_string()],
        "ports": entry.ports,
        "by": policy.workload_entry(entry.by).id,
        "hosts": entry.hosts,
        "to": entry.to,
        "export": entry.export.iter().map(|export| &export.to).collect::<Vec<_>>(),
        "limits": limits_json(&entry.limits),
        "health": entry.health,
        "source": entry.source,
        "balance": entry.balance,
        "idle": entry.idle.and_then(Span::of),
        "at": entry.at,
    })
}

fn workload_json(policy: &Policy, entry: &WorkloadEntry) -> serde_json::Value {
    json!({
        "workload": entry.id,
        "addresses": [entry.v4.to_string(), entry.v6.to_string()],
        "run": entry.run.to_string(),
        "hosts": entry.on,
        "isolated": entry.isolated,
        "limits": limits_json(&entry.limits),
        "may": policy.graph().workloads.get(&entry.id).map(|workload| &workload.may),
        "at": entry.at,
    })
}

fn tenant_json((name, tenant): (&TenantName, &Tenant)) -> serde_json::Value {
    json!({ "tenant": name, "limits": limits_json(&tenant.limits) })
}

fn edge_json(edge: &Edge) -> serde_json::Value {
    json!({
        "from": edge.from,
        "to": edge.to,
        "ports": edge.ports,
        "limits": limits_json(&edge.limits),
        "rule": edge.at,
    })
}

fn limits_json(limits: &Limits) -> serde_json::Value {
    json!({
        "session_bytes_per_second": limits.session.map(ByteRate::bytes_per_second),
        "bytes_per_second": limits.rate.map(ByteRate::bytes_per_second),
        "sessions": limits.sessions,
        "open_per_second": limits.open.map(OpenRate::sessions_per_second),
    })
}
