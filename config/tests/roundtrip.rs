//! Graphs, written out and read back: what was generated, what is read and what is read again must be the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::{prelude::*, sample::subsequence};
use ripstop_config::{
    ByteRate, Graph, HostName, OpenRate, Span,
    graph::{Balance, Check, Container, Health, Limits, Run, Service, Source, User},
};
use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    time::Duration,
};

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
    for (tenant, entry) in &graph.tenants {
        writeln!(text, "  {tenant}:\n    limit: {}\n    workloads:", limits(&entry.limits)).unwrap();
        for (id, workload) in graph.workloads.iter().filter(|(id, _)| id.tenant == *tenant) {
            let (on, run, limit) = (listed(&workload.on), run(&workload.run), limits(&workload.limits));
            let isolated = workload.isolated;
            writeln!(text, "      {}: {{ on: {on}, run: {run}, isolated: {isolated}, limit: {limit} }}", id.name)
                .unwrap();
        }
        text += "    services:\n";
        for (id, service) in graph.services.iter().filter(|(id, _)| id.tenant == *tenant) {
            let ports = listed(&service.ports);
            writeln!(text, "      {}: {{ by: {}, ports: {ports}{} }}", id.name, service.by, options(service)).unwrap();
        }
        text += "    allow:\n";
        for edge in graph.edges.iter().filter(|edge| edge.to.tenant == *tenant) {
            let ports = if edge.ports.is_empty() { String::new() } else { format!(", ports: {}", listed(&edge.ports)) };
            let limit = limits(&edge.limits);
            writeln!(text, "      - {{ from: {}, to: {}{ports}, limit: {limit} }}", edge.from, edge.to).unwrap();
        }
    }
    text
}

/// What a service may have besides its server and ports.
fn options(service: &Service) -> String {
    let mut text = format!(", limit: {}, balance: {}", limits(&service.limits), balance(&service.balance));
    // `0.0.0.0:7` is how `:7` is kept.
    text += &service.to.map(|to| format!(", to: '{to}'").replace("0.0.0.0", "")).unwrap_or_default();
    if !service.export.is_empty() {
        text += &format!(", export: {}", listed(&service.export));
    }
    text += &service.health.as_ref().map(|one| format!(", health: {}", health(one))).unwrap_or_default();
    text += match service.source {
        Source::Usual => "",
        Source::Preserve => ", source: preserve",
        Source::ProxyV2 => ", proxy-protocol: v2",
    };
    text + &service.idle.map(|idle| format!(", idle: {}", span(idle))).unwrap_or_default()
}

