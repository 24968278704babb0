//! What names a session in front of its datagrams.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{Side, StreamId};

/// The number of a session's bidirectional stream, with the end that opened it in the lowest bit: its stream ID less the
/// bit that says that it is bidirectional. As with the quarter stream ID of HTTP datagrams (RFC 9297 section 2.1), a
/// small number in a variable-length integer, one byte for the first 32 sessions of each host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) fn of(id: StreamId) -> Self {
        let initiator = match id.initiator() {
            Side::Client => 0,
            Side::Server => 1,
        };
        Self((id.index() << 1) | initiator)
    }

    /// The exponent of its length in bytes (RFC 9000 section 16).
    fn exponent(self) -> u32 {
        match self.0 {
            0..0x40 => 0,
            0x40..0x4000 => 1,
            0x4000..0x4000_0000 => 2,
            _ => 3,
        }
    }

    /// Its bytes on the wire: 1 to 8.
    pub(crate) fn length(self) -> usize {
        1 << self.exponent()
    }

    fn encode(self, into: &mut BytesMut) {
        // Indices of streams have 60 bits, so the two bits of the length are free.
        let tagged = (self.0 << (64 - 8 * self.length())) | (u64::from(self.exponent()) << 62);
        into.put_slice(&tagged.to_be_bytes()[..self.length()]);
    }

    /// Takes a key from the front; `None` when the bytes end before it does.
    pub(crate) fn split(from: &mut Bytes) -> Option<Self> {
        let length = 1_usize << (from.first()? >> 6);
        let mut number = [0; 8];
        number[8 - length..].copy_from_slice(from.get(..length)?);
        number[8 - length] &= 0x3f;
        from.advance(length);
        Some(Self(u64::from_be_bytes(number)))
    }

    /// A datagram behind its key.
    pub(crate) fn frame(self, data: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(self.length() + data.len());
        self.encode(&mut frame);
        frame.put_slice(data);
        frame.freeze()
    }

    #[cfg(test)]
    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quinn::Dir;

    proptest! {
        #[test]
        fn keys_round_trip_in_front_of_anything(number in 0..1_u64 << 61, rest: Vec<u8>) {
            let key = Key(number);
            let mut frame = key.frame(&rest);
            prop_assert_eq!(frame.len(), key.length() + rest.len());
            prop_assert_eq!(Key::split(&mut frame), Some(key));
            prop_assert_eq!(&frame[..], &rest[..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut bytes = Bytes::from(bytes);
            let _ = Key::split(&mut bytes);
        }
    }

    #[test]
    fn the_examples_of_rfc_9000_are_read() {
        // Appendix A.1.
        for (bytes, number) in [
            (&[0x25][..], 37),
            (&[0x40, 0x25], 37),
            (&[0x7b, 0xbd], 15_293),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
        ] {
            assert_eq!(Key::split(&mut Bytes::copy_from_slice(bytes)), Some(Key(number)));
            assert_eq!(Key::split(&mut Bytes::copy_from_slice(&bytes[..bytes.len() - 1])), None);
        }
        assert_eq!([63, 64, 16_383, 16_384, 1 << 30].map(|number| Key(number).length()), [1, 2, 2, 4, 8]);
    }

    #[test]
    fn streams_of_both_hosts_have_different_keys() {
        let key = |side, index| Key::of(StreamId::new(side, Dir::Bi, index));
        assert_eq!([key(Side::Client, 0), key(Side::Server, 0), key(Side::Client, 1)].map(|key| key.0), [0, 1, 2]);
        assert_eq!(key(Side::Server, (1 << 60) - 1).0, (1 << 61) - 1);
    }
}
