//! The way to an endpoint that is a user of this host: a connected socket, whose other end is looked at.

use super::relay::Lost;
use crate::session::context::Context;
use ripstop_config::Reason;
use std::{
    cell::{Cell, RefCell},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::net::UdpSocket;

/// How long it is taken for granted who holds the endpoint's port. A datagram has no connection that would end with its
/// listener, so the kernel is asked again, which takes some microseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
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
    context: Rc<Context>,
    socket: UdpSocket,
    local: SocketAddr,
    target: SocketAddr,
    user: Option<u32>,
    looked: Cell<Instant>,
}

impl Listener {
    /// A socket to `target`, where a program of `user` must listen.
    ///
    /// # Errors
    /// `EndpointRefused` when nobody listens, `WrongListener` when somebody else does, `AgentFull` when there is no socket
    /// to be had; each with more for people.
    pub(super) async fn connect(
        context: &Rc<Context>,
        target: SocketAddr,
        user: Option<u32>,
    ) -> Result<Rc<Self>, (Reason, String)> {
        let unspecified: SocketAddr =
            if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let connecting = async {
            let socket = UdpSocket::bind(unspecified).await?;
            socket.connect(target).await?;
            let local = socket.local_addr()?;
            Ok::<_, io::Error>((socket, local))
        };
        let (socket, local) = connecting.await.map_err(|error| (reason_of(&error), format!(", {error}")))?;
        let context = Rc::clone(context);
        let listener = Self { context, socket, local, target, user, looked: Cell::new(Instant::now()) };
        listener.look()?;
        Ok(Rc::new(listener))
    }

    /// Asks the kernel who would receive. Root is nobody's workload: a datagram is not accepted by another program later,
    /// as a connection may be. Not knowing is a no.
    fn look(&self) -> Result<(), (Reason, String)> {
        let wanted = self.user.map_or("nobody known".into(), |user| format!("uid {user}"));
        match self.context.owners.of_receiver(self.local, self.target) {
            Ok(Some(owner)) if Some(owner) == self.user => Ok(()),
            Ok(Some(owner)) => Err((Reason::WrongListener, format!(", held by uid {owner} in place of {wanted}"))),
            Ok(None) => Err((Reason::EndpointRefused, String::new())),
            Err(error) => Err((Reason::WrongListener, format!(", whose holder the kernel does not tell: {error}"))),
        }
    }

    fn look_again(&self) -> Result<(), Lost> {
        let now = Instant::now();
        if now.duration_since(self.looked.get()) < LOOK_AGAIN {
            return Ok(());
        }
        self.looked.set(now);
        self.look().map_err(|(reason, _)| Lost::Ended(reason))
    }

    /// Sends a datagram to the endpoint.
    pub(super) fn send(&self, data: &[u8]) -> Result<(), Lost> {
        self.look_again()?;
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
            if let Err(Lost::Ended(reason)) = self.look_again() {
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
