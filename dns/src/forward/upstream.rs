//! Which resolvers are asked, and which never are.

use ripstop_config::graph::Ranges;
use std::net::{IpAddr, SocketAddr};

/// The port of DNS (RFC 1035 section 4.2).
const PORT: u16 = 53;
/// Most upstream resolvers that are kept: a query can wait for no more than a few of them.
const UPSTREAMS_MAX: usize = 8;

/// The resolvers that are asked for names outside the fabric, in order of preference. May be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams(Vec<SocketAddr>);

impl Upstreams {
    /// These resolvers; the first eight, each once.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut kept = Vec::new();
        for server in servers {
            if !kept.contains(&server) && kept.len() < UPSTREAMS_MAX {
                kept.push(server);
            }
        }
        Self(kept)
    }

    /// The `nameserver` lines of a `resolv.conf`. Other lines, and addresses that need a scope (`fe80::1%eth0`), are
    /// passed over.
    #[must_use]
    pub fn from_resolv_conf(text: &str) -> Self {
        Self::new(text.lines().filter_map(nameserver))
    }

    /// The resolvers, the preferred one first.
    #[must_use]
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.0
    }
}

fn nameserver(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace();
    let address: IpAddr = words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
    let scoped = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!scoped).then(|| SocketAddr::new(address, PORT))
}

/// The ranges of the fabric, for which no outside resolver may speak and in which none may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FabricRanges(Ranges);

impl From<Ranges> for FabricRanges {
    fn from(ranges: Ranges) -> Self {
        Self(ranges)
    }
}

impl FabricRanges {
    /// Whether an address is in one of the ranges, also when it is written as an IPv4-mapped IPv6 address
    /// (RFC 4291 section 2.5.5.2).
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.0.services_v4.contains(&v4) || self.0.workloads_v4.contains(&v4),
            IpAddr::V6(v6) => self.0.v6.contains(&v6),
        }
    }
}

/// Why an upstream resolver is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The address is the fabric resolver's or another of the fabric's.
    #[error("upstream resolver {0} is an address of the fabric: the agent would ask itself; name an outside resolver")]
    Ourselves(SocketAddr),
    /// The address is of no one host, or the port is 0.
    #[error("upstream resolver {0} is not an address that can be asked")]
    NotAnAddress(SocketAddr),
}

/// Checks that every resolver is outside the fabric.
pub(super) fn check(upstreams: &Upstreams, refuse: &FabricRanges) -> Result<(), UpstreamError> {
    for server in upstreams.as_slice() {
        let address = server.ip();
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if server.port() == 0 || address.is_unspecified() || address.is_multicast() || broadcast {
            return Err(UpstreamError::NotAnAddress(*server));
        }
        if refuse.contains(address) {
            return Err(UpstreamError::Ourselves(*server));
        }
    }
    Ok(())
}
