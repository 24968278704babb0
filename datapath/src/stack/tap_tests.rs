use super::*;

const WORKLOAD: &str = "10.0.0.1:1000";
const FABRIC: &str = "10.0.0.2:80";

fn key() -> FlowKey {
    FlowKey { workload: WORKLOAD.parse().unwrap(), fabric: FABRIC.parse().unwrap() }
}

const TCP_FLOW: fn() -> Flow = || (Protocol::Tcp, key());

/// A packet of 40 bytes between the workload and the fabric, toward the workload or from it.
fn packet(protocol: u8, flags: u8, toward: bool) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    (bytes[0], bytes[9], bytes[33]) = (0x45, protocol, flags);
    let (addresses, ports) = ([[10, 0, 0, 1], [10, 0, 0, 2]], [1000_u16.to_be_bytes(), 80_u16.to_be_bytes()]);
    let (from, to) = if toward { (1, 0) } else { (0, 1) };
    bytes[12..20].copy_from_slice(&[addresses[from], addresses[to]].concat());
    bytes[20..24].copy_from_slice(&[ports[from], ports[to]].concat());
    bytes
}

fn tap(bytes: usize, snap: usize) -> (Tap, Copies) {
    let (outflow, copies) = Outflow::new(bytes, snap);
    (Tap::new(7, &InterfaceId::only("shop/web".parse().unwrap()), &outflow), copies)
}

fn see(tap: &Tap, toward: bool, packet: &[u8]) {
    tap.see(toward, &[IoSlice::new(packet), IoSlice::new(b"data")]);
}

fn taken(copies: &mut Copies) -> Vec<Copied> {
    copies.take(1 << 20).0
}

#[test]
fn only_flows_that_are_wanted_are_copied_with_what_began_them() {
    let (tap, mut copies) = tap(10_000, 10_000);
    see(&tap, false, &packet(TCP, 0x10, false));
    see(&tap, false, &packet(TCP, 2, false));
    see(&tap, true, &packet(TCP, 0x12, true));
    see(&tap, false, &packet(TCP, 0x18, false));
    assert!(taken(&mut copies).is_empty(), "nobody wants it yet");
    tap.claim(TCP_FLOW());
    see(&tap, true, &packet(TCP, 0x11, true));
    see(&tap, false, &packet(UDP, 0, false));
    let got = taken(&mut copies);
    let seen: Vec<_> = got.iter().map(|one| (one.toward, one.bytes[33])).collect();
    let expected = [(false, 2), (true, 0x12), (false, 0x18), (true, 0x11)];
    assert_eq!(seen, expected, "from its SYN on, and nothing of another protocol");
    assert!(got.iter().all(|one| one.bytes.ends_with(b"data") && one.length == 44));
    assert!(got[0].at <= got[1].at);
    tap.claim((Protocol::Udp, key()));
    assert_eq!(taken(&mut copies).len(), 1, "any datagram may be a first one");
    see(&tap, false, &packet(TCP, 2, false));
    see(&tap, true, &packet(TCP, 0x10, true));
    assert!(taken(&mut copies).is_empty(), "a connection that begins may be another session's");
    tap.disclaim(TCP_FLOW());
    see(&tap, false, &packet(TCP, 0x10, false));
    assert!(taken(&mut copies).is_empty());
    let [source] = copies.sources().try_into().unwrap();
    assert_eq!((source.interface.to_string().as_str(), source.wanted, source.missed), ("shop/web", 5, 0));
}

#[test]
fn an_error_is_of_the_flow_that_it_quotes() {
    let (tap, mut copies) = tap(10_000, 10_000);
    tap.claim((Protocol::Udp, key()));
    // The workload's port is closed, says its kernel of a datagram toward it; then the agent of one from it.
    for toward in [false, true] {
        let mut error = packet(ICMP, 0, toward)[..20].to_vec();
        error.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        error.extend(packet(UDP, 0, !toward));
        see(&tap, toward, &error);
        error[20] = 0;
        see(&tap, toward, &error);
    }
    assert_eq!(taken(&mut copies).len(), 2, "an echo reply is no error");
}

#[test]
fn what_does_not_fit_is_counted_and_nothing_broken_is_read() {
    let (tap, mut copies) = tap(100, 10_000);
    tap.claim(TCP_FLOW());
    (0..5).for_each(|_| see(&tap, true, &packet(TCP, 0x10, true)));
    let (got, is_over) = copies.take(1 << 20);
    assert_eq!((got.len(), is_over, copies.sources()[0].missed), (2, true, 3), "100 bytes hold two of 44");
    for cut in 0..24 {
        tap.see(true, &[IoSlice::new(&packet(TCP, 2, true)[..cut])]);
    }
    tap.see(true, &[]);
    assert_eq!(copies.sources()[0].wanted, 5);
}

#[test]
fn who_takes_nothing_makes_nothing_grow() {
    let (tap, mut copies) = tap(usize::MAX, 10);
    tap.claim(TCP_FLOW());
    let most = u64::try_from(QUEUE_MAX).unwrap();
    (0..most + 5).for_each(|_| see(&tap, true, &packet(TCP, 0x10, true)));
    assert_eq!((copies.sources()[0].wanted, copies.sources()[0].missed), (most + 5, 5));
    let first = copies.queue.try_recv().unwrap();
    assert_eq!((first.bytes.len(), first.length), (10, 44), "as much of it as was asked for");
    // First packets of others are kept up to a number.
    for port in 0..2_000_u16 {
        let mut other = packet(TCP, 2, false);
        other[20..22].copy_from_slice(&port.to_be_bytes());
        see(&tap, false, &other);
    }
    let counted = |tap: &Tap| {
        let early = tap.early.borrow();
        (early.kept.len(), early.bytes, early.flows.len())
    };
    assert_eq!(counted(&tap), (EARLY_MAX, EARLY_MAX * 10, EARLY_MAX));
    let mut busy = packet(UDP, 0, false);
    busy[20] = 99;
    (0..1_000).for_each(|_| see(&tap, false, &busy));
    assert_eq!(counted(&tap), (EARLY_MAX, EARLY_MAX * 10, EARLY_MAX - EARLY_OF_FLOW + 1));
}
