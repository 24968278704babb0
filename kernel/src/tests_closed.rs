//! Tests on the real kernel that nothing goes another way: not by other routes, other devices, other users or a dead
//! agent.

use super::{
    tests::{AT_ONCE, Lab, SERVICE_V4, SERVICE_V6, UID, datagram, packet, plan, run, unlocked},
    *,
};
use nix::{
    sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
    unistd::{Uid, setfsuid},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    fs,
    io::{self, ErrorKind, IoSlice},
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// Long enough for a packet on a pair of links to arrive.
const SOON: Duration = Duration::from_millis(150);
/// Addresses outside of the fabric: one on the wire's own subnet, one behind the default route, for either family.
const OUTSIDE: [&str; 4] = ["10.77.0.3", "203.0.113.9", "fd77::3", "2001:db8::9"];
/// Addresses for what is to be heard: questions who has an address are repeated for seconds, so no test asks for these.
const HEARD: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 77, 77)),
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 77)),
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 78)),
];
/// An address of the fabric, for either family.
const FABRIC: [IpAddr; 2] = [IpAddr::V4(SERVICE_V4), IpAddr::V6(SERVICE_V6)];

/// A namespace of the lab with `eth0` as any machine has it, default routes without a metric included.
struct Wire {
    far: String,
    capture: Socket,
}

impl Wire {
    fn to(namespace: &str) -> Self {
        let far = format!("{namespace}-far");
        netns::create(&far).unwrap();
        let (near, there) = (netns::path_of(namespace), netns::path_of(&far));
        for path in [&near, &there] {
            // Without addresses that the kernel makes up and then checks nothing changes by itself later.
            netns::run_in(path, || fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1")).unwrap().unwrap();
        }
        link::veth(link::End { namespace: &near, link: "eth0" }, link::End { namespace: &there, link: "eth0" })
            .unwrap();
        for (path, last) in [(&near, 1), (&there, 2)] {
            let addresses = [format!("10.77.0.{last}"), format!("fd77::{last}"), format!("fe80::{last}")];
            netns::run_in(path, || {
                link::up("eth0").unwrap();
                for (address, prefix) in addresses.iter().zip([24, 64, 64]) {
                    link::address("eth0", address.parse().unwrap(), prefix).unwrap();
                }
            })
            .unwrap();
        }
        run(namespace, "ip route add default via 10.77.0.2");
        run(namespace, "ip -6 route add default via fd77::2");
        while !run(namespace, "ip link show eth0").contains("state UP") {
            std::thread::sleep(Duration::from_millis(10));
        }
        let capture = netns::run_in(&there, || {
            // ETH_P_ALL, in network byte order as packet(7) wants it.
            let all = Protocol::from(i32::from(3_u16.to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap()
        });
        let capture = capture.unwrap();
        capture.set_read_timeout(Some(SOON)).unwrap();
        Self { far, capture }
    }

    /// Whether anything came for one of these addresses since the last time: a packet, or a question who has it.
    fn heard(&self, of: &[IpAddr]) -> bool {
        let wanted = of.iter().map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let wanted: Vec<_> = wanted.collect();
        let mut heard = false;
        let mut frame = vec![0; 65_535];
        while let Ok(length) = io::Read::read(&mut &self.capture, &mut frame) {
            let frame = &frame[..length];
            heard |= wanted.iter().any(|address| frame.windows(address.len()).any(|bytes| bytes == address));
        }
        heard
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(netns::remove(&self.far));
    }
}

/// Runs `work` on the lab's host as a user's program would: what it opens is that user's.
fn as_user<T: Send>(lab: &Lab, uid: u32, work: impl FnOnce() -> T + Send) -> T {
    lab.on_host(|| {
        setfsuid(Uid::from_raw(uid));
        work()
    })
}

fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|text| text.parse().unwrap()).collect()
}

/// Tries to send to an address by a device: a datagram, a connection, and a datagram that names the device itself.
fn by_device(device: &str, to: IpAddr) -> Vec<io::Result<()>> {
    let address = SocketAddr::new(to, 9);
    let open = |kind: Type| Socket::new(Domain::for_address(address), kind, None).unwrap();
    let bound = |kind: Type| {
        let socket = open(kind);
        socket.bind_device(Some(device.as_bytes())).unwrap();
        socket
    };
    let datagram = bound(Type::DGRAM).send_to(b"leak", &SockAddr::from(address)).map(drop);
    let connection = bound(Type::STREAM).connect_timeout(&SockAddr::from(address), AT_ONCE);
    let mut tried = vec![datagram, connection];
    if let SocketAddr::V4(address) = address {
        tried.push(naming(device, &open(Type::DGRAM), address));
    }
    tried
}

fn naming(device: &str, socket: &Socket, to: SocketAddrV4) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(device)?;
    let none = libc::in_addr { s_addr: 0 };
    let information = libc::in_pktinfo { ipi_ifindex: index as i32, ipi_spec_dst: none, ipi_addr: none };
    let (named, to) = ([ControlMessage::Ipv4PacketInfo(&information)], SockaddrIn::from(to));
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(b"leak")], &named, MsgFlags::empty(), Some(&to))?;
    Ok(())
}

