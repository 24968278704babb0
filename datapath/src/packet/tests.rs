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

#[test]
fn an_error_about_a_datagram_names_its_flow() {
    for v6 in [false, true] {
        let (fabric, workload) = addresses(v6);
        let sent = craft::datagram(fabric, workload, &[7; 700]);
        let quoted = parse(&sent).unwrap();
        let flow = FlowKey { workload, fabric };
        for (why, port) in [(Unreachable::Port, true), (Unreachable::Host, false), (Unreachable::Prohibited, false)] {
            let about = craft::unreachable_flow(&FlowKey { workload: fabric, fabric: workload }, 700, why);
            for error in [craft::unreachable(&quoted, why), about] {
                assert!(sum_is_right(&error));
                let Payload::IcmpError(error) = parse(&error).unwrap().payload else { panic!("no error") };
                assert_eq!(error, IcmpError { flow, port });
            }
        }
        let tcp = syn(v6);
        let error = craft::unreachable(&parse(&tcp).unwrap(), Unreachable::Port);
        assert_eq!(parse(&error).unwrap().payload, Payload::OtherIcmp);
    }
}

/// A datagram as the kernel sends it in two fragments, the first with so many bytes behind the headers.
fn halves(data: &[u8], first: usize) -> [Vec<u8>; 2] {
    let (source, destination) = addresses(true);
    let packet = craft::datagram(source, destination, data);
    let half = |offset: usize, part: &[u8], more: u16| {
        let mut bytes = packet[..40].to_vec();
        bytes[4..6].copy_from_slice(&u16::try_from(8 + part.len()).unwrap().to_be_bytes());
        bytes[6] = 44;
        bytes.extend_from_slice(&[UDP, 0]);
        bytes.extend_from_slice(&(u16::try_from(offset).unwrap() | more).to_be_bytes());
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes.extend_from_slice(part);
        bytes
    };
    [half(0, &packet[40..40 + first], 1), half(first, &packet[40 + first..], 0)]
}

#[test]
fn halves_of_a_large_datagram_are_put_together() {
    let mut waiting = Halves::default();
    for length in [65_488, 65_507] {
        let data: Vec<u8> = (0..length).map(|n: usize| n.to_le_bytes()[0]).collect();
        let [first, second] = halves(&data, 65_480);
        assert_eq!(parse(&first), Err(Reason::Fragment));
        assert_eq!(waiting.join(&second), Err(Reason::Fragment), "nothing waits for it");
        assert_eq!(waiting.join(&first), Ok(None));
        let joined = waiting.join(&second).unwrap().unwrap();
        let packet = parse(&joined).unwrap();
        assert_eq!(packet.payload, Payload::Udp { source: 1000, destination: 53, data: &data });
        assert_eq!(waiting.join(&second), Err(Reason::Fragment), "it was taken");
    }
}

#[test]
fn halves_that_do_not_fit_are_refused_and_few_wait() {
    let mut waiting = Halves::default();
    let [first, second] = halves(&[0; 3_000], 1_600);
    let mut other = second.clone();
    other[47] ^= 1;
    let mut gap = second.clone();
    gap[43] += 8;
    let mut too_long = halves(&[0; 65_507], 65_480);
    too_long[1].push(0);
    too_long[1][5] += 1;
    assert_eq!(waiting.join(&first), Ok(None));
    for wrong in [&other, &gap, &halves(&[0; 9], 8)[0][..47].to_vec()] {
        assert_eq!(waiting.join(wrong), Err(Reason::Fragment));
    }
    assert_eq!(waiting.join(&too_long[0]), Ok(None));
    assert_eq!(waiting.join(&too_long[1]), Err(Reason::Fragment));
    for _ in 0..4 {
        assert_eq!(waiting.join(&halves(&[0; 100], 80)[0]), Ok(None));
    }
    assert_eq!(waiting.join(&second), Err(Reason::Fragment), "the oldest gave way");
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
        let _ = Halves::default().join(&bytes);
    }
}
