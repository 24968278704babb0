//! Tests on the real kernel, in namespaces of their own: the machine's is never changed.

use super::*;
use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, IoSlice},
    net::{IpAddr, TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub(super) const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);
pub(super) const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0, 0, 0, 0, 9);
pub(super) const UID: u32 = 64_101;
/// A refusal that comes from a route comes in microseconds; a SYN that nobody answers is repeated after a second.
pub(super) const AT_ONCE: Duration = Duration::from_millis(900);

/// Tries again while a run directory is locked: what another test runs has the lock of one that was dropped, too, from its fork to its
/// exec.
pub(super) fn unlocked<T>(mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 0..100 {
        match work() {
            Err(Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
    work()
}

/// Waits for what the kernel does once the last descriptor is closed: what another test runs has a copy of each from its fork to its exec.
pub(super) fn until(gone: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while !gone() {
        assert!(Instant::now() < deadline, "what was closed is gone");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A host in a namespace, a namespace for a workload, and a run directory; gone when dropped.
pub(super) struct Lab {
    pub(super) host: String,
    pub(super) workload: String,
    pub(super) run: tempfile::TempDir,
}

impl Lab {
    /// `None`, saying so, where the machine cannot do it.
    pub(super) fn new() -> Option<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let missing = preflight();
        if !missing.is_empty() {
            eprintln!("SKIPPED: {}", missing.iter().map(Missing::to_string).collect::<Vec<_>>().join("; "));
            return None;
        }
        let unique = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let (host, workload) = (format!("rsk-host-{unique}"), format!("rsk-work-{unique}"));
        netns::create(&host).unwrap();
        netns::create(&workload).unwrap();
        Some(Self { host, workload, run: tempfile::tempdir().unwrap() })
    }

    pub(super) fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&netns::path_of(&self.host), work).unwrap()
    }

    pub(super) fn in_workload<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.workload_path(), work).unwrap()
    }

    pub(super) fn workload_path(&self) -> PathBuf {
        netns::path_of(&self.workload)
    }

    pub(super) fn open(&self) -> Kernel {
        unlocked(|| self.on_host(|| Kernel::open(self.run.path()))).unwrap()
    }

    /// An interface of one queue.
    pub(super) fn attach(&self, kernel: &Kernel, plan: &AttachPlan) -> Result<Tun, Error> {
        let mut queues = self.on_host(|| kernel.attach(plan))?;
        assert_eq!(queues.len(), 1);
        Ok(queues.remove(0))
    }

    pub(super) fn netns_plan(&self) -> AttachPlan {
        plan("rs-web", Place::Netns(self.workload_path()), 1)
    }

    /// Drops what an agent had, as its end does, and waits until its interfaces are gone.
    pub(super) fn kill<T>(&self, agent: T) {
        drop(agent);
        for place in [&self.host, &self.workload] {
            until(|| !run(place, "ip -oneline link").contains(" rs-"));
        }
    }

    fn spawn_as(&self, uid: u32, script: &str) -> Child {
        let mut command = Command::new("bash");
        command.args(["-c", script]).uid(uid).stderr(Stdio::piped());
        netns::spawn_in(&netns::path_of(&self.host), &mut command).unwrap()
    }

    /// What `ip` and `nft` say of both namespaces, and the files for name resolution.
    pub(super) fn snapshot(&self) -> BTreeMap<String, String> {
        let commands = [
            "ip link",
            "ip address",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip -6 route show table all",
            "nft list ruleset",
        ];
        let mut found = BTreeMap::new();
        for name in [&self.host, &self.workload] {
            for line in commands {
                found.insert(format!("{name}: {line}"), run(name, line));
            }
            let files = fs::read_dir(format!("/etc/netns/{name}")).map(Iterator::count);
            found.insert(format!("{name}: /etc/netns"), format!("{:?}", files.ok()));
        }
        found
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.host, &self.workload] {
            drop(netns::remove(name));
        }
        // Where no agent was left to do it.
        drop(fs::remove_dir_all(Path::new("/etc/netns").join(&self.workload)));
    }
}

