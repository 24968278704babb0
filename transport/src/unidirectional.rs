//! Unidirectional streams: each carries one message and ends. Its first byte says of which kind.
//!
//! ```text
//! 0: a datagram of a session | key of the session | payload
//! 1: a report of the host | payload
//! ```

use crate::{
    code,
    datagram::{self, carry::LARGE_WAIT},
    link::Link,
    report::{self, REPORT_MAX},
    shared::Shared,
};
use bytes::{BufMut, BytesMut};
use quinn::RecvStream;
use std::sync::Arc;
use tokio::time;

/// Messages that a peer may have under way at once: large datagrams, and a few for what is sent rarely. quinn lets a
/// stream in only when another one has been read to its end, so this bounds the tasks and the memory that a peer can
/// cause here, which is this many times a stream window at worst.
pub(crate) const STREAMS: u32 = datagram::carry::LARGE_IN_FLIGHT as u32 + 8;

const DATAGRAM: u8 = 0;
const REPORT: u8 = 1;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Datagram,
    Report,
}

/// Begins a message.
pub(crate) fn mark(kind: Kind, into: &mut BytesMut) {
    into.put_u8(match kind {
        Kind::Datagram => DATAGRAM,
        Kind::Report => REPORT,
    });
}

/// Takes messages until the connection ends, each in a task of its own: one that does not come must not hold up others.
pub(crate) async fn accept(shared: Arc<Shared>, link: Arc<Link>) {
    while let Ok(stream) = link.connection.accept_uni().await {
        let (shared, link) = (Arc::clone(&shared), Arc::clone(&link));
        let runtime = shared.runtime.clone();
        runtime.spawn(async move { take(&shared, &link, stream).await });
    }
}

/// Reads to the end, `limit` bytes at most. Copied out in order: pieces kept as they arrive would each hold the packets
/// that they came in, a thousand times their size if the peer wants so.
async fn whole(stream: &mut RecvStream, limit: usize) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    while let Some(piece) = stream.read_chunk(limit, true).await.ok()? {
        if read.len() + piece.bytes.len() > limit {
            return None;
        }
        read.extend_from_slice(&piece.bytes);
    }
    Some(read)
}

/// Takes one message; dropped or over a limit, the peer is told to stop.
async fn take(shared: &Shared, link: &Link, mut stream: RecvStream) {
    let taken = time::timeout(LARGE_WAIT, async {
        let mut kind = [0];
        stream.read_exact(&mut kind).await.ok()?;
        match kind[0] {
            DATAGRAM => {
                let frame = whole(&mut stream, datagram::intake::LARGE_MAX).await?;
                datagram::intake::deliver(shared, link, frame.into());
            }
            REPORT => report::take(shared, link, whole(&mut stream, REPORT_MAX).await?.into()),
            _ => return None,
        }
        Some(())
    });
    if !matches!(taken.await, Ok(Some(()))) {
        // An error means that the stream has ended by itself.
        let _ = stream.stop(code::PROTOCOL.into());
    }
}
