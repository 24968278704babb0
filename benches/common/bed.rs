//! What is measured: two hosts on one link, their agents, and the servers at endpoints and outside them.

use super::{
    lab::{Lab, Place, Server},
    link::{self, Link, Wire},
    process,
    way::Way,
};
use anyhow::ensure;
use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Where iperf3 listens.
pub const BULK_PORT: u16 = 5201;
/// Where more of them listen, if a benchmark has them: one iperf3 serves one client at a time, with one thread.
pub const MORE_BULK_PORTS: [u16; 7] = [5202, 5203, 5204, 5205, 5206, 5207, 5208];
/// Where bytes and datagrams are sent back: several ports, so that connections in TIME-WAIT do not use up the caller's port
/// numbers.
pub const ECHO_PORTS: [u16; 8] = [7001, 7002, 7003, 7004, 7005, 7006, 7007, 7008];
/// Where connections are accepted and left alone.
pub const HOLD_PORT: u16 = 7100;
/// Where nginx listens, if a benchmark has one.
pub const HTTP_PORT: u16 = 7080;
/// Where datagrams are counted, if a benchmark does so: those that come alone, and those that come together.
pub const COUNT_PORTS: [u16; 2] = [7200, 7201];
/// The hosts, in the order in which figures of both are given.
pub const HOSTS: [&str; 2] = ["alpha", "beta"];
/// The longest pause before a figure, for the sessions of the one before it to end.
const QUIET: Duration = Duration::from_secs(10);

/// Workloads that call.
const CALLERS: [&str; 3] = ["caller", "rogue", "held"];

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
      space: { by: space, ports: [PORTS], idle: 1s }
      user: { by: user, ports: [PORTS], idle: 1s }
    allow:
      - { from: caller, to: space }
      - { from: caller, to: user }
      - { from: rogue, to: space }
      - { from: held, to: space, limit: { session: 500 mbit/s } }
";

/// The hosts, running.
pub struct Bed {
    // Servers end before their hosts, and the link after them.
    servers: Vec<Server>,
    program: String,
    /// The hosts themselves.
    pub lab: Lab,
    _wire: Wire,
}

impl Bed {
    /// Builds the hosts, joins them by a link of this kind, starts their agents, and waits until they are connected.
    pub fn build(like: Link) -> anyhow::Result<Self> {
        Self::build_with(like, "")
    }

    /// The same with more lines for the agents' settings.
    pub fn build_with(like: Link, settings: &str) -> anyhow::Result<Self> {
        let ports = [BULK_PORT, HOLD_PORT, HTTP_PORT].into_iter().chain(MORE_BULK_PORTS).chain(ECHO_PORTS);
        let ports = ports.map(|port| format!("{port}/tcp"));
        let datagrams = COUNT_PORTS.into_iter().chain(ECHO_PORTS).map(|port| format!("{port}/udp"));
        let ports = ports.chain(datagrams).collect::<Vec<_>>();
        let graph = GRAPH.replace("PORTS", &ports.join(", "));
        let lab = Lab::of(&HOSTS).graph(&graph).without_agent("alpha").without_agent("beta");
        let lab = HOSTS.into_iter().fold(lab, |lab, host| lab.settings(host, settings)).start();
        let wire = link::join(&lab, like)?;
        CALLERS.into_iter().for_each(|caller| link::widen_ports(&lab.workload(caller)));
        // The endpoint's user may not be able to read the build directory.
        let program = lab.file("bench");
        fs::copy(std::env::current_exe()?, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let bed = Self { servers: Vec::new(), program: program.display().to_string(), lab, _wire: wire };
        bed.start_agents();
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

    /// This program, where every host and workload can run it.
    pub fn program(&self) -> &str {
        &self.program
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

    /// Starts iperf3 and the echo in a place, at this address.
    pub fn serve(&mut self, place: &Place, address: &str) {
        let log = |what: &str| self.lab.file(&format!("{what}-{}-{}.log", place.name().replace('/', "-"), address));
        let iperf = ["iperf3", "-s", "-B", address, "-p", &BULK_PORT.to_string()];
        let echo = [&self.program, "echo", address];
        let servers = [
            place.spawn(&log("iperf3"), &iperf).listening(BULK_PORT),
            place.spawn(&log("echo"), &echo).listening(HOLD_PORT),
        ];
        self.servers.extend(servers);
    }

    /// Keeps a server of a benchmark's own as long as the others.
    pub fn keep(&mut self, server: Server) {
        self.servers.push(server);
    }

    /// The kernels' TCP over the link, from host to host.
    pub fn direct(&self) -> Way {
        Way { client: self.lab.host("alpha"), address: self.lab.host_address("beta").into(), carriers: Vec::new() }
    }

    /// Through the fabric from a workload to a service of the tenant.
    pub fn through_fabric(&self, workload: &str, service: &str) -> Way {
        let address: IpAddr = self.lab.service(&format!("bench/{service}"), 0).ip();
        let carriers = HOSTS.map(|host| self.lab.agent(host).pid()).into();
        Way { client: self.lab.workload(workload), address, carriers }
    }

    /// Starts this program in another role in a place; what it says goes to the returned file.
    pub fn play(&self, place: &Place, name: &str, role: &[&str]) -> (Server, PathBuf) {
        let log = self.lab.file(&format!("{name}.log"));
        let line: Vec<&str> = [self.program.as_str()].into_iter().chain(role.iter().copied()).collect();
        (place.spawn(&log, &line), log)
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

    /// Resident memory of each agent, in bytes.
    pub fn resident(&self) -> [u64; 2] {
        HOSTS.map(|host| process::resident(self.lab.agent(host).pid()))
    }

    /// Descriptors that each agent has open.
    pub fn descriptors(&self) -> [usize; 2] {
        HOSTS.map(|host| self.lab.agent(host).descriptors())
    }

    /// Sessions that each agent carries.
    pub fn sessions(&self) -> [u64; 2] {
        HOSTS.map(|host| self.lab.agent(host).status()["sessions_open"].as_u64().unwrap_or(0))
    }

    /// Waits until no session is left over.
    pub fn settle(&self) {
        let start = Instant::now();
        while self.sessions() != [0, 0] && start.elapsed() < QUIET {
            thread::sleep(Duration::from_millis(20));
        }
    }
}
