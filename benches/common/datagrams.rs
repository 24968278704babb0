//! Datagrams: how many a second arrive without loss.
//!
//! A run sends datagrams of [`SIZE`] bytes at a steady rate, each with the run's number, and then asks the receiver how many
//! of that run it has counted. [`Sending`] says how programs hand them to their kernel.

use super::{
    bed::COUNT_PORTS,
    load::ANSWER,
    search::{Attempt, search},
    way::Way,
};
use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendmsg, setsockopt, sockopt,
    },
};
use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Bytes of a datagram, as an application sends it.
pub const SIZE: usize = 1200;
/// Lost datagrams of a million that still count as none: a virtual machine is not scheduled for milliseconds now and then.
const LOST_PER_MILLION: u64 = 1000;
/// Datagrams in one system call, at both ends.
const BATCH: usize = 32;
/// Buffers of both sockets: what 1 Gbit/s brings in 60 ms, so that what is lost was not lost by the application.
const BUFFER: usize = 8 << 20;
/// How long the sender sleeps when nothing is due.
const TICK: Duration = Duration::from_micros(50);
/// How far the sender may lag behind and still catch up; what it missed before that is not sent at once.
const LAG: Duration = Duration::from_millis(1);
/// How long datagrams may be under way after the last was sent.
const LATE: Duration = Duration::from_millis(100);
/// The longest wait for one answer of the receiver, and how often it is asked.
const ASK: Duration = Duration::from_millis(250);
const ASKED: u32 = 20;
/// Bytes of a run's number, and of the receiver's count behind it.
const NUMBER: usize = 8;
/// The longest that a kernel hands over at once.
const LONGEST: usize = 65_535;

/// How programs hand datagrams to their kernel, and take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Each alone, though many in one system call: what DNS, VoIP, games and media do.
    Alone,
    /// Many as one, by `UDP_SEGMENT` and `UDP_GRO`: what QUIC stacks do.
    Together,
}

impl Sending {
    fn port(self) -> u16 {
        match self {
            Self::Alone => COUNT_PORTS[0],
            Self::Together => COUNT_PORTS[1],
        }
    }
}

/// Counts the datagrams of the newest run, and answers who asks: a datagram that holds a run's number alone.
pub fn count(address: IpAddr) -> anyhow::Result<()> {
    let together = thread::spawn(move || count_of(address, Sending::Together));
    count_of(address, Sending::Alone)?;
    together.join().unwrap_or_else(|_| bail!("the counting of datagrams that come together panicked"))
}

fn count_of(address: IpAddr, sending: Sending) -> anyhow::Result<()> {
    let port = sending.port();
    let socket = UdpSocket::bind((address, port)).with_context(|| format!("failed to bind {port}/udp"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    if sending == Sending::Together {
        setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    }
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut buffers = vec![vec![0; LONGEST]; BATCH];
    let (mut newest, mut counted) = (0, 0_u64);
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
        let from: Vec<_> = received.map(|one| (one.bytes, one.address)).collect();
        for ((length, asker), buffer) in from.into_iter().zip(&buffers) {
            // Who asks may be behind datagrams of its run, which are longer.
            let (whole, rest) = (length / SIZE, &buffer[length / SIZE * SIZE..length]);
            let run = number(if whole > 0 { buffer } else { rest });
            if run > newest {
                (newest, counted) = (run, 0);
            }
            if run == newest {
                counted += whole as u64;
            }
            if rest.len() == NUMBER {
                answer(&socket, asker, number(rest), if number(rest) == newest { counted } else { 0 });
            }
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first: &[u8; NUMBER]| u64::from_be_bytes(*first))
}

/// One that is lost is asked for again.
fn answer(socket: &UdpSocket, asker: Option<SockaddrStorage>, run: u64, counted: u64) {
    let Some(asker) = asker.as_ref().and_then(SockaddrStorage::as_sockaddr_in) else { return };
    let text = [run.to_be_bytes(), counted.to_be_bytes()].concat();
    drop(socket.send_to(&text, SocketAddr::from((asker.ip(), asker.port()))));
}

/// The highest rate without loss, in Mbit/s of payload that arrived, by bisection; each rate is tried for `length`.
pub fn without_loss(way: &Way, sending: Sending, length: Duration) -> anyhow::Result<f64> {
    let to = way.target(sending.port());
    let rate = way.client.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(ASK))?;
        socket.set_write_timeout(Some(ANSWER))?;
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
        // The first asks for a run that was not, so that the session is open before anything counts.
        arrived(&socket, new_run())?;
        search(|rate| attempt(&socket, sending, rate, length))
    })?;
    Ok(rate * (SIZE * 8) as f64 / 1e6)
}

