//! `ripstop exec` and `ripstop status` against an agent that only has an admin socket: which network, resolver and user
//! a command gets, and that the host keeps its own. Needs root.

use ripstop::admin::{
    AdminSocket, AgentView, HostPolicy, IdentityStatus, Kept, LiveSession, PolicyStatus, Resolver, Rights, Running,
    Status, WorkloadState, WorkloadStatus,
};
use ripstop_config::{Graph, HostName, PolicyVersion, agent::Admin};
use ripstop_kernel::netns;
use ripstop_policy::{BundleId, Policy};
use ripstop_transport::{PeerState, PeerStatus};
use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
};

const GRAPH: &str = "fabric: shop.example\nhosts:\n  alpha: {}\ntenants:\n  shop: {}\n";
/// A user that every Debian has: `nobody`.
const NOBODY: u32 = 65534;

struct FakeAgent {
    namespace: PathBuf,
}

impl FakeAgent {
    fn workload(&self, name: &str, kind: &str, place: String, state: WorkloadState) -> WorkloadStatus {
        WorkloadStatus {
            replica: None,
            id: format!("shop/{name}").parse().expect("a name"),
            link: "rip0".into(),
            kind: kind.into(),
            place,
            v4: Ipv4Addr::LOCALHOST,
            v6: Ipv6Addr::LOCALHOST,
            sessions: 0,
            says: Vec::new(),
            since: None,
            state,
        }
    }
}

impl AgentView for FakeAgent {
    fn status(&self) -> Status {
        let path = self.namespace.display().to_string();
        Status {
            version: "0".into(),
            host: HostName::new("alpha").expect("a name"),
            fabric: self.policy().fabric().clone(),
            pid: std::process::id(),
            started: "2026-01-01T00:00:00Z".into(),
            metrics: Some("127.0.0.1:7478".into()),
            identity: IdentityStatus::default(),
            certificate_expires: "2027-01-01T00:00:00Z".into(),
            certificate_warning: None,
            waiting_for: Vec::new(),
            door_warning: None,
            captures: Vec::new(),
            carrier: None,
            authority: None,
            resolver: Resolver { v4: Ipv4Addr::new(198, 18, 0, 1), v6: Ipv6Addr::LOCALHOST },
            policy: PolicyStatus {
                digest: "0011223344556677".into(),
                file: "shop.yaml".into(),
                signed: None,
                loaded: "2026-01-01T00:00:00Z".into(),
                last_error: Some("shop.yaml:3: unknown key `hots`".into()),
                workloads: 2,
                services: 0,
                edges: 0,
            },
            peers: vec![PeerStatus {
                host: HostName::new("beta").expect("a name"),
                address: Some("192.0.2.2:7477".parse().expect("an address")),
                state: PeerState::Up,
                rtt: Some(0.00042),
                sent_packets: 100,
                lost_packets: 3,
                mtu: Some(1452),
                cipher: Some("TLS_AES_128_GCM_SHA256".into()),
                since: 0.0,
            }],
            peer_policies: std::collections::BTreeMap::new(),
            records: std::collections::BTreeMap::new(),
            clocks_apart: std::collections::BTreeMap::new(),
            workloads: vec![
                self.workload("web", "netns", path.clone(), WorkloadState::Attached),
                self.workload("job", "user", NOBODY.to_string(), WorkloadState::Attached),
                self.workload("late", "netns", path, WorkloadState::Waiting("no such namespace".into())),
            ],
            services: Vec::new(),
            sessions_open: 7,
            data_threads: Vec::new(),
            predecessor: None,
            tally: ripstop_telemetry::Tally::default(),
        }
    }

    fn policy(&self) -> Arc<Policy> {
        let graph = Graph::parse("shop.yaml", GRAPH).expect("a graph");
        Arc::new(ripstop_policy::compile(graph).expect("a policy"))
    }

    fn reload(&self) -> Result<(), String> {
        Ok(())
    }

    fn drain(&self, _: Option<&str>, _: bool) -> Result<Vec<ripstop::admin::Standing>, String> {
        Err("not here".into())
    }

    fn attach(&self, _: &str, _: Option<u32>, _: Option<&str>) -> Result<ripstop_config::WorkloadId, String> {
        Err("not here".into())
    }

    fn detach(&self, _: &str) -> Result<ripstop_config::WorkloadId, String> {
        Err("not here".into())
    }

    fn sessions(&self) -> Vec<LiveSession> {
        Vec::new()
    }

    fn attempts(&self, _: Option<std::time::Duration>) -> Result<Vec<ripstop::admin::Attempt>, String> {
        Ok(Vec::new())
    }

    fn stage(&self, _: Option<(String, String)>) -> Result<(), String> {
        Err("not here".into())
    }

    fn staged(&self) -> Result<Option<ripstop::admin::Staged>, String> {
        Ok(None)
    }

    fn stage_signed(&self, _: &[u8]) -> Result<ripstop_policy::StageId, String> {
        Err("not here".into())
    }

    fn staged_elsewhere(&self) -> Result<Vec<ripstop::admin::HostStage>, String> {
        Err("not here".into())
    }

    fn records(&self) -> Arc<ripstop_telemetry::Recent> {
        Arc::default()
    }

    fn ping(&self, _: &HostName) -> Result<ripstop::admin::Pong, String> {
        Err("not here".into())
    }

    fn capture(&self, _: u32, _: &ripstop_datapath::capture::Asked) -> Result<ripstop::admin::Capturing, String> {
        Err("not here".into())
    }

    fn captured(&self, _: &ripstop::admin::TakeAll) -> Vec<ripstop::admin::CapturedOn> {
        Vec::new()
    }

