//! Tests of devices of several queues: what the kernel brings by which, and what becomes of it.

use super::{
    tests::{Lab, SERVICE_V4, SERVICE_V6, UID, packet, plan, run, unlocked, until},
    *,
};
use std::{
    collections::BTreeMap,
    io::{ErrorKind, IoSlice},
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Enough that none of four queues is left out: it would be once in 10 million runs.
const FLOWS: u8 = 64;
/// What the kernel does is done before a system call returns.
const SOON: Duration = Duration::from_secs(1);
const AT_ONCE: Duration = Duration::from_millis(20);

fn of_queues(lab: &Lab, queues: u8) -> AttachPlan {
    AttachPlan { queues, ..lab.netns_plan() }
}

fn attach(lab: &Lab, kernel: &Kernel, queues: u8) -> Vec<Tun> {
    let plan = of_queues(lab, queues);
    let made = lab.on_host(|| kernel.attach(&plan)).unwrap();
    assert_eq!(made.len(), usize::from(queues));
    made
}

/// Sockets of the workload, each a flow of its own.
fn flows(lab: &Lab, to: IpAddr, count: u8) -> Vec<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let connected = |_| {
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect((to, 5353)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    };
    lab.in_workload(|| (0..count).map(connected).collect())
}

/// The next packet of any queue, its virtio header first, and by which it came.
fn next(queues: &[Tun], patience: Duration) -> Option<(usize, Vec<u8>)> {
    let mut buffer = Vec::with_capacity(VNET_HEADER + 65_535);
    let deadline = Instant::now() + patience;
    loop {
        for (number, queue) in queues.iter().enumerate() {
            match queue.recv(&mut buffer) {
                Ok(()) => return Some((number, buffer)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("queue {number}: {error}"),
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Where the two addresses and the two ports of a packet are.
fn ends(bytes: &[u8]) -> [(usize, usize); 4] {
    let (source, length, header) = if bytes[VNET_HEADER] >> 4 == 4 { (12, 4, 20) } else { (8, 16, 40) };
    let (source, port) = (VNET_HEADER + source, VNET_HEADER + header);
    [(source, length), (source + length, length), (port, 2), (port + 2, 2)]
}

fn source_port(bytes: &[u8]) -> u16 {
    let [_, _, (port, _), _] = ends(bytes);
    u16::from_be_bytes([bytes[port], bytes[port + 1]])
}

/// Sends it back to where it came from; its checksums hold, as they are sums of what merely changes places.
fn answer(queue: &Tun, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let [source, destination, from, to] = ends(&bytes);
    for ((one, length), (other, _)) in [(source, destination), (from, to)] {
        let (before, after) = bytes.split_at_mut(other);
        before[one..one + length].swap_with_slice(&mut after[..length]);
    }
    queue.send(&[IoSlice::new(&bytes)]).unwrap();
}

/// Sends so many packets of each flow, in turns; by which queue those of each came.
fn queues_of(queues: &[Tun], flows: &[UdpSocket], times: usize) -> BTreeMap<u16, usize> {
    for _ in 0..times {
        for flow in flows {
            flow.send(b"who calls").unwrap();
        }
    }
    let mut found = BTreeMap::new();
    for _ in 0..times * flows.len() {
        let (queue, bytes) = next(queues, SOON).expect("every packet comes");
        assert!(bytes.ends_with(b"who calls"));
        let before = found.insert(source_port(&bytes), queue);
        assert!(before.is_none_or(|before| before == queue), "a flow's packets come by one queue");
    }
    assert_eq!(next(queues, AT_ONCE), None);
    let mut ports: Vec<_> = flows.iter().map(|flow| flow.local_addr().unwrap().port()).collect();
    ports.sort_unstable();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ports);
    found
}

fn has_queues(lab: &Lab, queues: usize) -> bool {
    run(&lab.workload, "ip -details link show rs-web").contains(&format!("numqueues {queues} "))
}

fn used(found: &BTreeMap<u16, usize>) -> BTreeSet<usize> {
    found.values().copied().collect()
}

#[test]
fn a_flow_comes_by_one_queue_and_several_by_all() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let queues = attach(&lab, &kernel, 4);
    let link = run(&lab.workload, "ip -details link show rs-web");
    for said in ["multi_queue", "numqueues 4", "vnet_hdr on", "qdisc noqueue", "mtu 65535", "qlen 4000"] {
        assert!(link.contains(said), "{said}: {link}");
    }
    let first = &queues[0];
    let alike =
        |queue: &Tun| (queue.name(), queue.has_v6(), queue.is_several()) == ("rs-web", true, first.is_several());
    assert!(queues.iter().all(alike));
    for to in [IpAddr::V4(SERVICE_V4), SERVICE_V6.into()] {
        let found = queues_of(&queues, &flows(&lab, to, FLOWS), 3);
        assert_eq!(used(&found), BTreeSet::from([0, 1, 2, 3]), "{to}");
    }
    lab.on_host(|| kernel.restore()).unwrap();
    assert!(
        queues.iter().all(|queue| queue
            .recv(&mut Vec::with_capacity(64))
            .is_err_and(|gone| gone.kind() != ErrorKind::WouldBlock))
    );
    drop(queues);
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_flow_moves_to_the_queue_that_answers_it() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let queues = attach(&lab, &kernel, 4);
    for to in [IpAddr::V4(SERVICE_V4), SERVICE_V6.into()] {
        let flows = flows(&lab, to, 2);
        let (flow, other) = (&flows[0], &flows[1..]);
        let of_other = queues_of(&queues, other, 1);
        flow.send(b"who calls").unwrap();
        let (_, mut bytes) = next(&queues, SOON).unwrap();
        for (number, queue) in queues.iter().enumerate() {
            answer(queue, &bytes);
            assert_eq!(flow.recv(&mut [0; 64]).unwrap(), 9);
            flow.send(b"who calls").unwrap();
            let (by, next) = next(&queues, SOON).unwrap();
            assert_eq!(by, number, "{to}");
            bytes = next;
        }
        assert_eq!(queues_of(&queues, other, 1), of_other, "another flow stays where it was");
    }
}

#[test]
fn what_a_closed_queue_had_comes_by_the_others() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let queues = attach(&lab, &kernel, 4);
    let flows = flows(&lab, SERVICE_V4.into(), FLOWS);
    let found = queues_of(&queues, &flows, 1);
    // As another agent takes them over.
    let taken = |queue: &Tun| Tun::of(queue.descriptor().unwrap(), queue.name(), queue.has_v6());
    let mut again: Vec<_> = queues.iter().map(taken).collect();
    assert!(again.iter().zip(&queues).all(|(one, other)| one.is_several() == other.is_several()));
    drop(queues);
    assert_eq!(queues_of(&again, &flows, 1), found, "each is the same queue");
    drop(again.remove(1));
    until(|| has_queues(&lab, 3));
    assert_eq!(used(&queues_of(&again, &flows, 2)), BTreeSet::from([0, 1, 2]));
    again.truncate(1);
    until(|| has_queues(&lab, 1));
    assert_eq!(used(&queues_of(&again, &flows, 2)), BTreeSet::from([0]));
    assert!(lab.in_workload(|| link::exists("rs-web")).unwrap());
    drop(again);
    until(|| !lab.in_workload(|| link::exists("rs-web")).unwrap());
}

#[test]
fn no_queue_joins_a_device_that_is_not_to_have_it() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let one = attach(&lab, &kernel, 1);
    let link = run(&lab.workload, "ip -details link show rs-web");
    assert!(link.contains("vnet_hdr on") && !link.contains("multi_queue") && !link.contains("noqueue"), "{link}");
    for (kind, why) in [(tun::Queue::Further, libc::EINVAL), (tun::Queue::First, libc::EBUSY)] {
        let refused = lab.in_workload(|| tun::open_queue("rs-web", kind)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(why), "{kind:?}");
    }
    let refused = |queues| lab.in_workload(|| tun::create("rs-web", queues)).unwrap_err().raw_os_error();
    assert_eq!((refused(1), refused(4)), (Some(libc::EBUSY), Some(libc::EBUSY)));
    let flow = flows(&lab, SERVICE_V4.into(), 1);
    queues_of(&one, &flow, 1);
    lab.on_host(|| kernel.detach("rs-web")).unwrap();
    // One of four, that somebody else may have made, is not joined either.
    let four = attach(&lab, &kernel, 4);
    assert_eq!((refused(1), refused(4)), (Some(libc::EINVAL), Some(libc::EBUSY)));
    queues_of(&four, &flow, 1);
    for queues in [0, QUEUES_MAX + 1] {
        let plan = AttachPlan { queues, ..plan("rs-other", Place::User { uid: UID }, 2) };
        let error = lab.on_host(|| kernel.attach(&plan)).unwrap_err().to_string();
        assert!(error.contains("1 to 16 queues"), "{error}");
    }
}

#[test]
fn what_a_killed_agent_left_is_taken_over_with_another_number_of_queues() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let mut killed = Vec::new();
    for queues in [4, 1, QUEUES_MAX] {
        let kernel = unlocked(|| lab.on_host(|| Kernel::lock(lab.run.path(), Arc::new(Doorway::Here)))).unwrap();
        let made = attach(&lab, &kernel, queues);
        queues_of(&made, &flows(&lab, SERVICE_V4.into(), 4), 1);
        // Its process has not ended yet.
        killed.extend(made);
    }
    let kernel = lab.open();
    assert_eq!(lab.snapshot(), before, "also what had 16");
    let user = plan("rs-api", Place::User { uid: UID }, 2);
    let made = lab.on_host(|| kernel.attach(&AttachPlan { queues: 2, ..user })).unwrap();
    assert_eq!((made.len(), packet(&made[1], AT_ONCE)), (2, None));
    lab.on_host(|| kernel.restore()).unwrap();
    drop((made, killed));
    assert_eq!(lab.snapshot(), before);
}
