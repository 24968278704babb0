//! `services:` the names that may be called.

use super::{Known, Placed, Services, Tenant, Workloads};
use crate::{
    Port, ServiceId, ServiceName, TenantName, WorkloadId, WorkloadName,
    graph::{Balance, Limits, Run, Service, Source},
    yaml::{Entry, Fields, Mark, Node, Report, Shape, reference},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

const SERVICE: Shape = Shape {
    what: "a service",
    keys: &["by", "port", "ports", "to", "export", "balance"],
    later: &[
        ("health", "leave it out: endpoints that refuse are passed over for another"),
        ("source", "leave it out: a workload in a namespace of its own sees its callers' addresses"),
        ("egress", "services outside the fabric come later"),
        ("ingress", "services published outside the fabric come later"),
    ],
};
const BY_FORM: &str = "write `by: WORKLOAD` with the workload that serves it";
const PORT_FORM: &str = "write `port: 8080/tcp`, or `ports: [8080/tcp, 8443/tcp]`";
const TO_FORM: &str = "write `to: 127.0.0.1:8080`, or `to: :8080` for another port alone";
/// The one way of balancing: on the load that the endpoints report.
const BALANCE: &str = "least-load";

pub(super) fn read(tenants: &[Tenant<'_>], known: &Known, workloads: &Workloads, report: &mut Report<'_>) -> Services {
    let mut services = BTreeMap::new();
    for tenant in tenants {
        for entry in &tenant.services {
            let id = ServiceId::new(tenant.name.clone(), entry.name.clone());
            if let Some(value) = service(entry, &tenant.name, known, workloads, report) {
                services.insert(id, Placed { value, mark: entry.key });
            }
        }
    }
    services
}

fn service(
    entry: &Entry<'_, ServiceName>,
    tenant: &TenantName,
    known: &Known,
    workloads: &Workloads,
    report: &mut Report<'_>,
) -> Option<Service> {
    let fields = SERVICE.read(entry.node, entry.key, report)?;
    let by = match fields.require("by", BY_FORM, report) {
        Some(node) => server(node, tenant, known, report),
        None => None,
    };
    let ports = ports(&fields, report);
    let keys = ["port", "ports"];
    if !keys.iter().any(|key| fields.get(key).is_some() || fields.misspelt(key)) {
        report.hinted(entry.key, "a service needs `port` or `ports`", PORT_FORM);
    }
    let server = by.as_ref().and_then(|by| workloads.get(&WorkloadId::new(tenant.clone(), by.clone())));
    let run = server.map(|workload| &workload.value.run);
    // A target that is given but wrong is not the same as none.
    let to = fields.get("to").map_or(Some(None), |node| target(node, run, ports.as_deref(), report).map(Some));
    let export = fields.get("export").map(|node| export(node, tenant, known, report)).unwrap_or_default();
    if let Some(node) = fields.get("balance") {
        balance(node, report);
    }
    Some(Service {
        by: by?,
        ports: ports?,
        to: to?,
        export,
        limits: Limits::default(),
        health: None,
        source: Source::default(),
        balance: Balance::default(),
        idle: None,
        at: report.location(entry.key),
    })
}

/// The serving workload's name, also when that workload's own entry is wrong.
fn server(node: &Node, tenant: &TenantName, known: &Known, report: &mut Report<'_>) -> Option<WorkloadName> {
    let name = node.parse::<WorkloadName>("a workload's name", report)?;
    let declared = known.tenants.get(tenant)?;
    if !declared.workloads.contains(&name) {
        let names = declared.workloads.iter().map(WorkloadName::as_str);
        reference("workload", name.as_str(), node.mark, names, report);
        return None;
    }
    Some(name)
}

/// `port:` or `ports:`; `None` when neither is there or they are wrong.
pub(super) fn ports(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Vec<Port>> {
    let node = match (fields.get("port"), fields.get("ports")) {
        (Some(_), Some(both)) => {
            report.hinted(both.mark, "both `port` and `ports` are given", "keep `ports` for several");
            return None;
        }
        (Some(node), None) => {
            let port = node.parse::<Port>("a port", report)?;
            return Some(vec![port]);
        }
        (None, Some(node)) => node,
        (None, None) => return None,
    };
    let ports = node.set::<Port>("`ports`", "a port", report);
    if ports.is_empty() { None } else { Some(ports.into_iter().map(|(port, _)| port).collect()) }
}

fn export(node: &Node, tenant: &TenantName, known: &Known, report: &mut Report<'_>) -> Vec<TenantName> {
    let tenants = node.set::<TenantName>("`export`", "a tenant's name", report);
    for (other, at) in &tenants {
        if other == tenant {
            report.error(*at, format!("`{tenant}` is the service's own tenant: nothing has to be exported to it"));
        } else if !known.tenants.contains_key(other) {
            reference("tenant", other.as_str(), *at, known.tenants.keys().map(TenantName::as_str), report);
        }
    }
    tenants.into_iter().map(|(tenant, _)| tenant).collect()
}

fn balance(node: &Node, report: &mut Report<'_>) {
    if let Some(text) = node.text("a way of balancing", report)
        && text != BALANCE
    {
        report.hinted(
            node.mark,
            format!("`balance: {text}` is not known"),
            format!("`{BALANCE}` is the only one, and the default"),
        );
    }
}

/// Where the endpoint listens: `IP:PORT`, `IP` at the service's port, or `:PORT` at the usual address.
fn target(node: &Node, run: Option<&Run>, ports: Option<&[Port]>, report: &mut Report<'_>) -> Option<SocketAddr> {
    let text = node.text("an address with a port", report)?;
    let ports = ports?;
    let &[port] = ports else {
        let message = format!("`to` names one endpoint, and the service has {} ports", ports.len());
        report.hinted(node.mark, message, "write a service for each port that needs it");
        return None;
    };
    let wrong = |report: &mut Report<'_>| {
        report.hinted(node.mark, format!("`{text}` is not an address with a port"), TO_FORM);
        None
    };
    if let Some(number) = text.strip_prefix(':') {
        return match number.parse::<Port>() {
            Ok(target) if number.bytes().all(|byte| byte.is_ascii_digit()) => Some(usual(run, target.number)),
            Ok(_) | Err(_) => wrong(report),
        };
    }
    match super::hosts::socket_address(text, port.number) {
        Some(to) if to.port() != 0 => reachable(to, run, node.mark, report),
        Some(_) | None => wrong(report),
    }
}

/// The usual address of a workload's endpoints, with another port: the unspecified one stands for the interface's.
fn usual(run: Option<&Run>, port: u16) -> SocketAddr {
    let ip = match run {
        Some(Run::User(_)) => Ipv4Addr::LOCALHOST,
        Some(Run::Netns(_)) | None => Ipv4Addr::UNSPECIFIED,
    };
    SocketAddr::new(IpAddr::V4(ip), port)
}

fn reachable(to: SocketAddr, run: Option<&Run>, at: Mark, report: &mut Report<'_>) -> Option<SocketAddr> {
    let hint = format!("leave the address out: `to: :{}`", to.port());
    if to.ip().is_unspecified() || to.ip().is_multicast() {
        report.hinted(at, format!("`{}` is no endpoint's address", to.ip()), hint);
        return None;
    }
    match run {
        Some(Run::Netns(_)) if to.ip().is_loopback() => {
            let hint = format!("let it listen on its interface's address or on all, and write `to: :{}`", to.port());
            let message = format!("`{}` cannot be reached from outside the workload's network namespace", to.ip());
            report.hinted(at, message, hint);
            None
        }
        Some(Run::Netns(_) | Run::User(_)) | None => Some(to),
    }
}
