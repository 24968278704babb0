//! One that takes all it can get, beside many that want little.
//!
//! How much longer the small ones wait depends on the machine: `cargo bench --bench fabric` measures that. Here the bounds
//! are such that a machine which is busy with other things keeps them, and starvation does not.

use crate::{
    lab::{Lab, Place, wait_for},
    servers::echo,
    small::{self, Fared, jain},
};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Small sessions at once.
const SMALL: usize = 50;
/// How long small ones are looked at.
const MEASURED: Duration = Duration::from_secs(3);
/// Jain's index of small ones.
const FAIR: f64 = 0.95;
/// What the slowest of a hundred exchanges beside a rogue may take on a slow and busy machine: far below what it would
/// behind one that is served first.
const SLOW: Duration = Duration::from_millis(500);

const ECHO: u16 = 8080;
const SOURCE: u16 = 8081;
const DRAIN: u16 = 8082;

/// Two callers of one service: `web`, and `rogue`.
fn lab(service: &str, rogue: &str) -> Lab {
    let graph = format!(
        "
tenants:
  shop:
    workloads:
      web: {{ on: [alpha], run: {{ netns: web }} }}
      rogue: {{ on: [alpha], run: {{ netns: rogue }} }}
      api: {{ on: [beta], run: {{ netns: api }} }}
    services:
      api: {{ by: api, ports: [{ECHO}/tcp, {SOURCE}/tcp, {DRAIN}/tcp, {DRAIN}/udp]{service} }}
    allow:
      - {{ from: web, to: api }}
      - {{ from: rogue, to: api{rogue} }}
"
    );
    Lab::of(&["alpha", "beta"]).graph(&graph).start()
}

/// Sends without end.
fn endless(mut stream: TcpStream) {
    let bytes = vec![7; 256 * 1024];
    while stream.write_all(&bytes).is_ok() {}
}

/// Reads without end, and counts.
fn count(mut stream: TcpStream, into: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(got @ 1..) = stream.read(&mut buffer) {
        into.fetch_add(got as u64, Ordering::Relaxed);
    }
}

/// Sessions that take all they can get, one way; they end when this is dropped.
struct Greedy {
    streams: Vec<TcpStream>,
    counts: Vec<Arc<AtomicU64>>,
}

impl Greedy {
    fn downloads(place: &Place, to: SocketAddr, sessions: usize) -> Self {
        let streams: Vec<_> = (0..sessions).map(|_| place.connect(to).unwrap()).collect();
        let counts: Vec<Arc<AtomicU64>> = streams.iter().map(|_| Arc::default()).collect();
        for (stream, into) in streams.iter().zip(&counts) {
            let (stream, into) = (stream.try_clone().unwrap(), Arc::clone(into));
            thread::spawn(move || count(stream, &into));
        }
        Self { streams, counts }
    }

    fn upload(place: &Place, to: SocketAddr, arrived: &Arc<AtomicU64>) -> Self {
        let stream = place.connect(to).unwrap();
        let sending = stream.try_clone().unwrap();
        thread::spawn(move || endless(sending));
        Self { streams: vec![stream], counts: vec![Arc::clone(arrived)] }
    }

