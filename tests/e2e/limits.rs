//! The limits of edges: what is measured is within five percent of what the graph says.

use crate::{
    lab::{Lab, Place},
    pattern,
    servers::{echo, iperf3},
};
use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// How far from the limit a measured rate may be.
const TOLERANCE: f64 = 0.05;

fn limited(limit: &str) -> Lab {
    let graph = format!(
        "
tenants:
  shop:
    workloads:
      web: {{ on: [alpha], run: {{ netns: web }} }}
      api: {{ on: [beta], run: {{ netns: api }} }}
    services:
      api: {{ by: api, ports: [8080/tcp, 5201/tcp] }}
    allow:
      - {{ from: web, to: api, limit: {{ {limit} }} }}
"
    );
    Lab::of(&["alpha", "beta"]).graph(&graph).start()
}

fn assert_near(what: &str, measured: f64, limit: f64) {
    let off = (measured - limit) / limit;
    println!("{what}: {measured:.0} of {limit:.0}, off by {:.1} %", off * 100.0);
    assert!(off.abs() <= TOLERANCE, "{what}: {measured:.0} where the limit is {limit:.0}: off by {:.1} %", off * 100.0);
}

/// Bytes per second that arrive on a connection, after the first burst has passed.
fn arriving(mut stream: TcpStream, settle: Duration, measure: Duration) -> f64 {
    let mut buffer = vec![0; 256 * 1024];
    let start = Instant::now();
    let mut first = None;
    let mut bytes = 0;
    loop {
        let got = stream.read(&mut buffer).unwrap();
        let at = start.elapsed();
        match first {
            None if at >= settle => first = Some(at),
            None => {}
            Some(first) => {
                bytes += got;
                if at - first >= measure {
                    return bytes as f64 / (at - first).as_secs_f64();
                }
            }
        }
    }
}

fn endless(stream: TcpStream) {
    let _ = pattern::write(stream, u64::MAX, 1);
}

fn downloads(web: &Place, to: SocketAddr, count: usize, settle: Duration, measure: Duration) -> f64 {
    let streams: Vec<_> = (0..count).map(|_| web.connect(to).unwrap()).collect();
    let readers: Vec<_> =
        streams.into_iter().map(|stream| thread::spawn(move || arriving(stream, settle, measure))).collect();
    readers.into_iter().map(|reader| reader.join().unwrap()).sum()
}

#[test]
fn a_small_rate_is_kept() {
    let lab = limited("session: 64 kbit/s");
    let _server = lab.workload("api").serve(8080, endless);
    let web = lab.workload("web");
    let rate = downloads(&web, lab.service("shop/api", 8080), 1, Duration::from_secs(3), Duration::from_secs(12));
    assert_near("64 kbit/s down, bytes/s", rate, 8_000.0);
}

#[test]
fn a_rate_is_kept_upwards() {
    let lab = limited("session: 10 mbit/s");
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let _server = lab.workload("api").serve(8080, move |stream| {
        tell.send(arriving(stream, Duration::from_secs(1), Duration::from_secs(4))).unwrap();
    });
    let stream = lab.workload("web").connect(lab.service("shop/api", 8080)).unwrap();
    // Not joined: once its peer is gone, it would try for minutes.
    thread::spawn(move || endless(stream));
    assert_near("10 mbit/s up, bytes/s", told.recv_timeout(Duration::from_secs(20)).unwrap(), 1_250_000.0);
}

#[test]
fn every_session_of_many_has_the_rate_to_itself() {
    let lab = limited("session: 10 mbit/s");
    let _server = lab.workload("api").serve(8080, endless);
    let web = lab.workload("web");
    let rate = downloads(&web, lab.service("shop/api", 8080), 10, Duration::from_secs(1), Duration::from_secs(4));
    assert_near("10 x 10 mbit/s down, bytes/s", rate, 12_500_000.0);
    // The serving host holds the bytes back, so that they do not wait half-way.
    let records = lab.agent("beta").wait_records(10, |record| record["verdict"] == "allow");
    let waited = |record: &serde_json::Value| record["waited_s"].as_f64() > Some(1.0);
    assert!(records.iter().all(waited), "a throttled session says how long it waited: {}", records[0]);
}

#[test]
fn a_large_rate_is_kept() {
    let lab = limited("session: 500 mbit/s");
    let _server = iperf3(&lab, &lab.workload("api"));
    let json = lab.workload("web").ok(&["iperf3", "-c", "api.shop.lab.test", "-R", "-t", "5", "-O", "1", "-J"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
    assert_near("500 mbit/s down, bits/s", rate, 500e6);
}

#[test]
fn new_sessions_are_limited_per_second() {
    let lab = limited("open: 50/s");
    let _server = lab.workload("api").serve(8080, echo);
    let to = lab.service("shop/api", 8080);
    let (opened, refused, took) = lab.workload("web").inside(|| {
        let attempt = || match TcpStream::connect(to) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
            Err(error) => panic!("refused should look refused: {error}"),
        };
        // The burst that an idle edge has saved up is used first.
        while attempt() {}
        let (start, mut opened, mut refused) = (Instant::now(), 0, 0);
        while start.elapsed() < Duration::from_secs(6) {
            if attempt() {
                opened += 1;
            } else {
                refused += 1;
            }
            thread::sleep(Duration::from_millis(2));
        }
        (opened, refused, start.elapsed())
    });
    assert!(refused > 100, "the attempts must exceed the limit for the test to mean anything: {refused}");
    assert_near("50 sessions/s", f64::from(opened) / took.as_secs_f64(), 50.0);
    lab.agent("alpha").wait_metric("ripstop_sessions_total", &[("reason", "open_rate")], f64::from(refused));
}

#[test]
fn concurrent_sessions_are_limited() {
    let lab = limited("sessions: 5");
    let _server = lab.workload("api").serve(8080, echo);
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    let mut held: Vec<_> = (0..5).map(|_| web.connect(to).unwrap()).collect();
    let error = web.connect(to).expect_err("the sixth");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(lab.agent("alpha").record(|record| record["verdict"] == "deny")["reason"], "sessions");
    held.pop();
    lab.agent("alpha").wait_records(1, |record| record["verdict"] == "allow");
    web.connect(to).expect("there is room again");
}
