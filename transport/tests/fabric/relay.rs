//! A path between a host that dials and one that is dialled: what each sends goes through it, at a given rate. It can go
//! dark, and either end can get another address.

use crate::lab::LOOPBACK;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, runtime, sync::mpsc, time};

/// What can happen to a path.
enum Change {
    /// What it forwards to the dialled host comes from another address.
    MoveDialler(SocketAddr),
    /// What it forwards to the dialling host comes from another address, and what is sent to the old one is lost.
    MoveDialled(SocketAddr, std::sync::mpsc::SyncSender<SocketAddr>),
    Dark(bool),
}

/// How much a path carries.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    /// Bytes a second, in each direction.
    pub(crate) rate: u64,
    /// Bytes that wait for their turn; more are lost.
    pub(crate) queue: usize,
}

/// One direction of it.
struct Direction {
    line: Option<Line>,
    waiting: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    free: Instant,
}

impl Direction {
    fn new(line: Option<Line>) -> Self {
        Self { line, waiting: VecDeque::new(), bytes: 0, free: Instant::now() }
    }

    fn take(&mut self, packet: &[u8]) {
        let now = Instant::now();
        self.free = match self.line {
            Some(line) if self.bytes + packet.len() > line.queue => return,
            Some(line) => {
                // With 28 bytes of IP and UDP.
                self.free.max(now) + Duration::from_secs_f64((packet.len() + 28) as f64 / line.rate as f64)
            }
            None => now,
        };
        self.bytes += packet.len();
        self.waiting.push_back((self.free, packet.to_vec()));
    }

    fn due(&mut self) -> Option<Vec<u8>> {
        self.waiting.front().filter(|(at, _)| *at <= Instant::now())?;
        let (_, packet) = self.waiting.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }
}

/// The path; gone when dropped.
pub(crate) struct Relay {
    /// Where the dialling host finds the dialled one.
    pub(crate) address: SocketAddr,
    changes: mpsc::Sender<Change>,
}

impl Relay {
    pub(crate) fn start(to: SocketAddr, line: Option<Line>) -> Self {
        let (changes, inbox) = mpsc::channel(1);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        // On a thread of its own, as the hosts keep the test's busy.
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let front = UdpSocket::bind(LOOPBACK).await.unwrap();
                let back = UdpSocket::bind(LOOPBACK).await.unwrap();
                tell.send(front.local_addr().unwrap()).unwrap();
                forward(front, back, to, line, inbox).await;
            });
        });
        Self { address: told.recv().unwrap(), changes }
    }

    /// From here on what it forwards from the dialling host comes from another address and port.
    pub(crate) async fn move_dialler(&self, address: &str) {
        let change = Change::MoveDialler(SocketAddr::new(address.parse().unwrap(), 0));
        self.changes.send(change).await.expect("the relay runs");
    }

    /// From here on the dialled host is at another address, and no longer at the one that was dialled.
    pub(crate) async fn move_dialled(&self, address: &str) -> SocketAddr {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let change = Change::MoveDialled(SocketAddr::new(address.parse().unwrap(), 0), tell);
        self.changes.send(change).await.expect("the relay runs");
        told.recv_timeout(Duration::from_secs(1)).unwrap()
    }

    /// While dark, what is sent is lost.
    pub(crate) async fn dark(&self, dark: bool) {
        self.changes.send(Change::Dark(dark)).await.expect("the relay runs");
    }
}

async fn forward(
    mut front: UdpSocket,
    mut back: UdpSocket,
    to: SocketAddr,
    line: Option<Line>,
    mut changes: mpsc::Receiver<Change>,
) {
    let (mut there, mut here) = (vec![0; 65_535], vec![0; 65_535]);
    let (mut up, mut down) = (Direction::new(line), Direction::new(line));
    let (mut dialler, mut dark) = (None, false);
    loop {
        // What the system has no room for is lost, as on any path.
        while let Some(packet) = up.due() {
            let _ = back.send_to(&packet, to).await;
        }
        while let (Some(dialler), Some(packet)) = (dialler, down.due()) {
            let _ = front.send_to(&packet, dialler).await;
        }
        let next = up.waiting.front().into_iter().chain(down.waiting.front()).map(|(at, _)| *at).min();
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        tokio::select! {
            got = front.recv_from(&mut there) => {
                let (length, from) = got.unwrap();
                dialler = Some(from);
                if !dark {
                    up.take(&there[..length]);
                }
            }
            got = back.recv_from(&mut here) => {
                let (length, _) = got.unwrap();
                if !dark {
                    down.take(&here[..length]);
                }
            }
            () = time::sleep_until(next.into()) => {}
            change = changes.recv() => match change {
                None => return,
                Some(Change::MoveDialler(address)) => back = UdpSocket::bind(address).await.unwrap(),
                Some(Change::MoveDialled(address, tell)) => {
                    front = UdpSocket::bind(address).await.unwrap();
                    tell.send(front.local_addr().unwrap()).unwrap();
                }
                Some(Change::Dark(now)) => dark = now,
            },
        }
    }
}
