//! Packets that the agent itself answers with: resets, ICMP errors, echo replies and datagrams. Checksums are complete.

use super::{FlowKey, Packet, Segment, TCP, UDP, checksum};
use std::net::{IpAddr, SocketAddr};

/// Hop limit of packets that the agent makes: the common default (RFC 1700, "IP time to live").
const HOP_LIMIT: u8 = 64;
/// Longest IP and UDP headers: those of IPv6.
pub(crate) const HEADERS_MAX: usize = 48;
/// How much of the offending packet an ICMP error quotes: within the 576 bytes that every IPv4 host takes (RFC 1812
/// section 4.3.2.3), and enough for any TCP header.
const QUOTE: usize = 512;

/// Why a destination cannot be had, as ICMP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// The host is out of reach; connect(2) gives `EHOSTUNREACH`.
    Host,
    /// The port is closed; a UDP socket gets `ECONNREFUSED`.
    Port,
    /// An administrator forbids it; connect(2) gives `EHOSTUNREACH` (IPv4) or `EACCES` (IPv6).
    Prohibited,
}

/// A reset that refuses or ends the connection a segment belongs to (RFC 9293 section 3.10.7.1). The caller makes sure
/// that the segment is not a reset itself.
#[must_use]
pub fn reset(packet: &Packet<'_>, segment: &Segment) -> Vec<u8> {
    let consumed = segment.length + u32::from(segment.syn) + u32::from(segment.fin);
    let (sequence, acknowledgement, flags) = if segment.ack {
        (segment.acknowledgement, 0, 0x04)
    } else {
        (0, segment.sequence.wrapping_add(consumed), 0x14)
    };
    let fabric = SocketAddr::new(packet.destination, segment.destination);
    let workload = SocketAddr::new(packet.source, segment.source);
    bare(&FlowKey { workload, fabric }, sequence, acknowledgement, flags)
}

/// A segment of an open connection that says nothing, with a number that the workload does not expect: its kernel answers with
/// what it does expect (RFC 9293 section 3.10.7.4), or with a reset if it has no such connection.
#[must_use]
pub fn question(flow: &FlowKey) -> Vec<u8> {
    bare(flow, 0, 0, 0x10)
}

/// A TCP header toward the workload without options, data or window.
fn bare(flow: &FlowKey, sequence: u32, acknowledgement: u32, flags: u8) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend_from_slice(&flow.fabric.port().to_be_bytes());
    tcp.extend_from_slice(&flow.workload.port().to_be_bytes());
    tcp.extend_from_slice(&sequence.to_be_bytes());
    tcp.extend_from_slice(&acknowledgement.to_be_bytes());
    tcp.extend_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    transport(flow.fabric.ip(), flow.workload.ip(), TCP, tcp, 16)
}

/// A UDP datagram. `data` is at most 65 507 bytes (IPv4); longer data is the caller's mistake and is cut.
#[must_use]
pub fn datagram(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let data = &data[..data.len().min(65_507)];
    let mut udp = Vec::with_capacity(8 + data.len());
    udp.extend_from_slice(&source.port().to_be_bytes());
    udp.extend_from_slice(&destination.port().to_be_bytes());
    udp.extend_from_slice(&length16(8 + data.len()).to_be_bytes());
    udp.extend_from_slice(&[0, 0]);
    udp.extend_from_slice(data);
    transport(source.ip(), destination.ip(), UDP, udp, 6)
}

/// The reply to an echo request (RFC 792, RFC 4443 section 4.2); `echo` is the request from its type on.
#[must_use]
pub fn echo_reply(packet: &Packet<'_>, echo: &[u8]) -> Vec<u8> {
    let mut message = echo.to_vec();
    message[0] = if packet.source.is_ipv4() { 0 } else { 129 };
    icmp(packet.destination, packet.source, message)
}

/// An ICMP error about a packet of the workload (RFC 792, RFC 4443 section 3.1), from the packet's destination.
#[must_use]
pub fn unreachable(packet: &Packet<'_>, why: Unreachable) -> Vec<u8> {
    error(packet.source, packet.destination, packet.bytes, why)
}

