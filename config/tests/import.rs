//! Graphs from manifests: of a shop in both forms, and of whatever else is thrown at the importers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use ripstop_config::{
    Graph,
    graph::{Container, Run},
    import::{Compose, ImportError, Imported, Kind, Manifest, Target, compose, kubernetes},
};

const COMPOSE: &str = include_str!("../../tests/manifests/compose.yaml");
const OVERRIDE: &str = include_str!("../../tests/manifests/compose.override.yaml");
const COMMON: &str = include_str!("../../tests/manifests/common.yaml");
const NAMESPACES: &str = include_str!("../../tests/manifests/kubernetes/namespaces.yaml");
const SHOP: &str = include_str!("../../tests/manifests/kubernetes/base/shop.yaml");
const BILLING: &str = include_str!("../../tests/manifests/kubernetes/billing.json");
const POLICIES: &str = include_str!("../../tests/manifests/kubernetes/policies.yml");

fn target() -> Target {
    Target { fabric: "shop.example".parse().unwrap(), hosts: vec!["alpha".parse().unwrap(), "beta".parse().unwrap()] }
}

fn manifest(name: &str, text: &str) -> Manifest {
    Manifest { name: name.into(), text: text.into() }
}

fn import_compose(files: &[(&str, &str)], profiles: &[&str]) -> Result<Imported, ImportError> {
    let files: Vec<_> = files.iter().map(|(name, text)| manifest(name, text)).collect();
    let settings = Compose {
        target: target(),
        project: "dir".into(),
        variables: [("WEB_PORT".to_owned(), "3001".to_owned())].into(),
        profiles: profiles.iter().map(ToString::to_string).collect(),
    };
    compose(&files, &settings, &|_, path| match path {
        "common.yaml" => Ok(manifest("common.yaml", COMMON)),
        _ => Err(format!("there is no {path}")),
    })
}

fn import_kubernetes(files: &[(&str, &str)]) -> Result<Imported, ImportError> {
    let files: Vec<_> = files.iter().map(|(name, text)| manifest(name, text)).collect();
    kubernetes(&files, &target())
}

fn shop() -> Imported {
    import_compose(&[("compose.yaml", COMPOSE), ("override.yaml", OVERRIDE)], &[]).unwrap()
}

fn cluster() -> Imported {
    import_kubernetes(&[
        ("spaces.yaml", NAMESPACES),
        ("shop.yaml", SHOP),
        ("billing.json", BILLING),
        ("p.yml", POLICIES),
    ])
    .unwrap()
}

fn edges(imported: &Imported) -> Vec<String> {
    let graph = Graph::parse("graph.yaml", &imported.graph).unwrap();
    let ports =
        |edge: &ripstop_config::graph::Edge| edge.ports.iter().map(|port| format!(" {port}")).collect::<String>();
    graph.edges.iter().map(|edge| format!("{} {}{}", edge.from, edge.to, ports(edge))).collect()
}

/// Whether the report says of a line that it became that, with these words.
#[track_caller]
fn says(imported: &Imported, place: &str, kind: Kind, words: &str) {
    let found = imported
        .report
        .findings
        .iter()
        .any(|one| one.at.to_string() == place && one.kind == kind && one.what.contains(words));
    assert!(found, "{place} {kind:?} {words}\n{}", imported.report);
}

#[test]
fn a_compose_project_becomes_a_graph() {
    insta::assert_snapshot!(shop().graph);
    insta::assert_snapshot!(shop().report);
}

#[test]
fn edges_come_from_what_one_says_of_another_alone() {
    let expected = [
        "shop/web shop/api",
        "shop/api shop/database",
        "shop/api shop/db",
        "shop/cache shop/db",
        "shop/migrate shop/db",
        "shop/proxy shop/web",
    ];
    assert_eq!(edges(&shop()), expected);
    // A profile that is chosen brings its service, and what that needs.
    let all = import_compose(&[("compose.yaml", COMPOSE), ("override.yaml", OVERRIDE)], &["debug"]).unwrap();
    assert!(edges(&all).contains(&"shop/debug shop/db".to_owned()), "{}", all.graph);
}

#[test]
fn the_report_says_what_became_of_each_part() {
    let shop = shop();
    for (place, kind, words) in [
        ("compose.yaml:28", Kind::Inferred, "give the service the label ripstop-workload=shop/api"),
        ("compose.yaml:13", Kind::NotCarried, "its port on the host is outside"),
        ("compose.yaml:15", Kind::Inferred, "edge proxy -> web"),
        ("compose.yaml:25", Kind::NotCarried, "waits for its end"),
        ("compose.yaml:27", Kind::Suggested, "`- { from: web, to: cache }`"),
        ("compose.yaml:39", Kind::Inferred, "5432/tcp, where its image listens"),
        ("compose.yaml:52", Kind::NotCarried, "only in profile debug"),
        ("compose.yaml:56", Kind::NotCarried, "network_mode it has the host's network"),
        ("compose.yaml:61", Kind::NotCarried, "they are in no network together"),
        ("common.yaml:7", Kind::NotCarried, "cap_add"),
        ("override.yaml:7", Kind::NotCarried, "`depend_on`"),
    ] {
        says(&shop, place, kind, words);
    }
    assert!(!shop.report.to_string().contains("secret"), "values of variables are nobody's business");
}

