//! Services on several hosts.

use crate::{
    lab::{Lab, within},
    servers::{echo, greet},
};
use std::{
    collections::BTreeMap,
    io::Read,
    time::{Duration, Instant},
};

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta, gamma], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
";

fn who_answers(lab: &Lab) -> String {
    let mut stream = lab.workload("web").connect(lab.service("shop/api", 8080)).expect("some endpoint answers");
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

fn tally(lab: &Lab, requests: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..requests {
        *tally.entry(who_answers(lab)).or_default() += 1;
    }
    tally
}

#[test]
fn sessions_are_spread_over_the_hosts() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let _beta = lab.workload_on("beta", "api").serve(8080, greet("beta"));
    let _gamma = lab.workload_on("gamma", "api").serve(8080, greet("gamma"));
    let tally = tally(&lab, 100);
    for host in ["beta", "gamma"] {
        assert!(tally.get(host) >= Some(&10), "an idle host is not forgotten: {tally:?}");
    }
    let records = lab.agent("alpha").wait_records(100, |record| record["verdict"] == "allow");
    let on_beta = records.iter().filter(|record| record["endpoint_host"] == "beta").count();
    assert_eq!(Some(&on_beta), tally.get("beta"), "the records say who answered");
}

#[test]
fn open_sessions_weigh_on_the_choice() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let _beta = lab.workload_on("beta", "api").serve(8080, echo);
    let _gamma = lab.workload_on("gamma", "api").serve(8080, echo);
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    let _held: Vec<_> = (0..60).map(|_| web.connect(to).unwrap()).collect();
    for host in ["beta", "gamma"] {
        let open = lab.agent(host).status()["sessions_open"].as_u64().unwrap();
        // Not half each: a host that answers faster is given more.
        assert!((12..=48).contains(&open), "{host} has {open} of 60 open sessions");
    }
}

#[test]
fn an_endpoint_that_refuses_is_passed_over() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let _gamma = lab.workload_on("gamma", "api").serve(8080, greet("gamma"));
    let tally = tally(&lab, 40);
    assert_eq!(tally.get("gamma"), Some(&40), "the workload sees none of beta's refusals: {tally:?}");
    let tried_twice = |record: &serde_json::Value| record["attempts"].as_u64() >= Some(2);
    assert!(lab.agent("alpha").records().iter().any(tried_twice), "beta was tried first at least once");
}

#[test]
fn a_host_that_dies_is_passed_over() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let _beta = lab.workload_on("beta", "api").serve(8080, greet("beta"));
    let _gamma = lab.workload_on("gamma", "api").serve(8080, greet("gamma"));
    assert_eq!(tally(&lab, 20).values().sum::<usize>(), 20);
    lab.agent("beta").kill();
    let start = Instant::now();
    let after = tally(&lab, 20);
    assert_eq!(after.get("gamma"), Some(&20), "every request is served by the host that lives: {after:?}");
    assert!(start.elapsed() < Duration::from_secs(8), "took {:?}", start.elapsed());
    lab.agent("beta").start();
    within(Duration::from_secs(6), "beta to be used again", || who_answers(&lab) == "beta");
}

#[test]
fn the_caller_s_own_host_serves_too() {
    let graph = GRAPH.replace("on: [beta, gamma]", "on: [alpha, beta]");
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    let _alpha = lab.workload_on("alpha", "api").serve(8080, greet("alpha"));
    assert_eq!(tally(&lab, 5).get("alpha"), Some(&5), "only alpha listens");
    lab.agent("beta").kill();
    assert_eq!(tally(&lab, 5).get("alpha"), Some(&5), "and needs no other host for it");
}
