//! The clients: what one figure of one round is.

use crate::{
    bed::{BULK_PORT, Bed, ECHO_PORTS, Way},
    lab::Place,
};
use anyhow::{Context, bail, ensure};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Bytes of a request and of a reply.
const MESSAGE: usize = 64;
/// Exchanges that a percentile is taken from at least, if they fit into [`EXCHANGE`].
const EXCHANGES: usize = 20_000;
/// Exchanges before the first that counts.
const WARM_UP: usize = 500;
/// The longest that the exchanges of one figure may take.
const EXCHANGE: Duration = Duration::from_secs(30);
/// The longest that any one connection, or any one answer, may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What a bulk transfer showed.
pub struct Bulk {
    /// What arrived, in Gbit/s of the application's bytes.
    pub gbit: f64,
    /// Processor time of both agents, in seconds for 10^9 bytes.
    pub cpu: f64,
}

/// Bulk transfer by iperf3 in `streams` connections, towards the caller if `reverse`.
pub fn bulk(bed: &Bed, way: Way, streams: u32, reverse: bool, seconds: u32) -> anyhow::Result<Bulk> {
    bulk_from(bed, &bed.client(way), way, streams, reverse, seconds, &[])
}

/// The same from another place, with more of iperf3's options.
pub fn bulk_from(
    bed: &Bed,
    from: &Place,
    way: Way,
    streams: u32,
    reverse: bool,
    seconds: u32,
    options: &[&str],
) -> anyhow::Result<Bulk> {
    let to = bed.target(way, BULK_PORT);
    let words = [to.ip().to_string(), to.port().to_string(), streams.to_string(), seconds.to_string()];
    let [ip, port, streams, seconds] = words.each_ref().map(String::as_str);
    let mut line = vec!["iperf3", "-J", "-c", ip, "-p", port, "-P", streams, "-t", seconds];
    line.extend(["--connect-timeout", "5000"]);
    if reverse {
        line.push("-R");
    }
    line.extend(options);
    let before = bed.agents_cpu();
    let output = from.run(&line);
    let cpu = bed.agents_cpu() - before;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("iperf3 did not end in time")?;
    if let Some(error) = said["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let received = &said["end"]["sum_received"];
    let (bits, bytes) = (received["bits_per_second"].as_f64(), received["bytes"].as_f64());
    let (bits, bytes) = bits.zip(bytes).context("iperf3 did not say what arrived")?;
    ensure!(bytes > 0.0, "nothing arrived");
    Ok(Bulk { gbit: bits / 1e9, cpu: cpu / (bytes / 1e9) })
}

/// Times of one request and its reply, in microseconds.
pub struct Exchange {
    pub p50: f64,
    pub p99: f64,
}

/// Requests of [`MESSAGE`] bytes, each after the reply to the last, on one open connection without Nagle's algorithm.
pub fn request_reply(bed: &Bed, way: Way) -> anyhow::Result<Exchange> {
    let to = bed.target(way, ECHO_PORTS[0]);
    let mut times = bed.client(way).inside(|| exchanges(to))?;
    times.sort_unstable();
    let percentile = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
    Ok(Exchange { p50: percentile(50), p99: percentile(99) })
}

fn exchanges(to: SocketAddr) -> anyhow::Result<Vec<Duration>> {
    let mut stream = connect(to).context("failed to connect")?;
    let mut message = [b'x'; MESSAGE];
    let mut exchange = || -> io::Result<Duration> {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        Ok(start.elapsed())
    };
    for _ in 0..WARM_UP {
        exchange()?;
    }
    let start = Instant::now();
    let mut times = Vec::with_capacity(EXCHANGES);
    while times.len() < EXCHANGES && start.elapsed() < EXCHANGE {
        times.push(exchange().with_context(|| format!("exchange {}", times.len()))?);
    }
    ensure!(times.len() == EXCHANGES, "only {} exchanges in {EXCHANGE:?}", times.len());
    Ok(times)
}

/// Connections per second, `parallel` at a time: each is opened, carries a byte there and back, and is closed.
pub fn connections(bed: &Bed, way: Way, parallel: usize, seconds: u32) -> anyhow::Result<f64> {
    let targets = ECHO_PORTS.map(|port| bed.target(way, port));
    let length = Duration::from_secs(seconds.into());
    let start = Instant::now();
    let counts: Vec<anyhow::Result<u64>> = bed.client(way).inside(|| {
        thread::scope(|scope| {
            let clients: Vec<_> =
                (0..parallel).map(|first| scope.spawn(move || keep_connecting(&targets, first, length))).collect();
            clients.into_iter().map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
        })
    });
    let elapsed = start.elapsed().as_secs_f64();
    let total: u64 = counts.into_iter().sum::<anyhow::Result<u64>>()?;
    Ok(total as f64 / elapsed)
}

fn keep_connecting(targets: &[SocketAddr], first: usize, length: Duration) -> anyhow::Result<u64> {
    let start = Instant::now();
    let mut count = 0;
    for to in targets.iter().cycle().skip(first) {
        if start.elapsed() >= length {
            break;
        }
        one_byte(*to).with_context(|| format!("connection {count} to {to}"))?;
        count += 1;
    }
    Ok(count)
}

fn one_byte(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to)?;
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, ANSWER)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}
