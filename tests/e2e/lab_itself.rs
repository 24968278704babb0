//! The lab: what it makes goes with it, also when a test panics.

use crate::lab::Lab;
use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    panic,
    process::Command,
    time::Duration,
};

fn outside() -> String {
    let look = "ip link; ip rule; ip route show table all; ls /run/netns /etc/netns 2>&1; cat /etc/resolv.conf";
    let output = Command::new("sh").args(["-c", look]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_panic_leaves_nothing() {
    let before = outside();
    let (mut pid, mut directory) = (0, std::path::PathBuf::new());
    let panicked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lab = Lab::of(&["alpha", "beta"]).without_agent("alpha").without_agent("beta").start();
        let sleeper = lab.workload("web").spawn(&lab.file("sleep.log"), &["sleep", "1000"]);
        (pid, directory) = (sleeper.pid(), lab.file(""));
        std::mem::forget(sleeper);
        assert_eq!(outside(), before, "nothing shows outside while it runs");
        panic!("as a failing test would");
    }));
    assert!(panicked.is_err());
    assert!(!fs::exists(format!("/proc/{pid}/net/tcp")).unwrap(), "the process {pid} went with its machine");
    assert!(!directory.exists(), "{} is gone", directory.display());
    assert_eq!(outside(), before);
}

#[test]
fn links_can_be_impaired_and_healed() {
    let lab = Lab::of(&["alpha", "beta"]).without_agent("alpha").without_agent("beta").start();
    let link = lab.link("beta");
    let v4 = SocketAddr::from((lab.host_address("beta"), 9000));
    let v6: SocketAddr = "[2001:db8::12]:9000".parse().unwrap();
    let arrives = |to: SocketAddr| {
        let receiver = lab.host("beta").inside(|| UdpSocket::bind("[::]:9000").unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        lab.host("alpha").inside(|| {
            let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            let _ = UdpSocket::bind(any).unwrap().send_to(b"x", to);
        });
        receiver.recv(&mut [0; 8]).is_ok()
    };
    let datagram = || arrives(v4);
    assert!(arrives(v4) && arrives(v6));
    link.unplug();
    assert!(!datagram());
    link.plug();
    crate::lab::wait_for("the link", datagram);
    link.blackhole();
    assert!(!datagram());
    link.heal();
    assert!(datagram());
    link.lose_per_mille(500);
    let arrived = (0..20).filter(|_| datagram()).count();
    assert!((1..20).contains(&arrived), "{arrived} of 20 arrived");
    link.rate_mbit(10);
    link.heal();
    assert!(datagram());
}
