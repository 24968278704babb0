//! What operators are told, word for word.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ripstop_config::{Graph, Port, Reason};
use ripstop_policy::{Policy, allowing_edge, compile, explain};

fn policy() -> Policy {
    let graph = Graph::parse("shop.yaml", include_str!("data/shop.yaml")).unwrap_or_else(|found| panic!("{found}"));
    compile(graph).unwrap()
}

fn told(who: &str, service: &str, port: Option<&str>) -> String {
    let port = port.map(|port| port.parse::<Port>().unwrap());
    explain(&policy(), &who.parse().unwrap(), &service.parse().unwrap(), port).to_string()
}

#[test]
fn allowed() {
    insta::assert_snapshot!(told("shop/web", "shop/api", Some("8080")));
}

#[test]
fn allowed_for_some_ports() {
    insta::assert_snapshot!(told("shop/api", "shop/db", None));
}

#[test]
fn no_edge() {
    insta::assert_snapshot!(told("shop/web", "shop/db", Some("5432")));
}

#[test]
fn another_tenant_without_export() {
    insta::assert_snapshot!(told("billing/report", "shop/api", None));
}

#[test]
fn another_tenant_with_export() {
    insta::assert_snapshot!(told("billing/bill", "shop/db", Some("5432")));
}

#[test]
fn a_port_that_the_service_has_not() {
    insta::assert_snapshot!(told("shop/api", "shop/db", Some("80")));
}

#[test]
fn a_port_that_the_edge_has_not() {
    insta::assert_snapshot!(told("billing/report", "shop/db", Some("5432")));
}

#[test]
fn an_unknown_service() {
    insta::assert_snapshot!(told("shop/web", "shop/apo", Some("80")));
}

#[test]
fn an_unknown_workload() {
    insta::assert_snapshot!(told("shop/wbe", "shop/api", None));
}

#[test]
fn machines_are_told_the_same() {
    let policy = policy();
    let explain = |port: &str| {
        explain(&policy, &"shop/web".parse().unwrap(), &"shop/api".parse().unwrap(), Some(port.parse().unwrap()))
    };
    insta::assert_snapshot!(serde_json::to_string_pretty(&explain("8080")).unwrap());
    assert_eq!((explain("8080").allowed(), explain("8080").reason()), (true, None));
    assert_eq!((explain("8081").allowed(), explain("8081").reason()), (false, Some(Reason::NoPort)));
}

/// The shop with everything that may be said of a service, its caller and their tenant.
fn rich() -> Policy {
    let text = include_str!("data/shop.yaml")
        .replace("  shop:\n", "  shop:\n    limit: { sessions: 5000, open: 1000/s }\n")
        .replace("run: { netns: web } }", "run: { netns: web }, limit: { rate: 1 gbit/s } }")
        .replace(
            "to: 127.0.0.1:8080",
            "source: preserve, health: { http: /up, every: 5s, port: 9000 }, \
             limit: { session: 2 mbit/s, rate: 100 mbit/s, sessions: 70, open: 9/s }, \
             balance: { sticky: true, weights: { beta: 3 } }",
        )
        .replace("port: 80/tcp }", "port: 80/udp, idle: 90s }")
        .replace("    allow:\n", "    allow:\n      - { from: api, to: front }\n");
    compile(Graph::parse("shop.yaml", &text).unwrap_or_else(|found| panic!("{found}"))).unwrap()
}

#[test]
fn limits_of_every_level_and_what_is_said_of_the_endpoints() {
    let told = |who: &str, service: &str| explain(&rich(), &who.parse().unwrap(), &service.parse().unwrap(), None);
    insta::assert_snapshot!(told("shop/web", "shop/api"));
    insta::assert_snapshot!(told("shop/api", "shop/front"));
    let machine = serde_json::to_value(told("shop/web", "shop/api")).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&machine["ports"][0]["limits"]).unwrap());
    assert_eq!(machine["health"], serde_json::json!({ "check": "http", "path": "/up", "every": "5s", "port": 9000 }));
    assert_eq!(machine["source"], "preserve");
    assert_eq!(machine["balance"], serde_json::json!({ "sticky": true, "weights": { "beta": 3 } }));
    assert_eq!(serde_json::to_value(told("shop/api", "shop/front")).unwrap()["idle"], "90s");
    // What is denied has no limits, and says nothing of endpoints that are not to be had.
    let denied = told("shop/db", "shop/api");
    assert_eq!(denied.ports[0].limits, Default::default());
    assert!(!denied.to_string().contains("health"), "{denied}");
}

#[test]
fn the_line_that_is_offered_allows_it() {
    let text = include_str!("data/shop.yaml");
    for (who, service) in [("shop/web", "shop/db"), ("billing/bill", "shop/db"), ("billing/report", "shop/db")] {
        let (who, service) = (who.parse().unwrap(), service.parse().unwrap());
        let line = allowing_edge(&policy(), &who, &service);
        let changed = text.replace("    allow:\n", &format!("    allow:\n      {line}\n"));
        let changed = Graph::parse("shop.yaml", &changed).unwrap_or_else(|found| panic!("{line}: {found}"));
        let changed = compile(changed).unwrap();
        for port in ["5432", "5433", "9187"] {
            assert!(explain(&changed, &who, &service, Some(port.parse().unwrap())).allowed(), "{line}: {port}");
        }
    }
}
