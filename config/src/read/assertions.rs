//! `tests:` what must be allowed, and what must not.

use super::{Known, Services, services::ports};
use crate::{
    ServiceId, ServiceName, TenantName, WorkloadId, WorkloadName,
    graph::Assertion,
    yaml::{Node, Report, Shape, Value, reference},
};

const TESTS: Shape = Shape { what: "`tests`", keys: &["allow", "deny"], later: &[] };
const ASSERTION: Shape = Shape { what: "a test", keys: &["from", "to", "port", "ports"], later: &[] };
const FORM: &str = "write `- { from: TENANT/WORKLOAD, to: TENANT/SERVICE }`";

pub(super) fn read(node: Option<&Node>, known: &Known, services: &Services, report: &mut Report<'_>) -> Vec<Assertion> {
    let Some(node) = node else { return Vec::new() };
    let Some(fields) = TESTS.read(node, node.mark, report) else { return Vec::new() };
    let mut found = Vec::new();
    for (key, allowed) in [("allow", true), ("deny", false)] {
        let items = fields.get(key).map(|node| list(node, report)).unwrap_or_default();
        found.extend(items.iter().filter_map(|item| assertion(item, allowed, known, services, report)));
    }
    found
}

fn list<'n>(node: &'n Node, report: &mut Report<'_>) -> &'n [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Nothing => &[],
        Value::Text(_) | Value::Map(_) => {
            report.hinted(node.mark, "tests are a list of calls", FORM);
            &[]
        }
    }
}

fn assertion(
    node: &Node,
    allowed: bool,
    known: &Known,
    services: &Services,
    report: &mut Report<'_>,
) -> Option<Assertion> {
    let fields = ASSERTION.read(node, node.mark, report)?;
    let from = fields.require("from", FORM, report).and_then(|node| caller(node, known, report));
    let to = fields.require("to", FORM, report).and_then(|node| callee(node, known, report));
    let named = fields.get("port").or(fields.get("ports"));
    let only = match named {
        Some(_) => ports(&fields, report)?,
        None => Vec::new(),
    };
    let (from, to) = (from?, to?);
    let has = services.get(&to).map(|service| &service.value.ports);
    for port in only.iter().filter(|port| has.is_some_and(|has| !has.contains(port))) {
        report.error(named.map_or(node.mark, |node| node.mark), format!("`{to}` has no port {port}"));
    }
    Some(Assertion { from, to, ports: only, allowed, at: report.location(node.mark) })
}

fn caller(node: &Node, known: &Known, report: &mut Report<'_>) -> Option<WorkloadId> {
    let id = node.parse::<WorkloadId>("a workload", report)?;
    let declared = known.tenants.get(&id.tenant);
    match declared {
        Some(declared) if declared.workloads.contains(&id.name) => return Some(id),
        Some(declared) => {
            let names = declared.workloads.iter().map(WorkloadName::as_str);
            let names = names.map(|name| format!("{}/{name}", id.tenant));
            reference("workload", &id.to_string(), node.mark, names, report);
        }
        None => unknown_tenant(&id.tenant, node, known, report),
    }
    None
}

fn callee(node: &Node, known: &Known, report: &mut Report<'_>) -> Option<ServiceId> {
    let id = node.parse::<ServiceId>("a service", report)?;
    match known.tenants.get(&id.tenant) {
        Some(declared) if declared.services.contains(&id.name) => return Some(id),
        Some(declared) => {
            let names = declared.services.iter().map(ServiceName::as_str);
            let names = names.map(|name| format!("{}/{name}", id.tenant));
            reference("service", &id.to_string(), node.mark, names, report);
        }
        None => unknown_tenant(&id.tenant, node, known, report),
    }
    None
}

fn unknown_tenant(tenant: &TenantName, node: &Node, known: &Known, report: &mut Report<'_>) {
    reference("tenant", tenant.as_str(), node.mark, known.tenants.keys().map(TenantName::as_str), report);
}
