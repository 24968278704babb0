//! Services on several hosts.

use crate::{
    callers::{calls, rate},
    lab::{Lab, within},
    servers::{Http, echo, greet},
};
use std::{
    collections::BTreeMap,
    io::Read,
    thread,
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
    let mut tally = tally(&lab, 100);
    let start = Instant::now();
    // One call that met a busy processor leaves its host out for a second or two, which 100 calls do not last.
    while ["beta", "gamma"].iter().any(|host| tally.get(*host) < Some(&10)) {
        assert!(start.elapsed() < Duration::from_secs(10), "an idle host is not forgotten: {tally:?}");
        *tally.entry(who_answers(&lab)).or_default() += 1;
        thread::sleep(Duration::from_millis(10));
    }
    let records = lab.agent("alpha").wait_records(tally.values().sum(), |record| record["verdict"] == "allow");
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

/// Sixteen connections that ask anew for each request, of two endpoints that accept alike: one answers in 20 ms, the other in 200, so
/// that it is still many times slower where each request takes 10 ms more beside other tests.
#[test]
fn an_endpoint_that_answers_ten_times_slower_gets_little() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let (beta, gamma) = (Http::new("beta", Duration::from_millis(20)), Http::new("gamma", Duration::from_millis(200)));
    let _beta = lab.workload_on("beta", "api").serve(8080, beta.handler());
    let _gamma = lab.workload_on("gamma", "api").serve(8080, gamma.handler());
    let line = ["wrk", "-t1", "-c16", "-d5s", "-H", "Connection: close", "http://api.shop.lab.test:8080/"];
    let said = lab.workload("web").ok(&line);
    assert!(!said.contains("Socket errors"), "{said}");
    let records = lab.agent("alpha").records();
    let of = |host: &str| records.iter().filter(|record| record["endpoint_host"] == host).count();
    let slow = of("gamma") as f64 * 100.0 / (of("beta") + of("gamma")) as f64;
    println!("{} of {} sessions, {slow:.1} %, to the slow endpoint", of("gamma"), records.len());
    assert!(records.len() > 500, "{said}");
    assert!((0.01..=15.0).contains(&slow), "{slow} % to the slow one:\n{said}");
}

/// alpha and beta are in one zone, gamma in another.
fn with_zones(text: &str) -> String {
    let zone = |text: &str, address: &str, zone: &str| {
        text.replace(&format!("address: {address} }}"), &format!("address: {address}, zone: {zone} }}"))
    };
    let text = zone(text, "192.0.2.11", "eu-1");
    zone(&zone(&text, "192.0.2.12", "eu-1"), "192.0.2.13", "eu-2")
}

#[test]
fn the_caller_s_zone_comes_first_while_it_can() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    lab.edit_graph(with_zones);
    let (quick, slow) = (Http::new("beta", Duration::ZERO), Http::new("beta", Duration::from_millis(150)));
    let gamma = Http::new("gamma", Duration::ZERO);
    let first = lab.workload_on("beta", "api").serve(8080, quick.handler());
    let _gamma = lab.workload_on("gamma", "api").serve(8080, gamma.handler());
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    assert_eq!(calls(&web, to, 30).get("beta"), Some(&30), "all stay in the zone");
    drop(first);
    assert_eq!(calls(&web, to, 10).get("gamma"), Some(&10), "nobody is left in it");
    thread::sleep(Duration::from_millis(100));
    let _slow = lab.workload_on("beta", "api").serve(8080, slow.handler());
    within(Duration::from_secs(12), "the zone to be tried again", || calls(&web, to, 3).contains_key("beta"));
    let tally = calls(&web, to, 30);
    assert!(tally.get("gamma") >= Some(&15), "it has become clearly costlier: {tally:?}");
}

