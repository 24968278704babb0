//! Compiled policies against their graphs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ripstop_config::{Graph, HostName, Reason};
use ripstop_policy::{CompileError, Policy, Verdict, compile};
use std::{collections::HashSet, net::IpAddr};

const SHOP: &str = include_str!("data/shop.yaml");

fn parse(text: &str) -> Graph {
    Graph::parse("shop.yaml", text).unwrap_or_else(|found| panic!("{found}"))
}

fn shop() -> Policy {
    compile(parse(SHOP)).unwrap()
}

/// Three tenants of workloads `w0…` and services `s0…` with ports 1 to 4.
fn graph(per_tenant: usize) -> Graph {
    let mut text = String::from("fabric: f\nhosts: { a: , b: }\ntenants:\n");
    for tenant in 0..3 {
        text += &format!("  t{tenant}:\n    workloads:\n");
        (0..per_tenant)
            .for_each(|n| text += &format!("      w{n}: {{ on: [a, b], run: {{ netns: t{tenant}w{n} }} }}\n"));
        text += "    services:\n";
        (0..per_tenant).for_each(|n| text += &format!("      s{n}: {{ by: w{n}, ports: [4, 2, 1/udp, 1] }}\n"));
    }
    parse(&text)
}

#[test]
fn every_name_has_addresses_of_its_own_inside_its_range() {
    let policy = compile(graph(300)).unwrap();
    let ranges = policy.graph().ranges;
    let (resolver_v4, resolver_v6) = policy.resolver();
    assert_eq!((resolver_v4.to_string().as_str(), policy.service_at(resolver_v4.into())), ("198.18.0.1", None));
    let mut seen: HashSet<IpAddr> = HashSet::from([resolver_v4.into(), resolver_v6.into()]);
    for ix in policy.services() {
        let entry = policy.service_entry(ix);
        assert!(ranges.services_v4.contains(&entry.v4) && ranges.v6.contains(&entry.v6) && entry.v6.segments()[3] == 0);
        for ip in [IpAddr::V4(entry.v4), IpAddr::V6(entry.v6)] {
            assert!(seen.insert(ip) && policy.contains(ip));
            assert_eq!((policy.service_at(ip), policy.workload_at(ip)), (Some(ix), None));
        }
    }
    for ix in policy.workloads() {
        let entry = policy.workload_entry(ix);
        assert!(
            ranges.workloads_v4.contains(&entry.v4) && ranges.v6.contains(&entry.v6) && entry.v6.segments()[3] == 1
        );
        for ip in [IpAddr::V4(entry.v4), IpAddr::V6(entry.v6)] {
            assert!(seen.insert(ip) && policy.contains(ip));
            assert_eq!((policy.service_at(ip), policy.workload_at(ip)), (None, Some(ix)));
        }
    }
    assert_eq!(seen.len(), 2 + 4 * 900);
    assert!(!policy.contains("192.0.2.1".parse().unwrap()) && !policy.contains("fd00::1".parse().unwrap()));
}

