//! The one UDP socket, and what is done to packets below QUIC.
//!
//! 1. What arrives from a host at a new address is handed on as if it came from the old one, and what is sent to the old one
//!    goes to the new one ([`crate::moves`]).
//! 2. While two agents of this host share the socket, each gets what is its own ([`crate::handed`]).
//! 3. quinn answers from the address that a packet came to. When this host has lost that address, the kernel would refuse to
//!    send from it, so it is left to the kernel to choose.

use crate::{
    gather::Gathering,
    generations::Ids,
    handed::{self, Foreign, Handed},
    moves::{ID_LENGTH, Moves},
    udp::Udp,
};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use quinn_proto::ConnectionId;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use std::{
    collections::HashMap,
    fmt, io,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// Receive and send buffers of the socket: what arrives at 10 Gbit/s in three milliseconds.
const BUFFER: usize = 4 << 20;
/// Buffers, each of up to 64 KiB of joined packets, that are taken from the socket at once: what they hold is decrypted in one
/// turn, while everything else waits.
const BUFFERS: usize = 8;
/// How long it is believed that an address is still this host's.
const OWN_FOR: Duration = Duration::from_millis(250);
/// Own addresses that are remembered; a host has a few.
const OWN_MAX: usize = 64;
/// The bit of a packet's first byte that is set in long headers (RFC 9000 section 17.2).
const LONG_HEADER: u8 = 0x80;

/// Binds the socket. `[::]` takes both families, whatever the system's default (RFC 3493 section 5.3).
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
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

/// The socket under the QUIC endpoint.
pub(crate) struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// Packets in a buffer of what the kernel joins, at most, when they are as large as they may be.
    joined: usize,
    /// The same socket, to be handed over.
    descriptor: UdpSocket,
    /// Tells connection IDs of this host from others.
    ids: Ids,
    handed: Handed,
    /// Takes what is of another agent of this host, while there is one.
    foreign: Mutex<Option<Foreign>>,
    has_foreign: AtomicBool,
    moves: Mutex<Moves>,
    /// Some host has moved, so that destinations are to be looked at.
    moved: AtomicBool,
    own: Mutex<HashMap<IpAddr, (bool, Instant)>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Socket {
    /// Binds the socket, for packets of `largest` bytes at most; `ids` tells connection IDs that this host issues.
    pub(crate) fn bind(address: SocketAddr, largest: u16, ids: Ids) -> io::Result<Arc<Self>> {
        Self::inherit(bind(address)?, largest, ids)
    }

    /// The same with a socket that another agent has bound.
    pub(crate) fn inherit(socket: UdpSocket, largest: u16, ids: Ids) -> io::Result<Arc<Self>> {
        let descriptor = socket.try_clone()?;
        Ok(Arc::new(Self {
            inner: Gathering::over(Udp::over(socket)?),
            joined: usize::from(u16::MAX).div_ceil(usize::from(largest)),
            descriptor,
            ids,
            handed: Handed::default(),
            foreign: Mutex::default(),
            has_foreign: AtomicBool::new(false),
            moves: Mutex::default(),
            moved: AtomicBool::new(false),
            own: Mutex::default(),
        }))
    }

    /// The same socket, for another agent.
    pub(crate) fn descriptor(&self) -> io::Result<UdpSocket> {
        self.descriptor.try_clone()
    }

    /// What is read in the socket's place once it is handed over.
    pub(crate) fn handed(&self) -> &Handed {
        &self.handed
    }

    /// Who takes what is of another agent of this host from now on.
    pub(crate) fn set_foreign(&self, foreign: Option<Foreign>) {
        self.has_foreign.store(foreign.is_some(), Ordering::Relaxed);
        *self.foreign.lock().unwrap_or_else(PoisonError::into_inner) = foreign;
    }

    fn sort(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) {
        if !self.has_foreign.load(Ordering::Relaxed) {
            return;
        }
        let foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(foreign) = &*foreign {
            for (buffer, meta) in buffers.iter_mut().zip(meta) {
                handed::sort(&self.ids, foreign, buffer, meta);
            }
        }
    }

    fn moves(&self) -> MutexGuard<'_, Moves> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the host that was dialled at an address, until the guard is dropped.
    pub(crate) fn follow(socket: &Arc<Self>, address: SocketAddr) -> Followed {
        socket.moves().enter(address, Instant::now());
        Followed { socket: Arc::clone(socket), address }
    }

    fn destination(&self, address: SocketAddr) -> SocketAddr {
        if !self.moved.load(Ordering::Relaxed) {
            return address;
        }
        let mut moves = self.moves();
        let destination = moves.destination(address, Instant::now());
        self.moved.store(moves.any(), Ordering::Relaxed);
        destination
    }

    /// Whether an address is this host's; on doubt it is. The kernel is asked by binding to it, and not for each packet.
    fn is_own(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((is, asked)) = own.get(&address)
            && now.saturating_duration_since(*asked) < OWN_FOR
        {
            return *is;
        }
        let is = UdpSocket::bind((address, 0))
            .map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |_| true);
        if own.len() >= OWN_MAX {
            own.clear();
        }
        own.insert(address, (is, now));
        is
    }

    /// The connection ID that a packet names, if it has a short header and the ID is one of ours.
    fn id(&self, packet: &[u8]) -> Option<ConnectionId> {
        let (first, rest) = packet.split_first()?;
        if first & LONG_HEADER != 0 {
            return None;
        }
        let id = ConnectionId::new(rest.get(..ID_LENGTH)?);
        self.ids.is_own(&id).then_some(id)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(&Transmit {
            destination: self.destination(transmit.destination),
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip.filter(|address| self.is_own(*address)),
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let few = bufs.len().min(BUFFERS);
        let count = match self.handed.poll(cx, &mut bufs[..few], meta) {
            Some(delivered) => ready!(delivered),
            None => ready!(self.inner.poll_recv(cx, &mut bufs[..few], meta))?,
        };
        self.sort(&mut bufs[..count], &mut meta[..count]);
        let mut moves = self.moves();
        if !moves.is_empty() {
            let now = Instant::now();
            for (meta, buffer) in meta.iter_mut().zip(bufs.iter()).take(count) {
                // All packets of one buffer are from one address, so its first speaks for them.
                let id = self.id(&buffer[..meta.len.min(buffer.len())]);
                meta.addr = moves.arrived(meta.addr, id, now);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    /// quinn makes 32 buffers for so many of the largest packets: of the kernel's 64, 13 MB of which 11 are never written.
    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments().min(self.joined)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// A host that was dialled, followed when its address changes.
#[derive(Debug)]
pub(crate) struct Followed {
    socket: Arc<Socket>,
    address: SocketAddr,
}

impl Followed {
    /// The connection has just heard the host. Says where it is from here on, if that changes.
    pub(crate) fn heard(&self) -> Option<SocketAddr> {
        let mut moves = self.socket.moves();
        let moved = moves.heard(self.address, Instant::now());
        self.socket.moved.store(moves.any(), Ordering::Relaxed);
        moved
    }

    /// Where the host is.
    pub(crate) fn at(&self) -> SocketAddr {
        self.socket.destination(self.address)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.socket.moves().leave(self.address);
    }
}