    /// Bytes that each has had so far.
    fn bytes(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Waits until all of them have begun.
    fn begun(self) -> Self {
        wait_for("every greedy session's first bytes", || self.bytes().iter().all(|bytes| *bytes > 0));
        self
    }

    /// Bytes per second of each, from here on for so long.
    fn rates(&self, length: Duration) -> Vec<f64> {
        let (before, start) = (self.bytes(), Instant::now());
        thread::sleep(length);
        let (after, seconds) = (self.bytes(), start.elapsed().as_secs_f64());
        after.into_iter().zip(before).map(|(after, before)| (after - before) as f64 / seconds).collect()
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        for stream in &self.streams {
            // It may have ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn exchange(lab: &Lab) -> Fared {
    let to = [lab.service("shop/api", ECHO)];
    lab.workload("web").inside(|| small::sessions(&to, SMALL, MEASURED)).unwrap()
}

fn assert_not_starved(what: &str, alone: &Fared, beside: &Fared, rogue: f64) {
    let (p99, idle) = (beside.percentile(99), alone.percentile(99));
    println!(
        "{what} at {:.0} mbit/s: p50 {:?}, p99 {p99:?}, alone {:?}, {idle:?}; Jain's index {:.3}",
        rogue * 8e-6,
        beside.percentile(50),
        alone.percentile(50),
        beside.jain(),
    );
    assert!(p99 <= SLOW.max(idle * 2), "{what}: p99 {p99:?}, alone {idle:?}");
    assert!(beside.jain() >= FAIR, "{what}: Jain's index {:.3}", beside.jain());
    assert!(rogue * 8.0 > 50e6, "{what}: the rogue has {:.0} bit/s, which is no load", rogue * 8.0);
}

#[test]
fn a_rogue_at_full_speed_does_not_starve_small_sessions() {
    let lab = lab("", "");
    let (api, rogue) = (lab.workload("api"), lab.workload("rogue"));
    let arrived = Arc::<AtomicU64>::default();
    let into = Arc::clone(&arrived);
    let _servers =
        [api.serve(ECHO, echo), api.serve(SOURCE, endless), api.serve(DRAIN, move |stream| count(stream, &into))];
    let alone = exchange(&lab);
    let beside = |greedy: &Greedy| {
        thread::scope(|scope| {
            let rates = scope.spawn(|| greedy.rates(MEASURED));
            (exchange(&lab), rates.join().unwrap().iter().sum::<f64>())
        })
    };
    let upload = Greedy::upload(&rogue, lab.service("shop/api", DRAIN), &arrived).begun();
    let (fared, rate) = beside(&upload);
    drop(upload);
    assert_not_starved("beside an upload", &alone, &fared, rate);
    let downloads = Greedy::downloads(&rogue, lab.service("shop/api", SOURCE), 1).begun();
    let (fared, rate) = beside(&downloads);
    drop(downloads);
    assert_not_starved("beside a download", &alone, &fared, rate);
    let downloads = Greedy::downloads(&rogue, lab.service("shop/api", SOURCE), 20).begun();
    let (fared, rate) = beside(&downloads);
    assert_not_starved("beside 20 downloads", &alone, &fared, rate);
}

#[test]
fn under_a_shared_limit_each_workload_and_each_session_has_its_share() {
    let lab = lab(", limit: { rate: 200 mbit/s }", "");
    let (api, rogue, web) = (lab.workload("api"), lab.workload("rogue"), lab.workload("web"));
    let _servers = [api.serve(ECHO, echo), api.serve(SOURCE, endless)];
    let rogues = Greedy::downloads(&rogue, lab.service("shop/api", SOURCE), 20).begun();
    // Who wants less than a share gets what it wants.
    let fared = exchange(&lab);
    println!("small ones under a limit that is used up: p99 {:?}", fared.percentile(99));
    assert!(fared.jain() >= FAIR && fared.percentile(99) <= SLOW, "{:?}, {}", fared.percentile(99), fared.jain());
    assert!(fared.least(MEASURED) > 0.8, "one had {:.2} of its exchanges", fared.least(MEASURED));
    // Who wants more gets its share: of the two workloads half each, and of a workload's sessions all the same.
    let smalls = Greedy::downloads(&web, lab.service("shop/api", SOURCE), SMALL).begun();
    thread::sleep(Duration::from_millis(500));
    let (theirs, ours) = thread::scope(|scope| {
        let theirs = scope.spawn(|| rogues.rates(MEASURED));
        let ours = smalls.rates(MEASURED);
        (theirs.join().unwrap(), ours)
    });
    let (all, sum) = (theirs.iter().sum::<f64>() + ours.iter().sum::<f64>(), ours.iter().sum::<f64>());
    println!("{SMALL} against 20: {:.3} of {:.1} mbit/s, Jain's index {:.3}", sum / all, all * 8e-6, jain(&ours));
    assert!(jain(&ours) >= FAIR, "{ours:?}");
    assert!((0.45..0.55).contains(&(sum / all)), "50 sessions had {:.3} of the limit, 20 the rest", sum / all);
    assert!((all * 8.0 / 200e6 - 1.0).abs() < 0.05, "{all} bytes/s of 200 mbit/s");
}

/// Sends datagrams of 1 200 bytes, so many in a call, as fast as the kernel takes them, until told to stop; says how many bytes
/// it sent.
fn flood(place: &Place, to: SocketAddr, together: usize, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let stop = Arc::clone(stop);
    place.thread(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        setsockopt(&socket, sockopt::UdpGsoSegment, &1_200).unwrap();
        let (datagrams, mut sent) = (vec![9; 1_200 * together], 0);
        while !stop.load(Ordering::Relaxed) {
            sent += socket.send(&datagrams).map_or(0, |length| length as u64);
        }
        sent
    })
}

/// A socket that takes what comes to the endpoint.
fn take(place: &Place) -> (Arc<AtomicU64>, Arc<AtomicBool>, thread::JoinHandle<()>) {
    let socket = place.inside(|| UdpSocket::bind(("0.0.0.0", DRAIN))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (arrived, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let (into, stopped) = (Arc::clone(&arrived), Arc::clone(&stop));
    let taker = thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while !stopped.load(Ordering::Relaxed) {
            let got = socket.recv(&mut buffer).unwrap_or(0);
            into.fetch_add(got as u64, Ordering::Relaxed);
        }
    });
    (arrived, stop, taker)
}

#[test]
fn a_flood_of_datagrams_does_not_starve_streams() {
    let lab = lab("", "");
    let (api, rogue, web) = (lab.workload("api"), lab.workload("rogue"), lab.workload("web"));
    let _servers = [api.serve(ECHO, echo), api.serve(SOURCE, endless)];
    let (arrived, stop, taker) = take(&api);
    let streams = Greedy::downloads(&web, lab.service("shop/api", SOURCE), 4).begun();
    let rate = |length| streams.rates(length).iter().sum::<f64>() * 8e-6;
    let before = rate(MEASURED);
    let flooding = flood(&rogue, lab.service("shop/api", DRAIN), 1, &stop);
    wait_for("the flood", || arrived.load(Ordering::Relaxed) > 1 << 20);
    let during = rate(MEASURED);
    drop(streams);
    let fared = exchange(&lab);
    stop.store(true, Ordering::Relaxed);
    let sent = flooding.join().unwrap();
    taker.join().unwrap();
    let passed = arrived.load(Ordering::Relaxed);
    println!("streams {before:.0} mbit/s alone, {during:.0} beside a flood, of which {passed} of {sent} bytes arrived");
    println!("small ones beside it: p50 {:?}, p99 {:?}", fared.percentile(50), fared.percentile(99));
    // On two cores the flood's own sender and receiver take more of what the streams had alone than the agents do.
    assert!(during > before / 8.0, "streams have {during:.0} mbit/s of {before:.0} beside a flood");
    assert!(fared.percentile(99) <= SLOW && fared.jain() >= FAIR, "{:?}, {}", fared.percentile(99), fared.jain());
}

#[test]
fn what_a_policed_flood_loses_is_counted() {
    policed_flood(1);
}

#[test]
fn what_a_policed_flood_loses_is_counted_where_many_are_sent_together() {
    policed_flood(40);
}

fn policed_flood(together: usize) {
    const RATE: f64 = 1_250_000.0;
    let lab = lab("", ", limit: { session: 10 mbit/s }");
    let (arrived, stop_taking, taker) = take(&lab.workload("api"));
    let stop = Arc::default();
    let start = Instant::now();
    let flooding = flood(&lab.workload("rogue"), lab.service("shop/api", DRAIN), together, &stop);
    thread::sleep(MEASURED);
    stop.store(true, Ordering::Relaxed);
    let (sent, seconds) = (flooding.join().unwrap(), start.elapsed().as_secs_f64());
    // Closing the session is up to its idle time; cutting it is quicker.
    lab.edit_graph(|graph| graph.replace("- { from: rogue", "# - { from: rogue"));
    // What was still on its way when the session was cut is denied: where beta has the new policy before alpha, by beta.
    let opened = |record: &serde_json::Value| record["protocol"] == "udp" && record["connect_s"].is_number();
    let record = lab.agent("alpha").record(opened);
    // Until here its socket was open: what is left of the flood would have been refused, and have asked for a session anew.
    stop_taking.store(true, Ordering::Relaxed);
    taker.join().unwrap();
    println!("{sent} bytes sent, {} arrived: {record}", arrived.load(Ordering::Relaxed));
    let number = |key: &str| record[key].as_f64().unwrap_or_else(|| panic!("{key} of {record}"));
    let passed = number("bytes_up");
    assert!((passed / (RATE * seconds) - 1.0).abs() < 0.1, "{passed} bytes passed in {seconds} s");
    assert_eq!(number("burst_bytes"), 65_536.0, "the largest datagram, and 50 ms of the rate");
    assert_eq!(number("throttled_bytes"), number("datagrams_dropped") * 1_200.0);
    assert!(number("throttled_bytes") > passed, "most of a flood is lost: {record}");
    let labels = [("caller", "shop/rogue"), ("side", "caller")];
    let metric = |name, label: (&str, &str)| lab.agent("alpha").metric(name, &[&labels[..], &[label]].concat());
    let up = ("direction", "up");
    assert_eq!(metric("ripstop_session_throttled_bytes_total", up), number("throttled_bytes"));
    assert_eq!(metric("ripstop_session_bytes_total", up), passed);
}

#[test]
fn burst_wait_and_throttled_bytes_of_a_stream_are_told() {
    const SENT: usize = 3_000_000;
    let lab = lab("", ", limit: { session: 8 mbit/s }");
    let _server = lab.workload("api").serve(DRAIN, |mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let mut stream = lab.workload("rogue").connect(lab.service("shop/api", DRAIN)).unwrap();
    stream.write_all(&[3; SENT]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let record = lab.agent("alpha").record(|_| true);
    let number = |key: &str| record[key].as_f64().unwrap_or_else(|| panic!("{key} of {record}"));
    // 50 ms of the rate, in whole KiB.
    assert_eq!(number("burst_bytes"), 48.0 * 1024.0, "{record}");
    assert_eq!(number("bytes_up"), SENT as f64, "{record}");
    assert!((2.7..3.2).contains(&number("waited_s")), "3 MB at 1 MB/s: {record}");
    assert!((0.9..=1.0).contains(&(number("throttled_bytes") / SENT as f64)), "all but the first: {record}");
    let alpha = lab.agent("alpha");
    let labels = [("caller", "shop/rogue"), ("service", "shop/api"), ("side", "caller")];
    let metric = |name| alpha.metric(name, &labels);
    assert_eq!(metric("ripstop_session_throttled_bytes_total"), number("throttled_bytes"));
    assert!((metric("ripstop_session_throttle_seconds_sum") - number("waited_s")).abs() < 0.01);
    assert_eq!(metric("ripstop_session_burst_bytes"), number("burst_bytes"));
}