#[test]
fn replicas_are_one_workload_whose_containers_are_found_by_a_name_or_a_label() {
    let run = |count: u32, more: &str| {
        let text = format!("name: shop\nservices:\n  a: {{ image: x, deploy: {{ replicas: {count} }}{more} }}\n");
        let imported = import_compose(&[("c.yaml", &text)], &[]).unwrap();
        let graph = Graph::parse("graph.yaml", &imported.graph).unwrap();
        let workload = &graph.workloads[&"shop/a".parse().unwrap()];
        (workload.on.len(), workload.run.clone())
    };
    let named = |name: &str| Run::Container(Container::Name(name.into()));
    assert_eq!(run(1, ""), (1, named("shop-a-1")));
    assert_eq!(run(2, ""), (2, named("shop-a-1")), "one on each of two hosts");
    let label = Container::Label("ripstop-workload".into(), "shop/a".into());
    assert_eq!(run(3, ""), (2, Run::Container(label)));
    assert_eq!(run(3, ", container_name: own"), (2, named("own")));
}

#[test]
fn a_variable_without_a_value_has_the_projects() {
    for environment in ["[WEB_PORT, DB]", "{ WEB_PORT: , DB: }", "[WEB_PORT=3, 'DB=${DB}']"] {
        let text = format!("services:\n  a: {{ image: x, environment: {environment} }}\n  db: {{ image: postgres }}\n");
        let settings = Compose {
            target: target(),
            project: "dir".into(),
            variables: [("DB".to_owned(), "db:5432".to_owned())].into(),
            profiles: Default::default(),
        };
        let imported = compose(&[manifest("c.yaml", &text)], &settings, &|_, path| Err(path.into())).unwrap();
        says(&imported, "c.yaml:2", Kind::Suggested, "variable DB names db");
    }
}

#[test]
fn a_cluster_becomes_a_graph() {
    insta::assert_snapshot!(cluster().graph);
    insta::assert_snapshot!(cluster().report);
}

#[test]
fn policies_become_edges_where_they_name_somebody() {
    let cluster = cluster();
    // `web` is named by the policy of `cache`, but its own lets it out to `api` alone.
    let expected =
        ["billing/invoices shop/api", "shop/web shop/api 9080/tcp", "shop/api-v1 shop/cache", "shop/api-v2 shop/cache"];
    assert_eq!(edges(&cluster), expected);
    for (place, kind, words) in [
        ("p.yml:20", Kind::NotCarried, "ipBlock"),
        ("p.yml:29", Kind::NotCarried, "a rule for everybody"),
        ("shop.yaml:55", Kind::NotCarried, "a service has one workload, here api-v1; not api-v2"),
        ("shop.yaml:21", Kind::Suggested, "variable CACHE_URL names cache.shop.svc.cluster.local"),
        ("spaces.yaml:14", Kind::NotCarried, "ServiceAccount"),
    ] {
        says(&cluster, place, kind, words);
    }
}

#[test]
fn policies_that_are_not_understood_let_nothing_pass() {
    let pods = "kind: Pod\nmetadata: { name: a, labels: { app: a } }\nspec: { containers: [{ name: c }] }\n---\n\
                kind: Pod\nmetadata: { name: b, labels: { app: b } }\nspec: { containers: [{ name: c }] }\n---\n\
                kind: Service\nmetadata: { name: b }\nspec: { selector: { app: b }, ports: [{ port: 80 }] }\n";
    let policy =
        |spec: &str| format!("---\nkind: NetworkPolicy\nmetadata: {{ name: \"{}\" }}\nspec: {spec}\n", spec.len());
    let edges_with = |specs: &[&str]| {
        let text = format!("{pods}{}", specs.iter().map(|spec| policy(spec)).collect::<String>());
        edges(&import_kubernetes(&[("k.yaml", &text)]).unwrap())
    };
    let b_from_a = "{ podSelector: { matchLabels: { app: b } }, ingress: [{ from: [{ podSelector: { matchLabels: { app: a } } }] }] }";
    assert_eq!(edges_with(&[]), [""; 0], "what may reach it in Kubernetes is no edge");
    assert_eq!(edges_with(&[b_from_a]), ["default/a default/b"]);
    for other in [
        // An operator of the future, on the caller's side and on both.
        "{ podSelector: { matchExpressions: [{ key: app, operator: Gt, values: [x] }] } }",
        // Nothing may leave `a`; the rule below is no list.
        "{ podSelector: { matchLabels: { app: a } }, policyTypes: [Egress] }",
        "{ podSelector: { matchLabels: { app: a } }, policyTypes: [Egress], egress: [{ to: { podSelector: {} } }] }",
        "{ podSelector: { matchLabels: { app: a } }, policyTypes: [Egress], egress: [{ to: [{ ipBlock: { cidr: 0.0.0.0/0 } }] }] }",
        "{ podSelector: { matchLabels: { app: a } }, policyTypes: [Egress], egress: [{ ports: [{ port: 81 }] }] }",
    ] {
        assert_eq!(edges_with(&[b_from_a, other]), [""; 0], "{other}");
    }
    for other in
        ["{ podSelector: { matchLabels: { app: a } }, egress: [{}] }", "{ podSelector: { matchLabels: { app: c } } }"]
    {
        assert_eq!(edges_with(&[b_from_a, other]), ["default/a default/b"], "{other}");
    }
}

