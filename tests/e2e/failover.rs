//! Endpoints, hosts and paths that go away: what is new finds another, and what is open goes on.

use crate::{
    flows::{Progress, echoing, exchange, session, sized, there_and_back},
    lab::{Lab, Server, within},
    servers::echo,
};
use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const TWO_HOSTS: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta, gamma], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
";

/// An echo server that can be killed.
const ECHO: &str = "
import asyncio
async def serve(reader, writer):
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except ConnectionError: pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, '0.0.0.0', 8080, backlog=1024)
    await server.serve_forever()
asyncio.run(main())
";

/// The longest that a read, a write or an opening may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How one request went; times count from the load's start.
#[derive(Debug)]
struct Request {
    began: Duration,
    ended: Duration,
    came: Result<(), Failure>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "the errors are shown when a test fails")]
enum Failure {
    /// No verdict had come.
    Opening(io::Error),
    /// The session was open.
    Open(io::Error),
}

/// New sessions at a steady rate, each with one request.
struct Load {
    start: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Request>>>,
}

impl Load {
    /// So many new sessions a second, by so many callers; none waits longer for an answer than `patience`.
    fn start(lab: &Lab, rate: u32, callers: u32, patience: Duration) -> Self {
        let (start, stop) = (Instant::now(), Arc::new(AtomicBool::default()));
        let to = lab.service("shop/api", 8080);
        let caller = |index: u32| {
            let stop = Arc::clone(&stop);
            lab.workload("web").thread(move || {
                let turns = (0..).map(|turn| Duration::from_secs(1) * (turn * callers + index) / rate);
                let mut requests = Vec::new();
                for turn in turns.take_while(|_| !stop.load(Ordering::Relaxed)) {
                    thread::sleep(turn.saturating_sub(start.elapsed()));
                    let began = start.elapsed();
                    let came = request(to, patience);
                    requests.push(Request { began, ended: start.elapsed(), came });
                }
                requests
            })
        };
        let threads = (0..callers).map(caller).collect();
        Self { start, stop, threads }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends it and returns all requests in the order of their ends.
    fn finish(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all: Vec<_> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        all.sort_by_key(|request| request.ended);
        all
    }
}

fn request(to: SocketAddr, patience: Duration) -> Result<(), Failure> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(Failure::Opening)?;
    stream.set_read_timeout(Some(patience)).map_err(Failure::Open)?;
    exchange(&mut stream, 7).map_err(Failure::Open).map(drop)
}

/// The longest time in which no request was served.
fn gap(requests: &[Request]) -> Duration {
    let served: Vec<_> = requests.iter().filter(|request| request.came.is_ok()).map(|request| request.ended).collect();
    served.windows(2).map(|pair| pair[1] - pair[0]).max().expect("requests are served")
}

fn echo_server(lab: &Lab, host: &str) -> Server {
    let python = ["/usr/bin/python3", "-c", ECHO];
    lab.workload_on(host, "api").spawn(&lab.file(&format!("echo-{host}.log")), &python).listening(8080)
}

#[test]
fn killing_an_endpoint_fails_no_request_that_had_no_verdict() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(TWO_HOSTS).start();
    let (mut beta, _gamma) = (echo_server(&lab, "beta"), echo_server(&lab, "gamma"));
    let load = Load::start(&lab, 200, 16, Duration::from_secs(3));
    thread::sleep(Duration::from_secs(1));
    beta.kill();
    let killed = load.elapsed();
    thread::sleep(Duration::from_secs(2));
    let requests = load.finish();
    let opening: Vec<_> = requests.iter().filter(|request| matches!(request.came, Err(Failure::Opening(_)))).collect();
    let open: Vec<_> = requests.iter().filter(|request| matches!(request.came, Err(Failure::Open(_)))).collect();
    println!(
        "measured: endpoint killed under 200 new sessions/s: {} requests, {} failed without a verdict, {} whose session was \
         open on it, longest gap {} ms",
        requests.len(),
        opening.len(),
        open.len(),
        gap(&requests).as_millis()
    );
    assert!(requests.len() > 400, "{}", requests.len());
    assert!(opening.is_empty(), "{opening:#?}");
    assert!(open.iter().all(|request| request.began <= killed), "begun after {killed:?}: {open:#?}");
    assert!(open.len() <= 16, "no more than there are callers");
}

