//! Graphs as operators write them: what is read from good ones, and every mistake of bad ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use ripstop_config::{
    Graph, HostName, ServiceId, WorkloadId,
    graph::{Balance, Change, Container, GRAPH_MAX, Run, Service, User, Workload},
};
use std::time::Duration;

const SHOP: &str = include_str!("data/shop.yaml");

fn workload(graph: &Graph, id: &str) -> Workload {
    graph.workloads[&id.parse::<WorkloadId>().unwrap()].clone()
}

fn service(graph: &Graph, id: &str) -> Service {
    graph.services[&id.parse::<ServiceId>().unwrap()].clone()
}

/// The first mistake's message and hint.
fn mistake(text: &str) -> String {
    match Graph::parse("shop.yaml", text) {
        Ok(_) => "none".into(),
        Err(found) => {
            let one = &found.0[0];
            format!("{}:{} {} ({})", one.at.line, one.at.column, one.message, one.hint.as_deref().unwrap_or("-"))
        }
    }
}

/// [`SHOP`] with one text in it replaced.
fn changed(from: &str, to: &str) -> String {
    assert!(SHOP.contains(from), "{from}");
    SHOP.replacen(from, to, 1)
}

#[test]
fn a_whole_graph_is_read() {
    let graph = Graph::parse("/etc/ripstop/shop.yaml", SHOP).unwrap_or_else(|found| panic!("{found}"));
    assert_eq!(graph.fabric.as_str(), "shop.example");
    let alpha = &graph.hosts[&"alpha".parse::<HostName>().unwrap()];
    assert_eq!(
        (alpha.zone.as_ref().unwrap().as_str(), alpha.address),
        ("eu-1", Some("192.0.2.1:7477".parse().unwrap()))
    );
    let beta = &graph.hosts[&"beta".parse::<HostName>().unwrap()];
    assert_eq!(beta.address, Some("[2001:db8::2]:7000".parse().unwrap()));
    assert_eq!(workload(&graph, "shop/api").on.len(), 2);
    assert_eq!(workload(&graph, "shop/api").run, Run::User(User::Name("api".into())));
    assert_eq!(workload(&graph, "billing/report").run, Run::User(User::Id(1007)));
    assert_eq!(workload(&graph, "shop/db").run, Run::Netns("db".into()));
    assert!(workload(&graph, "shop/db").isolated && !workload(&graph, "shop/web").isolated);
    let ports: Vec<_> = service(&graph, "shop/db").ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["5432/tcp", "5433/tcp", "53/udp"]);
    assert_eq!(service(&graph, "shop/db").export[0].to.as_str(), "billing");
    assert_eq!(graph.edges.len(), 4);
    let limits = &graph.edges[0].limits;
    assert_eq!(limits.session.unwrap().bytes_per_second(), 6_250_000);
    assert_eq!((limits.sessions, limits.open.unwrap().sessions_per_second().get()), (Some(200), 100));
    assert_eq!(graph.edges[0].at.to_string(), "/etc/ripstop/shop.yaml:25");
    assert_eq!(graph.edges[3].from.to_string(), "billing/report");
    assert_eq!(graph.edges[3].ports[0].number, 5433);
}

#[test]
fn workloads_run_in_many_ways() {
    let run = |text: &str| {
        let text = changed("run: { user: 1007 }", &format!("run: {text}"));
        workload(&Graph::parse("f", &text).unwrap_or_else(|found| panic!("{found}")), "billing/report").run
    };
    assert_eq!(run("host"), Run::Host);
    for path in ["/system.slice/api.service", "system.slice/api.service/", "/sys/fs/cgroup/system.slice/api.service"] {
        assert_eq!(run(&format!("{{ cgroup: {path} }}")), Run::Cgroup("/system.slice/api.service".into()));
    }
    assert_eq!(run("{ container: { name: api_1.x } }"), Run::Container(Container::Name("api_1.x".into())));
    let label = Container::Label("com.example/app".into(), "a=b".into());
    assert_eq!(run("{ container: { label: com.example/app=a=b } }"), Run::Container(label));
}

