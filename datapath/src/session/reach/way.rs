//! By which way an endpoint is reached, and whom it sees there.
//!
//! | endpoint | way | it sees |
//! |---|---|---|
//! | in a namespace | its interface | the caller's fabric address |
//! | a user, a control group, the host | the host's own sockets | 127.0.0.1, `::1` |
//! | a user, `source: preserve` | its interface | the caller's fabric address |
//! | the same, and the caller is on this host as well | the host's own sockets | the caller's fabric address |
//!
//! A UDP server that is bound to no address is an exception to the last: it answers a host's own address from that very
//! address, so it is called through its interface, from the service's address.
//!
//! In the last case the address is the host's own: the kernel would drop what comes from outside with it, and answers go
//! by loopback. A check, and a workload in a namespace that calls itself or another of its replicas, come from the service's address.

use crate::session::context::Context;
use ripstop_config::graph::Source;
use ripstop_policy::{Policy, ServiceEntry, WorkloadIx};
use std::net::{IpAddr, SocketAddr};

/// In whose name an endpoint is called.
#[derive(Debug, Clone, Copy)]
pub enum Caller {
    /// In nobody's, to see whether it is well: from the service's own address, which is no workload's.
    Nobody,
    /// In a workload's, which uses this port itself.
    Workload(WorkloadIx, u16),
}

/// The way to an address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through its workload's interface, from this address, and this port unless it is 0.
    Interface(SocketAddr),
    /// By a socket of the host, from this address if there is one, and its port unless that is 0.
    Host(Option<SocketAddr>),
}

impl Way {
    /// The way to an endpoint's address of one family.
    #[must_use]
    pub(crate) fn of(context: &Context, policy: &Policy, service: &ServiceEntry, caller: Caller, v4: bool) -> Self {
        let on_host = !policy.workload_entry(service.by).run.has_namespace();
        let of_service = if v4 { IpAddr::V4(service.v4) } else { IpAddr::V6(service.v6) };
        match (on_host, service.source, caller) {
            (true, Source::Usual | Source::ProxyV2, _) => Self::Host(None),
            (_, _, Caller::Nobody) => Self::Interface(SocketAddr::new(of_service, 0)),
            (_, _, Caller::Workload(caller, port)) => {
                let entry = policy.workload_entry(caller);
                let own = SocketAddr::new(if v4 { IpAddr::V4(entry.v4) } else { IpAddr::V6(entry.v6) }, port);
                let is_of_host = || context.interfaces_of(&entry.id).iter().any(|one| one.programs().is_some());
                match (on_host, caller == service.by) {
                    (true, _) if is_of_host() => Self::Host(Some(own)),
                    (false, true) => Self::Interface(SocketAddr::new(of_service, port)),
                    (_, _) => Self::Interface(own),
                }
            }
        }
    }
}
