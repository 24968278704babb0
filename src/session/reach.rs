//! The way to an endpoint on this host, for a session whose caller is allowed to have it.

use super::{
    context::{Context, random},
    live::Request,
    sides::KernelTcp,
};
use crate::{interface::FlowGuard, kernel::Owner, stack::Endpoint};
use ripstop_config::{Reason, graph::Run};
use ripstop_policy::{Policy, ServiceEntry, WorkloadEntry, WorkloadIx};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::net::{TcpSocket, TcpStream};

/// How long an endpoint may take to answer, so that another can be tried within the wait for a verdict (10 s).
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// How long a server that listens as root may take to accept a connection as the workload, and the first pause before
/// it is looked at again.
const ACCEPT_MAX: Duration = Duration::from_secs(1);
const ACCEPT_LOOK: Duration = Duration::from_millis(1);

/// A connection to an endpoint, ready for bytes.
pub enum Reached {
    /// Through the interface of a workload in a namespace.
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

/// Where the endpoint of a service listens on this host.
#[must_use]
pub fn target(policy: &Policy, service: &ServiceEntry, request: &Request) -> SocketAddr {
    let by = policy.workload_entry(service.by);
    let port = request.port.number;
    let address = match by.run {
        Run::Netns(_) => IpAddr::V4(by.v4),
        Run::User(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    match service.to {
        // Only the port is given.
        Some(to) if to.ip().is_unspecified() => SocketAddr::new(address, to.port()),
        Some(to) => to,
        None => SocketAddr::new(address, port),
    }
}

/// Connects to the endpoint of a service on this host.
///
/// # Errors
/// [`Unreached`] with what the endpoint, or its absence, answered.
pub async fn reach(
    context: &Rc<Context>,
    policy: &Policy,
    service: &ServiceEntry,
    caller: WorkloadIx,
    request: &Request,
) -> Result<Reached, Unreached> {
    let target = target(policy, service, request);
    let source = source(policy, service, caller, target.is_ipv4());
    connect(context, policy.workload_entry(service.by), source, target).await
}

/// Connects to the endpoint of a service on this host to see whether it is well, in nobody's name: from the service's own
/// address, so that the endpoint cannot take it for a workload.
///
/// # Errors
/// [`Unreached`] with what the endpoint, or its absence, answered.
pub async fn probe(
    context: &Context,
    policy: &Policy,
    service: &ServiceEntry,
    target: SocketAddr,
) -> Result<Reached, Unreached> {
    let source = if target.is_ipv4() { IpAddr::V4(service.v4) } else { IpAddr::V6(service.v6) };
    connect(context, policy.workload_entry(service.by), source, target).await
}

async fn connect(
    context: &Context,
    by: &WorkloadEntry,
    source: IpAddr,
    target: SocketAddr,
) -> Result<Reached, Unreached> {
    let unreached = |reason, more| Unreached { reason, detail: format!("{} {target}{more}", context.host) };
    let reaching = async {
        let plain = |reason| unreached(reason, String::new());
        let interface = context.interface(&by.id).ok_or_else(|| plain(Reason::NoInterface))?;
        match by.run {
            Run::User(_) => {
                let stream = kernel(target).await.map_err(plain)?;
                let owner = check_owner(context, &stream, target, interface.user()).await;
                owner.map_err(|why| unreached(Reason::WrongListener, format!(", {why}")))?;
                Ok(Reached::Kernel(Rc::new(stream)))
            }
            Run::Netns(_) => {
                let (endpoint, guard) = interface.connect(source, target, random()).map_err(plain)?;
                endpoint.established().await.map_err(|broken| plain(broken.0))?;
                Ok(Reached::User(endpoint, guard))
            }
        }
    };
    let reached = tokio::time::timeout(ANSWER_MAX, reaching).await;
    reached.unwrap_or_else(|_| Err(unreached(Reason::EndpointTimeout, String::new())))
}

/// The address from which the endpoint sees the call: the caller's own, or the service's when a workload calls itself, as
/// the kernel drops what comes from outside with its own address.
#[must_use]
pub fn source(policy: &Policy, service: &ServiceEntry, caller: WorkloadIx, v4: bool) -> IpAddr {
    let entry = policy.workload_entry(caller);
    match (caller == service.by, v4) {
        (false, true) => IpAddr::V4(entry.v4),
        (false, false) => IpAddr::V6(entry.v6),
        (true, true) => IpAddr::V4(service.v4),
        (true, false) => IpAddr::V6(service.v6),
    }
}

async fn kernel(target: SocketAddr) -> Result<TcpStream, Reason> {
    let connecting = async {
        let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let stream = socket.connect(target).await?;
        stream.set_nodelay(true)?;
        // A host that defaults to a pacing congestion control would slow its own loopback down; where cubic is not to
        // be had, the default serves.
        let _ = socket2::SockRef::from(&stream).set_tcp_congestion(b"cubic");
        Ok::<_, io::Error>(stream)
    };
    connecting.await.map_err(|error| connect_reason(&error))
}

/// The program that took the connection must be the workload's: on a shared host anyone may listen on a free port. Asked
/// of the connection itself, after it was made, so that no other listener can slip in between. Not knowing is a no.
///
/// Root may listen on the workload's behalf, as servers do that drop their rights later, and systemd for its sockets; then
/// it is waited for who accepts.
async fn check_owner(
    context: &Context,
    stream: &TcpStream,
    target: SocketAddr,
    user: Option<u32>,
) -> Result<(), String> {
    let started = Instant::now();
    let mut pause = ACCEPT_LOOK;
    let found = loop {
        let owner = stream.local_addr().and_then(|local| context.owners.of_peer(local, target));
        match owner {
            Ok(Some(Owner::Accepted(owner) | Owner::Listening(owner))) if Some(owner) == user => return Ok(()),
            Ok(Some(Owner::Listening(0))) if started.elapsed() < ACCEPT_MAX => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            found => break found,
        }
    };
    super::sides::reset_on_close(stream);
    let uid = |uid: Option<u32>| uid.map_or("nobody known".into(), |uid| format!("uid {uid}"));
    let wanted = uid(user);
    Err(match found {
        Ok(Some(Owner::Accepted(found) | Owner::Listening(found))) => {
            format!("held by uid {found} in place of {wanted}")
        }
        Ok(None) => format!("not a socket of this host, so not of {wanted}"),
        Err(error) => format!("whose holder the kernel does not tell: {error}"),
    })
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

    /// The two halves of a kernel socket.
    #[must_use]
    pub fn kernel_halves(stream: &Rc<TcpStream>) -> (KernelTcp, KernelTcp) {
        KernelTcp::halves(stream)
    }
}
