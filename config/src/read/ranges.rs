//! `ranges:` the fabric's addresses.

use crate::{
    FabricName,
    graph::Ranges,
    yaml::{Mark, Node, Report, Shape},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RANGES: Shape = Shape { what: "`ranges`", keys: &["services", "workloads", "v6"], later: &[] };

/// Virtual addresses of services unless the graph says otherwise (RFC 2544, the benchmarking range: used nowhere else).
const SERVICES_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 16);
/// Addresses of workloads unless the graph says otherwise.
const WORKLOADS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 19, 0, 0), 16);
/// Locally assigned unique local addresses (RFC 4193 section 3.1).
const LOCAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 8);
/// A site's prefix (RFC 4193 section 3.1): 8 bits, then the 40 of the global ID.
const V6_PREFIX: u8 = 48;

/// Addresses of a services' range that no service can have: network, broadcast and the resolver's.
const RESERVED_SERVICES: u64 = 3;
/// Addresses of a workloads' range that no workload can have: network and broadcast.
const RESERVED_WORKLOADS: u64 = 2;

impl Ranges {
    /// The ranges of a fabric whose graph gives none.
    #[must_use]
    pub fn of(fabric: &FabricName) -> Self {
        Self { services_v4: SERVICES_V4, workloads_v4: WORKLOADS_V4, v6: v6_of(fabric) }
    }

    /// Whether an address lies in any of them.
    #[must_use]
    pub fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.services_v4.contains(&ip) || self.workloads_v4.contains(&ip),
            IpAddr::V6(ip) => self.v6.contains(&ip),
        }
    }
}

/// A /48 of `fd00::/8` with a global ID from the fabric's name (RFC 4193 section 3.2.2 takes it from a hash too).
fn v6_of(fabric: &FabricName) -> Ipv6Net {
    let hash = Sha256::new().chain_update("fabric/").chain_update(fabric.as_str()).finalize();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), V6_PREFIX)
}

/// Reads the ranges; `sizes` are the numbers of services and of workloads that must fit.
pub(super) fn read(
    node: Option<&Node>,
    fabric: Option<&FabricName>,
    sizes: (usize, usize),
    report: &mut Report<'_>,
) -> Option<Ranges> {
    let fields = match node {
        Some(node) => Some(RANGES.read(node, node.mark, report)?),
        None => None,
    };
    let given = |key: &str| fields.as_ref().and_then(|fields| fields.get(key));
    let services = v4(given("services"), SERVICES_V4, report);
    let workloads = v4(given("workloads"), WORKLOADS_V4, report);
    let v6 = v6(given("v6"), fabric, report);
    let (services, workloads, v6) = (services?, workloads?, v6?);
    // Without `ranges:` there is no better place to blame for a default that does not suit.
    let at = |key: &str| given(key).or(node).map_or(Mark::START, |node| node.mark);
    if services.contains(&workloads) || workloads.contains(&services) {
        report.error(at("workloads"), format!("the ranges {services} and {workloads} overlap"));
    }
    room(services, RESERVED_SERVICES, sizes.0, "services", at("services"), report);
    room(workloads, RESERVED_WORKLOADS, sizes.1, "workloads", at("workloads"), report);
    Some(Ranges { services_v4: services, workloads_v4: workloads, v6 })
}

fn room(range: Ipv4Net, reserved: u64, needed: usize, what: &str, at: Mark, report: &mut Report<'_>) {
    let room = (1_u64 << (32 - u32::from(range.prefix_len()))).saturating_sub(reserved);
    if room < (needed as u64).max(1) {
        let hint = format!("give `ranges: {what}:` a shorter prefix than /{}", range.prefix_len());
        report.hinted(at, format!("the range {range} has room for {room}, the graph has {needed} {what}"), hint);
    }
}

fn v4(node: Option<&Node>, default: Ipv4Net, report: &mut Report<'_>) -> Option<Ipv4Net> {
    let Some(node) = node else { return Some(default) };
    let range = match network(node, "198.18.0.0/16", report)? {
        IpNet::V4(range) => range,
        IpNet::V6(range) => {
            report.hinted(node.mark, format!("`{range}` is not an IPv4 range"), "IPv6 has one range: `v6`");
            return None;
        }
    };
    let ip = range.network();
    // Routed elsewhere by every kernel, whatever a fabric's routes say.
    if ip.is_unspecified() || ip.is_loopback() || ip.is_link_local() || ip.octets()[0] >= 224 || range.prefix_len() < 8
    {
        report.hinted(
            node.mark,
            format!("`{range}` cannot be a fabric's range"),
            "take private addresses, such as 10.42.0.0/16",
        );
        return None;
    }
    Some(range)
}

fn v6(node: Option<&Node>, fabric: Option<&FabricName>, report: &mut Report<'_>) -> Option<Ipv6Net> {
    let Some(node) = node else { return fabric.map(v6_of) };
    match network(node, "fd12:3456:789a::/48", report)? {
        IpNet::V6(range) if range.prefix_len() == V6_PREFIX && LOCAL_V6.contains(&range) => Some(range),
        range @ (IpNet::V6(_) | IpNet::V4(_)) => {
            report.hinted(
                node.mark,
                format!("`{range}` is not a /48 of fd00::/8"),
                "leave `v6` out: the fabric's name gives one",
            );
            None
        }
    }
}

fn network(node: &Node, example: &str, report: &mut Report<'_>) -> Option<IpNet> {
    let text = node.text("a range of addresses", report)?;
    let Ok(range) = text.parse::<IpNet>() else {
        report.hinted(node.mark, format!("`{text}` is not a range of addresses"), format!("write it as `{example}`"));
        return None;
    };
    if range.addr() != range.network() {
        let hint = format!("did you mean `{}`?", range.trunc());
        report.hinted(node.mark, format!("`{text}` has bits set beyond its prefix"), hint);
        return None;
    }
    Some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v6_range_comes_from_the_name_alone() {
        let range = |name: &str| Ranges::of(&FabricName::new(name).unwrap()).v6;
        assert_eq!(range("shop.example"), range("shop.example"));
        assert_ne!(range("shop.example"), range("shop2.example"));
        assert!(LOCAL_V6.contains(&range("shop.example")));
        assert_eq!(range("shop.example").prefix_len(), 48);
    }
}
