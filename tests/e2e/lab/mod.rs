//! Whole hosts in namespaces: the lab of the end-to-end tests.
//!
//! ```ignore
//! let lab = Lab::of(&["alpha", "beta"]).graph(SHOP).start();
//! let _server = lab.workload("api").serve(8080, echo);
//! lab.workload("web").ok(&["curl", "-sS", "http://api.shop.lab.test:8080/"]);
//! ```
//!
//! Every host is a machine of its own (network, mounts, processes, `/run`) with a cable to a bridge; every workload that
//! the graph places on it in a namespace has that namespace under the machine's `/run/netns`; every host runs the real
//! agent as a process. All of it goes when the [`Lab`] is dropped, also when the test panics or is killed. A test that
//! fails prints how to get into each place; with `RIPSTOP_LAB_KEEP=1` it then waits, so that one can look around.
//! `RIPSTOP_LAB_LOG` is the agents' `RIPSTOP_LOG`, `RIPSTOP_LAB_BINARY` the binary to test in place of cargo's,
//! `RIPSTOP_LAB_DATA_THREADS` how many data threads agents have where a test does not say.

mod agent;
mod link;
mod machine;
mod place;
mod relay;
mod signed;
mod tap;
mod underlay;

pub use agent::{AGENT_WAIT, Agent, ask, http_get, ripstop};
pub use link::Link;
pub use machine::children;
pub use place::{Listening, Place, Server};
pub use relay::Relay;
pub use tap::{Tap, destination};

use machine::Machine;
use ripstop_config::{Graph, WorkloadId, graph::Run, graph::User};
use ripstop_policy::Policy;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use underlay::{Underlay, address, plug_in, whole_graph};

/// The fabric of every lab.
pub const FABRIC: &str = "lab.test";

/// The graph of most tests: `web` on alpha may call `api` on beta; `other` may call nothing.
pub const SHOP: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      other: { on: [alpha], run: { netns: other } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, ports: [8080/tcp, 80/tcp] }
    allow:
      - { from: web, to: api }
";

/// What a lab will be.
pub struct Builder {
    hosts: Vec<&'static str>,
    graph: String,
    graphs: BTreeMap<&'static str, String>,
    settings: BTreeMap<&'static str, String>,
    silent: BTreeSet<&'static str>,
    underlay: Underlay,
    signed: bool,
}

impl Builder {
    /// The graph's tenants, for every host; the fabric's name and the hosts are put before it.
    pub fn graph(mut self, tenants: &str) -> Self {
        self.graph = tenants.into();
        self
    }

    /// Another graph for one host only.
    pub fn graph_of(mut self, host: &'static str, tenants: &str) -> Self {
        self.graphs.insert(host, tenants.into());
        self
    }

    /// More lines for one host's `agent.yaml`.
    pub fn settings(mut self, host: &'static str, yaml: &str) -> Self {
        self.settings.insert(host, yaml.into());
        self
    }

    /// Has the hosts find each other at the doors of a relay, which [`Lab::relay`] impairs.
    pub fn through_relay(mut self) -> Self {
        self.underlay = Underlay::Relay;
        self
    }

    /// Has the hosts find each other by IPv6, and takes their IPv4 addresses on the wire away.
    pub fn over_ipv6(mut self) -> Self {
        self.underlay = Underlay::V6;
        self
    }

    /// Has the policy signed by an operator in place of a file on each host: the agents start without one, and the first
    /// running host is given it.
    pub fn signed(mut self) -> Self {
        self.signed = true;
        self
    }

    /// Builds this host without starting its agent.
    pub fn without_agent(mut self, host: &'static str) -> Self {
        self.silent.insert(host);
        self
    }

    /// Builds the hosts and starts their agents, and waits until every one is connected to those that it calls.
    pub fn start(self) -> Lab {
        let lab = Lab::build(&self);
        let running: Vec<_> = self.hosts.iter().copied().filter(|host| !self.silent.contains(host)).collect();
        for host in &running {
            lab.agent(host).launch();
        }
        for host in &running {
            lab.agent(host).wait_ready();
        }
        if self.signed && !running.is_empty() {
            lab.first_policy(&running);
        }
        for host in &running {
            lab.agent(host).wait_connected(&running);
        }
        lab
    }
}

