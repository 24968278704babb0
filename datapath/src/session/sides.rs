//! The three kinds of side a session can have.

use super::pump::{Broken, Got, PIECES, READ, RESET_PATIENCE, Sink, Source};
use crate::stack::Endpoint;
use bytes::{Buf, Bytes, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ripstop_config::Reason;
use ripstop_transport::{
    ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError,
    code::{self, End},
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice},
    mem,
    os::fd::AsFd,
    pin::{Pin, pin},
    rc::Rc,
    task::{self, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{io::Interest, net::TcpStream};

/// How long the other host may take to hand on what was sent before a reset: longer than it is patient itself.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long bytes may be under way to it when there is nothing to learn of that: some round trips and repetitions.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// How often a socket is looked at that does not take its last bytes at once.
const SENT_LOOK: Duration = Duration::from_millis(5);

thread_local! {
    /// Where what a stream gives is put for a moment. Most looks at a stream find nothing or one piece, and so many empty
    /// places would be made for it, and taken away one by one.
    static SLOTS: RefCell<[Bytes; PIECES]> = const { RefCell::new([const { Bytes::new() }; PIECES]) };
}

/// A workload's connection in userspace TCP; the reason says whose reset ends it.
pub struct UserTcp {
    endpoint: Rc<Endpoint>,
    reset: Reason,
}

impl UserTcp {
    /// One half of a connection; `reset` is recorded when the workload resets it.
    #[must_use]
    pub fn new(endpoint: &Rc<Endpoint>, reset: Reason) -> Self {
        Self { endpoint: Rc::clone(endpoint), reset }
    }
}

impl Source for UserTcp {
    async fn read(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken> {
        Ok(match self.endpoint.read(max, self.reset).await? {
            Some(piece) => {
                let length = piece.len();
                pieces.push(piece);
                Got::Bytes(length)
            }
            None => Got::End,
        })
    }

    async fn broken(&mut self) -> Broken {
        self.endpoint.cut_short(self.reset).await
    }

    fn stop_behind(&mut self, _: Reason, _: u64) -> bool {
        false
    }

    fn stop(&mut self, _: Reason) {
        self.endpoint.abort();
    }
}

impl Sink for UserTcp {
    async fn write(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Broken> {
        self.endpoint.give(pieces, self.reset).await
    }

    fn flush(&mut self) {
        self.endpoint.flush();
    }

    fn finish(&mut self) {
        self.endpoint.finish();
    }

    fn written(&self) -> u64 {
        // Only a stream needs to know.
        0
    }

    async fn taken(&mut self, _: bool) {
        // A time-out: what a workload does not read it would not have been sent.
        let _ = tokio::time::timeout(RESET_PATIENCE, self.endpoint.taken()).await;
    }

    fn reset(&mut self, _: Reason) {
        self.endpoint.abort();
    }

    async fn broken(&mut self) -> Broken {
        self.endpoint.broken(self.reset).await
    }
}

/// The receiving half of a session's QUIC stream.
pub struct QuicSource {
    stream: RecvStream,
    /// The end of the session that is at the other host.
    sender: End,
    read: u64,
    tail: Rc<Tail>,
}

/// What the halves of a stream tell each other: the other end's application has reset the session behind so many bytes.
#[derive(Default)]
struct Tail {
    behind: Cell<Option<(u64, Broken)>>,
    /// Of a sending half that is finished, and that nobody waits for any more: whether it is stopped all the same.
    finished: RefCell<Option<Stopped>>,
}

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>>>>;

impl Tail {
    /// The sending half was stopped by `other`, the end of the session at the other host.
    fn stopped(&self, code: VarInt, other: End) -> Broken {
        let broken = Broken(code::to_reason(code, other));
        self.behind.set(code::bytes_before(code).map(|bytes| (bytes, broken)));
        broken
    }

    /// What is known by now.
    fn poll(&self, other: End, cx: &mut task::Context<'_>) -> Option<(u64, Broken)> {
        let mut finished = self.finished.borrow_mut();
        if let Some(Poll::Ready(stopped)) = finished.as_mut().map(|stopped| stopped.as_mut().poll(cx)) {
            *finished = None;
            if let Ok(Some(code)) = stopped {
                self.stopped(code, other);
            }
        }
        self.behind.get()
    }
}

/// Both halves of a session's stream to the end of the session at the other host.
#[must_use]
pub fn quic_halves(recv: RecvStream, send: SendStream, other: End) -> (QuicSource, QuicSink) {
    let tail = Rc::<Tail>::default();
    let source = QuicSource { stream: recv, sender: other, read: 0, tail: Rc::clone(&tail) };
    (source, QuicSink { stream: send, receiver: other, written: 0, tail })
}

impl Source for QuicSource {
    async fn read(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken> {
        let got = self.read_to_tail(max, pieces).await?;
        if let Got::Bytes(length) = got {
            self.read += length as u64;
        }
        Ok(got)
    }

    async fn broken(&mut self) -> Broken {
        // Not a reset of the stream itself: quinn keeps the waker of who waits for one, also when nobody does any more. A
        // reset that comes by itself is seen by the next read.
        poll_fn(|_| self.tail.behind.get().map_or(Poll::Pending, |(_, broken)| Poll::Ready(broken))).await
    }

    fn stop_behind(&mut self, reason: Reason, written: u64) -> bool {
        // A direction whose end has arrived cannot be stopped any more, though nobody has read so far.
        !self.has_ended() && code::behind(reason, written).is_some_and(|code| self.stream.stop(code).is_ok())
    }

    fn stop(&mut self, reason: Reason) {
        // An error means that the stream has ended already.
        let _ = self.stream.stop(code::from_reason(reason));
    }
}

impl QuicSource {
    /// Throws away what has arrived, a stream window at most; says whether that was all.
    fn has_ended(&mut self) -> bool {
        let (mut unwanted, mut cx) = (Vec::new(), task::Context::from_waker(task::Waker::noop()));
        loop {
            match self.poll_pieces(&mut unwanted, &mut cx) {
                Poll::Ready(Ok(Some(_))) => unwanted.clear(),
                Poll::Ready(Ok(None) | Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
    }

    async fn read_to_tail(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken> {
        let (tail, read, sender) = (Rc::clone(&self.tail), self.read, self.sender);
        let mut reading = pin!(self.read_pieces(max, pieces));
        // The halves of a session are polled by one task: what the other one learns is seen in the same turn.
        poll_fn(|cx| match (reading.as_mut().poll(cx), tail.poll(sender, cx)) {
            (Poll::Ready(got), _) => Poll::Ready(got),
            (Poll::Pending, Some((bytes, broken))) if bytes <= read => Poll::Ready(Err(broken)),
            (Poll::Pending, _) => Poll::Pending,
        })
        .await
    }

    async fn read_pieces(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken> {
        if max < READ {
            let piece = self.stream.read_chunk(max, true).await.map_err(|error| self.lost(&error))?;
            return Ok(piece.map_or(Got::End, |piece| {
                let length = piece.bytes.len();
                pieces.push(piece.bytes);
                Got::Bytes(length)
            }));
        }
        let count = poll_fn(|cx| self.poll_pieces(pieces, cx)).await.map_err(|error| self.lost(&error))?;
        Ok(count.map_or(Got::End, |_| Got::Bytes(pieces.iter().map(Bytes::len).sum())))
    }

    fn poll_pieces(
        &mut self,
        pieces: &mut Vec<Bytes>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<Option<usize>, ReadError>> {
        SLOTS.with_borrow_mut(|slots| {
            let count = ready!(pin!(self.stream.read_chunks(slots)).poll(cx))?;
            pieces.extend(slots.iter_mut().take(count.unwrap_or(0)).map(mem::take));
            Poll::Ready(Ok(count))
        })
    }

    fn lost(&self, error: &ReadError) -> Broken {
        Broken(code::of_read(error, self.sender))
    }
}

/// The sending half of a session's QUIC stream.
pub struct QuicSink {
    stream: SendStream,
    /// The end of the session that is at the other host.
    receiver: End,
    written: u64,
    tail: Rc<Tail>,
}

impl Sink for QuicSink {
    async fn write(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Broken> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let written = self.stream.write_all_chunks(pieces).await;
        written.map_err(|error| match error {
            WriteError::Stopped(code) => self.tail.stopped(code, self.receiver),
            error => Broken(code::of_write(&error, self.receiver)),
        })?;
        self.written += length as u64;
        pieces.clear();
        Ok(())
    }

    fn flush(&mut self) {
        // Its connection does as soon as it has its turn.
    }

    fn finish(&mut self) {
        // An error means that the stream was reset before, which the reading half reports.
        let _ = self.stream.finish();
        self.tail.finished.replace(Some(Box::pin(self.stream.stopped())));
    }

    fn written(&self) -> u64 {
        self.written
    }

    async fn taken(&mut self, told: bool) {
        // The other host answers by ending its half when its application has the bytes. Where it could not be told, as the
        // other direction has ended, the reset itself will tell it, and throw away what is still under way.
        let wait = if told { ANSWER_MAX } else { UNDER_WAY };
        let _ = tokio::time::timeout(wait, self.stream.stopped()).await;
    }

    fn reset(&mut self, reason: Reason) {
        // An error means that the stream has ended already.
        let _ = self.stream.reset(code::from_reason(reason));
    }

    async fn broken(&mut self) -> Broken {
        match self.stream.stopped().await {
            Ok(Some(code)) => self.tail.stopped(code, self.receiver),
            // Everything sent was taken: only the other direction is left to break.
            Ok(None) => std::future::pending().await,
            Err(_) => Broken(Reason::PeerLost),
        }
    }
}

/// An endpoint's connection through the host's own TCP.
pub struct KernelTcp {
    stream: Rc<TcpStream>,
    /// A write was told of the reset: the kernel says it once, and to the reader shows an ordinary end.
    reset: Rc<Cell<bool>>,
}

impl KernelTcp {
    /// Both halves of a connection.
    #[must_use]
    pub fn halves(stream: &Rc<TcpStream>) -> (Self, Self) {
        let reset = Rc::<Cell<bool>>::default();
        let half = || Self { stream: Rc::clone(stream), reset: Rc::clone(&reset) };
        (half(), half())
    }

    async fn error(&self) -> Broken {
        match self.stream.ready(Interest::ERROR).await {
            Ok(_) | Err(_) => Broken(Reason::EndpointReset),
        }
    }
}

impl Source for KernelTcp {
    async fn read(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken> {
        loop {
            self.stream.readable().await.map_err(|_| Broken(Reason::EndpointReset))?;
            // Memory is taken only when there is something to read: an idle session holds none.
            let mut buffer = BytesMut::with_capacity(READ.min(max));
            match self.stream.try_read_buf(&mut buffer) {
                Ok(0) if self.reset.get() => return Err(Broken(Reason::EndpointReset)),
                Ok(0) => return Ok(Got::End),
                Ok(length) => {
                    pieces.push(fitting(buffer));
                    return Ok(Got::Bytes(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Broken(Reason::EndpointReset)),
            }
        }
    }

    async fn broken(&mut self) -> Broken {
        self.error().await
    }

    fn stop_behind(&mut self, _: Reason, _: u64) -> bool {
        false
    }

    fn stop(&mut self, _: Reason) {
        reset_on_close(&self.stream);
    }
}

/// The bytes in memory of about their size: a short piece that waits for a slow reader must not hold a whole buffer.
fn fitting(buffer: BytesMut) -> Bytes {
    if buffer.len() * 2 < buffer.capacity() { Bytes::copy_from_slice(&buffer) } else { buffer.freeze() }
}

impl Sink for KernelTcp {
    async fn write(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Broken> {
        let mut index = 0;
        while index < pieces.len() {
            match self.write_some(&pieces[index..]) {
                Ok(written) => index = advance(pieces, index, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await.map_err(|_| Broken(Reason::EndpointReset))?;
                }
                Err(error) => {
                    self.reset.set(error.kind() == io::ErrorKind::ConnectionReset);
                    return Err(Broken(Reason::EndpointReset));
                }
            }
        }
        pieces.clear();
        Ok(())
    }

    fn flush(&mut self) {
        // The kernel holds nothing back, by TCP_NODELAY.
    }

    fn finish(&mut self) {
        // An error means that the connection is gone, which the reading half reports.
        let _ = socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write);
    }

    fn written(&self) -> u64 {
        // Only a stream needs to know.
        0
    }

    async fn taken(&mut self, _: bool) {
        // Writable only once nothing waits to be sent: a reset would throw that away.
        let _ = socket2::SockRef::from(&*self.stream).set_tcp_notsent_lowat(1);
        let start = Instant::now();
        while !is_writable(&self.stream) && start.elapsed() < RESET_PATIENCE {
            tokio::time::sleep(SENT_LOOK).await;
        }
    }

    fn reset(&mut self, _: Reason) {
        reset_on_close(&self.stream);
    }

    async fn broken(&mut self) -> Broken {
        self.error().await
    }
}

impl KernelTcp {
    fn write_some(&self, pieces: &[Bytes]) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = pieces.iter().zip(&mut slices).map(|(piece, slice)| *slice = IoSlice::new(piece)).count();
        self.stream.try_write_vectored(&slices[..count])
    }
}

/// Skips `written` bytes from the piece at `index` on; returns the first piece that is not wholly written.
fn advance(pieces: &mut [Bytes], mut index: usize, mut written: usize) -> usize {
    while let Some(piece) = pieces.get_mut(index) {
        if written < piece.len() {
            piece.advance(written);
            break;
        }
        written -= piece.len();
        index += 1;
    }
    index
}

/// Asked of the kernel itself: the runtime remembers an earlier answer.
fn is_writable(stream: &TcpStream) -> bool {
    let mut asked = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Makes closing the socket send a reset, not a FIN.
pub(super) fn reset_on_close(stream: &TcpStream) {
    // An error means that the connection is gone already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
