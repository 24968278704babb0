//! Connections come, go and come back.

use crate::lab::{Fabric, Host, accepted, eventually, header, name, within};
use ripstop_config::Reason;
use ripstop_transport::{ConnectionError, Identity, OpenError, Opened, PeerState, ReadError, code};
use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// A host on a thread and runtime of its own, which can die like a process: without another packet.
struct Doomed {
    die: tokio::sync::oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
    address: SocketAddr,
}

impl Doomed {
    fn start(identity: Identity, listen: SocketAddr) -> Self {
        let (die, death) = tokio::sync::oneshot::channel();
        let (tell, told) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let host = runtime.block_on(async {
                let mut host = Host::start(identity, listen);
                host.serve_echo();
                tell.send(host.address).unwrap();
                let _ = death.await;
                host
            });
            // No farewell: when the handle closes the connections, nothing is left to send it.
            drop(runtime);
            drop(host);
        });
        Self { die, thread, address: told.recv().unwrap() }
    }

    fn kill(self) {
        self.die.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_dead_host_is_noticed_and_comes_back() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let identity = fabric.issue("beta").load().unwrap();
    let beta = Doomed::start(identity.clone(), crate::lab::LOOPBACK);
    let address = beta.address;
    let to = name("beta");
    alpha.transport.set_peers([(to.clone(), address)].into());
    let mut opened = alpha.transport.open(&to, &header()).await.unwrap();
    opened.send.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    opened.recv.read_exact(&mut pong).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;

    beta.kill();
    let died = Instant::now();
    eventually("silence to be noticed", Duration::from_secs(4), || !alpha.transport.is_up(&to)).await;
    println!("silence noticed after {:?}", died.elapsed());
    assert!(died.elapsed() < Duration::from_millis(3_000), "{:?}", died.elapsed());
    assert_eq!(alpha.transport.peers()[0].state, PeerState::Silent);
    let refused = Instant::now();
    assert!(matches!(alpha.transport.open(&to, &header()).await, Err(OpenError::NotConnected(_))));
    assert!(refused.elapsed() < Duration::from_millis(50), "{:?}", refused.elapsed());
    let error = within(11, "the end of the session", opened.recv.read_chunk(1, true)).await.unwrap_err();
    assert_eq!(code::of_read(&error, code::End::Endpoint), Reason::PeerLost);
    println!("given up after {:?}", died.elapsed());
    assert!((8..11).contains(&died.elapsed().as_secs()), "{:?}", died.elapsed());
    let down = || matches!(alpha.transport.peers()[0].state, PeerState::Down { .. } | PeerState::Connecting);
    eventually("the host to be down", Duration::from_secs(1), down).await;

    let _beta = Doomed::start(identity, address);
    let back = Instant::now();
    eventually("the host to be back", Duration::from_secs(6), || alpha.transport.is_up(&to)).await;
    println!("back after {:?}", back.elapsed());
    alpha.transport.open(&to, &header()).await.unwrap();
}

#[tokio::test]
async fn a_host_that_restarts_ends_the_sessions_of_its_former_life_at_once() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    // Read anew, as after a restart: what it is recognised by follows from its key.
    let files = fabric.issue("beta");
    let beta = Doomed::start(files.load().unwrap(), crate::lab::LOOPBACK);
    let (address, to) = (beta.address, name("beta"));
    alpha.transport.set_peers([(to.clone(), address)].into());
    let mut opened = alpha.transport.open(&to, &header()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    beta.kill();
    let _beta = Doomed::start(files.load().unwrap(), address);
    let restarted = Instant::now();
    let error = within(2, "the reset", opened.recv.read_chunk(1, true)).await.unwrap_err();
    println!("reset after {:?}", restarted.elapsed());
    assert_eq!(error, ReadError::ConnectionLost(ConnectionError::Reset));
    assert_eq!(code::of_read(&error, code::End::Endpoint), Reason::PeerLost);
    eventually("the host to be back", Duration::from_secs(2), || alpha.transport.is_up(&to)).await;
    alpha.transport.open(&to, &header()).await.unwrap();
}

#[tokio::test]
async fn a_host_that_restarts_and_dials_is_used_at_once() {
    // beta, which dialled first, is replaced by a new beta while alpha still believes in the old one.
    let fabric = Fabric::new("shop.example");
    let mut alpha = fabric.host("alpha");
    alpha.serve_echo();
    let identity = fabric.issue("beta").load().unwrap();
    let old = Host::start(identity.clone(), crate::lab::LOOPBACK);
    old.dial(&[&alpha]);
    old.up(&alpha).await;
    alpha.up(&old).await;
    let mut new = Host::start(identity, crate::lab::LOOPBACK);
    new.serve_echo();
    new.dial(&[&alpha]);
    new.up(&alpha).await;
    eventually("the new connection", Duration::from_secs(1), || alpha.transport.counts().connections_replaced == 1)
        .await;
    within(1, "a session", alpha.transport.open(&name("beta"), &header())).await.unwrap();
}

