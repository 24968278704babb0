//! Packets that leave together.
//!
//! The kernel takes up to 64 packets of one size in one send and carries them as one (UDP segmentation offload), while quinn
//! hands over ten at most, and seven here: as many of the largest as one send takes, so that those leave as they are. What a
//! send costs beside copying is the same for seven as for sixty-four, on both hosts where the path passes them on whole; so
//! full sevens wait for what the connection sends next, until there is no room for more, or until it has nothing more to send.
//! Fewer than seven are the end of what there was: they are not kept, and nothing before them.

use crate::settings::MTU_MAX;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use std::{
    fmt,
    future::poll_fn,
    io,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::{sync::Notify, task};

/// Bytes of one send: what a UDP datagram could hold (RFC 768, less an IPv6 header's worth).
const BYTES_MAX: usize = 65_487;
/// Packets that quinn hands over at once when it has more: seven, of its ten at most. Of the largest as many fit into one send;
/// of 1 452 bytes six times as many are gathered, of the 45 that there would be room for.
const AT_ONCE: usize = BYTES_MAX / MTU_MAX as usize;

/// A socket that sends what belongs together at once.
pub(crate) struct Gathering {
    inner: Arc<dyn AsyncUdpSocket>,
    kept: Mutex<Kept>,
    /// Woken when something is kept, and when the socket is dropped.
    keeping: Arc<Notify>,
}

/// Packets that wait, all of one size, to one place.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    to: Option<To>,
    /// How often something was added, so that it is seen when nothing is any more.
    added: u64,
}

/// What packets of one send have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct To {
    destination: SocketAddr,
    source: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    size: usize,
}

impl To {
    fn of(transmit: &Transmit<'_>) -> Self {
        Self {
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn,
            size: transmit.segment_size.unwrap_or(transmit.contents.len()),
        }
    }
}

impl fmt::Debug for Gathering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Gathering {
    /// Over a socket, on the runtime that this is called on.
    pub(crate) fn over(inner: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        let keeping = Arc::new(Notify::new());
        let gathering = Arc::new(Self { inner, kept: Mutex::default(), keeping: Arc::clone(&keeping) });
        let weak = Arc::downgrade(&gathering);
        tokio::spawn(async move {
            loop {
                keeping.notified().await;
                let Some(gathering) = weak.upgrade() else { return };
                gathering.send_when_complete().await;
            }
        });
        gathering
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that may leave together in packets of such a size.
    fn room(&self, size: usize) -> usize {
        BYTES_MAX.min(size.saturating_mul(self.inner.max_transmit_segments()))
    }

    fn keep(&self, kept: &mut Kept, to: To, contents: &[u8]) {
        if kept.to.replace(to).is_none() {
            self.keeping.notify_one();
        }
        kept.bytes.extend_from_slice(contents);
        kept.added = kept.added.wrapping_add(1);
    }

    /// Sends what is kept once nothing is added any more: connections that have more to send are polled before a task that
    /// yields is.
    async fn send_when_complete(self: &Arc<Self>) {
        loop {
            let before = self.kept().added;
            task::yield_now().await;
            let sent = {
                let mut kept = self.kept();
                if kept.added != before {
                    continue;
                }
                self.send(&mut kept)
            };
            // Other errors are of packets that are lost then, and will be sent again.
            if !sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            let mut poller = Arc::clone(&self.inner).create_io_poller();
            if poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.is_err() {
                return;
            }
        }
    }

    /// Sends what is kept; it stays where the socket has no room.
    fn send(&self, kept: &mut Kept) -> io::Result<()> {
        let Some(to) = kept.to else { return Ok(()) };
        let sent = self.inner.try_send(&Transmit {
            destination: to.destination,
            ecn: to.ecn,
            contents: &kept.bytes,
            segment_size: (kept.bytes.len() > to.size).then_some(to.size),
            src_ip: to.source,
        });
        if !sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            kept.to = None;
            kept.bytes.clear();
        }
        sent
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.keeping.notify_one();
    }
}

