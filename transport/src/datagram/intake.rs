//! Takes what a peer sends and hands it to its session.

use super::{DATAGRAM_MAX, Key, inbox::Delivered};
use crate::{link::Link, shared::Shared, status::Counters};
use bytes::Bytes;
use std::sync::Arc;
use tokio::task;

/// Longest content of a stream that carries one datagram: a key and the datagram.
pub(crate) const LARGE_MAX: usize = 8 + DATAGRAM_MAX;
/// Datagrams taken in a row before other tasks have their turn: some 100 µs.
const IN_A_ROW: u32 = 256;

/// Takes DATAGRAM frames until the connection ends.
pub(crate) async fn small(shared: Arc<Shared>, link: Arc<Link>) {
    let mut taken = 0_u32;
    while let Ok(frame) = link.connection.read_datagram().await {
        deliver(&shared, &link, frame);
        taken = taken.wrapping_add(1);
        if taken.is_multiple_of(IN_A_ROW) {
            task::yield_now().await;
        }
    }
}

/// Hands what came, a key and a datagram, to its session.
pub(crate) fn deliver(shared: &Shared, link: &Link, mut frame: Bytes) {
    // One that is too long or too short for a key belongs to no session either.
    let delivered = match Key::split(&mut frame) {
        Some(key) if frame.len() <= DATAGRAM_MAX => link.inbox.deliver(key, &frame),
        Some(_) | None => Delivered::Late,
    };
    match delivered {
        Delivered::Queued | Delivered::Full => {}
        Delivered::Late => Counters::add(&shared.counters.late_datagrams),
    }
}
