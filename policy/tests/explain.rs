//! What operators are told, word for word.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ripstop_config::{Graph, Port, Reason, ServiceId, WorkloadId};
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
        .replacen("    allow:\n", "    allow:\n      - { from: api, to: front }\n", 1);
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
        let (who, service): (WorkloadId, ServiceId) = (who.parse().unwrap(), service.parse().unwrap());
        let line = allowing_edge(&policy(), &who, &service);
        // An edge is in the tenant of its caller.
        let at = if who.tenant.as_str() == "shop" { text.find("allow:\n") } else { text.rfind("allow:\n") };
        let (before, after) = text.split_at(at.unwrap() + "allow:\n".len());
        let changed = format!("{before}      {line}\n{after}");
        let changed = Graph::parse("shop.yaml", &changed).unwrap_or_else(|found| panic!("{line}: {found}"));
        let changed = compile(changed).unwrap();
        for port in ["5432", "5433", "9187"] {
            assert!(explain(&changed, &who, &service, Some(port.parse().unwrap())).allowed(), "{line}: {port}");
        }
    }
}

/// [`policy`] with tenants below each other: what they are told of both consents, limits above, and a rule.
fn nested(change: impl Fn(String) -> String) -> Policy {
    let text = "\
fabric: shop.example
hosts: { alpha: {} }
tenants:
  shop: { limit: { sessions: 500 } }
  shop/eu:
    limit: { open: 9/s }
    workloads:
      web: { on: [alpha], run: { netns: web } }
    allow:
      - { from: web, to: shop/us/api, port: 80 }
  shop/us:
    workloads:
      api: { on: [alpha], run: { netns: api } }
    services:
      api: { by: api, ports: [80, 81], export: [shop] }
";
    compile(Graph::parse("shop.yaml", &change(text.into())).unwrap_or_else(|found| panic!("{found}"))).unwrap()
}

#[test]
fn both_consents_are_shown_and_which_one_lacks() {
    let told = |policy: &Policy, port: &str| {
        let port = Some(port.parse().unwrap());
        explain(policy, &"shop/eu/web".parse().unwrap(), &"shop/us/api".parse().unwrap(), port).to_string()
    };
    let lacks = |policy: &Policy, reason: Reason| {
        let (who, to) =
            (policy.workload(&"shop/eu/web".parse().unwrap()), policy.service(&"shop/us/api".parse().unwrap()));
        ripstop_policy::lacking(policy, who.unwrap(), to.unwrap(), reason).unwrap_or_default()
    };
    let both = nested(|text| text);
    insta::assert_snapshot!("consents_both", told(&both, "80"));
    insta::assert_snapshot!("consents_for_another_port", told(&both, "81"));
    let no_edge = nested(|text| text.replace("      - { from: web, to: shop/us/api, port: 80 }\n", ""));
    insta::assert_snapshot!("consents_without_the_callers", told(&no_edge, "80"));
    assert_eq!(
        lacks(&no_edge, Reason::NoEdge),
        "the caller's side lacks: shop/us exports shop/us/api to shop (shop.yaml:14), and shop/eu has no edge to it"
    );
    let no_export = nested(|text| text.replace(", export: [shop]", ""));
    insta::assert_snapshot!("consents_without_the_servers", told(&no_export, "80"));
    assert_eq!(no_export.dormant().map(|edge| edge.at.to_string()).collect::<Vec<_>>(), ["shop.yaml:10"]);
    assert_eq!(
        lacks(&no_export, Reason::NotExported),
        "the service's side lacks: shop/us does not export shop/us/api (shop.yaml:15) to shop/eu"
    );
    let never = nested(|text| {
        let text = text.replace("      - { from: web, to: shop/us/api, port: 80 }\n", "");
        text.replace(", export: [shop]", "") + "never:\n  - { between: [shop/eu, shop/us] }\n"
    });
    insta::assert_snapshot!("consents_where_a_rule_stands_above", told(&never, "80"));
    assert_eq!(
        lacks(&never, Reason::KeptApart),
        "shop/eu and shop/us are kept apart, whatever is allowed (shop.yaml:16)"
    );
}
