//! The way to an endpoint on this host.

use super::{
    listener::Listener,
    relay::{Inlet, Outlet, Relay},
};
use crate::{
    interface::{Interface, UdpFlow},
    session::{
        context::Context,
        live::Request,
        pump::Way,
        reach::{Unreached, source, target},
    },
};
use ripstop_config::{Reason, graph::Run};
use ripstop_policy::{Policy, ServiceEntry, WorkloadIx};
use std::{net::SocketAddr, rc::Rc};

/// An endpoint that was found; dropped, nothing of it is left.
pub struct Reached {
    way: EndpointWay,
    interface: Rc<Interface>,
}

/// How its datagrams go.
enum EndpointWay {
    /// Through the interface of its workload.
    Interface(UdpFlow, Rc<Inlet>),
    /// Through the host's own UDP.
    Kernel(Rc<Listener>),
}

impl Reached {
    /// Where datagrams for the endpoint go.
    pub(super) fn outlet(&self) -> Outlet {
        match &self.way {
            EndpointWay::Interface(flow, _) => Outlet::Flow(Rc::clone(flow.interface()), flow.key()),
            EndpointWay::Kernel(listener) => Outlet::Socket(Rc::clone(listener)),
        }
    }

    /// The interface of the workload that serves.
    pub(super) fn interface(&self) -> &Rc<Interface> {
        &self.interface
    }

    /// The session is open: the endpoint's datagrams go its way. What is returned is kept until its end.
    pub(super) fn open(self, relay: &Rc<Relay>) -> (Option<Rc<Listener>>, Option<UdpFlow>) {
        match self.way {
            EndpointWay::Interface(flow, inlet) => {
                inlet.open(relay);
                (None, Some(flow))
            }
            EndpointWay::Kernel(listener) => (Some(listener), None),
        }
    }
}

/// Finds the way to the endpoint of a service on this host, for a caller that uses `port` itself.
///
/// # Errors
/// [`Unreached`] when it has no interface, or somebody else listens.
pub async fn reach(
    context: &Rc<Context>,
    policy: &Policy,
    service: &ServiceEntry,
    caller: WorkloadIx,
    request: &Request,
    port: u16,
) -> Result<Reached, Unreached> {
    let target = target(policy, service, request);
    let by = policy.workload_entry(service.by);
    let unreached = |reason, more| Unreached { reason, detail: format!("{} {target}{more}", context.host) };
    let interface = context.interface(&by.id).ok_or_else(|| unreached(Reason::NoInterface, String::new()))?;
    let way = match by.run {
        Run::User(_) => {
            let listener = Listener::connect(context, target, interface.user()).await;
            EndpointWay::Kernel(listener.map_err(|(reason, why)| unreached(reason, why))?)
        }
        Run::Netns(_) => {
            let from = SocketAddr::new(source(policy, service, caller, target.is_ipv4()), port);
            let inlet = Inlet::new(Way::Down);
            let flow = interface.reach_udp(from, target, Rc::clone(&inlet) as _);
            EndpointWay::Interface(flow.map_err(|reason| unreached(reason, String::new()))?, inlet)
        }
    };
    Ok(Reached { way, interface })
}
