//! The link between the hosts: one pair of devices, with the addresses that the hosts have on the lab's bridge. What is
//! measured is not the bridge.

use super::{
    bed::HOSTS,
    lab::{Lab, Place},
};
use anyhow::Context;
use ripstop_kernel::{link, netns};
use std::{
    fs::File,
    io::ErrorKind,
    net::IpAddr,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// MTU of a link as most are, in bytes.
pub const MTU: u32 = 1500;
/// Congestion control of all TCP of the hosts, as the agent sets it on its routes: a pacing one, where the machine defaults
/// to it, would slow it down.
pub const CONGESTION: &str = "cubic";
/// Prefix of the lab's network.
const PREFIX: u8 = 24;
/// Packets that a slow link holds each way: 10 ms of 40 Gbit/s at an MTU of 1500. What comes on top is dropped, as by a
/// router.
const QUEUE: usize = 32_768;
/// How often a slow link looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// What a link is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Bytes of its largest packet.
    pub mtu: u32,
    /// Packets of a thousand that it loses, each way.
    pub lost_per_mille: u32,
    /// How long a packet is under way.
    pub delay: Duration,
}

impl Default for Link {
    fn default() -> Self {
        Self { mtu: MTU, lost_per_mille: 0, delay: Duration::ZERO }
    }
}

/// A link that carries packets until it is dropped.
pub struct Wire {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Joins the hosts by a link of this kind.
pub fn join(lab: &Lab, like: Link) -> anyhow::Result<Wire> {
    let [alpha, beta] = HOSTS.map(|host| lab.host(host).inside(|| File::open(netns::OWN)));
    let files = [alpha?, beta?];
    let paths = files.each_ref().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
    for path in &paths {
        netns::run_in(path, || link::delete("eth0"))??;
    }
    let wire = if like.delay.is_zero() {
        let [one, other] = paths.each_ref().map(|namespace| link::End { namespace, link: "eth0" });
        link::veth(one, other)?;
        Wire { stop: Arc::default(), threads: Vec::new() }
    } else {
        let [one, other] = paths.each_ref().map(|path| netns::run_in(path, device));
        slow(one??, other??, like.delay)
    };
    for (host, path) in HOSTS.into_iter().zip(&paths) {
        let address = IpAddr::V4(lab.host_address(host));
        netns::run_in(path, || {
            link::mtu("eth0", like.mtu)?;
            link::address("eth0", address, PREFIX)?;
            link::up("eth0")
        })??;
        widen_ports(&lab.host(host));
        congestion(lab, host, "eth0");
        lab.host(host).sh(&format!(
            "ip route change local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 congctl lock {CONGESTION}"
        ));
        if !like.delay.is_zero() {
            lab.host(host).sh(&format!("ip link set eth0 txqueuelen {QUEUE}"));
        }
        lose(lab, host, like.lost_per_mille);
    }
    Ok(wire)
}

/// Gives clients more ports: they open more connections in a row than the usual range has room for in TIME-WAIT, and where that
/// is full a kernel looks for milliseconds for a port that is free.
pub fn widen_ports(place: &Place) {
    place.sh("cd /proc/sys/net/ipv4; echo '20000 60999' > ip_local_port_range; echo 1 > tcp_tw_reuse");
}

/// Sets the congestion control of all TCP over an interface of a host: by its routes, because a namespace may not choose
/// any as its default.
pub fn congestion(lab: &Lab, host: &str, interface: &str) {
    lab.host(host).sh(&format!(
        "ip -4 route show dev {interface} | sed 's/ linkdown//' | while read -r route; do \
         ip route replace $route dev {interface} congctl lock {CONGESTION}; done"
    ));
}

/// Has a host lose what comes in. Segmentation is moved into software first, so that packets are lost one by one and not in
/// bursts of 40.
fn lose(lab: &Lab, host: &str, per_mille: u32) {
    if per_mille == 0 {
        return;
    }
    lab.host(host).sh(&format!(
        "ip link set eth0 gso_max_segs 1
         nft -f - <<'END'\ntable inet link {{\nchain in {{ type filter hook input priority 0; \
         iifname eth0 meta l4proto {{ tcp, udp }} numgen random mod 1000 < {per_mille} drop; }}\n}}\nEND"
    ));
}

/// One end of a slow link, in the calling thread's namespace: an interface whose packets this process carries.
fn device() -> anyhow::Result<tun::Device> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name("eth0");
    let device = tun::create(&configuration).context("failed to make an end of the slow link")?;
    device.set_nonblock().context("failed to make an end of the slow link")?;
    Ok(device)
}

fn slow(one: tun::Device, other: tun::Device, delay: Duration) -> Wire {
    let stop = Arc::new(AtomicBool::new(false));
    let ends = [Arc::new(one), Arc::new(other)];
    let mut threads = Vec::new();
    for (from, to) in [(0, 1), (1, 0)] {
        let (queue, waiting) = sync_channel(QUEUE);
        let (from, to, stop) = (Arc::clone(&ends[from]), Arc::clone(&ends[to]), Arc::clone(&stop));
        threads.push(thread::spawn(move || take_in(&from, delay, &queue, &stop)));
        threads.push(thread::spawn(move || hand_out(&to, &waiting)));
    }
    Wire { stop, threads }
}

/// A packet and when it has arrived.
type Parcel = (Instant, Vec<u8>);

fn take_in(from: &tun::Device, delay: Duration, queue: &SyncSender<Parcel>, stop: &AtomicBool) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    while !stop.load(Ordering::Relaxed) {
        let received = match from.recv(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => from.recv_timeout(&mut buffer, LOOK),
            received => received,
        };
        match received {
            // A full queue drops it.
            Ok(length) => drop(queue.try_send((Instant::now() + delay, buffer[..length].to_vec()))),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
            // The interface is gone.
            Err(_) => return,
        }
    }
}

/// Ends when nothing is put in any more.
fn hand_out(to: &tun::Device, waiting: &Receiver<Parcel>) {
    for (due, packet) in waiting {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // An interface that is down, or gone, takes nothing.
        drop(to.send(&packet));
    }
}