#[tokio::test]
async fn dialled_at_once_one_connection_stays() {
    let mut pairs = tokio::task::JoinSet::new();
    for number in 0..50 {
        pairs.spawn(async move { dialled_at_once(number).await });
    }
    let mut raced = 0;
    while let Some(pair) = pairs.join_next().await {
        raced += usize::from(pair.unwrap());
    }
    println!("{raced} of 50 pairs had two connections at first");
    assert!(raced > 0, "none of the pairs raced: this test shows nothing");
}

/// A session, as soon as there is a connection: several pairs shake hands at once here.
async fn opened(from: &Host, to: &Host) -> Opened {
    within(60, "a session", async {
        loop {
            match from.transport.open(to.name(), &header()).await {
                Ok(opened) => return opened,
                Err(error) => assert!(matches!(error, OpenError::NotConnected(_)), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

/// One pair; says whether there were two connections at first.
async fn dialled_at_once(number: u32) -> bool {
    // One pair after the other, so that a handshake is not waited for longer than it may take.
    tokio::time::sleep(Duration::from_millis(100) * number).await;
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = (fabric.host("alpha"), fabric.host("beta"));
    alpha.serve_echo();
    beta.serve_echo();
    alpha.dial(&[&beta]);
    beta.dial(&[&alpha]);
    // Sessions opened right away, on whichever connection there is, live through what follows.
    let header = header();
    let (mut ab, mut ba) = tokio::join!(opened(&alpha, &beta), opened(&beta, &alpha));
    let made = || (alpha.transport.counts().connections, beta.transport.counts().connections);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (at_alpha, at_beta) = made();
    assert_eq!(at_alpha, at_beta, "pair {number}");
    let raced = at_alpha == 2;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for opened in [&mut ab, &mut ba] {
        let mut pong = [0; 4];
        opened.send.write_all(b"ping").await.unwrap();
        opened.recv.read_exact(&mut pong).await.unwrap();
        opened.send.finish().unwrap();
        assert!(opened.recv.read_to_end(1).await.unwrap().is_empty());
    }
    drop((ab, ba));
    tokio::time::sleep(Duration::from_secs(3)).await;
    // No second connection is left, none was made since, and both hosts use the same one.
    assert_eq!(made(), (at_alpha, at_beta), "pair {number} redialled");
    assert_eq!((alpha.transport.connections(), beta.transport.connections()), (1, 1), "pair {number}");
    for (from, to) in [(&alpha, &beta), (&beta, &alpha)] {
        assert_eq!(from.transport.peers()[0].state, PeerState::Up, "pair {number}");
        from.transport.open(to.name(), &header).await.unwrap();
    }
    raced
}

#[tokio::test]
async fn a_host_that_moves_is_followed() {
    let fabric = Fabric::new("shop.example");
    let (alpha, beta) = fabric.pair("alpha", "beta").await;
    let moved = Host::start(fabric.issue("beta").load().unwrap(), crate::lab::LOOPBACK);
    beta.transport.close();
    alpha.dial(&[&moved]);
    eventually("the new address", Duration::from_secs(5), || {
        let peers = alpha.transport.peers();
        peers.iter().any(|peer| peer.state == PeerState::Up && peer.address == Some(moved.address))
    })
    .await;
}

#[tokio::test]
async fn a_dropped_transport_leaves_nothing_running() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, beta) = fabric.pair("alpha", "beta").await;
    let mut incoming = alpha.incoming.take().unwrap();
    let address = alpha.address;
    drop(alpha);
    assert!(within(2, "the queue's end", incoming.next()).await.is_none());
    eventually("the farewell", Duration::from_secs(1), || !beta.transport.is_up(&name("alpha"))).await;
    drop(beta);
    eventually("the port to be free", Duration::from_secs(5), || std::net::UdpSocket::bind(address).is_ok()).await;
}

#[tokio::test]
async fn statuses_tell_what_the_path_is_like() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve(|session| async {
        let (mut send, _recv) = session.accept(accepted()).await.unwrap();
        send.write_all(&[1; 4 << 20]).await.unwrap();
    });
    let mut opened = alpha.transport.open(beta.name(), &header()).await.unwrap();
    assert_eq!(opened.recv.read_to_end(5 << 20).await.unwrap().len(), 4 << 20);
    let status = &beta.transport.peers()[0];
    assert_eq!((status.host.as_str(), &status.state), ("alpha", &PeerState::Up));
    assert!(status.rtt.unwrap() > 0.0 && status.rtt.unwrap() < 0.5);
    assert!(status.sent_packets > 100);
    assert!(status.mtu.unwrap() > 1_200, "the search for larger packets has begun: {:?}", status.mtu);
    let age = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - status.since;
    assert!((0.0..10.0).contains(&age), "{age}");
    let down = ripstop_transport::PeerStatus {
        state: PeerState::Down { reason: "it does not answer".into() },
        rtt: None,
        ..status.clone()
    };
    let json = serde_json::to_value(&down).unwrap();
    assert_eq!((json["state"].as_str(), json["reason"].as_str()), (Some("down"), Some("it does not answer")));
    assert_eq!(serde_json::from_value::<ripstop_transport::PeerStatus>(json).unwrap(), down);
}
