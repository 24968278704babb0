//! What another graph would change, tenants of it, and graphs made of manifests.

use super::{Bench, GRAPH, mode};

#[test]
fn graph_diff_says_what_another_graph_would_allow_deny_and_limit() {
    let bench = Bench::new();
    let old = bench.file("old.yaml", GRAPH);
    let same = bench.run(&["graph", "diff", &old, "--against", &old]).exits(0).stdout();
    assert_eq!(same, "nothing changes of what is allowed, or of names and addresses\n");
    let text =
        GRAPH.replace("sessions: 200", "sessions: 100").replace("{ from: api, to: db }", "{ from: web, to: db }");
    let new = bench.file("new.yaml", &text.replace("  beta: {}\n", "  beta: {}\n  gamma: {}\n"));
    let said = bench.run(&["graph", "diff", &new, "--against", &old]).exits(0).stdout();
    for (change, what, rule) in [
        ("new", "host gamma", "-"),
        ("allowed", "shop/web -> shop/db:5432/tcp", "new.yaml:17"),
        ("denied", "shop/api -> shop/db:5432/tcp", "old.yaml:16"),
        ("limits", "shop/web -> shop/api:8080/tcp", "new.yaml:16"),
    ] {
        let line = said.lines().find(|line| line.contains(what)).unwrap_or_default();
        assert!(line.starts_with(change) && line.trim_end().ends_with(rule), "{change} {what} {rule}:\n{said}");
    }
    let value = bench.run(&["graph", "diff", &new, "--against", &old, "-o", "json"]).exits(0).json();
    assert_eq!(value["hosts"]["added"], serde_json::json!(["gamma"]));
    assert_eq!(value["cut"], serde_json::json!([]), "no agent was asked");
    let without = bench.run(&["graph", "diff", &new]).exits(4).stderr();
    assert!(without.contains("no-agent.sock"), "{without}");
}

#[test]
fn graph_test_says_which_of_its_own_tests_do_not_hold() {
    let bench = Bench::new();
    let tests = "tests:\n  allow: [{ from: shop/web, to: shop/api }]\n  deny: [{ from: shop/web, to: shop/db }]\n";
    let good = bench.file("good.yaml", &format!("{GRAPH}{tests}"));
    assert_eq!(bench.run(&["graph", "test", &good]).exits(0).stdout(), "2 hold, 0 do not\n");
    let bad = bench.file("bad.yaml", &format!("{GRAPH}{}", tests.replace("shop/db", "shop/api")));
    let said = bench.run(&["graph", "test", &bad]).exits(1).stdout();
    assert!(said.contains("bad.yaml:19: shop/web -> shop/api:8080/tcp must be denied, and is allowed\n"), "{said}");
    assert!(said.ends_with("1 hold, 1 do not\n"), "{said}");
    let value = bench.run(&["graph", "test", &bad, "-o", "json"]).exits(1).json();
    let tests = &value["tests"];
    assert_eq!((&tests[0]["holds"], &tests[1]["holds"]), (&true.into(), &false.into()));
}

#[test]
fn between_tenants_each_side_is_told_what_its_consent_is() {
    let bench = Bench::new();
    let text = GRAPH.replace("    allow:\n", "    allow:\n      - { from: web, to: shop/eu/api }\n")
        + "  shop/eu:\n    workloads:\n      api: { on: [beta], run: { netns: eu } }\n    services:\n      \
         api: { by: api, port: 80 }\n";
    let file = bench.file("g.yaml", &text);
    let said = bench.run(&["graph", "check", &file]).exits(0).stdout();
    let note =
        "g.yaml:15: the edge from shop/web to shop/eu/api is not in force, as shop/eu/api is not exported to shop";
    assert!(said.contains(note) && said.contains("write `export: [shop]` into the service"), "{said}");
    let said = bench.run(&["explain", "shop/web", "shop/eu/api:80", "--graph", &file]).exits(3).stdout();
    assert!(
        said.contains("denied (not_exported)") && said.contains("caller's side shop has an edge to it ("),
        "{said}"
    );
    let said = bench.run(&["explain", "shop/web", "api.eu.shop", "--graph", &file]).exits(3).stdout();
    assert!(said.contains("server's side shop/eu does not export it"), "{said}");
    let never = bench.file("never.yaml", &format!("never: [{{ between: [shop, shop/eu] }}]\n{text}"));
    let said = bench.run(&["graph", "check", &never]).exits(1).stderr();
    assert!(said.contains("never.yaml:16") && said.contains("line 1 keeps `shop` and `shop/eu` apart"), "{said}");
}

