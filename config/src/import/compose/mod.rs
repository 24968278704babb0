//! Graphs from Compose files (https://github.com/compose-spec/compose-spec/blob/main/spec.md).
//!
//! 1. Files become one project (`load.rs`): `include`, one file on top of another, `extends`.
//! 2. Each service says what it is (`service.rs`): a workload, and a service where it has ports.
//! 3. Edges follow from `depends_on` and `links` between services that share a network (`edges.rs`). A network that two share is
//!    no edge by itself, as it joins whatever happens to be in it.

mod dotenv;
mod edges;
mod interpolate;
mod load;
mod ports;
mod service;

pub use dotenv::variables;

use super::{
    ImportError, Imported, Manifest, Target,
    draft::{Draft, DraftService, DraftTenant, DraftWorkload, LABEL, label},
    names_of,
    report::Report,
};
use crate::{
    Location, ServiceName, TenantName, WorkloadId, WorkloadName,
    graph::{Container, Run},
    read::is_container_name,
};
use load::{Loader, Project};
use service::{Reader, Service};
use std::collections::{BTreeMap, BTreeSet};

/// Reads a file that another one names: whose name that is, and the path as it is written there.
pub type Open<'o> = dyn Fn(&str, &str) -> Result<Manifest, String> + 'o;

/// What the files do not say.
#[derive(Debug, Clone)]
pub struct Compose {
    /// Of the graph.
    pub target: Target,
    /// The project's name where no file gives it; it begins the names of containers, and is the tenant's.
    pub project: String,
    /// The values of variables. Those of the process are not among them, so that a file gives the same graph everywhere.
    pub variables: BTreeMap<String, String>,
    /// The profiles whose services are taken; `*` for all.
    pub profiles: BTreeSet<String>,
}

/// Makes a graph of Compose files, of which each goes on top of those before.
///
/// # Errors
/// [`ImportError`].
pub fn compose(files: &[Manifest], settings: &Compose, open: &Open<'_>) -> Result<Imported, ImportError> {
    let mut report = Report::default();
    let project = Loader::new(open, &mut report).load(files)?;
    let mut reader = Reader { variables: &settings.variables, profiles: &settings.profiles, report: &mut report };
    let mut services = Vec::new();
    for (word, tree) in project.services.values() {
        services.extend(reader.service(word, tree)?);
    }
    if services.is_empty() {
        return Err(ImportError::Empty(names_of(files)));
    }
    let name = project_name(project.name.as_deref().unwrap_or(&settings.project));
    let start = Location { file: files.first().map_or("", |file| &file.name).into(), line: 1, column: 1 };
    let tenant = tenant(&name, &start, &mut report)?;
    let mut draft = Draft::new(settings.target.clone());
    let named = workloads(&services, &project, (&name, &tenant), &mut draft, &mut report);
    edges::infer(&named, &tenant, &mut draft, &mut report)?;
    let graph = draft.finish(&format!("From {}, by `ripstop graph import compose`.", names_of(files)))?;
    Ok(Imported { graph, report: report.sorted() })
}

/// As Compose makes one of a directory's name: small letters, digits, `-` and `_`, beginning with one of the former.
fn project_name(text: &str) -> String {
    let small = text.to_lowercase();
    let kept = small.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_".contains(*letter));
    kept.skip_while(|letter| "-_".contains(*letter)).collect()
}

fn tenant(project: &str, at: &Location, report: &mut Report) -> Result<TenantName, ImportError> {
    let refused = || ImportError::Refused {
        at: at.clone(),
        what: format!("`{project}` cannot be a tenant's name: give --project NAME"),
    };
    let name = label(project).filter(|name| name != "host").ok_or_else(refused)?;
    let what = format!(
        "tenant {name}, the project's name; in DNS services are NAME.{name}.FABRIC: short names stay those of the \
         project's own networks, and lead past the fabric"
    );
    report.inferred(at, what);
    TenantName::new(&name).map_err(|_| refused())
}

/// A service with the names that it has in the graph.
struct Named<'s> {
    service: &'s Service,
    workload: WorkloadName,
    /// `None` where no port is known.
    name: Option<ServiceName>,
}

