//! `workloads:` the programs and containers.

use super::{Known, Placed, Tenant, Workloads, limits, run};
use crate::{
    HostName, WorkloadId, WorkloadName,
    graph::{Change, Run, Workload},
    yaml::{Entry, Node, Report, Shape, reference},
};
use std::collections::{BTreeMap, BTreeSet};

const WORKLOAD: Shape = Shape { what: "a workload", keys: &["on", "run", "isolated", "limit", "may"], later: &[] };
const ON_FORM: &str = "write `on: [HOST, …]` with the hosts it runs on";

pub(super) fn read(tenants: &[Tenant<'_>], known: &Known, report: &mut Report<'_>) -> Workloads {
    let mut workloads = BTreeMap::new();
    for tenant in tenants {
        for entry in &tenant.workloads {
            let id = WorkloadId::new(tenant.name.clone(), entry.name.clone());
            if let Some(value) = workload(entry, known, report) {
                workloads.insert(id, Placed { value, mark: entry.key });
            }
        }
    }
    workloads
}

fn workload(entry: &Entry<'_, WorkloadName>, known: &Known, report: &mut Report<'_>) -> Option<Workload> {
    let fields = WORKLOAD.read(entry.node, entry.key, report)?;
    let on = fields.require("on", ON_FORM, report).map(|node| hosts(node, known, report));
    let run = match fields.require("run", run::FORMS, report) {
        Some(node) => run::read(node, report),
        None => None,
    };
    let isolated = fields.get("isolated").map_or(Some(false), |node| node.flag(report));
    if let (Some(Run::Host), Some(true), Some(node)) = (&run, isolated, fields.get("isolated")) {
        let hint = "give what must be shut in a user, a cgroup or a namespace of its own";
        report.hinted(node.mark, "the host itself cannot be isolated: its other networks are the agent's own", hint);
        return None;
    }
    let limits = limits::read(&fields, report);
    let may = fields.get("may").map(|node| may(node, report)).unwrap_or_default();
    let at = report.location(entry.key);
    Some(Workload { on: on?, run: run?, isolated: isolated?, limits: limits?, may, at })
}

fn may(node: &Node, report: &mut Report<'_>) -> BTreeSet<Change> {
    node.set::<Change>("`may`", "drain, weight, path or instances", report).into_iter().map(|(one, _)| one).collect()
}

fn hosts(node: &Node, known: &Known, report: &mut Report<'_>) -> Vec<HostName> {
    let hosts = node.set::<HostName>("`on`", "a host's name", report);
    for (host, at) in &hosts {
        if !known.hosts.contains(host) {
            reference("host", host.as_str(), *at, known.hosts.iter().map(HostName::as_str), report);
        }
    }
    hosts.into_iter().map(|(host, _)| host).collect()
}
