//! Policies by etcd: a real one, with TLS, clients' certificates, a user and a password, and no policy from host to host.

use crate::{
    health::state,
    lab::{Lab, Place, SHOP, Server, ripstop, within},
    servers::echo,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::sys::signal::Signal;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const HOSTS: [&str; 3] = ["alpha", "beta", "gamma"];
/// How soon all have a policy once etcd is back (the 5 s).
const CONVERGE: Duration = Duration::from_secs(5);
/// How soon an agent says that etcd is gone: it looks every 4 s, and waits for 3.
const NOTICE: Duration = Duration::from_secs(9);
/// How soon etcd forgets a host that lets its lease of 15 s end.
const FORGOTTEN: Duration = Duration::from_secs(20);
/// How long etcd is away in the whole form of the test; in the short one it is noticed, and no more.
const AWAY: Duration = Duration::from_secs(600);
const PORT: u16 = 2379;
const PASSWORD: &str = "a \"quoted\" pässword";
const EDGE: &str = "      - { from: web, to: api }\n";

/// What every agent is told of it.
const SETTINGS: &str = "
carrier:
  in-band: false
  etcd:
    endpoints: ['https://192.0.2.253:2379', 'https://192.0.2.254:2379']
    ca: ../etcd/ca.pem
    name: etcd.lab.test
    certificate: ../etcd/client.pem
    key: ../etcd/client.key
    user: ripstop
    password-file: ../etcd/password
";

/// A certificate authority, and what etcd and its clients show.
fn make_keys(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "CA of etcd");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    for name in ["etcd", "client"] {
        let mut params = CertificateParams::new([format!("{name}.lab.test"), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        // etcd's gateway takes no client for the name in its certificate, and refuses those that have one.
        if name == "etcd" {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        // etcd's gateway shows the server's certificate to its own server.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        write_secret(&directory.join(format!("{name}.key")), &key.serialize_pem());
    }
    write_secret(&directory.join("password"), &format!("{PASSWORD}\n"));
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The etcd of a lab, on the machine that joins the hosts. The first of the members that agents are told of is not there.
struct Etcd {
    server: Option<Server>,
    place: Place,
    directory: PathBuf,
    token: String,
}

impl Etcd {
    fn start(lab: &Lab) -> Self {
        let directory = lab.file("etcd");
        make_keys(&directory);
        let mut etcd = Self { server: None, place: lab.wire(), directory, token: String::new() };
        etcd.run();
        etcd.users();
        etcd
    }

    fn run(&mut self) {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let (url, peers) = (format!("https://192.0.2.254:{PORT}"), "http://127.0.0.1:2380");
        let (data, certificate, key, ca) = (at("data"), at("etcd.pem"), at("etcd.key"), at("ca.pem"));
        let line = [
            ["etcd", "--data-dir", &data, "--listen-client-urls", &url, "--advertise-client-urls", &url],
            ["--listen-peer-urls", peers, "--cert-file", &certificate, "--key-file", &key, "--client-cert-auth"],
            ["--trusted-ca-file", &ca, "--log-level", "error", "--logger", "zap", "--enable-pprof=false"],
        ];
        self.place.sh("ip link set lo up");
        self.server = Some(self.place.spawn(&self.directory.join("log"), line.as_flattened()).listening(PORT));
        within(Duration::from_secs(10), "etcd to answer", || self.answers());
    }

    /// Two users: the one that the agents are, who may touch what is below the prefix, and root.
    fn users(&mut self) {
        let prefix = |text: &str| STANDARD.encode(text);
        for (what, body) in [
            ("user/add", json!({ "name": "root", "password": "root" })),
            ("user/add", json!({ "name": "ripstop", "password": PASSWORD })),
            ("role/add", json!({ "name": "root" })),
            ("role/add", json!({ "name": "ripstop" })),
            (
                "role/grant",
                json!({ "name": "ripstop", "perm":
                { "permType": "READWRITE", "key": prefix("/ripstop/"), "range_end": prefix("/ripstop0") } }),
            ),
            ("user/grant", json!({ "user": "root", "role": "root" })),
            ("user/grant", json!({ "user": "ripstop", "role": "ripstop" })),
            ("enable", json!({})),
        ] {
            self.ask(&format!("auth/{what}"), &body);
        }
        self.log_in();
    }

    fn log_in(&mut self) {
        // One of before its restart it would refuse.
        self.token.clear();
        let root = json!({ "name": "root", "password": "root" });
        self.token = self.ask("auth/authenticate", &root)["token"].as_str().unwrap().to_owned();
    }

    fn try_ask(&self, what: &str, body: &Value) -> Result<Value, String> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let (file, url) = (at("body"), format!("https://etcd.lab.test:{PORT}/v3/{what}"));
        fs::write(&file, body.to_string()).unwrap();
        let (data, token) = (format!("@{file}"), format!("Authorization: {}", self.token));
        let (ca, certificate, key) = (at("ca.pem"), at("client.pem"), at("client.key"));
        let to = format!("etcd.lab.test:{PORT}:192.0.2.254");
        let line = [
            ["curl", "-sS", "-m5", "--cacert", &ca, "--cert", &certificate],
            ["--key", &key, "--resolve", &to, "-H", &token, "-HExpect:"],
        ];
        let line = [line.as_flattened(), &["--data-binary", &data, &url]].concat();
        let said = self.place.run(&line);
        let text = String::from_utf8_lossy(&[&said.stdout[..], &said.stderr].concat()).into_owned();
        let answer: Value = serde_json::from_slice(&said.stdout).map_err(|_| text)?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer),
        }
    }

    /// Whether a member leads, be it that it wants to know who asks.
    fn answers(&self) -> bool {
        let unknown = |error: &String| error.contains("user name is empty") || error.contains("invalid auth token");
        self.try_ask("kv/range", &json!({ "key": "YQ==" })).as_ref().err().is_none_or(unknown)
    }

    fn ask(&self, what: &str, body: &Value) -> Value {
        self.try_ask(what, body).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    fn put(&self, key: &str, value: &[u8]) {
        let key = STANDARD.encode(format!("/ripstop/lab.test/{key}"));
        self.ask("kv/put", &json!({ "key": key, "value": STANDARD.encode(value) }));
    }

    fn has(&self, key: &str) -> bool {
        let key = STANDARD.encode(format!("/ripstop/lab.test/{key}"));
        self.ask("kv/range", &json!({ "key": key }))["kvs"].is_array()
    }

    /// The value of the greatest key below a prefix.
    fn last(&self, prefix: &str) -> (String, Vec<u8>) {
        let key = format!("/ripstop/lab.test/{prefix}/");
        let end = key.replace(&format!("{prefix}/"), &format!("{prefix}0"));
        let ask = json!({ "key": STANDARD.encode(key), "range_end": STANDARD.encode(end), "limit": 1,
            "sort_order": "DESCEND", "sort_target": "KEY" });
        let found = self.ask("kv/range", &ask)["kvs"][0].clone();
        let text = |what: &str| STANDARD.decode(found[what].as_str().unwrap()).unwrap();
        (String::from_utf8(text("key")).unwrap(), text("value"))
    }

    fn signal(&self, signal: Signal) {
        self.server.as_ref().unwrap().signal(signal);
    }
}

fn open(lab: &Lab, workload: &str) -> std::io::Result<TcpStream> {
    let mut stream = lab.workload(workload).connect(lab.service("shop/api", 8080))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    pass(&mut stream)?;
    Ok(stream)
}

fn pass(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

/// Edits the lab's graph and applies it on gamma, whoever else gets it.
fn apply_alone(lab: &Lab, edit: impl Fn(&str) -> String) {
    let file = lab.file("graph.yaml");
    fs::write(&file, edit(&fs::read_to_string(&file).unwrap())).unwrap();
    let (mut line, file) = (lab.signing("apply"), file.display().to_string());
    line.extend(["--wait".to_owned(), "1ms".to_owned(), file]);
    let said = lab.host("gamma").run(&line.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    assert!(said.contains("policy 1."), "{said}");
}

/// Waits until all run what gamma runs.
fn agree(lab: &Lab, when: &str) -> Duration {
    let newest = lab.agent("gamma").version();
    let of = |host: &&str| lab.agent(host).version() == newest;
    within(CONVERGE, &format!("{newest} on all {when}"), || HOSTS.iter().all(&of))
}

fn carrier(lab: &Lab, host: &str) -> Value {
    lab.agent(host).status()["carrier"].clone()
}

fn notice(lab: &Lab, up: bool) {
    let so = |host: &&str| carrier(lab, host)["up"] == up;
    within(NOTICE, &format!("the carrier to be {up}"), || HOSTS.iter().all(&so));
}

#[test]
fn etcd_carries_policies_and_is_believed_in_nothing() {
    let mut builder = Lab::of(&HOSTS).graph(SHOP).signed();
    for host in HOSTS {
        builder = builder.settings(host, SETTINGS).without_agent(host);
    }
    let lab = builder.start();
    let mut etcd = Etcd::start(&lab);
    HOSTS.iter().for_each(|host| lab.agent(host).start());
    notice(&lab, true);

    // gamma calls nobody and is called by nobody: what it applies goes by etcd, and is said to by etcd.
    let said = lab.apply("gamma", str::to_owned);
    assert!(said.contains("runs on 3 hosts"), "{said}");
    assert_eq!(lab.agent("gamma").status()["peers"].as_array().map(Vec::len), Some(0), "no policy from host to host");
    let _server = lab.workload("api").serve(8080, echo);
    apart(&lab);
    let mut session = open(&lab, "web").expect("by the policy that came");
    open(&lab, "other").expect_err("which does not allow it");
    let status = lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(status.contains("carrier      etcd at 192.0.2.254:2379, policy 1.1, answers since"), "{status}");
    assert_eq!(lab.agent("alpha").metric("ripstop_carrier_up", &[("carrier", "etcd")]) as u32, 1);

    forged(&lab, &etcd);
    silent(&lab, &etcd, &mut session);
    killed(&lab, &mut etcd, &mut session);
    lease(&lab, &etcd);
    revoked(&lab);
    secrets(&lab);
}

/// How a host's endpoints are comes by etcd where nothing comes from the host itself.
fn apart(lab: &Lab) {
    let beta = lab.host_address("beta");
    lab.host("alpha").sh(&format!(
        "nft -f - <<'END'\ntable inet lab {{\n\
         chain in {{ type filter hook input priority 0; meta l4proto udp ip saddr {beta} drop; }}\n}}\nEND"
    ));
    within(NOTICE, "beta to be silent", || !lab.agent("alpha").is_up(&["beta"]));
    lab.host("beta").ok(&[ripstop(), "drain"]);
    let took = within(CONVERGE, "its drain to come by etcd", || state(lab, "alpha", "beta") == "draining");
    eprintln!("a drain came by etcd after {:.1} s", took.as_secs_f64());
    let status = lab.agent("alpha").status();
    assert!(status["records"]["beta"].is_number() && !lab.agent("alpha").is_up(&["beta"]), "{status}");
    lab.host("alpha").sh("nft delete table inet lab");
    lab.host("beta").ok(&[ripstop(), "drain", "--undo"]);
    within(NOTICE, "beta to be heard", || state(lab, "alpha", "beta") == "ready");
}

/// What operators did not sign, and what they signed before.
fn forged(lab: &Lab, etcd: &Etcd) {
    let (_, first) = etcd.last("part");
    let said = lab.apply("gamma", other_edge);
    assert!(said.contains("policy 1.2-") && said.contains("runs on 3 hosts"), "{said}");
    open(lab, "other").expect("allowed by now");
    let (_, second) = etcd.last("part");
    let evil = lab.path("evil.key");
    lab.host("gamma").ok(&[ripstop(), "operator", "keygen", "op", "--out", &evil]);
    let (file, graph) = (lab.path("evil.bundle"), lab.path("graph.yaml"));
    let text = fs::read_to_string(&graph).unwrap();
    fs::write(&graph, other_edge(&text)).unwrap();
    lab.host("gamma").ok(&[ripstop(), "apply", "--key", &evil, "--save", &file, &graph]);
    fs::write(&graph, text).unwrap();
    let forged = fs::read(file).unwrap();
    let version = |counter: u64| format!("{:020}.{counter:020}-00c0ffee00c0ffee", 1);
    for (counter, bundle) in [(97, &second), (98, &first), (99, &forged)] {
        etcd.put(&format!("part/1.{counter}-00c0ffee00c0ffee/000"), bundle);
        etcd.put(&format!("policy/{}", version(counter)), bundle.len().to_string().as_bytes());
    }
    let before = lab.agent("alpha").version();
    for host in HOSTS {
        let log = || lab.agent(host).log();
        let reasons = ["it has 0 of the 1 signatures", "is not newer than", "another policy than its key says"];
        within(CONVERGE, &format!("{host} to refuse all"), || reasons.iter().all(|reason| log().contains(reason)));
        assert_eq!(lab.agent(host).version(), before);
        assert!(lab.agent(host).metric("ripstop_policy_bundles_refused_total", &[]) >= 1.0);
    }
    let status = lab.host("beta").ok(&[ripstop(), "status"]);
    assert!(status.contains("WARNING: policy 1.9") && status.contains("in etcd is not taken"), "{status}");
    // A record that another host signed says nothing of this one.
    let (key, record) = etcd.last("host");
    assert!(key.ends_with("/gamma"), "{key}");
    // The true policy comes through beside them.
    etcd.put("host/beta", &record);
    let said = lab.apply("gamma", other_edge);
    assert!(said.contains("policy 1.3-") && said.contains("runs on 3 hosts"), "{said}");
    open(lab, "other").expect_err("no more");
}

fn other_edge(text: &str) -> String {
    let other = "      - { from: other, to: api }\n";
    if text.contains(other) { text.replace(other, "") } else { text.replace(EDGE, &format!("{EDGE}{other}")) }
}

/// An etcd that takes connections and says nothing.
fn silent(lab: &Lab, etcd: &Etcd, session: &mut TcpStream) {
    etcd.signal(Signal::SIGSTOP);
    apply_alone(lab, other_edge);
    notice(lab, false);
    let away = if std::env::var_os("RIPSTOP_LAB_LONG").is_some() { AWAY } else { Duration::ZERO };
    thread::sleep(away);
    pass(session).expect("an open session goes on");
    drop(open(lab, "web").expect("new ones begin"));
    let status = lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(status.contains("does not answer, since") && status.contains("WARNING: "), "{status}");
    assert_eq!(lab.agent("alpha").metric("ripstop_carrier_up", &[]) as u32, 0);
    assert_ne!(lab.agent("alpha").version(), lab.agent("gamma").version());
    etcd.signal(Signal::SIGCONT);
    let took = agree(lab, "after etcd has gone on");
    eprintln!("all had the policy {:.1} s after etcd went on", took.as_secs_f64());
    drop(open(lab, "other").expect("allowed by the policy that came"));
}

/// An etcd that dies, with all connections to it.
fn killed(lab: &Lab, etcd: &mut Etcd, session: &mut TcpStream) {
    etcd.server = None;
    notice(lab, false);
    apply_alone(lab, other_edge);
    pass(session).expect("an open session goes on");
    // An agent that starts meanwhile has its policy from its own disk.
    lab.agent("beta").kill();
    lab.agent("beta").start();
    within(CONVERGE, "new sessions to begin", || open(lab, "web").is_ok());
    etcd.run();
    etcd.log_in();
    let took = agree(lab, "after etcd is back");
    eprintln!("all had the policy {:.1} s after etcd answered", took.as_secs_f64());
    open(lab, "other").expect_err("denied by the policy that came");
}

/// What a host says goes with it: from etcd by its lease, and from who followed it there by its record's life. Who applies a
/// policy then is told that it is gone, and does not wait for it.
fn lease(lab: &Lab, etcd: &Etcd) {
    within(CONVERGE, "beta's record to be in etcd", || etcd.has("host/beta"));
    let believed = || lab.agent("alpha").status()["records"].get("beta").is_some();
    lab.agent("beta").kill();
    within(NOTICE, "alpha to follow it by etcd", believed);
    let took = within(FORGOTTEN, "its record to go", || !etcd.has("host/beta"));
    eprintln!("the record of a host that was killed went {:.1} s after it was followed", took.as_secs_f64());
    within(NOTICE, "alpha to forget it", || !believed());
    let said = lab.apply("gamma", str::to_owned);
    assert!(said.contains("runs on 2 hosts") && said.contains("beta") && said.contains("not reachable"), "{said}");
    lab.agent("beta").start();
    within(CONVERGE, "its record to be back", || etcd.has("host/beta"));
    agree(lab, "after it is back");
    within(CONVERGE, "new sessions to begin", || open(lab, "web").is_ok());
}

/// Who is shut out, is so everywhere.
fn revoked(lab: &Lab) {
    let key = lab.path("operator.key");
    let start = Instant::now();
    lab.host("gamma").ok(&[ripstop(), "host", "revoke", "beta", "--key", &key]);
    within(CONVERGE, "alpha to shut beta out", || lab.agent("alpha").version() == lab.agent("gamma").version());
    within(CONVERGE, "its sessions to end", || !lab.agent("alpha").is_up(&["beta"]));
    open(lab, "web").expect_err("beta is shut out");
    eprintln!("shut out after {:.1} s", start.elapsed().as_secs_f64());
}

/// Nothing that is logged or shown has the password or the token.
fn secrets(lab: &Lab) {
    for host in HOSTS {
        let said = [lab.agent(host).log(), lab.host(host).ok(&[ripstop(), "status", "-o", "json"])].concat();
        for secret in [PASSWORD, "pässword", "quoted", "Authorization"] {
            assert!(!said.contains(secret), "{host}: {secret}");
        }
    }
}
