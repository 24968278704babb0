use super::*;
use crate::admin::{
    Attempt, CapturedOn, Capturing, Client, ClientError, EndpointState, EndpointStatus, HostPolicy, HostStage,
    IdentityStatus, Kept, PolicyStatus, Pong, Predecessor, Reach, RecordsQuery, Resolved, Resolver, Running,
    ServiceStatus, Staged, Standing, TakeAll,
    view::{WorkloadState, WorkloadStatus},
};
use ripstop_config::{
    Graph, HostName,
    agent::{Admin, Principal},
};
use ripstop_datapath::capture::Asked;
use ripstop_policy::{BundleId, Content, StageId};
use ripstop_telemetry::{Recent, Tally};
use ripstop_transport::{PeerState, PeerStatus};
use std::time::Duration;

const GRAPH: &str = "\
fabric: shop.example
hosts:
  alpha: {}
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [alpha], run: { netns: api } }
      db: { on: [alpha], run: { netns: db } }
    services:
      api: { by: api, port: 8080/tcp }
      db: { by: db, port: 5432/tcp }
      log: { by: db, port: 514/tcp }
    allow:
      - { from: web, to: api }
  ops:
    workloads:
      log: { on: [alpha], run: { netns: log } }
    services:
      log: { by: log, port: 514/tcp }
";

/// A small policy for tests of this module's parts.
pub(crate) fn policy() -> Policy {
    ripstop_policy::compile(Graph::parse("shop.yaml", GRAPH).unwrap()).unwrap()
}

/// An agent of whose answers some may be given.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) live: Vec<LiveSession>,
    /// What it says of its policy's file.
    pub(crate) file: Option<String>,
}

/// The rights where nobody is named.
fn own() -> Rights {
    Rights::new(Admin::default(), geteuid().as_raw())
}

impl AgentView for Fake {
    fn status(&self) -> Status {
        let (v4, v6) = policy().resolver();
        Status {
            version: "0".into(),
            host: HostName::new("alpha").unwrap(),
            fabric: policy().fabric().clone(),
            pid: std::process::id(),
            started: "2026-01-01T00:00:00Z".into(),
            metrics: None,
            identity: IdentityStatus::default(),
            certificate_expires: "2027-01-01T00:00:00Z".into(),
            certificate_warning: None,
            waiting_for: Vec::new(),
            door_warning: None,
            captures: Vec::new(),
            carrier: None,
            authority: None,
            resolver: Resolver { v4, v6 },
            policy: PolicyStatus {
                digest: "00".into(),
                file: self.file.clone().unwrap_or("shop.yaml".into()),
                signed: Some(BundleId::default()),
                loaded: "2026-01-01T00:00:00Z".into(),
                last_error: Some("shop.yaml:3: unknown key".into()),
                workloads: 4,
                services: 4,
                edges: 1,
            },
            peers: vec![PeerStatus {
                host: HostName::new("beta").unwrap(),
                address: None,
                state: PeerState::Down { reason: "no address".into() },
                rtt: None,
                sent_packets: 0,
                lost_packets: 0,
                mtu: None,
                cipher: None,
                since: 0.0,
            }],
            peer_policies: [(HostName::new("beta").unwrap(), BundleId::default())].into(),
            records: std::collections::BTreeMap::new(),
            clocks_apart: std::collections::BTreeMap::new(),
            workloads: vec![WorkloadStatus {
                replica: None,
                id: "shop/web".parse().unwrap(),
                link: "rip0".into(),
                kind: "netns".into(),
                place: "/run/netns/web".into(),
                v4,
                v6,
                sessions: 0,
                since: None,
                says: Vec::new(),
                state: WorkloadState::Waiting("no such namespace".into()),
            }],
            services: vec![ServiceStatus {
                id: "shop/api".parse().unwrap(),
                endpoints: vec![EndpointStatus {
                    host: HostName::new("beta").unwrap(),
                    state: EndpointState::Unreachable,
                    sessions: Some(3),
                    latency: None,
                    record_age: None,
                    weight: None,
                }],
            }],
            sessions_open: 0,
            data_threads: Vec::new(),
            predecessor: Some(Predecessor { pid: 1, sessions: 3 }),
            tally: Tally { denied: [("no_edge".into(), 3)].into(), held_back: 1 },
        }
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.clone().unwrap_or_else(|| Arc::new(policy()))
    }