/// The same about a datagram that is not at hand any more: the last that the workload sent on a flow, with `length` bytes
/// of data. Its headers are quoted, by which the workload's kernel finds the socket.
#[must_use]
pub fn unreachable_flow(flow: &FlowKey, length: usize, why: Unreachable) -> Vec<u8> {
    let head = DatagramHead::new(flow.workload, flow.fabric, length);
    error(flow.workload.ip(), flow.fabric.ip(), head.bytes(), why)
}

fn error(source: IpAddr, destination: IpAddr, quoted: &[u8], why: Unreachable) -> Vec<u8> {
    let (kind, code) = match (source.is_ipv4(), why) {
        (true, Unreachable::Host) => (3, 1),
        (true, Unreachable::Port) => (3, 3),
        (true, Unreachable::Prohibited) => (3, 13),
        (false, Unreachable::Host) => (1, 3),
        (false, Unreachable::Port) => (1, 4),
        (false, Unreachable::Prohibited) => (1, 1),
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&quoted[..quoted.len().min(QUOTE)]);
    icmp(destination, source, message)
}

/// The IP and UDP headers of a datagram.
#[derive(Debug, Clone, Copy)]
pub struct DatagramHead {
    bytes: [u8; HEADERS_MAX],
    ip: usize,
}

impl DatagramHead {
    /// The headers before `length` bytes of data, at most 65 507. In the place of the UDP checksum is the sum of the
    /// pseudo-header: who takes the packet completes it, or trusts it as it comes from the same machine.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, length: usize) -> Self {
        let mut bytes = [0; HEADERS_MAX];
        let counted = length16(8 + length);
        let ip = ip_header(&mut bytes, source.ip(), destination.ip(), UDP, 8 + length);
        let sum = checksum::pseudo_header(source.ip(), destination.ip(), UDP, counted.into());
        bytes[ip..ip + 2].copy_from_slice(&source.port().to_be_bytes());
        bytes[ip + 2..ip + 4].copy_from_slice(&destination.port().to_be_bytes());
        bytes[ip + 4..ip + 6].copy_from_slice(&counted.to_be_bytes());
        bytes[ip + 6..ip + 8].copy_from_slice(&checksum::fold(sum).to_be_bytes());
        Self { bytes, ip }
    }

    /// Both headers.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.ip + 8]
    }

    /// Length of the IP header: where the UDP header starts.
    #[must_use]
    pub fn ip_length(&self) -> usize {
        self.ip
    }
}

fn icmp(source: IpAddr, destination: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].fill(0);
    if source.is_ipv6() {
        return transport(source, destination, super::ICMPV6, message, 2);
    }
    // ICMP for IPv4 has no pseudo-header (RFC 792).
    let sum = !checksum::fold(checksum::add(0, &message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, super::ICMP, &message)
}

fn transport(source: IpAddr, destination: IpAddr, protocol: u8, mut data: Vec<u8>, at: usize) -> Vec<u8> {
    let length = u32::from(length16(data.len()));
    let sum = checksum::add(checksum::pseudo_header(source, destination, protocol, length), &data);
    let sum = match !checksum::fold(sum) {
        // Zero means "no checksum" in UDP (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, protocol, &data)
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, data: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADERS_MAX];
    let length = ip_header(&mut header, source, destination, protocol, data.len());
    let mut packet = Vec::with_capacity(length + data.len());
    packet.extend_from_slice(&header[..length]);
    packet.extend_from_slice(data);
    packet
}

/// Writes the IP header of a packet that carries `length` bytes; returns its own length.
pub(crate) fn ip_header(
    into: &mut [u8; HEADERS_MAX],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    length: usize,
) -> usize {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = length16(20 + length).to_be_bytes();
            // Version and length, DSCP, total length, identification 0, don't fragment, hop limit, protocol.
            into[..12].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
            into[12..16].copy_from_slice(&source.octets());
            into[16..20].copy_from_slice(&destination.octets());
            let sum = !checksum::fold(checksum::add(0, &into[..20]));
            into[10..12].copy_from_slice(&sum.to_be_bytes());
            20
        }
        (source, destination) => {
            let length = length16(length).to_be_bytes();
            into[..8].copy_from_slice(&[0x60, 0, 0, 0, length[0], length[1], protocol, HOP_LIMIT]);
            into[8..24].copy_from_slice(&octets(source));
            into[24..40].copy_from_slice(&octets(destination));
            40
        }
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn length16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
