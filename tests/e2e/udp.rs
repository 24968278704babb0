//! UDP through the fabric, true to the application.

use crate::{
    lab::{Lab, Place, Server, within},
    pattern,
    servers::iperf3,
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::{
    io::IoSlice,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// `web` on alpha may call `api` on beta; `other` may call nothing.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      other: { on: [alpha], run: { netns: other } }
      api: { on: [beta], run: { netns: api } }
      near: { on: [alpha], run: { netns: near } }
      job: { on: [beta], run: { user: 64003 } }
    services:
      api: { by: api, ports: [7/udp, 53/udp, 53/tcp, 8080/tcp, 443/udp, 9/udp] }
      near: { by: near, port: 7/udp }
      job: { by: job, port: 7777/udp }
      brief: { by: api, port: 8/udp, idle: 1s }
    allow:
      - { from: web, to: api }
      - { from: web, to: near }
      - { from: web, to: job }
      - { from: web, to: brief }
      - { from: api, to: near }
";

/// Long enough for a datagram to cross the fabric and come back on a busy machine.
const ANSWER: Duration = Duration::from_secs(3);

fn lab() -> Lab {
    Lab::of(&["alpha", "beta"]).graph(GRAPH).start()
}

/// Answers each datagram with itself until the guard is dropped.
struct Echo(UdpSocket);

impl Echo {
    fn on(place: &Place, port: u16) -> Self {
        let socket = place.inside(|| UdpSocket::bind(("::", port))).expect("the port is free");
        grow(&socket);
        let answering = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = answering.recv_from(&mut buffer) {
                if &buffer[..length] == b"\0end" && from.ip().is_loopback() {
                    break;
                }
                let _ = answering.send_to(&buffer[..length], from);
            }
        });
        Self(socket)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // A thread that waits in recv is not woken by closing: it is told.
        let port = self.0.local_addr().unwrap().port();
        let _ = self.0.send_to(b"\0end", ("::1", port));
    }
}

fn grow(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(8 << 20);
}

fn client(place: &Place, to: SocketAddr) -> UdpSocket {
    let socket = place.inside(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket
    });
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    grow(&socket);
    socket
}

fn echoed(socket: &UdpSocket, length: usize, seed: u64) {
    let mut data = Vec::with_capacity(length);
    pattern::write(&mut data, length as u64, seed).unwrap();
    socket.send(&data).unwrap_or_else(|error| panic!("sending {length} bytes: {error}"));
    let mut buffer = vec![0; 65_536];
    let got = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{length} bytes did not come back: {error}"));
    assert_eq!(got, length, "whole");
    assert!(buffer[..got] == data, "{length} bytes came back changed");
}

#[test]
fn every_size_arrives_whole_and_comes_back() {
    let lab = lab();
    let _far = Echo::on(&lab.workload("api"), 7);
    let _near = Echo::on(&lab.workload("near"), 7);
    let web = lab.workload("web");
    let sizes = || (0..=2_000).chain((2_000..65_300).step_by(997)).chain(65_308..=65_507);
    let (far, far_v6) = (lab.service("shop/api", 7), lab.service_v6("shop/api", 7));
    let (near, near_v6) = (lab.service("shop/near", 7), lab.service_v6("shop/near", 7));
    for to in [far, far_v6, near, near_v6] {
        let socket = client(&web, to);
        for length in sizes() {
            echoed(&socket, length, length as u64);
        }
    }
}

/// Hands the kernel 40 datagrams and a shorter one in one call, as QUIC stacks do; gives each as it should arrive.
fn send_together(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let datagrams: Vec<_> = (0..41_u8).map(|number| vec![number; if number == 40 { 700 } else { 1200 }]).collect();
    let slices: Vec<_> = datagrams.iter().map(|data| IoSlice::new(data)).collect();
    let cut = [ControlMessage::UdpGsoSegments(&1200)];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &slices, &cut, MsgFlags::empty(), None).unwrap();
    assert_eq!(sent, 40 * 1200 + 700);
    datagrams
}

#[test]
fn datagrams_that_are_sent_together_arrive_each_alone() {
    let lab = lab();
    let _echoes = [("api", 7), ("near", 7)].map(|(of, port)| Echo::on(&lab.workload(of), port));
    let web = lab.workload("web");
    let api = lab.service("shop/api", 7);
    for to in [api, lab.service_v6("shop/api", 7), lab.service("shop/near", 7)] {
        let socket = client(&web, to);
        // The first call opens the session, the second finds it open.
        for round in 0..2 {
            let mut missing = send_together(&socket);
            let mut buffer = [0; 65_536];
            while !missing.is_empty() {
                let length =
                    socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{to}, {round}: {} {error}", missing.len()));
                let at =
                    missing.iter().position(|data| *data == buffer[..length]).expect("each as it was sent, and once");
                missing.swap_remove(at);
            }
        }
    }
}

