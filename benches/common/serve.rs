//! What this program does inside an endpoint or beside a caller, as a process of its own.

use super::{
    bed::{ECHO_PORTS, HOLD_PORT},
    datagrams, tunnel,
};
use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

/// Connections that are served at a time on one port: four times what one figure opens, so that those that are about
/// to end keep nobody waiting.
const WORKERS: usize = 32;
/// Stack of a thread that echoes, in bytes.
const STACK: usize = 128 * 1024;
/// Connections that are held after which it is looked which are still open.
const HELD_LOOK: usize = 1000;
/// The longest that one connection may take to open.
const CONNECT: Duration = Duration::from_secs(10);
/// What [`Role::Open`] says when all its connections are open.
pub const ALL_OPEN: &str = "all open";

/// A part that a process of the measurement plays; it ends when it is killed.
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// Sends back what it gets, and holds connections open.
    #[command(hide = true)]
    Echo { address: IpAddr },
    /// Opens connections and keeps them.
    #[command(hide = true)]
    Open { to: SocketAddr, count: usize },
    /// Counts datagrams.
    #[command(hide = true)]
    Count { address: IpAddr },
    /// Carries the packets of an interface, which it makes.
    #[command(hide = true)]
    Tunnel { link: String, here: SocketAddr, there: SocketAddr },
}

impl Role {
    pub fn run(self) -> anyhow::Result<()> {
        raise_descriptors()?;
        match self {
            Self::Echo { address } => echo_and_hold(address),
            Self::Open { to, count } => open(to, count),
            Self::Count { address } => datagrams::count(address),
            Self::Tunnel { link, here, there } => tunnel::carry(&link, here, there),
        }
    }
}

fn raise_descriptors() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("failed to raise the limit of open files")
}

fn echo_and_hold(address: IpAddr) -> anyhow::Result<()> {
    for port in ECHO_PORTS {
        let listener = TcpListener::bind((address, port)).with_context(|| format!("failed to listen on {port}"))?;
        for _ in 0..WORKERS {
            let listener = listener.try_clone()?;
            thread::Builder::new().stack_size(STACK).spawn(move || echo_all(&listener))?;
        }
        let socket = UdpSocket::bind((address, port)).with_context(|| format!("failed to bind {port}/udp"))?;
        thread::Builder::new().stack_size(STACK).spawn(move || echo_datagrams(&socket))?;
    }
    let listener = TcpListener::bind((address, HOLD_PORT))?;
    let mut held: Vec<TcpStream> = Vec::new();
    loop {
        let (stream, _) =
            listener.accept().with_context(|| format!("failed to accept while {} are held", held.len()))?;
        stream.set_nonblocking(true)?;
        held.push(stream);
        if held.len().is_multiple_of(HELD_LOOK) {
            held.retain(is_open);
        }
    }
}

/// Whoever opened it has not reset it; nothing is ever sent.
fn is_open(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn echo_all(listener: &TcpListener) {
    loop {
        match listener.accept().and_then(|(stream, _)| echo(stream)) {
            // A caller that goes away says so to itself.
            Ok(()) | Err(_) => {}
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(&buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    loop {
        // An error is one of an earlier datagram, whose sender is gone.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], from));
        }
    }
}

fn open(to: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let stream = TcpStream::connect_timeout(&to, CONNECT);
        let stream = stream.with_context(|| format!("connection {number} failed"))?;
        // Ended by a reset, because who holds them at the other end never closes.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        streams.push(stream);
    }
    println!("{ALL_OPEN}");
    loop {
        thread::park();
    }
}