#[test]
fn addresses_do_not_change_between_versions() {
    let policy = shop();
    let shown: Vec<String> = policy
        .services()
        .map(|ix| policy.service_entry(ix))
        .map(|entry| format!("{} {} {}", entry.id, entry.v4, entry.v6))
        .chain(
            policy
                .workloads()
                .map(|ix| policy.workload_entry(ix))
                .map(|entry| format!("{} {} {}", entry.id, entry.v4, entry.v6)),
        )
        .chain([
            format!("resolver {} {}", policy.resolver().0, policy.resolver().1),
            format!("digest {}", policy.digest()),
        ])
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn the_digest_is_of_what_the_graph_says() {
    let digest = |text: &str| compile(parse(text)).unwrap().digest();
    let shop = digest(SHOP);
    assert_eq!(digest(&format!("# comment\n\n{SHOP}")), shop);
    assert_eq!(digest(&SHOP.replace("on: [alpha, beta]", "on: [beta, alpha]")), shop);
    let first = "      - { from: web, to: api, limit: { session: 50 mbit/s, sessions: 200, open: 100/s } }\n";
    let last = SHOP.replace(first, "").replace("  billing:\n", &format!("{first}  billing:\n"));
    assert!(last != SHOP && digest(&last) == shop);
    for (from, to) in [
        ("50 mbit/s", "51 mbit/s"),
        ("sessions: 200", "sessions: 201"),
        ("100/s", "101/s"),
        ("zone: eu-1", "zone: eu-2"),
        ("192.0.2.3", "192.0.2.4"),
        ("isolated: true", "isolated: false"),
        ("to: 127.0.0.1:8080", "to: 127.0.0.1:8081"),
        ("443", "444"),
        ("user: 1007", "user: 1009"),
        ("port: 80/tcp", "port: 80/tcp, export: [billing]"),
        ("  billing:\n", "  empty: {}\n  billing:\n"),
        ("on: [alpha, beta]", "on: [alpha]"),
        ("to: shop/db, port: 5433", "to: shop/db, port: 5432"),
        ("fabric: shop.example", "fabric: shop2.example"),
        ("hosts:", "ranges: { workloads: 10.0.0.0/8 }\nhosts:"),
        (", export: [billing]", ""),
        ("tenants:", "never: [{ between: [billing, none] }]\ntenants:\n  none: {}"),
    ] {
        assert!(SHOP.contains(from), "{from}");
        assert_ne!(digest(&SHOP.replacen(from, to, 1)), shop, "{from} -> {to}");
    }
    assert_eq!(shop.to_string().len(), 16);
    assert_eq!(ripstop_policy::PolicyDigest::from(*shop.as_bytes()), shop);
}

#[test]
fn whatever_changes_what_a_host_does_changes_the_digest() {
    let text = SHOP.replace("port: 80/tcp }", "ports: [80/tcp, 53/udp] }");
    let digest = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        compile(parse(&text.replacen(from, to, 1))).unwrap().digest()
    };
    let mut seen = HashSet::from([compile(parse(&text)).unwrap().digest()]);
    let limits = ["session: 1 mbit/s", "rate: 1 mbit/s", "sessions: 125000", "open: 125000/s", "rate: 2 mbit/s"];
    for limit in limits {
        for (from, to) in [
            ("  shop:\n", format!("  shop:\n    limit: {{ {limit} }}\n")),
            ("  billing:\n", format!("  billing:\n    limit: {{ {limit} }}\n")),
            ("run: { netns: web } }", format!("run: {{ netns: web }}, limit: {{ {limit} }} }}")),
            ("run: { user: api } }", format!("run: {{ user: api }}, limit: {{ {limit} }} }}")),
            ("to: 127.0.0.1:8080", format!("to: 127.0.0.1:8080, limit: {{ {limit} }}")),
            ("port: 443", format!("port: 443, limit: {{ {limit} }}")),
            ("to: db, port: 5433", format!("to: db, port: 5433, limit: {{ {limit} }}")),
        ] {
            assert!(seen.insert(digest(from, &to)), "{to}");
        }
    }
    for (from, to) in [
        ("run: { netns: web } }", "run: { netns: web }, may: [drain] }"),
        ("run: { netns: web } }", "run: { netns: web }, may: [drain, path] }"),
        ("run: { netns: web } }", "run: { netns: web }, may: [path] }"),
        ("port: 443", "port: 443, health: { tcp: 2s }"),
        ("port: 443", "port: 443, health: { tcp: 3s }"),
        ("port: 443", "port: 443, health: { tcp: 2s, port: 9 }"),
        ("port: 443", "port: 443, health: { http: / }"),
        ("port: 443", "port: 443, health: { http: /tcp }"),
        ("port: 443", "port: 443, health: { http: /, every: 3s }"),
        ("port: 443", "port: 443, source: preserve"),
        ("port: 443", "port: 443, proxy-protocol: v2"),
        ("port: 443", "port: 443, balance: { sticky: true }"),
        ("port: 443", "port: 443, balance: { weights: { gamma: 2 } }"),
        ("to: 127.0.0.1:8080", "to: 127.0.0.1:8080, balance: { weights: { alpha: 0 } }"),
        ("to: 127.0.0.1:8080", "to: 127.0.0.1:8080, balance: { weights: { beta: 0 } }"),
        ("53/udp]", "53/udp], idle: 2s"),
        ("53/udp]", "53/udp], idle: 3s"),
    ] {
        assert!(seen.insert(digest(from, to)), "{to}");
    }
    // What is the default, written out, changes nothing.
    for (from, to) in [
        ("port: 443", "port: 443, source: usual, balance: least-load, limit: {}"),
        ("port: 443", "port: 443, balance: { by: least-load, sticky: false, weights: { gamma: 1 } }"),
    ] {
        assert!(seen.contains(&digest(from, to)), "{to}");
    }
}

