//! Graphs from Kubernetes objects, as manifests, lists and the output of Kustomize have them.
//!
//! | object | becomes |
//! |---|---|
//! | Namespace | a tenant |
//! | Deployment, StatefulSet, DaemonSet, Pod, Job and the like | a workload |
//! | Service | a service of the workload whose pods it selects |
//! | NetworkPolicy | edges (`policies.rs`) |
//! | ServiceAccount | nothing: each workload has an identity of its own |
//!
//! Without a NetworkPolicy everybody may call everybody in Kubernetes; here that gives no edge. What programs' environments name is
//! suggested.

mod objects;
mod policies;
mod selector;
mod services;
mod workloads;

use super::{
    ImportError, Imported, Manifest, Target,
    draft::{Draft, DraftTenant, DraftWorkload, edge_line, label},
    mentions, names_of,
    report::Report,
    tree,
};
use crate::TenantName;
use objects::Object;
use policies::Policies;
use selector::{Labels, labels};
use services::Served;
use std::collections::{BTreeMap, BTreeSet};
use workloads::Workload;

/// The label of a namespace that holds its own name (Kubernetes, "Well-Known Labels").
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Kinds that say nothing of who may call whom.
const PLAIN: [&str; 18] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "CustomResourceDefinition",
    "HorizontalPodAutoscaler",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PriorityClass",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "Secret",
    "ServiceMonitor",
    "PodMonitor",
    "StorageClass",
    "VerticalPodAutoscaler",
];

/// Makes a graph of all objects in manifests.
///
/// # Errors
/// [`ImportError`].
pub fn kubernetes(files: &[Manifest], target: &Target) -> Result<Imported, ImportError> {
    let mut report = Report::default();
    let mut trees = Vec::new();
    for file in files {
        trees.extend(tree::read(&file.name, &file.text)?);
    }
    let mut objects = Vec::new();
    trees.iter().for_each(|tree| objects::of(tree, &mut report, &mut objects));
    once_each(&mut objects, &mut report);
    let mut import = Import::new(Draft::new(target.clone()), &mut report);
    import.namespaces(&objects);
    let workloads = import.workloads(&objects);
    if workloads.is_empty() {
        return Err(ImportError::Empty(names_of(files)));
    }
    let services = import.services(&objects, &workloads);
    let spaces = std::mem::take(&mut import.spaces);
    let mut policies = Policies::new(&workloads, &spaces);
    objects
        .iter()
        .filter(|object| object.kind == "NetworkPolicy")
        .for_each(|object| policies.add(object, import.report));
    policies.edges(&services, &mut import.draft, import.report)?;
    import.mentions(&workloads);
    import.others(&objects);
    let graph = import.draft.finish(&format!("From {}, by `ripstop graph import kubernetes`.", names_of(files)))?;
    Ok(Imported { graph, report: report.sorted() })
}

/// Of objects with one kind, namespace and name the first counts.
fn once_each(objects: &mut Vec<Object<'_>>, report: &mut Report) {
    let mut seen = BTreeMap::new();
    objects.retain(|object| {
        let key = (object.kind, object.namespace, object.name);
        let first = *seen.entry(key).or_insert(object.at);
        if first != object.at {
            report.not_carried(object.at, format!("{}: it is at {first} already", object.shown()));
        }
        first == object.at
    });
}

struct Import<'r> {
    draft: Draft,
    report: &'r mut Report,
    /// Namespaces with their labels.
    spaces: BTreeMap<String, Labels>,
}

impl<'r> Import<'r> {
    fn new(draft: Draft, report: &'r mut Report) -> Self {
        Self { draft, report, spaces: BTreeMap::new() }
    }

