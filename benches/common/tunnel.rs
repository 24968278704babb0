//! The least that carries packets between two hosts in userspace: each goes as it is from a TUN interface into a UDP datagram, and
//! back. Neither encrypted nor authenticated, and of no use but to show what the kernels' work alone takes, and that of whoever
//! sends and receives. Packets are as long as the link's, for it does without the offloads by which an interface
//! gives and takes 64 KiB at once: for bulk, who uses those has less to do.

use anyhow::Context;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt},
};
use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::Duration,
};

/// What a datagram adds to the packet in it, over IPv4.
pub const OVERHEAD: u32 = 28;
/// Packets in one system call of the socket; an interface gives and takes them one by one.
const BATCH: usize = 64;
/// Bytes of the longest packet.
const LONGEST: usize = 65_535;
/// Of the socket, so that what is lost was not lost here.
const BUFFER: usize = 8 << 20;

/// There and back.
const WAYS: usize = 2;
/// How long it waits for a packet at most, before it waits again.
const WAIT: Duration = Duration::from_secs(1);

/// Makes the interface and carries its packets to the other end, each way by a thread, until one of them fails.
pub fn carry(link: &str, here: SocketAddr, there: SocketAddr) -> anyhow::Result<()> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(link);
    let device = tun::create(&configuration).with_context(|| format!("failed to make {link}"))?;
    device.set_nonblock().with_context(|| format!("failed to make {link}"))?;
    let socket = UdpSocket::bind(here).with_context(|| format!("failed to bind {here}"))?;
    socket.connect(there)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
    let (device, socket) = (Arc::new(device), Arc::new(socket));
    let (fails, first) = sync_channel(WAYS);
    let (inward, outward, also) = (Arc::clone(&socket), Arc::clone(&device), fails.clone());
    // Nobody hears the second one: this process ends with the first.
    thread::spawn(move || also.send(back(&inward, &outward)));
    thread::spawn(move || fails.send(out(&device, &socket)));
    first.recv()?
}

/// From the interface to the other host.
fn out(device: &tun::Device, socket: &UdpSocket) -> anyhow::Result<()> {
    let (mut buffers, mut lengths) = (vec![vec![0; LONGEST]; BATCH], Vec::with_capacity(BATCH));
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let addresses = [None::<SockaddrStorage>; BATCH];
    loop {
        lengths.clear();
        for buffer in &mut buffers {
            let mut received = device.recv(buffer);
            if lengths.is_empty() && received.as_ref().is_err_and(is_nothing) {
                received = device.recv_timeout(buffer, WAIT);
            }
            match received {
                Ok(length) => lengths.push(length),
                Err(error) if is_nothing(&error) => break,
                Err(error) => return Err(error).context("the interface is gone"),
            }
        }
        let packets = buffers.iter().zip(&lengths);
        let slices: Vec<_> = packets.map(|(buffer, length)| [IoSlice::new(&buffer[..*length])]).collect();
        let mut sent = 0;
        while sent < slices.len() {
            let to = &addresses[sent..slices.len()];
            let all = sendmmsg(socket.as_raw_fd(), &mut headers, &slices[sent..], to, [], MsgFlags::empty());
            // What the link or the other end does not take is lost, as a datagram may be.
            sent += all.map_or(1, Iterator::count);
        }
    }
}

/// From the other host to the interface.
fn back(socket: &UdpSocket, device: &tun::Device) -> anyhow::Result<()> {
    let mut buffers = vec![vec![0; LONGEST]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None);
        let lengths: Vec<_> = match received {
            Ok(received) => received.map(|one| one.bytes).collect(),
            // The latter of a packet that went out before the other end was there.
            Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(error) => return Err(error).context("the socket is gone"),
        };
        for (buffer, length) in buffers.iter().zip(lengths) {
            // An interface that is down takes nothing.
            drop(device.send(&buffer[..length]));
        }
    }
}

/// There is no packet, or the interface is not up yet.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
        || error.raw_os_error() == Some(Errno::EIO as i32)
}
