//! What a packet from an interface is, before anything is decided about it.
//!
//! [`parse`] reads the addresses and ports of one whole IP packet and names the reason for which it refuses one:
//! nothing that hides its ports (fragments, IPv6 extension headers) comes further than this.

pub mod checksum;
pub mod craft;
mod fragment;
mod icmp;

pub use fragment::Halves;
pub use icmp::IcmpError;

use ripstop_config::Reason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IP protocol numbers (IANA).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;

/// A packet as it came from the workload: source is the workload's side, destination the fabric's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'p> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it carries.
    pub payload: Payload<'p>,
    /// The whole packet, IP header first.
    pub bytes: &'p [u8],
}

/// What a [`Packet`] carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'p> {
    /// A TCP segment (RFC 9293 section 3.1).
    Tcp(Segment),
    /// A UDP datagram (RFC 768).
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The data.
        data: &'p [u8],
    },
    /// An ICMP or ICMPv6 echo request (RFC 792, RFC 4443 section 4.1), from its type on.
    EchoRequest(&'p [u8]),
    /// An ICMP or ICMPv6 error about a datagram that the workload was sent.
    IcmpError(IcmpError),
    /// Any other ICMP or ICMPv6 message.
    OtherIcmp,
}

/// The fields of a TCP header that decide what becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// SYN is set.
    pub syn: bool,
    /// ACK is set.
    pub ack: bool,
    /// FIN is set.
    pub fin: bool,
    /// RST is set.
    pub rst: bool,
    /// Bytes of data.
    pub length: u32,
}

/// The two ends of a flow as the workload sees them: its own and the fabric's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The workload's address and port.
    pub workload: SocketAddr,
    /// The address and port on the fabric's side.
    pub fabric: SocketAddr,
}

impl Packet<'_> {
    /// The flow that a TCP segment of this packet belongs to.
    #[must_use]
    pub fn flow(&self, segment: &Segment) -> FlowKey {
        self.flow_of(segment.source, segment.destination)
    }

    /// The flow of this packet, by its ports.
    #[must_use]
    pub fn flow_of(&self, source: u16, destination: u16) -> FlowKey {
        FlowKey {
            workload: SocketAddr::new(self.source, source),
            fabric: SocketAddr::new(self.destination, destination),
        }
    }
}

impl Packet<'_> {
    /// The packet without the data of its TCP segment, for keeping: nothing but the headers of a SYN counts before the
    /// connection stands. Checksums are left as they were.
    #[must_use]
    pub fn without_data(&self, segment: &Segment) -> Vec<u8> {
        let length = self.bytes.len().saturating_sub(segment.length as usize);
        let mut bytes = self.bytes[..length].to_vec();
        let (at, counted) = if self.source.is_ipv4() { (2, length) } else { (4, length.saturating_sub(40)) };
        // No packet is longer than its 16-bit length says.
        let counted = u16::try_from(counted).unwrap_or(u16::MAX).to_be_bytes();
        bytes[at..at + 2].copy_from_slice(&counted);
        bytes
    }
}

/// Reads one IP packet.
///
/// # Errors
/// The [`Reason`] for which the packet is to be dropped and counted.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Reason> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes),
        Some(6) => parse_v6(bytes),
        _ => Err(Reason::Malformed),
    }
}

fn parse_v4(bytes: &[u8]) -> Result<Packet<'_>, Reason> {
    let header = bytes.first_chunk::<20>().ok_or(Reason::Malformed)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < 20 || total < header_len || total > bytes.len() {
        return Err(Reason::Malformed);
    }
    // More-fragments flag or an offset (RFC 791 section 3.1): the ports may be in another fragment.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(Reason::Fragment);
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    if destination.is_multicast() || destination.is_broadcast() {
        return Err(Reason::Multicast);
    }
    if destination.is_loopback() || source.is_loopback() {
        return Err(Reason::Loopback);
    }
    let bytes = &bytes[..total];
    let payload = match header[9] {
        ICMP => parse_icmp(&bytes[header_len..], true)?,
        protocol => parse_transport(protocol, &bytes[header_len..])?,
    };
    Ok(Packet { source: source.into(), destination: destination.into(), payload, bytes })
}

fn parse_v6(bytes: &[u8]) -> Result<Packet<'_>, Reason> {
    let header = bytes.first_chunk::<40>().ok_or(Reason::Malformed)?;
    let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if total > bytes.len() {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let (source, destination) = (address(8), address(24));
    if destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if destination.is_loopback() || source.is_loopback() {
        return Err(Reason::Loopback);
    }
    // A mapped address on the wire (RFC 4291 section 2.5.5.2) would be a second spelling of an IPv4 identity.
    if destination.to_ipv4_mapped().is_some() || source.to_ipv4_mapped().is_some() {
        return Err(Reason::SpoofedSource);
    }
    let bytes = &bytes[..total];
    let payload = match header[6] {
        ICMPV6 => parse_icmp(&bytes[40..], false)?,
        44 => return Err(Reason::Fragment),
        // Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP, shim6 (RFC 8200 section 4, IANA).
        0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 => return Err(Reason::ExtensionHeader),
        protocol => parse_transport(protocol, &bytes[40..])?,
    };
    Ok(Packet { source: source.into(), destination: destination.into(), payload, bytes })
}

fn parse_transport(protocol: u8, data: &[u8]) -> Result<Payload<'_>, Reason> {
    match protocol {
        TCP => parse_tcp(data),
        UDP => parse_udp(data),
        _ => Err(Reason::UnknownProtocol),
    }
}

fn parse_tcp(data: &[u8]) -> Result<Payload<'_>, Reason> {
    let header = data.first_chunk::<20>().ok_or(Reason::Malformed)?;
    let offset = usize::from(header[12] >> 4) * 4;
    if offset < 20 || offset > data.len() {
        return Err(Reason::Malformed);
    }
    let flags = header[13];
    Ok(Payload::Tcp(Segment {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
        sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        acknowledgement: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        fin: flags & 0x01 != 0,
        syn: flags & 0x02 != 0,
        rst: flags & 0x04 != 0,
        ack: flags & 0x10 != 0,
        // A packet is at most 65 575 bytes, so this cannot truncate.
        length: u32::try_from(data.len() - offset).unwrap_or(u32::MAX),
    }))
}

fn parse_udp(data: &[u8]) -> Result<Payload<'_>, Reason> {
    let header = data.first_chunk::<8>().ok_or(Reason::Malformed)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if length < 8 || length > data.len() {
        return Err(Reason::Malformed);
    }
    Ok(Payload::Udp {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
        data: &data[8..length],
    })
}

fn parse_icmp(data: &[u8], v4: bool) -> Result<Payload<'_>, Reason> {
    let header = data.first_chunk::<8>().ok_or(Reason::Malformed)?;
    let echo_request = if v4 { 8 } else { 128 };
    if header[0] == echo_request && header[1] == 0 {
        return Ok(Payload::EchoRequest(data));
    }
    Ok(icmp::error(data, v4).map_or(Payload::OtherIcmp, Payload::IcmpError))
}

/// Length of the IP header of a packet that came through [`parse`], which takes no extension headers.
pub(crate) fn ip_header(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    Some(if first >> 4 == 4 { usize::from(first & 0x0f) * 4 } else { 40 })
}

#[cfg(test)]
mod tests;
