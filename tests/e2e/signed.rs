//! Signed policies: one `ripstop apply` on any host reaches all, whatever happens to them meanwhile, and nothing goes back.

use crate::{
    lab::{Lab, SHOP, ripstop, within},
    servers::echo,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

const EDGE: &str = "      - { from: web, to: api }\n";
const THREE: [&str; 3] = ["alpha", "beta", "gamma"];
/// How soon all have a policy once they can reach each other (the 5 s).
const CONVERGE: Duration = Duration::from_secs(5);

fn three() -> Lab {
    Lab::of(&THREE).graph(SHOP).signed().start()
}

/// Another edge, or its removal: a graph that differs in what it allows.
fn other_edge(text: &str) -> String {
    let other = "      - { from: other, to: api }\n";
    if text.contains(other) { text.replace(other, "") } else { text.replace(EDGE, &format!("{EDGE}{other}")) }
}

fn open(lab: &Lab, workload: &str) -> std::io::Result<TcpStream> {
    let mut stream = lab.workload(workload).connect(lab.service("shop/api", 8080))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])?;
    Ok(stream)
}

fn run(lab: &Lab, host: &str, command: &str, more: &[&str]) -> String {
    let line = lab.signing(command);
    let line: Vec<_> = line.iter().map(String::as_str).chain(more.iter().copied()).collect();
    lab.host(host).ok(&line)
}

#[test]
fn one_apply_reaches_every_host_and_cuts_what_is_no_longer_allowed() {
    let lab = three();
    let _server = lab.workload("api").serve(8080, echo);
    let mut session = open(&lab, "web").expect("the first policy allows it");
    open(&lab, "other").expect_err("not yet");
    // On a host that neither calls nor serves.
    let said = lab.apply("gamma", |text| text.replace("from: web, to: api", "from: other, to: api"));
    assert!(said.contains("policy 1.2-") && said.contains("runs on 3 hosts"), "{said}");
    open(&lab, "other").expect("allowed everywhere when the command returns");
    assert_eq!(session.read(&mut [0; 4]).expect_err("cut").kind(), ErrorKind::ConnectionReset);
    let status = lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(status.contains("policy       1.2, ") && status.contains("POLICY"), "{status}");
    let explained = lab.host("beta").ok(&[ripstop(), "explain", "other", "api:8080"]);
    assert!(explained.contains("graph.yaml:"), "as the operator's file has it: {explained}");

    let said = run(&lab, "beta", "rollback", &["--note", "as it was"]);
    assert!(said.contains("policy 1.3-") && said.contains("runs on 3 hosts"), "{said}");
    drop(open(&lab, "web").expect("allowed again"));
    open(&lab, "other").expect_err("and this no more");
    let history = lab.host("alpha").ok(&[ripstop(), "history"]);
    let lines: Vec<_> = history.lines().collect();
    assert!(
        lines[1].starts_with("1.3") && lines[1].contains("in force") && lines[1].contains("as it was"),
        "{history}"
    );
    assert!(lines.len() == 4 && lines[3].starts_with("1.1"), "{history}");
    let said = lab.apply("alpha", |text| text.replace("from: other, to: api", "from: web, to: api"));
    assert!(said.contains("in force") && said.contains("policy 1.3-"), "nothing to do: {said}");
}

#[test]
fn names_keep_their_addresses_from_version_to_version() {
    let lab = three();
    let place = |name: &str| {
        let status = lab.agent("alpha").status();
        let workloads = status["workloads"].as_array().unwrap().clone();
        let found = workloads.iter().find(|one| one["id"] == format!("shop/{name}"));
        found.map(|one| one["v4"].as_str().unwrap().to_owned())
    };
    let before = place("web").unwrap();
    // Two of three addresses are taken: whatever the new name's hash is, it may have to look for another.
    lab.apply("alpha", |text| {
        text.replace("      web:", "      aaa: { on: [alpha], run: { netns: other2 } }\n      web:")
    });
    within(CONVERGE, "the new workload", || place("aaa").is_some());
    assert_eq!(place("web").unwrap(), before);
}

