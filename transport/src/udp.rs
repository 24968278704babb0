//! The kernel's UDP socket, as quinn wants it.
//!
//! quinn's own, over tokio's, asks the kernel to say at all times when there is room to send. It says so after each packet that left,
//! which keeps a thread from its sleep, or wakes it, for nothing. Here it is asked only while there is no room. And where fewer
//! packets came than were asked for, nothing is left to be read: the kernel will say when more have come.

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState},
};
use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A socket that is watched for packets, and for room while it has none.
pub(crate) struct Udp {
    socket: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// There was no room for the last packet.
    is_full: AtomicBool,
}

impl fmt::Debug for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Udp").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Udp {
    /// Over a socket that does not block, on the runtime that this is called on.
    ///
    /// # Errors
    /// The system's, where it cannot be watched, or lacks what QUIC needs.
    pub(crate) fn over(socket: UdpSocket) -> io::Result<Arc<Self>> {
        let state = UdpSocketState::new((&socket).into())?;
        let socket = watch(socket, Interest::READABLE)?;
        Ok(Arc::new(Self { socket, state, is_full: AtomicBool::new(false) }))
    }

    fn watch_for_room(&self) -> Option<AsyncFd<UdpSocket>> {
        watch(self.socket.get_ref().try_clone().ok()?, Interest::WRITABLE).ok()
    }
}

#[expect(deprecated, reason = "of sockets it is sound: theirs is one descriptor for as long as they are")]
fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsyncUdpSocket for Udp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { udp: self, watched: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.socket.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.is_full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let Ok(received) = ready.try_io(|socket| self.state.recv(socket.get_ref().into(), bufs, meta)) else {
                continue;
            };
            if received.as_ref().is_ok_and(|count| *count < bufs.len().min(BATCH_SIZE)) {
                ready.clear_ready();
            }
            return Poll::Ready(received);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// One who waits for room.
#[derive(Debug)]
struct Room {
    udp: Arc<Udp>,
    /// The same socket, watched for room while there is none.
    watched: Option<AsyncFd<UdpSocket>>,
}

impl UdpPoller for Room {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { udp, watched } = self.get_mut();
        if udp.is_full.load(Ordering::Relaxed) {
            if watched.is_none() {
                *watched = udp.watch_for_room();
            }
            let Some(watched) = watched else {
                // No descriptor is left to watch it with: whoever waits tries again, as an error here would end its connection.
                udp.is_full.store(false, Ordering::Relaxed);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            ready!(watched.poll_write_ready(cx))?.retain_ready();
            udp.is_full.store(false, Ordering::Relaxed);
        }
        *watched = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, sync::atomic::AtomicUsize, task::Waker, time::Duration};
    use tokio::{
        runtime::{Builder, Runtime},
        time::timeout,
    };

    /// A runtime, and how often it slept.
    fn runtime() -> (Runtime, Arc<AtomicUsize>) {
        let slept = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&slept);
        let sleeps = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        (Builder::new_current_thread().enable_all().on_thread_park(sleeps).build().unwrap(), slept)
    }

    fn bound() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn send(udp: &Udp, to: &UdpSocket, contents: &[u8]) {
        let destination = to.local_addr().unwrap();
        udp.try_send(&Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None }).unwrap();
    }

    /// Lengths of what is received at once, of at most `most` packets.
    async fn received(udp: &Udp, most: usize) -> Vec<usize> {
        let (mut memory, mut meta) = (vec![[0; 2_000]; most], vec![RecvMeta::default(); most]);
        let mut buffers: Vec<_> = memory.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let count = poll_fn(|cx| udp.poll_recv(cx, &mut buffers, &mut meta)).await.unwrap();
        meta[..count].iter().map(|meta| meta.len).collect()
    }

    #[test]
    fn what_leaves_wakes_nobody() {
        const EXCHANGES: usize = 20;
        let (far, (runtime, slept)) = (UdpSocket::bind("127.0.0.1:0").unwrap(), runtime());
        let to = far.try_clone().unwrap();
        let echo = std::thread::spawn(move || {
            for _ in 0..EXCHANGES {
                let (_, from) = far.recv_from(&mut [0; 9]).unwrap();
                std::thread::sleep(Duration::from_millis(2));
                far.send_to(b"packet", from).unwrap();
            }
        });
        runtime.block_on(async {
            let udp = Udp::over(bound()).unwrap();
            for _ in 0..EXCHANGES {
                send(&udp, &to, b"packet");
                assert_eq!(received(&udp, 2).await, [6]);
            }
        });
        echo.join().unwrap();
        let slept = slept.load(Ordering::Relaxed);
        assert!(slept < EXCHANGES * 3 / 2, "slept {slept} times for {EXCHANGES} answers");
    }

    #[test]
    fn all_that_comes_is_read() {
        runtime().0.block_on(async {
            let (udp, from) = (Udp::over(bound()).unwrap(), bound());
            let to = udp.local_addr().unwrap();
            let mut sent = 0;
            for together in [1, 3, 2, 4, 1, 7, 1] {
                for _ in 0..together {
                    sent += 1;
                    from.send_to(&vec![0; sent], to).unwrap();
                }
                let mut lengths = Vec::new();
                while lengths.len() < together {
                    lengths.extend(timeout(Duration::from_secs(5), received(&udp, 3)).await.unwrap());
                }
                assert!(lengths.into_iter().eq(sent + 1 - together..=sent));
                let more = timeout(Duration::from_millis(5), received(&udp, 3)).await;
                assert!(more.is_err(), "nothing was sent");
            }
        });
    }

    #[test]
    fn who_waits_for_room_goes_on_when_the_kernel_has_some() {
        runtime().0.block_on(async {
            let (udp, to) = (Udp::over(bound()).unwrap(), bound());
            let mut rooms = [0; 2].map(|_| Arc::clone(&udp).create_io_poller());
            // As after a packet that there was no room for, which loopback always has.
            udp.is_full.store(true, Ordering::Relaxed);
            let mut waiting = rooms.each_mut().map(|room| poll_fn(|cx| room.as_mut().poll_writable(cx)));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(waiting.iter_mut().all(|waits| Pin::new(waits).poll(&mut cx).is_pending()), "asked the kernel");
            for waits in waiting {
                timeout(Duration::from_secs(5), waits).await.unwrap().unwrap();
            }
            assert!(!udp.is_full.load(Ordering::Relaxed));
            send(&udp, &to, b"packet");
        });
    }
}
