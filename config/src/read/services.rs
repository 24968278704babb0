//! `services:` the names that may be called.

use super::{Known, Placed, Services, Tenant, Workloads, balance, health, limits};
use crate::{
    Port, Protocol, ServiceId, ServiceName, TenantName, WorkloadId, WorkloadName,
    graph::{Export, Run, Service, Source},
    yaml::{Entry, Fields, Mark, Node, Report, Shape, reference},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

const SERVICE: Shape = Shape {
    what: "a service",
    keys: &["by", "port", "ports", "to", "export", "limit", "health", "source", "proxy-protocol", "balance", "idle"],
    later: &[
        ("egress", "services outside the fabric come later"),
        ("ingress", "services published outside the fabric come later"),
    ],
};
const BY_FORM: &str = "write `by: WORKLOAD` with the workload that serves it";
const PORT_FORM: &str = "write `port: 8080/tcp`, or `ports: [8080/tcp, 8443/tcp]`";
const TO_FORM: &str = "write `to: 127.0.0.1:8080`, or `to: :8080` for another port alone";

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
    let server = server.map(|workload| &workload.value);
    let run = server.map(|workload| &workload.run);
    let source = source(&fields, ports.as_deref(), report);
    if let (Some(Run::Cgroup(_) | Run::Host), Some(Source::Preserve), Some(node)) = (run, source, fields.get("source"))
    {
        let hint = "use `proxy-protocol: v2`, or give the workload a user or a namespace of its own";
        report.hinted(node.mark, "`source: preserve` is for endpoints that are users or in namespaces", hint);
        return None;
    }
    // A target that is given but wrong is not the same as none.
    let to = fields.optional("to", |node| target(node, run, source.unwrap_or_default(), ports.as_deref(), report));
    let export = fields.get("export").map(|node| export(node, tenant, known, report)).unwrap_or_default();
    let limits = limits::read(&fields, report);
    let health = health::read(&fields, ports.as_deref(), report);
    let idle = health::idle(&fields, ports.as_deref(), report);
    let balance = fields.optional("balance", |node| balance::read(node, server, known, report));
    Some(Service {
        by: by?,
        ports: ports?,
        to: to?,
        export,
        limits: limits?,
        health: health?,
        source: source?,
        balance: balance?.unwrap_or_default(),
        idle: idle?,
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

fn export(node: &Node, tenant: &TenantName, known: &Known, report: &mut Report<'_>) -> Vec<Export> {
    let tenants = node.set::<TenantName>("`export`", "a tenant's name", report);
    for (other, at) in &tenants {
        if other == tenant {
            report.error(*at, format!("`{tenant}` is the service's own tenant: nothing has to be exported to it"));
        } else if !known.tenants.contains_key(other) {
            reference("tenant", other.as_str(), *at, known.tenants.keys().map(TenantName::as_str), report);
        }
    }
    tenants.into_iter().map(|(to, at)| Export { to, at: report.location(at) }).collect()
}

/// From where endpoints see their callers come; `None` when that is wrong.
fn source(fields: &Fields<'_>, ports: Option<&[Port]>, report: &mut Report<'_>) -> Option<Source> {
    let source = fields.optional("source", |node| match node.text("a source", report)? {
        "usual" => Some(Source::Usual),
        "preserve" => Some(Source::Preserve),
        other => {
            let hint = "`preserve` is the caller's own address; `usual`, the default, what an endpoint sees without it";
            report.hinted(node.mark, format!("`source: {other}` is not known"), hint);
            None
        }
    });
    let proxy = fields.optional("proxy-protocol", |node| proxy(node, ports, report));
    match (source?.unwrap_or_default(), proxy?) {
        (source, None) => Some(source),
        (Source::Preserve, Some(at)) => {
            let hint = "keep one: both tell the endpoint who calls";
            report.hinted(at, "both `source: preserve` and `proxy-protocol` are given", hint);
            None
        }
        (Source::Usual | Source::ProxyV2, Some(_)) => Some(Source::ProxyV2),
    }
}

/// Where a `proxy-protocol` stands that can be had.
fn proxy(node: &Node, ports: Option<&[Port]>, report: &mut Report<'_>) -> Option<Mark> {
    let text = node.text("a version of the PROXY protocol", report)?;
    if text != "v2" {
        report.hinted(node.mark, format!("`proxy-protocol: {text}` is not known"), "`v2` is the only one");
        return None;
    }
    if ports.is_some_and(|ports| ports.iter().any(|port| port.protocol == Protocol::Udp)) {
        let hint = "write a service of its own for the UDP port";
        report.hinted(node.mark, "`proxy-protocol` is for TCP, and the service has a UDP port", hint);
        return None;
    }
    Some(node.mark)
}

/// Where the endpoint listens: `IP:PORT`, `IP` at the service's port, or `:PORT` at the usual address.
fn target(
    node: &Node,
    run: Option<&Run>,
    source: Source,
    ports: Option<&[Port]>,
    report: &mut Report<'_>,
) -> Option<SocketAddr> {
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
            // The unspecified address stands for the one that the workload's endpoints have.
            Ok(target) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), target.number))
            }
            Ok(_) | Err(_) => wrong(report),
        };
    }
    match super::hosts::socket_address(text, port.number) {
        Some(to) if to.port() != 0 => reachable(to, run, source, node.mark, report),
        Some(_) | None => wrong(report),
    }
}

fn reachable(
    to: SocketAddr,
    run: Option<&Run>,
    source: Source,
    at: Mark,
    report: &mut Report<'_>,
) -> Option<SocketAddr> {
    let ip = to.ip();
    if ip.is_unspecified() || ip.is_multicast() {
        let hint = format!("leave the address out: `to: :{}`", to.port());
        report.hinted(at, format!("`{ip}` is no endpoint's address"), hint);
        return None;
    }
    let (message, address) = match run {
        Some(run) if run.has_namespace() && is_loopback(ip) => (
            format!("`{ip}` cannot be reached from outside the workload's network namespace"),
            "its interface's address",
        ),
        Some(_) if is_loopback(ip) && source == Source::Preserve => {
            (format!("`source: preserve` cannot call `{ip}`: only the host itself can"), "its fabric address")
        }
        Some(_) | None => return Some(to),
    };
    report.hinted(at, message, format!("let it listen on {address} or on all, and write `to: :{}`", to.port()));
    None
}

/// Whether an address is the machine's own, also as IPv6 writes IPv4 ones (RFC 4291 section 2.5.5.2).
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