    fn resolve(&self, _: &ripstop_config::WorkloadId, _: &str, _: &str) -> Result<ripstop::admin::Resolved, String> {
        Err("not here".into())
    }

    fn running(&self, _: Option<PolicyVersion>) -> Result<Running, String> {
        Err("it is a file".into())
    }

    fn offer(&self, _: &[u8]) -> Result<BundleId, String> {
        Err("it is a file".into())
    }

    fn history(&self) -> Result<Vec<Kept>, String> {
        Err("it is a file".into())
    }

    fn hosts(&self) -> Result<Vec<HostPolicy>, String> {
        Err("it is a file".into())
    }
}

/// A network namespace that goes when the test ends, however it ends.
struct Namespace(String);

impl Namespace {
    fn new(purpose: &str) -> Self {
        let name = format!("rscli-{purpose}-{}", std::process::id());
        netns::create(&name).expect("a namespace");
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::remove(&self.0).expect("the namespace is removed");
    }
}

/// Serves an agent until the process ends; returns once the socket is there.
fn serve(agent: FakeAgent, path: PathBuf) {
    let (bound, wait) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let socket = AdminSocket::bind(&path, Rights::new(Admin::default(), 0)).expect("a socket");
            bound.send(()).expect("somebody waits");
            socket.serve(Arc::new(agent), axum::Router::new()).await;
        });
    });
    wait.recv().expect("the socket is made");
}

/// Runs each command line against a fake agent.
fn against_an_agent(purpose: &str, lines: &[&[&str]]) -> Option<(Namespace, Vec<Output>)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: entering namespaces needs root");
        return None;
    }
    let namespace = Namespace::new(purpose);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/agent.sock");
    serve(FakeAgent { namespace: netns::path_of(&namespace.0) }, path.clone());
    let run = |arguments: &&[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command.args(*arguments).env("RIPSTOP_SOCKET", &path).output().expect("ripstop runs")
    };
    Some((namespace, lines.iter().map(run).collect()))
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_namespace_workload_gets_its_network_and_its_resolver() {
    let before = fs::read("/etc/resolv.conf").ok();
    let lines: [&[&str]; 4] = [
        &["exec", "web", "--", "stat", "-Lc", "%i", "/proc/self/ns/net"],
        &["exec", "shop/web", "cat", "/etc/resolv.conf"],
        &["exec", "web", "id", "-u"],
        &["exec", "web", "sh", "-c", "exit 42"],
    ];
    let Some((namespace, ran)) = against_an_agent("netns", &lines) else { return };
    let inode = fs::metadata(netns::path_of(&namespace.0)).expect("namespace").ino();
    assert_eq!(stdout(&ran[0]), inode.to_string());
    assert_eq!(
        stdout(&ran[1]).lines().skip(1).collect::<Vec<_>>(),
        ["nameserver 198.18.0.1", "search shop.shop.example"]
    );
    assert_eq!(stdout(&ran[2]), "0");
    assert_eq!(ran[3].status.code(), Some(42), "the command's own exit code");
    assert_eq!(fs::read("/etc/resolv.conf").ok(), before, "the host keeps its resolver");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains("ripstop-exec"), "{mounts}");
}

#[test]
fn a_user_workload_gets_the_agents_network_and_becomes_the_user() {
    let lines: [&[&str]; 4] = [
        &["exec", "job", "--", "id", "-u"],
        &["exec", "job", "stat", "-Lc", "%i", "/proc/self/ns/net"],
        &["exec", "job", "grep", "nameserver", "/etc/resolv.conf"],
        &["exec", "job", "id", "-G"],
    ];
    let Some((_namespace, ran)) = against_an_agent("user", &lines) else { return };
    assert_eq!(stdout(&ran[0]), NOBODY.to_string());
    let own = fs::metadata("/proc/self/ns/net").expect("namespace").ino();
    assert_eq!(stdout(&ran[1]), own.to_string(), "the agent's network: here the test's own");
    assert_eq!(stdout(&ran[2]), "nameserver 198.18.0.1");
    assert!(!stdout(&ran[3]).split(' ').any(|group| group == "0"), "root's groups are dropped");
}

#[test]
fn mistakes_are_said_plainly() {
    let lines: [&[&str]; 3] = [&["exec", "late", "true"], &["exec", "wbe", "true"], &["exec", "web", "/nonexistent"]];
    let Some((_namespace, ran)) = against_an_agent("wrong", &lines) else { return };
    let said: Vec<_> = ran.iter().map(|output| String::from_utf8_lossy(&output.stderr)).collect();
    assert!(ran.iter().all(|output| output.status.code() == Some(1)), "{said:?}");
    assert!(said[0].contains("no interface yet: no such namespace"), "{}", said[0]);
    assert!(
        said[1].contains("no agent here has a workload `wbe`") && said[1].contains("shop/web on alpha"),
        "{}",
        said[1]
    );
    assert!(said[2].contains("cannot run /nonexistent"), "{}", said[2]);
}

#[test]
fn status_is_readable_and_has_json() {
    let lines: [&[&str]; 2] = [&["status"], &["status", "-o", "json"]];
    let Some((_namespace, ran)) = against_an_agent("status", &lines) else { return };
    let text = stdout(&ran[0]);
    for part in [
        "host alpha of shop.example",
        "7 open",
        "http://127.0.0.1:7478/metrics",
        "REFUSED",
        "unknown key `hots`",
        "420us",
        "TLS_AES_128_GCM_SHA256",
        "waiting: no such namespace",
        "user 65534",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    let value: serde_json::Value = serde_json::from_str(&stdout(&ran[1])).expect("JSON");
    assert_eq!(value["workloads"][2]["state"], "waiting: no such namespace");
    assert_eq!(value["peers"][0]["lost_packets"], 3);
}