#[test]
fn weights_are_kept() {
    let graph = GRAPH.replace("port: 8080/tcp", "port: 8080/tcp, balance: { weights: { beta: 3 } }");
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(&graph).start();
    let (beta, gamma) = (Http::new("beta", Duration::ZERO), Http::new("gamma", Duration::ZERO));
    let served = lab.workload_on("beta", "api").serve(8080, beta.handler());
    let _gamma = lab.workload_on("gamma", "api").serve(8080, gamma.handler());
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    // A machine that is busy with something else makes one of them look slow for a moment, and is looked at again.
    within(Duration::from_secs(10), "beta to get three sessions of four", || {
        let tally = calls(&web, to, 400);
        println!("three of four: {tally:?}");
        (260..=340).contains(tally.get("beta").unwrap_or(&0))
    });
    lab.edit_graph(|text| text.replace("weights: { beta: 3 }", "weights: { gamma: 0 }"));
    assert_eq!(calls(&web, to, 30).get("beta"), Some(&30), "no share, no sessions");
    drop(served);
    assert_eq!(calls(&web, to, 10).get("gamma"), Some(&10), "but when no other can");
}

#[test]
fn sticky_callers_keep_their_endpoint_and_return_to_it() {
    let graph = GRAPH.replace("port: 8080/tcp", "port: 8080/tcp, balance: { sticky: true }");
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(&graph).start();
    let servers = ["beta", "gamma"].map(|name| Http::new(name, Duration::ZERO));
    let mut serving = BTreeMap::new();
    for (name, server) in ["beta", "gamma"].iter().zip(&servers) {
        serving.insert(*name, lab.workload_on(name, "api").serve(8080, server.handler()));
    }
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    let tally = calls(&web, to, 30);
    assert_eq!(tally.len(), 1, "all with one: {tally:?}");
    let (mine, other) = if tally.contains_key("beta") { ("beta", "gamma") } else { ("gamma", "beta") };
    serving.remove(mine);
    assert_eq!(calls(&web, to, 10).get(other), Some(&10), "over to the other");
    thread::sleep(Duration::from_millis(100));
    let server = &servers[usize::from(mine == "gamma")];
    let _again = lab.workload_on(mine, "api").serve(8080, server.handler());
    within(Duration::from_secs(6), "the return", || calls(&web, to, 1).contains_key(mine));
    assert_eq!(calls(&web, to, 20).get(mine), Some(&20), "and all return");
}

/// A hundred new sessions a second, of which half would go to a host that dies.
#[test]
fn new_sessions_go_on_when_a_host_dies() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let (beta, gamma) = (Http::new("beta", Duration::ZERO), Http::new("gamma", Duration::ZERO));
    let _beta = lab.workload_on("beta", "api").serve(8080, beta.handler());
    let _gamma = lab.workload_on("gamma", "api").serve(8080, gamma.handler());
    let to = lab.service("shop/api", 8080);
    let calling = rate(&lab.workload("web"), to, 100, Duration::from_secs(6));
    thread::sleep(Duration::from_millis(1_500));
    lab.agent("beta").kill();
    let calls = calling.join().unwrap();
    // Those that beta had accepted, and had not answered yet, are lost with it; they had their verdict.
    let failed: Vec<_> = calls.iter().filter(|call| call.answer.is_err()).collect();
    let longest = calls.iter().map(|call| call.took).max().unwrap();
    let mut ends: Vec<_> = calls.iter().filter(|call| call.answer.is_ok()).map(|call| call.began + call.took).collect();
    ends.sort();
    let gap = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    let late = calls.iter().filter(|call| call.took > Duration::from_millis(500)).count();
    println!(
        "{} calls, {} failed, longest {longest:?}, {late} longer than 500 ms, longest gap {gap:?}",
        calls.len(),
        failed.len()
    );
    assert_eq!(calls.len(), 600);
    assert!(failed.len() <= 2, "{failed:?}");
    assert!(longest < Duration::from_secs(3) && gap < Duration::from_secs(3), "{longest:?} {gap:?}");
    assert!(late <= 150, "the dead host is left alone: {late} were late");
}
