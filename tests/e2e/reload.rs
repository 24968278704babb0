//! The graph changes while sessions are open.

use crate::{
    lab::{Lab, SHOP, within},
    servers::echo,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// How soon an edit must be in force, and sessions that it forbids cut (the second, counted from the write).
const SECOND: Duration = Duration::from_millis(1_000);

const EDGE: &str = "      - { from: web, to: api }\n";

/// A shell line that connects from a namespace which the lab did not make.
fn connect_from(netns: &str, lab: &Lab) -> String {
    let to = lab.service("shop/api", 8080);
    format!("nsenter --net=/run/netns/{netns} timeout 2 bash -c 'exec 3<>/dev/tcp/{}/{}'", to.ip(), to.port())
}

fn open(lab: &Lab, workload: &str) -> TcpStream {
    let mut stream = lab.workload(workload).connect(lab.service("shop/api", 8080)).expect("allowed");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    stream
}

#[test]
fn an_edit_allows_and_cuts_within_a_second() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut cut = open(&lab, "web");
    lab.workload("other").connect(lab.service("shop/api", 8080)).expect_err("not yet allowed");
    let start = Instant::now();
    lab.write_graph(|text| text.replace("from: web, to: api", "from: other, to: api"));
    let error = cut.read(&mut [0; 4]).expect_err("cut, not ended");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(start.elapsed() <= SECOND, "cut after {:?}", start.elapsed());
    let allowed = || lab.workload("other").connect(lab.service("shop/api", 8080)).is_ok();
    within(SECOND, "the new edge", allowed);
    for host in ["alpha", "beta"] {
        let record = lab.agent(host).record(|record| record["caller"] == "shop/web");
        assert_eq!(record["reason"], "policy_changed", "on {host}: {record}");
    }
    lab.workload("web").connect(lab.service("shop/api", 8080)).expect_err("no longer allowed");
}

#[test]
fn an_edit_elsewhere_leaves_open_sessions_alone() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut stream = open(&lab, "web");
    lab.edit_graph(|text| text.replace(EDGE, &format!("{EDGE}      - {{ from: other, to: api }}\n")));
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).expect("still open");
    drop(open(&lab, "other"));
}

#[test]
fn sighup_reloads() {
    let lab = Lab::of(&["alpha", "beta"]).without_agent("alpha").start();
    // Behind a link, as a configuration manager's, so that no change in the agent's own directory gives it away.
    let (file, elsewhere) = (lab.agent("alpha").graph_file(), lab.file("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let target = elsewhere.join("graph.yaml");
    fs::rename(&file, &target).unwrap();
    std::os::unix::fs::symlink(&target, &file).unwrap();
    let agent = lab.agent("alpha");
    agent.start();
    let before = agent.digest();
    fs::write(&target, fs::read_to_string(&target).unwrap().replace(EDGE, "      - { from: other, to: api }\n"))
        .unwrap();
    agent.signal(Signal::SIGHUP);
    within(SECOND, "the policy to be read again", || agent.digest() != before);
}

#[test]
fn a_bad_graph_changes_nothing_and_says_so() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut stream = open(&lab, "web");
    let alpha = lab.agent("alpha");
    let before = alpha.digest();
    lab.write_graph(|text| text.replace("to: api }", "to: apo }"));
    let error = || alpha.status()["policy"]["last_error"].as_str().map(str::to_owned);
    within(2 * SECOND, "the mistake to show in the status", || error().is_some());
    assert!(error().unwrap().contains("apo"), "{error:?}", error = error());
    assert_eq!(alpha.digest(), before, "the running policy stays");
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).expect("open sessions stay");
    drop(open(&lab, "web"));
    assert!(alpha.log().contains("apo"), "the log says so:\n{}", alpha.log());
    assert_eq!(alpha.metric("ripstop_policy_last_load_successful", &[]), 0.0, "the metrics say so");
    lab.write_graph(|text| text.replace("to: apo }", "to: api }"));
    within(2 * SECOND, "the mistake to be forgotten", || error().is_none());
}

#[test]
fn a_new_workload_is_attached_and_an_old_one_taken_away() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    lab.host("alpha").sh("ip netns add late && ip -n late link set lo up");
    let line = "      late: { on: [alpha], run: { netns: late } }\n";
    lab.edit_graph(|text| {
        let text = text.replace("    services:", &format!("{line}    services:"));
        text.replace(EDGE, &format!("{EDGE}      - {{ from: late, to: api }}\n"))
    });
    let reach = connect_from("late", &lab);
    within(Duration::from_secs(5), "the new workload's interface", || {
        lab.host("alpha").run(&["sh", "-c", &reach]).status.success()
    });
    lab.edit_graph(|text| text.replace(line, "").replace("      - { from: late, to: api }\n", ""));
    let links = || lab.host("alpha").sh("ip -n late -br link");
    within(Duration::from_secs(5), "its interface to go", || links().lines().count() == 1);
    // What stands behind the interface goes after it, so that nothing gets past it meanwhile.
    let rules = || lab.host("alpha").sh("ip -n late rule; ip -n late route show table all");
    within(2 * SECOND, "everything of the fabric to go", || !rules().contains("198.1"));
}

#[test]
fn a_namespace_that_comes_late_is_attached() {
    let graph = SHOP.replace("netns: web }", "netns: soon }");
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).without_agent("alpha").start();
    let _server = lab.workload("api").serve(8080, echo);
    let soon = lab.host("alpha");
    soon.sh("ip netns del soon");
    lab.agent("alpha").start();
    lab.agent("alpha").wait_up(&["beta"]);
    let status = lab.agent("alpha").status();
    let states = status["workloads"].to_string();
    assert!(states.contains("waiting"), "the status says what is missing: {states}");
    soon.sh("ip netns add soon && ip -n soon link set lo up");
    let reach = connect_from("soon", &lab);
    within(Duration::from_secs(10), "the workload to be attached", || soon.run(&["sh", "-c", &reach]).status.success());
}

#[test]
fn another_namespace_of_the_same_name_is_attached() {
    let graph = SHOP.replace("netns: web }", "netns: soon }");
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    let _server = lab.workload("api").serve(8080, echo);
    let (host, reach) = (lab.host("alpha"), connect_from("soon", &lab));
    let reaches = || host.run(&["sh", "-c", &reach]).status.success();
    within(Duration::from_secs(10), "the workload to be attached", reaches);
    // In one go, so that the agent never sees the name without a namespace.
    host.sh("ip netns del soon && ip netns add soon && ip -n soon link set lo up");
    within(Duration::from_secs(10), "its new namespace to be attached", reaches);
}

#[test]
fn a_graph_that_is_being_written_is_not_read() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let (agent, mut stream) = (lab.agent("alpha"), open(&lab, "web"));
    let (file, digest) = (agent.graph_file(), agent.digest());
    let text = fs::read_to_string(&file).unwrap();
    let (head, tail) = text.split_at(text.find("    allow:").unwrap());
    let mut writer = fs::File::create(&file).unwrap();
    writer.write_all(head.as_bytes()).unwrap();
    writer.sync_all().unwrap();
    std::thread::sleep(SECOND);
    assert_eq!(agent.digest(), digest, "half a graph is no graph");
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).expect("and cuts nothing");
    let changed = tail.replacen(EDGE, &format!("{EDGE}      - {{ from: other, to: api }}\n"), 1);
    writer.write_all(changed.as_bytes()).unwrap();
    drop(writer);
    within(SECOND, "the whole graph to be in force", || agent.digest() != digest);
    assert!(agent.status()["policy"]["last_error"].is_null());
}
