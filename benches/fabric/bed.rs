//! What is measured: two hosts on one link, their agents, and the servers at both kinds of endpoint and outside them.

use crate::lab::{Lab, Place, Server};
use anyhow::{Context, ensure};
use nix::unistd::{SysconfVar, sysconf};
use ripstop::kernel::{link, netns};
use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::PathBuf,
};

/// MTU of the link between the hosts, in bytes.
pub const MTU: u32 = 1500;
/// Congestion control of the direct connections, as the agent sets it on its routes: a pacing one, where the machine
/// defaults to it, would slow them down.
pub const CONGESTION: &str = "cubic";
/// Where the lab's hosts have their addresses.
const NETWORK: &str = "192.0.2.0/24";
/// Where iperf3 listens.
pub const BULK_PORT: u16 = 5201;
/// Where bytes are sent back: several ports, so that connections in TIME-WAIT do not use up the caller's port numbers.
pub const ECHO_PORTS: [u16; 8] = [7001, 7002, 7003, 7004, 7005, 7006, 7007, 7008];
/// Where connections are accepted and left alone.
pub const HOLD_PORT: u16 = 7100;
/// The hosts, in the order in which figures of both are given.
pub const HOSTS: [&str; 2] = ["alpha", "beta"];

const GRAPH: &str = "
tenants:
  bench:
    workloads:
      caller: { on: [alpha], run: { netns: caller } }
      rogue: { on: [alpha], run: { netns: rogue } }
      held: { on: [alpha], run: { netns: held } }
      space: { on: [beta], run: { netns: space } }
      user: { on: [beta], run: { user: 64003 } }
    services:
      space: { by: space, ports: [PORTS] }
      user: { by: user, ports: [PORTS] }
    allow:
      - { from: caller, to: space }
      - { from: caller, to: user }
      - { from: rogue, to: space }
      - { from: held, to: space, limit: { session: 500 mbit/s } }
";

/// How a connection gets from alpha to beta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The kernels' TCP over the link.
    Direct,
    /// Through the fabric, to an endpoint in a namespace: userspace TCP at both ends.
    Namespace,
    /// Through the fabric, to an endpoint that is a user of the host: the kernel's TCP at its end.
    User,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Direct, Self::Namespace, Self::User];
}

/// The hosts, running.
pub struct Bed {
    // Servers end before their hosts.
    _servers: Vec<Server>,
    program: String,
    ticks: f64,
    lab: Lab,
}

