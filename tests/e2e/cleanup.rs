//! Clean in, clean out: a host is byte for byte as it was.

use crate::{
    lab::{Lab, Place, ripstop},
    servers::echo,
};
use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

/// A host with a workload of each kind.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      box: { on: [alpha], run: { netns: box }, isolated: true }
      job: { on: [alpha], run: { user: 64001 } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
      - { from: job, to: api }
";

fn lab() -> Lab {
    Lab::of(&["alpha", "beta"]).graph(GRAPH).without_agent("alpha").start()
}

/// Starts alpha's agent and lets a session through it.
fn use_it(lab: &Lab) {
    lab.agent("alpha").start();
    lab.agent("alpha").wait_up(&["beta"]);
    let mut stream = lab.workload("web").connect(lab.service("shop/api", 8080)).expect("allowed");
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
}

fn assert_same(before: &str, after: &str) {
    if before != after {
        let missing: Vec<_> = before.lines().filter(|line| !after.contains(line)).collect();
        let added: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
        panic!("the host differs\nmissing: {missing:#?}\nadded: {added:#?}\nbefore:\n{before}\nafter:\n{after}");
    }
}

#[test]
fn a_stop_leaves_the_host_as_it_was() {
    let lab = lab();
    let _server = lab.workload("api").serve(8080, echo);
    let before = lab.snapshot("alpha");
    use_it(&lab);
    assert_ne!(lab.snapshot("alpha"), before, "the snapshot sees what an agent does");
    assert_eq!(lab.agent("alpha").stop(), 0);
    assert_same(&before, &lab.snapshot("alpha"));
    assert!(!lab.agent("alpha").log().contains("ERROR"), "{}", lab.agent("alpha").log());
}

#[test]
fn after_a_kill_cleanup_restores_the_host() {
    let lab = lab();
    let _server = lab.workload("api").serve(8080, echo);
    let before = lab.snapshot("alpha");
    use_it(&lab);
    lab.agent("alpha").kill();
    lab.host("alpha").ok(&[ripstop(), "cleanup"]);
    assert_same(&before, &lab.snapshot("alpha"));
    lab.host("alpha").ok(&[ripstop(), "cleanup"]);
    assert_same(&before, &lab.snapshot("alpha"));
}

#[test]
fn after_a_kill_nothing_leaks_and_the_next_start_takes_over() {
    let lab = lab();
    let _server = lab.workload("api").serve(8080, echo);
    let before = lab.snapshot("alpha");
    use_it(&lab);
    lab.agent("alpha").kill();
    let fails_at_once = |place: &Place| {
        let to = lab.service("shop/api", 8080);
        let line = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
        let start = Instant::now();
        place.fails(&["timeout", "5", "bash", "-c", &line]);
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{}: fails closed, and at once: {:?}",
            place.name(),
            start.elapsed()
        );
    };
    for name in ["web", "box", "job"] {
        fails_at_once(&lab.workload(name));
    }
    use_it(&lab);
    assert_eq!(lab.agent("alpha").stop(), 0);
    assert_same(&before, &lab.snapshot("alpha"));
}

#[test]
fn cleanup_leaves_a_running_agent_alone() {
    let lab = Lab::shop();
    let (_, said) = lab.host("alpha").fails(&[ripstop(), "cleanup"]);
    assert!(said.contains("running") || said.contains("agent"), "{said}");
    let _server = lab.workload("api").serve(8080, echo);
    lab.workload("web").connect(lab.service("shop/api", 8080)).expect("still works");
}

#[test]
fn a_stop_ends_open_sessions_and_records_them() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut stream = lab.workload("web").connect(lab.service("shop/api", 8080)).unwrap();
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(lab.agent("alpha").stop(), 0);
    assert_eq!(lab.agent("alpha").record(|_| true)["reason"], "shutdown");
    lab.agent("beta").record(|record| record["caller"] == "shop/web");
}