#[test]
fn a_key_may_be_for_a_tenant_alone() {
    let bench = Bench::new();
    let ran =
        bench.run(&["operator", "keygen", "bob", "--tenant", "shop/eu", "--tenant", "billing", "--out", "bob.key"]);
    let said = ran.exits(0).stdout();
    let line = said.lines().last().unwrap_or_default();
    assert!(line.starts_with("  bob: { key: ed25519:") && line.ends_with(", tenants: [shop/eu, billing] }"), "{said}");
    assert_eq!(mode(&bench.path("bob.key")), 0o600);
    let alone = ripstop_config::Operators::parse("f", &format!("operators:\n{line}\n")).map(drop);
    assert!(alone.is_err_and(|why| why.to_string().contains("may change the whole fabric")));
}

#[test]
fn manifests_become_graphs_that_pass_and_stay_the_same() {
    let bench = Bench::new();
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests");
    let compose = format!("{manifests}/compose.yaml");
    let line = ["graph", "import", "compose", &compose, "--on", "alpha", "--on", "beta", "--env", "TOKEN=secret"];
    let first = bench.run(&line).exits(0);
    assert_eq!(first.stdout(), bench.run(&line).exits(0).stdout());
    assert!(first.stderr().contains("compose.yaml:15  edge proxy -> web, from depends_on"), "{}", first.stderr());
    assert!(!first.stderr().contains("secret"), "{}", first.stderr());
    let graph = bench.file("graph.yaml", &first.stdout());
    bench.run(&["graph", "check", &graph]).exits(0);
    bench.run(&["explain", "proxy", "web:3000", "--graph", &graph]).exits(0);
    bench.run(&["explain", "proxy", "db:5432", "--graph", &graph]).exits(3);

    let cluster = format!("{manifests}/kubernetes");
    let line = ["graph", "import", "kubernetes", &cluster, "--out", "cluster.yaml", "--report", "json"];
    let ran = bench.run(&line).exits(0);
    let report: serde_json::Value = serde_json::from_str(&ran.stderr()).expect("JSON on standard error");
    assert!(report["findings"].as_array().is_some_and(|all| all.iter().any(|one| one["kind"] == "not-carried")));
    assert!(ran.stdout().is_empty());
    bench.run(&["explain", "billing/invoices", "shop/api:9090", "--graph", "cluster.yaml"]).exits(0);
    let again = bench.run(&line).exits(1).stderr();
    assert!(again.contains("cluster.yaml exists already"), "{again}");
    let nothing = bench.run(&["graph", "import", "kubernetes", &compose]).exits(1).stderr();
    assert!(nothing.contains("there is no workload in"), "{nothing}");
}

#[test]
fn variables_come_from_files_and_arguments_alone() {
    let bench = Bench::new();
    bench.file("compose.yaml", "services:\n  web:\n    expose: ['$PORT', '${HOME:-1}']\n");
    bench.file(".env", "PORT=8080\n");
    let graph =
        |more: &[&str]| bench.run(&[&["graph", "import", "compose", "compose.yaml"], more].concat()).exits(0).stdout();
    assert!(graph(&[]).contains("ports: [1/tcp, 8080/tcp]"), "{}", graph(&[]));
    assert!(graph(&["--env", "PORT=9090"]).contains("ports: [1/tcp, 9090/tcp]"));
    bench.file("other.env", "secret\n");
    let wrong = bench.run(&["graph", "import", "compose", "compose.yaml", "--env-file", "other.env"]).exits(1).stderr();
    assert!(wrong.contains("other.env:1: write NAME=VALUE") && !wrong.contains("secret"), "{wrong}");
}
