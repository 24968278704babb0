//! What the demo asks without a connection: a datagram, and echo requests.

use super::{
    acts::{Stage, millis},
    cast, client, dns,
    screen::Line,
};
use anyhow::{Context, ensure};
use ripstop_config::Reason;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Bytes of the datagram: more than a packet of any path between hosts has room for.
const DATAGRAM: usize = 9_000;
/// Echo requests, one after the other.
const PINGS: u16 = 3;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Types of ICMP messages (RFC 792).
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;

/// A datagram that fits no packet, and its answer.
pub(super) fn datagram(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    stage.alpha.skip();
    let (resolver, name) = (stage.world.resolver, cast::dns_name("meter"));
    let (answer, took) = client::as_workload("web", || {
        let started = Instant::now();
        let address = dns::resolve(resolver, &name)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((address, cast::METER_PORT))?;
        socket.send(&[b'.'; DATAGRAM])?;
        let mut answer = [0; 256];
        let length = socket.recv(&mut answer)?;
        Ok((String::from_utf8_lossy(&answer[..length]).into_owned(), started.elapsed()))
    })?;
    ensure!(answer == format!("meter on gamma got {DATAGRAM} bytes"), "the answer is: {answer}");
    // The record is written when the session has been silent for the second that the graph gives it.
    let record = stage.alpha.wait("web", "meter")?;
    ensure!(record.verdict == "allow" && record.reason == Reason::Idle.as_str(), "its record says {}", record.reason);
    let port = cast::METER_PORT;
    let what =
        format!("web → {name}:{port}/udp  a datagram of {DATAGRAM} bytes, answered \"{answer}\" in {}", millis(took));
    Ok(vec![Line { label: "udp", what, why: format!("{}, {} after a second", record.describe(), record.reason) }])
}

/// Pings to a service, by who may call it and by who may not.
pub(super) fn ping(stage: &mut Stage<'_>) -> anyhow::Result<Vec<Line>> {
    let (resolver, name) = (stage.world.resolver, cast::dns_name("api"));
    let (address, times) = client::as_workload("web", || {
        let address = dns::resolve(resolver, &name)?;
        let times = (1..=PINGS).map(|number| echo(address, number)).collect::<io::Result<Vec<_>>>()?;
        Ok((address, times))
    })?;
    let answered: Option<Vec<Duration>> = times.into_iter().collect();
    let least = answered.context("an echo request of web was refused")?.into_iter().min().unwrap_or_default();
    let refused = client::as_workload("batch", || echo(address, 1))?;
    ensure!(refused.is_none(), "batch, which has no edge to api, was answered");
    let what = format!("web → {name}  {PINGS} of {PINGS} answered, the fastest in {}", millis(least));
    let why = format!("after a round trip to an endpoint's host; batch is told: {}", Reason::NoEdge.describe());
    Ok(vec![Line { label: "ping", what, why }])
}

/// One echo request: the time to its reply, or nothing when it was refused.
fn echo(to: Ipv4Addr, number: u16) -> io::Result<Option<Duration>> {
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SocketAddr::from((to, 0)).into())?;
    let started = Instant::now();
    socket.send(&request(number))?;
    let mut packet = [0; 1_024];
    loop {
        let length = match socket.read(&mut packet) {
            // The kernel tells a connected socket in this way that it is prohibited.
            Err(error) if error.kind() == io::ErrorKind::HostUnreachable => return Ok(None),
            read => read?,
        };
        // Raw sockets of IPv4 give the IP header, too; the agent's has no options.
        match packet[..length].get(20..28) {
            Some([UNREACHABLE, ..]) => return Ok(None),
            Some([ECHO_REPLY, _, _, _, _, _, high, low]) if [*high, *low] == number.to_be_bytes() => {
                return Ok(Some(started.elapsed()));
            }
            Some(_) | None => {}
        }
    }
}

/// An echo request with an empty payload.
fn request(number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    let sum = !(u16::from(ECHO_REQUEST) << 8).wrapping_add(number);
    let [first, second] = sum.to_be_bytes();
    [ECHO_REQUEST, 0, first, second, 0, 0, high, low]
}