#[test]
fn a_real_dns_server_answers_over_udp_and_tcp() {
    let lab = lab();
    let _server = dnsmasq(&lab, &lab.workload("api"));
    let web = lab.workload("web");
    for to in [lab.service("shop/api", 53), lab.service_v6("shop/api", 53)] {
        let server = format!("@{}", to.ip());
        let dig = |name: &str, kind: &str, how: &str| web.ok(&["dig", &server, name, kind, how, "+time=2", "+short"]);
        for how in ["+notcp", "+tcp"] {
            assert_eq!(dig("parcel.example", "A", how), "192.0.2.77\n", "{how}");
        }
        assert_eq!(dig("long.example", "TXT", "+bufsize=4096").len(), 6 * 203, "an answer larger than the question");
    }
    let sessions = |protocol: &'static str| {
        lab.agent("alpha").wait_records(if protocol == "tcp" { 2 } else { 0 }, move |record| {
            record["protocol"] == protocol && record["reason"] != "closed_too_early"
        })
    };
    assert_eq!(sessions("tcp").len(), 2);
}

/// A DNS server on port 53 of both families.
fn dnsmasq(lab: &Lab, place: &Place) -> Server {
    let long = format!("--txt-record=long.example,{}", vec!["x".repeat(200); 6].join(","));
    let line = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"];
    let more = ["--pid-file=", "--address=/parcel.example/192.0.2.77", "--edns-packet-max=4096", &long];
    place.spawn(&lab.file("dnsmasq.log"), &[&line[..], &more].concat()).listening(53)
}

#[test]
fn iperf3_loses_nothing_and_is_accounted_for() {
    let graph = GRAPH.replace("port: 8/udp", "ports: [5201/tcp, 5201/udp]");
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    let _server = iperf3(&lab, &lab.workload("api"));
    for reverse in [false, true] {
        let mut line = vec!["iperf3", "-u", "-c", "brief.shop.lab.test", "-b", "50M", "-l", "1200", "-t", "2", "-J"];
        if reverse {
            line.push("-R");
        }
        let report: serde_json::Value = serde_json::from_str(&lab.workload("web").ok(&line)).unwrap();
        let sum = &report["end"]["sum"];
        let (lost, sent) = (sum["lost_packets"].as_f64().unwrap(), sum["packets"].as_f64().unwrap());
        println!("iperf3 -u, reverse {reverse}: {lost} of {sent} datagrams lost");
        // Its socket's 208 KiB are full with some ninety: more are lost where the machine keeps it from its processor for 20 ms.
        assert!(sent > 8_000.0 && lost <= sent / 50.0, "{sum}");
    }
    let records = lab.agent("beta").wait_records(4, |record| record["service"] == "shop/brief");
    let udp = records.iter().filter(|record| record["protocol"] == "udp");
    let bytes: u64 =
        udp.map(|record| record["bytes_up"].as_u64().unwrap() + record["bytes_down"].as_u64().unwrap()).sum();
    assert!(bytes > 20_000_000, "the records account for what was sent: {bytes}");
}

/// What a connected socket is told after it sent a datagram to where nobody answers.
fn told(place: &Place, to: SocketAddr) -> Option<i32> {
    let socket = client(place, to);
    let start = Instant::now();
    socket.send(b"hello").unwrap();
    let error = socket.recv(&mut [0; 16]).expect_err("nobody answers");
    assert!(start.elapsed() < Duration::from_secs(1), "{to}: told after {:?}: {error}", start.elapsed());
    error.raw_os_error()
}

#[test]
fn a_closed_port_is_refused_as_it_would_be_directly() {
    let lab = lab();
    let web = lab.workload("web");
    let targets = ["shop/api", "shop/near", "shop/job"].map(|name| (name, if name == "shop/job" { 7777 } else { 7 }));
    for (name, port) in targets {
        for to in [lab.service(name, port), lab.service_v6(name, port)] {
            assert_eq!(told(&web, to), Some(libc::ECONNREFUSED), "{name} at {to}");
        }
        let records = lab.agent("alpha").wait_records(2, |record| record["service"] == name);
        assert!(records.iter().all(|record| record["reason"] == "endpoint_refused"), "{records:#?}");
    }
}

