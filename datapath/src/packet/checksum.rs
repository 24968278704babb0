//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// Adds bytes to a running sum of 16-bit words; an odd last byte counts as the high half of a word.
#[must_use]
pub fn add(sum: u32, bytes: &[u8]) -> u32 {
    // Two words at a time, as carries may be added back later (RFC 1071 section 2, "deferred carries"): 2^32 of them fit.
    let mut pairs = bytes.chunks_exact(4);
    let mut wide = u64::from(sum);
    for pair in &mut pairs {
        wide += u64::from(u32::from_be_bytes([pair[0], pair[1], pair[2], pair[3]]));
    }
    let mut last = [0; 4];
    last[..pairs.remainder().len()].copy_from_slice(pairs.remainder());
    wide += u64::from(u32::from_be_bytes(last));
    // Each halving leaves at most 33 bits, then 32.
    for _ in 0..2 {
        wide = (wide & 0xffff_ffff) + (wide >> 32);
    }
    fold(u32::try_from(wide).unwrap_or(u32::MAX)).into()
}

/// Folds a sum to 16 bits, not yet inverted.
#[must_use]
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop leaves at most 0xffff.
    (sum & 0xffff) as u16
}

/// The sum of the pseudo-header of a TCP or UDP segment (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> u32 {
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => add(add(0, &source.octets()), &destination.octets()),
        (source, destination) => add(add(0, &v6(source)), &v6(destination)),
    };
    add(add(sum, &length.to_be_bytes()), &[0, protocol])
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sum_of_the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(add(0, &bytes)), 0xddf2);
    }

    #[test]
    fn odd_byte_counts_as_high_half() {
        assert_eq!(fold(add(0, &[0x12])), 0x1200);
    }

    proptest! {
        #[test]
        fn it_is_the_sum_of_16_bit_words(start in 0..=0xffff_u32, bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
            let mut sum = u64::from(start) + words.sum::<u64>();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(u64::from(add(start, &bytes)), sum);
        }
    }
}
