//! The demo's servers, each a process of this program in its workload's namespace, under its workload's user.
//!
//! A server says `ready` on standard output once it listens, and ends when its standard input does: with the demo,
//! however that ends.

use super::{cast, client};
use anyhow::Context;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// Connections at once; a demo makes a handful.
const CONNECTIONS: usize = 256;
/// Bytes of a datagram at most.
const DATAGRAM_SIZE: usize = 65_536;
/// A connection on which nothing is asked for this long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// Bytes of a request's line or of a header at most.
const LINE_SIZE: u64 = 8 << 10;

/// Arguments of one of the demo's servers.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// What it speaks
    #[arg(long, value_enum)]
    kind: Kind,
    /// The host's name, for its answers
    #[arg(long)]
    host: String,
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
    /// The fabric's resolver, for the calls it makes itself
    #[arg(long)]
    resolver: Ipv4Addr,
    /// The numeric id of the user to become
    #[arg(long)]
    uid: Option<u32>,
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// HTTP: `/` answers with the host's name, `/orders` after a call to `db`.
    Http,
    /// Greets first, then answers each line with the line.
    Lines,
    /// Sends as many bytes as the first line asks for.
    Bytes,
    /// Answers each datagram with its length.
    Datagrams,
}

/// Runs one of the demo's servers until standard input ends.
///
/// # Errors
/// When the user cannot be become, or the address is taken.
pub fn serve(arguments: ServeArgs) -> anyhow::Result<()> {
    // First of all: every socket from here on is the user's.
    arguments.uid.map_or(Ok(()), become_user)?;
    let listen = arguments.listen;
    if arguments.kind == Kind::Datagrams {
        let socket = UdpSocket::bind(listen).with_context(|| format!("failed to listen on {listen}"))?;
        thread::Builder::new().name("demo-answer".into()).spawn(move || measure(&socket, &arguments.host))?;
        return until_told();
    }
    let listener = TcpListener::bind(listen).with_context(|| format!("failed to listen on {listen}"))?;
    thread::Builder::new().name("demo-accept".into()).spawn(move || accept(&listener, &arguments))?;
    until_told()
}

/// Says that it is ready, and waits for the end of the demo.
fn until_told() -> anyhow::Result<()> {
    println!("ready");
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

/// Answers each datagram with its length.
fn measure(socket: &UdpSocket, host: &str) {
    let mut datagram = vec![0; DATAGRAM_SIZE];
    loop {
        // An error is of one caller that went away.
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            drop(socket.send_to(format!("meter on {host} got {length} bytes").as_bytes(), from));
        }
    }
}

fn become_user(uid: u32) -> anyhow::Result<()> {
    let changed = setgroups(&[]).and_then(|()| setgid(Gid::from_raw(uid))).and_then(|()| setuid(Uid::from_raw(uid)));
    changed.with_context(|| format!("failed to become user {uid}"))
}

fn accept(listener: &TcpListener, arguments: &ServeArgs) {
    let open = &AtomicUsize::new(0);
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            scope.spawn(move || {
                // A caller that goes away is its own affair.
                drop(answer(&stream, arguments));
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
}

fn answer(stream: &TcpStream, arguments: &ServeArgs) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    match arguments.kind {
        Kind::Http => answer_http(stream, arguments),
        Kind::Lines => answer_lines(stream, arguments),
        Kind::Bytes => answer_bytes(stream),
        // It has no connections.
        Kind::Datagrams => Ok(()),
    }
}

fn answer_http(stream: &TcpStream, arguments: &ServeArgs) -> io::Result<()> {
    let mut reader = BufReader::new(stream.take(LINE_SIZE));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let host = &arguments.host;
    let (status, body) = match request.split(' ').nth(1) {
        Some("/") => ("200 OK", format!("hello from api on {host}\n")),
        Some("/orders") => match ask_db(arguments) {
            Ok(greeting) => ("200 OK", format!("api on {host} asked db, which said: {greeting}\n")),
            Err(error) => ("502 Bad Gateway", format!("api on {host} cannot ask db: {error}\n")),
        },
        Some(_) | None => ("404 Not Found", "there are / and /orders\n".to_owned()),
    };
    let length = body.len();
    write!(&*stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn ask_db(arguments: &ServeArgs) -> io::Result<String> {
    let mut stream = client::connect(arguments.resolver, &cast::dns_name("db"), 5432)?;
    client::read_line(&mut stream)
}

fn answer_lines(mut stream: &TcpStream, arguments: &ServeArgs) -> io::Result<()> {
    writeln!(stream, "db on {} is ready", arguments.host)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(LINE_SIZE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        stream.write_all(line.as_bytes())?;
    }
}

fn answer_bytes(mut stream: &TcpStream) -> io::Result<()> {
    let wanted = client::read_line(&mut stream)?.parse::<u64>();
    let wanted = wanted.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    io::copy(&mut io::repeat(b'.').take(wanted), &mut stream).map(|_| ())
}
