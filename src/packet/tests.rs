use super::{craft::Unreachable, *};
use proptest::prelude::*;

fn addresses(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        ("[fd00::1]:1000".parse().unwrap(), "[fd00::2]:53".parse().unwrap())
    } else {
        ("198.19.0.9:1000".parse().unwrap(), "198.18.0.1:53".parse().unwrap())
    }
}

/// A SYN with no options, for both families.
fn syn(v6: bool) -> Vec<u8> {
    let (source, destination) = addresses(v6);
    let mut packet = craft::datagram(source, destination, &[0; 12]);
    let header = if v6 { 40 } else { 20 };
    packet[if v6 { 6 } else { 9 }] = TCP;
    packet[header + 4..header + 8].copy_from_slice(&7u32.to_be_bytes());
    packet[header + 8..header + 20].fill(0);
    packet[header + 12] = 0x50;
    packet[header + 13] = 0x02;
    packet
}

fn sum_is_right(packet: &[u8]) -> bool {
    let parsed = parse(packet).unwrap();
    let header = if parsed.source.is_ipv4() { 20 } else { 40 };
    let protocol = packet[if parsed.source.is_ipv4() { 9 } else { 6 }];
    let data = &packet[header..];
    let start = if protocol == ICMP {
        0
    } else {
        checksum::pseudo_header(parsed.source, parsed.destination, protocol, u32::try_from(data.len()).unwrap())
    };
    let v4_header = parsed.source.is_ipv6() || checksum::fold(checksum::add(0, &packet[..20])) == 0xffff;
    v4_header && checksum::fold(checksum::add(start, data)) == 0xffff
}

#[test]
fn datagrams_are_read_back_with_right_checksums() {
    for v6 in [false, true] {
        let (source, destination) = addresses(v6);
        for data in [&b""[..], b"x", b"even", b"odd"] {
            let packet = craft::datagram(source, destination, data);
            assert!(sum_is_right(&packet));
            let parsed = parse(&packet).unwrap();
            assert_eq!(parsed.payload, Payload::Udp { source: 1000, destination: 53, data });
            assert_eq!((parsed.source, parsed.destination), (source.ip(), destination.ip()));
        }
    }
}

#[test]
fn a_syn_is_refused_by_a_reset_that_acknowledges_it() {
    for v6 in [false, true] {
        let bytes = syn(v6);
        let packet = parse(&bytes).unwrap();
        let Payload::Tcp(segment) = packet.payload else { panic!("not TCP") };
        assert!(segment.syn && !segment.ack);
        let reset = craft::reset(&packet, &segment);
        assert!(sum_is_right(&reset));
        let answer = parse(&reset).unwrap();
        let Payload::Tcp(answered) = answer.payload else { panic!("not TCP") };
        assert!(answered.rst && answered.ack);
        assert_eq!(answered.acknowledgement, 8);
        assert_eq!((answered.source, answered.destination), (segment.destination, segment.source));
        assert_eq!((answer.source, answer.destination), (packet.destination, packet.source));
    }
}

#[test]
fn errors_and_echo_replies_have_right_checksums() {
    for v6 in [false, true] {
        let bytes = syn(v6);
        let packet = parse(&bytes).unwrap();
        for why in [Unreachable::Host, Unreachable::Port, Unreachable::Prohibited] {
            assert!(sum_is_right(&craft::unreachable(&packet, why)));
        }
        assert!(sum_is_right(&craft::echo_reply(&packet, &[8, 0, 0, 0, 1, 2, 3, 4, 5])));
    }
}

#[test]
fn what_hides_ports_or_is_not_carried_is_named() {
    let mut fragment = syn(false);
    fragment[6] = 0x20;
    let mut offset = syn(false);
    offset[7] = 1;
    let with = |v6: bool, at: usize, value: u8| {
        let mut packet = syn(v6);
        packet[at] = value;
        packet
    };
    let cases = [
        (fragment, Reason::Fragment),
        (offset, Reason::Fragment),
        (with(true, 6, 44), Reason::Fragment),
        (with(true, 6, 0), Reason::ExtensionHeader),
        (with(true, 6, 43), Reason::ExtensionHeader),
        (with(false, 9, 47), Reason::UnknownProtocol),
        (with(true, 6, 132), Reason::UnknownProtocol),
        (with(false, 16, 224), Reason::Multicast),
        (with(true, 24, 0xff), Reason::Multicast),
        (with(false, 16, 127), Reason::Loopback),
        (with(false, 12, 127), Reason::Loopback),
        (with(false, 0, 0x41), Reason::Malformed),
        (with(false, 0, 0x15), Reason::Malformed),
        (with(false, 2, 0xff), Reason::Malformed),
        (with(false, 32, 0x10), Reason::Malformed),
        (vec![], Reason::Malformed),
    ];
    for (packet, reason) in cases {
        assert_eq!(parse(&packet), Err(reason));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(packet) = parse(&bytes) {
            prop_assert!(packet.bytes.len() <= bytes.len());
        }
    }

    #[test]
    fn any_header_of_a_real_packet_may_be_changed(at in 0usize..40, value: u8, v6: bool) {
        let mut bytes = syn(v6);
        bytes[at] = value;
        let _ = parse(&bytes);
    }
}
