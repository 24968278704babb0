//! Streams and datagrams on a path that carries less than both send.

use crate::{
    datagrams::{echo_datagrams, udp},
    lab::{Fabric, Host, LOOPBACK, accepted, header, within},
    relay::{Line, Relay},
};
use bytes::Bytes;
use ripstop_config::Protocol;
use ripstop_transport::{IncomingSession, SendStream, Settings};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};

/// 40 Mbit/s, and 25 ms of queue.
const LINE: Line = Line { rate: 5_000_000, queue: 125_000 };
/// As with Ethernet.
const MTU: u16 = 1_452;
/// Until windows and rates have settled, and how long is measured then.
const SETTLE: Duration = Duration::from_millis(1_000);
const MEASURED: Duration = Duration::from_millis(2_500);

/// What arrived at the dialled host, in bytes.
#[derive(Default)]
struct Arrived {
    streams: AtomicU64,
    datagrams: AtomicU64,
    quiet: AtomicU64,
}

struct Pair {
    alpha: Host,
    beta: Host,
    arrived: Arc<Arrived>,
    _path: Relay,
}

/// Marks the session of datagrams that is no flood.
const QUIET: u16 = 9;

async fn pair() -> Pair {
    let fabric = Fabric::new("shop.example");
    let settings = Settings { mtu_max: MTU, ..Settings::listen(LOOPBACK) };
    let host = |name: &str| Host::with(settings.clone(), fabric.issue(name).load().unwrap());
    let (alpha, mut beta) = (host("alpha"), host("beta"));
    let arrived = Arc::new(Arrived::default());
    let counted = Arc::clone(&arrived);
    beta.serve(move |session| serve(session, Arc::clone(&counted)));
    let path = Relay::start(beta.address, Some(LINE));
    alpha.transport.set_peers([(beta.name().clone(), path.address)].into());
    alpha.up(&beta).await;
    Pair { alpha, beta, arrived, _path: path }
}

