//! `ripstop capture`, read by tcpdump: what of whose sessions is in the file, and what is refused.

use crate::{
    lab::{Lab, Place, Server, children, ripstop, wait_for},
    servers::nginx,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

/// `web` runs on two hosts and has one address: only who is at the other end tells its sessions apart.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha, gamma], run: { netns: web } }
      other: { on: [alpha], run: { netns: other } }
      api: { on: [beta], run: { netns: api } }
      tool: { on: [beta], run: { user: 4243 } }
    services:
      api: { by: api, port: 8080/tcp }
      meter: { by: api, port: 9125/udp }
      tool: { by: tool, port: 7000/tcp }
    allow:
      - { from: web, to: api }
      - { from: web, to: meter }
      - { from: web, to: tool }
      - { from: other, to: api }
";
const URL: &str = "http://api.shop.lab.test:8080/";
/// The end of a capture, on a busy machine.
const END: Duration = Duration::from_secs(10);

fn get(place: &Place, word: &str) {
    let header = format!("X-Word: {word}");
    assert_eq!(place.ok(&["curl", "-sS", "-m", "5", "-H", &header, URL]), "hello from nginx\n");
}

/// What tcpdump makes of a file: its root may read it, another user not.
fn read(place: &Place, file: &str) -> String {
    place.ok(&["tcpdump", "-Z", "root", "-n", "-A", "-r", file])
}

/// How often the hosts have said in their logs that a capture began, or ended.
fn said(lab: &Lab, host: &str, event: &str) -> usize {
    let log = lab.agent(host).log();
    log.lines().filter(|line| line.contains(event) && line.contains("by=alpha")).count()
}

/// Captures begin on alpha, each into a file; on beta, too, when this returns.
pub fn begin(lab: &Lab, captures: &[(&str, &[&str])]) -> Vec<Server> {
    let before = ["alpha", "beta"].map(|host| said(lab, host, "capture_begun"));
    let started = captures.iter().map(|(name, arguments)| {
        let file = lab.path(&format!("{name}.pcapng"));
        let line = [&[ripstop(), "capture", "--write", &file][..], arguments].concat();
        lab.host("alpha").spawn(&lab.file(&format!("{name}.log")), &line)
    });
    let started = started.collect();
    wait_for("the captures to begin", || {
        let now = ["alpha", "beta"].map(|host| said(lab, host, "capture_begun"));
        now == before.map(|before| before + captures.len())
    });
    started
}

/// Ends one; returns what it said.
pub fn interrupt(mut capture: Server) -> String {
    capture.signal(Signal::SIGINT);
    assert_eq!(capture.wait(END), Some(0), "{}", capture.log());
    capture.log()
}

#[test]
fn packets_of_both_hosts_are_in_one_file_and_nobody_else_s_are() {
    let lab = Lab::of(&["alpha", "beta", "gamma"])
        .graph(GRAPH)
        .settings("alpha", "capture: { allow: [alpha] }")
        .settings("beta", "capture: { allow: [alpha, beta] }")
        .start();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");

    both_sides_of_calls_and_of_no_others(&lab);
    who_is_not_let_is_told_what_would(&lab);
    a_session_is_seen_as_it_goes_on(&lab);
    bounds_are_kept(&lab);
    get(&lab.workload_on("alpha", "web"), "after-it-all");
}

fn both_sides_of_calls_and_of_no_others(lab: &Lab) {
    let alpha = lab.host("alpha");
    let mut captures = begin(lab, &[("calls", &["api", "--from", "web"]), ("datagrams", &["meter"])]);
    both_are_told_of(lab);
    let (code, full) = alpha.fails(&[ripstop(), "capture", "api", "--write", &lab.path("third.pcapng")]);
    assert!(code == 1 && full.contains("2 of them for alpha"), "{full}");
    get(&lab.workload_on("alpha", "web"), "by-web-on-alpha");
    get(&lab.workload_on("gamma", "web"), "by-web-on-gamma");
    get(&lab.workload("other"), "by-other-on-alpha");
    ask_meter(lab);
    let datagrams = captures.pop().map(interrupt).unwrap();
    let told = captures.pop().map(interrupt).unwrap();
    for part in ["alpha shop/web: ", "beta shop/api: ", "it was ended"] {
        assert!(told.contains(part) && datagrams.contains(part), "{part}: {told}{datagrams}");
    }

    let file = lab.file("calls.pcapng");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = read(&alpha, &lab.path("calls.pcapng"));
    let times = |text: &str| shown.matches(text).count();
    assert_eq!((times("by-web-on-alpha"), times("hello from nginx")), (2, 2), "once on either side:\n{shown}");
    assert_eq!((times("Flags [S]"), times("Flags [S.]")), (2, 2), "from the first segment on:\n{shown}");
    assert_eq!((times("by-web-on-gamma"), times("by-other-on-alpha")), (0, 0), "other sessions:\n{shown}");
    let bytes = fs::read(file).unwrap();
    for name in ["alpha shop/web", "beta shop/api"] {
        assert!(bytes.windows(name.len()).any(|part| part == name.as_bytes()), "an interface {name}");
    }
    let shown = read(&alpha, &lab.path("datagrams.pcapng"));
    assert_eq!((shown.matches("how much?").count(), shown.matches("so much!").count()), (2, 2), "{shown}");
    for host in ["alpha", "beta"] {
        wait_for("the captures' ends as events", || said(lab, host, "capture_ended") == 2);
        assert_eq!(lab.agent(host).metric("ripstop_captures", &[]), 0.0);
    }
}

/// Whoever looks after a host sees who copies what of it.
fn both_are_told_of(lab: &Lab) {
    let shown = lab.host("beta").ok(&[ripstop(), "status"]);
    for target in ["shop/api", "shop/meter"] {
        assert!(
            shown.contains(&format!("packets of calls to {target} are copied for an operator of alpha, since ")),
            "{shown}"
        );
    }
    let own = lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(own.contains("packets of calls to shop/api are copied for user 0 of this host, since "), "{own}");
    assert_eq!(lab.agent("beta").metric("ripstop_captures", &[]), 2.0);
}

fn ask_meter(lab: &Lab) {
    let meter = lab.workload("api").inside(|| UdpSocket::bind("0.0.0.0:9125").unwrap());
    let web = lab.workload_on("alpha", "web").inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for socket in [&meter, &web] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let mut buffer = [0; 64];
    web.send_to(b"how much?", lab.service("shop/meter", 9125)).unwrap();
    let (_, from) = meter.recv_from(&mut buffer).unwrap();
    meter.send_to(b"so much!", from).unwrap();
    assert_eq!(web.recv(&mut buffer).unwrap(), 8);
}

fn who_is_not_let_is_told_what_would(lab: &Lab) {
    let file = lab.path("refused.pcapng");
    let (code, refused) = lab.host("gamma").fails(&[ripstop(), "capture", "api", "--write", &file]);
    let line = "write `capture: { allow: [gamma] }` into the agent.yaml of gamma";
    assert!(code == 1 && refused.contains(line), "{refused}");
    assert!(!lab.file("refused.pcapng").exists());
    assert!(lab.agent("gamma").log().contains("capture_refused"));
    // Beta's own settings let it, those of its callers' hosts do not.
    let (_, partly) = lab.host("beta").fails(&[ripstop(), "capture", "api", "--for", "1s", "--write", &file]);
    for host in ["alpha", "gamma"] {
        assert!(partly.contains(&format!("nothing of {host}: the settings of {host} do not let")), "{partly}");
    }
    // A host's own socket has no interface.
    let file = lab.path("tool.pcapng");
    let (_, nothing) = lab.host("alpha").fails(&[ripstop(), "capture", "tool", "--for", "1s", "--write", &file]);
    assert!(nothing.contains("called by a socket of the host") && nothing.contains("tcpdump -i lo"), "{nothing}");
}

/// Into a pipe, of a session that was there before, while nothing of it is written to a file.
fn a_session_is_seen_as_it_goes_on(lab: &Lab) {
    let mut stream: TcpStream =
        lab.workload_on("alpha", "web").connect(lab.service("shop/api", 8080)).expect("nginx listens");
    let open = || {
        let sessions = lab.agent("alpha").admin("/v1/sessions")?;
        let of_api = sessions.as_array()?.iter().find(|one| one["service"] == "shop/api")?.clone();
        Some(of_api["session"].as_str()?.to_owned())
    };
    wait_for("the session", || open().is_some());
    let id = open().unwrap();
    let script = format!("{} capture {id} | tcpdump -Z root -l -n -A -r -", ripstop());
    let before = said(lab, "beta", "capture_begun");
    let mut reading = lab.host("alpha").spawn(&lab.file("pipe.log"), &["sh", "-c", &script]);
    wait_for("the capture to begin", || said(lab, "beta", "capture_begun") > before);
    stream.write_all(b"GET /who HTTP/1.0\r\nX-Word: seen-live\r\n\r\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    wait_for("both sides in what tcpdump shows", || reading.log().matches("seen-live").count() == 2);
    assert!(!reading.log().contains("Flags [S]"), "it was open before");
    let of_pipe = children(reading.pid());
    kill(Pid::from_raw(of_pipe[0].cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(reading.wait(END), Some(0), "{}", reading.log());
    assert!(reading.log().contains("it was ended"), "{}", reading.log());
    let (code, unknown) = lab.host("alpha").fails(&[ripstop(), "capture", &"0".repeat(32), "--write", &lab.path("x")]);
    assert!(code == 1 && unknown.contains("is not open on alpha"), "{unknown}");
}

fn bounds_are_kept(lab: &Lab) {
    let small: &[&str] = &["api", "--bytes", "1k"];
    let short: &[&str] = &["api", "--for", "1s", "--snap", "60"];
    let mut captures = begin(lab, &[("small", small), ("short", short)]);
    get(&lab.workload_on("alpha", "web"), "of-which-little-is-left");
    for (capture, ended) in captures.iter_mut().zip(["all the bytes that were asked for", "the time is over"]) {
        assert_eq!(capture.wait(END), Some(0), "{}", capture.log());
        assert!(capture.log().contains(ended), "{}", capture.log());
    }
    assert!(captures[0].log().contains("more did not fit"), "{}", captures[0].log());
    assert!(fs::metadata(lab.file("small.pcapng")).unwrap().len() < 4_096);
    let shown = read(&lab.host("alpha"), &lab.path("short.pcapng"));
    assert!(shown.contains("Flags [P.]") && !shown.contains("of-which-little-is-left"), "only heads:\n{shown}");
}
