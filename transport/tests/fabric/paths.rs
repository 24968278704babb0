//! Paths between hosts that change.

use crate::{
    lab::{Fabric, eventually, header, within},
    relay::Relay,
};
use ripstop_transport::PeerState;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

const MOVED: usize = 20 << 20;

#[tokio::test]
async fn sessions_survive_a_change_of_the_diallers_address() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = (fabric.host("alpha"), fabric.host("beta"));
    alpha.serve_echo();
    beta.serve_echo();
    let path = Relay::start(beta.address, None);
    alpha.transport.set_peers([(beta.name().clone(), path.address)].into());
    alpha.up(&beta).await;
    beta.up(&alpha).await;
    let header = header();
    let mut idle = beta.transport.open(alpha.name(), &header).await.unwrap();
    let mut bulk = alpha.transport.open(beta.name(), &header).await.unwrap();
    let sent: Vec<u8> = (0..MOVED).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let mut received = vec![0; MOVED];
    let (early, late) = received.split_at_mut(MOVED / 2);
    let writing = bulk.send.write_all(&sent);
    let reading = async {
        bulk.recv.read_exact(early).await.unwrap();
        path.move_dialler("127.0.0.2").await;
        bulk.recv.read_exact(late).await
    };
    let (written, read) = within(60, "the transfer", async { tokio::join!(writing, reading) }).await;
    written.unwrap();
    read.unwrap();
    assert!(received == sent, "what came back differs");
    let [status] = &beta.transport.peers()[..] else { panic!("one peer") };
    let at: IpAddr = status.address.unwrap().ip();
    assert_eq!(at.to_string(), "127.0.0.2", "the dialled host follows");

    // While nothing is sent but probes, and towards the host that moved.
    path.move_dialler("127.0.0.3").await;
    let moved = || beta.transport.peers()[0].address.is_some_and(|at| at.ip().to_string() == "127.0.0.3");
    eventually("the move of a silent path", Duration::from_secs(2), moved).await;
    let mut pong = [0; 4];
    idle.send.write_all(b"ping").await.unwrap();
    within(2, "the reply", idle.recv.read_exact(&mut pong)).await.unwrap();
    within(2, "a new session", beta.transport.open(alpha.name(), &header)).await.unwrap();
    assert_eq!((alpha.transport.counts().connections, beta.transport.counts().connections), (1, 1));
}

#[tokio::test]
async fn sessions_outlive_an_outage_in_which_no_new_ones_are_opened() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = (fabric.host("alpha"), fabric.host("beta"));
    beta.serve_echo();
    let path = Relay::start(beta.address, None);
    alpha.transport.set_peers([(beta.name().clone(), path.address)].into());
    alpha.up(&beta).await;
    let header = header();
    let mut session = alpha.transport.open(beta.name(), &header).await.unwrap();
    // One that does not last long enough is not noticed.
    path.dark(true).await;
    session.send.write_all(b"one").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    assert!(alpha.transport.is_up(beta.name()));
    path.dark(false).await;
    let mut echoed = [0; 3];
    within(3, "the echo", session.recv.read_exact(&mut echoed)).await.unwrap();

    path.dark(true).await;
    let dark = Instant::now();
    session.send.write_all(b"two").await.unwrap();
    for (host, other) in [(&alpha, &beta), (&beta, &alpha)] {
        eventually("silence", Duration::from_secs(4), || !host.transport.is_up(other.name())).await;
        assert_eq!(host.transport.peers()[0].state, PeerState::Silent);
    }
    println!("silence noticed after {:?}", dark.elapsed());
    assert!(dark.elapsed() < Duration::from_millis(3_000));
    tokio::time::sleep(Duration::from_millis(6_000).saturating_sub(dark.elapsed())).await;
    path.dark(false).await;
    let light = Instant::now();
    // Whether the old connection is heard first or a new one is made.
    alpha.up(&beta).await;
    beta.up(&alpha).await;
    println!("up {:?} after the outage", light.elapsed());
    within(4, "the echo", session.recv.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"two");
    within(2, "a session", alpha.transport.open(beta.name(), &header)).await.unwrap();
    // The old session goes on, wherever the new ones go.
    tokio::time::sleep(Duration::from_secs(6)).await;
    session.send.write_all(b"end").await.unwrap();
    within(2, "the echo", session.recv.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"end");
}

#[tokio::test]
async fn sessions_survive_a_change_of_the_dialled_hosts_address() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = (fabric.host("alpha"), fabric.host("beta"));
    alpha.serve_echo();
    beta.serve_echo();
    let path = Relay::start(beta.address, None);
    alpha.transport.set_peers([(beta.name().clone(), path.address)].into());
    alpha.up(&beta).await;
    beta.up(&alpha).await;
    let header = header();
    let mut idle = beta.transport.open(alpha.name(), &header).await.unwrap();
    let mut bulk = alpha.transport.open(beta.name(), &header).await.unwrap();
    let sent: Vec<u8> = (0..MOVED).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let mut received = vec![0; MOVED];
    let (early, late) = received.split_at_mut(MOVED / 2);
    let writing = bulk.send.write_all(&sent);
    let reading = async {
        bulk.recv.read_exact(early).await.unwrap();
        let at = path.move_dialled("127.0.0.2").await;
        let moved = Instant::now();
        bulk.recv.read_exact(late).await.unwrap();
        (at, moved.elapsed())
    };
    let (written, (at, took)) = within(30, "the transfer", async { tokio::join!(writing, reading) }).await;
    written.unwrap();
    println!("the second half took {took:?} with the move in it");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(received == sent, "what came back differs");
    assert_eq!(alpha.transport.peers()[0].address, Some(at), "the dialling host follows");

    // While nothing is sent but probes.
    let at = path.move_dialled("127.0.0.3").await;
    let moved = Instant::now();
    eventually("the move of a silent path", Duration::from_secs(2), || alpha.transport.peers()[0].address == Some(at))
        .await;
    println!("followed after {:?}", moved.elapsed());
    let mut pong = [0; 4];
    idle.send.write_all(b"ping").await.unwrap();
    within(2, "the reply", idle.recv.read_exact(&mut pong)).await.unwrap();
    within(2, "a new session", alpha.transport.open(beta.name(), &header)).await.unwrap();
    assert_eq!((alpha.transport.counts().connections, beta.transport.counts().connections), (1, 1));
}
