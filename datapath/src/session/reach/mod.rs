//! The way to an endpoint on this host, for a session whose caller is allowed to have it.
//!
//! 1. [`target`]: where it listens; at its usual address of either family, unless the graph names one.
//! 2. [`among`]: by which of its workload's interfaces, where that is several pods or containers.
//! 3. [`way`]: through its interface, or by the host's own TCP, and from which address.
//! 4. [`listener`]: on the host, whose program took the connection.
//! 5. [`proxy`]: what it is told of the caller first, where it asks for that.

mod among;
mod listener;
pub mod proxy;
mod target;
mod way;

pub use among::Found;
pub(crate) use among::among;
pub use target::{Families, Targets};
pub use way::Caller;
pub(crate) use way::Way;

use super::{
    context::{Context, random},
    live::Request,
    pump::Sink,
    sides::KernelTcp,
};
use crate::{
    interface::{FlowGuard, Interface},
    packet::FlowKey,
    stack::Endpoint,
};
use bytes::Bytes;
use listener::{check_listener, check_owner};
use ripstop_config::{Identity, Protocol, Reason, graph::Source};
use ripstop_policy::{Policy, ServiceEntry};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    rc::Rc,
    time::Duration,
};
use tokio::net::{TcpSocket, TcpStream};

/// How long an endpoint may take to answer, so that another can be tried within the wait for a verdict (10 s).
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How long one address is waited for before the other is tried as well: it is on this machine, where a refusal takes
/// microseconds.
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection to an endpoint, ready for bytes.
pub enum Reached {
    /// Through the interface of a workload.
    User(Rc<Endpoint>, FlowGuard),
    /// Through the host's own TCP.
    Kernel(Rc<TcpStream>),
}

/// Why an endpoint could not be had.
#[derive(Debug)]
pub struct Unreached {
    /// The reason.
    pub reason: Reason,
    /// What was tried, for people.
    pub detail: String,
}

/// What is looked for.
struct Search<'s> {
    context: &'s Context,
    policy: &'s Policy,
    service: &'s ServiceEntry,
    caller: Caller,
    interface: &'s Rc<Interface>,
}

/// Connects to the endpoint of a service on this host, and says where it was.
///
/// # Errors
/// [`Unreached`] with what the endpoint, or its absence, answered.
pub async fn reach(
    context: &Context,
    policy: &Policy,
    service: &ServiceEntry,
    caller: Caller,
    request: &Request,
) -> Result<Found<Reached>, Unreached> {
    let header = proxy_header(policy, service, caller, request);
    let attempt = async |interface: &Rc<Interface>| {
        let search = Search { context, policy, service, caller, interface };
        search.instances(request.targets(policy, service), header.clone()).await
    };
    among(context, service, request, attempt).await
}

/// Connects to an interface of the endpoint's workload on this host to see whether it is well, in nobody's name.
///
/// # Errors
/// [`Unreached`] with what the endpoint, or its absence, answered.
pub async fn probe(
    context: &Context,
    policy: &Policy,
    service: &ServiceEntry,
    interface: &Rc<Interface>,
    targets: Targets,
) -> Result<Reached, Unreached> {
    let search = Search { context, policy, service, caller: Caller::Nobody, interface };
    search.connect(targets, None).await.map(|(reached, _)| reached)
}

/// The connection as the caller made it: from its address to the service's.
fn proxy_header(policy: &Policy, service: &ServiceEntry, caller: Caller, request: &Request) -> Option<Bytes> {
    let (Source::ProxyV2, Caller::Workload(caller, port)) = (service.source, caller) else { return None };
    let caller = policy.workload_entry(caller);
    let (from, to): (IpAddr, IpAddr) =
        if request.v6 { (caller.v6.into(), service.v6.into()) } else { (caller.v4.into(), service.v4.into()) };
    let (from, to) = (SocketAddr::new(from, port), SocketAddr::new(to, request.port.number));
    let identity = Identity::workload(policy.fabric().clone(), caller.id.clone());
    Some(proxy::header(from, to, &service.id.dns_name(policy.fabric()), &identity.to_string()).into())
}