    fn reload(&self) -> Result<(), String> {
        Err("shop.yaml:3: unknown key `hots`".into())
    }

    fn drain(&self, service: Option<&str>, draining: bool) -> Result<Vec<Standing>, String> {
        let service = service.ok_or("all of them")?.parse().map_err(|_| "which?")?;
        let state = if draining { crate::admin::State::Draining } else { crate::admin::State::Ready };
        Ok(vec![Standing { service, state, sessions: 7, weight: None }])
    }

    fn attach(&self, workload: &str, pid: Option<u32>, netns: Option<&str>) -> Result<WorkloadId, String> {
        match (workload, pid, netns) {
            ("a b", Some(7), None) | ("a b", None, Some("x&y")) => "shop/web".parse().map_err(|_| "no".into()),
            (_, _, _) => Err(format!("{workload} is not here")),
        }
    }

    fn detach(&self, workload: &str) -> Result<WorkloadId, String> {
        self.attach(workload, Some(7), None)
    }

    fn sessions(&self) -> Vec<LiveSession> {
        self.live.clone()
    }

    fn attempts(&self, within: Option<Duration>) -> Result<Vec<Attempt>, String> {
        within.map(|_| vec![attempt()]).ok_or("within what?".into())
    }

    fn stage(&self, graph: Option<(String, String)>) -> Result<(), String> {
        graph.map_or(Ok(()), |(file, graph)| Err(format!("{file}: {graph}")))
    }

    fn staged(&self) -> Result<Option<Staged>, String> {
        Ok(None)
    }

    fn stage_signed(&self, bundle: &[u8]) -> Result<StageId, String> {
        if bundle == b"bundle" { Ok(StageId { number: 7, ..StageId::default() }) } else { Err("no signature".into()) }
    }

    fn staged_elsewhere(&self) -> Result<Vec<HostStage>, String> {
        let host = HostName::new("beta").unwrap();
        Ok(vec![HostStage { host, reach: Reach::Up, answered: true, staged: None }])
    }

    fn records(&self) -> Arc<Recent> {
        Arc::clone(&self.recent)
    }

    fn ping(&self, host: &HostName) -> Result<Pong, String> {
        match host.as_str() {
            "beta" => Ok(Pong { host: host.clone(), rtt: 0.001, clock_ahead: Some(-0.5) }),
            _ => Err(format!("{host}: not connected")),
        }
    }

    fn capture(&self, uid: u32, asked: &Asked) -> Result<Capturing, String> {
        Ok(Capturing { target: format!("{} for {uid}", asked.target), hosts: Vec::new() })
    }

    fn captured(&self, all: &TakeAll) -> Vec<CapturedOn> {
        let taken = all.captures.iter().map(|(host, _)| host.clone());
        taken.map(|host| CapturedOn { host, part: None, error: Some("gone".into()) }).collect()
    }

    fn resolve(&self, workload: &WorkloadId, name: &str, kind: &str) -> Result<Resolved, String> {
        let query = ripstop_dns::question(name, kind).map_err(|error| error.to_string())?;
        let policy = policy();
        let caller = policy.workload(workload).unwrap();
        let ripstop_dns::Answer::Reply(reply) = ripstop_dns::answer(&policy, caller, &query, ripstop_dns::Via::Tcp)
        else {
            return Err("outside".into());
        };
        let looked = ripstop_dns::Looked::read(&reply.bytes).unwrap();
        Ok(Resolved { workload: workload.clone(), name: name.into(), source: "fabric".into(), looked })
    }

