//! Sessions that do nothing for long stay, at no cost to the workloads; those whose other end is gone do not.

use crate::{
    flows::{exchange, session, sized},
    lab::{Lab, Place, within},
    servers::echo,
};
use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// The longest that a read waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest until the end of a peer is known that says nothing any more: what the transport waits, 10 s, and the last
/// probe.
const PEER_LOST: Duration = Duration::from_secs(12);
/// The same for one that says so, or a workload of this host.
const AT_ONCE: Duration = Duration::from_secs(2);
/// An idle workload's kernel is asked whether it still has a connection between these times, and a silent one is given up
/// after the last.
const ASK_AFTER: Duration = Duration::from_secs(40);
const ASKED: Duration = Duration::from_secs(46);
const REAPED: Duration = Duration::from_secs(62);

/// Packets over a workload's interface, both ways.
fn packets(place: &Place) -> u64 {
    let text = place.ok(&["cat", "/proc/net/dev"]);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("rs-")).expect("the workload has its interface");
    let numbers: Vec<u64> =
        line.split_once(':').unwrap().1.split_whitespace().map(|number| number.parse().unwrap()).collect();
    numbers[1] + numbers[9]
}

#[test]
fn an_idle_session_stays_and_costs_the_workloads_no_packet() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut sessions: Vec<_> = (0..20).map(|_| session(&lab, PATIENCE)).collect();
    for (number, stream) in (0..).zip(&mut sessions) {
        exchange(stream, number).unwrap();
    }
    let since = lab.agent("alpha").status()["peers"][0]["since"].clone();
    thread::sleep(Duration::from_secs(1));
    let places = [lab.workload("web"), lab.workload("api")];
    let before = places.each_ref().map(packets);
    let idle = sized("seconds of idling", 25, 3_600);
    thread::sleep(Duration::from_secs(idle));
    let moved: u64 = places.each_ref().map(packets).iter().sum::<u64>() - before.iter().sum::<u64>();
    // Each end of each session is asked once in ASK_AFTER, and answers.
    let asked = idle / ASK_AFTER.as_secs() * 2 * 2 * sessions.len() as u64;
    assert!(moved <= asked, "{moved} packets while all were idle");
    for (number, stream) in (100..).zip(&mut sessions) {
        exchange(stream, number).expect("the session is still there");
    }
    assert_eq!(lab.agent("alpha").status()["peers"][0]["since"], since, "the connection is the same");
    println!("measured: 20 sessions idle for {idle} s: all carry data, {moved} packets at both workloads meanwhile");
}

/// On alpha a caller and an endpoint, their other ends on beta and gamma.
const BETWEEN: &str = "
tenants:
  shop:
    workloads:
      web: { on: [beta], run: { netns: web } }
      api: { on: [alpha], run: { netns: api } }
      job: { on: [alpha], run: { netns: job } }
      store: { on: [gamma], run: { netns: store } }
    services:
      api: { by: api, port: 8080/tcp }
      store: { by: store, port: 8080/tcp }
    allow:
      - { from: web, to: api }
      - { from: job, to: store }
";

/// Waits for the end of a stream, which must be an error, and returns how long it took.
fn broken(stream: &mut TcpStream, since: Instant) -> Duration {
    let error = stream.read(&mut [0; 16]).expect_err("not an ordinary end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    since.elapsed()
}

#[test]
fn both_ends_learn_that_a_host_is_gone() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(BETWEEN).start();
    let _api = lab.workload("api").serve(8080, echo);
    let (tell, told) = mpsc::sync_channel(1);
    let _store = lab.workload("store").serve(8080, move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        tell.send(stream).unwrap();
    });
    let mut caller = lab.workload("web").connect(lab.service("shop/api", 8080)).unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(&mut caller, 1).unwrap();
    let mut left = lab.workload("job").connect(lab.service("shop/store", 8080)).unwrap();
    std::io::Write::write_all(&mut left, b"held").unwrap();
    let mut endpoint = told.recv_timeout(PATIENCE).unwrap();
    lab.link("alpha").unplug();
    lab.agent("alpha").kill();
    let start = Instant::now();
    let waits = thread::spawn(move || broken(&mut endpoint, start));
    let of_caller = broken(&mut caller, start);
    let of_endpoint = waits.join().unwrap();
    println!("measured: host gone: its callers' peers know after {of_endpoint:?}, its endpoints' after {of_caller:?}");
    assert!(of_caller < PEER_LOST && of_endpoint < PEER_LOST);
    for host in ["beta", "gamma"] {
        assert_eq!(lab.agent(host).record(|_| true)["reason"], "peer_lost", "on {host}");
    }
}

