//! Every way past the fabric that we know, from every kind of workload and from what is none: nothing is delivered, counted
//! where it would arrive, and nothing for the fabric leaves a host by another way.

use crate::{
    attach::Group,
    lab::{Lab, Server, Tap, destination},
};
use ripstop_policy::Policy;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

/// Where every endpoint listens, and what every attempt is for.
const PORT: u16 = 7001;
/// What attempts carry, wherever they can.
const TOKEN: &[u8] = b"RIPSTOP-BYPASS";
/// What an honest caller says.
const HONEST: &str = "honest";
/// The user of alpha that is no workload.
const STRAY: u32 = 64_077;
/// The port from which a caller with an edge has a session while all this goes on.
const SESSION: u16 = 33_333;
/// Attempts at least, so that none is lost unseen.
const CELLS: usize = 200;

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      good: { on: [alpha], run: { netns: good } }
      teller: { on: [alpha], run: { user: 64004 } }
      web: { on: [alpha], run: { netns: web } }
      box: { on: [alpha], run: { netns: box }, isolated: true }
      job: { on: [alpha], run: { user: 64001 } }
      cell: { on: [alpha], run: { user: 64002 }, isolated: true }
      group: { on: [alpha], run: { cgroup: GROUP } }
      vault: { on: [beta], run: { netns: vault } }
      safe: { on: [beta], run: { user: 64003 } }
    services:
      vault: { by: vault, ports: [7001/tcp, 7001/udp] }
      safe: { by: safe, ports: [7001/tcp, 7001/udp] }
    allow:
      - { from: good, to: vault }
      - { from: good, to: safe }
      - { from: teller, to: vault }
  bank:
    workloads:
      clerk: { on: [alpha], run: { netns: clerk } }
      secret: { on: [beta], run: { netns: secret } }
    services:
      secret: { by: secret, ports: [7001/tcp, 7001/udp] }
    allow:
      - { from: clerk, to: secret }
";

/// Says of every connection and datagram what was in it.
const SERVE: &str = "
import socket, sys, threading
def tcp(listener):
    while True:
        connection, _ = listener.accept()
        print('tcp', connection.recv(64), flush=True)
        connection.sendall(b'heard')
        connection.close()
def udp(receiver):
    while True:
        data, caller = receiver.recvfrom(2048)
        print('udp', data, flush=True)
        receiver.sendto(b'heard', caller)
serving = []
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    for kind, serve in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
        server = socket.socket(family, kind)
        server.bind((address, 7001))
        if kind == socket.SOCK_STREAM: server.listen(64)
        serving.append(threading.Thread(target=serve, args=(server,)))
for thread in serving: thread.start()
";

/// Says a word by TCP and by UDP, and must be heard.
const SAY: &str = "
import socket, sys
to, word = (sys.argv[1], 7001), sys.argv[2].encode()
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    caller = socket.socket(socket.AF_INET6 if ':' in to[0] else socket.AF_INET, kind)
    caller.settimeout(5)
    caller.connect(to)
    caller.send(word)
    assert caller.recv(16) == b'heard'
";

fn has_token(packet: &[u8]) -> bool {
    packet.windows(TOKEN.len()).any(|bytes| bytes == TOKEN)
}

/// What an endpoint's namespace gets of it: anything for its port, or that carries the token.
fn is_delivery(packet: &[u8]) -> bool {
    has_token(packet) || destination(packet).is_some_and(|(_, port)| port == Some(PORT))
}

fn addresses(policy: &Policy, workload: &str) -> (String, String) {
    let entry = policy.workload_entry(policy.workload(&workload.parse().unwrap()).unwrap());
    (entry.v4.to_string(), entry.v6.to_string())
}

/// What an attacker is on alpha.
enum Who {
    /// Root of a namespace.
    Netns,
    /// A user of the host.
    User(u32),
    /// Root, in a control group.
    Group,
}

/// What an attacker is told.
struct Attacker {
    name: &'static str,
    /// Its workload, if it is one.
    workload: Option<&'static str>,
    who: Who,
    /// Another device than its own interface, and the gateway on it.
    device: &'static str,
    gateway: String,
}

fn attackers() -> Vec<Attacker> {
    let namespace = |name, workload, number: u8| Attacker {
        name,
        workload,
        who: Who::Netns,
        device: "out0",
        gateway: format!("10.99.{number}.1"),
    };
    let user = |name, workload, uid| Attacker {
        name,
        workload,
        who: Who::User(uid),
        device: "eth0",
        gateway: "192.0.2.12".into(),
    };
    vec![
        namespace("web", Some("shop/web"), 1),
        namespace("box", Some("shop/box"), 2),
        namespace("pod", None, 3),
        user("job", Some("shop/job"), 64_001),
        user("cell", Some("shop/cell"), 64_002),
        user("stray", None, STRAY),
        Attacker { who: Who::Group, ..user("group", Some("shop/group"), 0) },
    ]
}

fn links(lab: &Lab) -> BTreeMap<String, String> {
    let status = lab.agent("alpha").status();
    let each = status["workloads"].as_array().unwrap().iter();
    each.map(|one| (one["id"].as_str().unwrap().to_owned(), one["link"].as_str().unwrap().to_owned())).collect()
}

