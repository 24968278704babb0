//! The one UDP socket.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

/// Receive and send buffers of the socket: what arrives at 10 Gbit/s in three milliseconds.
const BUFFER: usize = 4 << 20;

/// Binds the socket. `[::]` takes both families, whatever the system's default (RFC 3493 section 5.3).
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // The system may grant less (net.core.rmem_max); smaller buffers cost speed, not correctness.
    if let Err(error) = socket.set_recv_buffer_size(BUFFER).and_then(|()| socket.set_send_buffer_size(BUFFER)) {
        tracing::debug!(%error, "the UDP socket keeps its default buffers");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
