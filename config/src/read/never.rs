//! `never:` the tenants that are kept apart, whatever else is allowed.

use super::{Known, Services};
use crate::{
    TenantName,
    diagnostic::Location,
    graph::{Edge, Never},
    yaml::{Mark, Node, Report, Shape, Value, reference},
};

const NEVER: Shape = Shape { what: "a rule of `never`", keys: &["between"], later: &[] };
const FORM: &str = "write `- { between: [TENANT, TENANT] }`";
/// Rules at most: each of them takes room in the tables of every tenant under it.
const NEVER_MAX: usize = 1_024;

pub(super) fn read(node: Option<&Node>, known: &Known, report: &mut Report<'_>) -> Vec<Never> {
    let Some(node) = node else { return Vec::new() };
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Nothing => &[],
        Value::Text(_) | Value::Map(_) => {
            report.hinted(node.mark, "`never` must be a list of rules", FORM);
            &[]
        }
    };
    if items.len() > NEVER_MAX {
        let message = format!("`never` has {} rules, and {NEVER_MAX} is the most", items.len());
        report.hinted(node.mark, message, "a rule holds for all below its tenants: name the tenants above them");
        return Vec::new();
    }
    items.iter().filter_map(|item| rule(item, known, report)).collect()
}

fn rule(node: &Node, known: &Known, report: &mut Report<'_>) -> Option<Never> {
    let fields = NEVER.read(node, node.mark, report)?;
    let between = fields.require("between", FORM, report)?;
    let tenants = between.set::<TenantName>("`between`", "a tenant's name", report);
    let Ok([first, second]) = <[(TenantName, Mark); 2]>::try_from(tenants) else {
        report.hinted(between.mark, "`between` names two different tenants", FORM);
        return None;
    };
    for (tenant, at) in [&first, &second] {
        if !known.tenants.contains_key(tenant) {
            reference("tenant", tenant.as_str(), *at, known.tenants.keys().map(TenantName::as_str), report);
        }
    }
    Some(Never { between: [first.0, second.0], at: report.location(node.mark) })
}

/// Notes every edge and export that a rule forbids.
pub(super) fn check(never: &[Never], edges: &[Edge], services: &Services, report: &mut Report<'_>) {
    if never.is_empty() {
        return;
    }
    for edge in edges {
        if let Some(rule) = never.iter().find(|rule| rule.holds(&edge.from.tenant, &edge.to.tenant)) {
            forbid(rule, &edge.at, &format!("`{}` may never call `{}`", edge.from, edge.to), report);
        }
    }
    for (id, service) in services {
        for export in &service.value.export {
            if let Some(rule) = never.iter().find(|rule| rule.holds(&export.to, &id.tenant)) {
                forbid(rule, &export.at, &format!("`{id}` may never be exported to `{}`", export.to), report);
            }
        }
    }
}

fn forbid(rule: &Never, at: &Location, what: &str, report: &mut Report<'_>) {
    let [first, second] = &rule.between;
    let mark = Mark { line: at.line, column: at.column, width: 1 };
    let message = format!("{what}: line {} keeps `{first}` and `{second}` apart", rule.at.line);
    report.hinted(mark, message, "take this line out, or that rule: it stands above whatever is allowed");
}