#[test]
fn only_the_hosts_of_a_workload_may_speak_for_it() {
    let policy = shop();
    let api = policy.workload(&"shop/api".parse().unwrap()).unwrap();
    let may: Vec<bool> =
        ["alpha", "beta", "gamma", "delta"].map(|host| policy.may_speak_for(&host.parse().unwrap(), api)).into();
    assert_eq!(may, [true, true, false, false]);
    let alpha: HostName = "alpha".parse().unwrap();
    let there: Vec<String> = policy.workloads_on(&alpha).map(|ix| policy.workload_entry(ix).id.to_string()).collect();
    assert_eq!(there, ["shop/api", "shop/web"]);
    let db = policy.service_entry(policy.service(&"shop/db".parse().unwrap()).unwrap());
    assert_eq!(db.hosts, ["beta".parse().unwrap()]);
    assert_eq!(policy.workload_entry(db.by).id.to_string(), "shop/db");
}

#[test]
fn the_first_port_that_may_be_called_is_the_lowest_that_an_edge_gives() {
    let edges = |ports: &[&str]| {
        let edges = ports.iter().map(|port| format!("      - {{ from: w1, to: s0, port: {port} }}\n"));
        edges.collect::<String>()
    };
    let first = |edges: &str| {
        let text = format!(
            "fabric: f\nhosts: {{ a: }}\ntenants:\n  t:\n    workloads:\n      w0: {{ on: a, run: {{ netns: w0 }} }}\n      \
             w1: {{ on: a, run: {{ netns: w1 }} }}\n    services:\n      s0: {{ by: w0, ports: [443, 80/udp, 80, 53/udp] }}\n    \
             allow:\n{edges}"
        );
        let policy = compile(parse(&text)).unwrap();
        let at = |name: &str| policy.workload(&name.parse().unwrap()).unwrap();
        let service = policy.services().next().unwrap();
        assert_eq!(policy.first_port(at("t/w0"), service), None, "a caller without an edge");
        policy.first_port(at("t/w1"), service).map(|port| port.to_string())
    };
    assert_eq!(first(""), None);
    assert_eq!(first(&edges(&["443"])).as_deref(), Some("443/tcp"));
    assert_eq!(first(&edges(&["443", "80/udp"])).as_deref(), Some("80/udp"));
    assert_eq!(first(&edges(&["443", "80/udp", "80"])).as_deref(), Some("80/tcp"));
    assert_eq!(first("      - { from: w1, to: s0 }\n").as_deref(), Some("53/udp"));
}

#[test]
fn handles_of_a_larger_policy_are_denied() {
    let (large, small) = (compile(graph(50)).unwrap(), shop());
    let (who, to) = (large.workloads().last().unwrap(), large.services().last().unwrap());
    let port = "80".parse().unwrap();
    assert_eq!(small.decide(who, to, port), Verdict::Deny(Reason::NoService));
    assert_eq!(small.decide(who, small.services().next().unwrap(), port), Verdict::Deny(Reason::UnknownCaller));
    assert_eq!(small.visible_services(who).count(), 0);
    assert_eq!((small.first_port(who, to), small.first_port(who, small.services().next().unwrap())), (None, None));
}

#[test]
fn graphs_that_no_file_gives_are_refused() {
    let mut full = parse(SHOP);
    full.ranges.services_v4 = "10.0.0.0/30".parse().unwrap();
    assert_eq!(
        compile(full).unwrap_err().to_string(),
        "the range 10.0.0.0/30 has room for 1 and the graph has 4 services: give `ranges:` a larger one"
    );
    let mut narrow = parse(SHOP);
    narrow.ranges.v6 = "fd00::/64".parse().unwrap();
    assert!(matches!(compile(narrow), Err(CompileError::V6Range(_))));
    let broken = |change: &dyn Fn(&mut Graph)| {
        let mut graph = parse(SHOP);
        change(&mut graph);
        compile(graph).map(|_| ()).unwrap_err()
    };
    let error = broken(&|graph| graph.edges[0].from = "shop/ghost".parse().unwrap());
    assert!(matches!(error, CompileError::UnknownCaller(..)), "{error}");
    let error = broken(&|graph| graph.edges[0].to = "shop/ghost".parse().unwrap());
    assert!(matches!(error, CompileError::UnknownService(..)), "{error}");
    let error = broken(&|graph| drop(graph.workloads.remove(&"shop/db".parse().unwrap())));
    assert!(matches!(error, CompileError::UnknownServer(..)), "{error}");
}
