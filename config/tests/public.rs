//! Manifests that others published, imported: who calls whom is known from what they are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ripstop_config::{
    Graph,
    import::{Compose, Imported, Kind, Manifest, Target, compose, kubernetes},
};

const BOOKINFO: &str = include_str!("../../tests/manifests/public/bookinfo.yaml");
const BOUTIQUE: &str = include_str!("../../tests/manifests/public/online-boutique.yaml");
const POLICIES: &str = include_str!("../../tests/manifests/public/online-boutique-policies.yaml");
const VOTING: &str = include_str!("../../tests/manifests/public/voting.compose.yaml");
const GOLANG: &str = include_str!("../../tests/manifests/public/nginx-golang-postgres.compose.yaml");

fn target() -> Target {
    Target { fabric: "shop.example".parse().unwrap(), hosts: vec!["alpha".parse().unwrap()] }
}

fn files(texts: &[&str]) -> Vec<Manifest> {
    let file = |(index, text): (usize, &&str)| Manifest { name: format!("{index}.yaml"), text: (*text).into() };
    texts.iter().enumerate().map(file).collect()
}

/// The same twice, whatever the order of the files.
fn of_kubernetes(texts: &[&str]) -> Imported {
    let imported = kubernetes(&files(texts), &target()).unwrap();
    assert_eq!(kubernetes(&files(texts), &target()).unwrap().graph, imported.graph);
    imported
}

fn of_compose(text: &str) -> Imported {
    let settings = Compose { target: target(), project: "app".into(), variables: [].into(), profiles: [].into() };
    let import = || compose(&files(&[text]), &settings, &|_, path| Err(format!("there is no {path}"))).unwrap();
    assert_eq!(import().graph, import().graph);
    import()
}

/// The edges, each once, as `caller callee`, in order.
fn edges(imported: &Imported) -> Vec<String> {
    let graph = Graph::parse("graph.yaml", &imported.graph).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let mut edges: Vec<_> = graph.edges.iter().map(|edge| format!("{} {}", edge.from.name, edge.to.name)).collect();
    edges.sort();
    edges
}

/// What is suggested, as `caller callee`.
fn suggested(imported: &Imported) -> Vec<String> {
    let found = imported.report.findings.iter().filter(|one| one.kind == Kind::Suggested);
    let pair = |line: &str| {
        let (from, to) = line.split_once(", to: ")?;
        Some(format!("{from} {}", to.split_once(" }")?.0))
    };
    let mut pairs: Vec<_> =
        found.flat_map(|one| one.what.split("{ from: ").skip(1).filter_map(pair).collect::<Vec<_>>()).collect();
    pairs.sort();
    pairs
}

fn not_carried(imported: &Imported) -> Vec<&str> {
    let found = imported.report.findings.iter().filter(|one| one.kind == Kind::NotCarried);
    found.map(|one| one.what.as_str()).collect()
}

/// Who calls whom in Online Boutique, as its documentation draws it; the load generator apart.
const CALLS: [&str; 15] = [
    "cartservice redis-cart",
    "checkoutservice cartservice",
    "checkoutservice currencyservice",
    "checkoutservice emailservice",
    "checkoutservice paymentservice",
    "checkoutservice productcatalogservice",
    "checkoutservice shippingservice",
    "frontend adservice",
    "frontend cartservice",
    "frontend checkoutservice",
    "frontend currencyservice",
    "frontend productcatalogservice",
    "frontend recommendationservice",
    "frontend shippingservice",
    "recommendationservice productcatalogservice",
];
const LOAD: &str = "loadgenerator frontend";

#[test]
fn a_boutique_with_policies_has_its_edges_and_one_is_the_operators_to_write() {
    let imported = of_kubernetes(&[BOUTIQUE, POLICIES]);
    assert_eq!(edges(&imported), CALLS);
    // Everybody may call the front end: nobody is named, but by the load generator's own settings.
    assert_eq!(suggested(&imported), [LOAD]);
    let lost = not_carried(&imported);
    assert!(lost.len() == 1 && lost[0].contains("frontend: a rule for everybody"), "{lost:?}");
    let graph = Graph::parse("graph.yaml", &imported.graph).unwrap();
    assert_eq!((graph.workloads.len(), graph.services.len()), (12, 11));
    let email = &graph.services[&"default/emailservice".parse().unwrap()];
    assert_eq!((email.ports[0].number, email.to.unwrap().port()), (5000, 8080));
}

#[test]
fn a_boutique_without_policies_has_no_edge_and_all_of_them_suggested() {
    let imported = of_kubernetes(&[BOUTIQUE]);
    assert!(edges(&imported).is_empty(), "{}", imported.graph);
    let mut all: Vec<_> = CALLS.iter().map(ToString::to_string).chain([LOAD.to_owned()]).collect();
    all.sort();
    assert_eq!(suggested(&imported), all);
    assert!(not_carried(&imported).is_empty(), "{}", imported.report);
}

#[test]
fn versions_behind_one_service_are_reported() {
    let imported = of_kubernetes(&[BOOKINFO]);
    assert!(edges(&imported).is_empty(), "nothing in it says who calls whom");
    let graph = Graph::parse("graph.yaml", &imported.graph).unwrap();
    assert_eq!((graph.workloads.len(), graph.services.len()), (6, 4));
    let lost = not_carried(&imported);
    assert!(lost.iter().any(|what| what.contains("here reviews-v1; not reviews-v2, reviews-v3")), "{lost:?}");
    assert_eq!(lost.iter().filter(|what| what.contains("ServiceAccount")).count(), 4);
}

#[test]
fn those_that_call_are_suggested_before_those_that_are_called() {
    let imported = of_compose(VOTING);
    assert!(edges(&imported).is_empty(), "it has no `depends_on`");
    let suggested = suggested(&imported);
    for call in ["votes redis", "worker redis", "worker db", "result db"] {
        assert!(suggested.iter().any(|one| one == call), "{call} is not among {suggested:?}");
    }
    let containers = ["container: { name: redis }", "container: { name: app-votes-1 }"];
    assert!(containers.iter().all(|name| imported.graph.contains(name)), "{}", imported.graph);
}

#[test]
fn a_dependency_without_a_known_port_is_no_edge_and_is_told() {
    let imported = of_compose(GOLANG);
    assert_eq!(edges(&imported), ["backend db"]);
    let lost = not_carried(&imported);
    assert!(lost.iter().any(|what| what.contains("no port of backend is known; give it `expose:`")), "{lost:?}");
}