    fn running(&self, version: Option<PolicyVersion>) -> Result<Running, String> {
        let content = Content { graph: GRAPH.into(), ..Content::default() };
        let id = BundleId { version: version.unwrap_or_default(), digest: [7; 8] };
        let fabric = policy().fabric().clone();
        Ok(Running { fabric, floor: Some(id), id: Some(id), next_stage: 1, content: Some(content) })
    }

    fn offer(&self, bundle: &[u8]) -> Result<BundleId, String> {
        Err(format!("{} bytes", bundle.len()))
    }

    fn history(&self) -> Result<Vec<Kept>, String> {
        Ok(Vec::new())
    }

    fn hosts(&self) -> Result<Vec<HostPolicy>, String> {
        let host = HostName::new("beta").unwrap();
        Ok(vec![HostPolicy { host, reach: Reach::Down, policy: Some(BundleId::default()) }])
    }
}

fn attempt() -> Attempt {
    Attempt {
        caller: "shop/web".parse().unwrap(),
        service: "shop/db".parse().unwrap(),
        port: Some("5432/tcp".parse().unwrap()),
        count: 2,
        first: "2026-01-01T00:00:00Z".into(),
        last: "2026-01-01T00:00:01Z".into(),
    }
}

/// How an agent may be, for tests of what looks at one.
pub(crate) fn status() -> Status {
    Fake::default().status()
}

/// Runs `ask` against a served socket, on a thread of its own.
async fn served<T: Send + 'static>(ask: impl FnOnce(Client) -> T + Send + 'static) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    let socket = AdminSocket::bind(&path, own()).unwrap();
    let server = tokio::spawn(socket.serve(Arc::new(Fake::default()), Router::new()));
    let answer = tokio::task::spawn_blocking(move || ask(Client::new(&path))).await.unwrap();
    server.abort();
    answer
}

#[tokio::test]
async fn status_comes_through_whole() {
    let (status, pid) = served(|client| client.status_and_pid()).await.unwrap();
    assert_eq!(status, Fake::default().status());
    assert_eq!(pid, Some(i32::try_from(std::process::id()).unwrap()));
    assert!(served(|client| client.sessions()).await.unwrap().is_empty());
}

#[tokio::test]
async fn explain_allows_denies_and_says_what_is_unknown() {
    let allowed = served(|client| client.explain("web", "api:8080")).await.unwrap();
    assert!(allowed.allowed && allowed.text.contains("shop.yaml:15"), "{}", allowed.text);
    let denied = served(|client| client.explain("web", "db")).await.unwrap();
    assert!(!denied.allowed && denied.text.contains("from: web, to: db"), "{}", denied.text);
    assert!(denied.chain.is_object(), "{}", denied.chain);
    let error = served(|client| client.explain("nobody", "db")).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if text.contains("shop/web")), "{error}");
}

#[tokio::test]
async fn a_refused_reload_brings_its_mistakes() {
    let error = served(|client| client.reload()).await.unwrap_err();
    assert!(error.to_string().contains("unknown key `hots`") && !error.is_unreachable(), "{error}");
}

#[tokio::test]
async fn policies_of_any_size_pass_and_refusals_say_why() {
    let running = served(|client| client.running(Some("1.7".parse().unwrap()))).await.unwrap();
    assert_eq!((running.id.unwrap().version.to_string(), running.content.unwrap().graph), ("1.7".into(), GRAPH.into()));
    let error = served(|client| client.offer(vec![0; BUNDLE_MAX])).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if *text == format!("{BUNDLE_MAX} bytes")), "{error}");
    assert_eq!(served(|client| client.hosts()).await.unwrap()[0].reach, Reach::Down);
    assert!(served(|client| client.history()).await.unwrap().is_empty());
}