pub(super) fn run(namespace: &str, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = netns::spawn_in(&netns::path_of(namespace), &mut command).unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn plan(link: &str, place: Place, number: u8) -> AttachPlan {
    AttachPlan {
        link: link.into(),
        place,
        v4: Ipv4Addr::new(198, 19, 0, number),
        v6: Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 1, 0, 0, 0, number.into()),
        ranges: Ranges {
            services_v4: "198.18.0.0/16".parse().unwrap(),
            workloads_v4: "198.19.0.0/16".parse().unwrap(),
            v6: "fd12:3456:789a::/48".parse().unwrap(),
        },
        isolated: false,
        resolver: Ipv4Addr::new(198, 18, 0, 1),
        queues: 1,
    }
}

/// The next packet, without its virtio header.
pub(super) fn packet(tun: &Tun, patience: Duration) -> Option<Vec<u8>> {
    let mut buffer = Vec::with_capacity(VNET_HEADER + 65_535);
    let deadline = Instant::now() + patience;
    loop {
        match tun.recv(&mut buffer) {
            Ok(()) => return Some(buffer[VNET_HEADER..].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn destination_port(bytes: &[u8]) -> u16 {
    let transport = if bytes[0] >> 4 == 4 { 20 } else { 40 };
    u16::from_be_bytes([bytes[transport + 2], bytes[transport + 3]])
}

/// Sends one datagram from the calling thread's namespace; the source that the kernel chose.
pub(super) fn datagram(to: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((to, 5353))?;
    socket.send(b"who calls")?;
    Ok(socket.local_addr()?.ip())
}

/// Answers the SYN that is next on the interface as a service would, with its own packet turned round: what is summed stays the same.
fn accept(tun: &Tun) -> Ipv4Addr {
    let mut packet = packet(tun, Duration::from_secs(3)).expect("a SYN arrives");
    assert_eq!((packet[0], packet[9], packet[33] & 0x12), (0x45, 6, 0x02), "a SYN over IPv4");
    let caller = Ipv4Addr::from(*packet[12..].first_chunk().unwrap());
    // Addresses, then ports.
    for (one, other, length) in [(12, 16, 4), (20, 22, 2)] {
        let (left, right) = packet.split_at_mut(other);
        left[one..one + length].swap_with_slice(&mut right[..length]);
    }
    let sequence = u32::from_be_bytes(*packet[24..].first_chunk().unwrap());
    packet[24..28].copy_from_slice(&7_u32.to_be_bytes());
    packet[28..32].copy_from_slice(&(sequence + 1).to_be_bytes());
    packet[33] |= 0x10;
    // The checksum is left to the kernel, as it was left to us: from where, and where it goes from there.
    let ([start_0, start_1], [offset_0, offset_1]) = (20_u16.to_ne_bytes(), 16_u16.to_ne_bytes());
    let header: [u8; VNET_HEADER] = [1, 0, 0, 0, 0, 0, start_0, start_1, offset_0, offset_1];
    tun.send(&[IoSlice::new(&header), IoSlice::new(&packet)]).unwrap();
    caller
}

#[test]
fn a_namespace_sends_to_its_interface_from_its_own_address_and_nothing_else_comes() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let plan = lab.netns_plan();
    let tun = lab.attach(&kernel, &plan).unwrap();
    // Long enough for a router solicitation or a multicast report to show itself.
    assert_eq!(packet(&tun, Duration::from_millis(1500)), None);
    for (to, source) in [(IpAddr::V4(SERVICE_V4), IpAddr::V4(plan.v4)), (SERVICE_V6.into(), plan.v6.into())] {
        assert_eq!(lab.in_workload(|| datagram(to)).unwrap(), source);
        let bytes = packet(&tun, Duration::from_secs(1)).expect("the datagram arrives");
        assert!(bytes.ends_with(b"who calls"));
    }
    let routes = run(&lab.workload, "ip route");
    assert!(routes.contains("198.18.0.0/16 dev rs-web proto 214 scope link src 198.19.0.1"), "{routes}");
    assert!(routes.contains("unreachable 198.19.0.0/16 proto 214 metric"), "{routes}");
    let link = run(&lab.workload, "ip link show rs-web");
    assert!(link.contains("mtu 65535") && link.contains("qlen 4000"), "{link}");
    kernel.restore().unwrap();
    drop(tun);
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_user_reaches_its_interface_and_every_other_user_is_refused_at_once() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let plan = plan("rs-api", Place::User { uid: UID }, 2);
    let tun = lab.attach(&kernel, &plan).unwrap();
    for rp_filter in ["0", "1", "2"] {
        lab.on_host(|| fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", rp_filter)).unwrap();
        let mut client = lab.spawn_as(UID, "exec 3<>/dev/tcp/198.18.0.9/80");
        assert_eq!(accept(&tun), plan.v4);
        assert!(client.wait().unwrap().success(), "rp_filter={rp_filter}");
        while packet(&tun, Duration::from_millis(50)).is_some() {}
    }
    for address in ["198.18.0.9", "fd12:3456:789a::9"] {
        let asked = Instant::now();
        let other = lab.spawn_as(UID + 1, &format!("exec 3<>/dev/tcp/{address}/81")).wait_with_output().unwrap();
        assert!(!other.status.success() && asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        assert!(String::from_utf8_lossy(&other.stderr).contains("No route to host"), "{other:?}");
        // The first user's closed connections may still repeat their FIN.
        while let Some(bytes) = packet(&tun, Duration::from_millis(50)) {
            assert_eq!(destination_port(&bytes), 80);
        }
    }
    kernel.detach("rs-api").unwrap();
    lab.on_host(|| fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")).unwrap();
    drop(tun);
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn two_users_of_one_host_are_never_mixed_up() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let tuns = [0_u8, 1].map(|n| {
        let place = Place::User { uid: UID + u32::from(n) };
        lab.attach(&kernel, &plan(&format!("rs-u{n}"), place, 10 + n)).unwrap()
    });
    for n in [1, 0] {
        let mut client = lab.spawn_as(UID + n, "exec 3<>/dev/udp/fd12:3456:789a::9/53; echo hello >&3");
        assert!(client.wait().unwrap().success());
        let mine = packet(&tuns[n as usize], Duration::from_secs(1)).expect("it arrives");
        assert_eq!(mine[23], 10 + n as u8, "the last byte of its IPv6 source");
        assert_eq!(packet(&tuns[1 - n as usize], Duration::from_millis(50)), None);
    }
    kernel.detach("rs-u0").unwrap();
    let left = run(&lab.host, "ip route");
    assert!(left.contains("unreachable 198.18.0.0/16"), "the other user's host still refuses: {left}");
    kernel.restore().unwrap();
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn after_a_kill_calls_fail_at_once_and_the_next_start_cleans() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    let user = lab.attach(&kernel, &plan("rs-api", Place::User { uid: UID }, 2)).unwrap();
    lab.kill((kernel, tun, user));
    for to in [IpAddr::V4(SERVICE_V4), SERVICE_V6.into()] {
        let asked = Instant::now();
        let refused = lab.in_workload(|| TcpStream::connect((to, 80))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{to}");
        assert!(asked.elapsed() < AT_ONCE);
    }
    let orphan = lab.spawn_as(UID, "exec 3<>/dev/tcp/198.18.0.9/80").wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&orphan.stderr).contains("No route to host"), "{orphan:?}");
    let report = unlocked(|| lab.on_host(|| cleanup(lab.run.path()))).unwrap();
    assert_eq!((report.rules, report.files, report.gone), (6, 1, 0), "{report}");
    assert_eq!(lab.snapshot(), before);
    assert!(!unlocked(|| lab.on_host(|| cleanup(lab.run.path()))).unwrap().is_anything());
}

#[test]
fn cleanup_finds_the_host_from_elsewhere_and_skips_a_namespace_that_is_gone() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    let clean = run(&lab.host, "ip rule");
    let user = lab.attach(&kernel, &plan("rs-api", Place::User { uid: UID }, 2)).unwrap();
    assert_ne!(run(&lab.host, "ip rule"), clean);
    assert!(matches!(cleanup(lab.run.path()), Err(Error::Locked { .. })), "not under a live agent");
    lab.kill((kernel, tun, user));
    netns::remove(&lab.workload).unwrap();
    let report = unlocked(|| cleanup(lab.run.path())).unwrap();
    assert_eq!(report.gone, 1, "{report}");
    assert_eq!(run(&lab.host, "ip rule"), clean);
}

#[test]
fn an_unreadable_journal_is_an_error_once_and_the_host_is_clean() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &plan("rs-api", Place::User { uid: UID }, 2)).unwrap();
    lab.kill((kernel, tun));
    fs::write(lab.run.path().join("journal.json"), "{\"version\":1,\"att").unwrap();
    let error = unlocked(|| lab.on_host(|| Kernel::open(lab.run.path()))).unwrap_err();
    assert!(error.to_string().contains("journal.json.corrupt"), "{error}");
    assert_eq!(lab.snapshot(), before);
    lab.open();
}

#[test]
fn a_refused_plan_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    run(&lab.workload, "ip link add rs-taken type bridge");
    run(&lab.workload, "ip route add 198.19.0.0/16 dev lo");
    let before = lab.snapshot();
    let kernel = lab.open();
    let own = netns::path_of(&lab.host);
    let bad = [
        (plan("rs-taken", Place::Netns(lab.workload_path()), 1), "a link of this name is there"),
        (lab.netns_plan(), "delete the other route to 198.19.0.0/16"),
        (plan("rs-own", Place::Netns(own), 1), "the agent's own"),
        (plan("rs-root", Place::User { uid: 0 }, 1), "root is not a workload"),
        (plan("sixteen-bytes-xx", Place::User { uid: UID }, 1), "1 to 15 bytes"),
        (plan("rs-gone", Place::Netns(netns::path_of("rsk-nowhere")), 1), "rsk-nowhere"),
    ];
    for (plan, wanted) in bad {
        let error = lab.attach(&kernel, &plan).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(lab.snapshot(), before, "{wanted}");
    }
    assert!(!lab.run.path().join("journal.json").exists());
}

#[test]
fn programs_of_a_named_namespace_see_the_resolver_unless_they_have_one() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.open();
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    assert!(run(&lab.workload, "cat /etc/resolv.conf").contains("nameserver 198.18.0.1\n"));
    kernel.detach("rs-web").unwrap();
    drop(tun);
    let directory = PathBuf::from(format!("/etc/netns/{}", lab.workload));
    assert!(!directory.exists());
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    kernel.restore().unwrap();
    drop(tun);
    assert_eq!(fs::read_to_string(directory.join("resolv.conf")).unwrap(), "nameserver 192.0.2.53\n");
    fs::remove_dir_all(&directory).unwrap();
    drop(fs::remove_dir("/etc/netns"));
}

