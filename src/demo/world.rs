//! The demo's three hosts: namespaces and links, files of settings, agents and servers. Dropping it removes them.

use super::{
    cast::{self, API_UID, Host, NETWORK},
    records,
    screen::Screen,
    signals::Signals,
    sweep::{self, DemoLock},
};
use crate::admin::{Client, Status, WorkloadState};
use anyhow::{Context, bail};
use ripstop_kernel::{link, netns};
use ripstop_policy::Policy;
use ripstop_transport::{PeerState, pki::Authority};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for agents to have their interfaces and each other.
const READY: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// The certificates' validity: a demo does not run for longer.
const VALIDITY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Lines of an agent's log that are shown when it does not come up.
const LOG_LINES: usize = 5;

/// A server of the demo: its kind, its host, its namespace, where it listens and the user it becomes.
type Server = (&'static str, Host, String, &'static str, Option<u32>);

/// The running demo.
#[derive(Debug)]
pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) resolver: Ipv4Addr,
    agents: BTreeMap<Host, Child>,
    servers: Vec<(Host, Child)>,
    // Last, so that the next demo starts when everything of this one is gone.
    _lock: DemoLock,
}

impl World {
    /// Builds it all and waits until it is ready.
    pub(super) fn build(screen: &Screen, signals: &Signals) -> anyhow::Result<Self> {
        let policy = cast::policy()?;
        let lock = DemoLock::take()?;
        if sweep::is_anything_left() {
            screen.say("removing what a demo that was killed left behind");
            if let Some(error) = sweep::sweep().into_iter().next() {
                return Err(error.context("failed to remove what an earlier demo left behind"));
            }
        }
        if let Some(name) = cast::namespaces().find(|name| netns::exists(name)) {
            bail!("a network namespace {name} is there, which the demo needs: remove it with `ip netns del {name}`");
        }
        sweep_on_abort();
        let resolver = policy.resolver().0;
        let mut world = Self { policy, resolver, agents: BTreeMap::new(), servers: Vec::new(), _lock: lock };
        world.raise(screen, signals)?;
        Ok(world)
    }

    /// Replaces the graph's file on every host, as an operator would.
    pub(super) fn edit_graph(&self) -> anyhow::Result<()> {
        Host::ALL.into_iter().try_for_each(|host| write_graph(host, true))
    }

