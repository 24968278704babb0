//! Sends what waits in the lanes of a connection.

use super::{DATAGRAM_MAX, Key};
use crate::{
    code,
    link::Link,
    unidirectional::{self, Kind},
};
use bytes::{Bytes, BytesMut};
use quinn::SendDatagramError;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time};

/// Large datagrams of one connection under way at once. Each waits for a round trip: 32 of them carry 160 Mbit/s at
/// 100 ms.
pub(crate) const LARGE_IN_FLIGHT: usize = 32;
/// How long a large datagram may take to arrive; an application that waits for it has given up by then.
pub(crate) const LARGE_WAIT: Duration = Duration::from_secs(10);

/// Sends what fits a packet, until the connection ends. What does not fit any more when its turn comes changes lanes.
pub(crate) async fn small(link: Arc<Link>) {
    loop {
        let (key, data) = link.small.next().await;
        match link.connection.send_datagram_wait(key.frame(&data)).await {
            Ok(()) => {}
            Err(SendDatagramError::TooLarge | SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled) => {
                // Without room there it is lost, as on any path that has become narrower.
                let _ = link.large.push(key, data);
            }
            Err(SendDatagramError::ConnectionLost(_)) => return,
        }
    }
}

/// Sends what does not fit a packet, until the connection ends.
pub(crate) async fn large(link: Arc<Link>) {
    let room = Arc::new(Semaphore::new(LARGE_IN_FLIGHT));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let (key, data) = link.large.next().await;
        let link = Arc::clone(&link);
        let runtime = link.runtime.clone();
        runtime.spawn(async move {
            one(&link, key, data).await;
            drop(permit);
        });
    }
}

/// Sends one datagram on a stream of its own, or nothing that the other host would take for one.
async fn one(link: &Link, key: Key, data: Bytes) {
    debug_assert!(data.len() <= DATAGRAM_MAX, "checked when it was queued");
    let mut head = BytesMut::with_capacity(1 + key.length());
    unidirectional::mark(Kind::Datagram, &mut head);
    key.encode(&mut head);
    let deadline = time::Instant::now() + LARGE_WAIT;
    let Ok(Ok(mut stream)) = time::timeout_at(deadline, link.connection.open_uni()).await else { return };
    let sent = time::timeout_at(deadline, async {
        stream.write_all_chunks(&mut [head.freeze(), data]).await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()
    });
    if !matches!(sent.await, Ok(Some(_))) {
        // A stream that is only dropped is finished, and its beginning would be taken for the whole. An error means that
        // it has ended by itself.
        let _ = stream.reset(code::CANCELLED.into());
    }
}