impl Bed {
    /// Builds the hosts, starts agents and servers, and waits until all are ready.
    pub fn build() -> anyhow::Result<Self> {
        let ports = [BULK_PORT, HOLD_PORT].into_iter().chain(ECHO_PORTS).map(|port| format!("{port}/tcp"));
        let graph = GRAPH.replace("PORTS", &ports.collect::<Vec<_>>().join(", "));
        let lab = Lab::of(&HOSTS).graph(&graph).without_agent("alpha").without_agent("beta").start();
        join_directly(&lab)?;
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the length of a clock tick is unknown")? as f64;
        // The endpoint's user may not be able to read the build directory.
        let program = lab.file("bench");
        fs::copy(std::env::current_exe()?, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let mut bed = Self { _servers: Vec::new(), program: program.display().to_string(), ticks, lab };
        bed.start_agents();
        bed._servers = Way::ALL.into_iter().flat_map(|way| bed.serve(way)).collect();
        Ok(bed)
    }

    fn start_agents(&self) {
        for host in HOSTS {
            self.lab.agent(host).launch();
        }
        for host in HOSTS {
            self.lab.agent(host).wait_ready();
        }
        self.lab.agent("alpha").wait_up(&["beta"]);
    }

    /// Starts the agents anew, as if they had carried nothing.
    pub fn restart(&self) -> anyhow::Result<()> {
        for host in HOSTS {
            let code = self.lab.agent(host).stop();
            ensure!(code == 0, "the agent of {host} ended with {code}:\n{}", self.lab.agent(host).log());
        }
        self.start_agents();
        Ok(())
    }

    fn serve(&self, way: Way) -> Vec<Server> {
        let place = self.server(way);
        let address = match way {
            Way::Direct => self.lab.host_address("beta").to_string(),
            Way::Namespace => "0.0.0.0".to_owned(),
            Way::User => "127.0.0.1".to_owned(),
        };
        let log = |what: &str| self.lab.file(&format!("{what}-{way:?}.log"));
        let iperf = ["iperf3", "-s", "-B", &address, "-p", &BULK_PORT.to_string()];
        let echo = [&self.program, "echo", &address];
        vec![
            place.spawn(&log("iperf3"), &iperf).listening(BULK_PORT),
            place.spawn(&log("echo"), &echo).listening(HOLD_PORT),
        ]
    }

    fn server(&self, way: Way) -> Place {
        match way {
            Way::Direct => self.lab.host("beta"),
            Way::Namespace => self.lab.workload("space"),
            Way::User => self.lab.workload("user"),
        }
    }

    /// Where the client is.
    pub fn client(&self, way: Way) -> Place {
        match way {
            Way::Direct => self.lab.host("alpha"),
            Way::Namespace | Way::User => self.lab.workload("caller"),
        }
    }

    /// What the client connects to.
    pub fn target(&self, way: Way, port: u16) -> SocketAddr {
        match way {
            Way::Direct => (self.lab.host_address("beta"), port).into(),
            Way::Namespace => self.lab.service("bench/space", port),
            Way::User => self.lab.service("bench/user", port),
        }
    }

    /// Where a client is that takes all it can get: a workload of its own.
    pub fn rogue(&self, way: Way, held: bool) -> Place {
        match (way, held) {
            (Way::Direct, _) => self.lab.host("alpha"),
            (Way::Namespace | Way::User, false) => self.lab.workload("rogue"),
            (Way::Namespace | Way::User, true) => self.lab.workload("held"),
        }
    }

    /// Limits the link to so many Mbit/s each way, with a queue of 10 ms at its end; without a rate, takes the limit away.
    pub fn thin(&self, rate: Option<u32>) {
        for host in HOSTS {
            let host = self.lab.host(host);
            match rate {
                Some(rate) => {
                    host.sh(&format!("tc qdisc replace dev eth0 root tbf rate {rate}mbit burst 64k latency 10ms"))
                }
                None => host.sh("tc qdisc del dev eth0 root 2>/dev/null || true"),
            };
        }
    }

    /// Starts this program in another role beside the client; what it says goes to the returned file.
    pub fn play(&self, way: Way, name: &str, role: &[&str]) -> (Server, PathBuf) {
        let log = self.lab.file(&format!("{name}.log"));
        let line: Vec<&str> = [self.program.as_str()].into_iter().chain(role.iter().copied()).collect();
        (self.client(way).spawn(&log, &line), log)
    }

    /// Processor time that both agents have used, in seconds.
    pub fn agents_cpu(&self) -> f64 {
        HOSTS.map(|host| cpu_ticks(self.lab.agent(host).pid()) as f64 / self.ticks).iter().sum()
    }

    /// Resident memory of each agent, in bytes.
    pub fn resident(&self) -> [u64; 2] {
        HOSTS.map(|host| self.lab.agent(host).resident())
    }

    /// Descriptors that each agent has open.
    pub fn descriptors(&self) -> [usize; 2] {
        HOSTS.map(|host| self.lab.agent(host).descriptors())
    }

    /// Sessions that each agent carries.
    pub fn sessions(&self) -> [u64; 2] {
        HOSTS.map(|host| self.lab.agent(host).status()["sessions_open"].as_u64().unwrap_or(0))
    }
}

/// Joins the hosts by one pair of links, with the addresses that they have on the lab's bridge: what is measured is not
/// the bridge.
fn join_directly(lab: &Lab) -> anyhow::Result<()> {
    let namespaces = HOSTS.map(|host| lab.host(host).inside(|| File::open(netns::OWN)));
    let [alpha, beta] = namespaces;
    let files = [alpha?, beta?];
    let paths = files.each_ref().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
    for path in &paths {
        netns::run_in(path, || link::delete("eth0"))??;
    }
    let [one, other] = paths.each_ref().map(|namespace| link::End { namespace, link: "eth0" });
    link::veth(one, other)?;
    for (host, path) in HOSTS.into_iter().zip(&paths) {
        let address = IpAddr::V4(lab.host_address(host));
        netns::run_in(path, || {
            link::mtu("eth0", MTU)?;
            link::address("eth0", address, 24)?;
            link::up("eth0")
        })??;
        lab.host(host).sh(&format!(
            "ip route replace {NETWORK} dev eth0 proto kernel scope link src {address} congctl lock {CONGESTION}"
        ));
    }
    Ok(())
}

/// User and system time of a process in clock ticks: fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the last parenthesis may hold spaces; field 3 follows it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}