fn listed<T: Display>(all: &[T]) -> String {
    format!("[{}]", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn run(run: &Run) -> String {
    match run {
        Run::Netns(name) => format!("{{ netns: {name} }}"),
        Run::User(User::Name(name)) => format!("{{ user: {name} }}"),
        Run::User(User::Id(id)) => format!("{{ user: {id} }}"),
        Run::Cgroup(path) => format!("{{ cgroup: {path} }}"),
        Run::Container(Container::Name(name)) => format!("{{ container: {{ name: {name} }} }}"),
        Run::Container(Container::Label(key, value)) => format!("{{ container: {{ label: {key}={value} }} }}"),
        Run::Pod(pod) => format!("{{ pod: {pod} }}"),
        Run::Host => "host".into(),
    }
}

fn span(span: Duration) -> String {
    Span::of(span).unwrap().to_string()
}

fn limits(limits: &Limits) -> String {
    let session = limits.session.map(|rate| format!("session: {rate}"));
    let rate = limits.rate.map(|rate| format!("rate: {rate}"));
    let sessions = limits.sessions.map(|count| format!("sessions: {count}"));
    let open = limits.open.map(|rate| format!("open: {rate}"));
    format!("{{ {} }}", [session, rate, sessions, open].into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn health(health: &Health) -> String {
    let port = health.port.map(|port| format!(", port: {port}")).unwrap_or_default();
    match &health.check {
        Check::Tcp => format!("{{ tcp: {}{port} }}", span(health.every)),
        Check::Http(path) => format!("{{ http: '{path}', every: {}{port} }}", span(health.every)),
    }
}

fn balance(balance: &Balance) -> String {
    if *balance == Balance::default() {
        return "least-load".into();
    }
    let weights: Vec<String> = balance.weights.iter().map(|(host, weight)| format!("{host}: {weight}")).collect();
    format!("{{ by: least-load, sticky: {}, weights: {{ {} }} }}", balance.sticky, weights.join(", "))
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let session = prop::option::of((1..u64::MAX).prop_map(|bytes| ByteRate::per_second(bytes).unwrap()));
    let rate = prop::option::of((1..u64::MAX).prop_map(|bytes| ByteRate::per_second(bytes).unwrap()));
    let sessions = prop::option::of(1..u32::MAX);
    let open = prop::option::of((1..u32::MAX).prop_map(|rate| OpenRate::per_second(rate).unwrap()));
    (session, rate, sessions, open).prop_map(|(session, rate, sessions, open)| Limits { session, rate, sessions, open })
}

fn any_health() -> impl Strategy<Value = Health> {
    let check = prop_oneof![Just(Check::Tcp), "/[a-z0-9?=%&._~-]{0,20}".prop_map(Check::Http)];
    let every = (100..=3_600_000_u64).prop_map(Duration::from_millis);
    (check, every, prop::option::of(1..=u16::MAX)).prop_map(|(check, every, port)| Health { check, every, port })
}

/// What is said of a service; [`Said::fitting`] takes away what does not go together.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    limits: Limits,
    health: Option<Health>,
    source: Source,
    sticky: bool,
    weight: Option<u32>,
    idle: Option<Duration>,
}

fn any_said() -> impl Strategy<Value = Said> {
    let source = prop::sample::select(&[Source::Usual, Source::Preserve, Source::ProxyV2][..]);
    let idle = prop::option::of((1_000..=86_400_000_u64).prop_map(Duration::from_millis));
    let weight = prop::option::of(1..=1000_u32);
    (any_limits(), prop::option::of(any_health()), source, any::<bool>(), weight, idle).prop_map(
        |(limits, health, source, sticky, weight, idle)| Said { limits, health, source, sticky, weight, idle },
    )
}

impl Said {
    fn fitting(mut self, ports: &[&str]) -> Self {
        let udp = ports.iter().any(|port| port.ends_with("/udp"));
        if udp && self.source == Source::ProxyV2 {
            self.source = Source::Preserve;
        }
        if !udp {
            self.idle = None;
        }
        if ports.iter().all(|port| port.ends_with("/udp")) {
            self.health = self.health.map(|health| Health { port: health.port.or(Some(9)), ..health });
        }
        self
    }

    fn weights(&self, host: &str) -> BTreeMap<HostName, u32> {
        self.weight.map(|weight| (host.parse().unwrap(), weight)).into_iter().collect()
    }

    fn balance(&self, host: &str) -> Balance {
        Balance { weights: self.weights(host), sticky: self.sticky }
    }

    fn text(&self, host: &str) -> String {
        let mut text = format!(", limit: {}, balance: {}", limits(&self.limits), balance(&self.balance(host)));
        text += &self.health.as_ref().map(|one| format!(", health: {}", health(one))).unwrap_or_default();
        text += match self.source {
            Source::Usual => ", source: usual",
            Source::Preserve => ", source: preserve",
            Source::ProxyV2 => ", proxy-protocol: v2",
        };
        text + &self.idle.map(|idle| format!(", idle: {}", span(idle))).unwrap_or_default()
    }
}

/// One workload and the service it serves: host, kind, isolated, redirected; its limits; the service's ports, whether
/// it is exported and what else is said of it; callers with limits.
type Pair = ((usize, u32, bool, bool), Limits, Vec<&'static str>, bool, Said, Vec<(usize, Limits)>);

fn any_pairs() -> impl Strategy<Value = Vec<Pair>> {
    let workload = (0..4_usize, 0..5_u32, any::<bool>(), any::<bool>());
    let ports = subsequence(vec!["1/tcp", "1/udp", "80/tcp", "65535/udp"], 1..=4);
    let callers = prop::collection::vec((0..5_usize, any_limits()), 0..4);
    let pair = (workload, any_limits(), ports, any::<bool>(), any_said(), callers).prop_map(
        |(workload, limits, ports, export, said, callers)| {
            let said = said.fitting(&ports);
            (workload, limits, ports, export, said, callers)
        },
    );
    prop::collection::vec(pair, 1..5)
}

/// What is generated: hosts, and of each tenant its limits and pairs.
type Model = (Vec<&'static str>, [(Limits, Vec<Pair>); 2]);

const TENANTS: [&str; 2] = ["one", "two"];

fn any_model() -> impl Strategy<Value = Model> {
    let hosts = subsequence(vec!["a", "b-1", "c", "1e3"], 1..=4);
    let tenant = || (any_limits(), any_pairs());
    (hosts, tenant(), tenant()).prop_map(|(hosts, one, two)| (hosts, [one, two]))
}

/// A well-formed graph's text: two tenants, each workload serving one service, edges among them.
fn text((hosts, tenants): &Model) -> String {
    let declared: Vec<String> = hosts.iter().map(|host| format!("{host}: ")).collect();
    let mut text = format!("fabric: t.example\nhosts: {{ {} }}\ntenants:\n", declared.join(", "));
    for (n, (limit, pairs)) in tenants.iter().enumerate() {
        text += &tenant(TENANTS[n], TENANTS[1 - n], 1000 * (n + 1), hosts, limit, pairs);
    }
    text
}

fn tenant(name: &str, other: &str, first_uid: usize, hosts: &[&str], limit: &Limits, pairs: &[Pair]) -> String {
    let (mut workloads, mut services, mut edges) = (String::new(), String::new(), String::new());
    for (n, ((host, kind, isolated, redirected), limit, ports, export, said, callers)) in pairs.iter().enumerate() {
        let run = match kind {
            0 => format!("netns: {name}{n}"),
            1 => format!("netns: /proc/{n}/{name}"),
            2 => format!("container: {{ name: {name}{n} }}"),
            3 => format!("container: {{ label: {name}=x{n} }}"),
            _ => format!("user: {}", first_uid + n),
        };
        let (on, limit) = (hosts[host % hosts.len()], limits(limit));
        writeln!(workloads, "      w{n}: {{ on: {on}, run: {{ {run} }}, isolated: {isolated}, limit: {limit} }}")
            .unwrap();
        let to = if *redirected && ports.len() == 1 { ", to: ':7'" } else { "" };
        let export = if *export { format!(", export: [{other}]") } else { String::new() };
        let (ports_text, said) = (ports.join(", "), said.text(on));
        writeln!(services, "      s{n}: {{ by: w{n}, ports: [{ports_text}]{to}{export}{said} }}").unwrap();
        for (port, (caller, limit)) in ports.iter().zip(callers) {
            let (from, limit) = (caller % pairs.len(), limits(limit));
            writeln!(edges, "      - {{ from: w{from}, to: s{n}, port: {port}, limit: {limit} }}").unwrap();
        }
    }
    let limit = limits(limit);
    format!("  {name}:\n    limit: {limit}\n    workloads:\n{workloads}    services:\n{services}    allow:\n{edges}")
}

/// Whether a graph that was read says what was generated.
fn same(graph: &Graph, (hosts, tenants): &Model) -> Result<(), TestCaseError> {
    let mut edges = graph.edges.iter();
    for (name, (limit, pairs)) in TENANTS.iter().zip(tenants) {
        prop_assert_eq!(graph.tenants[&name.parse().unwrap()].limits, *limit);
        for (n, ((host, _, isolated, redirected), limit, ports, export, said, callers)) in pairs.iter().enumerate() {
            let host = hosts[host % hosts.len()];
            let workload = &graph.workloads[&format!("{name}/w{n}").parse().unwrap()];
            prop_assert_eq!((workload.limits, workload.isolated), (*limit, *isolated));
            let service = &graph.services[&format!("{name}/s{n}").parse().unwrap()];
            prop_assert_eq!(service.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ports.clone());
            prop_assert_eq!(service.to.is_some(), *redirected && ports.len() == 1);
            prop_assert_eq!(!service.export.is_empty(), *export);
            prop_assert_eq!((service.limits, service.source), (said.limits, said.source));
            prop_assert_eq!((&service.health, service.idle), (&said.health, said.idle));
            prop_assert_eq!(&service.balance, &said.balance(host));
            for (_, (_, limit)) in ports.iter().zip(callers) {
                prop_assert_eq!(edges.next().map(|edge| edge.limits), Some(*limit));
            }
        }
    }
    prop_assert_eq!(edges.next().map(|edge| edge.at.to_string()), None);
    Ok(())
}

proptest! {
    #[test]
    fn a_graph_written_out_reads_back_the_same(model in any_model()) {
        let text = text(&model);
        let graph = Graph::parse("f", &text).map_err(|found| TestCaseError::fail(format!("{text}{found}")))?;
        same(&graph, &model)?;
        let once = written(&graph);
        let again = Graph::parse("f", &once).map_err(|found| TestCaseError::fail(format!("{once}{found}")))?;
        same(&again, &model)?;
        prop_assert_eq!(written(&again), once);
    }
}