    /// Those that are declared, and those that others are in.
    fn namespaces(&mut self, objects: &[Object<'_>]) {
        for object in objects.iter().filter(|object| object.kind == "Namespace") {
            let mut labels = object.tree.path(&["metadata", "labels"]).map(labels).unwrap_or_default();
            labels.insert(NAME_LABEL.to_owned(), object.name.to_owned());
            self.spaces.insert(object.name.to_owned(), labels);
            match tenant(object.name) {
                Some(tenant) => {
                    self.report.used(
                        object.at,
                        format!("Namespace {}: tenant {tenant}; in DNS services are NAME.{tenant}.FABRIC", object.name),
                    );
                    self.draft.tenants.insert(tenant, DraftTenant::default());
                }
                None => {
                    let what = format!("Namespace {}: no tenant can be called so", object.name);
                    self.report.not_carried(object.at, what);
                }
            }
        }
        for object in objects.iter().filter(|object| workloads::makes_pods(object.kind)) {
            let name = || [(NAME_LABEL.to_owned(), object.namespace.to_owned())].into();
            self.spaces.entry(object.namespace.to_owned()).or_insert_with(name);
        }
    }

    fn workloads(&mut self, objects: &[Object<'_>]) -> Vec<Workload> {
        let (mut all, mut containers) = (Vec::new(), BTreeSet::new());
        for object in objects.iter().filter(|object| workloads::makes_pods(object.kind)) {
            let Some(tenant) = tenant(object.namespace) else {
                self.report.not_carried(object.at, format!("{}: no tenant can be called so", object.shown()));
                continue;
            };
            let hosts = self.draft.hosts();
            let Some(read) = workloads::read(object, &tenant, hosts, &mut containers, self.report) else { continue };
            let made = self.draft.tenants.entry(tenant).or_default();
            if let Some(other) = made.workloads.get(&read.id.name) {
                let what = format!("{}: there is a workload {} from {} already", object.shown(), read.id, other.at);
                self.report.not_carried(object.at, what);
                continue;
            }
            let (count, run, at) = (read.count, read.run.clone(), read.at.clone());
            made.workloads.insert(read.id.name.clone(), DraftWorkload { count, run, isolated: false, at });
            all.push(read);
        }
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    fn services(&mut self, objects: &[Object<'_>], workloads: &[Workload]) -> Vec<Served> {
        let mut all = Vec::new();
        for object in objects.iter().filter(|object| object.kind == "Service") {
            let Some(tenant) = tenant(object.namespace) else { continue };
            let Some((served, draft)) = services::read(object, &tenant, workloads, self.report) else { continue };
            let services = &mut self.draft.tenants.entry(tenant).or_default().services;
            if let Some(other) = services.get(&served.name) {
                let what = format!("{}: there is a service {} from {} already", object.shown(), served.name, other.at);
                self.report.not_carried(object.at, what);
                continue;
            }
            services.insert(served.name.clone(), draft);
            all.push(served);
        }
        all
    }

    /// Services that programs' environments name, shortly or with their namespace.
    fn mentions(&mut self, workloads: &[Workload]) {
        for caller in workloads {
            for (variable, value, at) in &caller.environment {
                for host in mentions::hosts(variable, value) {
                    let mut parts = host.split('.');
                    let name = parts.next().unwrap_or_default();
                    let space = parts.next().unwrap_or(&caller.namespace);
                    let (Some(tenant), Ok(name)) = (tenant(space), name.parse()) else { continue };
                    let Some(service) = self.draft.service(&tenant, &name) else { continue };
                    let itself = tenant == caller.id.tenant && service.by == caller.id.name;
                    if !itself && !self.draft.has_edge(&caller.id, &tenant, &name) {
                        let line = edge_line(&caller.id, &tenant, &name);
                        let what = format!(
                            "variable {variable} names {host}: to allow it, `{line}` under tenants.{tenant}.allow"
                        );
                        self.report.suggested(at, what);
                    }
                }
            }
        }
    }

    fn others(&mut self, objects: &[Object<'_>]) {
        for object in objects {
            let why = match object.kind {
                "Namespace" | "Service" | "NetworkPolicy" => continue,
                kind if workloads::makes_pods(kind) || PLAIN.contains(&kind) => continue,
                "ServiceAccount" => "each workload has an identity of its own, by its name",
                "Ingress" | "Gateway" | "HTTPRoute" | "TLSRoute" | "GRPCRoute" | "TCPRoute" | "VirtualService" => {
                    "what comes from outside the fabric is let in by a program of its own"
                }
                "Kustomization" => "give the output of `kustomize build`",
                _ => "a kind that is not known here",
            };
            self.report.not_carried(object.at, format!("{}: {why}", object.shown()));
        }
    }
}

fn tenant(namespace: &str) -> Option<TenantName> {
    let name = label(namespace).filter(|name| name != "host")?;
    TenantName::new(&name).ok()
}
