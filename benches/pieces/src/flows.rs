//! From a packet of an interface to its session, and a datagram the other way.

use crate::{Round, bed::Bed, wire};
use ripstop_datapath::packet::FlowKey;
use std::hint::black_box;

/// Ports of one caller that flows are made of.
const PORTS: usize = 50_000;
const FIRST: usize = 10_000;

/// A segment of one of `count` flows, in a scattered order. Its SYN is held, so that nothing but the way to it is counted.
pub(crate) fn held(count: usize) -> Round {
    let bed = Bed::new();
    let api = bed.api();
    let mut guards = Vec::with_capacity(count);
    let mut packets = Vec::with_capacity(count);
    for number in 0..count {
        let interface = &bed.interfaces[number / PORTS];
        let port = u16::try_from(FIRST + number % PORTS).unwrap();
        let (from, to) = (wire::at(bed.address(interface), port), wire::at(api, 8080));
        guards.push(interface.hold(FlowKey { workload: from.into(), fabric: to.into() }));
        let segment =
            wire::Segment { from, to, flags: wire::ACK, sequence: 1, acknowledgement: 1, options: &[], data: &[] };
        packets.push((number / PORTS, segment.packet()));
    }
    let mut next = 0_usize;
    Box::new(move || {
        next = (next + 7_919) % packets.len();
        let (interface, packet) = &packets[next];
        bed.packet(&bed.interfaces[*interface], black_box(packet));
        // Whatever is of no flow is answered with a reset.
        assert_eq!((bed.sink.packets(), guards.len()), (0, packets.len()));
    })
}

/// A datagram of 1 200 bytes to a workload.
pub(crate) fn datagram() -> Round {
    let bed = Bed::new();
    let (from, to) = (wire::at(bed.api(), 9125), wire::at(bed.address(bed.web()), 50_000));
    let data = vec![7; 1_200];
    Box::new(move || {
        let before = bed.sink.packets();
        bed.web().port().send_datagram(from.into(), to.into(), black_box(&data));
        assert_eq!(bed.sink.packets(), before + 1);
    })
}