#[test]
fn a_mistake_or_a_key_of_nobody_changes_nothing() {
    let lab = three();
    let before = lab.agent("alpha").version();
    let file = lab.path("bad.yaml");
    let text = fs::read_to_string(lab.file("graph.yaml")).unwrap();
    fs::write(&file, text.replace("to: api }", "to: apo }")).unwrap();
    let key = lab.path("operator.key");
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "apply", &file, "--key", &key]);
    assert!(code == 1 && said.contains("did you mean `api`?"), "{said}");
    fs::write(&file, other_edge(&text)).unwrap();
    let stranger = lab.path("stranger.key");
    lab.host("alpha").ok(&[ripstop(), "operator", "keygen", "stranger", "--out", &stranger]);
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "apply", &file, "--key", &stranger]);
    assert!(code == 1 && said.contains("0 of the 1 signatures"), "{said}");
    lab.host("alpha").sh(&format!("chmod 644 {stranger}"));
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "apply", &file, "--key", &stranger]);
    assert!(code == 1 && said.contains("chmod 600"), "{said}");
    assert_eq!(lab.agent("alpha").version(), before);
    assert_eq!(lab.agent("alpha").metric("ripstop_policy_bundles_refused_total", &[]), 1.0);
}

fn kept(lab: &Lab, host: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(lab.agent(host).directory().join("state/policy")).unwrap();
    let mut found: Vec<_> = found.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "bundle"));
    found.sort();
    found
}

#[test]
fn an_older_policy_is_refused_also_after_a_crash_and_a_loss_of_state() {
    let lab = three();
    let first = fs::read(&kept(&lab, "alpha")[0]).unwrap();
    lab.apply("alpha", other_edge);
    let newest = lab.agent("alpha").version();
    let refused = |why: &str| {
        let (status, said) = lab.agent("alpha").put("/v1/policy", &first);
        assert!(status == 409 && said.contains(why), "{status} {said}");
        assert_eq!(lab.agent("alpha").version(), newest);
    };
    refused("is not newer");
    let mut other = first.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    let (status, said) = lab.agent("alpha").put("/v1/policy", &other);
    assert!(status == 409 && said.contains("0 of the 1 signatures"), "{said}");
    lab.agent("alpha").kill();
    lab.agent("alpha").start();
    refused("is not newer");
    // The newest is lost: everything is denied until another host brings it again, which is at once.
    lab.agent("alpha").kill();
    fs::write(kept(&lab, "alpha").pop().unwrap(), "half a bundle").unwrap();
    lab.agent("alpha").start();
    within(CONVERGE, "the newest policy again", || lab.agent("alpha").version() == newest);
    refused("is not newer");
    assert!(lab.agent("alpha").log().contains("everything is denied"), "{}", lab.agent("alpha").log());
}

#[test]
fn a_host_without_a_policy_denies_all_and_is_given_one() {
    let lab = Lab::of(&THREE).graph(SHOP).signed().without_agent("beta").without_agent("gamma").start();
    lab.agent("gamma").start();
    let took = within(CONVERGE, "a policy on gamma", || !lab.agent("gamma").version().is_empty());
    println!("measured: a host that joins late has the policy {} ms after it was ready", took.as_millis());
    // Alone, nobody brings beta one.
    lab.link("beta").unplug();
    lab.agent("beta").start();
    let status = lab.host("beta").ok(&[ripstop(), "status"]);
    assert!(status.contains("none yet, so all is denied") && status.contains("no workloads"), "{status}");
    lab.link("beta").plug();
    within(CONVERGE, "a policy on beta", || !lab.agent("beta").version().is_empty());
    let _server = lab.workload("api").serve(8080, echo);
    within(CONVERGE, "a session to beta", || open(&lab, "web").is_ok());
}

#[test]
fn a_serving_host_that_was_stopped_gets_the_callers_policy_before_it_decides() {
    let lab = three();
    let _server = lab.workload("api").serve(8080, echo);
    for round in 0..3 {
        lab.agent("beta").signal(Signal::SIGSTOP);
        let (file, text) = (lab.file("graph.yaml"), fs::read_to_string(lab.file("graph.yaml")).unwrap());
        fs::write(&file, other_edge(&text)).unwrap();
        let allowed = round % 2 == 0;
        let said = lab.host("alpha").run(
            &lab.signing("apply")
                .iter()
                .map(String::as_str)
                .chain([lab.path("graph.yaml").as_str(), "--wait", "1ms"])
                .collect::<Vec<_>>(),
        );
        assert_eq!(said.status.code(), Some(1), "beta does not run it yet");
        let to = lab.service("shop/api", 8080);
        let who = if allowed { "other" } else { "web" };
        let calling = lab.workload(who).thread(move || TcpStream::connect_timeout(&to, Duration::from_secs(10)));
        thread::sleep(Duration::from_millis(300));
        lab.agent("beta").signal(Signal::SIGCONT);
        calling.join().unwrap().unwrap_or_else(|error| panic!("round {round}: {error}\n{}", lab.agent("beta").log()));
        let version = lab.agent("alpha").version();
        within(CONVERGE, "the policy on beta", || lab.agent("beta").version() == version);
    }
    let denied = lab.agent("beta").records().iter().filter(|record| record["verdict"] == "deny").count();
    assert_eq!(denied, 0, "nothing was decided by the older one");
}

