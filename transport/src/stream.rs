//! The two halves of a session's stream: quinn's, and counted, so that a connection that another one has replaced is
//! closed only when nothing is left on it.

use crate::link::Link;
use bytes::Bytes;
use quinn::{VarInt, WriteError, Written};
use std::{
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};

/// Counts one half of a stream as open on its connection.
#[derive(Debug)]
struct Held(Arc<Link>);

impl Held {
    fn new(link: &Arc<Link>) -> Self {
        link.hold();
        Self(Arc::clone(link))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The sending half of a session: a [`quinn::SendStream`]. Dropped without `finish` or `reset`, it is finished.
#[derive(Debug)]
pub struct SendStream {
    stream: quinn::SendStream,
    link: Arc<Link>,
    held: Option<Held>,
    /// What it is reset with when it is dropped before there is a verdict.
    undecided: Option<VarInt>,
    /// Nothing that was written needs to arrive any more.
    was_reset: bool,
}

/// The receiving half of a session: a [`quinn::RecvStream`]. Dropped before its end, the peer is told to stop.
#[derive(Debug)]
pub struct RecvStream {
    stream: quinn::RecvStream,
    _held: Held,
    undecided: Option<VarInt>,
}

/// Both halves of a session without a verdict. Dropped so, they are reset with `code`: the other agent must not take that
/// for an ordinary end.
pub(crate) fn undecided(
    link: &Arc<Link>,
    (send, recv): (quinn::SendStream, quinn::RecvStream),
    code: u32,
) -> (SendStream, RecvStream) {
    let undecided = Some(code.into());
    let send =
        SendStream { stream: send, link: Arc::clone(link), held: Some(Held::new(link)), undecided, was_reset: false };
    (send, RecvStream { stream: recv, _held: Held::new(link), undecided })
}

/// quinn's ways to write, counted as what the connection's streams want of the path.
impl SendStream {
    /// As [`quinn::SendStream::write`].
    ///
    /// # Errors
    /// As there; so with the others.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        self.link.demand.of(self.stream.write(bytes)).await
    }

    /// As [`quinn::SendStream::write_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.link.demand.of(self.stream.write_all(bytes)).await
    }

    /// As [`quinn::SendStream::write_chunk`].
    ///
    /// # Errors
    /// As there.
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.link.demand.of(self.stream.write_chunk(bytes)).await
    }

    /// As [`quinn::SendStream::write_chunks`].
    ///
    /// # Errors
    /// As there.
    pub async fn write_chunks(&mut self, pieces: &mut [Bytes]) -> Result<Written, WriteError> {
        self.link.demand.of(self.stream.write_chunks(pieces)).await
    }

    /// As [`quinn::SendStream::write_all_chunks`].
    ///
    /// # Errors
    /// As there.
    pub async fn write_all_chunks(&mut self, pieces: &mut [Bytes]) -> Result<(), WriteError> {
        self.link.demand.of(self.stream.write_all_chunks(pieces)).await
    }

    /// Ends the stream at once; what was written need not arrive. [`quinn::SendStream::stopped`] may never complete
    /// after this.
    ///
    /// # Errors
    /// [`quinn::ClosedStream`] when it was finished or reset before.
    pub fn reset(&mut self, code: VarInt) -> Result<(), quinn::ClosedStream> {
        self.was_reset = true;
        self.stream.reset(code)
    }
}

/// There is a verdict: from here on the halves behave like quinn's.
pub(crate) fn decide(mut send: SendStream, mut recv: RecvStream) -> (SendStream, RecvStream) {
    (send.undecided, recv.undecided) = (None, None);
    (send, recv)
}

/// Changes what the halves are reset with when they are dropped.
pub(crate) fn blame(send: &mut SendStream, recv: &mut RecvStream, code: VarInt) {
    (send.undecided, recv.undecided) = (Some(code), Some(code));
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if let Some(code) = self.undecided {
            // Fails only on a stream that has ended by itself.
            let _ = self.reset(code);
        }
        // What was written may not have arrived yet: on a connection that waits to be closed, wait for that first.
        let Some(held) = self.held.take_if(|held| held.0.is_retired() && !self.was_reset) else { return };
        let _ = self.stream.finish();
        let arrived = self.stream.stopped();
        let runtime = held.0.runtime.clone();
        runtime.spawn(async move {
            let _ = arrived.await;
            drop(held);
        });
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if let Some(code) = self.undecided {
            // Fails only on a stream that has ended by itself.
            let _ = self.stream.stop(code);
        }
    }
}

impl Deref for SendStream {
    type Target = quinn::SendStream;
    fn deref(&self) -> &Self::Target {
        &self.stream
    }
}

impl DerefMut for SendStream {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.stream
    }
}

impl Deref for RecvStream {
    type Target = quinn::RecvStream;
    fn deref(&self) -> &Self::Target {
        &self.stream
    }
}

impl DerefMut for RecvStream {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.stream
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.stream), cx, into)
    }
}
