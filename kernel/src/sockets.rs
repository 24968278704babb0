//! Ends what sockets of the fabric a dead agent left behind.
//!
//! A connection that nobody carries any more is silent: an application that waits for the other end's bytes would wait for
//! its own time-out. The kernel ends it when asked (`SOCK_DESTROY` of sock_diag(7)): whoever waits is told
//! `ECONNABORTED` at once.

use super::{
    Error,
    door::{Family, Site},
    tun,
};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as KernelAddr};
use std::{io, net::IpAddr};

/// Bytes of a piece of a dump: the kernel's are of up to 32 KiB.
const PIECE: usize = 64 << 10;
/// `SOCK_DESTROY` (linux/sock_diag.h).
const DESTROY: u16 = 21;
/// Sockets ended at once; more than one agent carries.
const SOCKETS_MAX: usize = 1 << 20;

/// Ends every socket of a namespace that is connected between two addresses of the fabric; says how
/// many.
///
/// # Errors
/// When the kernel does not list its sockets, or cannot end them (CONFIG_INET_DIAG_DESTROY).
pub(super) fn reset(site: &Site<'_>, fabric: &[IpNet]) -> io::Result<usize> {
    let mut socket = tun::adopt(site.socket(Family::Sockets).map_err(Error::into_io)?);
    socket.bind_auto()?;
    socket.connect(&KernelAddr::new(0, 0))?;
    let mut ended = 0;
    for (family, protocol) in
        [AF_INET, AF_INET6].into_iter().flat_map(|family| [IPPROTO_TCP, IPPROTO_UDP].map(|protocol| (family, protocol)))
    {
        let within = |address: IpAddr| fabric.iter().any(|range| range.contains(&address.to_canonical()));
        for id in list(&socket, family, protocol)? {
            if within(id.source_address) && within(id.destination_address) {
                ended += usize::from(destroy(&socket, family, protocol, id)?);
            }
        }
    }
    Ok(ended)
}

/// The sockets that are connected or about to be.
fn list(socket: &Socket, family: u8, protocol: u8) -> io::Result<Vec<SocketId>> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE;
    send(socket, request(family, protocol, any, states), NLM_F_DUMP, None)?;
    let mut found = Vec::new();
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        socket.recv(&mut piece, 0)?;
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(one)) if found.len() < SOCKETS_MAX => {
                    found.push(one.header.socket_id);
                }
                _ => {}
            }
            rest = rest.get((message.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Ends one socket; says whether it was still there.
fn destroy(socket: &Socket, family: u8, protocol: u8, id: SocketId) -> io::Result<bool> {
    send(socket, request(family, protocol, id, StateFlags::all()), NLM_F_ACK, Some(DESTROY))?;
    let mut answer = Vec::with_capacity(PIECE);
    socket.recv(&mut answer, 0)?;
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match message.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(true),
        NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => Ok(false),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("an unexpected answer to the end of a socket")),
    }
}

fn request(family: u8, protocol: u8, socket_id: SocketId, states: StateFlags) -> InetRequest {
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// The message's type is another than that of a question where `kind` says so.
fn send(socket: &Socket, request: InetRequest, flags: u16, kind: Option<u16>) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(SockDiagMessage::InetRequest(request)));
    message.finalize();
    message.header.message_type = kind.unwrap_or(message.header.message_type);
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}
