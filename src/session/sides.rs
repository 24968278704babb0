//! The three kinds of side a session can have.

use super::pump::{Broken, Got, PIECES, READ, Sink, Source};
use crate::stack::Endpoint;
use bytes::{Buf, Bytes, BytesMut};
use ripstop_config::Reason;
use ripstop_transport::{
    ReadError, RecvStream, SendStream,
    code::{self, End},
};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::pin,
    rc::Rc,
    task::{self, Poll, ready},
};
use tokio::{io::Interest, net::TcpStream};

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

    fn stop(&mut self, _: Reason) {
        self.endpoint.abort();
    }
}

impl Sink for UserTcp {
    async fn write(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Broken> {
        self.endpoint.write(pieces, self.reset).await?;
        pieces.clear();
        Ok(())
    }

    fn finish(&mut self) {
        self.endpoint.finish();
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
    /// The stream.
    pub stream: RecvStream,
    /// The end of the session that is at the other host.
    pub sender: End,
}

impl Source for QuicSource {
    async fn read(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken> {
        if max < READ {
            let piece = self.stream.read_chunk(max, true).await.map_err(|error| self.broken(&error))?;
            return Ok(piece.map_or(Got::End, |piece| {
                let length = piece.bytes.len();
                pieces.push(piece.bytes);
                Got::Bytes(length)
            }));
        }
        let count = poll_fn(|cx| self.poll_pieces(pieces, cx)).await.map_err(|error| self.broken(&error))?;
        Ok(count.map_or(Got::End, |_| Got::Bytes(pieces.iter().map(Bytes::len).sum())))
    }

    fn stop(&mut self, reason: Reason) {
        // An error means that the stream has ended already.
        let _ = self.stream.stop(code::from_reason(reason));
    }
}

impl QuicSource {
    /// The slots live only while there is something to put into them: a session that waits holds none.
    fn poll_pieces(
        &mut self,
        pieces: &mut Vec<Bytes>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<Option<usize>, ReadError>> {
        let mut slots = [const { Bytes::new() }; PIECES];
        let count = ready!(pin!(self.stream.read_chunks(&mut slots)).poll(cx))?;
        pieces.extend(slots.into_iter().take(count.unwrap_or(0)));
        Poll::Ready(Ok(count))
    }

    fn broken(&self, error: &ReadError) -> Broken {
        Broken(code::of_read(error, self.sender))
    }
}

/// The sending half of a session's QUIC stream.
pub struct QuicSink {
    /// The stream.
    pub stream: SendStream,
    /// The end of the session that is at the other host.
    pub receiver: End,
}

impl Sink for QuicSink {
    async fn write(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Broken> {
        let written = self.stream.write_all_chunks(pieces).await;
        written.map_err(|error| Broken(code::of_write(&error, self.receiver)))?;
        pieces.clear();
        Ok(())
    }

    fn finish(&mut self) {
        // An error means that the stream was reset before, which the reading half reports.
        let _ = self.stream.finish();
    }

    fn reset(&mut self, reason: Reason) {
        // An error means that the stream has ended already.
        let _ = self.stream.reset(code::from_reason(reason));
    }

    async fn broken(&mut self) -> Broken {
        match self.stream.stopped().await {
            Ok(Some(stop)) => Broken(code::to_reason(stop, self.receiver)),
            // Everything sent was taken: only the other direction is left to break.
            Ok(None) => std::future::pending().await,
            Err(_) => Broken(Reason::PeerLost),
        }
    }
}

/// An endpoint's connection through the host's own TCP.
pub struct KernelTcp(Rc<TcpStream>);

impl KernelTcp {
    /// One half of a connection.
    #[must_use]
    pub fn new(stream: &Rc<TcpStream>) -> Self {
        Self(Rc::clone(stream))
    }
}

impl Source for KernelTcp {
    async fn read(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken> {
        loop {
            self.0.readable().await.map_err(|_| Broken(Reason::EndpointReset))?;
            // Memory is taken only when there is something to read: an idle session holds none.
            let mut buffer = BytesMut::with_capacity(READ.min(max));
            match self.0.try_read_buf(&mut buffer) {
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

    fn stop(&mut self, _: Reason) {
        reset_on_close(&self.0);
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
                    self.0.writable().await.map_err(|_| Broken(Reason::EndpointReset))?;
                }
                Err(_) => return Err(Broken(Reason::EndpointReset)),
            }
        }
        pieces.clear();
        Ok(())
    }

    fn finish(&mut self) {
        // An error means that the connection is gone, which the reading half reports.
        let _ = socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write);
    }

    fn reset(&mut self, _: Reason) {
        reset_on_close(&self.0);
    }

    async fn broken(&mut self) -> Broken {
        match self.0.ready(Interest::ERROR).await {
            Ok(_) | Err(_) => Broken(Reason::EndpointReset),
        }
    }
}

impl KernelTcp {
    fn write_some(&self, pieces: &[Bytes]) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = pieces.iter().zip(&mut slices).map(|(piece, slice)| *slice = IoSlice::new(piece)).count();
        self.0.try_write_vectored(&slices[..count])
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

/// Makes closing the socket send a reset, not a FIN.
pub(super) fn reset_on_close(stream: &TcpStream) {
    // An error means that the connection is gone already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}
