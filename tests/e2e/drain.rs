//! Draining: endpoints that take no new sessions, while open ones go on.

use crate::{
    callers::{Steady, ask, calls, tally},
    health::{state, wait_state},
    lab::{Lab, ripstop},
    servers::{Http, echo},
};
use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta, gamma], run: { netns: api } }
      db: { on: [gamma], run: { netns: db } }
    services:
      api: { by: api, ports: [8080/tcp, 9090/tcp] }
      db: { by: db, port: 5432/tcp }
    allow:
      - { from: web, to: api }
      - { from: web, to: db }
";

fn drain(lab: &Lab, host: &str, arguments: &[&str]) -> String {
    lab.host(host).ok(&[&[ripstop(), "drain"][..], arguments].concat())
}

#[test]
fn a_drained_endpoint_keeps_its_sessions_and_gets_no_new_ones() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let (beta, gamma) = (Http::new("beta", Duration::ZERO), Http::new("gamma", Duration::ZERO));
    let _beta = lab.workload_on("beta", "api").serve(8080, beta.handler());
    let _gamma = lab.workload_on("gamma", "api").serve(8080, gamma.handler());
    let _echo = lab.workload_on("beta", "api").serve(9090, echo);
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    let mut open = web.connect(lab.service("shop/api", 9090)).expect("beta echoes");
    let caller = Steady::start(&web, to);
    thread::sleep(Duration::from_millis(300));
    let said = drain(&lab, "beta", &["shop/api"]);
    assert!(
        said.lines().any(|line| line.split_whitespace().collect::<Vec<_>>()[..2] == ["shop/api", "draining"]),
        "{said}"
    );
    wait_state(&lab, "alpha", "beta", "draining");
    let before = calls(&web, to, 20);
    assert_eq!(before.get("gamma"), Some(&20));
    open.write_all(b"ping").unwrap();
    open.read_exact(&mut [0; 4]).expect("the open session goes on");
    lab.agent("beta").wait_metric("ripstop_endpoint_draining", &[("service", "shop/api")], 1.0);
    let (code, said) = lab.host("beta").fails(&[ripstop(), "drain", "api", "--wait=300ms"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("draining") && said.trim().ends_with('1'), "one session is left: {said}");
    drop(open);
    let said = drain(&lab, "beta", &["api", "--wait=5s"]);
    assert!(said.trim().ends_with('0'), "{said}");
    assert!(lab.host("beta").ok(&[ripstop(), "status"]).contains("draining"));
    drain(&lab, "beta", &["api", "--undo"]);
    wait_state(&lab, "alpha", "beta", "ready");
    assert!(calls(&web, to, 30).contains_key("beta"), "used again");
    let shares = tally(&caller.stop());
    assert!(shares["beta"] > 0 && shares["gamma"] > 0, "no request failed: {shares:?}");
}

#[test]
fn a_drained_host_refuses_all_of_its_services() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let beta = Http::new("beta", Duration::ZERO);
    let _beta = lab.workload_on("beta", "api").serve(8080, beta.handler());
    let web = lab.workload("web");
    let said = drain(&lab, "gamma", &[]);
    assert!(said.contains("shop/api") && said.contains("shop/db"), "{said}");
    wait_state(&lab, "alpha", "gamma", "draining");
    let db = lab.service("shop/db", 5432);
    let error = web.inside(|| ask(db)).expect_err("no other host has it");
    assert!(error.starts_with("ConnectionRefused"), "{error}");
    let record = lab.agent("alpha").record(|record| record["service"] == "shop/db");
    assert_eq!(record["reason"], "draining", "{record}");
    assert_eq!(calls(&web, lab.service("shop/api", 8080), 5).get("beta"), Some(&5));
    let (_, said) = lab.host("gamma").fails(&[ripstop(), "drain", "db", "--undo"]);
    assert!(said.contains("the whole host is drained"), "{said}");
    let (_, said) = lab.host("beta").fails(&[ripstop(), "drain", "db"]);
    assert!(said.contains("this host does not serve shop/db"), "{said}");
    let (_, said) = lab.host("beta").fails(&[ripstop(), "drain", "dbb"]);
    assert!(said.contains("did you mean `db`?"), "{said}");
    drain(&lab, "gamma", &["--undo"]);
    wait_state(&lab, "alpha", "gamma", "ready");
    drain(&lab, "gamma", &[]);
    wait_state(&lab, "alpha", "gamma", "draining");
    lab.agent("gamma").stop();
    lab.agent("gamma").start();
    lab.agent("alpha").wait_up(&["gamma"]);
    wait_state(&lab, "alpha", "gamma", "ready");
    assert_eq!(state(&lab, "gamma", "gamma"), "ready", "a restart ends it");
}
