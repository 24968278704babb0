//! Packets and messages as a workload's kernel and resolver write them.

use ripstop_datapath::packet::TCP;
use std::net::{Ipv4Addr, SocketAddrV4};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// Type A (RFC 1035 section 3.2.2), and SRV (RFC 2782).
pub(crate) const A: u16 = 1;
pub(crate) const SRV: u16 = 33;

/// A TCP segment over IPv4. Checksums are left out, as by a kernel with offload.
pub(crate) struct Segment<'s> {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) options: &'s [u8],
    pub(crate) data: &'s [u8],
}

/// Where the sequence number and the acknowledgement lie in the packet of a segment.
pub(crate) const SEQUENCE: usize = 24;
pub(crate) const ACKNOWLEDGEMENT: usize = 28;

impl Segment<'_> {
    pub(crate) fn packet(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let total = u16::try_from(20 + header + self.data.len()).unwrap().to_be_bytes();
        let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, TCP, 0, 0];
        packet.extend_from_slice(&self.from.ip().octets());
        packet.extend_from_slice(&self.to.ip().octets());
        packet.extend_from_slice(&self.from.port().to_be_bytes());
        packet.extend_from_slice(&self.to.port().to_be_bytes());
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&self.acknowledgement.to_be_bytes());
        packet.extend_from_slice(&[u8::try_from(header / 4).unwrap() << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend_from_slice(self.options);
        packet.extend_from_slice(self.data);
        packet
    }
}

/// Writes another number into a packet.
pub(crate) fn renumber(packet: &mut [u8], at: usize, number: u32) {
    packet[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

/// A query as stub resolvers send it: recursion desired, one question, an OPT record with room for 1232 bytes (RFC 6891).
pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1, 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    query
}

/// A UDP port of an address.
pub(crate) fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}