#[test]
fn an_endpoint_that_goes_away_is_noticed_by_the_next_datagram() {
    let lab = lab();
    let api = lab.workload("api");
    let echo = Echo::on(&api, 7);
    let socket = client(&lab.workload("web"), lab.service("shop/api", 7));
    echoed(&socket, 100, 1);
    drop(echo);
    within(ANSWER, "the port to be closed", || api.inside(|| UdpSocket::bind(("::", 7)).is_ok()));
    socket.send(b"anyone?").unwrap();
    let error = socket.recv(&mut [0; 16]).expect_err("it is gone");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    let _again = Echo::on(&api, 7);
    echoed(&socket, 200, 2);
    let first = lab.agent("alpha").record(|record| record["reason"] == "endpoint_refused");
    assert_eq!((&first["bytes_up"], &first["bytes_down"]), (&107.into(), &100.into()), "{first}");
}

#[test]
fn what_is_denied_is_told_and_recorded() {
    let lab = lab();
    let _echo = Echo::on(&lab.workload("api"), 7);
    let (web, other) = (lab.workload("web"), lab.workload("other"));
    assert_eq!(told(&other, lab.service("shop/api", 7)), Some(libc::EHOSTUNREACH), "as a firewall says over IPv4");
    assert_eq!(told(&other, lab.service_v6("shop/api", 7)), Some(libc::EACCES), "and over IPv6");
    for to in [lab.service("shop/api", 99), lab.service_v6("shop/api", 99)] {
        assert_eq!(told(&web, to), Some(libc::ECONNREFUSED), "the service has no such port");
    }
    let nowhere = SocketAddr::from(([198, 18, 255, 77], 7));
    assert_eq!(told(&web, nowhere), Some(libc::ECONNREFUSED), "there is no such service");
    for (caller, reason, count) in [("other", "no_edge", 2), ("web", "no_port", 2), ("web", "no_service", 1)] {
        let caller = format!("shop/{caller}");
        let records = lab.agent("alpha").wait_records(count, |record| record["reason"] == reason);
        assert!(records.iter().all(|record| record["caller"] == *caller && record["verdict"] == "deny"), "{records:?}");
        assert!(records.iter().all(|record| record["protocol"] == "udp"), "{records:?}");
        lab.agent("alpha").wait_metric("ripstop_packets_dropped_total", &[("reason", reason)], count as f64);
    }
    assert!(lab.agent("beta").records().is_empty(), "a denied datagram must not reach the other host");
}

#[test]
fn sockets_that_are_not_connected_and_share_ports_get_their_own_answers() {
    let lab = lab();
    let api = lab.workload("api");
    let _echoes = [Echo::on(&api, 7), Echo::on(&api, 9), Echo::on(&api, 443), Echo::on(&lab.workload("near"), 7)];
    let web = lab.workload("web");
    let services = [
        lab.service("shop/api", 7),
        lab.service("shop/api", 9),
        lab.service("shop/api", 443),
        lab.service("shop/near", 7),
    ];
    let socket = web.inside(|| UdpSocket::bind("0.0.0.0:4000").unwrap());
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    for round in 0..3_u8 {
        for (index, to) in services.iter().enumerate() {
            socket.send_to(&[round, index as u8], to).unwrap();
        }
        let mut answers: Vec<_> = (0..services.len())
            .map(|_| {
                let mut buffer = [0; 16];
                let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
                (from, buffer[..length].to_vec())
            })
            .collect();
        answers.sort_by_key(|(_, data)| data.clone());
        let expected: Vec<_> = services.iter().zip(0..).map(|(to, index)| (*to, vec![round, index])).collect();
        assert_eq!(answers, expected, "each from the service that was asked");
    }
    socket.send_to(&[], services[0]).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (0, services[0]), "a datagram may be empty");
    // The same port of another workload on another host: the endpoint tells the two apart by address.
    let near = client(&api, lab.service("shop/near", 7));
    echoed(&near, 300, 3);
    assert_eq!(lab.agent("alpha").status()["sessions_open"], 5, "one session for each flow");
}

