//! The two halves of a session's stream: quinn's, and counted, so that a connection that another one has replaced is
//! closed only when nothing is left on it.

use crate::link::Link;
use quinn::VarInt;
use std::{
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
    let send = SendStream { stream: send, held: Some(Held::new(link)), undecided, was_reset: false };
    (send, RecvStream { stream: recv, _held: Held::new(link), undecided })
}

impl SendStream {
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

impl AsyncWrite for SendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.stream), cx, into)
    }
}