struct Host {
    machine: Machine,
    agent: Agent,
    address: Ipv4Addr,
}

/// Hosts that are running.
pub struct Lab {
    // Dropped in this order: hosts with their agents before the wire that joins them, the directory last.
    hosts: BTreeMap<String, Host>,
    relay: Option<Relay>,
    wire: Machine,
    policy: Policy,
    directory: PathBuf,
}

impl Lab {
    /// A lab of these hosts; their graph comes next.
    pub fn of(hosts: &[&'static str]) -> Builder {
        Builder {
            hosts: hosts.to_vec(),
            graph: SHOP.into(),
            graphs: BTreeMap::new(),
            settings: BTreeMap::new(),
            silent: BTreeSet::new(),
            underlay: Underlay::V4,
            signed: false,
        }
    }

    /// Two hosts, alpha and beta, with the graph [`SHOP`], running.
    pub fn shop() -> Self {
        Self::of(&["alpha", "beta"]).start()
    }

    fn build(plan: &Builder) -> Self {
        let directory = make_directory();
        let graph = |host: &str| whole_graph(plan.underlay, &plan.hosts, plan.graphs.get(host).unwrap_or(&plan.graph));
        let common = parse(&whole_graph(plan.underlay, &plan.hosts, &plan.graph));
        let policy = ripstop_policy::compile(common).expect("the graph compiles");
        let resolver = format!("nameserver {}\noptions timeout:2 attempts:2", policy.resolver().0);
        let wire = Machine::start("wire", "", &[]);
        wire.place().sh(underlay::BRIDGE);
        make_keys(&directory, &plan.hosts);
        fs::write(directory.join("graph.yaml"), graph("")).unwrap();
        let policy_from = if plan.signed { signed::operator(&directory) } else { "graph: graph.yaml".into() };
        let mut hosts = BTreeMap::new();
        for (index, name) in plan.hosts.iter().enumerate() {
            let text = graph(name);
            let machine = Machine::start(name, &resolver, &namespaces_on(&parse(&text), name));
            plug_in(&machine, &wire, index, plan.underlay);
            let home = directory.join(name);
            fs::write(home.join("graph.yaml"), &text).unwrap();
            let extra = plan.settings.get(name).map_or("", String::as_str);
            fs::write(home.join("agent.yaml"), agent_yaml(name, &policy_from, extra)).unwrap();
            let agent = Agent::new(&machine, &home);
            hosts.insert((*name).to_owned(), Host { machine, agent, address: address(index) });
        }
        let relay = (plan.underlay == Underlay::Relay).then(|| underlay::relay(&wire.place(), plan.hosts.len()));
        Self { hosts, relay, wire, policy, directory }
    }

    fn host_entry(&self, host: &str) -> &Host {
        self.hosts.get(host).unwrap_or_else(|| panic!("no host {host} in this lab"))
    }

    /// A host itself, outside any workload's namespace.
    pub fn host(&self, host: &str) -> Place {
        self.host_entry(host).machine.place()
    }

    /// A host's agent.
    pub fn agent(&self, host: &str) -> &Agent {
        &self.host_entry(host).agent
    }

    /// The address of a host on the wire.
    pub fn host_address(&self, host: &str) -> Ipv4Addr {
        self.host_entry(host).address
    }

    /// The machine that joins the hosts: 192.0.2.254.
    pub fn wire(&self) -> Place {
        self.wire.place()
    }

    /// The link between a host and the others.
    pub fn link(&self, host: &str) -> Link {
        Link { host: self.host(host), wire: self.wire(), port: format!("to-{host}") }
    }

    /// The path between the hosts of a lab [`Builder::through_relay`].
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("this lab has no relay: build it with through_relay()")
    }

    /// A workload that runs on one host.
    pub fn workload(&self, name: &str) -> Place {
        let (id, workload) = self.find(name);
        assert_eq!(workload.on.len(), 1, "{id} runs on several hosts: use workload_on");
        self.workload_on(workload.on[0].as_str(), name)
    }

