//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// Adds bytes to a running sum of 16-bit words; an odd last byte counts as the high half of a word.
#[must_use]
pub fn add(mut sum: u32, bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
        // A fold at each overflow of the low half keeps the sum far from 2^32 whatever the length.
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if let [last] = words.remainder() {
        sum += u32::from(*last) << 8;
    }
    fold(sum).into()
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

    #[test]
    fn sum_of_the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(add(0, &bytes)), 0xddf2);
    }

    #[test]
    fn odd_byte_counts_as_high_half() {
        assert_eq!(fold(add(0, &[0x12])), 0x1200);
    }
}
