//! `tenants:` by their names, `shop` and below it `shop/eu`, before their entries are read.

use super::{Tenant, limits};
use crate::{
    TenantName, graph,
    graph::Limits,
    yaml::{Entry, Mark, Node, Report, Shape, names},
};
use std::collections::BTreeMap;

const TENANT: Shape = Shape { what: "a tenant", keys: &["workloads", "services", "allow", "limit"], later: &[] };

/// The word that stands where a tenant's name would in the identity of a host.
const RESERVED: &str = "host";

pub(super) fn read<'n>(node: &'n Node, report: &mut Report<'_>) -> Vec<Tenant<'n>> {
    let entries = names::<TenantName>(node, "`tenants`", report);
    let tenants: Vec<_> = entries.into_iter().map(|entry| tenant(entry, report)).collect();
    check_places(&tenants, report);
    tenants
}

/// The tenants as the graph has them.
pub(super) fn plain(tenants: Vec<Tenant<'_>>, report: &Report<'_>) -> BTreeMap<TenantName, graph::Tenant> {
    let plain =
        |tenant: Tenant<'_>| (tenant.name, graph::Tenant { limits: tenant.limits, at: report.location(tenant.key) });
    tenants.into_iter().map(plain).collect()
}

fn tenant<'n>(entry: Entry<'n, TenantName>, report: &mut Report<'_>) -> Tenant<'n> {
    let (workloads, services, limits) = (Vec::new(), Vec::new(), Limits::default());
    let mut tenant = Tenant { name: entry.name, key: entry.key, workloads, services, allow: None, limits };
    if tenant.name.lineage().last() == Some(RESERVED) {
        let hint = "identities of hosts are written `spiffe://FABRIC/host/NAME`: choose another name";
        report.hinted(entry.key, "a tenant cannot be called `host`", hint);
    }
    if let Some(fields) = TENANT.read(entry.node, entry.key, report) {
        let workloads = fields.get("workloads");
        tenant.workloads = workloads.map(|node| names(node, "`workloads`", report)).unwrap_or_default();
        let services = fields.get("services");
        tenant.services = services.map(|node| names(node, "`services`", report)).unwrap_or_default();
        tenant.allow = fields.get("allow");
        tenant.limits = limits::read(&fields, report).unwrap_or_default();
    }
    tenant
}

/// A tenant is below one that is there, and has its label to itself: `eu.shop.FABRIC` is the tenant `shop/eu` or the service
/// `eu` of `shop`, and `spiffe://FABRIC/shop/eu` a workload or where those of a tenant begin.
fn check_places(tenants: &[Tenant<'_>], report: &mut Report<'_>) {
    let known: BTreeMap<&TenantName, &Tenant<'_>> = tenants.iter().map(|tenant| (&tenant.name, tenant)).collect();
    for tenant in tenants {
        let Some(parent) = tenant.name.parent() else { continue };
        let Some(above) = known.get(&parent) else {
            let hint = format!("write `{parent}: {{}}` under `tenants`, too");
            report.hinted(tenant.key, format!("`{}` is below `{parent}`, which is no tenant", tenant.name), hint);
            continue;
        };
        let label = tenant.name.as_str().rsplit('/').next().unwrap_or_default();
        let service = above.services.iter().find(|entry| entry.name.as_str() == label);
        let workload = above.workloads.iter().find(|entry| entry.name.as_str() == label);
        let taken = service.map(|entry| ("service", entry.key)).or(workload.map(|entry| ("workload", entry.key)));
        if let Some((kind, at)) = taken {
            clash(tenant, &parent, (kind, at), report);
        }
    }
}

fn clash(tenant: &Tenant<'_>, parent: &TenantName, (kind, at): (&str, Mark), report: &mut Report<'_>) {
    let message = format!("the tenant `{}` has the name of a {kind} of `{parent}` (line {})", tenant.name, at.line);
    let hint = "names in DNS and in certificates could not be told apart: rename one of them";
    report.hinted(tenant.key, message, hint);
}