impl AsyncUdpSocket for Gathering {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let to = To::of(transmit);
        let (length, room) = (transmit.contents.len(), self.room(to.size));
        let mut kept = self.kept();
        if kept.to.is_some_and(|before| before != to) || kept.bytes.len() + length > room {
            self.send(&mut kept)?;
        }
        let more_may_come = length == AT_ONCE * to.size && kept.bytes.len() + 2 * length <= room;
        if kept.to.is_none() && !more_may_come {
            return self.inner.try_send(transmit);
        }
        self.keep(&mut kept, to, transmit.contents);
        if more_may_come {
            return Ok(());
        }
        match self.send(&mut kept) {
            // It is taken, and leaves when there is room.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.keeping.notify_one();
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(AT_ONCE)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn::{Runtime, TokioRuntime};
    use std::{
        net::UdpSocket,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    /// A socket whose sends are counted.
    #[derive(Debug)]
    struct Counted(Arc<dyn AsyncUdpSocket>, AtomicUsize);

    impl AsyncUdpSocket for Counted {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Arc::clone(&self.0).create_io_poller()
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.try_send(transmit)
        }

        fn poll_recv(
            &self,
            cx: &mut Context<'_>,
            bufs: &mut [IoSliceMut<'_>],
            meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            self.0.poll_recv(cx, bufs, meta)
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            self.0.local_addr()
        }

        fn max_transmit_segments(&self) -> usize {
            self.0.max_transmit_segments()
        }
    }

    struct Path {
        counted: Arc<Counted>,
        gathering: Arc<Gathering>,
        receiver: UdpSocket,
    }

    impl Path {
        async fn new() -> Self {
            let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
            receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let sender = TokioRuntime.wrap_udp_socket(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            let mut poller = Arc::clone(&sender).create_io_poller();
            poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
            let counted = Arc::new(Counted(sender, AtomicUsize::new(0)));
            let gathering = Gathering::over(Arc::clone(&counted) as _);
            Self { counted, gathering, receiver }
        }

        /// So many packets of a size, the last one shorter by so much; each byte says which send it was.
        fn send(&self, which: u8, packets: usize, size: usize, shorter: usize) {
            let contents = vec![which; packets * size - shorter];
            let transmit = Transmit {
                destination: self.receiver.local_addr().unwrap(),
                ecn: None,
                contents: &contents,
                segment_size: (packets > 1).then_some(size),
                src_ip: None,
            };
            self.gathering.try_send(&transmit).unwrap();
        }

        /// Which send each packet was of, and its length.
        fn received(&self, packets: usize) -> Vec<(u8, usize)> {
            let mut buffer = [0; 2_000];
            (0..packets).map(|_| self.receiver.recv(&mut buffer).map(|length| (buffer[0], length)).unwrap()).collect()
        }

        fn sends(&self) -> usize {
            self.counted.1.load(Ordering::Relaxed)
        }
    }

    fn run(test: impl AsyncFnOnce(Path)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(Path::new().await).await });
    }

    #[test]
    fn full_sevens_leave_with_what_follows_in_order() {
        run(async |path| {
            for which in 0..3 {
                path.send(which, AT_ONCE, 1_000, 0);
            }
            assert_eq!(path.sends(), 0, "more may come");
            path.send(3, 4, 1_000, 300);
            assert_eq!(path.sends(), 1);
            let received = path.received(25);
            let expected = (0..25).map(|index| (index / 7, if index == 24 { 700 } else { 1_000 }));
            assert_eq!(received, expected.collect::<Vec<_>>());
        });
    }

    #[test]
    fn what_nothing_follows_leaves_by_itself() {
        run(async |path| {
            path.send(1, AT_ONCE, 1_000, 0);
            assert_eq!(path.sends(), 0);
            while path.sends() == 0 {
                task::yield_now().await;
            }
            assert_eq!(path.received(AT_ONCE), [(1, 1_000); AT_ONCE]);
        });
    }

    #[test]
    fn another_size_waits_behind_and_small_ones_wait_for_nothing() {
        run(async |path| {
            path.send(0, 1, 90, 0);
            path.send(1, AT_ONCE, 1_000, 0);
            path.send(2, 1, 1_400, 0);
            assert_eq!(path.sends(), 3);
            let sizes: Vec<_> = path.received(9).into_iter().map(|(which, _)| which).collect();
            assert_eq!(sizes, [0, 1, 1, 1, 1, 1, 1, 1, 2]);
        });
    }

    #[test]
    fn no_send_is_larger_than_a_datagram() {
        run(async |path| {
            for which in 0..13 {
                path.send(which, AT_ONCE, 1_452, 0);
            }
            assert_eq!(path.sends(), 2, "six sevens each");
            path.send(13, AT_ONCE, MTU_MAX.into(), 0);
            assert_eq!(path.sends(), 4, "what was kept, and as large as one may be");
            assert_eq!(path.gathering.max_transmit_segments(), AT_ONCE, "quinn hands over no more");
        });
    }
}
