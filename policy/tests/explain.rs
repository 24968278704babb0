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
