//! Several pods or containers that are one workload on one host, each by an interface of its own.

use crate::{
    callers::{Steady, ask, calls, tally},
    capture,
    cni::{Runtime, annotated},
    lab::{Lab, Listening, Place, ripstop, wait_for},
    podman::Podman,
    servers::{Http, echo},
    upgrade::upgrade,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { pod: shop/web }, may: [drain] }
      job: { on: [beta], run: { netns: job } }
    services:
      web: { by: web, ports: [8080/tcp, 9090/tcp, 9000/udp], health: { tcp: 200ms } }
      back: { by: job, port: 7070/tcp }
    allow:
      - { from: web, to: web }
      - { from: web, to: back }
      - { from: job, to: web }
";
/// Sessions that are looked at for how they are spread.
const CALLS: usize = 40;
/// A pod that says that it wants no more sessions is left alone within this, on every host.
const DRAINED: Duration = Duration::from_millis(300);
/// For how long others call after each step of a rolling update.
const AFTER_STEP: Duration = Duration::from_millis(200);
/// A session that is cut ends within this.
const CUT: Duration = Duration::from_secs(3);

/// Pods of `web` on alpha.
struct Pods<'l> {
    lab: &'l Lab,
    runtime: Runtime<'l>,
}

/// What a pod serves, until it is dropped.
type Serving = Vec<Listening>;

