//! `hosts:` the machines.

use super::{Hosts, Placed};
use crate::{
    HostName, ZoneName,
    agent::DEFAULT_PORT,
    graph::{Host, Ranges},
    yaml::{Entry, Mark, Node, Report, Shape, Value},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

const HOST: Shape = Shape { what: "a host", keys: &["zone", "address"], later: &[] };

pub(super) fn read(entries: &[Entry<'_, HostName>], report: &mut Report<'_>) -> Hosts {
    let mut hosts = BTreeMap::new();
    for entry in entries {
        let mut host = Host { zone: None, address: None, at: report.location(entry.key) };
        let mut mark = entry.key;
        // `alpha:` with nothing after it is a host with neither zone nor address.
        if !matches!(entry.node.value, Value::Nothing)
            && let Some(fields) = HOST.read(entry.node, entry.key, report)
        {
            host.zone = fields.get("zone").and_then(|node| node.parse::<ZoneName>("a zone's name", report));
            if let Some(node) = fields.get("address") {
                mark = node.mark;
                host.address = address(node, DEFAULT_PORT, report);
            }
        }
        hosts.insert(entry.name.clone(), Placed { value: host, mark });
    }
    hosts
}

/// An address that others can send to, with or without a port.
pub(super) fn address(node: &Node, default_port: u16, report: &mut Report<'_>) -> Option<SocketAddr> {
    let text = node.text("an address", report)?;
    let Some(address) = socket_address(text, default_port) else {
        let hint = format!("write an IP address, or one with a port as in `192.0.2.7:{default_port}`");
        report.hinted(node.mark, format!("`{text}` is not an address"), hint);
        return None;
    };
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        report.error(node.mark, format!("nobody can be reached at `{text}`"));
        return None;
    }
    Some(address)
}

/// `192.0.2.7`, `192.0.2.7:53`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:53`.
pub(super) fn socket_address(text: &str, default_port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let of_ip = || bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port));
    text.parse().ok().or_else(of_ip)
}

/// Hosts must be told apart by address, and be reachable outside the fabric.
pub(super) fn check(hosts: &Hosts, ranges: Option<&Ranges>, report: &mut Report<'_>) {
    let mut taken: BTreeMap<SocketAddr, (Mark, &HostName)> = BTreeMap::new();
    let mut in_order: Vec<_> = hosts.iter().collect();
    in_order.sort_by_key(|(_, host)| (host.mark.line, host.mark.column));
    for (name, host) in in_order {
        let Some(address) = host.value.address else { continue };
        if let Some((earlier, other)) = taken.insert(address, (host.mark, name)) {
            report.error(host.mark, format!("{address} is already the address of `{other}` on line {}", earlier.line));
        }
        if ranges.is_some_and(|ranges| ranges.contain(address.ip())) {
            let hint =
                "hosts reach each other outside the fabric; give `ranges:` others if the host's address must stay";
            report.hinted(host.mark, format!("{} lies in the fabric's own ranges", address.ip()), hint);
        }
    }
}
