//! Sessions whose workloads do not read hold up nobody else.

use crate::lab::{Fabric, Host, LOOPBACK, accepted, echo, eventually, header, within};
use ripstop_transport::{Opened, SessionHeader, Settings, settings::STREAM_WINDOW};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Marks the sessions that are not read.
const NOT_READ: u16 = 1;
const MOVED: usize = 10 << 20;

/// Two hosts, the second of which reads nothing of sessions from [`NOT_READ`] and echoes the others.
async fn pair(settings: &Settings) -> (Host, Host) {
    let fabric = Fabric::new("shop.example");
    let host = |name: &str| Host::with(settings.clone(), fabric.issue(name).load().unwrap());
    let (alpha, mut beta) = (host("alpha"), host("beta"));
    beta.serve(|session| async {
        if session.header.source_port == NOT_READ {
            let _held = session.accept(accepted()).await.unwrap();
            std::future::pending::<()>().await;
        } else {
            echo(session).await;
        }
    });
    alpha.dial(&[&beta]);
    alpha.up(&beta).await;
    (alpha, beta)
}

/// Opens sessions that nobody reads and writes to each until nothing more is taken.
async fn stall(from: &Host, to: &Host, count: usize) -> JoinSet<()> {
    let header = SessionHeader { source_port: NOT_READ, ..header() };
    let whole = count * (STREAM_WINDOW as usize - header.encode().len());
    let written = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..count {
        let (transport, to) = (from.transport.clone(), to.name().clone());
        let (header, written) = (header.clone(), Arc::clone(&written));
        writers.spawn(async move {
            let mut opened = transport.open(&to, &header).await.unwrap();
            loop {
                let taken = opened.send.write(&[0; 65_536]).await.unwrap();
                written.fetch_add(taken, Ordering::Relaxed);
            }
        });
    }
    let full = || written.load(Ordering::Relaxed) == whole;
    eventually("every stream window to be full", Duration::from_secs(60), full).await;
    writers
}

async fn round_trip(opened: &mut Opened, length: usize) {
    let sent = vec![7; length];
    let mut received = vec![0; length];
    let (written, read) = tokio::join!(opened.send.write_all(&sent), opened.recv.read_exact(&mut received));
    written.unwrap();
    read.unwrap();
    assert!(received == sent, "what came back differs");
}

#[tokio::test]
async fn two_hundred_stalled_sessions_do_not_hold_up_another() {
    let (alpha, beta) = pair(&Settings::listen(LOOPBACK)).await;
    let _stalled = stall(&alpha, &beta, 200).await;
    let start = Instant::now();
    let header = header();
    let mut opened = within(1, "a verdict", alpha.transport.open(beta.name(), &header)).await.unwrap();
    within(1, "a reply", round_trip(&mut opened, 100)).await;
    let at_once = start.elapsed();
    within(20, "the bulk", round_trip(&mut opened, MOVED)).await;
    println!("a verdict and a reply after {at_once:?}, {MOVED} bytes both ways after {:?}", start.elapsed());
    assert!(at_once < Duration::from_millis(500), "{at_once:?}");
}

#[tokio::test]
async fn stalled_sessions_hold_nothing_of_the_send_window() {
    // Some thirty times what the sender may keep unacknowledged.
    let settings = Settings { send_window: 1 << 20, ..Settings::listen(LOOPBACK) };
    let (alpha, beta) = pair(&settings).await;
    let _stalled = stall(&alpha, &beta, 25).await;
    let header = header();
    let mut opened = within(1, "a verdict", alpha.transport.open(beta.name(), &header)).await.unwrap();
    within(20, "the bulk", round_trip(&mut opened, MOVED)).await;
}
