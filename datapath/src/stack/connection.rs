//! One smoltcp interface with one TCP socket, in memory of its own.

use super::{
    buffers::Buffers,
    device::{TunPort, Turn},
    soon::ACK_DELAY,
};
use crate::packet::{self, FlowKey};
use bytes::Bytes;
use self_cell::MutBorrow;
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    socket::tcp::{RecvError, SendError, Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr, IpEndpoint},
};
use std::{cell::Cell, io, net::SocketAddr, rc::Rc, task::Waker};

self_cell::self_cell!(
    struct Memory {
        owner: MutBorrow<Buffers>,
        #[not_covariant]
        dependent: SocketSet,
    }
);

/// A TCP socket, and what it takes to run it.
pub(super) struct Connection {
    interface: Interface,
    memory: Memory,
    handle: SocketHandle,
    /// Bytes that went through the buffers.
    used: Rc<Cell<usize>>,
    /// The number of the first byte that the workload sends, and how many of its bytes were read.
    first: Option<u32>,
    read: u32,
}

impl Connection {
    /// A closed socket that will speak as `fabric`.
    pub(super) fn open(port: &TunPort, fabric: SocketAddr, seed: u64) -> io::Result<Self> {
        let (buffers, used) = Buffers::take()?;
        let mut handle = SocketHandle::default();
        let memory = Memory::new(MutBorrow::new(buffers), |buffers| {
            let (receive, send) = buffers.borrow_mut().halves();
            let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(Some(ACK_DELAY.into()));
            let mut sockets = SocketSet::new(Vec::with_capacity(1));
            handle = sockets.add(socket);
            sockets
        });
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut Turn { packet: None, port }, Instant::ZERO);
        // A prefix of zero puts every peer on the link: there is nothing to route.
        interface.update_ip_addrs(|addresses| {
            // The list is empty and has room for two.
            let _ = addresses.push(IpCidr::new(fabric.ip().into(), 0));
        });
        Ok(Self { interface, memory, handle, used, first: None, read: 0 })
    }

    /// Waits for the SYN that comes next.
    pub(super) fn listen(&mut self, fabric: SocketAddr) {
        let listening = self.socket(|socket| socket.listen((fabric.ip(), fabric.port())));
        // A fresh socket listens on a port that is not zero, and zero is no port of a service.
        debug_assert!(listening.is_ok(), "listen on {fabric}: {listening:?}");
    }

    /// Has a SYN sent at the next turn.
    pub(super) fn connect(&mut self, fabric: SocketAddr, workload: SocketAddr) {
        let (interface, handle) = (&mut self.interface, self.handle);
        let connecting = self.memory.with_dependent_mut(|_, sockets| {
            let socket = sockets.get_mut::<Socket<'_>>(handle);
            socket.connect(interface.context(), (workload.ip(), workload.port()), fabric)
        });
        debug_assert!(connecting.is_ok(), "connect to {workload}: {connecting:?}");
    }

    /// Has another SYN sent at the next turn, with another number, in place of one that was not taken.
    pub(super) fn connect_again(&mut self) {
        let address = |end: IpEndpoint| SocketAddr::new(end.addr.into(), end.port);
        let ends = self.socket(|socket| {
            let ends = socket.local_endpoint().zip(socket.remote_endpoint());
            socket.abort();
            ends
        });
        if let Some((fabric, workload)) = ends {
            self.connect(address(fabric), address(workload));
        }
    }

    /// Does something with the socket.
    pub(super) fn socket<R>(&mut self, work: impl FnOnce(&mut Socket<'_>) -> R) -> R {
        let handle = self.handle;
        self.memory.with_dependent_mut(|_, sockets| work(sockets.get_mut(handle)))
    }

    /// The flow, while something is sent on it that is not acknowledged.
    pub(super) fn flow_in_flight(&mut self) -> Option<FlowKey> {
        self.socket(|socket| {
            let (fabric, workload) = socket.local_endpoint().zip(socket.remote_endpoint())?;
            let address = |end: IpEndpoint| SocketAddr::new(end.addr.into(), end.port);
            let flow = FlowKey { workload: address(workload), fabric: address(fabric) };
            (socket.send_queue() > 0).then_some(flow)
        })
    }

    /// Something waits to be sent, or to be acknowledged.
    pub(super) fn is_sending(&mut self) -> bool {
        self.socket(|socket| socket.send_queue() > 0)
    }

    /// Has a FIN sent after what waits.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method itself is of one lifetime of buffers only"
    )]
    pub(super) fn close(&mut self) {
        self.socket(|socket| socket.close());
    }

    /// Has a reset sent.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method itself is of one lifetime of buffers only"
    )]
    pub(super) fn abort(&mut self) {
        self.socket(|socket| socket.abort());
    }

    /// Takes as many of the bytes as there is room for.
    ///
    /// # Errors
    /// When nothing can be sent any more.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        let taken = self.socket(|socket| socket.send_slice(bytes))?;
        self.used.update(|used| used.saturating_add(taken));
        Ok(taken)
    }

    /// Takes one packet.
    ///
    /// smoltcp does not look at the acknowledgement of a segment outside its receive window, as RFC 9293 section 3.10.7.4
    /// wants where that window is closed. A workload's kernel that sent a byte into a window which was just then closed
    /// counts on from there, so nothing that it acknowledged would count until the window opens: for ever, where the
    /// workload reads nothing before it has written. So the acknowledgement of what lies ahead comes on its own first.
    pub(super) fn ingress(&mut self, now: Instant, packet: &[u8], port: &TunPort) {
        self.used.update(|used| used.saturating_add(packet.len()));
        let answer = packet::answer(packet);
        let ahead = self.expected().zip(answer).and_then(|(expected, answer)| {
            let ahead = answer.sequence.wrapping_sub(expected);
            let is_ahead = answer.acknowledges() && ahead != 0 && ahead < 1 << 31;
            is_ahead.then(|| packet::acknowledgement_alone(packet, expected)).flatten()
        });
        if self.first.is_none() {
            self.first = answer.filter(packet::Answer::opens).map(|opening| opening.sequence.wrapping_add(1));
        }
        let says_more = ahead.as_ref().is_none_or(|(_, says_more)| *says_more);
        if let Some((alone, _)) = &ahead {
            self.take(now, alone, port);
        }
        if says_more {
            self.take(now, packet, port);
        }
    }

    /// The number that the workload is to go on with, when its first one is known.
    fn expected(&mut self) -> Option<u32> {
        let (first, read) = (self.first?, self.read);
        let (waiting, ended) = self.socket(|socket| (socket.recv_queue(), has_ended(socket.state())));
        let waiting = u32::try_from(waiting).unwrap_or(0); // the buffer holds 256 KiB
        Some(first.wrapping_add(read).wrapping_add(waiting).wrapping_add(u32::from(ended)))
    }

    /// Bytes that the workload sent, at most `max` of them that lie in one piece; what comes next has `waker` woken when
    /// there are none.
    ///
    /// # Errors
    /// When there will be none any more.
    pub(super) fn receive(&mut self, max: usize, waker: &Waker) -> Result<Bytes, RecvError> {
        let piece = self.socket(|socket| {
            let piece = socket.recv(|data| {
                let length = data.len().min(max);
                (length, Bytes::copy_from_slice(&data[..length]))
            });
            if piece.as_ref().is_ok_and(Bytes::is_empty) {
                socket.register_recv_waker(waker);
            }
            piece
        })?;
        self.read = self.read.wrapping_add(u32::try_from(piece.len()).unwrap_or(0));
        Ok(piece)
    }

    /// Acknowledges at once what was not acknowledged yet.
    pub(super) fn acknowledge(&mut self) {
        self.socket(|socket| {
            socket.set_ack_delay(None);
            socket.set_ack_delay(Some(ACK_DELAY.into()));
        });
    }

    fn take(&mut self, now: Instant, packet: &[u8], port: &TunPort) {
        let interface = &mut self.interface;
        let mut turn = Turn { packet: Some(packet), port };
        self.memory.with_dependent_mut(|_, sockets| interface.poll_ingress_single(now, &mut turn, sockets));
    }

    /// Sends what is due, at most so many packets; returns how many there were.
    pub(super) fn egress(&mut self, now: Instant, port: &TunPort, packets: usize) -> usize {
        let interface = &mut self.interface;
        let mut turn = Turn { packet: None, port };
        self.memory.with_dependent_mut(|_, sockets| {
            (0..packets).take_while(|_| interface.poll_egress(now, &mut turn, sockets) != PollResult::None).count()
        })
    }

    /// When something is due next.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let interface = &mut self.interface;
        self.memory.with_dependent(|_, sockets| interface.poll_at(now, sockets))
    }
}

/// Whether the handshake is done, and no reset or end has come since.
pub(super) fn is_open(state: State) -> bool {
    match state {
        State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::LastAck
        | State::Closing
        | State::TimeWait => true,
        State::Closed | State::Listen | State::SynSent | State::SynReceived => false,
    }
}

/// Whether the workload has sent its FIN, behind all of its bytes.
pub(super) fn has_ended(state: State) -> bool {
    match state {
        State::CloseWait | State::LastAck | State::Closing | State::TimeWait => true,
        State::Closed
        | State::Listen
        | State::SynSent
        | State::SynReceived
        | State::Established
        | State::FinWait1
        | State::FinWait2 => false,
    }
}
