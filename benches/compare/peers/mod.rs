//! The systems at work: each is started on both hosts, as its documentation has it, and is ready when a byte comes back.
//!
//! Where there is a choice it is AES-128-GCM (WireGuard has ChaCha20-Poly1305 alone), a TUN MTU as large as the link allows,
//! and otherwise what the packages have as defaults; what differs from them is said where it is set.

mod bare;
mod haproxy;
mod keys;
mod nebula;
mod openvpn;
mod quincy;
mod wireguard;

pub use keys::Keys;

use crate::{
    common::{
        bed::{BULK_PORT, Bed, ECHO_PORTS, HOLD_PORT, HOSTS, HTTP_PORT},
        lab::Server,
        link, load,
        way::Way,
    },
    programs::Programs,
    system::{Class, System},
};
use anyhow::{Context, bail, ensure};
use std::{
    io::{Read, Write},
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

/// The longest that a system may take until it carries something.
const READY: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// The ports whose servers a sidecar stands before.
const TCP_PORTS: [u16; 11] = [
    BULK_PORT,
    HOLD_PORT,
    HTTP_PORT,
    ECHO_PORTS[0],
    ECHO_PORTS[1],
    ECHO_PORTS[2],
    ECHO_PORTS[3],
    ECHO_PORTS[4],
    ECHO_PORTS[5],
    ECHO_PORTS[6],
    ECHO_PORTS[7],
];

/// A system that is up; it ends with this.
pub struct Peer {
    pub system: System,
    servers: Vec<Server>,
}

/// What a system is started with.
pub struct Site<'a> {
    pub bed: &'a Bed,
    pub programs: &'a Programs,
    pub keys: &'a Keys,
    /// MTU of the link between the hosts.
    pub mtu: u32,
}

impl Peer {
    /// Starts it on both hosts and waits until a byte comes back through it.
    pub fn start(system: System, site: &Site<'_>) -> anyhow::Result<Self> {
        let servers = match system {
            System::Direct | System::Fabric | System::Unbound => Vec::new(),
            System::BareTun => bare::start(site)?,
            System::WireguardGo => wireguard::start(system, site, &["-f"])?,
            // Its threads share the queues of one interface and overtake each other: one is faster here.
            System::Boringtun => wireguard::start(system, site, &["-f", "--disable-drop-privileges", "-t", "1"])?,
            System::Gotatun => wireguard::start(system, site, &["-f", "--disable-drop-privileges"])?,
            System::OpenVpn => openvpn::start(site)?,
            System::Nebula => nebula::start(site)?,
            System::Quincy => quincy::start(site)?,
            System::Haproxy => haproxy::start(site)?,
        };
        let mut peer = Self { system, servers };
        peer.wait_ready(site.bed)?;
        if matches!(system.class(), Class::Bare | Class::Vpn) {
            HOSTS.iter().for_each(|host| link::congestion(&site.bed.lab, host, &system.link()));
        }
        Ok(peer)
    }

    /// The way through it, as it is now.
    pub fn way(&self, bed: &Bed) -> Way {
        let carriers = self.servers.iter().map(Server::pid).collect();
        match self.system.class() {
            Class::Plain => bed.direct(),
            Class::Fabric => bed.through_fabric("caller", "space"),
            Class::Bare | Class::Vpn => Way { address: in_tunnel(self.system), carriers, ..bed.direct() },
            Class::Sidecar => Way { address: haproxy::LOCAL.into(), carriers, ..bed.direct() },
        }
    }

    fn wait_ready(&mut self, bed: &Bed) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(ended) = self.servers.iter_mut().find_map(|server| (!server.is_running()).then_some(server)) {
                bail!("{} ended: {}", self.system, tail(&ended.log()));
            }
            let way = self.way(bed);
            let Err(error) = way.client.inside(|| echoed(&way)) else { return Ok(()) };
            if start.elapsed() > READY {
                let logs: Vec<_> = self.servers.iter().map(|server| tail(&server.log())).collect();
                return Err(error)
                    .with_context(|| format!("{} carries nothing after {READY:?}: {}", self.system, logs.join(" | ")));
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Waits until a system has made something that its others need.
fn wait(what: &str, is_there: impl Fn() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !is_there() {
        ensure!(start.elapsed() < READY, "no {what} after {READY:?}");
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn echoed(way: &Way) -> anyhow::Result<()> {
    let mut stream = load::connect(way.target(ECHO_PORTS[0]), Duration::from_secs(1))?;
    let mut byte = [1];
    stream.write_all(&byte)?;
    Ok(stream.read_exact(&mut byte)?)
}

fn in_tunnel(system: System) -> IpAddr {
    system.tunnel(2).parse().unwrap_or(IpAddr::V4(haproxy::LOCAL))
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}

impl Site<'_> {
    /// Starts a program of a system on a host.
    fn spawn(&self, system: System, host: &str, line: &[&str]) -> Server {
        let log = self.bed.lab.file(&format!("{}-{host}.log", system.name().replace(' ', "-")));
        self.bed.lab.host(host).spawn(&log, line)
    }

    /// Writes a file of a system, which every host sees at the returned path.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.bed.lab.path(name);
        std::fs::write(&path, text).with_context(|| format!("failed to write {path}"))?;
        Ok(path)
    }
}

/// A host's number in the tunnels' addresses.
fn number(host: &str) -> usize {
    if host == "alpha" { 1 } else { 2 }
}

/// The other host.
fn other(host: &str) -> &'static str {
    if host == "alpha" { "beta" } else { "alpha" }
}
