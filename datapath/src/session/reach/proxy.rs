//! The PROXY protocol, version 2 (proxy-protocol.txt section 2.2): what an endpoint that asks for it is told of its caller
//! before the first byte. Pure.

use std::net::SocketAddr;

/// What every header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 in the upper half; the command PROXY: the connection is made for somebody else.
const PROXY: u8 = 0x21;
/// `AF_INET` or `AF_INET6` in the upper half; STREAM.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// `PP2_TYPE_AUTHORITY`: the name that was called, as a TLS client would say it.
const AUTHORITY: u8 = 0x02;
/// The caller's SPIFFE ID. A type of our own, from those that the protocol leaves to applications (section 2.2.7).
const CALLER: u8 = 0xe0;

/// The header of a connection in nobody's name, such as a health check: command LOCAL, no addresses.
pub const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The header of a connection from `source` that called `destination`; of one family, or both are written as IPv6.
#[must_use]
pub fn header(source: SocketAddr, destination: SocketAddr, name: &str, caller: &str) -> Vec<u8> {
    let mut rest = Vec::with_capacity(64 + name.len() + caller.len());
    let family = match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            rest.extend(source.ip().octets());
            rest.extend(destination.ip().octets());
            TCP4
        }
        (source, destination) => {
            for address in [source, destination] {
                rest.extend(match address {
                    SocketAddr::V4(address) => address.ip().to_ipv6_mapped().octets(),
                    SocketAddr::V6(address) => address.ip().octets(),
                });
            }
            TCP6
        }
    };
    rest.extend(source.port().to_be_bytes());
    rest.extend(destination.port().to_be_bytes());
    push_value(&mut rest, AUTHORITY, name);
    push_value(&mut rest, CALLER, caller);
    // Addresses, a name of at most 253 bytes and an ID of its parts: some hundred bytes.
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    [&SIGNATURE[..], &[PROXY, family], &length.to_be_bytes(), &rest].concat()
}

/// A type, a length, a value. One that fits no length is left out, which names of the graph never are.
fn push_value(to: &mut Vec<u8>, kind: u8, value: &str) {
    if let Ok(length) = u16::try_from(value.len()) {
        to.push(kind);
        to.extend(length.to_be_bytes());
        to.extend(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// What a receiver understands: addresses, and values by type.
    #[derive(Debug, PartialEq)]
    struct Read {
        addresses: Option<(SocketAddr, SocketAddr)>,
        values: Vec<(u8, String)>,
    }

    /// Reads a header as section 2.2 tells a receiver to; returns what follows it, too.
    fn read(bytes: &[u8]) -> Option<(Read, &[u8])> {
        let rest = bytes.strip_prefix(&SIGNATURE)?;
        let (&[command, family, high, low], rest) = rest.split_first_chunk::<4>()?;
        let (body, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        let (addresses, mut body) = match (command, family) {
            (0x20, _) => (None, &[][..]),
            (0x21, 0x11) => {
                let (a, rest) = body.split_first_chunk::<4>()?;
                let (b, rest) = rest.split_first_chunk::<4>()?;
                (Some((IpAddr::from(*a), IpAddr::from(*b))), rest)
            }
            (0x21, 0x21) => {
                let (a, rest) = body.split_first_chunk::<16>()?;
                let (b, rest) = rest.split_first_chunk::<16>()?;
                (Some((IpAddr::from(*a), IpAddr::from(*b))), rest)
            }
            _ => return None,
        };
        let mut found = Read { addresses: None, values: Vec::new() };
        if let Some((from, to)) = addresses {
            let (&[a, b, c, d], rest) = body.split_first_chunk::<4>()?;
            body = rest;
            let port = |high, low| u16::from_be_bytes([high, low]);
            found.addresses = Some((SocketAddr::new(from, port(a, b)), SocketAddr::new(to, port(c, d))));
        }
        while !body.is_empty() {
            let (&[kind, high, low], rest) = body.split_first_chunk::<3>()?;
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            found.values.push((kind, String::from_utf8(value.to_vec()).ok()?));
            body = rest;
        }
        Some((found, after))
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let written =
            header("198.19.0.2:40000".parse().unwrap(), "198.18.0.9:80".parse().unwrap(), "a.b", "spiffe://c");
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x1f\xc6\x13\0\x02\xc6\x12\0\x09\x9c\x40\0\x50\x02\0\x03a.b\xe0\0\x0aspiffe://c";
        assert_eq!(written, expected);
    }

    #[test]
    fn a_connection_in_nobody_s_name_has_no_addresses() {
        assert_eq!(read(LOCAL), Some((Read { addresses: None, values: vec![] }, &[][..])));
    }

    #[test]
    fn addresses_of_two_families_are_written_as_ipv6() {
        let written = header("198.19.0.2:1".parse().unwrap(), "[fd00::1]:2".parse().unwrap(), "", "");
        let (found, _) = read(&written).unwrap();
        assert_eq!(found.addresses, Some(("[::ffff:198.19.0.2]:1".parse().unwrap(), "[fd00::1]:2".parse().unwrap())));
    }

    proptest! {
        #[test]
        fn a_receiver_reads_what_was_written(
            (from, to) in prop_oneof![
                any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
                any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            ],
            ports in any::<(u16, u16)>(), name in "[a-z0-9.-]{0,253}", caller in "spiffe://[a-z0-9./-]{1,400}",
            data in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let (from, to) = (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1));
            let bytes = [header(from, to, &name, &caller), data.clone()].concat();
            let (found, after) = read(&bytes).unwrap();
            prop_assert_eq!(found.addresses, Some((from, to)));
            prop_assert_eq!(found.values, vec![(AUTHORITY, name), (CALLER, caller)]);
            prop_assert_eq!(after, &data[..]);
        }
    }
}
