//! Active checks: who gets sessions while an endpoint is not well.

use crate::{
    callers::{Steady, ask, calls, tally},
    lab::{Lab, within},
    servers::Http,
};
use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

/// Two checks at 100 ms, their answers, the report to the other hosts, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

fn graph(health: &str) -> String {
    format!(
        "
tenants:
  shop:
    workloads:
      web: {{ on: [alpha], run: {{ netns: web }} }}
      api: {{ on: [beta, gamma], run: {{ netns: api }} }}
    services:
      api: {{ by: api, port: 8080/tcp, health: {health} }}
    allow:
      - {{ from: web, to: api }}
"
    )
}

/// What one host's status says of an endpoint.
pub fn state(lab: &Lab, seen_by: &str, endpoint: &str) -> String {
    let status = lab.agent(seen_by).status();
    let service = status["services"].as_array().unwrap().iter().find(|one| one["id"] == "shop/api").cloned();
    let endpoints = service.unwrap_or_else(|| panic!("no service in {status}"))["endpoints"].clone();
    let found = endpoints.as_array().unwrap().iter().find(|one| one["host"] == endpoint).cloned();
    found.unwrap_or_else(|| panic!("no endpoint in {endpoints}"))["state"].as_str().unwrap().to_owned()
}

pub fn wait_state(lab: &Lab, seen_by: &str, endpoint: &str, expected: &str) {
    within(SOON, &format!("{endpoint} to be {expected} to {seen_by}"), || state(lab, seen_by, endpoint) == expected);
}

fn to(lab: &Lab) -> SocketAddr {
    lab.service("shop/api", 8080)
}

#[test]
fn an_endpoint_that_stops_is_passed_over_without_a_failed_request() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(&graph("{ tcp: 100ms }")).start();
    let (beta, gamma) = (Http::new("beta", Duration::ZERO), Http::new("gamma", Duration::ZERO));
    let first = lab.workload_on("beta", "api").serve(8080, beta.handler());
    let _gamma = lab.workload_on("gamma", "api").serve(8080, gamma.handler());
    let (web, to) = (lab.workload("web"), to(&lab));
    // Before the servers were there, they may have been told to be unhealthy: those reports are to be over.
    thread::sleep(Duration::from_millis(400));
    ["beta", "gamma"].iter().for_each(|host| wait_state(&lab, "alpha", host, "ready"));
    let said = |text: &str| lab.agent("beta").log().lines().filter(|line| line.contains(text)).count();
    let before = (said("is unhealthy"), said("healthy again"));
    let caller = Steady::start(&web, to);
    let called = |server: &Http| server.asked.lock().unwrap().len();
    within(SOON, "both to be called", || called(&beta) > 10 && called(&gamma) > 10);
    drop(first);
    wait_state(&lab, "alpha", "beta", "unhealthy");
    let stopped = Instant::now();
    assert_eq!(calls(&web, to, 20).get("gamma"), Some(&20));
    // They are written a moment later.
    thread::sleep(Duration::from_millis(50));
    let records = lab.agent("alpha").records();
    let last = &records[records.len() - 10..];
    assert!(last.iter().all(|record| record["attempts"] == 1), "nobody tries what is known to fail: {last:?}");
    lab.agent("beta").wait_metric("ripstop_endpoint_healthy", &[("service", "shop/api")], 0.0);
    assert_eq!(lab.agent("beta").metric("ripstop_endpoint_healthy", &[("service", "shop/api")]), 0.0);
    let again = stopped.elapsed();
    let _again = lab.workload_on("beta", "api").serve(8080, beta.handler());
    wait_state(&lab, "alpha", "beta", "ready");
    within(SOON, "beta to be used again", || calls(&web, to, 5).contains_key("beta"));
    let calls = caller.stop();
    let shares = tally(&calls);
    assert!(shares["beta"] > 10 && shares["gamma"] > 10 && again < SOON, "{shares:?}");
    assert_eq!((said("is unhealthy"), said("healthy again")), (before.0 + 1, before.1 + 1), "each change said once");
    assert_eq!(lab.agent("beta").metric("ripstop_endpoint_healthy", &[("service", "shop/api")]), 1.0);
}