impl Search<'_> {
    /// At one instance after the other, where there are some by the workload's own word.
    async fn instances(&self, targets: Targets, header: Option<Bytes>) -> Result<(Reached, SocketAddr), Unreached> {
        let ports = self.context.endpoints.instances(&self.service.id, self.interface.id());
        let mut instances = ports.into_iter().map(|port| targets.with_port(port));
        let mut targets = instances.next().unwrap_or(targets);
        loop {
            let reached = self.connect(targets, header.clone()).await;
            let refused = matches!(&reached, Err(Unreached { reason: Reason::EndpointRefused, .. }));
            match instances.next().filter(|_| refused) {
                // That instance has ended; another one may not.
                Some(another) => targets = another,
                None => return reached,
            }
        }
    }

    async fn connect(&self, targets: Targets, header: Option<Bytes>) -> Result<(Reached, SocketAddr), Unreached> {
        let unreached = |reason| Unreached { reason, detail: format!("{} {}", self.context.host, targets.first) };
        let reaching = async {
            let (pending, at) = self.find(targets).await?;
            if let Some(header) = header {
                pending.write(header).await.map_err(unreached)?;
            }
            Ok((pending.take().ok_or_else(|| unreached(Reason::EndpointReset))?, at))
        };
        tokio::time::timeout(ANSWER_MAX, reaching).await.unwrap_or_else(|_| Err(unreached(Reason::EndpointTimeout)))
    }

    /// At the likelier address or the other one.
    async fn find(&self, targets: Targets) -> Result<(Pending, SocketAddr), Unreached> {
        let families = &self.context.families;
        let Targets { first, other } = families.order(Protocol::Tcp, targets.within(self.interface));
        let Some(other) = other else { return self.at(first).await };
        let mut trying = pin!(self.at(first));
        let head_start = tokio::time::timeout(HEAD_START, &mut trying).await;
        let (found, missed) = match head_start {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(first)) => (self.at(other).await, Some(first)),
            Err(_) => {
                let mut trying_other = pin!(self.at(other));
                tokio::select! {
                    found = &mut trying => match found {
                        Ok(found) => return Ok(found),
                        Err(first) => (trying_other.await, Some(first)),
                    },
                    found = &mut trying_other => match found {
                        Ok(found) => (Ok(found), None),
                        Err(other) => return trying.await.map_err(|first| telling(first, other)),
                    },
                }
            }
        };
        match (found, missed) {
            (Ok(found), _) => {
                families.absent(Protocol::Tcp, first);
                Ok(found)
            }
            (Err(other), Some(first)) => Err(telling(first, other)),
            (Err(other), None) => Err(other),
        }
    }

    /// At one address.
    async fn at(&self, target: SocketAddr) -> Result<(Pending, SocketAddr), Unreached> {
        let Self { context, policy, service, caller, interface } = self;
        let unreached = |reason, more: &str| Unreached { reason, detail: format!("{} {target}{more}", context.host) };
        let plain = |reason| unreached(reason, "");
        let (pending, from) = match Way::of(context, policy, service, *caller, target.is_ipv4()) {
            Way::Interface(from) => {
                if interface.programs().is_some() && !interface.owns(target.ip()) {
                    return Err(unreached(Reason::EndpointUnreachable, ", not an address of the workload's interface"));
                }
                // Another's answer would take another's way, and look like silence.
                if let Some(programs) = interface.programs() {
                    check_listener(context, target, programs).map_err(|why| unreached(Reason::WrongListener, &why))?;
                }
                // Its own port is worth something to the endpoint only where it was asked for.
                let port = if service.source == Source::Preserve { from.port() } else { 0 };
                let from = SocketAddr::new(from.ip(), port);
                let (endpoint, guard) = interface.connect(from, target, random()).map_err(plain)?;
                let from = guard.key().fabric;
                let pending = Pending(Some(Reached::User(Rc::clone(&endpoint), guard)));
                endpoint.established().await.map_err(|broken| plain(broken.0))?;
                (pending, from)
            }
            // The graph has just made it a workload of the host, and its interface is not that yet: nobody could tell whose
            // program answers there.
            Way::Host(_) if interface.programs().is_none() => return Err(plain(Reason::NoInterface)),
            Way::Host(from) => {
                let stream = kernel(from, target).await.map_err(|error| plain(connect_reason(&error)))?;
                let from = stream.local_addr().map_err(|error| plain(connect_reason(&error)))?;
                (Pending(Some(Reached::Kernel(Rc::new(stream)))), from)
            }
        };
        // Whoever is in a workload's namespace is the workload.
        if let Some(programs) = interface.programs() {
            let owner = check_owner(context, from, target, programs).await;
            owner.map_err(|why| unreached(Reason::WrongListener, &format!(", {why}")))?;
        }
        Ok((pending, target))
    }
}

/// What to say of an endpoint that was found at neither address: that somebody else is there; else what its kernel said
/// first, unless this host could not even ask.
pub(crate) fn telling(first: Unreached, other: Unreached) -> Unreached {
    match (first.reason, other.reason) {
        (Reason::WrongListener, _) => first,
        (_, Reason::WrongListener) | (Reason::AgentFull | Reason::EndpointUnreachable, _) => other,
        (_, _) => first,
    }
}

/// A connection that is reset unless it is taken.
struct Pending(Option<Reached>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(reached) = self.0.take() {
            reached.abort();
        }
    }
}

impl Pending {
    fn take(mut self) -> Option<Reached> {
        self.0.take()
    }

    async fn write(&self, bytes: Bytes) -> Result<(), Reason> {
        let mut pieces = vec![bytes];
        let written = match &self.0 {
            Some(Reached::User(endpoint, _)) => endpoint.write(&mut pieces, Reason::EndpointReset).await,
            Some(Reached::Kernel(stream)) => KernelTcp::halves(stream).1.write(&mut pieces).await,
            None => Ok(()),
        };
        written.map_err(|broken| broken.0)
    }
}

/// Connects by the host's own TCP; from a port of the caller's only where nobody has it.
async fn kernel(from: Option<SocketAddr>, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        socket.bind(from).or_else(|_| socket.bind(SocketAddr::new(from.ip(), 0)))?;
    }
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    // A host that defaults to a pacing congestion control would slow its own loopback down; where cubic is not to
    // be had, the default serves.
    let _ = socket2::SockRef::from(&stream).set_tcp_congestion(b"cubic");
    Ok(stream)
}

fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Reason::EndpointRefused,
        io::ErrorKind::TimedOut => Reason::EndpointTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Reason::EndpointUnreachable,
        // Out of descriptors or ports: this host's own limit.
        _ => Reason::AgentFull,
    }
}

impl Reached {
    /// Ends a connection that nobody will use, by a reset.
    pub fn abort(self) {
        match self {
            Self::User(endpoint, _flow) => endpoint.abort(),
            Self::Kernel(stream) => super::sides::reset_on_close(&stream),
        }
    }

    /// The flow by which its packets pass its workload's interface, if they do.
    #[must_use]
    pub fn flow(&self) -> Option<FlowKey> {
        match self {
            Self::User(_, flow) => Some(flow.key()),
            Self::Kernel(_) => None,
        }
    }

    /// The two halves of a kernel socket.
    #[must_use]
    pub fn kernel_halves(stream: &Rc<TcpStream>) -> (KernelTcp, KernelTcp) {
        KernelTcp::halves(stream)
    }
}
