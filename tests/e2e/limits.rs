//! The limits of edges: what is measured is within five percent of what the graph says.

use crate::{
    lab::{Lab, Place},
    pattern,
    servers::echo,
};
use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    sync::mpsc::sync_channel,
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

/// A caller and an endpoint for each rate, all on two hosts, or on one.
fn lab_of_rates(rates: &[(&str, f64)], hosts: [&'static str; 2]) -> Lab {
    let list = |line: &dyn Fn(usize, &str) -> String| -> String {
        rates.iter().enumerate().map(|(number, (rate, _))| line(number, rate)).collect()
    };
    let [from, to] = hosts;
    let graph = format!(
        "
tenants:
  shop:
    workloads:
      web: {{ on: [{from}], run: {{ netns: web }} }}
      api: {{ on: [{to}], run: {{ netns: api }} }}
    services:
{}    allow:
{}",
        list(&|number, _| format!(
            "      rate-{number}: {{ by: api, ports: [{0}/tcp, {1}/tcp] }}\n",
            8_000 + number,
            9_000 + number
        )),
        list(&|number, rate| format!("      - {{ from: web, to: rate-{number}, limit: {{ session: {rate} }} }}\n")),
    );
    let hosts: &[&'static str] = if from == to { &[from] } else { &[from, to] };
    Lab::of(hosts).graph(&graph).start()
}

#[test]
fn small_rates_are_kept_both_ways() {
    const RATES: [(&str, f64); 4] =
        [("64 kbit/s", 8e3), ("1 mbit/s", 125e3), ("10 mbit/s", 1.25e6), ("100 mbit/s", 12.5e6)];
    const SETTLE: Duration = Duration::from_secs(2);
    const MEASURE: Duration = Duration::from_secs(8);
    let lab = lab_of_rates(&RATES, ["alpha", "beta"]);
    let (web, api) = (lab.workload("web"), lab.workload("api"));
    let to = |number: usize, port: usize| lab.service(&format!("shop/rate-{number}"), u16::try_from(port).unwrap());
    let mut measured = Vec::new();
    let mut servers = Vec::new();
    for (number, (rate, limit)) in RATES.into_iter().enumerate() {
        let (down, up) = (8_000 + number, 9_000 + number);
        let (tell, told) = sync_channel(1);
        servers.push(api.serve(u16::try_from(down).unwrap(), endless));
        servers.push(api.serve(u16::try_from(up).unwrap(), move |stream| {
            tell.send(arriving(stream, SETTLE, MEASURE)).unwrap();
        }));
        let stream = web.connect(to(number, down)).unwrap();
        let downwards = thread::spawn(move || arriving(stream, SETTLE, MEASURE));
        let stream = web.connect(to(number, up)).unwrap();
        // Not joined: once its peer is gone, it would try for minutes.
        thread::spawn(move || endless(stream));
        measured.push((rate, limit, downwards, told));
    }
    for (rate, limit, down, up) in measured {
        assert_near(&format!("{rate} down, bytes/s"), down.join().unwrap(), limit);
        assert_near(&format!("{rate} up, bytes/s"), up.recv_timeout(2 * MEASURE).unwrap(), limit);
    }
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

/// Never above the limit, and near it at least once in three times: a machine that does something else for a moment carries
/// less than it could, but more than a limit lets through by no chance.
fn assert_near_once(what: &str, measure: impl Fn() -> f64, limit: f64) {
    const TIMES: usize = 3;
    for _ in 1..TIMES {
        let measured = measure();
        if measured >= limit * (1.0 - TOLERANCE) {
            return assert_near(what, measured, limit);
        }
        println!("{what}: {measured:.0} of {limit:.0}, once more");
    }
    assert_near(what, measure(), limit);
}

/// More than any machine carries.
const FREE: (&str, f64) = ("1000 gbit/s", 1e12);
/// The part of what the machine carries without a limit up to which a rate is asked for.
const CARRIED: f64 = 0.8;

/// Both ways, between two hosts or within one. The first rate is asked for in any case; a higher one where the machine and
/// the build carry it, which cargo's unoptimised build does not. `tests/run.sh` runs these tests with the release build too.
fn large_rates_are_kept(rates: &[(&str, f64)], hosts: [&'static str; 2]) {
    let rates = [&[FREE], rates].concat();
    let lab = lab_of_rates(&rates, hosts);
    let (web, api) = (lab.workload("web"), lab.workload("api"));
    for (way, option) in [("down", "-R"), ("up", "-4")] {
        let mut carried = f64::INFINITY;
        for (number, (rate, limit)) in rates.iter().enumerate() {
            if number > 1 && *limit > carried * CARRIED {
                println!("{rate} {way}: not asked for, as this machine carries {carried:.0} bits/s without a limit");
                continue;
            }
            let port = (8_000 + number).to_string();
            let log = lab.file(&format!("iperf3-{way}-{number}.log"));
            let _server = api.spawn(&log, &["iperf3", "-s", "-p", &port]).listening(port.parse().unwrap());
            let name = format!("rate-{number}.shop.lab.test");
            let measure = || {
                let json = web.ok(&["iperf3", "-c", &name, "-p", &port, option, "-t", "3", "-O", "1", "-J"]);
                let report: serde_json::Value = serde_json::from_str(&json).unwrap();
                report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap()
            };
            match number {
                0 => carried = measure(),
                _ => assert_near_once(&format!("{rate} {way}, bits/s"), measure, *limit),
            }
        }
    }
}

#[test]
fn large_rates_are_kept_between_hosts() {
    large_rates_are_kept(&[("500 mbit/s", 500e6), ("1 gbit/s", 1e9), ("2 gbit/s", 2e9)], ["alpha", "beta"]);
}

#[test]
fn large_rates_are_kept_within_a_host() {
    large_rates_are_kept(&[("1 gbit/s", 1e9), ("5 gbit/s", 5e9)], ["alpha", "alpha"]);
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
