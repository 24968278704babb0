//! The way to an endpoint that shares the host's namespace with others: a connected socket, whose other end is looked at.

use super::{holder::Holder, relay::Lost};
use crate::session::context::Context;
use ripstop_config::Reason;
use ripstop_kernel::Programs;
use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
};
use tokio::net::UdpSocket;

/// Datagrams taken in one turn, so that one busy endpoint does not keep the others waiting.
const BATCH: usize = 32;
/// The largest datagram of either family.
const DATAGRAM: usize = 65_536;

thread_local! {
    /// Where datagrams are received: one at a time, so one buffer serves every session.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM]);
}

/// A socket to the endpoint.
pub(super) struct Listener {
    socket: UdpSocket,
    holder: Holder,
}

impl Listener {
    /// A socket to `target`, where one of the workload's programs must listen; from the caller's own address where `from` is that,
    /// and its port where nobody has it.
    ///
    /// # Errors
    /// `EndpointRefused` when nobody listens, `WrongListener` when somebody else does, `AgentFull` when there is no socket
    /// to be had; each with more for people.
    pub(super) async fn connect(
        context: &Rc<Context>,
        from: Option<SocketAddr>,
        target: SocketAddr,
        programs: &Programs,
    ) -> Result<Rc<Self>, (Reason, String)> {
        let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let from = from.unwrap_or(SocketAddr::new(any, 0));
        let connecting = async {
            let socket = match UdpSocket::bind(from).await {
                Err(_) if from.port() != 0 => UdpSocket::bind((from.ip(), 0)).await?,
                bound => bound?,
            };
            socket.connect(target).await?;
            // Until the runtime has seen that it may be written to, a first datagram would be dropped as too many.
            socket.writable().await?;
            let local = socket.local_addr()?;
            Ok::<_, io::Error>((socket, local))
        };
        let (socket, local) = connecting.await.map_err(|error| (reason_of(&error), format!(", {error}")))?;
        let holder = Holder::of(context, local, target, programs)?;
        Ok(Rc::new(Self { socket, holder }))
    }

    /// It is bound to no address: what it answers to an address of the host's own leaves from that very address, as the
    /// kernel chooses it, and not from the endpoint's.
    pub(super) fn is_anywhere(&self) -> bool {
        self.holder.is_anywhere()
    }

    /// Sends a datagram to the endpoint.
    pub(super) fn send(&self, data: &[u8]) -> Result<(), Lost> {
        self.holder.look_again()?;
        match self.socket.try_send(data) {
            Ok(_) => Ok(()),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Hands every datagram of the endpoint to `each`, until the session is over.
    pub(super) async fn receive(&self, each: impl Fn(&[u8])) -> Reason {
        loop {
            if let Err(error) = self.socket.readable().await {
                return reason_of(&error);
            }
            if let Err(Lost::Ended(reason)) = self.holder.look_again() {
                return reason;
            }
            if let Some(reason) = self.receive_some(&each) {
                return reason;
            }
            tokio::task::yield_now().await;
        }
    }

    fn receive_some(&self, each: &impl Fn(&[u8])) -> Option<Reason> {
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..BATCH {
                match self.socket.try_recv(scratch) {
                    Ok(length) => each(&scratch[..length]),
                    Err(error) => match lost(&error) {
                        Lost::Dropped(_) => return None,
                        Lost::Ended(reason) => return Some(reason),
                    },
                }
            }
            None
        })
    }
}

fn lost(error: &io::Error) -> Lost {
    match error.kind() {
        io::ErrorKind::WouldBlock => Lost::Dropped(Reason::InterfaceFull),
        io::ErrorKind::Interrupted => Lost::Dropped(Reason::InterfaceFull),
        _ => Lost::Ended(reason_of(error)),
    }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::EndpointRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::PermissionDenied => {
            Reason::EndpointUnreachable
        }
        // Out of descriptors, ports or memory: this host's own limit.
        _ => Reason::AgentFull,
    }
}
