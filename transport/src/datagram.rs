//! Datagrams of sessions, beside their streams.
//!
//! 1. A session is named on the wire by the number of its bidirectional stream ([`key`]).
//! 2. [`DatagramSender::send`] puts a datagram into a bounded queue of its session, in one of two lanes of its connection
//!    ([`lane`]): what fits a packet of the path, and what does not.
//! 3. One task for each lane takes them out, sessions in turn ([`rounds`]): small ones become QUIC DATAGRAM frames
//!    (RFC 9221), large ones a unidirectional stream each ([`carry`]).
//! 4. The other host hands each to the queue of its session, or counts it when there is none ([`inbox`], [`intake`]).
//!
//! A datagram arrives whole and once, or not at all; in no particular order.

pub(crate) mod carry;
mod inbox;
pub(crate) mod intake;
mod key;
mod lane;
mod rounds;
mod share;

pub(crate) use self::{inbox::Inbox, key::Key, lane::Lane};

use self::inbox::Registration;
use crate::link::Link;
use bytes::Bytes;
use std::sync::Arc;

/// Longest datagram, in bytes: what UDP over IPv4 carries (65 535 less 20 of IP and 8 of UDP header).
pub const DATAGRAM_MAX: usize = 65_507;

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// As much of the session as may wait for the path is waiting.
    #[error("the path to the host is congested")]
    Congested,
    /// The connection of the session has ended.
    #[error("the connection has ended")]
    Closed,
    /// Longer than [`DATAGRAM_MAX`].
    #[error("a datagram of {0} bytes is more than the {DATAGRAM_MAX} that UDP carries")]
    TooLarge(usize),
}

/// Sends datagrams of one session. Clones send for the same session.
#[derive(Debug, Clone)]
pub struct DatagramSender {
    link: Arc<Link>,
    key: Key,
}

impl DatagramSender {
    /// Queues a datagram and never waits. What is queued when the session ends may be lost.
    ///
    /// # Errors
    /// [`DatagramError`]; the datagram is dropped then.
    pub fn send(&self, data: &[u8]) -> Result<(), DatagramError> {
        if data.len() > DATAGRAM_MAX {
            return Err(DatagramError::TooLarge(data.len()));
        }
        let frame = self.key.frame(data);
        self.lane(frame.len()).push(self.key, frame)
    }

    /// The same of several, in order, for less than one by one; says how many of the first were queued: for the others the
    /// path is congested.
    ///
    /// # Errors
    /// [`DatagramError`]; all are dropped then.
    pub fn send_all(&self, all: &[impl AsRef<[u8]>]) -> Result<usize, DatagramError> {
        let longest = all.iter().map(|data| data.as_ref().len()).max().unwrap_or(0);
        if longest > DATAGRAM_MAX {
            return Err(DatagramError::TooLarge(longest));
        }
        // Made before the lane is locked, and in one lane: small ones stay in order.
        let frames: Vec<_> = all.iter().map(|data| self.key.frame(data.as_ref())).collect();
        self.lane(self.key.length() + longest).push_all(self.key, frames)
    }

    /// The lane of what has so many bytes with its key.
    fn lane(&self, bytes: usize) -> &Lane {
        if self.link.fits(bytes) { &self.link.small } else { &self.link.large }
    }
}

/// Receives the datagrams of one session. From when it is dropped on, they are counted as late.
#[derive(Debug)]
pub struct DatagramReceiver(Registration);

impl DatagramReceiver {
    /// Adds the datagrams that wait to `into`, in order and at most `most`, once there is one; `false` once the connection
    /// has ended. May be dropped at any time, nothing is lost by that.
    pub async fn recv_some(&mut self, into: &mut Vec<Bytes>, most: usize) -> bool {
        self.0.recv_some(into, most).await
    }

    /// The next datagram; `None` once the connection has ended. May be dropped at any time, nothing is lost by that.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let mut one = Vec::with_capacity(1);
        self.recv_some(&mut one, 1).await;
        one.pop()
    }

    /// How many datagrams of the session found no room in its queue since this was last asked.
    #[must_use]
    pub fn take_lost(&self) -> u64 {
        self.0.take_lost()
    }
}

/// Both directions of the session on the stream `id`. From here on its datagrams are taken, which must be before the
/// other host can send one.
pub(crate) fn attach(link: &Arc<Link>, id: quinn::StreamId) -> (DatagramSender, DatagramReceiver) {
    let key = Key::of(id);
    let receiver = DatagramReceiver(Inbox::register(&link.inbox, key));
    (DatagramSender { link: Arc::clone(link), key }, receiver)
}
