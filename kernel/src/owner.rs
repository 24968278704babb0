//! Whose socket is at the other end of a connection within this host.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{self, ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as KernelAddr, protocols::NETLINK_SOCK_DIAG};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// Bytes of an answer: one socket with its attributes is some 200.
const ANSWER: usize = 4_096;
/// `INET_DIAG_CGROUP_ID` (linux/inet_diag.h).
const CGROUP_ID: u16 = 21;
/// "Any cookie" (`INET_DIAG_NOCOOKIE`, linux/inet_diag.h).
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// On whose behalf a program holds a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOwner {
    /// Its user.
    pub uid: u32,
    /// The number of the control group in which it was opened; `None` where the kernel does not tell.
    pub cgroup: Option<u64>,
}

/// Who has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A program of these has accepted it.
    Accepted(SocketOwner),
    /// Nobody has accepted it yet; the socket that listens is theirs.
    Listening(SocketOwner),
}

/// Which programs of the host's own namespace are a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Programs {
    /// All of a user.
    OfUser(u32),
    /// All in a control group and those below it.
    OfCgroup(super::Cgroup),
    /// Those that are no other workload's.
    Others,
}

impl std::fmt::Display for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OfUser(uid) => write!(f, "uid {uid}"),
            Self::OfCgroup(cgroup) => write!(f, "cgroup {}", cgroup.path),
            Self::Others => f.write_str("a program that is no other workload's"),
        }
    }
}

/// A socket that receives datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// Who holds it.
    pub owner: SocketOwner,
    /// It is bound to no address of its own: its answers leave with the one that the kernel chooses.
    pub anywhere: bool,
}

/// A way to ask the kernel for the owner of a socket (sock_diag(7)), some microseconds each.
pub struct SocketOwners(Socket);

impl SocketOwners {
    /// Opens the way, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel does not offer `NETLINK_SOCK_DIAG`.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&KernelAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Who owns the socket at `remote` of an established TCP connection from `local`, both on this host; `None` when
    /// there is no such socket here.
    ///
    /// # Errors
    /// When the kernel does not answer as it should.
    pub fn of_peer(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Owner>> {
        self.drain();
        let Some(found) = self.ask(IPPROTO_TCP, remote, local)? else { return Ok(None) };
        if found.inode != 0 {
            return Ok(Some(Owner::Accepted(found.owner)));
        }
        if found.owner.uid != 0 {
            return Ok(Some(Owner::Listening(found.owner)));
        }
        // Older kernels know no owner before accept(2): the listener has one.
        self.of_listener(remote).map(|listener| listener.map(Owner::Listening))
    }

    /// Whose socket listens for TCP at an address of this host, for callers from anywhere; `None` when nobody
    /// does, or only on one device.
    ///
    /// # Errors
    /// When the kernel does not answer as it should.
    pub fn of_listener(&self, at: SocketAddr) -> io::Result<Option<SocketOwner>> {
        self.drain();
        let nobody: IpAddr = if at.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let listener = self.ask(IPPROTO_TCP, at, SocketAddr::new(nobody, 0))?;
        Ok(listener.filter(|listener| listener.inode != 0).map(|listener| listener.owner))
    }

    /// Whose socket would receive a UDP datagram from `local` to `remote`, both on this host; `None` when nobody listens
    /// there.
    ///
    /// # Errors
    /// When the kernel does not answer as it should.
    pub fn of_receiver(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Receiver>> {
        self.drain();
        // For UDP the kernel looks for who would receive from "source" to "destination" (net/ipv4/udp_diag.c).
        let Some(found) = self.ask(IPPROTO_UDP, local, remote)? else { return Ok(None) };
        if found.port == remote.port() {
            return Ok(Some(Receiver { owner: found.owner, anywhere: found.address.is_unspecified() }));
        }
        Err(io::Error::other("the kernel named another socket than was asked for"))
    }

    /// Forgets answers that nobody waited for, after an error in between.
    fn drain(&self) {
        let mut rest = Vec::with_capacity(ANSWER);
        while self.0.recv(&mut rest, libc::MSG_DONTWAIT).is_ok() {
            rest.clear();
        }
    }

    fn ask(&self, protocol: u8, own: SocketAddr, other: SocketAddr) -> io::Result<Option<Found>> {
        let request = InetRequest {
            family: if own.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: own.port(),
                destination_port: other.port(),
                source_address: own.ip(),
                destination_address: other.ip(),
                interface_id: 0,
                cookie: ANY_COOKIE,
            },
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(ANSWER);
        self.0.recv(&mut answer, libc::MSG_DONTWAIT)?;
        read(&answer)
    }
}

struct Found {
    owner: SocketOwner,
    inode: u32,
    /// Its own address and port.
    address: IpAddr,
    port: u16,
}

fn read(answer: &[u8]) -> io::Result<Option<Found>> {
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(answer).map_err(io::Error::other)?;
    match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
            let header = response.header;
            let SocketId { source_address: address, source_port: port, .. } = header.socket_id;
            let cgroup = response.nlas.iter().find_map(cgroup_of);
            let owner = SocketOwner { uid: header.uid, cgroup };
            Ok(Some(Found { owner, inode: header.inode, address, port }))
        }
        NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => Ok(None),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("an unexpected answer about a socket's owner")),
    }
}

/// `INET_DIAG_CGROUP_ID`, which kernels send unasked.
fn cgroup_of(attribute: &inet::nlas::Nla) -> Option<u64> {
    match attribute {
        inet::nlas::Nla::Other(other) if other.kind() == CGROUP_ID => {
            let mut bytes = [0; 8];
            (other.value_len() == bytes.len()).then(|| other.emit_value(&mut bytes))?;
            Some(u64::from_ne_bytes(bytes))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_connection_has_its_listeners_owner_before_and_after_accept() {
        let owners = SocketOwners::open().unwrap();
        let own = nix::unistd::getuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let owner = owners.of_listener(remote).unwrap().unwrap();
            assert_eq!(owner.uid, own);
            assert_eq!(owners.of_peer(local, remote).unwrap(), Some(Owner::Listening(owner)));
            let accepted = listener.accept().unwrap();
            assert_eq!(owners.of_peer(local, remote).unwrap(), Some(Owner::Accepted(owner)));
            drop((accepted, listener, stream));
        }
    }

    #[test]
    fn a_datagram_s_receiver_has_an_owner() {
        let owners = SocketOwners::open().unwrap();
        let own = nix::unistd::getuid().as_raw();
        for (address, any) in [("127.0.0.1:0", "0.0.0.0:0"), ("[::1]:0", "[::]:0")] {
            for bound in [address, any] {
                let receiver = UdpSocket::bind(bound).unwrap();
                let sender = UdpSocket::bind(any).unwrap();
                let mut to: SocketAddr = address.parse().unwrap();
                to.set_port(receiver.local_addr().unwrap().port());
                sender.connect(to).unwrap();
                let from = sender.local_addr().unwrap();
                let found = owners.of_receiver(from, to).unwrap().unwrap();
                assert_eq!((found.owner.uid, found.anywhere), (own, bound == any), "{bound}");
                drop(receiver);
                // What another test runs has the socket, too, from its fork to its exec.
                crate::tests::until(|| owners.of_receiver(from, to).unwrap().is_none());
            }
        }
    }

    #[test]
    fn nobody_owns_what_is_not_there() {
        let owners = SocketOwners::open().unwrap();
        let (a, b) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        assert_eq!(owners.of_peer(a, b).unwrap(), None);
        assert_eq!(owners.of_receiver(a, b).unwrap(), None);
    }
}
