//! TCP segments as bytes (RFC 9293 section 3.1): those that come, read; the headers of those that go, written.

use super::{
    super::{
        device::MTU,
        virtio::{TCP_CHECKSUM, VNET_HEADER, needs_checksum},
    },
    seq::Seq,
};
use crate::packet::{TCP, checksum, craft, ip_header};
use std::net::SocketAddr;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// Length of a TCP header without options, and of the options of a SYN.
const HEADER: usize = 20;
const OPTIONS: usize = 8;
/// Longest IP and TCP headers.
const HEADERS_MAX: usize = 40 + HEADER + OPTIONS;
/// What a segment may hold of one that named no maximum (RFC 9293 section 3.7.1).
const MSS_DEFAULT: u16 = 536;
/// The largest shift of a window (RFC 7323 section 2.3).
const SCALE_MAX: u8 = 14;

/// A segment that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'p> {
    pub(super) sequence: Seq,
    /// Where it acknowledges anything.
    pub(super) acknowledgement: Option<Seq>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// As it stands in the header.
    pub(super) window: u16,
    pub(super) data: &'p [u8],
    options: &'p [u8],
}

/// What a SYN says of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Most bytes that a segment may hold.
    pub(super) mss: u16,
    /// The shift of its windows, if it takes any.
    pub(super) scale: Option<u8>,
}

impl<'p> Segment<'p> {
    /// Reads a packet that [`parse`](crate::packet::parse) found to be one segment.
    pub(super) fn read(packet: &'p [u8]) -> Option<Self> {
        let tcp = packet.get(ip_header(packet)?..)?;
        let &[_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, w0, w1, ..] = tcp.first_chunk::<HEADER>()?;
        let header = usize::from(offset >> 4) * 4;
        let has = |flag| flags & flag != 0;
        Some(Self {
            sequence: Seq(u32::from_be_bytes([s0, s1, s2, s3])),
            acknowledgement: has(ACK).then_some(Seq(u32::from_be_bytes([a0, a1, a2, a3]))),
            syn: has(SYN),
            fin: has(FIN),
            rst: has(RST),
            window: u16::from_be_bytes([w0, w1]),
            data: tcp.get(header..)?,
            options: tcp.get(HEADER..header)?,
        })
    }

    /// It says nothing but what it acknowledges, and the window.
    pub(super) fn is_bare(&self) -> bool {
        self.data.is_empty() && !self.fin && !self.syn
    }

    /// What its options offer, of a SYN (RFC 9293 section 3.1, RFC 7323 section 2.2). What cannot be read ends them.
    pub(super) fn offer(&self) -> Offer {
        let mut offer = Offer { mss: MSS_DEFAULT, scale: None };
        let mut rest = self.options;
        while let Some((option, others)) = next_option(rest) {
            match *option {
                [2, 4, high, low] => offer.mss = u16::from_be_bytes([high, low]),
                [3, 3, scale] => offer.scale = Some(scale.min(SCALE_MAX)),
                _ => {}
            }
            rest = others;
        }
        offer
    }
}

/// The first option, and what lies behind it; none at their end.
fn next_option(options: &[u8]) -> Option<(&[u8], &[u8])> {
    match *options.first()? {
        0 => None,
        1 => options.split_at_checked(1),
        _ => options.split_at_checked(usize::from(*options.get(1)?)).filter(|(option, _)| option.len() >= 2),
    }
}

/// What a segment says beside its data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub(super) flags: u8,
    pub(super) sequence: Seq,
    pub(super) acknowledgement: Seq,
    pub(super) window: u16,
}

/// The headers of a connection's segments, but for what changes from one to the next.
pub(super) struct Head {
    /// IP and TCP, without lengths and checksums.
    bytes: [u8; 60],
    /// Length of the IP header, and the sum of its words.
    ip: u8,
    ip_sum: u32,
    /// The sum of the pseudo-header.
    pseudo: u32,
}

/// Headers of one segment.
pub(super) struct Written {
    /// What the device wants in front: the kernel completes the checksum.
    pub(super) vnet: [u8; VNET_HEADER],
    bytes: [u8; HEADERS_MAX],
    length: usize,
}

impl Written {
    /// The IP and TCP headers.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Head {
    /// Of segments from one address to another.
    pub(super) fn new(from: SocketAddr, to: SocketAddr) -> Self {
        let mut bytes = [0; 60];
        let mut ip_bytes = [0; craft::HEADERS_MAX];
        let ip = craft::ip_header(&mut ip_bytes, from.ip(), to.ip(), TCP, 0);
        bytes[..ip].copy_from_slice(&ip_bytes[..ip]);
        if from.is_ipv4() {
            [2, 3, 10, 11].into_iter().for_each(|at| bytes[at] = 0);
        }
        let ip_sum = checksum::add(0, &bytes[..ip]);
        bytes[ip..ip + 2].copy_from_slice(&from.port().to_be_bytes());
        bytes[ip + 2..ip + 4].copy_from_slice(&to.port().to_be_bytes());
        let pseudo = checksum::pseudo_header(from.ip(), to.ip(), TCP, 0);
        // 20 or 40.
        Self { bytes, ip: u8::try_from(ip).unwrap_or(0), ip_sum, pseudo }
    }

    /// Most bytes that a segment without options may hold.
    pub(super) fn mss(&self) -> u16 {
        // 65 495 or 65 475.
        u16::try_from(MTU - usize::from(self.ip) - HEADER).unwrap_or(0)
    }