/// Runs every way as an attacker; what it printed.
fn attack(lab: &Lab, group: &Group, attacker: &Attacker, links: &BTreeMap<String, String>) -> String {
    let policy = lab.policy();
    let (endpoint4, endpoint6) = addresses(policy, "shop/vault");
    // Whom it would like to be: on the host a user with an edge, whose address is the host's; elsewhere a namespace.
    let other = if matches!(attacker.who, Who::Netns) { "shop/good" } else { "shop/teller" };
    let (other4, other6) = addresses(policy, other);
    let (self4, self6) = attacker.workload.map_or((other4.clone(), other6.clone()), |own| addresses(policy, own));
    let [service, user, foreign] =
        ["shop/vault", "shop/safe", "bank/secret"].map(|id| (lab.service(id, PORT), lab.service_v6(id, PORT)));
    let own = attacker.workload.map_or("lo", |own| &links[own]);
    let told = json!({
        "port": PORT, "session": SESSION, "own": own, "others": links[other], "device": attacker.device,
        "gateway4": attacker.gateway, "service4": service.0.ip(), "service6": service.1.ip(), "user4": user.0.ip(),
        "user6": user.1.ip(), "foreign4": foreign.0.ip(), "foreign6": foreign.1.ip(), "endpoint4": endpoint4,
        "endpoint6": endpoint6, "host4": lab.host_address("beta"), "resolver4": policy.resolver().0, "other4": other4,
        "other6": other6, "self4": self4, "self6": self6,
    });
    let script = include_str!("bypass.py");
    let told = told.to_string();
    let python = ["/usr/bin/python3", "-c", script, &told];
    match attacker.who {
        Who::Netns => lab.netns("alpha", attacker.name).ok(&python),
        Who::User(uid) => {
            // Raw sockets as well, which a user with a program like ping may have.
            let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
            let caps = ["--clear-groups", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"];
            lab.host("alpha").ok(&[&["setpriv", &reuid, &regid], &caps[..], &python[..]].concat())
        }
        Who::Group => {
            let enter = group.enter(false);
            lab.host("alpha").ok(&[&enter.iter().map(String::as_str).collect::<Vec<_>>()[..], &python].concat())
        }
    }
}

fn serve(lab: &Lab, name: &str, at: &[&str]) -> Server {
    let line = [&["/usr/bin/python3", "-u", "-c", SERVE], at].concat();
    lab.workload(name).spawn(&lab.file(&format!("{name}.log")), &line).listening(PORT)
}

fn say(lab: &Lab, from: &str, to: IpAddr) {
    lab.workload(from).ok(&["/usr/bin/python3", "-c", SAY, &to.to_string(), HONEST]);
}

#[test]
fn no_way_past_the_fabric_is_known() {
    let group = Group::new();
    let lab = Lab::of(&["alpha", "beta"]).graph(&GRAPH.replace("GROUP", &group.path)).start();
    lab.host("alpha").sh("ip netns add pod; echo 1 > /proc/sys/net/ipv4/ip_forward
        echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    for (name, number) in [("web", 1), ("box", 2), ("pod", 3)] {
        lab.way_out("alpha", name, number);
    }
    let servers = [
        ("vault", serve(&lab, "vault", &["0.0.0.0", "::1", &addresses(lab.policy(), "shop/vault").1])),
        ("safe", serve(&lab, "safe", &["127.0.0.1", "::1"])),
        ("secret", serve(&lab, "secret", &["::"])),
    ];
    // A session of one who may, so that others can try to be taken for it.
    let vault = lab.service("shop/vault", PORT);
    let session = lab.workload("good").inside(move || {
        let caller = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        caller.bind(&SocketAddr::from(([0; 4], SESSION)).into()).unwrap();
        caller.connect(&vault.into()).expect("it has an edge");
        caller
    });
    let taps = [("vault", lab.workload("vault")), ("secret", lab.workload("secret"))]
        .map(|(name, place)| (name, Tap::on(&place, &[], is_delivery)));
    let leaks = [
        ("alpha, by the wire", Tap::on(&lab.wire(), &[], lab.is_for_fabric())),
        // What is no workload's namespace may ask its host, which knows no such network.
        ("a namespace", Tap::on(&lab.host("alpha"), &["out1", "out2"], lab.is_for_fabric())),
    ];
    let links = links(&lab);
    let mut outcomes = BTreeMap::new();
    for attacker in attackers() {
        for line in attack(&lab, &group, &attacker, &links).lines() {
            let (cell, outcome) = line.rsplit_once(' ').unwrap();
            outcomes.insert(format!("{} {cell}", attacker.name), outcome.to_owned());
        }
    }
    thread::sleep(Duration::from_millis(300));
    let connected: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome == "CONNECTED").collect();
    assert!(connected.is_empty(), "{connected:#?}");
    for (name, tap) in taps {
        let found = tap.end();
        assert!(found.is_empty(), "delivered to {name}: {found:02x?}");
    }
    for (place, tap) in leaks {
        let found = tap.end();
        assert!(found.is_empty(), "left {place} for the fabric in the clear: {found:02x?}");
    }
    for (name, server) in &servers {
        assert_eq!(server.log(), "", "{name} heard something");
    }
    let sent = outcomes.values().filter(|outcome| *outcome == "sent").count();
    eprintln!("{} ways, {sent} taken by the kernel, none delivered", outcomes.len());
    assert!(outcomes.len() >= CELLS, "{}", outcomes.len());
    drop(session);
    assert_counted(&lab, &servers);
}

/// The counters count: who has an edge is heard, by either protocol and family.
fn assert_counted(lab: &Lab, servers: &[(&str, Server)]) {
    let tap = Tap::on(&lab.workload("vault"), &[], is_delivery);
    for (from, to) in
        [("good", "shop/vault"), ("good", "shop/safe"), ("teller", "shop/vault"), ("clerk", "bank/secret")]
    {
        say(lab, from, lab.service(to, PORT).ip());
        say(lab, from, lab.service_v6(to, PORT).ip());
    }
    assert!(!tap.end().is_empty());
    for (name, server) in servers {
        assert!(server.log().contains(HONEST), "{name}: {}", server.log());
    }
}