/// Asserts that everything from here to these addresses ends in the interface, or is refused by any device.
fn assert_closed(tun: Option<&Tun>, wire: &Wire, to: &[IpAddr], here: &dyn Fn(&(dyn Fn() + Sync))) {
    for &to in to {
        match tun {
            Some(tun) => {
                here(&|| assert!(datagram(to).is_ok()));
                assert!(packet(tun, SOON * 5).expect("it arrives").ends_with(b"who calls"), "{to}");
            }
            None => here(&|| {
                let asked = Instant::now();
                assert_eq!(datagram(to).unwrap_err().kind(), ErrorKind::HostUnreachable, "{to}");
                assert_eq!(TcpStream::connect((to, 9)).unwrap_err().kind(), ErrorKind::HostUnreachable, "{to}");
                assert!(asked.elapsed() < AT_ONCE);
            }),
        }
        here(&|| drop(by_device("eth0", to)));
    }
    assert!(!wire.heard(to), "something left by eth0");
}

#[test]
fn an_isolated_namespace_reaches_the_fabric_only_also_when_the_agent_is_dead() {
    let Some(lab) = Lab::new() else { return };
    let wire = Wire::to(&lab.workload);
    let before = lab.snapshot();
    let here = |work: &(dyn Fn() + Sync)| lab.in_workload(work);
    let all = [parse(&OUTSIDE), FABRIC.to_vec()].concat();
    here(&|| drop(by_device("eth0", HEARD[0])));
    assert!(wire.heard(&HEARD), "the wire hears what is let out");
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &AttachPlan { isolated: true, ..lab.netns_plan() }).unwrap();
    assert_closed(Some(&tun), &wire, &all, &here);
    assert_eq!(lab.in_workload(|| datagram("127.0.0.1".parse().unwrap())).unwrap().to_string(), "127.0.0.1");
    lab.kill((tun, kernel));
    assert_closed(None, &wire, &all, &here);
    assert_eq!(unlocked(|| lab.on_host(|| cleanup(lab.run.path()))).unwrap().guards, 1);
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn an_isolated_user_reaches_the_fabric_only_and_others_are_not_concerned() {
    let Some(lab) = Lab::new() else { return };
    let wire = Wire::to(&lab.host);
    let before = lab.snapshot();
    let kernel = lab.open();
    let plan = AttachPlan { isolated: true, ..plan("rs-api", Place::User { uid: UID }, 2) };
    let tun = lab.attach(&kernel, &plan).unwrap();
    let here = |work: &(dyn Fn() + Sync)| as_user(&lab, UID, work);
    let all = [parse(&OUTSIDE), FABRIC.to_vec()].concat();
    assert_closed(Some(&tun), &wire, &all, &here);
    let others = |to: IpAddr| {
        as_user(&lab, UID + 1, || datagram(to)).unwrap();
        assert!(wire.heard(&HEARD));
    };
    others(HEARD[1]);
    lab.kill((tun, kernel));
    assert_closed(None, &wire, &all, &here);
    others(HEARD[2]);
    unlocked(|| lab.on_host(|| cleanup(lab.run.path()))).unwrap();
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_user_cannot_send_to_the_fabric_by_another_device() {
    let Some(lab) = Lab::new() else { return };
    let wire = Wire::to(&lab.host);
    let before = lab.snapshot();
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &plan("rs-api", Place::User { uid: UID }, 2)).unwrap();
    let try_as = |uid: u32| {
        as_user(&lab, uid, || FABRIC.into_iter().for_each(|to| drop(by_device("eth0", to))));
        wire.heard(&FABRIC)
    };
    let try_all = || try_as(UID);
    assert!(!try_all() && !try_as(UID + 7) && !try_as(0), "nor anybody else");
    drop(as_user(&lab, UID, || by_device("eth0", HEARD[1])));
    assert!(wire.heard(&HEARD), "what is not the fabric's is not its concern");
    // What the guard is for: routes do not hold this.
    run(&lab.host, "nft delete table inet ripstop-rs-api");
    assert!(try_all(), "the kernel holds it by itself: the guard is not needed any more");
    kernel.restore().unwrap();
    drop(tun);
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_namespace_cannot_send_to_the_fabric_by_another_device() {
    let Some(lab) = Lab::new() else { return };
    let wire = Wire::to(&lab.workload);
    let before = lab.snapshot();
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    let try_all = || {
        lab.in_workload(|| FABRIC.into_iter().for_each(|to| drop(by_device("eth0", to))));
        wire.heard(&FABRIC)
    };
    assert!(!try_all());
    run(&lab.workload, "ip route add 198.18.0.9/32 via 10.77.0.2 onlink dev eth0");
    drop(lab.in_workload(|| datagram(SERVICE_V4.into())));
    assert!(!wire.heard(&FABRIC), "a more specific route leads nowhere");
    run(&lab.workload, "ip route delete 198.18.0.9/32");
    drop(lab.in_workload(|| by_device("eth0", HEARD[1])));
    assert!(wire.heard(&HEARD), "what is not the fabric's is not its concern");
    run(&lab.workload, "nft delete table inet ripstop-rs-web");
    assert!(try_all(), "the kernel holds it by itself: the guard is not needed any more");
    kernel.restore().unwrap();
    drop(tun);
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn nobody_takes_the_address_of_another_host_s_workload_within_the_host() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let _tun = lab.attach(&kernel, &plan("rs-api", Place::User { uid: UID }, 2)).unwrap();
    let remote: Ipv6Addr = "fd12:3456:789a:1::77".parse().unwrap();
    let endpoint = as_user(&lab, UID, || std::net::UdpSocket::bind("[::1]:0").unwrap());
    endpoint.set_read_timeout(Some(SOON)).unwrap();
    let to = endpoint.local_addr().unwrap();
    let forge = |uid: u32| {
        let sent = as_user(&lab, uid, || {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            socket.set_freebind_v6(true).unwrap();
            socket.bind(&SockAddr::from(SocketAddr::new(remote.into(), 0))).unwrap();
            socket.send_to(b"forged", &SockAddr::from(to))
        });
        (sent.is_ok(), endpoint.recv_from(&mut [0; 16]).ok().map(|(_, from)| from.ip()))
    };
    for uid in [UID, UID + 9] {
        assert_eq!(forge(uid).1, None, "as {uid}");
    }
    let honest = as_user(&lab, UID + 9, || std::net::UdpSocket::bind("[::1]:0").unwrap());
    honest.send_to(b"honest", to).unwrap();
    assert!(endpoint.recv_from(&mut [0; 16]).is_ok(), "loopback's own address is as it was");
    run(&lab.host, "nft delete table inet ripstop-rs-api");
    assert_eq!(
        forge(UID + 9).1,
        Some(remote.into()),
        "the kernel holds it by itself: the guard is not needed any more"
    );
    kernel.restore().unwrap();
}

#[test]
fn a_user_cannot_send_by_the_interface_of_another() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let victim = lab.attach(&kernel, &plan("rs-victim", Place::User { uid: UID }, 2)).unwrap();
    let _other = lab.attach(&kernel, &plan("rs-other", Place::User { uid: UID + 1 }, 3)).unwrap();
    for uid in [UID + 1, UID + 2] {
        for to in [FABRIC[0], FABRIC[1], "203.0.113.9".parse().unwrap()] {
            let asked = Instant::now();
            let tried = as_user(&lab, uid, || by_device("rs-victim", to));
            assert!(tried[1].is_err() && asked.elapsed() < AT_ONCE, "{to} as {uid}: {tried:?}");
        }
    }
    assert_eq!(packet(&victim, SOON), None);
    assert!(as_user(&lab, UID, || by_device("rs-victim", FABRIC[0]))[0].is_ok());
    assert!(packet(&victim, SOON).is_some(), "its own user may name it");
    while packet(&victim, SOON).is_some() {}
    run(&lab.host, "nft delete table inet ripstop-rs-victim");
    drop(as_user(&lab, UID + 2, || by_device("rs-victim", FABRIC[0])));
    let forged = packet(&victim, SOON).expect("the kernel holds it by itself: the guard is not needed any more");
    assert_eq!(forged[12..16], [198, 19, 0, 2], "with the other's address");
    kernel.restore().unwrap();
}