#[test]
fn an_endpoint_that_answers_badly_is_passed_over() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(&graph("{ http: /live, every: 100ms }")).start();
    let (beta, gamma) = (Http::new("beta", Duration::ZERO), Http::new("gamma", Duration::ZERO));
    let _beta = lab.workload_on("beta", "api").serve(8080, beta.handler());
    let _gamma = lab.workload_on("gamma", "api").serve(8080, gamma.handler());
    let (web, to) = (lab.workload("web"), to(&lab));
    // Before the server was there, beta may have been told to be unhealthy: that report is to be over.
    within(SOON, "checks to be answered", || beta.asked.lock().unwrap().len() > 3);
    ["beta", "gamma"].iter().for_each(|host| wait_state(&lab, "alpha", host, "ready"));
    beta.status.store(503, Ordering::Relaxed);
    within(SOON, "beta to hear of it", || lab.agent("beta").log().contains("HTTP status 503"));
    wait_state(&lab, "alpha", "beta", "unhealthy");
    assert_eq!(calls(&web, to, 20).get("gamma"), Some(&20), "though beta still accepts");
    beta.status.store(301, Ordering::Relaxed);
    wait_state(&lab, "alpha", "beta", "ready");
    within(SOON, "beta to be used again", || calls(&web, to, 5).contains_key("beta"));
    let asked = beta.asked.lock().unwrap();
    let (head, from) = asked.iter().find(|(head, _)| head.starts_with("GET /live HTTP/1.1\r\n")).expect("checks");
    assert!(
        head.contains("\r\nHost: api.shop.lab.test:8080\r\n") && head.contains("\r\nConnection: close\r\n"),
        "{head}"
    );
    assert_eq!(*from, to.ip(), "a check comes from no workload's address");
}

#[test]
fn unhealthy_everywhere_is_refused_while_the_name_resolves() {
    let graph = graph("{ tcp: 100ms }").replace("on: [beta, gamma]", "on: [alpha, beta]");
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    ["alpha", "beta"].iter().for_each(|host| wait_state(&lab, "alpha", host, "unhealthy"));
    let web = lab.workload("web");
    let start = Instant::now();
    let to = to(&lab);
    let error = web.inside(|| ask(to)).expect_err("nobody serves");
    assert!(error.starts_with("ConnectionRefused"), "{error}");
    assert!(start.elapsed() < Duration::from_millis(500), "known beforehand, so at once: {:?}", start.elapsed());
    let record = lab.agent("alpha").record(|record| record["caller"] == "shop/web");
    assert_eq!((&record["reason"], &record["verdict"]), (&"endpoint_unhealthy".into(), &"allow".into()), "{record}");
    let found = web.ok(&["dig", "+short", "+tries=1", "+timeout=3", "api.shop.lab.test", "A"]);
    assert_eq!(found.trim(), to.ip().to_string());
    let own = Http::new("alpha", Duration::ZERO);
    let _own = lab.workload_on("alpha", "api").serve(8080, own.handler());
    wait_state(&lab, "alpha", "alpha", "ready");
    assert_eq!(calls(&web, to, 3).get("alpha"), Some(&3), "the endpoint on the caller's own host");
}

/// The check knows whose server it is, as sessions do.
#[test]
fn a_user_s_endpoint_is_checked_by_whose_it_is() {
    let graph = graph("{ http: /, every: 100ms }").replace("run: { netns: api }", "run: { user: 64003 }");
    let graph = graph.replace("on: [beta, gamma]", "on: [beta]");
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    let python =
        ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/nonexistent", "8080"];
    let mut impostor = lab.host("beta").spawn(&lab.file("impostor.log"), &python).listening(8080);
    thread::sleep(Duration::from_millis(600));
    assert_eq!(state(&lab, "alpha", "beta"), "unhealthy", "what another user answers says nothing of it");
    impostor.kill();
    let python = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/usr", "8080"];
    let _own = lab.workload("api").spawn(&lab.file("api.log"), &python).listening(8080);
    wait_state(&lab, "alpha", "beta", "ready");
    let to = to(&lab);
    assert!(lab.workload("web").inside(|| ask(to)).is_ok());
}

#[test]
fn checks_follow_the_policy() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(&graph("{ tcp: 100ms }")).start();
    wait_state(&lab, "alpha", "beta", "unhealthy");
    lab.edit_graph(|text| text.replace(", health: { tcp: 100ms }", ""));
    wait_state(&lab, "alpha", "beta", "ready");
    lab.edit_graph(|text| text.replace("port: 8080/tcp", "port: 8080/tcp, health: { tcp: 100ms, port: 9090 }"));
    let _other = lab.workload_on("beta", "api").serve(9090, drop);
    wait_state(&lab, "alpha", "gamma", "unhealthy");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(state(&lab, "alpha", "beta"), "ready", "another port answers for it");
}
