//! `allow:` the edges, each in the tenant of its caller: that one's consent. The service's tenant consents by `export`.

use super::{Declared, Known, Services, Tenant, limits, services::ports};
use crate::{
    Port, ServiceId, ServiceName, TenantName, WorkloadId, WorkloadName,
    graph::Edge,
    yaml::{Mark, Node, Report, Shape, Value, reference},
};
use std::collections::HashMap;

const EDGE: Shape = Shape { what: "an edge", keys: &["from", "to", "port", "ports", "limit"], later: &[] };
const EDGE_FORM: &str = "write `- { from: WORKLOAD, to: SERVICE }`";

/// The edges so far between one workload and one service: their ports, none for all, and their lines.
type Earlier = HashMap<(WorkloadId, ServiceId), HashMap<Option<Port>, u32>>;

pub(super) fn read(tenants: &[Tenant<'_>], known: &Known, services: &Services, report: &mut Report<'_>) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut earlier = Earlier::new();
    for tenant in tenants {
        for node in tenant.allow.map(|node| list(node, report)).unwrap_or_default() {
            let Some(edge) = edge(node, &tenant.name, known, services, report) else { continue };
            if let Some(line) = overlap(&edge, node.mark, &mut earlier) {
                let message = format!("an edge on line {line} already lets `{}` call `{}` there", edge.from, edge.to);
                report.hinted(node.mark, message, "keep one: which of their limits holds would be unclear");
                continue;
            }
            edges.push(edge);
        }
    }
    edges
}

/// The items of `allow:`, which may have none.
fn list<'n>(node: &'n Node, report: &mut Report<'_>) -> &'n [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Nothing => &[],
        Value::Text(_) | Value::Map(_) => {
            report.hinted(node.mark, "`allow` must be a list of edges", EDGE_FORM);
            &[]
        }
    }
}

fn edge(node: &Node, tenant: &TenantName, known: &Known, services: &Services, report: &mut Report<'_>) -> Option<Edge> {
    let fields = EDGE.read(node, node.mark, report)?;
    let from = match fields.require("from", EDGE_FORM, report) {
        Some(node) => caller(node, tenant, known, report).map(|from| (from, node.mark)),
        None => None,
    };
    let to = match fields.require("to", EDGE_FORM, report) {
        Some(node) => callee(node, tenant, known, report),
        None => None,
    };
    let is_own = from.as_ref().is_none_or(|(from, at)| is_in_place(from, to.as_ref(), tenant, *at, report));
    let named = fields.get("port").or(fields.get("ports"));
    let only = ports(&fields, report);
    let limits = limits::read(&fields, report);
    let (from, _) = from?;
    let to = to?;
    if let (Some(service), Some(named)) = (services.get(&to), named) {
        known_ports(only.as_deref().unwrap_or_default(), &service.value.ports, &to, named.mark, report);
    }
    if !is_own || (named.is_some() && only.is_none()) {
        return None;
    }
    Some(Edge { from, to, ports: only.unwrap_or_default(), limits: limits?, at: report.location(node.mark) })
}

/// Whether an edge is in the tenant of its caller.
fn is_in_place(
    from: &WorkloadId,
    to: Option<&ServiceId>,
    tenant: &TenantName,
    at: Mark,
    report: &mut Report<'_>,
) -> bool {
    if from.tenant == *tenant {
        return true;
    }
    let to = to.map_or("TENANT/SERVICE".into(), ToString::to_string);
    let hint = format!(
        "write `- {{ from: {}, to: {to} }}` under `tenants.{}.allow`: each side consents in its own tenant, the service's by \
         `export`",
        from.name, from.tenant
    );
    report.hinted(at, format!("an edge from `{from}` belongs in the caller's tenant"), hint);
    false
}

fn caller(node: &Node, tenant: &TenantName, known: &Known, report: &mut Report<'_>) -> Option<WorkloadId> {
    let text = node.text("a workload", report)?;
    let id = match text.contains('/') {
        true => node.parse::<WorkloadId>("a workload", report)?,
        false => WorkloadId::new(tenant.clone(), node.parse("a workload", report)?),
    };
    let declared = tenant_of(&id.tenant, node.mark, known, report)?;
    if !declared.workloads.contains(&id.name) {
        let names = declared.workloads.iter().map(WorkloadName::as_str);
        let prefix = if text.contains('/') { format!("{}/", id.tenant) } else { String::new() };
        reference("workload", text, node.mark, names.map(|name| format!("{prefix}{name}")), report);
        return None;
    }
    Some(id)
}

fn callee(node: &Node, tenant: &TenantName, known: &Known, report: &mut Report<'_>) -> Option<ServiceId> {
    let text = node.text("a service", report)?;
    let id = match text.contains('/') {
        true => node.parse::<ServiceId>("a service", report)?,
        false => ServiceId::new(tenant.clone(), node.parse("a service", report)?),
    };
    let declared = tenant_of(&id.tenant, node.mark, known, report)?;
    if !declared.services.contains(&id.name) {
        let names = declared.services.iter().map(ServiceName::as_str);
        let prefix = if text.contains('/') { format!("{}/", id.tenant) } else { String::new() };
        reference("service", text, node.mark, names.map(|name| format!("{prefix}{name}")), report);
        return None;
    }
    Some(id)
}

fn tenant_of<'k>(tenant: &TenantName, at: Mark, known: &'k Known, report: &mut Report<'_>) -> Option<&'k Declared> {
    let declared = known.tenants.get(tenant);
    if declared.is_none() {
        reference("tenant", tenant.as_str(), at, known.tenants.keys().map(TenantName::as_str), report);
    }
    declared
}

fn known_ports(only: &[Port], all: &[Port], service: &ServiceId, at: Mark, report: &mut Report<'_>) {
    for port in only.iter().filter(|port| !all.contains(port)) {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        report.hinted(at, format!("`{service}` has no port {port}"), format!("it has {}", all.join(", ")));
    }
}

/// The line of an earlier edge for the same caller, service and a same port; otherwise remembers this one.
fn overlap(edge: &Edge, at: Mark, earlier: &mut Earlier) -> Option<u32> {
    let lines = earlier.entry((edge.from.clone(), edge.to.clone())).or_default();
    let here: Vec<Option<Port>> =
        if edge.ports.is_empty() { vec![None] } else { edge.ports.iter().copied().map(Some).collect() };
    let met = if edge.ports.is_empty() {
        lines.values().min()
    } else {
        here.iter().chain([&None]).find_map(|port| lines.get(port))
    };
    let met = met.copied();
    if met.is_none() {
        lines.extend(here.into_iter().map(|port| (port, at.line)));
    }
    met
}