#[test]
fn the_endpoint_sees_the_caller_s_address_and_port() {
    let lab = lab();
    let server = lab.workload("api").inside(|| UdpSocket::bind("[::]:7").unwrap());
    server.set_read_timeout(Some(ANSWER)).unwrap();
    let index = lab.policy().workload(&"shop/web".parse().unwrap()).unwrap();
    let caller = SocketAddr::from((lab.policy().workload_entry(index).v4, 4001));
    let socket = lab.workload("web").inside(|| UdpSocket::bind("0.0.0.0:4001").unwrap());
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    grow(&socket);
    socket.send_to(b"who am I?", lab.service("shop/api", 7)).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip().to_canonical(), from.port()), (&b"who am I?"[..], caller.ip(), 4001));
    // More datagrams, and larger ones, come back than went out.
    for number in 0..10_u8 {
        server.send_to(&vec![number; 30_000], from).unwrap();
    }
    let mut got: Vec<_> = (0..10)
        .map(|_| {
            let mut large = vec![0; 65_536];
            let length = socket.recv(&mut large).expect("each arrives");
            assert_eq!(length, 30_000);
            large[0]
        })
        .collect();
    got.sort_unstable();
    assert_eq!(got, (0..10).collect::<Vec<_>>(), "each once");
    let error = server.send_to(b"unasked", SocketAddr::new(from.ip(), 4002)).map(|_| server.recv(&mut buffer));
    drop(error);
    let labels = [("workload", "shop/api"), ("reason", "no_session")];
    lab.agent("beta").wait_metric("ripstop_packets_dropped_total", &labels, 1.0);
    assert!(socket.set_nonblocking(true).is_ok() && socket.recv(&mut buffer).is_err(), "nothing else came");
}

#[test]
fn silence_ends_a_session_with_its_record() {
    let lab = lab();
    let _echo = Echo::on(&lab.workload("api"), 8);
    let socket = client(&lab.workload("web"), lab.service("shop/brief", 8));
    for number in 0..5 {
        echoed(&socket, 10, number);
        std::thread::sleep(Duration::from_millis(400));
    }
    for host in ["alpha", "beta"] {
        let record = lab.agent(host).record(|record| record["service"] == "shop/brief");
        assert_eq!((&record["reason"], &record["protocol"]), (&"idle".into(), &"udp".into()), "{record}");
        assert_eq!((&record["bytes_up"], &record["bytes_down"]), (&50.into(), &50.into()), "{record}");
        let lasted = record["duration_s"].as_f64().unwrap();
        assert!((2.5..5.0).contains(&lasted), "1 s after the last of five: {lasted}");
    }
    echoed(&socket, 20, 9);
}

#[test]
fn an_endpoint_of_a_user_answers_and_nobody_else_does() {
    let lab = lab();
    let script = |bind: &str| {
        format!(
            "import socket\ns = socket.socket({bind})\nwhile True:\n    d, a = s.recvfrom(65536)\n    s.sendto(d, a)\n"
        )
    };
    let serve = script("socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 7777)");
    let python = ["/usr/bin/python3", "-c", &serve];
    let web = lab.workload("web");
    let bound = |is: bool| {
        let look = || lab.host("beta").ok(&["cat", "/proc/net/udp"]).contains("0100007F:1E61 00000000:0000") == is;
        within(Duration::from_secs(10), "the listener", look);
    };
    {
        let _impostor = lab.host("beta").spawn(&lab.file("impostor.log"), &python);
        bound(true);
        assert_eq!(told(&web, lab.service("shop/job", 7777)), Some(libc::ECONNREFUSED));
        let record = lab.agent("beta").record(|record| record["service"] == "shop/job");
        assert_eq!(record["reason"], "wrong_listener", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("uid 0"), "{record}");
    }
    bound(false);
    let server = lab.workload("job").spawn(&lab.file("job.log"), &python);
    bound(true);
    let socket = client(&web, lab.service("shop/job", 7777));
    for length in [0, 1, 1_200, 9_000, 65_507] {
        echoed(&socket, length, 5);
    }
    // Another user takes the port while the session is open.
    drop(server);
    bound(false);
    let _impostor = lab.host("beta").spawn(&lab.file("impostor.log"), &python);
    bound(true);
    socket.send(b"secret").unwrap();
    let error = socket.recv(&mut [0; 16]).expect_err("it is not for the impostor");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
}

#[test]
fn a_new_policy_cuts_open_sessions_and_decides_anew() {
    let lab = lab();
    let _echo = Echo::on(&lab.workload("api"), 7);
    let socket = client(&lab.workload("web"), lab.service("shop/api", 7));
    echoed(&socket, 64, 1);
    lab.edit_graph(|graph| graph.replace("      - { from: web, to: api }\n", ""));
    for host in ["alpha", "beta"] {
        let record = lab.agent(host).record(|record| record["service"] == "shop/api");
        assert_eq!(record["reason"], "policy_changed", "{record}");
    }
    socket.send(b"still there?").unwrap();
    let error = socket.recv(&mut [0; 16]).expect_err("it is denied");
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    lab.agent("alpha").record(|record| record["reason"] == "no_edge");
    lab.edit_graph(|graph| graph.replace("    allow:\n", "    allow:\n      - { from: web, to: api }\n"));
    echoed(&socket, 65, 2);
}
