//! Sends what waits in the lanes of a connection.

use super::share::{Share, Streams};
use crate::{
    code,
    link::Link,
    unidirectional::{self, Kind},
};
use bytes::{Bytes, BytesMut};
use quinn::SendDatagramError;
use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time};

/// Large datagrams of one connection under way at once. Each waits for a round trip: 32 of them carry 160 Mbit/s at
/// 100 ms.
pub(crate) const LARGE_IN_FLIGHT: usize = 32;
/// How long a large datagram may take to arrive; an application that waits for it has given up by then.
pub(crate) const LARGE_WAIT: Duration = Duration::from_secs(10);
/// What timers are good to.
const TICK: Duration = Duration::from_millis(1);

/// Sends what fits a packet, until the connection ends. What does not fit any more when its turn comes changes lanes.
pub(crate) async fn small(link: Arc<Link>) {
    let (mut share, mut carried) = (Share::default(), 0);
    let empty = link.connection.datagram_send_buffer_space();
    loop {
        let ((key, frame), idle) = waited(link.small.next()).await;
        share.idle(idle);
        let bytes = frame.len();
        if link.fits(bytes) {
            match waited(link.connection.send_datagram_wait(frame)).await {
                (Ok(()), held) => share.sent(bytes, held),
                (Err(SendDatagramError::ConnectionLost(_)), _) => return,
                // The path has become narrower meanwhile: it is lost.
                (Err(_), _) => {}
            }
        } else {
            // Without room there it is lost.
            let _ = link.large.push(key, frame);
        }
        if share.is_over(streams(&link)) {
            carried = leave(&link, &mut share, empty, carried).await;
        }
    }
}

/// What comes of it, and for how long it had to be waited for: there is no need of a clock where it comes at once.
async fn waited<T>(what: impl Future<Output = T>) -> (T, Duration) {
    let (mut what, mut since) = (pin!(what), None);
    let done = poll_fn(|cx| {
        let polled = what.as_mut().poll(cx);
        if polled.is_pending() && since.is_none() {
            since = Some(Instant::now());
        }
        polled
    })
    .await;
    (done, since.map_or(Duration::ZERO, |since| since.elapsed()))
}

fn streams(link: &Link) -> Streams {
    Streams { waiting: link.demand.waiting(), written: link.demand.written() }
}

/// Leaves the path to the streams for a while, as soon as quinn's buffer is `empty`. Takes and gives what the path had
/// carried when the burst began.
async fn leave(link: &Link, share: &mut Share, empty: usize, carried: u64) -> u64 {
    let began = Instant::now();
    while link.connection.datagram_send_buffer_space() < empty && link.is_open() {
        time::sleep(TICK).await;
    }
    share.sent(0, began.elapsed());
    let now = streams(link);
    let before = link.connection.stats().udp_tx.bytes;
    let hold = share.hold(now, link.small.sessions(), before.saturating_sub(carried)).max(TICK);
    time::sleep(hold).await;
    let after = link.connection.stats().udp_tx.bytes;
    share.used(after.saturating_sub(before), hold, now);
    after
}

/// Sends what does not fit a packet, until the connection ends.
pub(crate) async fn large(link: Arc<Link>) {
    let mut under_way = JoinSet::new();
    loop {
        let (_, frame) = link.large.next().await;
        while under_way.len() >= in_flight(&link) {
            under_way.join_next().await;
        }
        while under_way.try_join_next().is_some() {}
        let link = Arc::clone(&link);
        under_way.spawn(async move { one(&link, frame).await });
    }
}

/// How many large datagrams may be under way. quinn serves streams in turn, so while others wait, each session with large
/// datagrams gets the share of one stream, and one more hides the round trip.
fn in_flight(link: &Link) -> usize {
    match link.demand.waiting() {
        0 => LARGE_IN_FLIGHT,
        _ => (link.large.sessions() + 1).clamp(2, LARGE_IN_FLIGHT),
    }
}

/// Sends one datagram on a stream of its own, or nothing that the other host would take for one.
async fn one(link: &Link, frame: Bytes) {
    let mut head = BytesMut::with_capacity(1);
    unidirectional::mark(Kind::Datagram, &mut head);
    let deadline = time::Instant::now() + LARGE_WAIT;
    let Ok(Ok(mut stream)) = time::timeout_at(deadline, link.connection.open_uni()).await else { return };
    let sent = time::timeout_at(deadline, async {
        stream.write_all_chunks(&mut [head.freeze(), frame]).await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()
    });
    if !matches!(sent.await, Ok(Some(_))) {
        // A stream that is only dropped is finished, and its beginning would be taken for the whole. An error means that
        // it has ended by itself.
        let _ = stream.reset(code::CANCELLED.into());
    }
}