#[tokio::test]
async fn attempts_and_a_staged_graph_come_through() {
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(served(move |client| client.attempts(hour)).await.unwrap(), [attempt()]);
    assert!(served(|client| client.attempts(None)).await.is_err());
    let error = served(|client| client.stage("a b.yaml", "é: 1".into())).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if text == "a b.yaml: é: 1"), "{error}");
    assert_eq!(served(|client| client.staged()).await.unwrap(), None);
    let refused = served(|client| client.stage_signed(b"graph".into())).await.unwrap_err();
    assert!(refused.to_string().contains("no signature"), "{refused}");
    assert_eq!(served(|client| client.stage_signed(b"bundle".into())).await.unwrap().number, 7);
    assert!(served(|client| client.staged_elsewhere()).await.unwrap()[0].answered);
    served(|client| client.discard_stage()).await.unwrap();
}

#[tokio::test]
async fn a_drain_names_its_service_and_can_be_undone() {
    for (undo, state) in [(false, crate::admin::State::Draining), (true, crate::admin::State::Ready)] {
        let drained = served(move |client| client.drain(Some("shop/api"), undo)).await.unwrap();
        assert_eq!(drained, [Standing { service: "shop/api".parse().unwrap(), state, sessions: 7, weight: None }]);
    }
    let error = served(|client| client.drain(None, false)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if text == "all of them"), "{error}");
}

#[tokio::test]
async fn a_workload_is_attached_to_what_is_named_whatever_is_in_the_name() {
    let by_pid = served(|client| client.attach("a b", Some(7), None)).await.unwrap();
    let by_name = served(|client| client.attach("a b", None, Some("x&y"))).await.unwrap();
    let gone = served(|client| client.detach("a b")).await.unwrap();
    assert_eq!([by_pid.to_string(), by_name.to_string(), gone.to_string()], ["shop/web"; 3]);
    let error = served(|client| client.attach("web", None, None)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if text == "web is not here"), "{error}");
}

#[tokio::test]
async fn services_come_with_their_names_and_callers() {
    let services = served(|client| client.services()).await.unwrap();
    let [api] = services.as_slice() else { panic!("{services:?}") };
    assert_eq!((api.name.as_str(), api.ports.as_slice()), ("api.shop.shop.example", &["8080/tcp".to_owned()][..]));
    assert_eq!(api.callers, ["shop/web".parse().unwrap()]);
    assert_eq!(api.endpoints[0].state, EndpointState::Unreachable);
}

#[tokio::test]
async fn questions_are_passed_on_and_refusals_with_their_reason() {
    assert_eq!(served(|client| client.ping(&"beta".parse().unwrap())).await.unwrap().clock_ahead, Some(-0.5));
    let error = served(|client| client.ping(&"gamma".parse().unwrap())).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if text == "gamma: not connected"), "{error}");
    // A name of one label is one of the workload's tenant.
    let resolved = served(|client| client.dns("web", "api", "AAAA")).await.unwrap();
    assert_eq!((resolved.name.as_str(), resolved.looked.answers.len()), ("api.shop.shop.example", 1));
    let error = served(|client| client.dns("nobody", "api", "A")).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if text.contains("shop/web")), "{error}");
}