    /// Kills a host's agent and servers, without a chance to say goodbye.
    pub(super) fn kill(&mut self, host: Host) -> anyhow::Result<()> {
        let (theirs, others) = std::mem::take(&mut self.servers).into_iter().partition(|(of, _)| *of == host);
        self.servers = others;
        let agent = self.agents.remove(&host).into_iter();
        let theirs: Vec<(Host, Child)> = theirs;
        for mut child in agent.chain(theirs.into_iter().map(|(_, child)| child)) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a killed host again: its agent cleans up what its predecessor left.
    pub(super) fn revive(&mut self) -> anyhow::Result<()> {
        let dead: Vec<_> = Host::ALL.into_iter().filter(|host| !self.agents.contains_key(host)).collect();
        for host in dead {
            self.start_agent(host)?;
            self.start_servers(host)?;
        }
        self.wait_until_ready()
    }

    fn raise(&mut self, screen: &Screen, signals: &Signals) -> anyhow::Result<()> {
        let started = Instant::now();
        write_files()?;
        build_network()?;
        signals.check()?;
        for host in Host::ALL {
            self.start_agent(host)?;
        }
        for host in Host::ALL {
            self.start_servers(host)?;
        }
        signals.check()?;
        self.wait_until_ready()?;
        let pids: Vec<_> =
            self.agents.iter().map(|(host, child)| format!("{} (pid {})", host.name(), child.id())).collect();
        screen.say(&format!(
            "three hosts with an agent each, {}, up in {:.1} s\n",
            pids.join(", "),
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn start_agent(&mut self, host: Host) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("agent").arg("--config").arg(sweep::settings_of(host));
        let log = open_log(host, "agent.log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = netns::spawn_in(&netns::path_of(&host.namespace()), &mut command);
        self.agents.insert(host, child.with_context(|| format!("failed to start the agent of {}", host.name()))?);
        Ok(())
    }

    fn start_servers(&mut self, host: Host) -> anyhow::Result<()> {
        for (kind, _, namespace, listen, uid) in servers().into_iter().filter(|server| server.1 == host) {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["demo-serve", "--kind", kind, "--host", host.name(), "--listen", listen]);
            command.arg("--resolver").arg(self.resolver.to_string());
            if let Some(uid) = uid {
                command.arg("--uid").arg(uid.to_string());
            }
            let log = open_log(host, "servers.log")?;
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);
            let what = || format!("failed to start the server {kind} on {}", host.name());
            let mut child = netns::spawn_in(&netns::path_of(&namespace), &mut command).with_context(what)?;
            let said = child.stdout.take();
            self.servers.push((host, child));
            let mut line = String::new();
            said.map_or(Ok(0), |said| BufReader::new(said).read_line(&mut line)).with_context(what)?;
            if line != "ready\n" {
                bail!("{}: {}", what(), tail(&host.directory().join("servers.log")));
            }
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        for (host, agent) in &mut self.agents {
            let client = Client::new(&host.directory().join("agent.sock"));
            let log = host.directory().join("agent.log");
            while let Err(why) = client.status().map_err(|error| error.to_string()).and_then(|status| is_ready(&status))
            {
                if let Some(status) = agent.try_wait()? {
                    bail!("the agent of {} ended ({status}): {}", host.name(), tail(&log));
                }
                if Instant::now() > deadline {
                    bail!("the agent of {} is not ready: {why}: {}", host.name(), tail(&log));
                }
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for error in sweep::sweep() {
            eprintln!("the demo left something behind: {error:#}");
        }
        let servers = self.servers.iter_mut().map(|(_, child)| child);
        for child in self.agents.values_mut().chain(servers) {
            // Ended by now; this only takes its entry off the process table.
            drop(child.try_wait());
        }
    }
}

/// Where panics abort, no destructor runs: the hook does what it would.
fn sweep_on_abort() {
    if cfg!(panic = "abort") {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            drop(sweep::sweep());
        }));
    }
}

fn servers() -> Vec<Server> {
    let of = |workload: &str| format!("ripstop-{workload}");
    vec![
        ("http", Host::Beta, Host::Beta.namespace(), "127.0.0.1:8080", Some(API_UID)),
        ("http", Host::Gamma, Host::Gamma.namespace(), "127.0.0.1:8080", Some(API_UID)),
        ("lines", Host::Beta, of("db"), "0.0.0.0:5432", None),
        ("bytes", Host::Gamma, of("files"), "0.0.0.0:9000", None),
        ("datagrams", Host::Gamma, of("files"), "0.0.0.0:9125", None),
    ]
}

fn is_ready(status: &Status) -> Result<(), String> {
    // Before it has tried every workload once, it says of all that they wait.
    if let Some(waiting) = status.waiting_for.first() {
        return Err(format!("it is not ready: {waiting}"));
    }
    let detached = status.workloads.iter().find(|workload| workload.state != WorkloadState::Attached);
    if let Some(workload) = detached {
        return Err(format!("{} is {}", workload.id, workload.state));
    }
    let missing = status.peers.iter().find_map(|peer| match &peer.state {
        PeerState::Up => None,
        PeerState::Silent => Some(format!("{} is not heard", peer.host)),
        PeerState::Connecting => Some(format!("it is connecting to {}", peer.host)),
        PeerState::Down { reason } => Some(format!("{} is down: {reason}", peer.host)),
    });
    missing.map_or(Ok(()), Err)
}

/// Namespaces for hosts and workloads; the hosts joined by a bridge.
fn build_network() -> anyhow::Result<()> {
    cast::namespaces().try_for_each(|name| netns::create(&name))?;
    let network = netns::path_of(NETWORK);
    netns::run_in(&network, || link::bridge("br0"))??;
    for host in Host::ALL {
        let inside = netns::path_of(&host.namespace());
        link::veth(
            link::End { namespace: &network, link: host.name() },
            link::End { namespace: &inside, link: "eth0" },
        )?;
        netns::run_in(&network, || link::join_bridge(host.name(), "br0").and_then(|()| link::up(host.name())))??;
        netns::run_in(&inside, || {
            link::address("eth0", host.address().into(), 24)?;
            link::up("eth0")
        })??;
    }
    Ok(())
}

/// Certificates of an authority that is kept in memory alone, and each agent's settings.
fn write_files() -> anyhow::Result<()> {
    let authority = Authority::create(&cast::FABRIC.parse()?)?;
    for host in Host::ALL {
        let settings = host.settings();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&settings)
            .with_context(|| format!("failed to create {}", settings.display()))?;
        let issued = authority.issue_host(&host.name().parse()?, VALIDITY)?;
        write(&settings.join("ca.pem"), authority.certificate_pem())?;
        write(&settings.join("host.pem"), &issued.certificate_pem)?;
        write(&settings.join("host.key"), &issued.key_pem)?;
        write(&sweep::settings_of(host), &agent_settings(host))?;
        write_graph(host, false)?;
    }
    Ok(())
}

fn agent_settings(host: Host) -> String {
    format!(
        "host: {}\ngraph: graph.yaml\nrun: {}\nsessions: {}\ndns: {{ upstream: [] }}\n",
        host.name(),
        host.directory().display(),
        records::file_of(host).display()
    )
}

/// Written beside it and renamed, so that an agent never reads half a graph.
fn write_graph(host: Host, edited: bool) -> anyhow::Result<()> {
    let (next, path) = (host.settings().join("graph.yaml.next"), host.settings().join("graph.yaml"));
    write(&next, &cast::graph(edited))?;
    fs::rename(&next, &path).with_context(|| format!("failed to replace {}", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("failed to write {}", path.display()))
}

fn open_log(host: Host, name: &str) -> anyhow::Result<File> {
    let path: PathBuf = host.directory().join(name);
    let opened = File::options().append(true).create(true).mode(0o600).open(&path);
    opened.with_context(|| format!("failed to open {}", path.display()))
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}
