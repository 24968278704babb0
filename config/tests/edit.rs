//! Changes to a graph's text: what is put in, and that everything else stays.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use ripstop_config::{
    Graph,
    edit::{Edit, EditError, edit},
    graph::{Run, User},
};

fn host(name: &str, address: &str) -> Edit {
    Edit::Host { name: name.parse().unwrap(), address: address.parse().unwrap() }
}

fn workload(id: &str, on: &str, run: Run) -> Edit {
    Edit::Workload { id: id.parse().unwrap(), on: vec![on.parse().unwrap()], run, isolated: false }
}

fn service(id: &str, by: &str, ports: &[&str]) -> Edit {
    let ports = ports.iter().map(|port| port.parse().unwrap()).collect();
    Edit::Service { id: id.parse().unwrap(), by: by.parse().unwrap(), ports, to: None }
}

fn edge(from: &str, to: &str) -> Edit {
    Edit::Edge { from: from.parse().unwrap(), to: to.parse().unwrap() }
}

/// The edits of a fabric's first minutes.
fn first_minutes() -> Vec<Edit> {
    vec![
        host("beta", "192.0.2.11:7477"),
        host("gamma", "[2001:db8::7]:7000"),
        workload("shop/web", "alpha", Run::Netns("web".into())),
        workload("shop/api", "beta", Run::User(User::Name("www-data".into()))),
        workload("shop/db", "beta", Run::User(User::Id(70))),
        service("shop/api", "api", &["8080/tcp"]),
        service("shop/db", "db", &["5432/tcp", "53/udp"]),
        edge("shop/web", "shop/api"),
        edge("shop/api", "shop/db"),
    ]
}

fn all(text: &str, edits: &[Edit]) -> String {
    edits.iter().fold(text.to_owned(), |text, change| {
        edit("graph.yaml", &text, change).unwrap_or_else(|error| panic!("{change:?}: {error}\n{text}"))
    })
}

const EMPTY: &str =
    "# Who may connect to what.\nfabric: shop.example\nhosts:\n  alpha: { address: 192.0.2.10 }\ntenants:\n";

#[test]
fn a_graph_grows_from_nothing() {
    insta::assert_snapshot!(all(EMPTY, &first_minutes()));
}

#[test]
fn every_way_of_writing_gives_the_same_graph() {
    let flow = "{fabric: shop.example, hosts: {alpha: {address: 192.0.2.10}}, tenants: {}}";
    let braces = "fabric: shop.example\nhosts: { alpha: { address: 192.0.2.10 } }   # all\ntenants: {} # none yet\n";
    let block = "tenants:\n    shop:\n        allow: []\n        services: {}\n        workloads:\n\nfabric: shop.example\n\
                 hosts:\n    alpha:\n        address: 192.0.2.10\n";
    let no_end = EMPTY.trim_end();
    let reference = Graph::parse("f", &all(EMPTY, &first_minutes())).unwrap();
    let shape = |graph: &Graph| {
        let services: Vec<_> = graph.services.iter().map(|(id, one)| (id.clone(), one.ports.clone())).collect();
        let workloads: Vec<_> = graph.workloads.iter().map(|(id, one)| (id.clone(), one.run.clone())).collect();
        let edges: Vec<_> = graph.edges.iter().map(|one| (one.from.clone(), one.to.clone())).collect();
        let hosts: Vec<_> = graph.hosts.iter().map(|(name, one)| (name.clone(), one.address)).collect();
        (services, workloads, edges, hosts)
    };
    for text in [flow, braces, block, no_end] {
        let edited = all(text, &first_minutes());
        assert_eq!(shape(&Graph::parse("f", &edited).unwrap()), shape(&reference), "{edited}");
    }
}

const WRITTEN: &str = "# the shop
fabric: shop.example   # ours
hosts:
  # the old machine, 'it {stays'
  alpha: { address: 192.0.2.10 } # rack [1
  beta:
    zone: eu-1

# and now
tenants:
  shop:
    workloads:
      web: { on: [alpha],
             run: { netns: web } } # spans lines
    services: { web: { by: web, port: 80/tcp } }
    allow:
    - { from: web, to: web } # dashes below their key
  # the end of it
";

#[test]
fn what_is_there_stays_as_it_was_written() {
    let edits = [
        host("gamma", "192.0.2.12:7477"),
        host("beta", "192.0.2.11:7477"),
        workload("shop/api", "beta", Run::Netns("a b".into())),
        service("shop/api", "api", &["8080/tcp"]),
        edge("shop/web", "shop/api"),
        workload("other/job", "alpha", Run::Netns("job".into())),
        host("alpha", "192.0.2.20:7000"),
    ];
    let edited = all(WRITTEN, &edits);
    insta::assert_snapshot!(edited);
    for comment in
        ["# ours", "# the old machine, 'it {stays'", "# rack [1", "# and now", "# spans lines", "# dashes", "# the end"]
    {
        assert!(edited.contains(comment), "{comment}");
    }
}

#[test]
fn what_is_not_understood_is_not_touched() {
    let refused = |text: &str, change: Edit| edit("f", text, &change).unwrap_err();
    let unknown = refused(EMPTY, workload("shop/web", "beta", Run::Netns("web".into())));
    assert!(
        matches!(&unknown, EditError::Change { .. }) && unknown.to_string().contains("no host `beta`"),
        "{unknown}"
    );
    let taken = refused(WRITTEN, service("shop/web", "web", &["81/tcp"]));
    assert_eq!(taken, EditError::Exists("a service `shop/web`".into()));
    assert!(matches!(refused("fabric: [", host("b", "192.0.2.1:1")), EditError::Graph(_)));
    let aliased = "fabric: f\nhosts:\n  a: &x { address: 192.0.2.1 }\n  b: { zone: z }\ntenants: ~\n";
    let form = refused(aliased, workload("t/w", "a", Run::Netns("n".into())));
    assert!(form.to_string().contains("write under `tenants"), "{form}");
}

#[test]
fn an_edge_that_is_there_changes_nothing() {
    assert_eq!(edit("f", WRITTEN, &edge("shop/web", "shop/web")).unwrap(), WRITTEN);
}

proptest! {
    #[test]
    fn an_edit_is_right_or_refused(
        lines in prop::collection::vec(
            prop::sample::select(vec![
                "fabric: f", "hosts:", "  a: { address: 192.0.2.1 }", "  b:", "    zone: z", "hosts: { a: {} }", "tenants:",
                "  t:", "    workloads:", "      w: { on: [a], run: { netns: n } }", "    workloads: {}", "    allow: []",
                "    services:", "      s:", "        by: w", "        port: 80", "# c", "", "  # d", "tenants: {}", "    allow:",
                "    - { from: w, to: s }", "      - { from: w, to: s }", "hosts: &x {a: }", "  t: {workloads: {w: {on: a, run: {user: u}}}}",
            ]),
            0..16,
        ),
        which in 0_usize..4,
    ) {
        let text = lines.join("\n");
        let changes = [
            host("n", "192.0.2.9:7477"), workload("t/n", "a", Run::Netns("m".into())), service("t/n", "w", &["81"]), edge("t/w", "t/s"),
        ];
        if let Ok(edited) = edit("f", &text, &changes[which]) {
            Graph::parse("f", &edited).unwrap();
            for line in &lines {
                let kept = line.split(['{', '[']).next().unwrap().trim_end();
                prop_assert!(edited.contains(kept), "{line}\n{edited}");
            }
        }
    }
}
