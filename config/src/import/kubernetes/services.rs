//! Services: names with ports, for the pods that they select.

use super::{
    objects::Object,
    selector::Selector,
    workloads::{Workload, port, protocol_of},
};
use crate::{
    Location, Port, ServiceName, TenantName,
    import::{
        draft::{DraftService, label},
        report::Report,
        tree::Tree,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// A service with what policies need to know of it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) tenant: TenantName,
    pub(super) name: ServiceName,
    /// Its place among the workloads.
    pub(super) by: usize,
    /// Of each of its ports the one of the pod, which policies speak of.
    pub(super) targets: BTreeMap<Port, Port>,
}

/// Reads a Service.
pub(super) fn read(
    object: &Object<'_>,
    tenant: &TenantName,
    workloads: &[Workload],
    report: &mut Report,
) -> Option<(Served, DraftService)> {
    let (at, shown) = (object.at, object.shown());
    let by = server(object, workloads, report)?;
    let Some(name) = label(object.name).and_then(|name| ServiceName::new(&name).ok()) else {
        report.not_carried(at, format!("{shown}: nothing in its name can be in a name of DNS"));
        return None;
    };
    let workload = &workloads[by];
    let headless = object.tree.text_at(&["spec", "clusterIP"]) == Some("None");
    if headless {
        let what = format!("{shown}: headless: one address for all its pods; the names of single pods are not carried");
        report.not_carried(at, what);
    }
    let pairs = pairs(object, workload, headless, report);
    if pairs.is_empty() {
        report.not_carried(at, format!("{shown}: no port of it is known"));
        return None;
    }
    let (targets, to) = fitted(pairs, headless, &shown, report);
    let affinity = object.tree.path(&["spec", "sessionAffinity"]).filter(|one| one.text() == Some("ClientIP"));
    affinity.iter().for_each(|one| report.used(&one.at, format!("{shown}: sessionAffinity: sticky")));
    let sticky = affinity.is_some();
    report.used(at, format!("{shown}: service {tenant}/{name} by {}", workload.id.name));
    let draft = DraftService {
        by: workload.id.name.clone(),
        ports: targets.keys().copied().collect(),
        to,
        export: BTreeSet::new(),
        sticky,
        at: at.clone(),
    };
    Some((Served { tenant: tenant.clone(), name, by, targets }, draft))
}

/// The workload that serves it: a service of the graph has one.
fn server(object: &Object<'_>, workloads: &[Workload], report: &mut Report) -> Option<usize> {
    let (at, shown) = (object.at, object.shown());
    let kind = object.tree.path(&["spec", "type"]);
    match kind.and_then(Tree::text) {
        Some("ExternalName") => {
            report.not_carried(at, format!("{shown}: ExternalName: what is outside the fabric is no service of it"));
            return None;
        }
        Some(outside @ ("NodePort" | "LoadBalancer")) => {
            let at = kind.map_or(at, |kind| &kind.at);
            report.not_carried(at, format!("{shown}: {outside}: it is in the fabric alone, and not published outside"));
        }
        Some(_) | None => {}
    }
    let selector = object.tree.path(&["spec", "selector"]).filter(|selector| !selector.entries().is_empty());
    let Some(selector) = selector else {
        report.not_carried(at, format!("{shown}: it selects no pods: say who serves it"));
        return None;
    };
    let matching = Selector::labels(selector);
    let here = workloads.iter().enumerate().filter(|(_, workload)| workload.namespace == object.namespace);
    let mut selected = here.filter(|(_, workload)| matching.matches(&workload.labels));
    let Some((by, _)) = selected.next() else {
        report
            .not_carried(&selector.at, format!("{shown}: no workload in the manifests has the labels that it selects"));
        return None;
    };
    let others: Vec<String> = selected.map(|(_, workload)| workload.id.name.to_string()).collect();
    if !others.is_empty() {
        let what = format!(
            "{shown}: a service has one workload, here {}; not {}: make them one, or services of their own",
            workloads[by].id.name,
            others.join(", ")
        );
        report.not_carried(&selector.at, what);
    }
    Some(by)
}

/// The service's ports with those of the pod, and where they stand.
fn pairs(object: &Object<'_>, workload: &Workload, headless: bool, report: &mut Report) -> Vec<(Port, Port, Location)> {
    let nodes = object.tree.path(&["spec", "ports"]).map(Tree::items).unwrap_or_default();
    if nodes.is_empty() && headless {
        let ports = workload.ports.iter().map(|(_, port)| (*port, *port, object.at.clone()));
        report.inferred(object.at, format!("{}: the ports of its pods", object.shown()));
        return ports.collect();
    }
    let mut all = Vec::new();
    for node in nodes {
        match pair(node, workload) {
            Ok((service, target)) => all.push((service, target, node.at.clone())),
            Err(why) => report.not_carried(&node.at, format!("{}: {why}", object.shown())),
        }
    }
    all
}

fn pair(node: &Tree, workload: &Workload) -> Result<(Port, Port), String> {
    let protocol = node.text_at(&["protocol"]);
    if protocol_of(protocol).is_none() {
        return Err(format!("the fabric carries TCP and UDP, not {}", protocol.unwrap_or_default()));
    }
    let service = node.text_at(&["port"]).and_then(|number| port(number, protocol)).ok_or("no port")?;
    let Some(target) = node.text_at(&["targetPort"]) else { return Ok((service, service)) };
    if let Some(target) = port(target, protocol) {
        return Ok((service, target));
    }
    let named =
        workload.ports.iter().find(|(name, port)| name.as_deref() == Some(target) && port.protocol == service.protocol);
    let named = named.map(|(_, port)| (service, *port));
    named.ok_or_else(|| format!("no container of {} has a port called `{target}`", workload.id.name))
}

/// A service of one port may lead to another one of the pod; one of several has the pod's own. So has a headless one, whose
/// callers reach pods directly.
fn fitted(
    pairs: Vec<(Port, Port, Location)>,
    headless: bool,
    shown: &str,
    report: &mut Report,
) -> (BTreeMap<Port, Port>, Option<u16>) {
    if let ([(service, target, at)], false) = (pairs.as_slice(), headless) {
        report.used(at, format!("{shown}: port {service}, of the pod {target}"));
        let to = (service != target).then_some(target.number);
        return ([(*service, *target)].into(), to);
    }
    let mut targets = BTreeMap::new();
    for (service, target, at) in pairs {
        if service != target && !headless {
            let what = format!(
                "{shown}: port {service} leads to {target}, which a service of several ports cannot say: callers use {target}"
            );
            report.not_carried(&at, what);
        } else {
            report.used(&at, format!("{shown}: port {target}"));
        }
        targets.insert(target, target);
    }
    (targets, None)
}
