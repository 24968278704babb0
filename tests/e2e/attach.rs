//! Workloads that are control groups, containers, processes or all the rest of a host.

use crate::{
    lab::{Lab, Place, Server, ripstop, within},
    podman::Podman,
    servers::echo,
};
use std::{
    fs,
    io::{self, Write},
    net::{Shutdown, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// An interface may take so long to be made or to go after what it is for.
const FOLLOWED: Duration = Duration::from_secs(3);

/// A control group of the machine, gone with all in it when dropped.
pub struct Group {
    pub path: String,
    directory: PathBuf,
}

impl Group {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        });
        let root = root.expect("a cgroup2 file system is mounted: `mount -t cgroup2 none /mnt`");
        let name = format!("ripstop-lab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = root.join(&name);
        fs::create_dir_all(directory.join("below")).expect("control groups can be made");
        Self { path: format!("/{name}"), directory }
    }

    /// What to run in front of a command that it may run in this group, or in the one below it.
    pub fn enter(&self, below: bool) -> Vec<String> {
        let directory = if below { self.directory.join("below") } else { self.directory.clone() };
        let script = format!("echo 0 > {}/cgroup.procs; exec \"$@\"", directory.display());
        ["sh", "-ec", &script, "sh"].map(str::to_owned).to_vec()
    }

    fn ok(&self, place: &Place, line: &[&str]) -> String {
        let enter = self.enter(false);
        place.ok(&[&enter.iter().map(String::as_str).collect::<Vec<_>>()[..], line].concat())
    }

    fn spawn(&self, place: &Place, log: &std::path::Path, line: &[&str]) -> Server {
        let enter = self.enter(true);
        place.spawn(log, &[&enter.iter().map(String::as_str).collect::<Vec<_>>()[..], line].concat())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes are killed with the labs that were dropped before; the kernel needs a moment to bury them.
        for _ in 0..100 {
            let below = fs::remove_dir(self.directory.join("below"));
            if (below.is_ok() || !self.directory.join("below").exists()) && fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn tell_address(mut stream: TcpStream) {
    let from = stream.peer_addr().map(|from| from.ip().to_canonical().to_string()).unwrap_or_default();
    let _ = stream.write_all(from.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    // A request that is not read would make closing a reset, which may overtake the answer.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = io::copy(&mut stream, &mut io::sink());
}

fn address(lab: &Lab, workload: &str) -> String {
    let index = lab.policy().workload(&workload.parse().unwrap()).unwrap();
    lab.policy().workload_entry(index).v4.to_string()
}

/// Connects from a port, whoever had it before, to an address, and prints what it is told, or the error.
const FROM_PORT: &str = "
import socket, struct, sys
caller = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
caller.settimeout(3)
caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
caller.bind(('', int(sys.argv[2])))
try:
    caller.connect((sys.argv[1], 8080))
    print(caller.recv(64).decode())
except OSError as error:
    print(type(error).__name__)
";

#[test]
fn control_groups_are_told_apart_and_from_everyone_else() {
    let (one, two) = (Group::new(), Group::new());
    let graph = format!(
        "
tenants:
  shop:
    workloads:
      one: {{ on: [alpha], run: {{ cgroup: {} }} }}
      two: {{ on: [alpha], run: {{ cgroup: {} }} }}
      job: {{ on: [alpha], run: {{ user: 64001 }} }}
      api: {{ on: [beta], run: {{ netns: api }} }}
    services:
      api: {{ by: api, port: 8080/tcp }}
    allow:
      - {{ from: one, to: api }}
      - {{ from: two, to: api }}
      - {{ from: job, to: api }}
",
        one.path, two.path
    );
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    let _server = lab.workload("api").serve(8080, tell_address);
    let alpha = lab.host("alpha");
    for to in [lab.service("shop/api", 8080).ip(), lab.service_v6("shop/api", 8080).ip()] {
        let to = to.to_string();
        let script = |port: &'static str| ["/usr/bin/python3", "-c", FROM_PORT, &to, port].map(str::to_owned);
        let (mut strangers, mut told) = (Vec::new(), Vec::new());
        // The same port by turns: nobody comes into a dead one's place.
        for port in ["0", "45000", "45000", "45001"] {
            let line = script(port);
            let line: Vec<_> = line.iter().map(String::as_str).collect();
            told.push(one.ok(&alpha, &line));
            strangers.push(alpha.ok(&line));
            told.push(two.ok(&alpha, &line));
            strangers.push(alpha.ok(&line));
        }
        let is_refused = |said: &String| said.trim().ends_with("Error");
        assert!(strangers.iter().all(is_refused), "whoever is in neither: {strangers:?}");
        let index = |name: &str| lab.policy().workload(&name.parse().unwrap()).unwrap();
        let expected = ["shop/one", "shop/two", "shop/job"].map(|name| {
            let entry = lab.policy().workload_entry(index(name));
            if to.contains(':') { format!("{}\n", entry.v6) } else { format!("{}\n", entry.v4) }
        });
        for (turn, said) in told.iter().enumerate() {
            // A connection of the one that is not forgotten yet may keep the other from its port, but never lends a name.
            let free = turn < 2 || !is_refused(said);
            assert!(!free || *said == expected[turn % 2], "turn {turn}: {said} {told:?}");
        }
        let line = script("0");
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        assert_eq!(lab.workload("job").ok(&line), expected[2], "a user beside them");
    }
    for record in lab.agent("alpha").records() {
        assert_eq!(record["verdict"], "allow", "{record}");
    }
    let name = "http://api.shop.lab.test:8080/";
    assert_eq!(one.ok(&alpha, &["curl", "-4sS", "--http0.9", "-m", "5", name]), address(&lab, "shop/one"));
    let by_exec = alpha.ok(&[ripstop(), "exec", "two", "--", "curl", "-4sS", "--http0.9", "-m", "5", name]);
    assert_eq!(by_exec, address(&lab, "shop/two"));
}

#[test]
fn a_control_group_serves_and_another_process_does_not() {
    let group = Group::new();
    let graph = format!(
        "
tenants:
  shop:
    workloads:
      web: {{ on: [alpha], run: {{ netns: web }} }}
      api: {{ on: [beta], run: {{ cgroup: {} }} }}
    services:
      api: {{ by: api, port: 8080/tcp }}
    allow:
      - {{ from: web, to: api }}
",
        group.path
    );
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    let python = ["/usr/bin/python3", "-m", "http.server", "8080", "--bind", "127.0.0.1", "--directory", "/run/netns"];
    let beta = lab.host("beta");
    let call = ["curl", "-4sS", "-o", "/dev/null", "-m", "5", "http://api.shop.lab.test:8080/"];
    {
        let _server = group.spawn(&beta, &lab.file("group.log"), &python).listening(8080);
        lab.workload("web").ok(&call);
    }
    let _impostor = beta.spawn(&lab.file("impostor.log"), &python).listening(8080);
    lab.workload("web").fails(&call);
    lab.agent("beta").record(|record| record["reason"] == "wrong_listener");
}

const HOST: &str = "
tenants:
  shop:
    workloads:
      rest: { on: [alpha], run: host }
      job: { on: [alpha], run: { user: 64001 } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
      own: { by: rest, port: 8081/tcp }
    allow:
      - { from: rest, to: api }
      - { from: job, to: api }
      - { from: api, to: own }
";

#[test]
fn the_host_is_whatever_is_no_other_workload() {
    let lab = Lab::of(&["alpha", "beta"]).graph(HOST).start();
    let _server = lab.workload("api").serve(8080, tell_address);
    let call = ["curl", "-4sS", "--http0.9", "-m", "5", "http://api.shop.lab.test:8080/"];
    let alpha = lab.host("alpha");
    let (rest, job) = (address(&lab, "shop/rest"), address(&lab, "shop/job"));
    assert_eq!(alpha.ok(&call), rest, "root");
    assert_eq!(alpha.ok(&[&["setpriv", "--reuid=64044", "--clear-groups"], &call[..]].concat()), rest, "some user");
    assert_eq!(lab.workload("job").ok(&call), job, "a user that is a workload");
    // What the host forwards is not the host's, however it is disguised.
    alpha.sh("ip netns add pod; ip link add out0 type veth peer name eth0 netns /run/netns/pod
        ip addr add 10.99.0.1/24 dev out0; ip link set out0 up; echo 1 > /proc/sys/net/ipv4/ip_forward
        nft add table ip hide; nft 'add chain ip hide post { type nat hook postrouting priority 100; }'
        nft add rule ip hide post ip saddr 10.99.0.0/24 masquerade
        nsenter --net=/run/netns/pod sh -ec 'ip addr add 10.99.0.2/24 dev eth0; ip link set eth0 up
          ip route add default via 10.99.0.1'");
    let to = format!("http://{}/", lab.service("shop/api", 8080));
    lab.netns("alpha", "pod").fails(&["curl", "-sS", "--http0.9", "-m", "2", &to]);
    let python = ["/usr/bin/python3", "-m", "http.server", "8081", "--bind", "127.0.0.1", "--directory", "/run/netns"];
    let ask = ["curl", "-4sS", "-o", "/dev/null", "-m", "5", "http://own.shop.lab.test:8081/"];
    {
        let _own = alpha.spawn(&lab.file("own.log"), &python).listening(8081);
        lab.workload("api").ok(&ask);
    }
    let _impostor = lab.workload("job").spawn(&lab.file("impostor.log"), &python).listening(8081);
    lab.workload("api").fails(&ask);
    assert_eq!(lab.agent("alpha").stop(), 0);
    let left = alpha.sh("ip rule; ip route show table all; nft list tables");
    assert!(!left.contains("proto 214") && !left.contains("ripstop-"), "{left}");
}

const CONTAINERS: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { container: { name: web } } }
      job: { on: [alpha], run: { container: { label: app=job } }, isolated: true }
      tool: { on: [alpha], run: { netns: tool } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
      - { from: job, to: api }
      - { from: tool, to: api }
";

fn is_attached(lab: &Lab, workload: &str) -> bool {
    interfaces(lab, workload) > 0
}

/// Those that are attached.
fn interfaces(lab: &Lab, workload: &str) -> usize {
    let status = lab.agent("alpha").status();
    let all = status["workloads"].as_array().unwrap().iter();
    all.filter(|one| one["id"] == workload && one["state"] == "attached").count()
}

fn call_from(lab: &Lab, pid: &str) -> Result<String, String> {
    let to = format!("http://{}/", lab.service("shop/api", 8080));
    let line = ["nsenter", "-t", pid, "-n", "curl", "-sS", "--http0.9", "-m", "5", &to];
    let output = lab.host("alpha").run(&line);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn containers_are_attached_when_they_start_and_detached_when_they_stop() {
    let lab = Lab::of(&["alpha", "beta"]).graph(CONTAINERS).start();
    let _server = lab.workload("api").serve(8080, tell_address);
    let says_why = || lab.host("alpha").ok(&[ripstop(), "workloads"]).contains("no container engine");
    within(FOLLOWED, "it to say why not", says_why);
    let mut podman = Podman::on(&lab, "alpha");
    podman.serve();
    let web = podman.start("web", &[]);
    within(FOLLOWED, "web to be attached", || is_attached(&lab, "shop/web"));
    assert_eq!(call_from(&lab, &web).unwrap(), address(&lab, "shop/web"));
    let job = podman.start("some", &["--label", "app=job"]);
    let took = within(FOLLOWED, "job to be attached", || is_attached(&lab, "shop/job"));
    eprintln!("attached {} ms after podman said it runs", took.as_millis());
    assert_eq!(call_from(&lab, &job).unwrap(), address(&lab, "shop/job"));
    // Another with the label is the same workload, by an interface of its own.
    let other = podman.start("more", &["--label", "app=job"]);
    within(FOLLOWED, "the other to be attached", || call_from(&lab, &other).is_ok());
    for pid in [&job, &other] {
        assert_eq!(call_from(&lab, pid).unwrap(), address(&lab, "shop/job"));
    }
    podman.stop("some");
    within(FOLLOWED, "one of them to be left", || interfaces(&lab, "shop/job") == 1);
    assert_eq!(call_from(&lab, &other).unwrap(), address(&lab, "shop/job"));
    // Without its engine a container goes on; with another one it is followed again.
    podman.stop_serving();
    assert_eq!(call_from(&lab, &other).unwrap(), address(&lab, "shop/job"));
    podman.serve();
    let again = podman.start("web", &[]);
    within(FOLLOWED, "the new web to be attached", || call_from(&lab, &again).is_ok());
    podman.stop("web");
    within(FOLLOWED, "web to be detached", || !is_attached(&lab, "shop/web"));
}

#[test]
fn a_process_is_attached_by_hand_and_only_for_a_workload_of_the_host() {
    let lab = Lab::of(&["alpha", "beta"]).graph(CONTAINERS).start();
    let _server = lab.workload("api").serve(8080, tell_address);
    let alpha = lab.host("alpha");
    let script = "ip link set lo up; echo $$; exec sleep 600";
    let mut process = alpha.spawn(&lab.file("process.log"), &["unshare", "-n", "sh", "-c", script]);
    within(FOLLOWED, "the process to start", || process.log().ends_with('\n'));
    let pid = process.log().trim().to_owned();
    call_from(&lab, &pid).unwrap_err();
    let said = alpha.ok(&[ripstop(), "attach", "tool", "--pid", &pid]);
    assert!(said.contains("by hand") && said.contains("attached"), "{said}");
    assert_eq!(call_from(&lab, &pid).unwrap(), address(&lab, "shop/tool"));
    lab.workload("tool").connect(lab.service("shop/api", 8080)).expect_err("the namespace of the graph is not it now");
    for (workload, more) in [("api", "--pid=1"), ("tool", "--pid=4000000"), ("tool", "--netns=none")] {
        let (_, said) = alpha.fails(&[ripstop(), "attach", workload, more]);
        assert!(said.contains("places no workload") || said.contains("there is no"), "{said}");
    }
    alpha.ok(&[ripstop(), "detach", "tool"]);
    call_from(&lab, &pid).unwrap_err();
    alpha.ok(&[ripstop(), "attach", "tool"]);
    lab.workload("tool").connect(lab.service("shop/api", 8080)).expect("as the graph says");
    alpha.ok(&[ripstop(), "attach", "tool", "--pid", &pid]);
    process.kill();
    within(FOLLOWED, "its end to be seen", || !is_attached(&lab, "shop/tool"));
    assert!(alpha.ok(&[ripstop(), "workloads"]).contains(&format!("process {pid} has ended")));
}

/// A host's certificate says which host it is; the graph of the other says for which workloads that may speak.
#[test]
fn a_host_speaks_only_for_workloads_that_the_graph_places_on_it() {
    let elsewhere =
        CONTAINERS.replace("tool: { on: [alpha]", "tool: { on: [beta]").replace("netns: tool }", "netns: api2 }");
    let lab = Lab::of(&["alpha", "beta"]).graph(CONTAINERS).graph_of("beta", &elsewhere).start();
    let _server = lab.workload("api").serve(8080, echo);
    lab.workload("tool").connect(lab.service("shop/api", 8080)).expect_err("beta does not believe it");
    let record = lab.agent("beta").record(|record| record["caller"] == "shop/tool");
    assert_eq!(record["verdict"], "deny", "{record}");
}