#[test]
fn a_workload_may_change_what_it_is_let() {
    let may = |text: &str| {
        let text = changed("run: { user: 1007 }", &format!("run: {{ user: 1007 }}, may: {text}"));
        let read = Graph::parse("f", &text).map(|graph| workload(&graph, "billing/report").may);
        read.map(|may| Change::line(&may)).map_err(|found| found.to_string())
    };
    assert!(workload(&Graph::parse("f", SHOP).unwrap(), "shop/web").may.is_empty(), "nothing by itself");
    assert_eq!(may("[path, drain]"), Ok("may: [drain, path]".into()));
    assert_eq!(may("instances"), Ok("may: [instances]".into()));
    for (text, says) in [
        ("[drain, all]", "`all` is nothing that a workload could change"),
        ("[drain, drain]", "`drain` is given twice"),
        ("[]", "must not be empty"),
        ("true", "`true` is nothing"),
        ("{ drain: true }", "must be a list"),
    ] {
        assert!(may(text).is_err_and(|found| found.contains(says)), "{text}: {:?}", may(text));
    }
}

#[test]
fn endpoints_are_at_the_interface_unless_the_graph_says_otherwise() {
    let graph = Graph::parse("f", SHOP).unwrap();
    let interface = "198.19.0.7".parse().unwrap();
    let at = |id: &str| {
        let service = service(&graph, id);
        service.endpoint(service.ports[0], interface).to_string()
    };
    assert_eq!(at("shop/api"), "127.0.0.1:8080");
    assert_eq!(at("shop/db"), "198.19.0.7:5432");
    assert_eq!(at("shop/front"), "198.19.0.7:8000");
    assert_eq!(at("shop/admin"), "127.0.0.1:9000");
}

/// [`SHOP`] with everything that a limit, a check, a source and a way of balancing may be.
fn rich() -> Graph {
    let text = SHOP
        .replace("  shop:\n", "  shop:\n    limit: { session: 1 mbit/s, rate: 2 mbit/s, sessions: 3, open: 4/s }\n")
        .replace("run: { netns: web } }", "run: { netns: web }, limit: { rate: 1 gbit/s } }")
        .replace(
            "balance: least-load",
            "balance: { sticky: true, weights: { beta: 0 } }, health: { tcp: 500ms, port: 9000 }",
        )
        .replace("to: 127.0.0.1\n", "to: ':9001'\n        source: preserve\n        health: { http: '/a?b=%20' }\n")
        .replace(
            "export: [billing]",
            "export: [billing], idle: 90s, health: { http: /up, every: 1m }, limit: { open: 7/s }",
        )
        .replace("to: ':8000'", "to: ':8000', proxy-protocol: v2, source: usual, balance: {}");
    Graph::parse("f", &text).unwrap_or_else(|found| panic!("{found}"))
}

#[test]
fn limits_are_read_at_every_level() {
    let graph = rich();
    let shop = &graph.tenants[&"shop".parse().unwrap()].limits;
    assert_eq!(
        (shop.session.unwrap().to_string(), shop.rate.unwrap().to_string()),
        ("1 mbit/s".into(), "2 mbit/s".into())
    );
    assert_eq!((shop.sessions, shop.open.unwrap().to_string()), (Some(3), "4/s".into()));
    assert!(graph.tenants[&"billing".parse().unwrap()].limits.is_none());
    assert_eq!(workload(&graph, "shop/web").limits.rate.unwrap().to_string(), "1 gbit/s");
    assert!(workload(&graph, "shop/api").limits.is_none());
    assert_eq!(service(&graph, "shop/db").limits.to_string(), "7/s new sessions");
    assert!(service(&graph, "shop/api").limits.is_none());
}