/// Runs are numbered by the clock, so that a newer one has a higher number whoever sends it.
fn new_run() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn attempt(socket: &UdpSocket, sending: Sending, rate: f64, length: Duration) -> anyhow::Result<Attempt> {
    let run = new_run();
    let start = Instant::now();
    let sent = send(socket, run, sending, rate, length)?;
    let elapsed = start.elapsed().as_secs_f64();
    thread::sleep(LATE);
    let arrived = arrived(socket, run)?;
    let clean = sent.saturating_sub(arrived) * 1_000_000 <= sent * LOST_PER_MILLION;
    Ok(Attempt { rate: arrived as f64 / elapsed, clean })
}

fn send(socket: &UdpSocket, run: u64, sending: Sending, rate: f64, length: Duration) -> anyhow::Result<u64> {
    let mut datagram = [0; SIZE];
    datagram[..NUMBER].copy_from_slice(&run.to_be_bytes());
    let mut batch = Batch::new(socket, &datagram);
    let (start, mut sent, mut forgiven) = (Instant::now(), 0_u64, Duration::ZERO);
    while start.elapsed() < length {
        let due = ((start.elapsed() - forgiven).as_secs_f64() * rate) as u64;
        let late = due.saturating_sub(sent);
        if late == 0 {
            thread::sleep(TICK);
            continue;
        }
        forgiven += Duration::from_secs_f64(late as f64 / rate).saturating_sub(LAG);
        let count = usize::try_from(late).unwrap_or(BATCH).min(BATCH);
        let went = match sending {
            Sending::Alone => batch.alone(count),
            Sending::Together => batch.together(count),
        };
        match went {
            Ok(count) => sent += count as u64,
            // The first one was dropped on its way out, and is a loss.
            Err(Errno::ENOBUFS | Errno::EPERM) => sent += 1,
            Err(error) => return Err(error).context("failed to send datagrams"),
        }
    }
    Ok(sent)
}

/// The same datagram many times, ready to be sent.
struct Batch<'d> {
    socket: i32,
    slices: [[IoSlice<'d>; 1]; BATCH],
    headers: MultiHeaders<SockaddrStorage>,
}

impl<'d> Batch<'d> {
    fn new(socket: &UdpSocket, datagram: &'d [u8; SIZE]) -> Self {
        let slices = [[IoSlice::new(datagram)]; BATCH];
        Self { socket: socket.as_raw_fd(), slices, headers: MultiHeaders::preallocate(BATCH, None) }
    }

    /// Sends so many, and says how many of them went.
    fn alone(&mut self, count: usize) -> Result<usize, Errno> {
        let addresses = [None::<SockaddrStorage>; BATCH];
        let all = sendmmsg(
            self.socket,
            &mut self.headers,
            &self.slices[..count],
            &addresses[..count],
            [],
            MsgFlags::empty(),
        )?;
        Ok(all.count())
    }

    fn together(&self, count: usize) -> Result<usize, Errno> {
        let slices: Vec<_> = self.slices[..count].iter().map(|[one]| *one).collect();
        let each = u16::try_from(SIZE).map_err(|_| Errno::EMSGSIZE)?;
        let cut = [ControlMessage::UdpGsoSegments(&each)];
        let bytes = sendmsg::<()>(self.socket, &slices, &cut, MsgFlags::empty(), None)?;
        Ok(bytes / SIZE)
    }
}

fn arrived(socket: &UdpSocket, run: u64) -> anyhow::Result<u64> {
    let mut answer = [0; 2 * NUMBER];
    for _ in 0..ASKED {
        // An error of an earlier datagram, or none at all, says nothing of this one.
        drop(socket.send(&run.to_be_bytes()));
        while let Ok(length) = socket.recv(&mut answer) {
            if length == answer.len() && number(&answer) == run {
                return Ok(number(&answer[NUMBER..]));
            }
        }
    }
    bail!("the receiver did not say what arrived, asked {ASKED} times")
}