impl Pods<'_> {
    fn place(&self, pod: &str) -> Place {
        self.lab.netns("alpha", pod)
    }

    /// As a runtime does: the namespace, ADD, and then its programs.
    fn start(&self, pod: &'static str) -> Serving {
        self.runtime.namespace(pod);
        self.runtime.ok("ADD", pod, &annotated("web"));
        let serving = self.serve(pod);
        datagrams(&self.place(pod), pod);
        serving
    }

    fn serve(&self, pod: &'static str) -> Serving {
        let place = self.place(pod);
        vec![place.serve(8080, Http::new(pod, Duration::ZERO).handler()), place.serve(9090, named_echo(pod))]
    }

    fn stop(&self, pod: &str) {
        self.runtime.ok("DEL", pod, &annotated("web"));
    }

    /// What the pod itself hears at the resolver's address.
    fn own_word(&self, pod: &str, more: &[&str]) -> Value {
        let resolver = self.lab.policy().resolver().0;
        let (path, options) = more.split_first().unwrap();
        let url = format!("http://{resolver}/v1/{path}");
        let said = self.place(pod).ok(&[&["curl", "-sS", "-m", "5", &url], options].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// The attached interfaces of web.
    fn interfaces(&self) -> BTreeMap<String, Value> {
        let status = self.lab.agent("alpha").status();
        let all = status["workloads"].as_array().unwrap().iter();
        let attached = all.filter(|one| one["id"] == "shop/web" && one["state"] == "attached");
        attached.map(|one| (one["replica"].as_str().unwrap().to_owned(), one.clone())).collect()
    }
}

/// Says its name, then echoes.
fn named_echo(name: &'static str) -> impl Fn(TcpStream) + Send + Clone + 'static {
    move |mut stream| {
        if writeln!(stream, "{name}").is_ok() {
            echo(stream);
        }
    }
}

/// Answers each datagram with its name.
fn datagrams(place: &Place, name: &'static str) {
    let socket = place.inside(|| UdpSocket::bind(("::", 9000))).expect("the port is free");
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

/// A session that stays open, and who has it.
struct Held(TcpStream, String);

impl Held {
    fn open(place: &Place, to: SocketAddr) -> Self {
        let mut stream = place.connect(to).expect("allowed");
        stream.set_read_timeout(Some(CUT)).unwrap();
        let (mut name, mut byte) = (String::new(), [0]);
        while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            name.push(char::from(byte[0]));
        }
        Self(stream, name)
    }

    fn goes_on(&mut self) {
        self.0.write_all(b"ping").expect("it goes on");
        self.0.read_exact(&mut [0; 4]).expect("it goes on");
    }

    fn is_cut(&mut self) {
        let error = self.0.read(&mut [0; 4]).expect_err("it is cut");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
}

/// Which pods answered datagrams of sessions, one after the other.
fn datagrams_from(place: &Place, to: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let mut who = BTreeMap::new();
    for _ in 0..count {
        let socket = place.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(CUT)).unwrap();
        let mut answers = (0..2).map(|_| {
            let mut buffer = [0; 100];
            socket.send(b"who").unwrap();
            let length = socket.recv(&mut buffer).expect("an answer");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        let first = answers.next().unwrap();
        assert_eq!(answers.next().unwrap(), first, "a session stays where it is");
        *who.entry(first).or_default() += 1;
    }
    who
}

fn both_serve(tally: &BTreeMap<String, usize>) {
    let least = tally.values().min().copied().unwrap_or_default();
    assert!(tally.len() == 2 && least * 3 >= CALLS, "{tally:?}");
}

fn they_are_told_apart(lab: &Lab, interfaces: &BTreeMap<String, Value>) {
    let alpha = lab.host("alpha");
    let inside = alpha.ok(&[ripstop(), "exec", "--replica", "tw", "web", "ip", "-br", "link"]);
    assert!(inside.contains(interfaces["two"]["link"].as_str().unwrap()), "{inside}");
    let shown = alpha.ok(&[ripstop(), "workloads"]);
    assert!(shown.contains("pod one") && shown.contains("pod two"), "{shown}");
}

#[test]
fn pods_of_one_workload_share_its_sessions_and_nothing_else() {
    let may = "capture: { allow: [alpha] }";
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).settings("alpha", may).settings("beta", may).start();
    let pods = Pods { lab: &lab, runtime: Runtime::of(&lab) };
    let (job, to) = (lab.workload("job"), lab.service("shop/web", 8080));
    let _back = job.serve(7070, named_echo("back"));
    let (one, two) = (pods.start("one"), pods.start("two"));

    let interfaces = pods.interfaces();
    assert_eq!(interfaces.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_ne!(interfaces["one"]["link"], interfaces["two"]["link"]);
    assert_eq!(interfaces["one"]["v4"], interfaces["two"]["v4"], "one workload");
    // A check that came before a server listens is made again 200 ms later.
    wait_for("both to be healthy", || calls(&job, to, 4).len() == 2);
    both_serve(&calls(&job, to, CALLS));
    // From one to the other and to itself, and through both interfaces to another host.
    for pod in ["one", "two"] {
        both_serve(&calls(&pods.place(pod), to, CALLS));
        Held::open(&pods.place(pod), lab.service("shop/back", 7070)).goes_on();
    }
    they_are_told_apart(&lab, &interfaces);
    let spread = datagrams_from(&job, lab.service("shop/web", 9000), 8);
    assert_eq!(spread, BTreeMap::from([("one".into(), 4), ("two".into(), 4)]));

    it_is_told_which_one(&pods, &job, to);
    what_is_killed_leaves_all_of_them(&pods, &job, to);

    // Its program ends: the other one has every session at once, and it again what it had when its program is back.
    drop(one);
    assert_eq!(calls(&job, to, CALLS), BTreeMap::from([("two".into(), CALLS)]));
    let _one = pods.serve("one");
    wait_for("one to be well", || calls(&job, to, 4).contains_key("one"));

    // An agent that takes over has both.
    let echoes = lab.service("shop/web", 9090);
    let mut held: Vec<_> = (0..4).map(|_| Held::open(&job, echoes)).collect();
    assert_eq!(held.iter().filter(|held| held.1 == "one").count(), 2, "by the fewest sessions");
    let mut called: Vec<_> =
        ["one", "two"].map(|pod| Held::open(&pods.place(pod), lab.service("shop/back", 7070))).into();
    upgrade(&lab, "alpha", &[]);
    held.iter_mut().chain(&mut called).for_each(Held::goes_on);
    assert_eq!(pods.interfaces().len(), 2);
    wait_for("both to be served by the next agent", || calls(&job, to, 8).len() == 2);
    held.extend((0..2).map(|_| Held::open(&job, echoes)));

    // One pod goes: its sessions do, and no others.
    pods.stop("one");
    for one in &mut held {
        if one.1 == "one" { one.is_cut() } else { one.goes_on() }
    }
    called[0].is_cut();
    called[1].goes_on();
    assert_eq!(calls(&job, to, CALLS), BTreeMap::from([("two".into(), CALLS)]));
    assert_eq!(pods.interfaces().into_keys().collect::<Vec<_>>(), ["two"]);
    drop((held, called));
    rolling_update(&pods, &job, to, two);
}

/// The first of a host's records that fits.
fn one_of(lab: &Lab, host: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let find = || lab.agent(host).records().into_iter().find(&fits);
    wait_for("a record", || find().is_some());
    find().unwrap()
}

/// In records, and in captures.
fn it_is_told_which_one(pods: &Pods<'_>, job: &Place, to: SocketAddr) {
    let lab = pods.lab;
    let captured = capture::begin(lab, &[("web", &["web", "--from", "job"])]).pop().unwrap();
    both_serve(&calls(job, to, CALLS));
    let told = capture::interrupt(captured);
    for interface in ["alpha shop/web (one): ", "alpha shop/web (two): ", "beta shop/job: "] {
        let line =
            told.lines().find(|line| line.starts_with(interface)).unwrap_or_else(|| panic!("{interface}: {told}"));
        assert!(!line.contains(": 0 packets") && !line.contains("did not fit"), "{told}");
    }
    let file = std::fs::read(lab.file("web.pcapng")).unwrap();
    for name in [&b"alpha shop/web (one)"[..], b"alpha shop/web (two)"] {
        assert!(file.windows(name.len()).any(|part| part == name), "an interface for each");
    }
    for pod in ["one", "two"] {
        let served = one_of(lab, "alpha", |one| one["endpoint_replica"] == pod && one["caller"] == "shop/job");
        let there = lab.agent("beta").record(|record| record["session"] == served["session"]);
        assert!(there["endpoint_replica"].is_null(), "the caller's host knows the host alone: {there}");
        one_of(lab, "alpha", |one| one["caller_replica"] == pod && one["service"] == "shop/back");
    }
    let shown = lab.host("alpha").ok(&[ripstop(), "observe", "--replica", "tw", "--from", "job"]);
    assert!(shown.contains("on alpha (two)") && !shown.contains("(one)"), "{shown}");
}

/// The next agent takes over what stands of each of them, and sessions go to and from each.
fn what_is_killed_leaves_all_of_them(pods: &Pods<'_>, job: &Place, to: SocketAddr) {
    let (lab, alpha) = (pods.lab, pods.lab.agent("alpha"));
    let links = || -> Vec<_> { pods.interfaces().into_values().map(|one| one["link"].clone()).collect() };
    let before = links();
    alpha.kill();
    alpha.start();
    alpha.wait_up(&["beta"]);
    wait_for("both to be attached", || pods.interfaces().len() == 2);
    assert!(alpha.log().contains("taking over interfaces=2"), "{}", alpha.log());
    assert_eq!(links(), before);
    wait_for("the next agent to be reached", || ask_from(job, to).is_ok());
    wait_for("both to be served by it", || calls(job, to, 8).len() == 2);
    for pod in ["one", "two"] {
        Held::open(&pods.place(pod), lab.service("shop/back", 7070)).goes_on();
    }
}

/// A new pod comes before the old one goes, and nobody who calls meanwhile notices.
fn rolling_update(pods: &Pods<'_>, job: &Place, to: SocketAddr, two: Serving) {
    let steady = Steady::start(job, to);
    let _three = pods.start("three");
    thread::sleep(AFTER_STEP);
    // What a `preStop` hook says.
    let said = pods.own_word("two", &["drain", "--json", "{}"]);
    assert!(
        said["serves"][0]["drained"] == true && pods.own_word("three", &["whoami"])["replica"] == "three",
        "{said}"
    );
    let drained = || pods.own_word("two", &["whoami"])["serves"][0]["sessions"] == 0;
    let started = Instant::now();
    wait_for("two to be drained", drained);
    thread::sleep(DRAINED.saturating_sub(started.elapsed()));
    drop(two);
    pods.stop("two");
    thread::sleep(AFTER_STEP);
    let calls = steady.stop();
    let who = tally(&calls);
    assert!(who.len() == 2 && who["three"] > 20, "{who:?}");
    assert!(calls.iter().rev().take(20).all(|call| call.answer.as_deref() == Ok("three")), "the new one alone");
    assert_eq!(ask_from(job, to), Ok("three".into()));
}

fn ask_from(place: &Place, to: SocketAddr) -> Result<String, String> {
    place.inside(|| ask(to))
}

const CONTAINERS: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { container: { label: app=web } } }
      job: { on: [beta], run: { netns: job } }
    services:
      web: { by: web, port: 8080/tcp, health: { tcp: 200ms } }
    allow:
      - { from: job, to: web }
";
/// Tells its name over HTTP.
const TELLS: &str = "busybox mkdir -p /tmp/$0; echo $0 > /tmp/$0/index.html; exec httpd -f -p 8080 -h /tmp/$0";

#[test]
fn containers_with_one_label_share_its_sessions() {
    let lab = Lab::of(&["alpha", "beta"]).graph(CONTAINERS).start();
    let (job, to) = (lab.workload("job"), lab.service("shop/web", 8080));
    let mut podman = Podman::on(&lab, "alpha");
    podman.serve();
    let start = |name: &str| {
        podman.start_program(name, &["--network", "none", "--label", "app=web"], &["sh", "-c", TELLS, name]);
    };
    let who = |count| -> BTreeMap<String, usize> {
        calls(&job, to, count).into_iter().map(|(name, count)| (name.trim().to_owned(), count)).collect()
    };
    start("one");
    wait_for("the first to serve", || ask_from(&job, to).is_ok());
    start("two");
    wait_for("the second to serve", || who(4).len() == 2);
    both_serve(&who(CALLS));
    podman.stop("one");
    // What began just then may have been its own; nothing after that.
    wait_for("the first to be gone", || ask_from(&job, to).is_ok());
    assert_eq!(who(CALLS), BTreeMap::from([("two".into(), CALLS)]));
    start("three");
    wait_for("the third to serve", || who(4).contains_key("three"));
    both_serve(&who(CALLS));
}
