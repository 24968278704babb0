//! Paths between hosts that change.

use crate::lab::{Fabric, LOOPBACK, eventually, header, within};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{net::UdpSocket, sync::mpsc};

const MOVED: usize = 20 << 20;

/// A NAT between a host that dials and one that is dialled, which forgets its mapping when told to.
struct Nat {
    address: SocketAddr,
    forget: mpsc::Sender<SocketAddr>,
}

impl Nat {
    async fn start(to: SocketAddr) -> Self {
        let front = UdpSocket::bind(LOOPBACK).await.unwrap();
        let back = UdpSocket::bind(LOOPBACK).await.unwrap();
        let (forget, forgets) = mpsc::channel(1);
        let address = front.local_addr().unwrap();
        tokio::spawn(forward(front, back, to, forgets));
        Self { address, forget }
    }

    /// From here on what it forwards comes from another address and port.
    async fn move_to(&self, address: &str) {
        self.forget.send(SocketAddr::new(address.parse().unwrap(), 0)).await.unwrap();
    }
}

async fn forward(front: UdpSocket, mut back: UdpSocket, to: SocketAddr, mut forgets: mpsc::Receiver<SocketAddr>) {
    let (mut there, mut here) = (vec![0; 65_535], vec![0; 65_535]);
    let mut dialler = None;
    loop {
        // What the system has no room for is lost, as on any path.
        tokio::select! {
            got = front.recv_from(&mut there) => {
                let (length, from) = got.unwrap();
                dialler = Some(from);
                let _ = back.send_to(&there[..length], to).await;
            }
            got = back.recv_from(&mut here) => {
                let (length, _) = got.unwrap();
                if let Some(dialler) = dialler {
                    let _ = front.send_to(&here[..length], dialler).await;
                }
            }
            Some(address) = forgets.recv() => back = UdpSocket::bind(address).await.unwrap(),
        }
    }
}

#[tokio::test]
async fn sessions_survive_a_change_of_the_diallers_address() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = (fabric.host("alpha"), fabric.host("beta"));
    alpha.serve_echo();
    beta.serve_echo();
    let nat = Nat::start(beta.address).await;
    alpha.transport.set_peers([(beta.name().clone(), nat.address)].into());
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
        nat.move_to("127.0.0.2").await;
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
    nat.move_to("127.0.0.3").await;
    let moved = || beta.transport.peers()[0].address.is_some_and(|at| at.ip().to_string() == "127.0.0.3");
    eventually("the move of a silent path", Duration::from_secs(2), moved).await;
    let mut pong = [0; 4];
    idle.send.write_all(b"ping").await.unwrap();
    within(2, "the reply", idle.recv.read_exact(&mut pong)).await.unwrap();
    within(2, "a new session", beta.transport.open(alpha.name(), &header)).await.unwrap();
    assert_eq!((alpha.transport.counts().connections, beta.transport.counts().connections), (1, 1));
}