#[test]
fn new_sessions_pass_over_a_host_that_dies() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(TWO_HOSTS).start();
    let _beta = lab.workload_on("beta", "api").serve(8080, echo);
    let _gamma = lab.workload_on("gamma", "api").serve(8080, echo);
    let load = Load::start(&lab, 100, 200, Duration::from_secs(3));
    thread::sleep(Duration::from_secs(2));
    lab.link("beta").unplug();
    lab.agent("beta").kill();
    let killed = load.elapsed();
    thread::sleep(Duration::from_secs(5));
    let requests = load.finish();
    let after = || requests.iter().filter(|request| request.began > killed);
    let slowest = after().map(|request| request.ended - request.began).max().unwrap();
    let failed: Vec<_> = requests.iter().filter(|request| request.came.is_err()).collect();
    let late = after().filter(|request| request.came.is_err()).count();
    println!(
        "measured: host killed at 100 new sessions/s: {} requests after it, {late} failed, slowest {} ms, longest gap {} ms; \
         {} that were open failed",
        after().count(),
        slowest.as_millis(),
        gap(&requests).as_millis(),
        failed.len() - late
    );
    assert!(after().count() > 400);
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert!(gap(&requests) < Duration::from_secs(3));
    assert_eq!(late, 0, "{failed:#?}");
}

/// Gives a host another address on the wire, in place of the one it has.
fn move_host(lab: &Lab, host: &str, last: u8) {
    let old = lab.host_address(host);
    lab.host(host).sh(&format!("ip addr del {old}/24 dev eth0; ip addr add 192.0.2.{last}/24 dev eth0"));
}

/// 400 MB through an echo and back while the address of a host changes.
fn through_a_move(host: &str, moves: impl FnOnce(&Lab)) {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let bytes = 400_000_000;
    let watched = there_and_back(session(&lab, PATIENCE), bytes, |progress: &Progress| {
        progress.wait(bytes / 4);
        moves(&lab);
    });
    println!("measured: {host} moves mid-transfer: {watched}, both ways, every byte equal");
    assert!(watched.gap < Duration::from_secs(1), "{watched}");
    let records = lab.agent("alpha").wait_records(1, |_| true);
    assert_eq!(records[0]["reason"], "closed");
}

#[test]
fn the_dialling_host_may_move() {
    through_a_move("the dialling host", |lab| {
        let seen = || lab.agent("beta").status()["peers"][0]["address"].clone();
        assert_eq!(seen(), "192.0.2.11:7477");
        move_host(lab, "alpha", 111);
        within(Duration::from_secs(1), "beta to see it at its new address", || seen() == "192.0.2.111:7477");
    });
}

#[test]
fn a_path_may_be_dark_two_seconds_of_five() {
    let (lab, _server) = echoing();
    let bytes = sized("bytes through 2 s of darkness in every 5 s", 300_000_000, 1_000_000_000);
    let watched = there_and_back(session(&lab, PATIENCE), bytes, |progress: &Progress| {
        progress.wait(bytes / 10);
        lab.relay().dark(Duration::from_secs(2), Duration::from_secs(5));
        thread::sleep(Duration::from_secs(3));
    });
    println!("measured: dark 2 s of every 5 s: {watched}, both ways, every byte equal; {:?}", lab.relay().tally());
    assert!(lab.relay().tally().darkened > 0);
    assert!(watched.gap > Duration::from_secs(2), "it was dark: {watched}");
}

#[test]
fn a_path_may_become_narrower() {
    let (lab, _server) = echoing();
    let bytes = 150_000_000;
    let watched = there_and_back(session(&lab, PATIENCE), bytes, |progress: &Progress| {
        progress.wait(bytes / 3);
        let mtu = lab.agent("alpha").status()["peers"][0]["mtu"].as_u64().unwrap();
        assert!(mtu > 1_400, "the full size was found before: {mtu}");
        lab.relay().mtu(1_300);
    });
    println!("measured: path MTU cut to 1300 mid-flow: {watched}, both ways, every byte equal");
    assert!(lab.relay().tally().too_large > 0);
    assert!(watched.gap < Duration::from_secs(3), "{watched}");
}