async fn serve(session: IncomingSession, arrived: Arc<Arrived>) {
    match (session.header.port.protocol, session.header.source_port) {
        (Protocol::Udp, QUIET) => echo_datagrams(session).await,
        (Protocol::Udp, _) => {
            let (_send, _recv, _to, mut from) = session.accept_datagrams(accepted()).await.unwrap();
            while let Some(datagram) = from.recv().await {
                arrived.datagrams.fetch_add(datagram.len() as u64, Ordering::Relaxed);
            }
        }
        (Protocol::Tcp, QUIET) => crate::lab::echo(session).await,
        (Protocol::Tcp, _) => {
            let (_send, mut recv) = session.accept(accepted()).await.unwrap();
            while let Ok(Some(piece)) = recv.read_chunk(usize::MAX, true).await {
                arrived.streams.fetch_add(piece.bytes.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

async fn bulk(mut stream: SendStream) {
    while stream.write_all(&[5; 16_384]).await.is_ok() {}
}

impl Pair {
    /// Sessions that write without end.
    async fn streams(&self, count: usize) -> JoinSet<()> {
        let mut writers = JoinSet::new();
        for _ in 0..count {
            let opened = self.alpha.transport.open(self.beta.name(), &header()).await.unwrap();
            writers.spawn(async move {
                let _recv = opened.recv;
                bulk(opened.send).await;
            });
        }
        writers
    }

    /// Sessions that send datagrams at twice what the path carries, together.
    async fn floods(&self, count: usize, length: usize) -> JoinSet<()> {
        let mut floods = JoinSet::new();
        for _ in 0..count {
            let mut opened = self.alpha.transport.open(self.beta.name(), &udp()).await.unwrap();
            let (to, from) = opened.datagrams.take().unwrap();
            let each = (2 * LINE.rate) as usize / count / 500;
            floods.spawn(async move {
                let (_opened, _from, datagram) = (opened, from, Bytes::from(vec![6; length]));
                let (start, mut sent) = (Instant::now(), 0);
                loop {
                    let due = start.elapsed().as_millis() as usize / 2 * each;
                    while sent < due {
                        let _ = to.send(&datagram);
                        sent += length;
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        floods
    }

    /// The shares of the path that streams and datagrams have.
    async fn shares(&self) -> (f64, f64) {
        sleep(SETTLE).await;
        let read = || [&self.arrived.streams, &self.arrived.datagrams].map(|count| count.load(Ordering::Relaxed));
        let (before, start) = (read(), Instant::now());
        sleep(MEASURED).await;
        let carried = LINE.rate as f64 * start.elapsed().as_secs_f64();
        let after = read();
        let [streams, datagrams] = [0, 1].map(|at| (after[at] - before[at]) as f64 / carried);
        println!("streams {:.1} %, datagrams {:.1} % of the path", streams * 1e2, datagrams * 1e2);
        (streams, datagrams)
    }
}

#[tokio::test]
async fn a_flood_of_datagrams_leaves_a_stream_its_share() {
    let pair = pair().await;
    let (_stream, _flood) = (pair.streams(1).await, pair.floods(1, 1_000).await);
    let (streams, datagrams) = pair.shares().await;
    assert!(streams > 0.35 && datagrams > 0.3);
}

#[tokio::test]
async fn a_flood_of_large_datagrams_leaves_a_stream_its_share() {
    let pair = pair().await;
    let (_stream, _flood) = (pair.streams(1).await, pair.floods(1, 30_000).await);
    let (streams, datagrams) = pair.shares().await;
    assert!(streams > 0.35 && datagrams > 0.2);
}

#[tokio::test]
async fn datagrams_keep_their_share_beside_many_streams() {
    let pair = pair().await;
    let (_streams, _flood) = (pair.streams(8).await, pair.floods(1, 1_000).await);
    let (streams, datagrams) = pair.shares().await;
    assert!(streams > 0.5 && datagrams > 0.07, "each of nine a ninth");
}

#[tokio::test]
async fn alone_datagrams_have_the_path() {
    let pair = pair().await;
    let _flood = pair.floods(4, 1_000).await;
    let (_, datagrams) = pair.shares().await;
    assert!(datagrams > 0.75);
}

#[tokio::test]
async fn what_is_small_gets_through_beside_floods() {
    let pair = pair().await;
    let _flood = pair.floods(3, 1_000).await;
    sleep(SETTLE).await;
    // Requests on a stream, and questions in datagrams.
    let quiet = |header| ripstop_transport::SessionHeader { source_port: QUIET, ..header };
    let mut slowest = [Duration::ZERO; 3];
    for _ in 0..20 {
        let start = Instant::now();
        let header = quiet(header());
        let mut stream = within(3, "a verdict", pair.alpha.transport.open(pair.beta.name(), &header)).await.unwrap();
        slowest[0] = slowest[0].max(start.elapsed());
        let start = Instant::now();
        stream.send.write_all(&[1; 3_000]).await.unwrap();
        stream.send.finish().unwrap();
        assert_eq!(within(3, "an answer", stream.recv.read_to_end(4_000)).await.unwrap().len(), 3_000);
        slowest[1] = slowest[1].max(start.elapsed());
    }
    let mut opened = pair.alpha.transport.open(pair.beta.name(), &quiet(udp())).await.unwrap();
    let (to, mut from) = opened.datagrams.take().unwrap();
    for _ in 0..20 {
        let start = Instant::now();
        to.send(b"who is it").unwrap();
        // One may be lost where the path's own queue is full.
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), from.recv()).await {
            assert_eq!(answer.unwrap(), "who is it");
            slowest[2] = slowest[2].max(start.elapsed());
            pair.arrived.quiet.fetch_add(1, Ordering::Relaxed);
        }
    }
    println!("slowest verdict {:?}, request {:?}, question {:?}", slowest[0], slowest[1], slowest[2]);
    let answered = pair.arrived.quiet.load(Ordering::Relaxed);
    assert!(answered >= 15, "{answered} of 20 questions were answered");
    assert!(slowest.iter().all(|one| *one < Duration::from_millis(400)), "{slowest:?}");
}
