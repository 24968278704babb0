//! ICMP errors about datagrams that were sent to a workload.

use super::{FlowKey, UDP};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a workload's kernel says of a datagram that it was sent (RFC 792, RFC 4443 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// The flow of the datagram that it quotes, as the workload sees it.
    pub flow: FlowKey,
    /// The port is closed; else the address cannot be had at all.
    pub port: bool,
}

/// Reads an ICMP or ICMPv6 message from its type on; `None` when it is none that says of a UDP datagram that its
/// destination cannot be had.
pub(super) fn error(message: &[u8], v4: bool) -> Option<IcmpError> {
    let port = match (v4, *message.first()?, *message.get(1)?) {
        (true, 3, 3) | (false, 1, 4) => true,
        // "Fragmentation needed" (code 4) says that a packet was too long, not that nobody is there.
        (true, 3, 4) => return None,
        (true, 3, _) | (false, 1, _) => false,
        _ => return None,
    };
    let quoted = message.get(8..)?;
    let (source, destination, udp) = if v4 { quoted_v4(quoted)? } else { quoted_v6(quoted)? };
    let [a, b, c, d] = *udp.first_chunk::<4>()?;
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    // The quoted datagram went to the workload, so its destination is the workload's side.
    let flow = FlowKey { workload: SocketAddr::new(destination, to), fabric: SocketAddr::new(source, from) };
    Some(IcmpError { flow, port })
}

type Quoted<'p> = (IpAddr, IpAddr, &'p [u8]);

fn quoted_v4(packet: &[u8]) -> Option<Quoted<'_>> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let first_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    if header[0] >> 4 != 4 || length < 20 || !first_fragment || header[9] != UDP {
        return None;
    }
    let source: [u8; 4] = header[12..16].try_into().ok()?;
    let destination: [u8; 4] = header[16..20].try_into().ok()?;
    Some((Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into(), packet.get(length..)?))
}

fn quoted_v6(packet: &[u8]) -> Option<Quoted<'_>> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 || header[6] != UDP {
        return None;
    }
    let source: [u8; 16] = header[8..24].try_into().ok()?;
    let destination: [u8; 16] = header[24..40].try_into().ok()?;
    Some((Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), &packet[40..]))
}
