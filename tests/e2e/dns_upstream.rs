//! Names outside the fabric, asked of a server of the test.

use crate::lab::{Lab, Place};
use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const UPSTREAM: &str = "dns: { upstream: [192.0.2.254] }";

/// A server that answers `fast*` with 203.0.113.7, `rebind*` with an address of the fabric, and `slow*` never; keeps what
/// it was asked.
#[derive(Clone, Default)]
struct Upstream {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Upstream {
    fn start(lab: &Lab) -> Self {
        let this = Self::default();
        let server = this.clone();
        let socket = lab.wire().inside(|| UdpSocket::bind("192.0.2.254:53").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while Instant::now() < end {
                let Ok((size, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = server.answer(&buffer[..size]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        this
    }

    fn asked(&self, part: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(name, _)| name.contains(part)).map(|(_, count)| count).sum()
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let mut at = 12;
        let mut labels = Vec::new();
        while query[at] != 0 {
            let size = usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + size]).to_lowercase());
            at += size + 1;
        }
        let name = labels.join(".");
        *self.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        if name.starts_with("slow") {
            return None;
        }
        let address = if name.starts_with("rebind") { [198, 18, 0, 77] } else { [203, 0, 113, 7] };
        let question = &query[12..at + 5];
        let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
        let counts = [0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
        let mut answer = [&query[..2], &[0x81, 0x80], &counts, question].concat();
        if is_a {
            answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address);
        }
        Some(answer)
    }
}

fn start() -> (Lab, Upstream) {
    let lab = Lab::of(&["alpha", "beta"]).settings("alpha", UPSTREAM).start();
    let upstream = Upstream::start(&lab);
    (lab, upstream)
}

fn dig(place: &Place, query: &[&str]) -> String {
    place.ok(&[&["dig", "+tries=1", "+timeout=8"][..], query].concat())
}

#[test]
fn other_names_come_from_upstream_and_are_kept() {
    let (lab, upstream) = start();
    let web = lab.workload("web");
    for _ in 0..5 {
        assert!(dig(&web, &["fast.example.org", "A"]).contains("203.0.113.7"));
    }
    assert_eq!(upstream.asked("fast.example.org"), 1, "four of five came from the cache");
    assert!(dig(&web, &["+tcp", "fast.example.org", "A"]).contains("203.0.113.7"));
}

#[test]
fn names_of_the_fabric_never_leave_it() {
    let (lab, upstream) = start();
    for name in ["api.shop.lab.test", "nothing.shop.lab.test", "lab.test"] {
        dig(&lab.workload("web"), &[name, "A"]);
        dig(&lab.workload("other"), &[name, "A"]);
    }
    dig(&lab.workload("other"), &["-x", "198.18.0.77"]);
    assert_eq!(upstream.asked("lab.test") + upstream.asked("in-addr.arpa"), 0, "{:?}", upstream.asked.lock().unwrap());
}

#[test]
fn an_outside_name_cannot_point_into_the_fabric() {
    let (lab, upstream) = start();
    let answer = dig(&lab.workload("web"), &["rebind.example.org", "A"]);
    assert!(!answer.contains("198.18.0.77"), "{answer}");
    assert_eq!(upstream.asked("rebind"), 1);
}

#[test]
fn a_dead_upstream_is_an_error_and_not_silence() {
    let (lab, _upstream) = start();
    let answer = dig(&lab.workload("web"), &["slow.example.org", "A"]);
    assert!(answer.contains("status: SERVFAIL"), "{answer}");
}

#[test]
fn unanswered_queries_of_one_workload_do_not_hold_up_another() {
    let (lab, _upstream) = start();
    let to = std::net::SocketAddr::from((lab.policy().resolver().0, 53));
    lab.workload("other").inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        for n in 0..5_000_u16 {
            let name = format!("slow{n:05}");
            let head = [&n.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9], name.as_bytes()].concat();
            let _ = socket.send(&[&head[..], b"\x07example\x03org\x00\x00\x01\x00\x01"].concat());
        }
    });
    let start = Instant::now();
    assert!(dig(&lab.workload("web"), &["fast.example.org", "A"]).contains("203.0.113.7"));
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    lab.agent("alpha").wait_metric("ripstop_packets_dropped_total", &[("reason", "query_flood")], 1.0);
}
