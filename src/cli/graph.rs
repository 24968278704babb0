//! `ripstop graph check` and `ripstop graph show`.

use super::{
    Exit, files,
    output::{self, Output},
};
use ripstop_config::{
    ByteRate, Diagnostic, Diagnostics, Graph, OpenRate, Protocol,
    graph::{Edge, Limits, Run, User},
};
use ripstop_policy::{Policy, ServiceEntry, WorkloadEntry};
use serde_json::json;
use std::path::Path;

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
    let value = json!({ "fabric": graph.fabric, "digest": digest, "counts": counts.into_iter().collect::<std::collections::BTreeMap<_, _>>() });
    output.show(&value, || {
        let counts: Vec<_> = counts.iter().map(|(what, count)| counted(*count, what)).collect();
        format!("ok: {} (fabric {}, digest {digest})\n{}", counts.join(", "), graph.fabric, not_carried(&policy))
    })?;
    Ok(Exit::Ok)
}

fn mistakes_as_json(mistakes: &Diagnostics) -> serde_json::Value {
    let one = |mistake: &Diagnostic| {
        let Diagnostic { at, source_line, message, hint, .. } = mistake;
        json!({ "file": *at.file, "line": at.line, "column": at.column, "source": source_line, "message": message, "hint": hint })
    };
    json!({ "mistakes": mistakes.0.iter().map(one).collect::<Vec<_>>() })
}

/// What the graph may say and this version does not do.
fn not_carried(policy: &Policy) -> String {
    let services = policy.services().map(|ix| policy.service_entry(ix));
    let ports = services.flat_map(|entry| entry.ports.iter().map(move |port| (&entry.id, port)));
    let udp = ports.filter(|(_, port)| port.protocol == Protocol::Udp);
    udp.map(|(service, port)| format!("note: {service} {port}: this version refuses UDP to services\n")).collect()
}

/// `1 host`, `3 hosts`.
fn counted(count: usize, plural: &str) -> String {
    let noun = if count == 1 { plural.strip_suffix('s').unwrap_or(plural) } else { plural };
    format!("{count} {noun}")
}

/// Shows services, workloads and edges.
pub(super) fn show(file: &Path, output: &Output) -> anyhow::Result<Exit> {
    let policy = files::policy(file)?;
    output.show(&as_json(&policy), || {
        let resolver = policy.resolver();
        let head =
            format!("fabric {}, digest {}, resolver {} {}\n", policy.fabric(), policy.digest(), resolver.0, resolver.1);
        [head, services(&policy, output), workloads(&policy, output), edges(&policy, output)].join("\n")
    })?;
    Ok(Exit::Ok)
}

fn services(policy: &Policy, output: &Output) -> String {
    let mut table = output.table(&["SERVICE", "NAME", "ADDRESSES", "PORTS", "BY", "HOSTS"]);
    for ix in policy.services() {
        let entry = policy.service_entry(ix);
        table.add_row([
            entry.id.to_string(),
            entry.id.dns_name(policy.fabric()),
            format!("{} {}", entry.v4, entry.v6),
            ports(entry),
            policy.workload_entry(entry.by).id.to_string(),
            joined(&entry.hosts),
        ]);
    }
    output::lines(&table)
}

fn workloads(policy: &Policy, output: &Output) -> String {
    let mut table = output.table(&["WORKLOAD", "ADDRESSES", "RUN", "HOSTS", "ISOLATED"]);
    for ix in policy.workloads() {
        let entry = policy.workload_entry(ix);
        let isolated = if entry.isolated { "yes" } else { "no" };
        table.add_row([
            entry.id.to_string(),
            format!("{} {}", entry.v4, entry.v6),
            run(&entry.run),
            joined(&entry.on),
            isolated.to_string(),
        ]);
    }
    output::lines(&table)
}

fn edges(policy: &Policy, output: &Output) -> String {
    let mut table = output.table(&["FROM", "TO", "PORTS", "LIMITS", "RULE"]);
    for edge in &policy.graph().edges {
        let ports = if edge.ports.is_empty() { "all".into() } else { joined(&edge.ports) };
        table.add_row([edge.from.to_string(), edge.to.to_string(), ports, limits(&edge.limits), edge.at.to_string()]);
    }
    output::lines(&table)
}

fn ports(entry: &ServiceEntry) -> String {
    joined(&entry.ports)
}

fn joined<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn run(run: &Run) -> String {
    match run {
        Run::Netns(name) => format!("netns {name}"),
        Run::User(User::Name(name)) => format!("user {name}"),
        Run::User(User::Id(id)) => format!("user {id}"),
    }
}

fn limits(limits: &Limits) -> String {
    let parts = [
        limits.session.map(|rate| format!("session {} bytes/s", rate.bytes_per_second())),
        limits.sessions.map(|count| format!("sessions {count}")),
        limits.open.map(|rate| format!("open {}/s", rate.sessions_per_second())),
    ];
    let given: Vec<_> = parts.into_iter().flatten().collect();
    if given.is_empty() { "-".into() } else { given.join(", ") }
}

fn as_json(policy: &Policy) -> serde_json::Value {
    let (v4, v6) = policy.resolver();
    json!({
        "fabric": policy.fabric(),
        "digest": policy.digest().to_string(),
        "resolver": [v4.to_string(), v6.to_string()],
        "services": policy.services().map(|ix| service_json(policy, policy.service_entry(ix))).collect::<Vec<_>>(),
        "workloads": policy.workloads().map(|ix| workload_json(policy.workload_entry(ix))).collect::<Vec<_>>(),
        "edges": policy.graph().edges.iter().map(edge_json).collect::<Vec<_>>(),
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
        "export": entry.export,
        "at": entry.at,
    })
}

fn workload_json(entry: &WorkloadEntry) -> serde_json::Value {
    json!({
        "workload": entry.id,
        "addresses": [entry.v4.to_string(), entry.v6.to_string()],
        "run": run(&entry.run),
        "hosts": entry.on,
        "isolated": entry.isolated,
        "at": entry.at,
    })
}

fn edge_json(edge: &Edge) -> serde_json::Value {
    json!({
        "from": edge.from,
        "to": edge.to,
        "ports": edge.ports,
        "limits": {
            "session_bytes_per_second": edge.limits.session.map(ByteRate::bytes_per_second),
            "sessions": edge.limits.sessions,
            "open_per_second": edge.limits.open.map(OpenRate::sessions_per_second),
        },
        "rule": edge.at,
    })
}