    /// A workload on one of its hosts.
    pub fn workload_on(&self, host: &str, name: &str) -> Place {
        let machine = &self.host_entry(host).machine;
        match &self.find(name).1.run {
            Run::Netns(netns) => machine.netns(netns),
            Run::User(User::Id(uid)) => machine.user(name, *uid),
            Run::User(User::Name(user)) => panic!("{user}: the lab's users are numbers"),
            Run::Cgroup(_) | Run::Host => machine.place(),
            Run::Container(container) => panic!("{container}: a lab's containers are not known before they run"),
            Run::Pod(pod) => panic!("{pod}: a lab's pods are not known before they run"),
        }
    }

    /// A network namespace of a host that is no workload's, or that of one.
    pub fn netns(&self, host: &str, name: &str) -> Place {
        self.host_entry(host).machine.netns(name)
    }

    fn find(&self, name: &str) -> (&WorkloadId, &ripstop_config::graph::Workload) {
        let mut all = self.policy.graph().workloads.iter();
        all.find(|(id, _)| id.name.as_str() == name).unwrap_or_else(|| panic!("no workload {name} in the graph"))
    }

    /// A service's IPv4 address and port, for code that does not ask DNS; `service` is `tenant/name`.
    pub fn service(&self, service: &str, port: u16) -> SocketAddr {
        let index = self.policy.service(&service.parse().unwrap()).expect("the service is in the graph");
        SocketAddr::new(IpAddr::V4(self.policy.service_entry(index).v4), port)
    }

    /// A service's IPv6 address and port.
    pub fn service_v6(&self, service: &str, port: u16) -> SocketAddr {
        let index = self.policy.service(&service.parse().unwrap()).expect("the service is in the graph");
        SocketAddr::new(IpAddr::V6(self.policy.service_entry(index).v6), port)
    }

    /// The compiled graph, as each host should have it.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// A file for the test's use that every host sees at the same path.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A path in the lab's directory as text.
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Changes the graph of every host and waits until all enforce it.
    pub fn edit_graph(&self, edit: impl Fn(&str) -> String) {
        let before: Vec<_> = self.running().map(|host| host.agent.digest()).collect();
        self.write_graph(edit);
        for (host, before) in self.running().zip(before) {
            wait_for("the new policy", || host.agent.digest() != before);
        }
    }

