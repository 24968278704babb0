//! Where an endpoint listens on this host, and which of its addresses is tried first.

use crate::interface::Interface;
use ripstop_config::{Protocol, graph::Source};
use ripstop_policy::{Policy, ServiceEntry};
use rustc_hash::FxHashMap;
use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

/// For how long it is remembered that an endpoint listens on one family only: every session would knock twice, and a
/// kernel answers knocks at closed UDP ports about once a second (`icmp_ratelimit`).
const REMEMBERED: Duration = Duration::from_secs(5);
/// Addresses remembered at most; a host has far fewer endpoints.
const REMEMBERED_MAX: usize = 4_096;

/// Where the endpoint of a service listens on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// By the graph, or at the usual address of the caller's family.
    pub first: SocketAddr,
    /// At the usual address of the other family; the graph names one address or none.
    pub other: Option<SocketAddr>,
}

impl Targets {
    /// The places for a call of one of the service's ports, by IPv6 or not.
    #[must_use]
    pub fn of(policy: &Policy, service: &ServiceEntry, port: u16, v6: bool) -> Self {
        let by = policy.workload_entry(service.by);
        let (own_v4, own_v6) = match (by.run.has_namespace(), service.source) {
            (false, Source::Usual | Source::ProxyV2) => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            (false, Source::Preserve) | (true, _) => (by.v4, by.v6),
        };
        let usual = |port| {
            let [v4_at, v6_at] = [IpAddr::V4(own_v4), IpAddr::V6(own_v6)].map(|ip| SocketAddr::new(ip, port));
            let (first, other) = if v6 { (v6_at, v4_at) } else { (v4_at, v6_at) };
            Self { first, other: Some(other) }
        };
        match service.to {
            // Only the port is given.
            Some(to) if to.ip().is_unspecified() => usual(to.port()),
            Some(to) => Self { first: to, other: None },
            None => usual(port),
        }
    }

    /// The same places with another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.first.set_port(port);
        if let Some(other) = &mut self.other {
            other.set_port(port);
        }
        self
    }

    /// Those that a workload with this interface can have.
    #[must_use]
    pub(crate) fn within(self, interface: &Interface) -> Self {
        match self.other {
            Some(other) if !interface.has_v6() && self.first.is_ipv6() => Self { first: other, other: None },
            Some(_) if !interface.has_v6() => Self { other: None, ..self },
            Some(_) | None => self,
        }
    }
}

/// Endpoints that were found at one of their addresses only, a short while ago.
#[derive(Default)]
pub struct Families(RefCell<FxHashMap<(Protocol, SocketAddr), Instant>>);

impl Families {
    /// The places with the likelier one first: the caller's family, unless nobody was there a moment ago.
    #[must_use]
    pub(crate) fn order(&self, protocol: Protocol, targets: Targets) -> Targets {
        let absent = self.0.borrow().get(&(protocol, targets.first)).is_some_and(|at| at.elapsed() < REMEMBERED);
        match targets.other {
            Some(other) if absent => Targets { first: other, other: Some(targets.first) },
            Some(_) | None => targets,
        }
    }

    /// Nobody was there, but at the endpoint's other address.
    pub(crate) fn absent(&self, protocol: Protocol, target: SocketAddr) {
        let mut absent = self.0.borrow_mut();
        if absent.len() >= REMEMBERED_MAX {
            absent.retain(|_, at| at.elapsed() < REMEMBERED);
        }
        if absent.len() < REMEMBERED_MAX {
            absent.insert((protocol, target), Instant::now());
        }
    }
}