#[test]
fn checks_sources_and_ways_of_balancing_are_read() {
    let graph = rich();
    let [api, admin, db, front] = ["api", "admin", "db", "front"].map(|name| service(&graph, &format!("shop/{name}")));
    let health = |service: &Service| service.health.as_ref().map(ToString::to_string);
    assert_eq!(health(&api).as_deref(), Some("tcp every 500ms at port 9000"));
    assert_eq!(health(&admin).as_deref(), Some("http /a?b=%20 every 2s"));
    assert_eq!(health(&db).as_deref(), Some("http /up every 1m"));
    assert_eq!((health(&front), front.idle, db.idle), (None, None, Some(Duration::from_secs(90))));
    assert_eq!(
        [&api, &admin, &db, &front].map(|service| service.source.as_str()),
        ["usual", "preserve", "usual", "proxy-protocol v2"]
    );
    assert_eq!(api.balance.to_string(), "least-load, sticky, weights beta 0");
    assert_eq!((front.balance.clone(), db.balance.clone()), (Balance::default(), Balance::default()));
    // Where a user's endpoint listens depends on how it is called: only the port is kept.
    assert_eq!(admin.endpoint(admin.ports[0], "198.19.0.7".parse().unwrap()).to_string(), "198.19.0.7:9001");
}

#[test]
fn every_mistake_is_shown_at_once() {
    let text = include_str!("data/mistakes.yaml");
    let found = Graph::parse("shop.yaml", text).unwrap_err();
    insta::assert_snapshot!(found.to_string());
}

#[test]
fn a_reference_to_an_entry_with_a_mistake_is_not_blamed() {
    let text = changed("run: { netns: web }", "run: { netns: web/x }");
    let found = Graph::parse("f", &text).unwrap_err();
    assert_eq!(found.0.len(), 1, "{found}");
}

