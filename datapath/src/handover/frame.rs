//! The messages of data threads. Pure.
//!
//! ```text
//! 1  interface(2)  packet                                     a packet of the other agent's
//! 2  ecn(1) stride(2) from(23) to(17)  datagrams              QUIC datagrams of the other agent's
//! 3  interface(2)  open(1) udp(1) workload(23) fabric(23)     the first agent has this flow, or has it no more
//! 4  interface(2)                                             the second agent let go of the interface
//! ```
//! Addresses are their family, 16 bytes, and with a port two bytes of it and four of an IPv6 scope.

use crate::packet::FlowKey;
use ripstop_config::Protocol;
use ripstop_transport::Datagrams;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const PACKET: u8 = 1;
const DATAGRAMS: u8 = 2;
const FLOW: u8 = 3;
const GONE: u8 = 4;
const V4: u8 = 4;
const V6: u8 = 6;
/// In the place of an address that is not known.
const NONE: u8 = 0;

/// A flow of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its ends.
    pub key: FlowKey,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'f> {
    /// A packet that came from an interface, of a flow of the other agent's.
    Packet {
        /// Which interface.
        interface: u16,
        /// Bytes of each datagram but the last, where the packet holds the data of several; else 0.
        datagram: u16,
        /// The packet, IP header first.
        bytes: &'f [u8],
    },
    /// Datagrams of a QUIC connection of the other agent's.
    Datagrams(Datagrams<'f>),
    /// The agent that hands over has a flow, or has it no more.
    Flow {
        /// Of which interface.
        interface: u16,
        /// Which.
        flow: Flow,
        /// It has it.
        open: bool,
    },
    /// The agent that took over has let go of an interface.
    Gone {
        /// Which.
        interface: u16,
    },
}

impl<'f> Frame<'f> {
    /// The message in two parts, one after the other.
    #[must_use]
    pub fn parts(&self) -> (Vec<u8>, &'f [u8]) {
        match self {
            Self::Packet { interface, datagram, bytes } => {
                let mut into = head(PACKET, *interface);
                into.extend(datagram.to_be_bytes());
                (into, bytes)
            }
            Self::Datagrams(datagrams) => {
                let mut into = vec![DATAGRAMS, datagrams.ecn];
                // No datagram is longer.
                into.extend(u16::try_from(datagrams.stride).unwrap_or(u16::MAX).to_be_bytes());
                put_socket(&mut into, datagrams.from);
                put_ip(&mut into, datagrams.to);
                (into, datagrams.bytes)
            }
            Self::Flow { interface, flow, open } => {
                let mut into = head(FLOW, *interface);
                into.extend([u8::from(*open), u8::from(flow.protocol == Protocol::Udp)]);
                put_socket(&mut into, flow.key.workload);
                put_socket(&mut into, flow.key.fabric);
                (into, &[])
            }
            Self::Gone { interface } => (head(GONE, *interface), &[]),
        }
    }

    /// Reads a message; `None` when it is none.
    #[must_use]
    pub fn parse(message: &'f [u8]) -> Option<Self> {
        let mut reader = Reader(message);
        match reader.byte()? {
            PACKET => {
                let (interface, datagram) = (reader.two()?, reader.two()?);
                Some(Self::Packet { interface, datagram, bytes: reader.0 })
            }
            DATAGRAMS => {
                let (ecn, stride) = (reader.byte()?, usize::from(reader.two()?));
                let (from, to) = (reader.socket()?, reader.ip()?);
                Some(Self::Datagrams(Datagrams { from, to, ecn, stride, bytes: reader.0 }))
            }
            FLOW => {
                let (interface, open, udp) = (reader.two()?, reader.byte()? == 1, reader.byte()? == 1);
                let key = FlowKey { workload: reader.socket()?, fabric: reader.socket()? };
                let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                Some(Self::Flow { interface, flow: Flow { protocol, key }, open })
            }
            GONE => Some(Self::Gone { interface: reader.two()? }),
            _ => None,
        }
    }
}

fn head(kind: u8, interface: u16) -> Vec<u8> {
    let [high, low] = interface.to_be_bytes();
    vec![kind, high, low]
}

fn put_ip(into: &mut Vec<u8>, address: Option<IpAddr>) {
    let (family, octets) = match address {
        Some(IpAddr::V4(address)) => (V4, address.to_ipv6_mapped().octets()),
        Some(IpAddr::V6(address)) => (V6, address.octets()),
        None => (NONE, [0; 16]),
    };
    into.push(family);
    into.extend(octets);
}

fn put_socket(into: &mut Vec<u8>, address: SocketAddr) {
    let scope = match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    put_ip(into, Some(address.ip()));
    into.extend(address.port().to_be_bytes());
    into.extend(scope.to_be_bytes());
}

struct Reader<'f>(&'f [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn two(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn ip(&mut self) -> Option<Option<IpAddr>> {
        let (family, octets) = (self.byte()?, self.take::<16>()?);
        let [.., a, b, c, d] = octets;
        match family {
            V4 => Some(Some(Ipv4Addr::new(a, b, c, d).into())),
            V6 => Some(Some(Ipv6Addr::from(octets).into())),
            NONE => Some(None),
            _ => None,
        }
    }

    fn socket(&mut self) -> Option<SocketAddr> {
        let (ip, port, scope) = (self.ip()??, self.two()?, u32::from_be_bytes(self.take()?));
        Some(match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(frame: &Frame<'_>) -> Vec<u8> {
        let (head, tail) = frame.parts();
        [&head, tail].concat()
    }

    #[test]
    fn every_message_comes_through() {
        let v4 = FlowKey { workload: "198.19.0.1:4000".parse().unwrap(), fabric: "198.18.0.3:80".parse().unwrap() };
        let v6 = FlowKey { workload: "[fd00::1]:4000".parse().unwrap(), fabric: "[fd00::2]:80".parse().unwrap() };
        let from = "[::ffff:192.0.2.1]:7477".parse().unwrap();
        let link = SocketAddrV6::new("fe80::1".parse().unwrap(), 7477, 0, 3).into();
        let datagrams = Datagrams { from, to: None, ecn: 2, stride: 1_452, bytes: b"packets" };
        let frames = [
            Frame::Packet { interface: 7, datagram: 0, bytes: b"packet" },
            Frame::Packet { interface: 7, datagram: 1_200, bytes: b"packets" },
            Frame::Datagrams(datagrams),
            Frame::Datagrams(Datagrams { from: link, to: Some("192.0.2.2".parse().unwrap()), ..datagrams }),
            Frame::Flow { interface: 4_095, flow: Flow { protocol: Protocol::Tcp, key: v4 }, open: true },
            Frame::Flow { interface: 0, flow: Flow { protocol: Protocol::Udp, key: v6 }, open: false },
            Frame::Gone { interface: 1 },
        ];
        for frame in frames {
            assert_eq!(Frame::parse(&whole(&frame)), Some(frame));
        }
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let key = FlowKey { workload: "198.19.0.1:4000".parse().unwrap(), fabric: "198.18.0.3:80".parse().unwrap() };
        let flow = Frame::Flow { interface: 1, flow: Flow { protocol: Protocol::Tcp, key }, open: true };
        let message = whole(&flow);
        assert!((0..message.len()).all(|length| Frame::parse(&message[..length]).is_none()));
        assert_eq!(Frame::parse(&[9, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(frame) = Frame::parse(&bytes) {
                let again = whole(&frame);
                prop_assert_eq!(Frame::parse(&again), Some(frame));
            }
        }
    }
}
