//! The clients: what one figure of one round is.

use super::{bed::ECHO_PORTS, stats::per_mille, way::Way};
use anyhow::{Context, bail, ensure};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Bytes of a request and of a reply.
const MESSAGE: usize = 64;
/// Exchanges before the first that counts.
const WARM_UP: usize = 500;
/// The longest that the exchanges of one figure may take.
const EXCHANGE: Duration = Duration::from_secs(30);
/// The longest that any one connection, or any one answer, may take.
pub const ANSWER: Duration = Duration::from_secs(10);

/// What a bulk transfer is to be.
#[derive(Debug, Clone, Copy)]
pub struct Bulk<'a> {
    pub streams: u32,
    /// Towards the caller.
    pub reverse: bool,
    pub seconds: u32,
    /// Where its server listens.
    pub port: u16,
    /// More of iperf3's options.
    pub options: &'a [&'a str],
}

/// What a bulk transfer showed.
pub struct Carried {
    /// What arrived, in Gbit/s of the application's bytes.
    pub gbit: f64,
    /// Processor time of the carriers of both hosts, in seconds for 10^9 bytes.
    pub cpu: f64,
}

/// Bulk transfer by iperf3.
pub fn bulk(way: &Way, bulk: Bulk<'_>) -> anyhow::Result<Carried> {
    let to = way.target(bulk.port);
    let words = [to.ip().to_string(), to.port().to_string(), bulk.streams.to_string(), bulk.seconds.to_string()];
    let [ip, port, streams, seconds] = words.each_ref().map(String::as_str);
    let mut line = vec!["iperf3", "-J", "-c", ip, "-p", port, "-P", streams, "-t", seconds];
    line.extend(["--connect-timeout", "5000"]);
    if bulk.reverse {
        line.push("-R");
    }
    line.extend(bulk.options);
    let before = way.cpu();
    let output = way.client.run(&line);
    let cpu = way.cpu() - before;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("iperf3 did not end in time")?;
    if let Some(error) = said["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let received = &said["end"]["sum_received"];
    let (bits, bytes) = (received["bits_per_second"].as_f64(), received["bytes"].as_f64());
    let (bits, bytes) = bits.zip(bytes).context("iperf3 did not say what arrived")?;
    ensure!(bytes > 0.0, "nothing arrived");
    Ok(Carried { gbit: bits / 1e9, cpu: cpu / (bytes / 1e9) })
}

/// Times of one request and its reply, in microseconds.
pub struct Exchange {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// So many requests of [`MESSAGE`] bytes, each after the reply to the last, on one open connection without Nagle's algorithm;
/// fewer if they take more than [`EXCHANGE`].
pub fn request_reply(way: &Way, count: usize) -> anyhow::Result<Exchange> {
    let to = way.target(ECHO_PORTS[0]);
    let mut times = way.client.inside(|| exchanges(to, count))?;
    times.sort_unstable();
    let [p50, p99, p999] = [500, 990, 999].map(|mille| per_mille(&times, mille));
    Ok(Exchange { p50, p99, p999 })
}

fn exchanges(to: SocketAddr, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut stream = connect(to, ANSWER).context("failed to connect")?;
    let mut message = [b'x'; MESSAGE];
    let mut exchange = || -> io::Result<Duration> {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        Ok(start.elapsed())
    };
    // A twentieth of them, so that a path of long delay is not warmed up longer than it is measured.
    for _ in 0..WARM_UP.min(count / 20) {
        exchange()?;
    }
    let start = Instant::now();
    let mut times = Vec::with_capacity(count);
    while times.len() < count && start.elapsed() < EXCHANGE {
        times.push(exchange().with_context(|| format!("exchange {}", times.len()))?);
    }
    ensure!(times.len() == count, "only {} exchanges in {EXCHANGE:?}", times.len());
    Ok(times)
}

/// How new connections fared.
pub struct Opened {
    /// Connections per second.
    pub rate: f64,
    /// What 99 of 100 took at most, from the first packet to the byte that came back, in microseconds.
    pub p99: f64,
}

/// Connections, `parallel` at a time: each is opened, carries a byte there and back, and is closed.
pub fn connections(way: &Way, parallel: usize, seconds: u32) -> anyhow::Result<Opened> {
    let targets = ECHO_PORTS.map(|port| way.target(port));
    let length = Duration::from_secs(seconds.into());
    let start = Instant::now();
    let each: Vec<anyhow::Result<Vec<Duration>>> = way.client.inside(|| {
        thread::scope(|scope| {
            let clients: Vec<_> =
                (0..parallel).map(|first| scope.spawn(move || keep_connecting(&targets, first, length))).collect();
            clients.into_iter().map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
        })
    });
    let elapsed = start.elapsed().as_secs_f64();
    let mut times = each.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat();
    times.sort_unstable();
    Ok(Opened { rate: times.len() as f64 / elapsed, p99: per_mille(&times, 990) })
}

fn keep_connecting(targets: &[SocketAddr], first: usize, length: Duration) -> anyhow::Result<Vec<Duration>> {
    let start = Instant::now();
    let mut times = Vec::new();
    for to in targets.iter().cycle().skip(first) {
        if start.elapsed() >= length {
            break;
        }
        let opened = Instant::now();
        one_byte(*to).with_context(|| format!("connection {} to {to}", times.len()))?;
        times.push(opened.elapsed());
    }
    Ok(times)
}

fn one_byte(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to, ANSWER)?;
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Opens a connection without Nagle's algorithm, on which nothing waits longer than `limit`.
pub fn connect(to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}
