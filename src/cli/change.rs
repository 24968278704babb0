//! Commands that change the signed policy by a line: `workload add`, `expose`, `host revoke`.

use super::{
    Exit, apply,
    args::{
        Signing,
        enrol::{Expose, HostRevoke, WorkloadAdd},
    },
    output::{self, Output},
    socket,
};
use crate::bundles;
use anyhow::{Context, anyhow, bail};
use ripstop_config::{
    Graph, HostName, ServiceId, TenantName, WorkloadId,
    edit::{Edit, edit},
    graph::{Container, Run, User},
    suggest::nearest,
};
use ripstop_policy::{Content, RevokedCertificate};

/// The tenant that is made where there is none.
const FIRST_TENANT: &str = "main";

/// Adds a workload.
pub(super) fn workload_add(add: &WorkloadAdd, output: &Output) -> anyhow::Result<Exit> {
    let run = run_of(&add.run)?;
    publish(&add.signing, output, |content| {
        let graph = graph(content)?;
        let id: WorkloadId = qualified(&graph, &add.name)?.parse()?;
        known_hosts(&graph, &add.on)?;
        let change = Edit::Workload { id: id.clone(), on: add.on.clone(), run: run.clone(), isolated: add.isolated };
        content.graph = edit(&content.file, &content.graph, &change)?;
        Ok(vec![format!("workload {id}")])
    })
}

/// Adds a service, the workload behind it if that is said, and edges to it.
pub(super) fn expose(expose: &Expose, output: &Output) -> anyhow::Result<Exit> {
    let run = expose.run.as_deref().map(run_of).transpose()?;
    publish(&expose.signing, output, |content| {
        let graph = graph(content)?;
        let id: ServiceId = qualified(&graph, &expose.name)?.parse()?;
        let by = expose.by.clone().map_or_else(|| id.name.as_str().parse(), Ok)?;
        let mut changes = Vec::new();
        if let Some(run) = &run {
            known_hosts(&graph, &expose.on)?;
            let workload = WorkloadId::new(id.tenant.clone(), by.clone());
            let (on, run) = (expose.on.clone(), run.clone());
            changes.push((format!("workload {workload}"), Edit::Workload { id: workload, on, run, isolated: false }));
        }
        match graph.services.contains_key(&id) {
            true if expose.port.is_empty() => {}
            false if expose.port.is_empty() => bail!("the service `{id}` is new: say which port it has, with --port"),
            true | false => {
                let (ports, to) = (expose.port.clone(), expose.to.map(|to| to.to_string()));
                changes.push((format!("service {id}"), Edit::Service { id: id.clone(), by, ports, to }));
            }
        }
        for caller in &expose.allow {
            let from = caller_of(&graph, &id, caller)?;
            consents(&graph, &id, &from)?;
            changes.push((format!("{from} may call {id}"), Edit::Edge { from, to: id.clone() }));
        }
        for (_, change) in &changes {
            content.graph = edit(&content.file, &content.graph, change)?;
        }
        Ok(changes.into_iter().map(|(what, _)| what).collect())
    })
}

/// Shuts a host out, with the certificates that are known of it.
pub(super) fn revoke(revoke: &HostRevoke, output: &Output) -> anyhow::Result<Exit> {
    let host = &revoke.name;
    if revoke.undo {
        return publish(&revoke.signing, output, |content| match content.revoked.hosts.remove(host) {
            true => Ok(vec![format!("host {host} is revoked no more")]),
            false => bail!("the host `{host}` is not revoked"),
        });
    }
    // A host that does not hold the authority knows no serial numbers; the host's name shuts out all of them.
    let issued = socket::one(&revoke.signing.socket)?.certificates(host).unwrap_or_default();
    publish(&revoke.signing, output, |content| {
        let graph = graph(content)?;
        if !graph.hosts.contains_key(host) && issued.is_empty() {
            known_hosts(&graph, std::slice::from_ref(host))?;
        }
        content.revoked.hosts.insert(host.clone());
        let ids = issued.iter().map(|one| one.id.clone());
        let certificates = ids.map(|id| RevokedCertificate { issuer: id.issuer, serial: id.serial });
        content.revoked.certificates.extend(certificates);
        Ok(vec![format!("host {host} is revoked, with {} certificates", issued.len())])
    })
}

