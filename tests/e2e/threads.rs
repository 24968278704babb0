//! Several data threads: sessions are spread over them, and nothing else is different.

use crate::{
    capture,
    lab::{Lab, Place, Tap, destination, ripstop, wait_for, within},
    pattern,
    servers::echo,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// `web` on alpha calls `api` on beta, and `api` calls `back` on alpha; `near` is beside `web`.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      near: { on: [alpha], run: { netns: near } }
      api: { on: [beta], run: { netns: api } }
      base: { on: [beta], run: { user: 64003 } }
    services:
      api: { by: api, ports: [9090/tcp, 9091/tcp, 9000/udp] }
      few: { by: api, ports: [9092/tcp] }
      back: { by: near, ports: [9090/tcp, 9000/udp] }
      base: { by: base, ports: [7070/tcp], source: preserve }
    allow:
      - { from: web, to: api }
      - { from: web, to: few, limit: { sessions: 5, rate: 40 mbit/s } }
      - { from: web, to: base }
      - { from: api, to: back }
      - { from: web, to: back }
";

/// Sessions at once: so many that each of four threads has some, but for one lab in ten thousand.
const SESSIONS: usize = 48;
/// What goes each way on each of them.
const BYTES: u64 = 2_000_000;
/// Longer than the kernel remembers to which thread a flow belongs: 3 s, and until it next looks.
const SILENCE: Duration = Duration::from_secs(5);
/// Datagrams of a flow, numbered.
const DATAGRAMS: u32 = 2_000;

fn lab(alpha: u8, beta: u8) -> Lab {
    let threads = |threads| format!("data-threads: {threads}\ncapture: {{ allow: [alpha] }}");
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH);
    lab.settings("alpha", &threads(alpha)).settings("beta", &threads(beta)).start()
}

/// Sessions of each data thread.
fn spread(lab: &Lab, host: &str) -> Vec<u64> {
    of_each(lab, host, "sessions")
}

/// Hosts that each data thread is connected with.
fn connected(lab: &Lab, host: &str) -> Vec<u64> {
    of_each(lab, host, "hosts")
}

fn of_each(lab: &Lab, host: &str, what: &str) -> Vec<u64> {
    let threads = lab.agent(host).status()["data_threads"].clone();
    threads.as_array().map(|all| all.iter().map(|one| one[what].as_u64().unwrap()).collect()).unwrap_or_default()
}

