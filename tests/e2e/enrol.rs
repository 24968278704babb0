//! From empty hosts to a fabric, by the commands that the README shows: enrolment, renewal, revocation, clocks that jump.

use crate::{
    lab::{Lab, Place, ripstop, wait_for, within},
    servers::echo,
};
use serde_json::Value;
use std::{
    fs::{self, DirBuilder},
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// What is promised: so many commands, and so much time for all of them.
const COMMANDS_MAX: usize = 6;
const TIME_MAX: Duration = Duration::from_secs(60);
/// Within this every agent has closed the connections of a revoked host.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);
/// Where Debian's libfaketime is.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Hosts on which nothing was done yet, and the commands that make a fabric of them.
pub struct Bare {
    pub lab: Lab,
    /// What every `ripstop` is started with.
    environment: Vec<String>,
}

impl Bare {
    fn of(hosts: &[&'static str]) -> Self {
        Self::with(hosts, &[])
    }

    /// With more in the environment of every `ripstop`.
    pub fn with(hosts: &[&'static str], environment: &[&str]) -> Self {
        let mut lab = Lab::of(hosts).graph(&places(hosts));
        for host in hosts {
            lab = lab.without_agent(host);
        }
        Self { lab: lab.start(), environment: environment.iter().map(ToString::to_string).collect() }
    }

    fn line<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let environment = self.environment.iter().map(String::as_str);
        std::iter::once("env").chain(environment).chain([ripstop()]).chain(arguments.iter().copied()).collect()
    }

    pub fn run(&self, host: &str, arguments: &[&str]) -> String {
        self.lab.host(host).ok(&self.line(arguments))
    }

    pub fn fails(&self, host: &str, arguments: &[&str]) -> String {
        self.lab.host(host).fails(&self.line(arguments)).1
    }

    /// `/etc` is each machine's own, `/var/lib` is not.
    pub fn state(&self, host: &str) -> String {
        self.lab.path(&format!("{host}-state"))
    }

    /// Makes the fabric; returns what `init` says to run on the next host.
    pub fn init(&self, more: &[&str]) -> Vec<String> {
        let state = self.state("alpha");
        let line = ["init", "--fabric", "lab.test", "--host", "alpha", "--state", &state, "--start"];
        let said = self.run("alpha", &[&line[..], more].concat());
        words(&said)
    }

    /// Runs what `init` or `token create` said.
    pub fn join(&self, host: &str, said: &[String]) {
        self.run(host, &self.joining(host, said).iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub fn joining(&self, host: &str, said: &[String]) -> Vec<String> {
        let own = ["--host", host, "--state", &self.state(host), "--start"].map(str::to_owned);
        said.iter().filter(|word| *word != "--start").cloned().chain(own).collect()
    }

    pub fn token(&self, hosts: &str) -> Vec<String> {
        words(&self.run("alpha", &["token", "create", hosts]))
    }

    pub fn status(&self, host: &str) -> Value {
        serde_json::from_str(&self.run(host, &["status", "-o", "json"])).unwrap()
    }

    pub fn log(&self, host: &str) -> String {
        fs::read_to_string(format!("{}/agent.log", self.state(host))).unwrap_or_default()
    }

    fn is_up(&self, host: &str, other: &str) -> bool {
        let peers = self.status(host)["peers"].clone();
        peers.as_array().unwrap().iter().any(|peer| peer["host"] == other && peer["state"] == "up")
    }

    /// The time at which a host's certificate expires, and what is wrong with it.
    fn certificate(&self, host: &str) -> (String, Option<String>) {
        let status = self.status(host);
        let text = |key: &str| status[key].as_str().map(str::to_owned);
        (text("certificate_expires").unwrap(), text("certificate_warning"))
    }

    /// Web on alpha and beta may call api on gamma, or on whichever host is named.
    pub fn graph(&self, callers: &[&str], api: &str) {
        let on: Vec<&str> = callers.iter().flat_map(|host| ["--on", host]).collect();
        self.run("alpha", &[&["workload", "add", "web", "--run", "netns:web"][..], &on].concat());
        let service = ["expose", "api", "--port", "8080", "--on", api, "--run", "netns:api", "--allow", "web"];
        self.run("alpha", &service);
    }

    fn connect(&self, from: &Place) -> Option<TcpStream> {
        let to = self.lab.service("main/api", 8080);
        let stream = from.connect(to).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Some(stream)
    }

    /// A session that answers, once the hosts have all that they need for one.
    pub fn session(&self, from: &Place) -> TcpStream {
        let start = Instant::now();
        loop {
            if let Some(mut stream) = self.connect(from)
                && says(&mut stream)
            {
                return stream;
            }
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "no session from {}: {}",
                from.name(),
                from.enter_line()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if thread::panicking() {
            for host in ["alpha", "beta", "gamma"] {
                let log = self.log(host);
                let lines: Vec<_> = log.lines().filter(|line| !line.starts_with('{')).collect();
                eprintln!("{host}:\n  {}", lines[lines.len().saturating_sub(30)..].join("\n  "));
            }
        }
    }
}

/// The namespaces that the machines have: web on alpha and beta, api on gamma. The hosts themselves know nothing of it.
fn places(hosts: &[&str]) -> String {
    let callers: Vec<_> = hosts.iter().copied().filter(|host| *host != "gamma").collect();
    format!(
        "tenants:\n  main:\n    workloads:\n      web: {{ on: [{}], run: {{ netns: web }} }}\n      \
         api: {{ on: [gamma], run: {{ netns: api }} }}\n    services:\n      api: {{ by: api, port: 8080/tcp }}\n    \
         allow:\n      - {{ from: web, to: api }}\n",
        callers.join(", ")
    )
}

/// The words of the last line that is a command, without the program.
fn words(said: &str) -> Vec<String> {
    let line = said.lines().rev().find(|line| line.trim().starts_with("ripstop join")).expect(said);
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

fn says(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"ping"
}

fn answer_http(mut stream: TcpStream) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n");
}

#[test]
fn two_empty_hosts_come_to_a_named_request_in_a_few_commands() {
    let bare = Bare::of(&["alpha", "gamma"]);
    let _server = bare.lab.workload("api").serve(8080, answer_http);
    let start = Instant::now();
    let said = bare.init(&[]);
    bare.join("gamma", &said);
    bare.graph(&["alpha"], "gamma");
    let url = "http://api.main.lab.test:8080/";
    let curl = ["exec", "web", "curl", "-sS", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", url];
    assert_eq!(bare.run("alpha", &curl), "hello\n");
    let (taken, commands) = (start.elapsed(), 5);
    assert!(taken < TIME_MAX && commands <= COMMANDS_MAX, "{taken:?}");
    let record = || {
        let log = bare.log("alpha");
        let line = log.lines().find(|line| line.contains("\"caller\":\"main/web\""));
        line.map(|line| serde_json::from_str::<Value>(line).unwrap())
    };
    within(Duration::from_secs(5), "the record of the session, which ends after its answer", || record().is_some());
    let record = record().unwrap();
    assert_eq!((&record["verdict"], &record["service"]), (&"allow".into(), &"main/api".into()), "{record}");
    assert_eq!(bare.status("alpha")["peers"][0]["cipher"], "TLS_AES_128_GCM_SHA256");
    assert!(bare.status("alpha")["peers"][0]["state"] == "up");
    // What was not said is not allowed.
    let said = bare.fails("gamma", &["join", "192.0.2.11:7477", "--token", &said[3], "--start"]);
    assert!(said.contains("one of a fabric already"), "{said}");
    println!("measured: two empty hosts to a named request: {commands} commands, {:.1} s", taken.as_secs_f64());
}

#[test]
fn tokens_are_listed_revoked_and_good_once() {
    let bare = Bare::of(&["alpha", "gamma", "beta"]);
    let said = bare.init(&[]);
    let named = bare.token("gamma");
    let list = bare.run("alpha", &["token", "list"]);
    let id = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    let of = |hosts: &str| list.lines().find(|line| line.split_whitespace().nth(1) == Some(hosts)).map(id).unwrap();
    assert!(!list.contains(&said[3]) && !list.contains(&named[3]), "the secret is shown once: {list}");
    bare.run("alpha", &["token", "revoke", &of("*")]);
    let refuse = |host: &str, said: &[String]| {
        let line = bare.joining(host, said);
        bare.fails(host, &line.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(refuse("gamma", &said).contains("the token is not known here"));
    let other = refuse("beta", &named);
    assert!(other.contains("the token is for `gamma`, not for `beta`"), "{other}");
    bare.join("gamma", &named);
    let used = refuse("beta", &named);
    assert!(used.contains("was used already, by `gamma`"), "{used}");
    assert!(bare.run("alpha", &["token", "list"]).contains("used by gamma"));
    // Nothing of what failed is left, so that the next token works.
    bare.join("beta", &bare.token("b*"));
    for host in ["alpha", "beta", "gamma"] {
        let log = bare.log(host);
        assert!(!log.contains(&named[3][20..]) && !log.contains("PRIVATE KEY"), "{log}");
    }
    let unknown = bare.fails("alpha", &["host", "revoke", "delta"]);
    assert!(unknown.contains("no host `delta`"), "{unknown}");
    let innocent = bare.fails("alpha", &["host", "revoke", "beta", "--undo"]);
    assert!(innocent.contains("is not revoked"), "{innocent}");
}

#[test]
fn without_an_operators_key_a_host_is_told_what_is_missing() {
    let bare = Bare::of(&["alpha", "gamma"]);
    let said = bare.init(&[]);
    // The operator takes his key with him.
    let key = bare.lab.path("operator.key");
    bare.lab.host("alpha").ok(&["mv", "/etc/ripstop/operator.key", &key]);
    let line = bare.joining("gamma", &said);
    let joined = bare.run("gamma", &line.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(joined.contains("Still missing") && joined.contains("gamma: { address: 192.0.2.12:7477 }"), "{joined}");
    assert!(!bare.is_up("alpha", "gamma"), "alpha does not take a host that the policy does not name");
    let none = bare.fails("alpha", &["workload", "add", "web", "--on", "alpha", "--run", "netns:web"]);
    assert!(none.contains("operator.key"), "{none}");
    let graph =
        "fabric: lab.test\nhosts:\n  alpha: { address: 192.0.2.11 }\n  gamma: { address: 192.0.2.12:7477 }\ntenants:\n";
    let file = bare.lab.path("graph.yaml");
    fs::write(&file, graph).unwrap();
    bare.run("alpha", &["apply", &file, "--key", &key]);
    within(Duration::from_secs(10), "gamma to be one of them", || bare.is_up("alpha", "gamma"));
    wait_for("the policy to reach it", || {
        bare.status("gamma")["policy"]["signed"] == bare.status("alpha")["policy"]["signed"]
    });
}

#[test]
fn certificates_are_renewed_under_open_sessions_and_after_expiry() {
    let bare = Bare::of(&["alpha", "gamma"]);
    let _server = bare.lab.workload("api").serve(8080, echo);
    bare.join("gamma", &bare.init(&["--certificates", "5s"]));
    bare.graph(&["alpha"], "gamma");
    let web = bare.lab.workload_on("alpha", "web");
    let mut open = bare.session(&web);
    let first = ["alpha", "gamma"].map(|host| bare.certificate(host).0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        assert!(says(&mut open), "after {:?}", start.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    for (host, first) in ["alpha", "gamma"].iter().zip(&first) {
        wait_for("no warning", || bare.certificate(host).1.is_none());
        assert!(bare.certificate(host).0 > *first, "{host}: {first}");
        let renewed = bare.log(host).matches("has a new certificate").count();
        assert!(renewed >= 2, "{host} renewed {renewed} times");
    }
    assert!(says(&mut bare.session(&web)), "new sessions, too, beyond the life of the first certificates");
    // Away for longer than its certificate is good.
    let pid = bare.status("gamma")["pid"].to_string();
    bare.lab.host("gamma").ok(&["kill", "-9", &pid]);
    thread::sleep(Duration::from_secs(6));
    let log = bare.lab.file("gamma-again.log");
    let _again = bare.lab.host("gamma").spawn(&log, &[ripstop(), "agent", "--config", "/etc/ripstop/agent.yaml"]);
    within(Duration::from_secs(15), "gamma to be back", || bare.lab.agent("gamma").admin("/v1/status").is_some());
    assert!(says(&mut bare.session(&web)));
    assert!(fs::read_to_string(&log).unwrap().contains("has a new certificate"));
}

#[test]
fn an_authority_that_is_away_is_missed_only_at_expiry() {
    let bare = Bare::of(&["alpha", "gamma", "beta"]);
    let _server = bare.lab.workload("api").serve(8080, echo);
    bare.join("gamma", &bare.init(&["--certificates", "5s"]));
    bare.join("beta", &bare.token("beta"));
    bare.graph(&["beta"], "gamma");
    let web = bare.lab.workload_on("beta", "web");
    let mut open = bare.session(&web);
    let pid = bare.status("alpha")["pid"].to_string();
    bare.lab.host("alpha").ok(&["kill", "-STOP", &pid]);
    within(Duration::from_secs(12), "gamma to be warned", || {
        bare.certificate("gamma").1.is_some_and(|warning| warning.contains("was not renewed"))
    });
    within(Duration::from_secs(12), "the certificate to expire", || {
        bare.certificate("gamma").1.is_some_and(|warning| warning.contains("has expired"))
    });
    assert!(says(&mut open), "a session that is open outlives the certificates");
    bare.lab.host("alpha").ok(&["kill", "-CONT", &pid]);
    within(Duration::from_secs(15), "gamma to be renewed", || bare.certificate("gamma").1.is_none());
    wait_for("beta to be renewed", || bare.certificate("beta").1.is_none());
    assert!(says(&mut open) && says(&mut bare.session(&web)));
}

#[test]
fn a_revoked_host_is_cut_off_everywhere_until_a_token_names_it() {
    let bare = Bare::of(&["alpha", "beta", "gamma"]);
    let _server = bare.lab.workload("api").serve(8080, echo);
    bare.join("gamma", &bare.init(&["--certificates", "8s"]));
    bare.join("beta", &bare.token("*"));
    bare.graph(&["alpha", "beta"], "gamma");
    let callers = ["alpha", "beta"].map(|host| bare.lab.workload_on(host, "web"));
    let mut open = callers.each_ref().map(|web| bare.session(web));
    assert!(open.iter_mut().all(says));
    let said = bare.run("alpha", &["host", "revoke", "gamma"]);
    assert!(said.contains("host gamma is revoked"), "{said}");
    let taken = within(REVOKED_WITHIN, "both to have closed it", || {
        ["alpha", "beta"].iter().all(|host| !bare.is_up(host, "gamma"))
    });
    for stream in &mut open {
        assert!(!says(stream), "what was open is cut");
    }
    thread::sleep(Duration::from_secs(2));
    for (host, web) in ["alpha", "beta"].iter().zip(&callers) {
        assert!(!bare.is_up(host, "gamma"), "{host} takes it no more, whoever dials");
        assert!(bare.connect(web).is_none(), "no new session from {host}");
    }
    within(Duration::from_secs(15), "its renewal to be refused", || {
        bare.certificate("gamma").1.is_some_and(|warning| warning.contains("is revoked"))
    });
    // It begins anew, as an operator would.
    let pid = bare.status("gamma")["pid"].to_string();
    bare.lab.host("gamma").ok(&["kill", &pid]);
    wait_for("the agent to end", || bare.lab.agent("gamma").admin("/v1/status").is_none());
    bare.lab.host("gamma").sh(&format!("mv /etc/ripstop /etc/ripstop.old; mv {0} {0}.old", bare.state("gamma")));
    let pattern = bare.joining("gamma", &bare.token("g*"));
    let refused = bare.fails("gamma", &pattern.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.contains("ripstop token create gamma"), "{refused}");
    bare.join("gamma", &bare.token("gamma"));
    for web in &callers {
        assert!(says(&mut bare.session(web)), "a new certificate, and it is in again");
    }
    println!("measured: connections of a revoked host closed on two other hosts within {:.2} s", taken.as_secs_f64());
}

#[test]
fn clocks_that_jump_ten_years_end_no_session_and_lock_nobody_out() {
    assert!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing: apt-get install libfaketime");
    let mut bare = Bare::of(&["alpha", "gamma"]);
    let _server = bare.lab.workload("api").serve(8080, echo);
    // On each host the file that its clock is set by.
    let said = {
        bare.environment = faked(&bare.lab, "alpha");
        bare.init(&["--certificates", "20s"])
    };
    bare.environment = faked(&bare.lab, "gamma");
    bare.join("gamma", &said);
    bare.environment.clear();
    bare.graph(&["alpha"], "gamma");
    let web = bare.lab.workload_on("alpha", "web");
    let mut open = bare.session(&web);
    for host in ["gamma", "alpha"] {
        for years in ["+10y", "-10y"] {
            set_clock(&bare.lab, host, years);
            within(Duration::from_secs(8), "the agent to see it", || bare.certificate(host).1.is_some());
            thread::sleep(Duration::from_secs(1));
            assert!(says(&mut open), "{host}'s clock at {years}");
        }
        set_clock(&bare.lab, host, "+0");
        within(Duration::from_secs(15), "the certificate to be good again", || bare.certificate(host).1.is_none());
        assert!(says(&mut open), "{host}'s clock is right again");
        assert!(says(&mut bare.session(&web)));
    }
    for host in ["alpha", "gamma"] {
        assert!(bare.is_up(if host == "alpha" { "gamma" } else { "alpha" }, host));
    }
}

/// In the agent's own state, as it sees no other files.
fn clock_file(lab: &Lab, host: &str) -> String {
    lab.path(&format!("{host}-state/clock"))
}

fn set_clock(lab: &Lab, host: &str, offset: &str) {
    let (file, new) = (clock_file(lab, host), format!("{}.new", clock_file(lab, host)));
    fs::write(&new, offset).unwrap();
    fs::rename(new, file).unwrap();
}

/// The wall clock from a file that is read each time, and the true monotonic one.
fn faked(lab: &Lab, host: &str) -> Vec<String> {
    DirBuilder::new().mode(0o700).create(lab.path(&format!("{host}-state"))).unwrap();
    set_clock(lab, host, "+0");
    vec![
        format!("LD_PRELOAD={FAKETIME}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock_file(lab, host)),
        "FAKETIME_NO_CACHE=1".into(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
    ]
}
