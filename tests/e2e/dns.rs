//! Names of the fabric, asked with dig.

use crate::lab::{Lab, Place, SHOP};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const API: &str = "api.shop.lab.test";

fn dig(place: &Place, query: &[&str]) -> String {
    place.ok(&[&["dig", "+tries=1", "+timeout=3"][..], query].concat())
}

fn short(place: &Place, query: &[&str]) -> String {
    dig(place, &[&["+short"][..], query].concat()).trim().to_owned()
}

fn resolver(lab: &Lab) -> SocketAddr {
    SocketAddr::from((lab.policy().resolver().0, 53))
}

#[test]
fn addresses_are_those_of_the_policy() {
    let lab = Lab::shop();
    let web = lab.workload("web");
    let (v4, v6) = (lab.service("shop/api", 1).ip().to_string(), lab.service_v6("shop/api", 1).ip().to_string());
    assert_eq!(short(&web, &[API, "A"]), v4);
    assert_eq!(short(&web, &[API, "AAAA"]), v6);
    assert_eq!(short(&web, &["API.Shop.LAB.test", "A"]), v4, "case does not matter");
    for ip in [&v4, &v6] {
        assert_eq!(short(&web, &["-x", ip]), format!("{API}."), "the way back");
    }
    let answer = dig(&web, &[API, "A"]);
    assert!(answer.contains("flags: qr aa rd"), "authoritative: {answer}");
    let line = answer.lines().find(|line| line.starts_with(API)).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("5"), "short-lived: {line}");
    let from_v6 = lab.policy().resolver().1.to_string();
    assert_eq!(short(&web, &[&format!("@{from_v6}"), API, "A"]), v4, "the resolver listens on IPv6 too");
}

#[test]
fn services_are_found_by_srv() {
    let lab = Lab::shop();
    let answer = short(&lab.workload("web"), &[&format!("_8080._tcp.{API}"), "SRV"]);
    assert!(answer.ends_with(&format!("8080 {API}.")), "{answer}");
}

#[test]
fn a_name_that_one_may_not_see_does_not_exist() {
    let lab = Lab::shop();
    let hidden = dig(&lab.workload("other"), &[API, "A"]);
    let absent = dig(&lab.workload("web"), &["nothing.shop.lab.test", "A"]);
    for answer in [&hidden, &absent] {
        assert!(answer.contains("status: NXDOMAIN"), "{answer}");
        assert!(answer.contains("EDE: "), "it says why: {answer}");
        assert!(answer.contains("SOA"), "it may be cached: {answer}");
    }
    let reverse = dig(&lab.workload("other"), &["-x", &lab.service("shop/api", 1).ip().to_string()]);
    assert!(reverse.contains("status: NXDOMAIN"), "nor by address: {reverse}");
    let metric = [("rcode", "nxdomain")];
    let text = lab.agent("alpha").metrics().to_lowercase();
    assert!(text.contains("ripstop_dns") && text.contains("nxdomain"), "{metric:?} in\n{text}");
}

#[test]
fn a_type_that_a_name_has_not_is_an_empty_answer() {
    let lab = Lab::shop();
    for kind in ["MX", "HTTPS", "NAPTR"] {
        let answer = dig(&lab.workload("web"), &[API, kind]);
        assert!(answer.contains("status: NOERROR") && answer.contains("ANSWER: 0"), "{kind}: {answer}");
        assert!(answer.contains("SOA"), "{kind}: {answer}");
    }
}

#[test]
fn tcp_and_udp_say_the_same() {
    let lab = Lab::shop();
    let web = lab.workload("web");
    assert_eq!(short(&web, &["+tcp", API, "A"]), short(&web, &["+notcp", API, "A"]));
    assert!(dig(&web, &["+tcp", "+keepopen", API, "A", API, "AAAA"]).matches("status: NOERROR").count() == 2);
}

#[test]
fn large_answers_are_truncated_to_what_the_client_takes() {
    let ports: Vec<_> = (8000..8060).map(|port| format!("{port}/tcp")).collect();
    let lab = Lab::of(&["alpha", "beta"]).graph(&SHOP.replace("8080/tcp, 80/tcp", &ports.join(", "))).start();
    let web = lab.workload("web");
    for (options, largest) in [(&["+noedns"][..], 512), (&["+bufsize=600"], 600), (&["+bufsize=4096"], 1232)] {
        let answer = dig(&web, &[options, &["+ignore", "+notcp", API, "SRV"]].concat());
        let size: usize =
            answer.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).unwrap().parse().unwrap();
        assert!(size <= largest, "{options:?}: {size} bytes");
        assert!(answer.contains("flags: qr aa tc"), "{options:?}: {answer}");
    }
    let whole = dig(&web, &["+noedns", API, "SRV"]);
    let records = whole.lines().filter(|line| line.starts_with(API) && line.contains("SRV")).count();
    assert_eq!(records, 60, "dig asks again over TCP by itself: {whole}");
}

#[test]
fn malformed_queries_harm_nobody() {
    let lab = Lab::shop();
    let web = lab.workload("web");
    let to = resolver(&lab);
    let name = b"\x03api\x04shop\x03lab\x04test\x00\x00\x01\x00\x01";
    let header = |flags: u16, questions: u16| {
        [&[0x12, 0x34][..], &flags.to_be_bytes(), &questions.to_be_bytes(), &[0; 6]].concat()
    };
    let queries: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0xff; 11],
        header(0, 1),
        header(0, 0),
        [header(0x8000, 1), name.to_vec()].concat(),
        [header(0x2800, 1), name.to_vec()].concat(),
        [header(0, 2), name.to_vec(), name.to_vec()].concat(),
        [header(0, 1), b"\xc0\x0c\x00\x01\x00\x01".to_vec()].concat(),
        [header(0, 1), b"\xff\xff\x00\x01".to_vec()].concat(),
        [header(0, 65_535), name.to_vec()].concat(),
        [header(0, 1), vec![63; 900]].concat(),
    ];
    web.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        for query in &queries {
            socket.send(query).unwrap();
        }
    });
    assert_eq!(short(&web, &[API, "A"]), lab.service("shop/api", 1).ip().to_string(), "the resolver still answers");
    lab.agent("alpha").wait_metric("ripstop_packets_dropped_total", &[("reason", "malformed_query")], 3.0);
    assert!(lab.agent("alpha").is_running());
}

#[test]
fn a_flood_from_one_workload_does_not_slow_another() {
    let lab = Lab::shop();
    let to = resolver(&lab);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let flood = lab.workload("other").thread(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        let query =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x04shop\x03lab\x04test\x00\x00\x01\x00\x01";
        let mut sent = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            sent += u64::from(socket.send(query).is_ok());
        }
        sent
    });
    let web = lab.workload("web");
    std::thread::sleep(Duration::from_millis(500));
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        assert!(!short(&web, &[API, "A"]).is_empty());
        slowest = slowest.max(start.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap();
    println!("slowest of 20 queries beside a flood of {sent}: {slowest:?}");
    assert!(sent > 20_000, "a flood of {sent} is none");
    assert!(slowest < Duration::from_millis(500), "slowest {slowest:?}, dig's own start included");
}