#[test]
fn each_mistake_has_its_message() {
    let cases = [
        ("fabric: shop.example", "fabric: Shop"),
        ("fabric: shop.example\n", ""),
        ("fabric: shop.example", "fabric: shop.example\ntests: []"),
        ("address: 192.0.2.1 ", "address: alpha.example "),
        ("address: 192.0.2.1 ", "address: 0.0.0.0 "),
        ("address: 192.0.2.1 ", "address: 198.18.3.4 "),
        ("address: 192.0.2.1 ", "address: '[2001:db8::2]:7000' "),
        ("hosts:\n", "ranges: { services: 10.0.0.0/30, workloads: 10.1.0.0/16 }\nhosts:\n"),
        ("hosts:\n", "ranges: { services: 10.0.0.0/8, workloads: 10.1.0.0/16 }\nhosts:\n"),
        ("hosts:\n", "ranges: { services: 10.0.0.1/8 }\nhosts:\n"),
        ("hosts:\n", "ranges: { v6: 'fd00::/40' }\nhosts:\n"),
        ("hosts:\n", "ranges: { workloads: 127.0.0.0/16 }\nhosts:\n"),
        ("  billing:\n", "  host: {}\n  billing:\n"),
        ("on: [alpha, beta]", "on: []"),
        ("on: [alpha, beta]", "on: [alpha, alpha]"),
        ("on: [alpha, beta]", "on: [alpha, bet]"),
        ("run: { user: api }", "run: { user: root }"),
        ("run: { user: api }", "run: { user: 0 }"),
        ("run: { user: api }", "run: { user: 4294967295 }"),
        ("run: { user: api }", "run: { container: api }"),
        ("run: { user: api }", "run: { uid: 1000 }"),
        ("run: { user: api }", "run: { user: api, netns: api }"),
        ("run: { user: api }", "run: {}"),
        ("run: { user: api }", "run: { pid: 1 }"),
        ("run: { user: api }", "run: { host: true }"),
        ("run: { user: api }", "run: { cgroup: / }"),
        ("run: { user: api }", "run: { cgroup: a/../b }"),
        ("run: { user: api }", "run: { container: { name: -x } }"),
        ("run: { user: api }", "run: { container: { label: app } }"),
        ("run: { user: api }", "run: { container: { name: a, label: b=c } }"),
        ("run: { user: api }", "run: host, isolated: true"),
        ("run: { user: api }", "run: api"),
        ("run: { user: api }", "run: { netns: /var/run/netns/web }"),
        ("run: { user: api }", "run: { user: 1007 }"),
        ("isolated: true", "isolated: yes"),
        ("to: 127.0.0.1:8080", "to: ':0'"),
        ("to: 127.0.0.1:8080", "to: 0.0.0.0:80"),
        ("to: 127.0.0.1:8080", "to: localhost:80"),
        ("to: 127.0.0.1:8080", "health: tcp"),
        ("to: 127.0.0.1:8080", "health: {}"),
        ("to: 127.0.0.1:8080", "health: { tcp: 2 }"),
        ("to: 127.0.0.1:8080", "health: { tcp: 99ms }"),
        ("to: 127.0.0.1:8080", "health: { tcp: 61m }"),
        ("to: 127.0.0.1:8080", "health: { tpc: 2s }"),
        ("to: 127.0.0.1:8080", "health: { tcp: 2s, http: / }"),
        ("to: 127.0.0.1:8080", "health: { tcp: 2s, every: 2s }"),
        ("to: 127.0.0.1:8080", "health: { tcp: 2s, port: 65536 }"),
        ("to: 127.0.0.1:8080", "health: { tcp: 2s, port: 80/tcp }"),
        ("to: 127.0.0.1:8080", "health: { http: ready }"),
        ("to: 127.0.0.1:8080", "health: { http: '/a b' }"),
        ("to: 127.0.0.1:8080", "health: { http: \"/a\\r\\nX: y\" }"),
        ("to: 127.0.0.1:8080", "health: { http: /, every: 0s }"),
        ("port: 80, to: ':8000'", "port: 80/udp, health: { tcp: 2s }"),
        ("to: 127.0.0.1:8080", "source: preserve, to: 127.0.0.1:8080"),
        ("to: 127.0.0.1:8080", "source: preserve, to: '[::1]:8080'"),
        ("to: 127.0.0.1:8080", "source: preserve, to: '[::ffff:127.0.0.1]:8080'"),
        ("to: 127.0.0.1:8080", "source: keep"),
        ("to: 127.0.0.1:8080", "source: preserve, proxy-protocol: v2"),
        ("to: 127.0.0.1:8080", "proxy-protocol: v1"),
        ("to: 127.0.0.1:8080", "proxy_protocol: v2"),
        ("export: [billing]", "proxy-protocol: v2, export: [billing]"),
        ("balance: least-load", "balance: { by: random }"),
        ("balance: least-load", "balance: { sticky: yes }"),
        ("balance: least-load", "balance: { weight: { alpha: 1 } }"),
        ("balance: least-load", "balance: { weights: { alhpa: 1 } }"),
        ("balance: least-load", "balance: { weights: { gamma: 1 } }"),
        ("balance: least-load", "balance: { weights: { alpha: 1001 } }"),
        ("balance: least-load", "balance: { weights: { alpha: -1 } }"),
        ("balance: least-load", "balance: { weights: { alpha: 0, beta: 0 } }"),
        ("balance: least-load", "balance: { weights: [alpha] }"),
        ("export: [billing]", "idle: 999ms, export: [billing]"),
        ("export: [billing]", "idle: 25h, export: [billing]"),
        ("to: 127.0.0.1:8080", "idle: 60s"),
        ("to: 127.0.0.1:8080", "limit: { rate: 1 }"),
        ("run: { user: api } }", "run: { user: api }, limit: { session: 1 } }"),
        ("run: { user: api } }", "run: { user: api }, limits: {} }"),
        ("  shop:\n", "  shop:\n    limit: { sesions: 1 }\n"),
        ("  shop:\n", "  shop:\n    limit: 1 mbit/s\n"),
        ("to: 127.0.0.1:8080", "balance: random"),
        ("to: ':8000'", "to: 127.0.0.1:8000"),
        ("export: [billing]", "to: ':1', export: [billing]"),
        ("export: [billing]", "export: [biling]"),
        ("export: [billing]", "export: [shop]"),
        ("ports: [5432, 5433/tcp, 53/udp]", "ports: [5432, 5432/tcp]"),
        ("ports: [5432, 5433/tcp, 53/udp]", "ports: []"),
        ("ports: [5432, 5433/tcp, 53/udp]", "port: 70000"),
        ("ports: [5432, 5433/tcp, 53/udp]", "port: 1, ports: [1]"),
        ("ports: [5432, 5433/tcp, 53/udp], ", ""),
        ("session: 50 mbit/s", "session: 50 Mb/s"),
        ("session: 50 mbit/s", "session: 0 mbit/s"),
        ("sessions: 200", "sessions: 0"),
        ("sessions: 200", "sessions: -1"),
        ("open: 100/s", "open: 0/s"),
        ("from: api, to: db", "from: web, to: api"),
        ("from: api, to: db", "from: web, to: api, port: 8080"),
        ("from: api, to: db", "from: api, to: db, port: 1"),
        ("from: api, to: db", "from: api, to: dbs"),
        ("from: api, to: db", "from: shop/apo, to: db"),
        ("from: api, to: db", "from: shap/api, to: db"),
        ("from: api, to: db", "from: api, to: billing/db"),
        ("from: api, to: db", "from: billing/report, to: db"),
        ("  billing:\n", "  shop/eu/west: {}\n  billing:\n"),
        ("  billing:\n", "  shop/front: {}\n  billing:\n"),
        ("  billing:\n", "  shop/web: {}\n  billing:\n"),
        ("  billing:\n", "  shop/: {}\n  billing:\n"),
        ("hosts:", "never: [{ between: [shop, shop] }]\nhosts:"),
        ("hosts:", "never: [{ between: [shop] }]\nhosts:"),
        ("hosts:", "never: [{ between: [shop, biling] }]\nhosts:"),
        ("hosts:", "never: { between: [shop, billing] }\nhosts:"),
        ("from: api, to: db", "form: api, to: db"),
        ("from: api, to: db", "from: [api], to: db"),
        ("  billing:\n", "  shop: {}\n  billing:\n"),
    ];
    let shown: Vec<String> = cases.map(|(from, to)| format!("{to:?}\n    {}", mistake(&changed(from, to)))).into();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn a_file_that_is_no_graph_is_told_so() {
    let shown: Vec<String> =
        ["", "a", "[1]", "a: [", "\u{0}", "fabric: x\n---\nfabric: y\n", "fabric: x\nhosts:\ntenants:\n"]
            .map(mistake)
            .into();
    insta::assert_snapshot!(shown.join("\n"));
    assert!(mistake(&"#".repeat(GRAPH_MAX + 1)).contains("more than the 16777216"));
}

const LARGE: usize = 20_000;

fn large() -> String {
    let mut text = String::from("fabric: big\nhosts: { alpha: }\ntenants:\n  t:\n    workloads:\n");
    (0..LARGE).for_each(|n| text += &format!("      w{n}: {{ on: alpha, run: {{ netns: n{n} }} }}\n"));
    text += "    services:\n";
    (0..LARGE).for_each(|n| text += &format!("      s{n}: {{ by: w{n}, port: 80 }}\n"));
    text += "    allow:\n";
    (0..LARGE).for_each(|n| text += &format!("      - {{ from: w{n}, to: s{}, limit: {{ sessions: 3 }} }}\n", n / 2));
    text
}

#[test]
fn a_large_graph_is_read() {
    assert_eq!(Graph::parse("f", &large()).unwrap().edges.len(), LARGE);
}

#[test]
fn a_large_graph_that_is_all_wrong_does_not_flood_the_screen() {
    let wrong = large().replace("from: w", "from: x");
    assert_eq!(Graph::parse("f", &wrong).unwrap_err().0.len(), 101);
}

/// Words that make graphs, so that random texts get past the parser's first line.
const WORDS: [&str; 31] = [
    "fabric:",
    "hosts:",
    "tenants:",
    "workloads:",
    "services:",
    "allow:",
    "on:",
    "run:",
    "netns",
    "user:",
    "from:",
    "to:",
    "port:",
    "limit:",
    "health:",
    "balance:",
    "weights:",
    "idle:",
    "2s",
    "a",
    "b/c",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    "\n",
    "\n  ",
    "\n    - ",
    "&a *a é \u{1b} 9/s",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = Graph::parse("f", &text).map_err(|found| found.to_string());
    }

    #[test]
    fn no_near_graph_makes_the_parser_panic(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..60)) {
        let _ = Graph::parse("f", &words.join(" ")).map_err(|found| found.to_string());
        let _ = Graph::parse("f", &words.concat()).map_err(|found| found.to_string());
    }

    #[test]
    fn a_damaged_graph_is_read_or_refused_with_a_reason(at in 0..SHOP.len(), with in "[a-z0-9:/{}\\[\\], \n-]{0,3}", cut in 0..6_usize) {
        prop_assume!(SHOP.is_char_boundary(at) && SHOP.is_char_boundary((at + cut).min(SHOP.len())));
        let text = format!("{}{with}{}", &SHOP[..at], &SHOP[(at + cut).min(SHOP.len())..]);
        if let Err(found) = Graph::parse("f", &text) {
            prop_assert!(!found.0.is_empty());
            for one in found.0 {
                prop_assert!(!one.message.is_empty() && one.caret.start <= one.source_line.chars().count());
                prop_assert!(one.at.line as usize <= text.split('\n').count());
            }
        }
    }
}