/// Changes the content of the running policy, signs it, puts it in force, and waits until every host has it.
fn publish(
    signing: &Signing,
    output: &Output,
    change: impl FnOnce(&mut Content) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<Exit> {
    let client = socket::one(&signing.socket)?;
    let keys = apply::load(&signing.keys)?;
    let mut done = Vec::new();
    let id = bundles::publish(&client, &keys, |content| {
        done = change(content)?;
        content.note = signing.note.clone().unwrap_or_else(|| done.join(", "));
        Ok(())
    })?;
    if !output.is_json() {
        output::print(&format!("{}\n", done.join("\n")))?;
    }
    apply::follow(&client, id, signing.wait.duration(), output)
}

fn graph(content: &Content) -> anyhow::Result<Graph> {
    Graph::parse(&content.file, &content.graph)
        .map_err(|mistakes| anyhow!("the graph in force has mistakes\n\n{mistakes}"))
}

/// `TENANT/NAME` of what may be a bare name.
fn qualified(graph: &Graph, name: &str) -> anyhow::Result<String> {
    if name.contains('/') {
        return Ok(name.to_owned());
    }
    let tenants: Vec<&TenantName> = graph.tenants.keys().collect();
    match tenants.as_slice() {
        [] => Ok(format!("{FIRST_TENANT}/{name}")),
        [one] => Ok(format!("{one}/{name}")),
        several => {
            let names: Vec<_> = several.iter().map(|tenant| format!("{tenant}/{name}")).collect();
            bail!("the graph has several tenants; say which is meant: {}", names.join(", "))
        }
    }
}

/// An edge from another tenant would be in force only once that tenant is consented to.
fn consents(graph: &Graph, service: &ServiceId, from: &WorkloadId) -> anyhow::Result<()> {
    let exported = graph.services.get(service).is_some_and(|found| found.exported_to(&from.tenant).is_some());
    if exported || service.tenant == from.tenant {
        return Ok(());
    }
    bail!(
        "`{service}` is not exported to the tenant `{0}`, so `{from}` may not call it; write `export: [{0}]` into the service \
         and apply the graph",
        from.tenant
    )
}

/// A workload of the service's tenant, unless another one is named.
fn caller_of(graph: &Graph, service: &ServiceId, name: &str) -> anyhow::Result<WorkloadId> {
    let text = if name.contains('/') { name.to_owned() } else { format!("{}/{name}", service.tenant) };
    let id: WorkloadId = text.parse()?;
    if graph.workloads.contains_key(&id) {
        return Ok(id);
    }
    let hint = nearest(&text, graph.workloads.keys().map(ToString::to_string));
    let hint = hint.map_or_else(
        || format!("add it first: `ripstop workload add {id} --on HOST --run …`"),
        |near| format!("did you mean `{near}`?"),
    );
    bail!("there is no workload `{id}`; {hint}")
}

fn known_hosts(graph: &Graph, hosts: &[HostName]) -> anyhow::Result<()> {
    let unknown = hosts.iter().find(|host| !graph.hosts.contains_key(*host));
    let Some(unknown) = unknown else { return Ok(()) };
    let known: Vec<_> = graph.hosts.keys().map(HostName::as_str).collect();
    bail!("the fabric has no host `{unknown}`; it has {}", known.join(", "))
}

/// `netns:NAME`, `user:NAME`, `cgroup:PATH`, `container:NAME`, `pod:NAMESPACE/NAME` or `host`.
fn run_of(text: &str) -> anyhow::Result<Run> {
    let run = match text.split_once(':') {
        Some(("netns", name)) if !name.is_empty() => Some(Run::Netns(name.to_owned())),
        Some(("user", name)) if !name.is_empty() => {
            Some(Run::User(name.parse().map_or_else(|_| User::Name(name.to_owned()), User::Id)))
        }
        Some(("cgroup", path)) if path.starts_with('/') => Some(Run::Cgroup(path.to_owned())),
        Some(("container", name)) if !name.is_empty() => Some(Run::Container(Container::Name(name.to_owned()))),
        Some(("pod", pod)) => pod.parse().ok().map(Run::Pod),
        None if text == "host" => Some(Run::Host),
        Some(_) | None => None,
    };
    run.with_context(|| {
        format!(
            "`{text}` does not say what a workload is: write `netns:NAME`, `user:NAME`, `cgroup:/PATH`, `container:NAME`, \
             `pod:NAMESPACE/NAME` or `host`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPH: &str =
        "fabric: f\nhosts: { a: {} }\ntenants:\n  t:\n    workloads:\n      web: { on: [a], run: { netns: w } }\n";

    fn parsed(text: &str) -> Graph {
        Graph::parse("f", text).unwrap()
    }

    #[test]
    fn bare_names_are_of_the_only_tenant() {
        let (none, one) = ("fabric: f\nhosts: { a: {} }\ntenants:\n", GRAPH);
        let two = format!("{GRAPH}  u: {{}}\n");
        assert_eq!(qualified(&parsed(none), "api").unwrap(), "main/api");
        assert_eq!(qualified(&parsed(one), "api").unwrap(), "t/api");
        assert_eq!(qualified(&parsed(&two), "u/api").unwrap(), "u/api");
        assert!(qualified(&parsed(&two), "api").unwrap_err().to_string().contains("t/api, u/api"));
    }

    #[test]
    fn callers_and_hosts_must_be_there() {
        let (graph, service) = (parsed(GRAPH), "t/api".parse().unwrap());
        assert_eq!(caller_of(&graph, &service, "web").unwrap().to_string(), "t/web");
        assert!(caller_of(&graph, &service, "wbe").unwrap_err().to_string().contains("did you mean `t/web`?"));
        assert!(known_hosts(&graph, &["b".parse().unwrap()]).unwrap_err().to_string().contains("it has a"));
    }

    #[test]
    fn a_workload_is_a_namespace_or_a_user() {
        assert_eq!(run_of("netns:web").unwrap(), Run::Netns("web".into()));
        assert_eq!(run_of("user:www-data").unwrap(), Run::User(User::Name("www-data".into())));
        assert_eq!(run_of("user:33").unwrap(), Run::User(User::Id(33)));
        for wrong in ["web", "netns:", "docker:web", ""] {
            assert!(run_of(wrong).is_err(), "{wrong}");
        }
    }
}