fn open(place: &Place, to: SocketAddr) -> TcpStream {
    let stream = place.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn ping(stream: &mut TcpStream) {
    stream.write_all(b"ping").expect("it goes on");
    stream.read_exact(&mut [0; 4]).expect("it goes on");
}

fn all_open(place: &Place, to: SocketAddr) -> Vec<TcpStream> {
    let mut streams: Vec<_> = (0..SESSIONS).map(|_| open(place, to)).collect();
    streams.iter_mut().for_each(ping);
    streams
}

/// Sends a pattern on each at once, which an echo sends back; what comes back is compared.
fn exchange(streams: Vec<TcpStream>) {
    let transfers: Vec<_> = streams
        .into_iter()
        .zip(0..)
        .map(|(stream, seed)| {
            thread::spawn(move || {
                let mut writing = stream.try_clone().unwrap();
                let writer = thread::spawn(move || {
                    pattern::write(&mut writing, BYTES, seed).unwrap();
                    writing.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let read = pattern::read_to_end(stream, seed).expect("whole, and in order");
                writer.join().unwrap();
                read
            })
        })
        .collect();
    for transfer in transfers {
        assert_eq!(transfer.join().unwrap(), BYTES);
    }
}

/// Answers each datagram with itself; asked for it, after a silence with several.
fn echo_datagrams(place: &Place) {
    let socket = place.inside(|| UdpSocket::bind(("::", 9000))).expect("the port is free");
    thread::spawn(move || {
        let mut buffer = [0; 2_000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = buffer[..length].to_vec();
            if answer == b"later" {
                let socket = socket.try_clone().unwrap();
                thread::spawn(move || {
                    thread::sleep(SILENCE);
                    [b"first", b"other"].iter().for_each(|answer| drop(socket.send_to(*answer, from)));
                });
            } else {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

fn client(place: &Place, to: SocketAddr) -> UdpSocket {
    let socket = place.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(SILENCE + Duration::from_secs(5))).unwrap();
    socket
}

/// Says something only long after it was asked.
fn late(mut stream: TcpStream) {
    let mut byte = [0];
    if stream.read_exact(&mut byte).is_ok() {
        thread::sleep(SILENCE);
        let _ = pattern::write(&mut stream, BYTES / 10, u64::from(byte[0]));
    }
}

#[test]
fn sessions_are_spread_over_all_threads_of_both_hosts() {
    let lab = lab(4, 4);
    let (web, api, near) = (lab.workload("web"), lab.workload("api"), lab.workload("near"));
    let _serving = [api.serve(9090, echo), api.serve(9091, late), api.serve(9092, echo), near.serve(9090, echo)];
    [&api, &near].into_iter().for_each(echo_datagrams);
    wait_for("all threads to be connected", || ["alpha", "beta"].iter().all(|host| connected(&lab, host) == [1; 4]));
    assert_eq!(lab.agent("alpha").status()["data_threads"][3]["port"], 7480);

    each_thread_has_its_share_and_its_port(&lab, &web);
    datagrams_stay_in_order(&lab, &web);
    limits_are_the_host_s(&lab, &web);
    what_was_silent_finds_its_thread_again(&lab, &web);
    a_capture_sees_all(&lab, &web);
    a_policy_cuts_all(&lab, &web, &api);
}

fn each_thread_has_its_share_and_its_port(lab: &Lab, web: &Place) {
    let is_quic = |packet: &[u8]| matches!(destination(packet), Some((_, Some(7477..=7480))));
    let tap = Tap::on(&lab.wire(), &["to-beta"], is_quic);
    let far = all_open(web, lab.service("shop/api", 9090));
    let at_once = [spread(lab, "alpha"), spread(lab, "beta")];
    let near = all_open(web, lab.service("shop/back", 9090));
    for sessions in &at_once {
        assert_eq!((sessions.len(), sessions.iter().sum::<u64>()), (4, SESSIONS as u64), "{at_once:?}");
        assert!(sessions.iter().all(|sessions| *sessions >= 2), "{at_once:?}");
    }
    assert_eq!(at_once[0], at_once[1], "a session is of threads with the same number on both hosts");
    assert!(lab.host("alpha").ok(&[ripstop(), "status"]).contains("by data threads "));
    exchange(far);
    exchange(near);
    let mut ports = BTreeMap::<u16, usize>::new();
    for packet in tap.end() {
        *ports.entry(destination(&packet).unwrap().1.unwrap()).or_default() += 1;
    }
    assert!(ports.len() == 4 && ports.values().all(|packets| *packets > 20), "{ports:?}");
    let records = lab.agent("beta").wait_records(SESSIONS, |record| record["service"] == "shop/api");
    let ids: BTreeSet<_> = records.iter().map(|record| record["session"].to_string()).collect();
    assert_eq!(ids.len(), SESSIONS, "each has a name of its own");
    within(Duration::from_secs(5), "all to be over", || spread(lab, "alpha").iter().sum::<u64>() == 0);
}

fn datagrams_stay_in_order(lab: &Lab, web: &Place) {
    let flows: Vec<_> = (0..8)
        .map(|_| {
            let socket = client(web, lab.service("shop/api", 9000));
            thread::spawn(move || {
                let mut buffer = [0; 2_000];
                for number in 0..DATAGRAMS {
                    socket.send(&number.to_be_bytes()).unwrap();
                    // A few are under way at a time.
                    if number >= 4 {
                        let length = socket.recv(&mut buffer).expect("nothing is lost without a load");
                        assert_eq!(buffer[..length], (number - 4).to_be_bytes(), "in order");
                    }
                }
            })
        })
        .collect();
    flows.into_iter().for_each(|flow| flow.join().unwrap());
}

fn limits_are_the_host_s(lab: &Lab, web: &Place) {
    let to = lab.service("shop/few", 9092);
    let mut opened: Vec<_> = (0..20).filter_map(|_| web.connect(to).ok()).collect();
    assert_eq!(opened.len(), 5, "as many as the edge may have, whichever threads they are on");
    let start = Instant::now();
    let sending: Vec<_> = opened
        .drain(..)
        .map(|mut stream| {
            thread::spawn(move || {
                let mut reading = stream.try_clone().unwrap();
                let reader = thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
                stream.write_all(&vec![7; 2_000_000]).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                reader.join().unwrap().unwrap()
            })
        })
        .collect();
    let bytes: u64 = sending.into_iter().map(|one| one.join().unwrap()).sum();
    let rate = bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64();
    assert_eq!(bytes, 10_000_000);
    // Bursts, and what waits in buffers when the last byte was taken, are a part of ten megabytes.
    assert!((10.0..50.0).contains(&rate), "{rate} Mbit/s of 40 for all five together");
}

fn what_was_silent_finds_its_thread_again(lab: &Lab, web: &Place) {
    let mut streams: Vec<_> = (0..24).map(|_| open(web, lab.service("shop/api", 9091))).collect();
    let asked: Vec<_> = (0..16)
        .map(|number| {
            let service = if number % 2 == 0 { "shop/api" } else { "shop/back" };
            let socket = client(web, lab.service(service, 9000));
            socket.send(b"later").unwrap();
            socket
        })
        .collect();
    for (stream, seed) in streams.iter_mut().zip(0..) {
        stream.write_all(&[seed]).unwrap();
    }
    for (stream, seed) in streams.into_iter().zip(0..) {
        assert_eq!(pattern::read_to_end(stream, seed).expect("whole, and in order"), BYTES / 10);
    }
    let mut buffer = [0; 2_000];
    for socket in asked {
        for expected in [b"first", b"other"] {
            let length = socket.recv(&mut buffer).expect("an answer after a silence");
            assert_eq!(buffer[..length], expected[..]);
        }
    }
    let handed_on = ["alpha", "beta"].map(|host| lab.agent(host).metric("ripstop_packets_handed_on_total", &[]));
    assert!(handed_on[1] > 0.0, "some came to another thread: {handed_on:?}");
}

fn a_capture_sees_all(lab: &Lab, web: &Place) {
    let mut captures = capture::begin(lab, &[("threads", &["api"])]);
    let streams = all_open(web, lab.service("shop/api", 9090));
    let ports: BTreeSet<_> = streams.iter().map(|stream| stream.local_addr().unwrap().port()).collect();
    drop(streams);
    thread::sleep(Duration::from_millis(300));
    capture::interrupt(captures.remove(0));
    let file = lab.path("threads.pcapng");
    let shown = lab.host("alpha").ok(&["tcpdump", "-Z", "root", "-n", "-r", &file, "tcp[tcpflags] & tcp-syn != 0"]);
    let missing: Vec<_> = ports.iter().filter(|port| !shown.contains(&format!(".{port} > "))).collect();
    assert!(missing.is_empty(), "{missing:?} of {} are not in the capture", ports.len());
}

fn a_policy_cuts_all(lab: &Lab, web: &Place, api: &Place) {
    let mut cut = all_open(web, lab.service("shop/api", 9090));
    let mut kept = all_open(api, lab.service("shop/back", 9090));
    // Besides those of datagrams, of which the last is not over yet.
    assert!(spread(lab, "beta").iter().sum::<u64>() >= 2 * SESSIONS as u64);
    lab.edit_graph(|graph| graph.replace("      - { from: web, to: api }\n", ""));
    for stream in &mut cut {
        assert!(stream.read(&mut [0; 4]).map_or(true, |length| length == 0), "it is cut");
    }
    kept.iter_mut().for_each(ping);
}

#[test]
fn hosts_with_other_numbers_of_threads_and_closed_ports_get_along() {
    let lab = lab(3, 2);
    let (web, api, near) = (lab.workload("web"), lab.workload("api"), lab.workload("near"));
    let _serving = [api.serve(9090, echo), near.serve(9090, echo)];
    let beta = lab.host("beta");
    wait_for("the second threads to be connected", || {
        connected(&lab, "alpha") == [1, 1, 0] && connected(&lab, "beta") == [1, 1]
    });
    exchange(all_open(&web, lab.service("shop/api", 9090)));
    exchange(all_open(&api, lab.service("shop/back", 9090)));
    // What a firewall drops costs speed, no sessions, and is said.
    beta.sh("nft 'add table inet closed; add chain inet closed in { type filter hook input priority 0; }; \
             add rule inet closed in udp dport 7478 drop'");
    let alpha = lab.agent("alpha");
    within(Duration::from_secs(20), "the loss to be noticed", || {
        alpha.status()["data_threads"][1]["unreached"] == serde_json::json!(["beta"])
    });
    let said = lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(said.contains("does not reach beta at UDP port 7478"), "{said}");
    exchange(all_open(&web, lab.service("shop/api", 9090)));
    exchange(all_open(&api, lab.service("shop/back", 9090)));
    beta.sh("nft delete table inet closed");
    within(Duration::from_secs(20), "the threads to be connected again", || {
        alpha.status()["data_threads"][1]["unreached"] == serde_json::json!([])
    });
    exchange(all_open(&web, lab.service("shop/api", 9090)));
}
