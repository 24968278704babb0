//! Where hosts are to be reached: where the graph says, or else where they say by their records that others see them.
//!
//! A record is its host's own word, so that it leads nobody astray but those that call that host; and who answers at an address
//! has to show that host's certificate. A host of the graph alone is dialled, at [`ADDRESSES_MAX`] places at most.
//!
//! [`ADDRESSES_MAX`]: ripstop_datapath::session::hearsay::ADDRESSES_MAX

use ripstop_config::{HostName, graph::Ranges};
use ripstop_datapath::session::hearsay::Hearsay;
use ripstop_policy::Policy;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// What records say of where hosts are, by host.
pub(super) type Places = BTreeMap<HostName, Vec<SocketAddr>>;

/// Where records say that hosts of the policy are.
pub(super) fn by_records(hearsay: &Hearsay, policy: &Policy, now: Instant) -> Places {
    let (mut places, ranges) = (hearsay.addresses(now), policy.graph().ranges);
    places.retain(|host, addresses| {
        addresses.retain(|address| is_outside(*address, &ranges));
        policy.graph().hosts.contains_key(host) && !addresses.is_empty()
    });
    places
}

/// Those of hosts of which the graph says nothing: their records alone say where to dial them.
pub(super) fn without_address(places: &Places, policy: &Policy) -> Places {
    let hosts = &policy.graph().hosts;
    let is_unplaced = |host: &HostName| hosts.get(host).is_some_and(|host| host.address.is_none());
    places.iter().filter(|(host, _)| is_unplaced(host)).map(|(host, places)| (host.clone(), places.clone())).collect()
}

/// Whether another host may be there. In the fabric's own ranges none is, and what was sent there would come back into it.
fn is_outside(address: SocketAddr, ranges: &Ranges) -> bool {
    let ip = address.ip().to_canonical();
    let is_nobodys = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_broadcast(ip);
    address.port() != 0 && !is_nobodys && !ranges.contain(ip)
}

fn is_broadcast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ripstop_config::Graph;
    use ripstop_datapath::session::hearsay::Said;
    use ripstop_policy::BundleId;
    use ripstop_transport::Stamp;
    use std::time::Duration;

    fn said(addresses: &[&str]) -> Said {
        Said {
            record: Bytes::new(),
            stamp: Stamp { issued: 1, life: 10 },
            policy: BundleId::default(),
            endpoints: Vec::new(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_host_is_where_its_record_says_outside_of_the_fabric() {
        let graph = "fabric: lab.test\nhosts: { alpha: {}, beta: { address: 192.0.2.2 }, gamma: {}, delta: {} }\ntenants: { shop: {} }\n";
        let policy = ripstop_policy::compile(Graph::parse("g", graph).unwrap()).unwrap();
        let name = |text| HostName::new(text).unwrap();
        let (hearsay, now) = (Hearsay::new(name("alpha"), 7), Instant::now());
        let nowhere = [
            "0.0.0.0:7477",
            "127.0.0.1:7477",
            "[::1]:22",
            "[::ffff:127.0.0.1]:22",
            "224.0.0.1:7477",
            "[ff02::1]:7477",
            "255.255.255.255:7477",
            "198.18.0.1:53",
            "198.19.0.1:7477",
            "192.0.2.9:0",
        ];
        for (host, addresses) in [
            ("beta", &["192.0.2.7:7477"][..]),
            ("gamma", &["192.0.2.3:7477", "198.18.0.9:7477", "[2001:db8::3]:7477"]),
            ("delta", &nowhere),
            ("unknown", &["192.0.2.66:7477"]),
        ] {
            hearsay.take(&name(host), said(addresses), Duration::from_secs(10), now);
        }
        let places = by_records(&hearsay, &policy, now);
        let shown =
            |places: &Places, host| places.get(&name(host)).map(|all| all.iter().map(ToString::to_string).collect());
        let gamma = Some(vec!["192.0.2.3:7477".to_owned(), "[2001:db8::3]:7477".to_owned()]);
        assert_eq!((shown(&places, "gamma"), places.len()), (gamma.clone(), 2), "{places:?}");
        let alone = without_address(&places, &policy);
        assert_eq!((shown(&alone, "gamma"), alone.len()), (gamma, 1), "the graph says where beta is");
    }
}
