//! What another policy would change.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ripstop_config::Graph;
use ripstop_policy::{Allowed, Diff, Policy, compile, compile_after, diff};

const GRAPH: &str = "\
fabric: shop.example
hosts: { alpha: {}, beta: {} }
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta], run: { netns: api } }
      db: { on: [beta], run: { netns: db } }
    services:
      api: { by: api, ports: [80/tcp, 8080/tcp] }
      db: { by: db, port: 5432/tcp }
    allow:
      - { from: web, to: api }
      - { from: api, to: db }
";

fn policy(text: &str) -> Policy {
    compile(Graph::parse("g.yaml", text).unwrap()).unwrap()
}

fn changed(from: &str, to: &str) -> Diff {
    assert!(GRAPH.contains(from));
    diff(&policy(GRAPH), &policy(&GRAPH.replace(from, to)))
}

fn texts(calls: &[Allowed]) -> Vec<String> {
    let text = |one: &Allowed| format!("{} {}:{} {}", one.call.who, one.call.service, one.call.port, one.rule);
    calls.iter().map(text).collect()
}

#[test]
fn what_says_the_same_in_other_words_is_no_change() {
    assert!(changed("ports: [80/tcp, 8080/tcp]", "ports: [8080/tcp, 80/tcp]").is_empty());
    assert!(
        changed("      - { from: web, to: api }\n", "      - { from: web, to: api, ports: [80, 8080] }\n").is_empty()
    );
    assert!(changed("tenants:", "# a comment\ntenants:").is_empty());
}

#[test]
fn calls_come_and_go_with_their_rules() {
    let found = changed("from: web, to: api", "from: web, to: api, port: 80");
    assert_eq!(texts(&found.denied), ["shop/web shop/api:8080/tcp g.yaml:13"]);
    assert!(found.allowed.is_empty() && found.limited.is_empty());
    let found = changed("from: api, to: db", "from: web, to: db");
    assert_eq!(texts(&found.denied), ["shop/api shop/db:5432/tcp g.yaml:14"]);
    assert_eq!(texts(&found.allowed), ["shop/web shop/db:5432/tcp g.yaml:14"]);
}

#[test]
fn limits_count_wherever_they_stand() {
    for (from, to) in [
        ("from: api, to: db }", "from: api, to: db, limit: { sessions: 3 } }"),
        ("by: db, port: 5432/tcp }", "by: db, port: 5432/tcp, limit: { sessions: 3 } }"),
        ("netns: api } }", "netns: api }, limit: { sessions: 3 } }"),
    ] {
        let found = changed(from, to);
        assert_eq!(texts(&found.limited), ["shop/api shop/db:5432/tcp g.yaml:14"], "{to}");
        assert!(found.allowed.is_empty() && found.denied.is_empty());
    }
}

#[test]
fn names_come_go_and_move() {
    let found = changed(
        "      db: { on: [beta], run: { netns: db } }\n",
        "      db: { on: [beta], run: { netns: db } }\n      new: { on: [alpha], run: { netns: new } }\n",
    );
    assert_eq!((found.workloads.added, found.workloads.removed), (vec!["shop/new".to_owned()], Vec::new()));
    let found = changed("beta: {}", "beta: {}, gamma: {}");
    assert_eq!(found.hosts.added, ["gamma"]);
    let old = policy(GRAPH);
    let mut carried = old.addresses();
    let id = "shop/db".parse().unwrap();
    let was = carried.services[&id];
    carried.services.insert(id, ("198.18.0.9".parse().unwrap(), was.1));
    let new = compile_after(Graph::parse("g.yaml", GRAPH).unwrap(), &carried).unwrap();
    let found = diff(&old, &new);
    assert_eq!((found.moved[0].name.as_str(), found.moved[0].to.as_str()), ("shop/db", "198.18.0.9"));
    assert_eq!(found.moved.len(), 1);
}
