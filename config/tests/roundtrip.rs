//! Graphs, written out and read back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::{prelude::*, sample::subsequence};
use ripstop_config::{
    ByteRate, Graph, OpenRate,
    graph::{Limits, Run, User},
};
use std::fmt::{Display, Write};

/// The graph as YAML, in one way of writing it.
fn written(graph: &Graph) -> String {
    let ranges = &graph.ranges;
    let mut text = format!("fabric: {}\nranges: {{ services: {}, ", graph.fabric, ranges.services_v4);
    writeln!(text, "workloads: {}, v6: '{}' }}\nhosts:", ranges.workloads_v4, ranges.v6).unwrap();
    for (name, host) in &graph.hosts {
        let zone = host.zone.as_ref().map(|zone| format!("zone: {zone}, ")).unwrap_or_default();
        let address = host.address.map(|address| format!("address: '{address}'")).unwrap_or_default();
        writeln!(text, "  {name}: {{ {zone}{address} }}").unwrap();
    }
    text += "tenants:\n";
    for tenant in graph.tenants.keys() {
        writeln!(text, "  {tenant}:\n    workloads:").unwrap();
        for (id, workload) in graph.workloads.iter().filter(|(id, _)| id.tenant == *tenant) {
            let (on, run) = (listed(&workload.on), run(&workload.run));
            writeln!(text, "      {}: {{ on: {on}, run: {run}, isolated: {} }}", id.name, workload.isolated).unwrap();
        }
        text += "    services:\n";
        for (id, service) in graph.services.iter().filter(|(id, _)| id.tenant == *tenant) {
            let to = service.to.map(|to| format!(", to: '{to}'")).unwrap_or_default();
            let export = if service.export.is_empty() {
                String::new()
            } else {
                format!(", export: {}", listed(&service.export))
            };
            writeln!(
                text,
                "      {}: {{ by: {}, ports: {}{to}{export} }}",
                id.name,
                service.by,
                listed(&service.ports)
            )
            .unwrap();
        }
        text += "    allow:\n";
        for edge in graph.edges.iter().filter(|edge| edge.to.tenant == *tenant) {
            let ports = if edge.ports.is_empty() { String::new() } else { format!(", ports: {}", listed(&edge.ports)) };
            writeln!(
                text,
                "      - {{ from: {}, to: {}{ports}, limit: {{ {} }} }}",
                edge.from,
                edge.to,
                limits(&edge.limits)
            )
            .unwrap();
        }
    }
    text
}

fn listed<T: Display>(values: &[T]) -> String {
    format!("[{}]", values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn run(run: &Run) -> String {
    match run {
        Run::Netns(name) => format!("{{ netns: '{name}' }}"),
        Run::User(User::Name(name)) => format!("{{ user: {name} }}"),
        Run::User(User::Id(id)) => format!("{{ user: {id} }}"),
    }
}

fn limits(limits: &Limits) -> String {
    let session = limits.session.map(|rate| format!("session: {rate}"));
    let sessions = limits.sessions.map(|count| format!("sessions: {count}"));
    let open = limits.open.map(|rate| format!("open: {rate}"));
    [session, sessions, open].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let session = prop::option::of((1..u64::MAX).prop_map(|bytes| ByteRate::per_second(bytes).unwrap()));
    let sessions = prop::option::of(1..u32::MAX);
    let open = prop::option::of((1..u32::MAX).prop_map(|rate| OpenRate::per_second(rate).unwrap()));
    (session, sessions, open).prop_map(|(session, sessions, open)| Limits { session, rate: None, sessions, open })
}

/// One workload and the service it serves: host, kind, isolated, redirected, ports, exported, callers with limits.
type Pair = ((usize, u32, bool, bool), Vec<&'static str>, bool, Vec<(usize, Limits)>);

fn any_pairs() -> impl Strategy<Value = Vec<Pair>> {
    let workload = (0..4_usize, 0..3_u32, any::<bool>(), any::<bool>());
    let ports = subsequence(vec!["1/tcp", "1/udp", "80/tcp", "65535/udp"], 1..=4);
    let callers = prop::collection::vec((0..5_usize, any_limits()), 0..4);
    prop::collection::vec((workload, ports, any::<bool>(), callers), 1..5)
}

/// A well-formed graph's text: two tenants, each workload serving one service, edges among them.
fn any_text() -> impl Strategy<Value = String> {
    let hosts = subsequence(vec!["a", "b-1", "c", "1e3"], 1..=4);
    (hosts, any_pairs(), any_pairs()).prop_map(|(hosts, one, two)| {
        let declared: Vec<String> = hosts.iter().map(|host| format!("{host}: ")).collect();
        let mut text = format!("fabric: t.example\nhosts: {{ {} }}\ntenants:\n", declared.join(", "));
        text += &tenant("one", "two", 1000, &hosts, &one);
        text += &tenant("two", "one", 2000, &hosts, &two);
        text
    })
}

fn tenant(name: &str, other: &str, first_uid: usize, hosts: &[&str], pairs: &[Pair]) -> String {
    let (mut workloads, mut services, mut edges) = (String::new(), String::new(), String::new());
    for (n, ((host, kind, isolated, redirected), ports, export, callers)) in pairs.iter().enumerate() {
        let run = match kind {
            0 => format!("netns: {name}{n}"),
            1 => format!("netns: /proc/{n}/{name}"),
            _ => format!("user: {}", first_uid + n),
        };
        let on = hosts[host % hosts.len()];
        writeln!(workloads, "      w{n}: {{ on: {on}, run: {{ {run} }}, isolated: {isolated} }}").unwrap();
        let to = if *redirected && ports.len() == 1 { ", to: ':7'" } else { "" };
        let export = if *export { format!(", export: [{other}]") } else { String::new() };
        writeln!(services, "      s{n}: {{ by: w{n}, ports: [{}]{to}{export} }}", ports.join(", ")).unwrap();
        for (port, (caller, limit)) in ports.iter().zip(callers) {
            let (from, limit) = (caller % pairs.len(), limits(limit));
            writeln!(edges, "      - {{ from: w{from}, to: s{n}, port: {port}, limit: {{ {limit} }} }}").unwrap();
        }
    }
    format!("  {name}:\n    workloads:\n{workloads}    services:\n{services}    allow:\n{edges}")
}

proptest! {
    #[test]
    fn a_graph_written_out_reads_back_the_same(text in any_text()) {
        let graph = Graph::parse("f", &text).map_err(|found| TestCaseError::fail(format!("{text}{found}")))?;
        let once = written(&graph);
        let again = Graph::parse("f", &once.replace("0.0.0.0:7", ":7")).map_err(|found| TestCaseError::fail(format!("{once}{found}")))?;
        prop_assert_eq!(&written(&again), &once);
        prop_assert_eq!(text.matches("from:").count(), again.edges.len());
        prop_assert_eq!(text.matches("by:").count(), again.services.len());
        prop_assert_eq!(text.matches("export:").count(), again.services.values().filter(|service| !service.export.is_empty()).count());
    }
}
