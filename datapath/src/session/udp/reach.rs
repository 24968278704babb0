//! The way to an endpoint on this host.

use super::{
    flow::EndpointFlow,
    listener::Listener,
    relay::{Outlet, Relay},
};
use crate::{
    interface::Interface,
    packet::FlowKey,
    session::{
        context::Context,
        live::Request,
        reach::{Caller, Found, Targets, Unreached, Way, among, telling},
    },
};
use ripstop_config::{Protocol, Reason};
use ripstop_policy::{Policy, ServiceEntry};
use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

/// An endpoint that was found; dropped, nothing of it is left.
pub struct Reached {
    way: EndpointWay,
    interface: Rc<Interface>,
}

/// How its datagrams go.
pub(super) enum EndpointWay {
    /// Through the interface of its workload.
    Interface(Rc<EndpointFlow>),
    /// Through the host's own UDP.
    Kernel(Rc<Listener>),
}

impl Reached {
    /// Where datagrams for the endpoint go.
    pub(super) fn outlet(&self) -> Outlet {
        match &self.way {
            EndpointWay::Interface(flow) => Outlet::Endpoint(Rc::downgrade(flow)),
            EndpointWay::Kernel(listener) => Outlet::Socket(Rc::clone(listener)),
        }
    }

    /// The flow by which its packets pass that interface, if they do.
    pub(in crate::session) fn flow(&self) -> Option<FlowKey> {
        match &self.way {
            EndpointWay::Interface(flow) => Some(flow.key()),
            EndpointWay::Kernel(_) => None,
        }
    }

    /// The interface of the workload that serves.
    pub(super) fn interface(&self) -> &Rc<Interface> {
        &self.interface
    }

    /// The session is open: the endpoint's datagrams go its way. What is returned is kept until its end.
    pub(super) fn open(self, relay: &Rc<Relay>) -> EndpointWay {
        if let EndpointWay::Interface(flow) = &self.way {
            flow.inlet().open(relay);
        }
        self.way
    }
}

/// Finds the way to the endpoint of a service on this host, and says to which address it leads.
///
/// # Errors
/// [`Unreached`] when it has no interface, or, as far as that can be known before it is sent anything, somebody else
/// listens or nobody does.
pub async fn reach(
    context: &Rc<Context>,
    policy: &Policy,
    service: &ServiceEntry,
    caller: Caller,
    request: &Request,
) -> Result<Found<Reached>, Unreached> {
    let attempt = async |interface: &Rc<Interface>| {
        let targets = request.targets(policy, service);
        reach_by(context, policy, service, caller, interface, targets).await
    };
    among(context, service, request, attempt).await
}

async fn reach_by(
    context: &Rc<Context>,
    policy: &Policy,
    service: &ServiceEntry,
    caller: Caller,
    interface: &Rc<Interface>,
    targets: Targets,
) -> Result<(Reached, SocketAddr), Unreached> {
    let targets = context.families.order(Protocol::Udp, targets.within(interface));
    let at = async |targets: Targets| {
        let way = at(context, policy, service, caller, interface, targets).await;
        let found = way.map(|way| (Reached { way, interface: Rc::clone(interface) }, targets.first));
        found
            .map_err(|(reason, more)| Unreached { reason, detail: format!("{} {}{more}", context.host, targets.first) })
    };
    let first = match at(targets).await {
        Ok(found) => return Ok(found),
        Err(unreached) => unreached,
    };
    let Some(other) = targets.other else { return Err(first) };
    let found = at(Targets { first: other, other: None }).await.map_err(|other| telling(first, other))?;
    context.families.absent(Protocol::Udp, targets.first);
    Ok(found)
}

async fn at(
    context: &Rc<Context>,
    policy: &Policy,
    service: &ServiceEntry,
    caller: Caller,
    interface: &Rc<Interface>,
    targets: Targets,
) -> Result<EndpointWay, (Reason, String)> {
    let target = targets.first;
    let way = |v4| Way::of(context, policy, service, caller, v4);
    match way(target.is_ipv4()) {
        Way::Interface(_) if interface.programs().is_some() && !interface.owns(target.ip()) => {
            Err((Reason::EndpointUnreachable, ", not an address of the workload's interface".into()))
        }
        Way::Interface(from) => {
            let from = |v4| match way(v4) {
                Way::Interface(from) => from,
                // The way is of the service and its caller, not of a family.
                Way::Host(_) => from,
            };
            EndpointFlow::open(context, interface, targets, from).map(EndpointWay::Interface)
        }
        Way::Host(from) => {
            // Whose programs they are is not known any more where the graph has just changed the workload's kind.
            let programs = interface.programs().ok_or((Reason::NoInterface, String::new()))?;
            let listener = Listener::connect(context, from, target, programs).await?;
            match from {
                Some(from) if listener.is_anywhere() && from.ip() != target.ip() => {
                    drop(listener);
                    let service = |v4| if v4 { IpAddr::V4(service.v4) } else { IpAddr::V6(service.v6) };
                    let from = |v4| SocketAddr::new(service(v4), from.port());
                    EndpointFlow::open(context, interface, targets, from).map(EndpointWay::Interface)
                }
                Some(_) | None => Ok(EndpointWay::Kernel(listener)),
            }
        }
    }
}
