//! The relay between hosts does to datagrams what a test asks of it, and nothing else.

use crate::lab::Lab;
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Two hosts without agents, and a socket of each where its agent would be.
struct Pair {
    lab: Lab,
    alpha: UdpSocket,
    beta: UdpSocket,
}

/// Where alpha finds beta.
const BETA: &str = "192.0.2.212:7477";
/// Datagrams in one run.
const MANY: u32 = 2_000;

impl Pair {
    fn new() -> Self {
        let lab = Lab::of(&["alpha", "beta"]).without_agent("alpha").without_agent("beta").through_relay().start();
        let socket = |host: &str| lab.host(host).inside(|| UdpSocket::bind("0.0.0.0:7477").unwrap());
        let (alpha, beta) = (socket("alpha"), socket("beta"));
        for socket in [&alpha, &beta] {
            setsockopt(socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        }
        Self { lab, alpha, beta }
    }

    /// Sends one after the other, each with its number at its head, and returns the numbers in the order of arrival;
    /// what does not have the sent bytes counts as [`u32::MAX`].
    fn run(&self, count: u32, size: usize) -> Vec<u32> {
        let mut arrived = Vec::new();
        let mut buffer = [0; 65_536];
        for burst in (0..count).collect::<Vec<_>>().chunks(20) {
            for number in burst {
                self.alpha.send_to(&body(*number, size), BETA).unwrap();
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        while let Ok((length, _)) = self.beta.recv_from(&mut buffer) {
            let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
            let whole = number < count && buffer[..length] == body(number, size);
            arrived.push(if whole { number } else { u32::MAX });
        }
        arrived
    }

    /// How long one exchange takes; `None` when no answer comes.
    fn round_trip(&self, size: usize) -> Option<Duration> {
        let start = Instant::now();
        let mut buffer = [0; 65_536];
        self.alpha.send_to(&body(0, size), BETA).unwrap();
        let (length, from) = self.beta.recv_from(&mut buffer).ok()?;
        assert_eq!(from, "192.0.2.211:7477".parse::<SocketAddr>().unwrap(), "alpha is seen at its door");
        self.beta.send_to(&buffer[..length], from).unwrap();
        let (_, from) = self.alpha.recv_from(&mut buffer).ok()?;
        assert_eq!(from, BETA.parse::<SocketAddr>().unwrap());
        Some(start.elapsed())
    }
}

fn body(number: u32, size: usize) -> Vec<u8> {
    let mut body = vec![number.to_be_bytes()[3]; size];
    body[..4].copy_from_slice(&number.to_be_bytes());
    body
}

fn share(part: usize, of: u32) -> f64 {
    f64::from(u32::try_from(part).unwrap()) / f64::from(of)
}

#[test]
fn a_healthy_relay_passes_everything_in_order() {
    let pair = Pair::new();
    assert!(pair.round_trip(1_400).is_some());
    assert_eq!(pair.run(MANY, 1_400), (0..MANY).collect::<Vec<_>>());
    let tally = pair.lab.relay().tally();
    assert_eq!((tally.forwarded, tally.strangers), (u64::from(MANY) + 2, 0), "{tally:?}");
}

#[test]
fn each_impairment_is_as_strong_as_it_is_named() {
    let pair = Pair::new();
    let relay = pair.lab.relay();
    relay.delay_ms(20);
    let rtt = pair.round_trip(100).unwrap();
    assert!((40..60).contains(&rtt.as_millis()), "{rtt:?}");
    relay.heal().lose_per_mille(200);
    let lost = 1.0 - share(pair.run(MANY, 100).len(), MANY);
    assert!((0.15..0.25).contains(&lost), "{lost}");
    relay.heal().duplicate_per_mille(100);
    let more = share(pair.run(MANY, 100).len(), MANY) - 1.0;
    assert!((0.07..0.13).contains(&more), "{more}");
    relay.heal().corrupt_per_mille(100);
    let broken = share(pair.run(MANY, 100).iter().filter(|number| **number == u32::MAX).count(), MANY);
    assert!((0.07..0.13).contains(&broken), "{broken}");
    relay.heal().reorder_per_mille(50);
    let arrived = pair.run(MANY, 100);
    assert_eq!(arrived.len(), MANY as usize);
    let late = share(arrived.windows(2).filter(|pair| pair[1] < pair[0]).count(), MANY);
    assert!((0.01..0.06).contains(&late), "{late}");
}

#[test]
fn a_path_can_be_narrow_thin_or_dark() {
    let pair = Pair::new();
    let relay = pair.lab.relay();
    relay.mtu(1_300);
    assert!(pair.round_trip(1_272).is_some() && pair.round_trip(1_273).is_none());
    relay.heal().rate_mbit(10);
    let start = Instant::now();
    let arrived = pair.run(300, 1_222);
    let rate = share(arrived.len(), 1) * 1_250.0 * 8.0 / (start.elapsed().as_secs_f64() - 0.15) / 1e6;
    assert!((6.0..11.0).contains(&rate), "{rate} Mbit/s");
    assert_eq!(arrived.len() as u64 + relay.tally().queue_full, 300, "the queue is short");
    assert!(relay.tally().queue_full > 0);
    relay.heal().blackhole();
    assert_eq!(pair.round_trip(100), None);
    relay.heal().dark(Duration::from_millis(200), Duration::from_millis(600));
    assert_eq!(pair.round_trip(100), None);
    std::thread::sleep(Duration::from_millis(100));
    assert!(pair.round_trip(100).is_some());
    relay.heal();
    assert!(pair.round_trip(100).is_some());
}
