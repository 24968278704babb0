//! Much at once.

use crate::lab::{Fabric, accepted, header, within};
use std::{hash::Hasher, time::Instant};

const TOTAL: usize = 200 << 20;
const PIECE: usize = 256 << 10;

/// The bytes of one piece: different for each.
fn piece(number: usize) -> Vec<u8> {
    (0..PIECE).map(|at| ((at * 31) ^ number.wrapping_mul(0x9e37) ^ (at >> 8)) as u8).collect()
}

#[expect(deprecated, reason = "its result does not depend on how the bytes are cut up, as DefaultHasher's does")]
fn hasher() -> std::hash::SipHasher {
    std::hash::SipHasher::new()
}

#[tokio::test]
async fn two_hundred_megabytes_arrive_whole() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let (done, received) = tokio::sync::oneshot::channel();
    let done = std::sync::Arc::new(std::sync::Mutex::new(Some(done)));
    beta.serve(move |session| {
        let done = done.lock().unwrap().take();
        async move {
            let (mut send, mut recv) = session.accept(accepted()).await.unwrap();
            let (mut hash, mut length) = (hasher(), 0);
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
                hash.write(&chunk.bytes);
                length += chunk.bytes.len();
            }
            send.finish().unwrap();
            done.unwrap().send((length, hash.finish())).unwrap();
        }
    });
    let mut opened = alpha.transport.open(beta.name(), &header()).await.unwrap();
    let mut hash = hasher();
    let start = Instant::now();
    for number in 0..TOTAL / PIECE {
        let piece = piece(number);
        hash.write(&piece);
        within(30, "a piece", opened.send.write_all(&piece)).await.unwrap();
    }
    opened.send.finish().unwrap();
    let seen = within(60, "the rest", received).await.unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(seen, (TOTAL, hash.finish()));
    let [status] = &alpha.transport.peers()[..] else { panic!("one peer") };
    println!(
        "{TOTAL} bytes in {seconds:.2} s: {:.2} Gbit/s; mtu {:?}, {} of {} packets lost, rtt {:?} s",
        TOTAL as f64 * 8.0 / seconds / 1e9,
        status.mtu,
        status.lost_packets,
        status.sent_packets,
        status.rtt
    );
}