    /// The headers of a segment with so many bytes, at most [`mss`](Self::mss).
    pub(super) fn write(&self, fields: &Fields, length: usize) -> Written {
        self.write_all(fields, &[], length)
    }

    /// The headers of a SYN, which offers a window of this shift or none.
    pub(super) fn write_syn(&self, fields: &Fields, scale: Option<u8>) -> Written {
        let [high, low] = self.mss().to_be_bytes();
        match scale {
            Some(scale) => self.write_all(fields, &[2, 4, high, low, 1, 3, 3, scale], 0),
            None => self.write_all(fields, &[2, 4, high, low], 0),
        }
    }

    fn write_all(&self, fields: &Fields, options: &[u8], length: usize) -> Written {
        let ip = usize::from(self.ip);
        let header = HEADER + options.len();
        let mut bytes = [0; HEADERS_MAX];
        bytes[..60].copy_from_slice(&self.bytes);
        // No packet is longer than MTU, which is the longest that its 16 bits can say.
        let [total, tcp_length] =
            [ip + header + length, header + length].map(|length| u16::try_from(length).unwrap_or(u16::MAX));
        if ip == 20 {
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            let sum = !checksum::fold(self.ip_sum + u32::from(total));
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            bytes[4..6].copy_from_slice(&tcp_length.to_be_bytes());
        }
        let tcp = &mut bytes[ip..];
        tcp[4..8].copy_from_slice(&fields.sequence.0.to_be_bytes());
        tcp[8..12].copy_from_slice(&fields.acknowledgement.0.to_be_bytes());
        // 5 to 7 words.
        tcp[12] = u8::try_from(header / 4).unwrap_or(0) << 4;
        tcp[13] = fields.flags;
        tcp[14..16].copy_from_slice(&fields.window.to_be_bytes());
        // The kernel adds the rest.
        let sum = checksum::fold(self.pseudo + u32::from(tcp_length));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp[HEADER..header].copy_from_slice(options);
        Written { vnet: needs_checksum(self.ip.into(), TCP_CHECKSUM), bytes, length: ip + header }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Payload, parse};

    const FIELDS: Fields = Fields { flags: ACK | PSH, sequence: Seq(7), acknowledgement: Seq(9), window: 513 };

    fn heads() -> [Head; 2] {
        [("198.18.0.1:53", "198.19.0.9:40000"), ("[fd00::1]:53", "[fd00::9]:40000")]
            .map(|(from, to)| Head::new(from.parse().unwrap(), to.parse().unwrap()))
    }

    #[test]
    fn what_is_written_is_read_back() {
        for head in heads() {
            let mut packet = head.write(&FIELDS, 5).bytes().to_vec();
            packet.extend_from_slice(b"hello");
            let Payload::Tcp(parsed) = parse(&packet).unwrap().payload else { panic!("TCP") };
            assert_eq!((parsed.source, parsed.destination, parsed.length), (53, 40_000, 5));
            let segment = Segment::read(&packet).unwrap();
            assert_eq!((segment.sequence, segment.acknowledgement), (Seq(7), Some(Seq(9))));
            assert_eq!((segment.window, segment.data), (513, &b"hello"[..]));
            assert!(!segment.syn && !segment.fin && !segment.rst && !segment.is_bare());
        }
    }

    #[test]
    fn checksums_are_complete_or_left_to_the_kernel() {
        for length in [0, 5, 60_000] {
            let [v4, v6] = heads();
            let written = v4.write(&FIELDS, length);
            assert_eq!(checksum::fold(checksum::add(0, &written.bytes()[..20])), 0xffff);
            assert_eq!(written.vnet, needs_checksum(20, 16));
            let pseudo = |from: &str, to: &str| {
                let [from, to] = [from, to].map(|address| address.parse().unwrap());
                let length = u32::try_from(20 + length).unwrap();
                checksum::fold(checksum::pseudo_header(from, to, TCP, length)).to_be_bytes()
            };
            assert_eq!(written.bytes()[36..38], pseudo("198.18.0.1", "198.19.0.9"));
            let written = v6.write(&FIELDS, length);
            assert_eq!(written.vnet, needs_checksum(40, 16));
            assert_eq!(written.bytes()[56..58], pseudo("fd00::1", "fd00::9"));
        }
    }

    #[test]
    fn a_syn_offers_the_largest_segment_and_a_shift() {
        for (head, mss) in heads().into_iter().zip([65_495, 65_475]) {
            for scale in [Some(2), None] {
                let written = head.write_syn(&Fields { flags: SYN, ..FIELDS }, scale);
                let segment = Segment::read(written.bytes()).unwrap();
                assert_eq!((segment.syn, segment.acknowledgement), (true, None));
                assert_eq!(segment.offer(), Offer { mss, scale });
            }
        }
    }

    #[test]
    fn options_that_make_no_sense_end_them() {
        let offer = |options: &[u8]| {
            let written = heads()[0].write(&FIELDS, 0);
            Segment { options, ..Segment::read(written.bytes()).unwrap() }.offer()
        };
        let none = Offer { mss: MSS_DEFAULT, scale: None };
        for options in [&[][..], &[2], &[2, 0], &[2, 1, 5, 5], &[2, 4, 5], &[0, 2, 4, 5, 5], &[3, 4, 1, 1], &[8, 10, 1]]
        {
            assert_eq!(offer(options), none, "{options:?}");
        }
        assert_eq!(offer(&[1, 1, 4, 2, 2, 4, 5, 180, 3, 3, 99]), Offer { mss: 1_460, scale: Some(14) });
    }
}
