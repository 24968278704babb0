//! Deployments and the like: programs with their pods' labels and ports.

use super::{
    objects::Object,
    selector::{Labels, labels},
};
use crate::{
    Location, Port, Protocol, TenantName, WorkloadId, WorkloadName,
    graph::{Container, Run},
    import::{
        draft::{LABEL, label},
        report::Report,
        tree::{Branch, Tree},
    },
    read::is_container_name,
};
use std::collections::BTreeSet;

/// Pods that are made alike.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) id: WorkloadId,
    pub(super) namespace: String,
    pub(super) labels: Labels,
    /// The containers' ports, with their names.
    pub(super) ports: Vec<(Option<String>, Port)>,
    /// Names and values of variables.
    pub(super) environment: Vec<(String, String, Location)>,
    /// On how many hosts; `None` for all.
    pub(super) count: Option<usize>,
    pub(super) run: Run,
    pub(super) at: Location,
}

/// Whether objects of that kind make pods.
pub(super) fn makes_pods(kind: &str) -> bool {
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Pod", "Job", "CronJob"]
        .contains(&kind)
}

/// Reads objects that make pods; `taken` are the names of the containers so far.
pub(super) fn read(
    object: &Object<'_>,
    tenant: &TenantName,
    hosts: usize,
    taken: &mut BTreeSet<String>,
    report: &mut Report,
) -> Option<Workload> {
    let (at, shown) = (object.at.clone(), object.shown());
    let template = template(object);
    let spec = template.and_then(|template| template.get("spec"));
    let (Some(template), Some(spec)) = (template, spec) else {
        report.not_carried(&at, format!("{shown}: it has no pod's `spec`"));
        return None;
    };
    if spec.text_at(&["hostNetwork"]) == Some("true") {
        report.not_carried(&at, format!("{shown}: hostNetwork: the kernel cannot tell it from the host"));
        return None;
    }
    let Some(name) = label(object.name).and_then(|name| WorkloadName::new(&name).ok()) else {
        report.not_carried(&at, format!("{shown}: nothing in its name can be in a name of DNS"));
        return None;
    };
    let id = WorkloadId::new(tenant.clone(), name);
    let run = run(object, spec, &id, taken, report)?;
    if let Some(account) = spec.get("serviceAccountName") {
        let what = format!(
            "{shown}: ServiceAccount {}: its identity is {id}, and its own",
            account.text().unwrap_or_default()
        );
        report.inferred(&account.at, what);
    }
    report.used(&at, format!("{shown}: workload {id}"));
    Some(Workload {
        namespace: object.namespace.to_owned(),
        labels: template.path(&["metadata", "labels"]).map(labels).unwrap_or_default(),
        ports: ports(spec, &shown, report),
        environment: environment(spec),
        count: count(object, hosts, report),
        id,
        run,
        at,
    })
}

fn template<'t>(object: &Object<'t>) -> Option<&'t Tree> {
    match object.kind {
        "Pod" => Some(object.tree),
        "CronJob" => object.tree.path(&["spec", "jobTemplate", "spec", "template"]),
        _ => object.tree.path(&["spec", "template"]),
    }
}

fn containers(spec: &Tree) -> &[Tree] {
    spec.get("containers").map(Tree::items).unwrap_or_default()
}

/// The first container, as `podman kube play` names it. All containers of a pod share its network namespace.
fn run(
    object: &Object<'_>,
    spec: &Tree,
    id: &WorkloadId,
    taken: &mut BTreeSet<String>,
    report: &mut Report,
) -> Option<Run> {
    let Some(container) = containers(spec).first().and_then(|container| container.text_at(&["name"])) else {
        report.not_carried(object.at, format!("{}: it has no container with a name", object.shown()));
        return None;
    };
    let pod = if object.kind == "Pod" { object.name.to_owned() } else { format!("{}-pod", object.name) };
    let name = format!("{pod}-{container}");
    if is_container_name(&name) && taken.insert(name.clone()) {
        report.inferred(object.at, format!("{}: container {name}, as `podman kube play` names it", object.shown()));
        return Some(Run::Container(Container::Name(name)));
    }
    let what = format!(
        "{}: container {name} is another's name too: give its containers the label {LABEL}={id}",
        object.shown()
    );
    report.inferred(object.at, what);
    Some(Run::Container(Container::Label(LABEL.to_owned(), id.to_string())))
}

fn ports(spec: &Tree, shown: &str, report: &mut Report) -> Vec<(Option<String>, Port)> {
    let mut all = Vec::new();
    for node in containers(spec).iter().filter_map(|container| container.get("ports")).flat_map(Tree::items) {
        if let Some(host) = node.get("hostPort") {
            report.not_carried(
                &host.at,
                format!("{shown}: hostPort is outside the fabric, and stays with the container"),
            );
        }
        match node.text_at(&["containerPort"]).and_then(|number| port(number, node.text_at(&["protocol"]))) {
            Some(port) => all.push((node.text_at(&["name"]).map(str::to_owned), port)),
            None => report.not_carried(&node.at, format!("{shown}: no port of tcp or udp")),
        }
    }
    all
}

/// A port by number and protocol; TCP unless said.
pub(super) fn port(number: &str, protocol: Option<&str>) -> Option<Port> {
    let number = number.parse().ok().filter(|number: &u16| *number > 0)?;
    protocol_of(protocol).map(|protocol| Port { number, protocol })
}

pub(super) fn protocol_of(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn environment(spec: &Tree) -> Vec<(String, String, Location)> {
    let variables = containers(spec).iter().filter_map(|container| container.get("env")).flat_map(Tree::items);
    let one = |node: &Tree| {
        let (name, value) = (node.text_at(&["name"])?, node.text_at(&["value"])?);
        Some((name.to_owned(), value.to_owned(), node.at.clone()))
    };
    variables.filter_map(one).collect()
}

/// One pod a host, on as many hosts as there are replicas.
fn count(object: &Object<'_>, hosts: usize, report: &mut Report) -> Option<usize> {
    if object.kind == "DaemonSet" {
        report.used(object.at, format!("{}: on all hosts", object.shown()));
        return None;
    }
    let Some(node) = object.tree.path(&["spec", "replicas"]) else { return Some(1) };
    if matches!(node.value, Branch::Nothing) {
        return Some(1);
    }
    let Some(count) = node.text().and_then(|text| text.parse::<u32>().ok()) else {
        report.not_carried(&node.at, format!("{}: no number of replicas; one is taken", object.shown()));
        return Some(1);
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > hosts {
        let what = format!(
            "{}: {count} replicas, but {hosts} of them: one a host by its name; name more with --on, or, in a cluster, write `run: {{ pod: NAMESPACE/NAME }}`, which all pods on a host are",
            object.shown()
        );
        report.not_carried(&node.at, what);
    } else {
        report.used(&node.at, format!("{}: replicas: {count}", object.shown()));
    }
    Some(count.clamp(1, hosts.max(1)))
}
