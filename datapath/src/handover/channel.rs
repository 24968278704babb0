//! A pair of sockets between two processes: messages stay whole and in order, and descriptors travel with them.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair, sockopt,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram as RawSocket,
    },
};
use tokio::{io::Interest, net::UnixDatagram};

/// Longest message, bytes: the largest packet, or 64 KiB of datagrams, and what is said of it.
pub const MESSAGE_MAX: usize = 66_000;
/// Bytes that wait in a channel at most, each way; of packets beyond it the newest are lost, as in a device's own queue. The
/// system may grant less.
const WAITING: usize = 4 << 20;
/// Descriptors in one message at most.
const DESCRIPTORS_MAX: usize = 8;

/// Both ends of a channel.
///
/// # Errors
/// When no descriptor is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&one, &other] {
        if let Err(error) = sockopt::set_socket_send_buffer_size_force(end, WAITING) {
            tracing::debug!(%error, "the channel keeps its default buffer");
        }
    }
    Ok((one, other))
}

/// One end of a channel. It ends when the other process does, or lets go of its end.
///
/// The runtime only waits for the socket, for which its type does not matter; what is sent and received goes past it.
#[derive(Debug)]
pub struct Channel(UnixDatagram);

impl Channel {
    /// Within the runtime that will use it.
    ///
    /// # Errors
    /// When the runtime cannot watch another descriptor.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        let socket = RawSocket::from(end);
        socket.set_nonblocking(true)?;
        Ok(Self(UnixDatagram::from_std(socket)?))
    }

    /// Sends a message of at most [`MESSAGE_MAX`] bytes, once there is room.
    ///
    /// # Errors
    /// `BrokenPipe` when the other end is gone.
    pub async fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = || send(self.0.as_fd(), &[IoSlice::new(message)], descriptors);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Sends a message now or never; says whether it was sent.
    pub fn send_now(&self, parts: &[IoSlice<'_>]) -> bool {
        send(self.0.as_fd(), parts, &[]).is_ok()
    }

    /// Says nothing more; the other end hears that, and may still be heard.
    pub fn finish(&self) {
        // The other end may be gone, which says as much.
        let _ = shutdown(self.0.as_fd(), Shutdown::Write);
    }

    /// The next message, into a buffer of [`MESSAGE_MAX`] bytes; `None` when the other end is gone.
    ///
    /// # Errors
    /// What the system says; nothing can be received any more.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
        match self.0.async_io(Interest::READABLE, || receive(self.0.as_fd(), buffer)).await {
            // It left something unread behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            received => received,
        }
    }
}

fn send(end: BorrowedFd<'_>, parts: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(end, parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(end: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(end, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    // No message is empty.
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(Some((received.bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read, Seek, Write},
    };

    #[tokio::test]
    async fn messages_stay_whole_and_descriptors_come_along() {
        let (one, other) = pair().unwrap();
        let (one, other) = (Channel::new(one).unwrap(), Channel::new(other).unwrap());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"here").unwrap();
        one.send(b"first", &[file.as_fd(), file.as_fd()]).await.unwrap();
        assert!(one.send_now(&[IoSlice::new(b"sec"), IoSlice::new(b"ond")]));
        let mut buffer = vec![0; MESSAGE_MAX];
        let (length, descriptors) = other.receive(&mut buffer).await.unwrap().unwrap();
        assert_eq!((&buffer[..length], descriptors.len()), (&b"first"[..], 2));
        let mut same = File::from(descriptors.into_iter().next().unwrap());
        same.rewind().unwrap();
        let mut text = String::new();
        same.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
        let (length, _) = other.receive(&mut buffer).await.unwrap().unwrap();
        assert_eq!(&buffer[..length], b"second");
        drop(one);
        assert!(other.receive(&mut buffer).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_full_channel_takes_nothing_more_and_never_waits() {
        let (one, _other) = pair().unwrap();
        let one = Channel::new(one).unwrap();
        let packet = vec![7; MESSAGE_MAX];
        let taken = (0..1_000).take_while(|_| one.send_now(&[IoSlice::new(&packet)])).count();
        assert!((1..1_000).contains(&taken), "{taken}");
    }
}