    /// Changes the graph file of every host, as an editor would: by renaming a new file over it.
    pub fn write_graph(&self, edit: impl Fn(&str) -> String) {
        for host in self.hosts.values() {
            let file = host.agent.graph_file();
            let text = edit(&fs::read_to_string(&file).unwrap());
            let new = file.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &file).unwrap();
        }
    }

    fn running(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().filter(|host| host.agent.is_running())
    }

    /// Gives a namespace of a host another way out than its interface: a device `out0` with a default route, whose other end
    /// `outNUMBER` is on the host.
    pub fn way_out(&self, host: &str, netns: &str, number: u8) {
        let script = format!(
            "ip link add out{number} type veth peer name out0 netns /run/netns/{netns}
             ip addr add 10.99.{number}.1/24 dev out{number}; ip addr add fd99:{number}::1/64 dev out{number} nodad
             ip link set out{number} up
             nsenter --net=/run/netns/{netns} sh -ec 'ip link set out0 up; ip addr add 10.99.{number}.2/24 dev out0
               ip addr add fd99:{number}::2/64 dev out0 nodad
               ip route add default via 10.99.{number}.1; ip -6 route add default via fd99:{number}::1'"
        );
        self.host(host).sh(&script);
    }

    /// Tells packets that go to an address of the fabric.
    pub fn is_for_fabric(&self) -> impl Fn(&[u8]) -> bool + Send + use<> {
        let ranges = self.policy.graph().ranges;
        move |packet| match destination(packet) {
            Some((IpAddr::V4(to), _)) => ranges.services_v4.contains(&to) || ranges.workloads_v4.contains(&to),
            Some((IpAddr::V6(to), _)) => ranges.v6.contains(&to),
            None => false,
        }
    }

    /// Everything that an agent could have changed on a host, as text: links, rules, routes and filters of the host and
    /// of every namespace on it, and its resolver.
    pub fn snapshot(&self, host: &str) -> String {
        let look = "for family in -4 -6; do ip $family rule; ip $family route show table all; done; ip link; ip -br addr; \
                    nft list ruleset; cat /etc/resolv.conf; ls /etc/netns 2>/dev/null || true";
        let place = self.host(host);
        let script = format!(
            "{look}\nfor ns in $(ls /run/netns | sort); do echo \"== $ns\"; nsenter --net=/run/netns/$ns sh -c '{look}'; done"
        );
        place.sh(&script)
    }

    fn print_how_to_look(&self) {
        eprintln!("\nThe lab of this failed test ({}):", self.directory.display());
        for (name, host) in &self.hosts {
            eprintln!("  {name}: {}", host.machine.place().enter_line());
            let log = host.agent.log();
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(25)..] {
                eprintln!("    {line}");
            }
        }
        for (id, workload) in &self.policy.graph().workloads {
            if matches!(workload.run, Run::Container(_) | Run::Pod(_)) {
                continue;
            }
            for host in workload.on.iter().filter(|host| self.hosts.contains_key(host.as_str())) {
                let place = self.workload_on(host.as_str(), id.name.as_str());
                eprintln!("  {id} on {host}: {}", place.enter_line());
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_how_to_look();
            if std::env::var_os("RIPSTOP_LAB_KEEP").is_some() {
                eprintln!("  kept until Ctrl-C");
                loop {
                    thread::park();
                }
            }
        }
        self.hosts.clear();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Waits until something is so, at most [`AGENT_WAIT`].
pub fn wait_for(what: &str, so: impl Fn() -> bool) {
    within(AGENT_WAIT, what, so);
}

/// Waits until something is so and returns how long it took; fails after `limit`.
pub fn within(limit: Duration, what: &str, so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// Where labs keep their files; on a real file system, because databases are slow or picky on others.
fn base() -> PathBuf {
    std::env::temp_dir().join("ripstop-lab")
}

/// Makes this lab's directory and removes those of runs that were aborted.
fn make_directory() -> PathBuf {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    for entry in fs::read_dir(base()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or("").to_owned();
        if !Path::new("/proc").join(owner).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let directory = base().join(format!("{}-{next}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    for open in [base(), directory.clone()] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

fn parse(text: &str) -> Graph {
    Graph::parse("graph.yaml", text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn namespaces_on(graph: &Graph, host: &str) -> Vec<String> {
    let here = graph.workloads.values().filter(|workload| workload.on.iter().any(|on| on.as_str() == host));
    here.filter_map(|workload| match &workload.run {
        Run::Netns(name) => Some(name.clone()),
        Run::User(_) | Run::Cgroup(_) | Run::Container(_) | Run::Pod(_) | Run::Host => None,
    })
    .collect()
}

/// Makes the fabric's CA and every host's certificate as an operator would.
fn make_keys(directory: &Path, hosts: &[&str]) {
    let run = |line: &[&str]| {
        let output = std::process::Command::new(ripstop()).args(line).output().expect("the binary runs");
        assert!(output.status.success(), "ripstop {line:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let ca = directory.join("ca").display().to_string();
    run(&["ca", "init", "--fabric", FABRIC, "--dir", &ca]);
    for host in hosts {
        let home = directory.join(host);
        fs::create_dir_all(&home).unwrap();
        run(&["ca", "issue", "host", host, "--dir", &ca, "--out", &home.display().to_string()]);
    }
}

fn agent_yaml(host: &str, policy: &str, extra: &str) -> String {
    let dns = if extra.contains("dns:") { "" } else { "dns: { upstream: [] }\n" };
    let metrics = if extra.contains("metrics:") { "" } else { "metrics: 0.0.0.0:7478\n" };
    let threads = match std::env::var("RIPSTOP_LAB_DATA_THREADS") {
        Ok(threads) if !extra.contains("data-threads:") => format!("data-threads: {threads}\n"),
        Ok(_) | Err(_) => String::new(),
    };
    let sessions = if extra.contains("sessions:") { "" } else { "sessions: sessions.jsonl\n" };
    format!("host: {host}\n{policy}\n{sessions}{metrics}{dns}{threads}{extra}\n")
}