#[test]
fn links_join_namespaces_through_a_bridge() {
    let Some(lab) = Lab::new() else { return };
    let (host, workload) = (netns::path_of(&lab.host), lab.workload_path());
    link::veth(link::End { namespace: &host, link: "port0" }, link::End { namespace: &workload, link: "eth0" })
        .unwrap();
    lab.on_host(|| {
        link::bridge("br0").unwrap();
        link::join_bridge("port0", "br0").unwrap();
        link::up("port0").unwrap();
        link::address("br0", "10.77.0.1".parse().unwrap(), 24).unwrap();
    });
    lab.in_workload(|| {
        link::mtu("eth0", 1400).unwrap();
        link::up("eth0").unwrap();
        link::address("eth0", "10.77.0.2".parse().unwrap(), 24).unwrap();
        link::route("0.0.0.0/0".parse().unwrap(), "10.77.0.1".parse().unwrap()).unwrap();
    });
    let server = lab.on_host(|| UdpSocket::bind("10.77.0.1:5353")).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    assert_eq!(lab.in_workload(|| datagram("10.77.0.1".parse().unwrap())).unwrap().to_string(), "10.77.0.2");
    assert_eq!(server.recv(&mut [0; 64]).unwrap(), 9);
    assert!(lab.on_host(|| link::exists("br0")).unwrap());
    lab.on_host(|| link::delete("br0")).unwrap();
    assert!(!lab.on_host(|| link::exists("br0")).unwrap());
}