#[test]
fn an_import_says_why_it_cannot() {
    let compose = |text: &str| import_compose(&[("c.yaml", text)], &[]).unwrap_err().to_string();
    for (text, said) in [
        ("services: {}", "there is no workload in c.yaml"),
        ("services: [", "c.yaml:1"),
        ("services:\n  a: { extends: b }\n  b: { extends: a }", "services extend each other without end"),
        ("services:\n  a: { extends: { service: b, file: no.yaml } }", "c.yaml:2: there is no no.yaml"),
        ("services:\n  a: { expose: ['${P:?how}'] }", "c.yaml:2: `P` must be set (how): give --env P=VALUE"),
        ("services:\n  a: { image: x }\n  a: { image: y }", "`a` is already given on line 2"),
        ("name: host\nservices:\n  a: { image: x }", "give --project NAME"),
    ] {
        assert!(compose(text).contains(said), "{text}: {}", compose(text));
    }
    let cluster = |text: &str| import_kubernetes(&[("k.yaml", text)]).unwrap_err().to_string();
    assert!(cluster("kind: ConfigMap\nmetadata: { name: a }").contains("there is no workload in k.yaml"));
    assert!(cluster("kind: {{ .Values.kind }}").contains("k.yaml:1"));
}

#[test]
fn services_that_extend_one_again_and_again_do_not_fill_memory() {
    let big: String = (0..2_000).map(|port| format!("\"{}\", ", port + 1)).collect();
    let many: String = (0..5_000).map(|one| format!("  s{one}: {{ extends: big }}\n")).collect();
    let error = import_compose(&[("c.yaml", &format!("services:\n  big: {{ expose: [{big}] }}\n{many}"))], &[]);
    assert!(error.unwrap_err().to_string().contains("more than is read"));
}

/// Pieces of manifests, put together at random.
fn pieces(texts: &[&str]) -> impl Strategy<Value = String> + use<> {
    let lines: Vec<String> = texts.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    let line = prop_oneof![
        8 => prop::sample::select(lines),
        1 => "[ ]{0,8}(- )?[a-z_]{1,9}: ?[-a-zA-Z0-9$:{}\\[\\]*&!/'\" ]{0,12}",
        1 => any::<String>(),
    ];
    prop::collection::vec(line, 0..60).prop_map(|lines| lines.join("\n"))
}

/// A manifest with some of its lines missing, doubled or changed in a letter.
fn damaged(text: &'static str) -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0..3_u8, any::<prop::sample::Index>(), any::<char>());
    prop::collection::vec(change, 1..6).prop_map(|changes| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (line, how, place, letter) in changes {
            let line = line.index(lines.len());
            match how {
                0 if lines.len() > 1 => drop(lines.remove(line)),
                1 => lines.insert(line, lines[line].clone()),
                _ => {
                    let mut letters: Vec<char> = lines[line].chars().collect();
                    let place = place.index(letters.len() + 1);
                    letters.splice(place..(place + 1).min(letters.len()), [letter]);
                    lines[line] = letters.into_iter().collect();
                }
            }
        }
        lines.join("\n")
    })
}

/// What came of it is a graph, and the same graph each time; or it was refused.
fn check(import: impl Fn() -> Result<Imported, ImportError>) -> Result<(), TestCaseError> {
    let first = import();
    match &first {
        Ok(imported) => prop_assert!(Graph::parse("g", &imported.graph).is_ok(), "{}", imported.graph),
        Err(ImportError::Graph(mistakes)) => prop_assert!(false, "{mistakes}"),
        Err(ImportError::Manifest(_) | ImportError::Refused { .. } | ImportError::Empty(_)) => {}
    }
    prop_assert_eq!(first, import());
    Ok(())
}

proptest! {
    #[test]
    fn no_compose_file_breaks_the_importer(text in prop_oneof![pieces(&[COMPOSE, OVERRIDE]), damaged(COMPOSE)]) {
        check(|| import_compose(&[("c.yaml", &text)], &["*"]))?;
        check(|| import_compose(&[("compose.yaml", COMPOSE), ("c.yaml", &text)], &[]))?;
    }

    #[test]
    fn no_object_breaks_the_importer(text in prop_oneof![pieces(&[SHOP, POLICIES]), damaged(SHOP), damaged(POLICIES)]) {
        check(|| import_kubernetes(&[("k.yaml", &text)]))?;
        check(|| import_kubernetes(&[("spaces.yaml", NAMESPACES), ("shop.yaml", SHOP), ("k.yaml", &text)]))?;
    }
}
