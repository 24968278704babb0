//! Loads that one thread of one program cannot make: many transfers, exchanges and flows of datagrams at once.

use crate::common::{
    bed::{BULK_PORT, ECHO_PORTS, MORE_BULK_PORTS},
    lab::{Place, Server},
    load::{self, ANSWER, Bulk},
    way::Way,
};
use anyhow::{Context, anyhow, ensure};
use std::{
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Bytes of a request and of its reply.
const MESSAGE: usize = 64;
/// Bytes of a datagram.
const DATAGRAM: usize = 1200;
/// Datagrams of one flow that are under way at a time.
const WINDOW: usize = 16;
/// How long a flow waits before it takes what is under way for lost.
const LOST: Duration = Duration::from_millis(100);

/// Starts an iperf3 in a place for each of the streams of [`bulk`] after the first, whose server the bed has.
pub fn servers(place: &Place, address: &str, file: impl Fn(&str) -> PathBuf) -> Vec<Server> {
    let start = |port: u16| {
        let log = file(&format!("iperf3-{}-{port}.log", place.name().replace('/', "-")));
        place.spawn(&log, &["iperf3", "-s", "-B", address, "-p", &port.to_string()]).listening(port)
    };
    MORE_BULK_PORTS.map(start).into()
}

/// So many streams at once, an iperf3 each; what they carried together, in Gbit/s.
pub fn bulk(way: &Way, streams: usize, reverse: bool, seconds: u32) -> anyhow::Result<f64> {
    let ports: Vec<_> = [BULK_PORT].into_iter().chain(MORE_BULK_PORTS).take(streams).collect();
    ensure!(ports.len() == streams, "there are iperf3s for {} streams", ports.len());
    let one = |port| load::bulk(way, Bulk { streams: 1, reverse, seconds, port, options: &[] }).map(|bulk| bulk.gbit);
    let carried = all_at_once(ports, &one)?;
    Ok(carried.iter().sum())
}

/// Exchanges in a second on so many open connections together, one at a time on each.
pub fn exchanges(way: &Way, connections: usize, seconds: u32) -> anyhow::Result<f64> {
    rate(way, connections, seconds, &exchange)
}

fn exchange(to: SocketAddr, length: Duration) -> anyhow::Result<usize> {
    let mut stream = load::connect(to, ANSWER).context("failed to connect")?;
    let (start, mut message, mut done) = (Instant::now(), [b'x'; MESSAGE], 0);
    while start.elapsed() < length {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        done += 1;
    }
    Ok(done)
}

/// Datagrams in a second that came back, of so many flows together, [`WINDOW`] of each under way at a time.
pub fn datagrams(way: &Way, flows: usize, seconds: u32) -> anyhow::Result<f64> {
    rate(way, flows, seconds, &flow)
}

fn flow(to: SocketAddr, length: Duration) -> anyhow::Result<usize> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LOST))?;
    let (start, mut buffer, mut came) = (Instant::now(), [b'x'; DATAGRAM], 0);
    let mut under_way = 0;
    while start.elapsed() < length {
        while under_way < WINDOW {
            socket.send(&buffer)?;
            under_way += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => (came, under_way) = (came + 1, under_way - 1),
            Err(_) => under_way = 0,
        }
    }
    Ok(came)
}

/// Has so many clients work at once for so long, over the echo's ports in turn; what they did in a second together.
fn rate(
    way: &Way,
    clients: usize,
    seconds: u32,
    work: &(dyn Fn(SocketAddr, Duration) -> anyhow::Result<usize> + Sync),
) -> anyhow::Result<f64> {
    let length = Duration::from_secs(seconds.into());
    let targets = ECHO_PORTS.into_iter().cycle().take(clients).map(|port| way.target(port)).collect();
    let done = way.client.inside(|| all_at_once(targets, &|to| work(to, length)))?;
    Ok(done.iter().sum::<usize>() as f64 / length.as_secs_f64())
}

fn all_at_once<T: Send, R: Send>(
    each: Vec<T>,
    work: &(dyn Fn(T) -> anyhow::Result<R> + Sync),
) -> anyhow::Result<Vec<R>> {
    thread::scope(|scope| {
        let running: Vec<_> = each.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        running.into_iter().map(|one| one.join().map_err(|_| anyhow!("a client panicked"))?).collect()
    })
}