/// A session of web on alpha to api on beta, and the endpoint's end of it.
fn both_ends(lab: &Lab) -> (TcpStream, TcpStream, crate::lab::Listening) {
    let (tell, told) = mpsc::sync_channel(1);
    let server = lab.workload("api").serve(8080, move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        tell.send(stream).unwrap();
    });
    let mut caller = session(lab, PATIENCE);
    std::io::Write::write_all(&mut caller, b"held").unwrap();
    (caller, told.recv_timeout(PATIENCE).unwrap(), server)
}

#[test]
fn a_restarted_agent_ends_the_sessions_of_the_one_before() {
    for host in ["beta", "alpha"] {
        let lab = Lab::shop();
        let (mut caller, mut endpoint, _server) = both_ends(&lab);
        lab.agent(host).kill();
        lab.agent(host).start();
        let start = Instant::now();
        let (end, other) = if host == "beta" { (&mut caller, "alpha") } else { (&mut endpoint, "beta") };
        let took = broken(end, start);
        println!("measured: the agent of {host} restarted: {other} knows {} ms after it was ready", took.as_millis());
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(lab.agent(other).record(|_| true)["reason"], "peer_lost");
    }
}

/// Two at once, as each takes its time: the reset of an endpoint is lost, and a caller's kernel says nothing any more.
#[test]
fn half_open_sessions_are_reaped_within_a_minute() {
    let lab = Lab::shop();
    let (tell, told) = mpsc::sync_channel(1);
    let _server = lab.workload("api").serve(8080, move |stream| tell.send(stream).unwrap());
    let pair = || (session(&lab, REAPED), told.recv_timeout(PATIENCE).unwrap());
    let ((mut caller, lost), (silent, mut endpoint)) = (pair(), pair());
    endpoint.set_read_timeout(Some(REAPED)).unwrap();
    let drop = |place: &Place, what: &str| {
        place.sh("nft add table inet t; nft add chain inet t o '{ type filter hook output priority 0; }'");
        place.sh(&format!("nft add rule inet t o tcp {what} drop"));
    };
    drop(&lab.workload("api"), "flags rst");
    socket2::SockRef::from(&lost).set_linger(Some(Duration::ZERO)).unwrap();
    std::mem::drop(lost);
    lab.workload("api").sh("nft delete table inet t");
    drop(&lab.workload("web"), &format!("sport {}", silent.local_addr().unwrap().port()));
    let start = Instant::now();
    let of_lost = broken(&mut caller, start);
    let of_silent = broken(&mut endpoint, start);
    println!("measured: a lost reset is known after {of_lost:?}, a silent caller after {of_silent:?}");
    assert!(of_lost < ASKED && of_silent < REAPED, "{of_lost:?}, {of_silent:?}");
    for host in ["alpha", "beta"] {
        let records = lab.agent(host).wait_records(2, |_| true);
        let found: Vec<_> = records.iter().map(|record| record["reason"].as_str().unwrap()).collect();
        assert_eq!(found, ["endpoint_reset", "caller_timeout"], "on {host}");
    }
}

#[test]
fn a_namespace_that_is_deleted_ends_its_sessions() {
    let lab = Lab::shop();
    let (_caller, mut endpoint, _server) = both_ends(&lab);
    lab.host("alpha").ok(&["ip", "netns", "del", "web"]);
    let took = broken(&mut endpoint, Instant::now());
    println!("measured: the caller's namespace is deleted: its peer knows after {} ms", took.as_millis());
    assert!(took < AT_ONCE, "{took:?}");
    within(AT_ONCE, "its sessions to be gone", || lab.agent("alpha").status()["sessions_open"] == 0);
}
