//! The demo's clients: what an application in a workload's namespace does, with ordinary sockets.

use super::{cast, dns};
use anyhow::{Context, anyhow};
use ripstop_kernel::netns;
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Longest wait for a connection, and for each piece of an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an HTTP answer at most: the built-in servers send a line.
const ANSWER_SIZE: u64 = 64 << 10;
/// Bytes of a line at most: the servers greet with a few words.
const LINE_SIZE: usize = 4 << 10;

/// What an HTTP server answered.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// The status line after `HTTP/1.1 `.
    pub(super) status: String,
    pub(super) body: String,
    /// From the question for the name to the answer's last byte.
    pub(super) took: Duration,
}

/// Runs `work` as the workload: on a thread in its namespace.
pub(super) fn as_workload<T: Send>(workload: &str, work: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
    let done = netns::run_in(&cast::inside(workload), work)?;
    done.map_err(|error| anyhow!(error))
}

/// Fetches `http://NAME:PORT/PATH` as the workload.
pub(super) fn get(workload: &str, resolver: Ipv4Addr, service: &str, port: u16, path: &str) -> anyhow::Result<Page> {
    let name = cast::dns_name(service);
    let page = as_workload(workload, || fetch(resolver, &name, port, path));
    page.with_context(|| format!("{workload} cannot fetch http://{name}:{port}{path}"))
}

/// Connects to a name.
pub(super) fn connect(resolver: Ipv4Addr, name: &str, port: u16) -> io::Result<TcpStream> {
    let address = dns::resolve(resolver, name)?;
    connect_to((address, port).into())
}

/// Connects to an address.
pub(super) fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads up to and with the next line's end, and not a byte further: what follows is for whoever reads next.
pub(super) fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_SIZE {
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            [byte] => line.push(byte),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the line does not end"))
}

fn fetch(resolver: Ipv4Addr, name: &str, port: u16, path: &str) -> io::Result<Page> {
    let started = Instant::now();
    let mut stream = connect(resolver, name, port)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(ANSWER_SIZE).read_to_string(&mut text)?;
    let took = started.elapsed();
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or_else(malformed)?;
    Ok(Page { status: status.to_owned(), body: body.trim_end().to_owned(), took })
}
