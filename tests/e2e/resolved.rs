//! A real systemd-resolved on a host: it asks the fabric's resolver for the fabric's names and nobody else for them, and is as
//! it was when the agent is gone, however that went.

use crate::{
    lab::{Lab, Place, Server, within},
    servers::echo,
};
use std::{path::PathBuf, time::Duration};

/// The host itself may call one service, and a user of it the other.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      machine: { on: [alpha], run: host }
      user: { on: [alpha], run: { user: 64921 } }
      api: { on: [alpha], run: { netns: api } }
      db: { on: [alpha], run: { netns: db } }
    services:
      api: { by: api, port: 8080 }
      db: { by: db, port: 5432 }
    allow:
      - { from: machine, to: api }
      - { from: user, to: db }
";
/// Within this it is told of an interface, and forgets one.
const SOON: Duration = Duration::from_secs(8);

/// Where `tests/run.sh` unpacks Debian's package: installed, it would take the machine's own `/etc/resolv.conf` over.
fn tools() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/resolved");
    assert!(path.join("lib/systemd/systemd-resolved").exists(), "{} is missing: see tests/run.sh", path.display());
    path.display().to_string()
}

/// A bus and systemd-resolved on a machine whose `/etc` and `/run` are its own.
struct Resolved {
    _servers: [Server; 3],
    host: Place,
    control: String,
}

impl Resolved {
    fn start(lab: &Lab) -> Self {
        let (host, tools) = (lab.host("alpha"), tools());
        host.sh(&format!(
            "mkdir -p /run/dbus /run/systemd/resolve /etc/dbus-1/system.d
             grep -q ^systemd-resolve: /etc/passwd || echo systemd-resolve:x:64999:64999::/:/usr/sbin/nologin >> /etc/passwd
             grep -q ^systemd-resolve: /etc/group || echo systemd-resolve:x:64999: >> /etc/group
             chown systemd-resolve:systemd-resolve /run/systemd/resolve
             cp {tools}/usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf /etc/dbus-1/system.d/
             printf '[Resolve]\\nDNS=192.0.2.254\\nDNSSEC=no\\nLLMNR=no\\nMulticastDNS=no\\n' > /etc/systemd/resolved.conf
             echo nameserver 127.0.0.53 > /etc/resolv.conf"
        ));
        let log = |name: &str| lab.file(&format!("{name}.log"));
        let outside = ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--log-queries", "--port=53"];
        let answers = ["--address=/other.example/192.0.2.77", "--listen-address=192.0.2.254", "--bind-interfaces"];
        let upstream = lab.wire().spawn(&log("dnsmasq"), &[&outside[..], &answers].concat()).listening(53);
        let bus = host.spawn(&log("dbus"), &["dbus-daemon", "--system", "--nofork", "--nopidfile"]);
        within(SOON, "the bus", || host.run(&["test", "-S", "/run/dbus/system_bus_socket"]).status.success());
        let resolved = host.spawn(&log("resolved"), &[&format!("{tools}/lib/systemd/systemd-resolved")]).listening(53);
        Self { _servers: [resolved, bus, upstream], host, control: format!("{tools}/usr/bin/resolvectl") }
    }

    /// All that it has been told, but for the machine's own links.
    fn told(&self) -> String {
        let show = |what: &str| self.host.ok(&[&self.control, what]);
        [show("dns"), show("domain")].concat()
    }

    fn asks(&self, name: &str) -> String {
        self.host.ok(&["dig", "+time=3", "+tries=2", "@127.0.0.53", name]).replace('\t', " ")
    }
}

#[test]
fn systemd_resolved_asks_for_the_fabric_s_names_while_the_agent_runs() {
    let settings = "dns: { resolved: true, upstream: [] }";
    let lab = Lab::of(&["alpha"]).graph(GRAPH).settings("alpha", settings).without_agent("alpha").start();
    let resolved = Resolved::start(&lab);
    let before = resolved.told();
    let agent = lab.agent("alpha");
    for kill in [false, true] {
        agent.start();
        within(SOON, &format!("it to be told\n{}", agent.log()), || resolved.told().contains("~lab.test"));
        let api = lab.service("shop/api", 8080).ip().to_string();
        let found = resolved.asks("api.shop.lab.test");
        assert!(found.contains(&api), "{found}");
        let hidden = resolved.asks("db.shop.lab.test");
        assert!(hidden.contains("NXDOMAIN"), "what the host may not call is not there for it: {hidden}");
        let other = resolved.asks("other.example");
        assert!(other.contains("192.0.2.77"), "other names go where they went: {other}");
        if kill {
            agent.kill();
        } else {
            assert_eq!(agent.stop(), 0);
        }
        within(SOON, "it to forget", || resolved.told() == before);
    }
    // A program of the host, by the C library's resolver.
    agent.start();
    within(SOON, "it to be told", || resolved.told().contains("~lab.test"));
    let _server = lab.workload("api").serve(8080, echo);
    lab.host("alpha").sh("getent hosts api.shop.lab.test && timeout 5 bash -c 'exec 3<>/dev/tcp/api.shop.lab.test/8080; echo hi >&3; head -1 <&3'");
    let asked = std::fs::read_to_string(lab.file("dnsmasq.log")).unwrap();
    assert!(asked.contains("other.example") && !asked.contains("lab.test"), "names of the fabric stay in it: {asked}");
}