/// Tenants below each other, and a rule that stands above them.
const NESTED: &str = "\
fabric: shop.example
hosts: { alpha: }
tenants:
  shop: { limit: { sessions: 100 } }
  shop/eu:
    workloads:
      web: { on: alpha, run: { netns: web } }
    services:
      api: { by: web, port: 80, export: [shop/us] }
  shop/us:
    workloads:
      web: { on: alpha, run: { netns: us } }
    allow:
      - { from: web, to: shop/eu/api }
  billing: {}
never:
  - { between: [shop, billing] }
";

#[test]
fn tenants_are_below_each_other() {
    let graph = Graph::parse("f", NESTED).unwrap_or_else(|found| panic!("{found}"));
    assert_eq!(
        graph.tenants.keys().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        "billing shop shop/eu shop/us"
    );
    let edge = &graph.edges[0];
    assert_eq!((edge.from.to_string(), edge.to.to_string()), ("shop/us/web".into(), "shop/eu/api".into()));
    assert_eq!(service(&graph, "shop/eu/api").export[0].at.to_string(), "f:9");
    assert_eq!(graph.never[0].at.to_string(), "f:17");
    // Without the export the edge is there and waits for it.
    let alone = Graph::parse("f", &NESTED.replace(", export: [shop/us]", "")).unwrap();
    assert_eq!(alone.edges.len(), 1);
}

#[test]
fn what_a_rule_forbids_is_a_mistake_that_names_both_lines() {
    let found = Graph::parse("f", &NESTED.replace("[shop, billing]", "[shop/eu, shop]")).unwrap_err();
    let shown: Vec<_> = found.0.iter().map(|one| format!("{} {}", one.at, one.message)).collect();
    assert_eq!(
        shown,
        [
            "f:9 `shop/eu/api` may never be exported to `shop/us`: line 17 keeps `shop/eu` and `shop` apart",
            "f:14 `shop/us/web` may never call `shop/eu/api`: line 17 keeps `shop/eu` and `shop` apart",
        ]
    );
}