/// Puts a workload for each service into the draft, and a service where it has ports.
fn workloads<'s>(
    services: &'s [Service],
    project: &Project,
    (name, tenant): (&str, &TenantName),
    draft: &mut Draft,
    report: &mut Report,
) -> Vec<Named<'s>> {
    let mut made = DraftTenant::default();
    let (mut named, mut containers) = (Vec::new(), BTreeSet::new());
    for service in services {
        let Some(workload) = own_name(service, &made, report) else { continue };
        let several = several(service, draft.hosts());
        let run = match several {
            Some(count) => Some(by_label(service, count, &WorkloadId::new(tenant.clone(), workload.clone()), report)),
            None => run(service, name, &mut containers, report),
        };
        let Some(run) = run else { continue };
        let count = service.replicas.map(|count| count.min(draft.hosts()));
        let isolated = isolated(service, project, report);
        let at = service.at.clone();
        made.workloads.insert(workload.clone(), DraftWorkload { count, run, isolated, at });
        let by_name = ServiceName::new(workload.as_str()).ok().filter(|_| !service.ports.is_empty());
        if let Some(by_name) = &by_name {
            made.services.insert(by_name.clone(), served(service, &workload));
        }
        named.push(Named { service, workload, name: by_name });
    }
    draft.tenants.insert(tenant.clone(), made);
    named
}

fn served(service: &Service, by: &WorkloadName) -> DraftService {
    let (by, ports, at) = (by.clone(), service.ports.clone(), service.at.clone());
    DraftService { by, ports, to: None, export: BTreeSet::new(), sticky: false, at }
}

fn own_name(service: &Service, made: &DraftTenant, report: &mut Report) -> Option<WorkloadName> {
    let Service { key, at, .. } = service;
    let name = label(key).and_then(|label| WorkloadName::new(&label).ok());
    let Some(name) = name else {
        report.not_carried(at, format!("service {key}: nothing in its name can be in a name of DNS"));
        return None;
    };
    if let Some(other) = made.workloads.get(&name) {
        report.not_carried(at, format!("service {key}: `{name}` in DNS, as is the one at {}: rename it", other.at));
        return None;
    }
    match name.as_str() == key {
        true => report.used(at, format!("service {key}: workload {name}")),
        false => report.inferred(at, format!("service {key}: workload {name}, as names of DNS are")),
    }
    Some(name)
}

/// The container by its name, as Compose gives it: unlike a label with the service's name it is no other project's.
fn run(service: &Service, project: &str, taken: &mut BTreeSet<String>, report: &mut Report) -> Option<Run> {
    let Service { key, at, container, .. } = service;
    let name = container.clone().unwrap_or_else(|| format!("{project}-{key}-1"));
    if !is_container_name(&name) {
        report.not_carried(at, format!("service {key}: `{name}` is no container's name"));
        return None;
    }
    if !taken.insert(name.clone()) {
        report.not_carried(at, format!("service {key}: another one has the container's name `{name}`"));
        return None;
    }
    match container {
        Some(_) => report.used(at, format!("service {key}: container {name}")),
        None => report.inferred(at, format!("service {key}: container {name}, as Compose names it")),
    }
    Some(Run::Container(Container::Name(name)))
}

/// How many containers a service has, where there are more than hosts. With a name for them there is one (Compose refuses others).
fn several(service: &Service, hosts: usize) -> Option<usize> {
    service.replicas.filter(|count| *count > hosts && service.container.is_none())
}

/// Several containers on a host have no one name, and by Compose's own label with the service's name another project's would be
/// among them.
fn by_label(service: &Service, count: usize, id: &WorkloadId, report: &mut Report) -> Run {
    let what = format!(
        "service {}: replicas: {count}, so that a host has several, which are one workload: give the service the label {LABEL}={id}",
        service.key
    );
    report.inferred(&service.at, what);
    Run::Container(Container::Label(LABEL.to_owned(), id.to_string()))
}

/// A service all of whose networks are internal reaches nothing outside: the fabric is its only network.
fn isolated(service: &Service, project: &Project, report: &mut Report) -> bool {
    let internal =
        |name: &String| project.networks.get(name).is_some_and(|tree| tree.text_at(&["internal"]) == Some("true"));
    let isolated = !service.networks.is_empty() && service.networks.keys().all(internal);
    if isolated {
        report.inferred(&service.at, format!("service {}: isolated, as its networks are internal", service.key));
    }
    isolated
}