#[test]
fn what_a_host_forwards_never_comes_to_an_interface() {
    let Some(lab) = Lab::new() else { return };
    let wire = Wire::to(&lab.host);
    let kernel = lab.open();
    let plan = plan("rs-api", Place::User { uid: UID }, 2);
    let tun = lab.attach(&kernel, &plan).unwrap();
    lab.on_host(|| fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")).unwrap();
    run(&wire.far, &format!("ip address add {}/128 dev lo nodad", plan.v6));
    run(&wire.far, "ip -6 route add fd12:3456:789a::/48 via fd77::1");
    let inject = || {
        netns::run_in(&netns::path_of(&wire.far), || {
            let socket = std::net::UdpSocket::bind((plan.v6, 0)).unwrap();
            drop(socket.send_to(b"forged", (SERVICE_V6, 9)));
        })
        .unwrap();
        packet(&tun, SOON)
    };
    assert_eq!(inject(), None);
    run(&lab.host, &format!("ip -6 rule add from {} uidrange 0-0 lookup 214000 pref 2139", plan.v6));
    assert!(inject().is_some(), "without `iif lo` it comes");
    kernel.restore().unwrap();
}

#[test]
fn the_fabric_has_no_other_way_where_only_the_interface_lacks_ipv6() {
    let Some(lab) = Lab::new() else { return };
    for isolated in [false, true] {
        let (wire, wired_host) = (Wire::to(&lab.workload), Wire::to(&lab.host));
        for name in [&lab.workload, &lab.host] {
            let off = || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            netns::run_in(&netns::path_of(name), off).unwrap().unwrap();
        }
        let before = lab.snapshot();
        let kernel = lab.open();
        let tun = lab.attach(&kernel, &AttachPlan { isolated, ..lab.netns_plan() }).unwrap();
        let user = AttachPlan { isolated, ..plan("rs-api", Place::User { uid: UID }, 2) };
        let user = lab.attach(&kernel, &user).unwrap();
        let outside: IpAddr = "2001:db8::9".parse().unwrap();
        let refused = |to: IpAddr| {
            let tried = [lab.in_workload(|| datagram(to)), as_user(&lab, UID, || datagram(to))];
            tried.into_iter().all(|one| one.is_err_and(|error| error.kind() == ErrorKind::HostUnreachable))
        };
        assert!(refused(FABRIC[1]));
        assert_eq!(refused(outside), isolated);
        assert!(!wire.heard(&FABRIC) && !wired_host.heard(&FABRIC));
        kernel.restore().unwrap();
        drop((tun, user));
        assert_eq!(lab.snapshot(), before);
        for name in [&lab.workload, &lab.host] {
            run(name, "ip link delete eth0");
            let on = || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0");
            netns::run_in(&netns::path_of(name), on).unwrap().unwrap();
        }
    }
}

#[test]
fn a_namespace_without_ipv6_gets_an_ipv4_interface() {
    let Some(lab) = Lab::new() else { return };
    lab.in_workload(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")).unwrap();
    lab.in_workload(|| fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")).unwrap();
    let before = lab.snapshot();
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    lab.in_workload(|| datagram(SERVICE_V4.into())).unwrap();
    assert!(packet(&tun, Duration::from_secs(1)).is_some());
    lab.in_workload(|| datagram(SERVICE_V6.into())).unwrap_err();
    kernel.restore().unwrap();
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_second_interface_is_refused_and_the_first_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = lab.on_host(|| Kernel::open(elsewhere.path())).unwrap();
    let second = plan("rs-second", Place::Netns(lab.workload_path()), 2);
    for kernel in [&kernel, &other] {
        let error = lab.attach(kernel, &second).unwrap_err().to_string();
        assert!(error.contains("an interface of the fabric is there already"), "{error}");
    }
    lab.in_workload(|| datagram(SERVICE_V4.into())).unwrap();
    assert!(packet(&tun, Duration::from_secs(1)).is_some());
    kernel.restore().unwrap();
}

#[test]
fn one_user_is_one_workload() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &plan("rs-api", Place::User { uid: UID }, 2)).unwrap();
    let before = lab.snapshot();
    let error = lab.attach(&kernel, &plan("rs-other", Place::User { uid: UID }, 3)).unwrap_err().to_string();
    assert!(error.contains("rs-other") && error.contains("rs-api") && error.contains(&UID.to_string()), "{error}");
    assert_eq!(lab.snapshot(), before);
    drop(tun);
    kernel.detach("rs-api").unwrap();
    lab.attach(&kernel, &plan("rs-other", Place::User { uid: UID }, 3)).unwrap();
    kernel.restore().unwrap();
}

#[test]
fn what_was_detached_can_be_attached_again() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let user = plan("rs-api", Place::User { uid: UID }, 2);
    for plan in [lab.netns_plan(), AttachPlan { isolated: true, ..lab.netns_plan() }, user] {
        let kept = lab.attach(&kernel, &plan).unwrap();
        kernel.detach(&plan.link).unwrap();
        assert_eq!(lab.snapshot(), before, "whether its descriptor is open or not");
        drop(lab.attach(&kernel, &plan).unwrap());
        kernel.detach(&plan.link).unwrap();
        assert_eq!(lab.snapshot(), before);
        let tun = lab.attach(&kernel, &plan).unwrap();
        let send = || datagram(SERVICE_V4.into()).unwrap();
        match plan.place {
            Place::Netns(_) => lab.in_workload(send),
            Place::User { uid } => as_user(&lab, uid, send),
            Place::Cgroup(_) | Place::Host => unreachable!("not among the plans"),
        };
        assert!(packet(&tun, SOON * 5).is_some());
        kernel.detach(&plan.link).unwrap();
        drop((kept, tun));
        assert_eq!(lab.snapshot(), before);
    }
}

#[test]
fn an_unreadable_journal_does_not_keep_guards() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let place = Place::User { uid: UID };
    let tuns = ["rs-one", "rs-two"].map(|link| {
        let place = if link == "rs-one" { place.clone() } else { Place::User { uid: UID + 1 } };
        lab.attach(&kernel, &plan(link, place, 2)).unwrap()
    });
    lab.kill((kernel, tuns));
    assert!(run(&lab.host, "nft list tables").contains("ripstop-rs-two"));
    fs::write(lab.run.path().join("journal.json"), "{").unwrap();
    unlocked(|| lab.on_host(|| cleanup(lab.run.path()))).unwrap_err();
    assert_eq!(lab.snapshot(), before);
}