const TWENTY: [&str; 20] = [
    "h01", "h02", "h03", "h04", "h05", "h06", "h07", "h08", "h09", "h10", "h11", "h12", "h13", "h14", "h15", "h16",
    "h17", "h18", "h19", "h20",
];

const MANY: &str = "
tenants:
  shop:
    workloads:
      web: { on: [h01], run: { netns: web } }
      api: { on: [h20], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
";

/// Loses every QUIC packet between a host and some others, both ways.
fn part(lab: &Lab, host: &str, others: &[&str]) {
    let others: Vec<_> = others.iter().map(|other| lab.host_address(other).to_string()).collect();
    let set = others.join(", ");
    lab.host(host).sh(&format!(
        "nft -f - <<'END'\ntable inet lab {{\n\
         chain in {{ type filter hook input priority 0; meta l4proto udp ip saddr {{ {set} }} drop; }}\n\
         chain out {{ type filter hook output priority 0; meta l4proto udp ip daddr {{ {set} }} drop; }}\n}}\nEND"
    ));
}

fn behind(lab: &Lab, version: &str, hosts: &[&str]) -> Vec<String> {
    hosts.iter().filter(|host| lab.agent(host).version() != version).map(|host| (*host).to_owned()).collect()
}

#[test]
fn of_twenty_hosts_each_half_goes_on_and_all_agree_when_they_meet_again() {
    let began = Instant::now();
    let lab = Lab::of(&TWENTY).graph(MANY).signed().without_agent("h10").start();
    let built = began.elapsed();
    let (left, right) = TWENTY.split_at(10);
    for host in right {
        part(&lab, host, left);
    }
    lab.agent("h05").signal(Signal::SIGSTOP);
    // Longer than connections outlive silence.
    thread::sleep(Duration::from_secs(11));
    let applied = Instant::now();
    let edit = |text: &str| text.replace("to: api }", "to: api, limit: { sessions: 9 } }");
    let file = lab.path("graph.yaml");
    fs::write(&file, edit(&fs::read_to_string(&file).unwrap())).unwrap();
    let line = lab.signing("apply");
    let line: Vec<_> = line.iter().map(String::as_str).chain([file.as_str(), "--wait", "5s"]).collect();
    let said = String::from_utf8(lab.host("h01").run(&line).stdout).unwrap();
    let reached: Vec<_> = left.iter().copied().filter(|host| !["h05", "h10"].contains(host)).collect();
    let newest = lab.agent("h01").version();
    within(CONVERGE, "one half", || behind(&lab, &newest, &reached).is_empty());
    println!("measured: applied in a half of eight in {} ms: {said}", applied.elapsed().as_millis());
    assert!(said.contains("runs on 8 hosts") && said.matches("not reachable").count() == 12, "{said}");
    let (first, others) = right.split_first().unwrap();
    let old = lab.agent(first).version();
    assert!(old != newest && behind(&lab, &old, others).is_empty(), "the other half has what it had");

    for host in right {
        lab.link(host).heal();
    }
    lab.agent("h05").signal(Signal::SIGCONT);
    lab.agent("h10").start();
    let healed = Instant::now();
    within(CONVERGE, "all to agree", || behind(&lab, &newest, &TWENTY).is_empty());
    println!(
        "measured: 20 hosts built in {:.1} s, agreed {} ms after two halves met, one that was stopped went on, and one joined",
        built.as_secs_f64(),
        healed.elapsed().as_millis()
    );
    let log: String = TWENTY.iter().map(|host| lab.agent(host).log()).collect();
    assert!(!log.contains("ERROR"), "{log}");
}
