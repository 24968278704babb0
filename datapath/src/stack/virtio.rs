//! The header before each packet of a device with `IFF_VNET_HDR` (virtio 1.2, section 5.1.6), in the host's byte order.
//!
//! It is how the kernel and the agent hand each other packets whose checksum is left out, and several datagrams of one flow
//! as one packet, cut apart only where that has to be.

use bytes::Bytes;
use std::{num::NonZeroUsize, slice::Chunks};

/// Its length.
pub const VNET_HEADER: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the receiver completes the checksum.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: the data are those of several datagrams, each as long as the header says, the last maybe shorter.
const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, a flag beside the kind.
const GSO_ECN: u8 = 0x80;
/// Where the checksum lies in a TCP header, and in a UDP header.
pub(super) const TCP_CHECKSUM: u16 = 16;
pub(super) const UDP_CHECKSUM: u16 = 6;
/// Datagrams in one packet: what every kernel takes that knows such packets (`UDP_MAX_SEGMENTS` of its first years).
pub(super) const DATAGRAMS_MAX: usize = 64;
/// Datagrams that a packet may hold when it comes: what a kernel takes of a program at once (`UDP_MAX_SEGMENTS` since Linux 6.9). A
/// program that makes packets itself could have one hold 65 507, and the others wait for them.
const DATAGRAMS_TAKEN: usize = 128;
/// Their bytes: what fits an IPv4 packet beside its headers, and so an IPv6 packet too.
pub(super) const DATA_MAX: usize = 65_507;

/// What was read from a device.
#[derive(Debug, Clone, Copy)]
pub struct Received<'p> {
    /// One packet, IP header first.
    pub packet: &'p [u8],
    /// Bytes of each datagram but the last, where the packet holds the data of several.
    pub datagram: Option<NonZeroUsize>,
    /// What the packet lies in, where its data may be kept as they are.
    pub(crate) memory: Option<&'p Bytes>,
}

impl<'p> Received<'p> {
    /// Takes the header off. What is too short for one is an empty packet.
    #[must_use]
    pub fn of(read: &'p [u8]) -> Self {
        let Some((&[_, kind, _, _, size_0, size_1, ..], packet)) = read.split_first_chunk::<VNET_HEADER>() else {
            return Self::plain(&[]);
        };
        let size = usize::from(u16::from_ne_bytes([size_0, size_1]));
        let datagram = NonZeroUsize::new(size).filter(|_| kind & !GSO_ECN == GSO_UDP_L4);
        Self { datagram, ..Self::plain(packet) }
    }

    /// The same of memory that is not used for the next one.
    #[must_use]
    pub fn within(read: &'p Bytes) -> Self {
        Self { memory: Some(read), ..Self::of(read) }
    }

    /// A packet with nothing in its header.
    #[must_use]
    pub fn plain(packet: &'p [u8]) -> Self {
        Self { packet, datagram: None, memory: None }
    }

    /// A packet that holds the data of several datagrams, if any.
    #[must_use]
    pub fn several(packet: &'p [u8], datagram: Option<NonZeroUsize>) -> Self {
        Self { datagram, ..Self::plain(packet) }
    }
}

/// The data of each datagram of a packet that holds several; `None` where it claims more than any kernel hands over.
#[must_use]
pub fn apart(data: &[u8], each: NonZeroUsize) -> Option<Chunks<'_, u8>> {
    let all = data.chunks(each.get());
    (all.len() <= DATAGRAMS_TAKEN).then_some(all)
}

/// The header of a packet whose checksum the kernel completes: from where, and where it goes from there.
pub(super) fn needs_checksum(start: u16, offset: u16) -> [u8; VNET_HEADER] {
    let (start, offset) = (start.to_ne_bytes(), offset.to_ne_bytes());
    [NEEDS_CHECKSUM, 0, 0, 0, 0, 0, start[0], start[1], offset[0], offset[1]]
}

/// The header of a packet with several datagrams of `each` bytes, behind an IP header of `ip` bytes.
pub(super) fn several_datagrams(ip: u16, each: u16) -> [u8; VNET_HEADER] {
    let mut header = needs_checksum(ip, UDP_CHECKSUM);
    header[1] = GSO_UDP_L4;
    header[2..4].copy_from_slice(&(ip + 8).to_ne_bytes());
    header[4..6].copy_from_slice(&each.to_ne_bytes());
    header
}

/// How many of the first datagrams may be one packet: equally long ones, and a shorter one at their end. At least 1 of any.
pub(super) fn together(datagrams: &[impl AsRef<[u8]>]) -> usize {
    let length = |data: &_| AsRef::<[u8]>::as_ref(data).len();
    let Some(each) = datagrams.first().map(length).filter(|each| *each > 0) else { return 1 };
    let most = DATAGRAMS_MAX.min(DATA_MAX / each).max(1);
    let equal = datagrams.iter().take(most).take_while(|data| length(data) == each).count();
    let shorter = datagrams.get(equal).is_some_and(|data| (1..each).contains(&length(data)));
    if shorter && equal < most { equal + 1 } else { equal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(lengths: &[usize]) -> Vec<Vec<u8>> {
        lengths.iter().map(|length| vec![0; *length]).collect()
    }

    #[test]
    fn datagrams_go_together_that_are_equal_but_for_a_shorter_last() {
        for (of, expected) in [
            (&[1200][..], 1),
            (&[1200, 1200, 1200], 3),
            (&[1200, 1200, 700, 1200], 3),
            (&[1200, 1201], 1),
            (&[1200, 0, 1200], 1),
            (&[0, 0], 1),
            (&[65_507, 1], 1),
            (&[40_000, 40_000], 1),
            (&[30_000, 30_000, 5_507], 2),
            (&[1; 100], DATAGRAMS_MAX),
        ] {
            assert_eq!(together(&lengths(of)), expected, "{of:?}");
        }
    }

    #[test]
    fn a_packet_of_more_datagrams_than_a_kernel_makes_is_none() {
        let each = |bytes| NonZeroUsize::new(bytes).unwrap();
        let data = [7; 1_300];
        let lengths = |all: Chunks<'_, u8>| all.map(<[u8]>::len).collect::<Vec<_>>();
        assert_eq!(apart(&data, each(600)).map(lengths), Some(vec![600, 600, 100]));
        assert_eq!(apart(&data[..1_280], each(10)).map(Iterator::count), Some(DATAGRAMS_TAKEN));
        assert!(apart(&data, each(10)).is_none());
    }

    #[test]
    fn what_a_header_says_is_read_back() {
        let mut read = several_datagrams(20, 1200).to_vec();
        read.extend_from_slice(b"packet");
        let received = Received::of(&read);
        assert_eq!((received.packet, received.datagram), (&b"packet"[..], NonZeroUsize::new(1200)));
        // Of a TCP segment the size is that of the segments it is to be cut into.
        read[1] = 1;
        assert_eq!(Received::of(&read).datagram, None);
        assert_eq!(Received::of(&read[..9]).packet, b"");
    }
}