#[tokio::test]
async fn records_are_asked_for_by_what_fits() {
    let query = RecordsQuery { from: Some("a b&c".into()), since: Some(-5), wait: Some(0), ..RecordsQuery::default() };
    let page = served(move |client| client.records(&query)).await.unwrap();
    assert_eq!((page.next, page.records.len()), (0, 0));
    let query = RecordsQuery { reason: Some("no_egde".into()), ..RecordsQuery::default() };
    let error = served(move |client| client.records(&query)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(text) if text.contains("`no_edge`")), "{error}");
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = AdminSocket::bind(&path, own()).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn only_a_dead_socket_is_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind as after kill -9");
    let first = AdminSocket::bind(&path, own()).unwrap();
    assert!(matches!(AdminSocket::bind(&path, own()), Err(AdminError::InUse(_))));
    drop(first);
    fs::write(&path, "precious").unwrap();
    assert!(matches!(AdminSocket::bind(&path, own()), Err(AdminError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_directory_that_others_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let error = AdminSocket::bind(&directory.path().join("agent.sock"), own()).unwrap_err();
    assert!(matches!(error, AdminError::Directory(_)), "{error}");
}

/// Asks as another user, whose rights are these.
async fn as_other(admin: Admin, ask: impl FnOnce(&Path) -> Vec<(u16, String)> + Send + 'static) -> Vec<(u16, String)> {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("run/agent.sock");
    let socket = AdminSocket::bind(&path, Rights::new(admin, u32::MAX)).unwrap();
    let server = tokio::spawn(socket.serve(Arc::new(Fake::default()), Router::new()));
    let answers = tokio::task::spawn_blocking(move || ask(&path)).await.unwrap();
    server.abort();
    answers
}

/// Status and body of a request that curl makes as the user 64 901.
fn curl(socket: &Path, arguments: &[&str]) -> (u16, String) {
    let mut command = std::process::Command::new("curl");
    std::os::unix::process::CommandExt::uid(&mut command, 64_901);
    command.args(["-sS", "-w", "\n%{http_code}", "--unix-socket"]).arg(socket).args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let (body, status) = said.trim().rsplit_once('\n').unwrap_or((&said, "0"));
    (status.parse().unwrap_or(0), body.to_owned())
}

fn both(socket: &Path) -> Vec<(u16, String)> {
    vec![
        curl(socket, &["http://agent/v1/status"]),
        curl(socket, &["-X", "POST", "http://agent/v1/detach?workload=a%20b"]),
        curl(socket, &["-X", "PUT", "--data", "x", "http://agent/v1/policy"]),
        curl(socket, &["-X", "POST", "http://agent/v1/capture?what=api&seconds=5&bytes=1000&snap=99"]),
        curl(socket, &["--data", r#"{"captures":[["beta",7]],"end":true}"#, "http://agent/v1/capture/take"]),
    ]
}

/// Only root can be another user.
fn can_be_another() -> bool {
    let can = geteuid().is_root() && std::process::Command::new("curl").arg("-V").output().is_ok();
    if !can {
        eprintln!("SKIPPED: root and curl are needed to ask as another user");
    }
    can
}

#[tokio::test]
async fn to_read_and_to_change_are_two_rights() {
    if !can_be_another() {
        return;
    }
    let named = || vec![Principal::Uid(64_901)];
    let reader = as_other(Admin { read: named(), change: Vec::new() }, both).await;
    assert!(reader[0].0 == 200 && reader[0].1.contains("shop.yaml"), "{reader:?}");
    for refused in &reader[1..] {
        assert!(
            refused.0 == 403 && refused.1.contains("user 64901") && refused.1.contains("admin.change"),
            "{refused:?}"
        );
    }
    let changer = as_other(Admin { read: Vec::new(), change: named() }, both).await;
    let statuses: Vec<_> = changer.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 409, 200, 200], "{changer:?}");
    assert!(changer[3].1.contains("calls to shop/api for 64901"), "who asks is known: {changer:?}");
    assert!(changer[4].1.contains("beta"), "{changer:?}");
    let stranger = as_other(Admin { read: vec![Principal::Uid(1)], change: Vec::new() }, both).await;
    for refused in &stranger {
        assert!(refused.0 == 403 && refused.1.contains("admin.read"), "{refused:?}");
    }
}

#[tokio::test]
async fn nobody_else_reaches_the_socket_while_nobody_is_named() {
    if !can_be_another() {
        return;
    }
    let refused = as_other(Admin::default(), both).await;
    assert!(refused.iter().all(|(status, said)| *status == 0 && said.contains("connect")), "{refused:?}");
}
