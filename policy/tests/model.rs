//! `decide` against a reference that reads the graph as its documentation does: no index, no numbers, texts compared.
//!
//! Graphs are drawn with tenants below each other, exports, `never` rules and edges that go against them: what the check of a
//! graph refuses is put in behind its back, as the decision trusts no check. `RIPSTOP_SEED` repeats a run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ripstop_config::{
    Graph, Port, Protocol, Reason, ServiceId, TenantName, WorkloadId,
    diagnostic::Location,
    graph::{Edge, Export, Limits, Never},
};
use ripstop_policy::{Policy, Side, Verdict, compile, explain};
use std::{fmt::Write, hash::BuildHasher};

/// Decisions that are compared at least.
const DECISIONS: usize = 1_000_000;

/// Every shape of above, below, beside, and names that begin with each other.
const TENANTS: [&str; 12] = ["a", "a/x", "a/x/1", "a/x/2", "a/y", "a-x", "a-x/y", "b", "b/x", "b/x/1", "c", "ax"];
/// Workloads of each tenant, and services.
const EACH: usize = 3;

/// xorshift64* (Marsaglia 2003, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % most
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn seed() -> u64 {
    let given = std::env::var("RIPSTOP_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| std::hash::RandomState::new().hash_one(0)).max(1)
}

fn at(line: usize) -> Location {
    Location { file: "f".into(), line: u32::try_from(line).unwrap(), column: 1 }
}

/// All names, and nothing that connects them.
fn names() -> Graph {
    let mut text = String::from("fabric: f\nhosts: { h: }\ntenants:\n");
    for (tenant, name) in TENANTS.iter().enumerate() {
        write!(text, "  {name}:\n    workloads:\n").unwrap();
        (0..EACH).for_each(|n| writeln!(text, "      w{n}: {{ on: h, run: {{ netns: t{tenant}w{n} }} }}").unwrap());
        text += "    services:\n";
        (0..EACH).for_each(|n| writeln!(text, "      s{n}: {{ by: w{n}, ports: [4, 2, 1/udp, 1] }}").unwrap());
    }
    Graph::parse("f", &text).unwrap_or_else(|found| panic!("{found}"))
}

fn drawn(mut graph: Graph, random: &mut Random) -> Graph {
    let tenants: Vec<TenantName> = graph.tenants.keys().cloned().collect();
    let workloads: Vec<WorkloadId> = graph.workloads.keys().cloned().collect();
    let services: Vec<ServiceId> = graph.services.keys().cloned().collect();
    for service in graph.services.values_mut() {
        let exports = 0..[0, 0, 1, 2, 3][random.below(5)];
        service.export = exports.map(|line| Export { to: random.one(&tenants).clone(), at: at(line) }).collect();
    }
    for line in 0..[0, 1, 2, 4, 8][random.below(5)] {
        let between = [random.one(&tenants).clone(), random.one(&tenants).clone()];
        if between[0] != between[1] {
            graph.never.push(Never { between, at: at(line) });
        }
    }
    for line in 0..random.below(900) {
        let ports = (0..random.below(3)).map(|_| port(1 + random.below(5), false)).collect();
        let limits = Limits { sessions: Some(u32::try_from(line).unwrap() + 1), ..Limits::default() };
        let (from, to) = (random.one(&workloads).clone(), random.one(&services).clone());
        graph.edges.push(Edge { from, to, ports, limits, at: at(line) });
    }
    graph
}

fn port(number: usize, udp: bool) -> Port {
    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
    Port { number: u16::try_from(number).unwrap(), protocol }
}

/// Whether a tenant is another one or below it.
fn within(one: &TenantName, other: &TenantName) -> bool {
    one == other || one.as_str().starts_with(&format!("{other}/"))
}

fn kept_apart(graph: &Graph, one: &TenantName, other: &TenantName) -> bool {
    graph.never.iter().any(|Never { between: [x, y], .. }| {
        let across = (within(one, x) && within(other, y)) || (within(one, y) && within(other, x));
        // Where one is below the other, what is within the inner one is one side.
        let both = [x, y].iter().any(|inner| {
            let is_inner = within(inner, x) && within(inner, y);
            is_inner && within(one, inner) && within(other, inner)
        });
        across && !both
    })
}

/// What the documentation says of one pair: the edges that count, or why none does.
fn edges<'g>(graph: &'g Graph, who: &WorkloadId, to: &ServiceId) -> Result<Vec<(usize, &'g Edge)>, Reason> {
    let (mine, theirs) = (&who.tenant, &to.tenant);
    if kept_apart(graph, mine, theirs) {
        return Err(Reason::KeptApart);
    }
    if mine != theirs && !graph.services[to].export.iter().any(|export| within(mine, &export.to)) {
        return Err(Reason::NotExported);
    }
    let of_pair = graph.edges.iter().enumerate().filter(|(_, edge)| edge.from == *who && edge.to == *to);
    let of_pair: Vec<_> = of_pair.collect();
    if of_pair.is_empty() { Err(Reason::NoEdge) } else { Ok(of_pair) }
}

fn decided(
    graph: &Graph,
    edges: &Result<Vec<(usize, &Edge)>, Reason>,
    to: &ServiceId,
    port: Port,
) -> Result<usize, Reason> {
    let edges = edges.as_ref().map_err(|reason| *reason)?;
    if !graph.services[to].ports.contains(&port) {
        return Err(Reason::NoPort);
    }
    let first = edges.iter().find(|(_, edge)| edge.ports.is_empty() || edge.ports.contains(&port));
    first.map(|(at, _)| *at).ok_or(Reason::PortNotAllowed)
}

/// Compares everything that one policy says; returns how many decisions that were.
fn compare(policy: &Policy) -> usize {
    let graph = policy.graph();
    let ports = [port(1, false), port(2, false), port(3, false), port(4, false), port(1, true)];
    let mut count = 0;
    for who in policy.workloads() {
        let caller = &policy.workload_entry(who).id;
        let mut visible = Vec::new();
        for to in policy.services() {
            let callee = &policy.service_entry(to).id;
            let edges = edges(graph, caller, callee);
            for port in ports {
                let found = match policy.decide(who, to, port) {
                    Verdict::Allow(permit) => {
                        assert_eq!(permit.limits, graph.edges[permit.edge.index()].limits);
                        Ok(permit.edge.index())
                    }
                    Verdict::Deny(reason) => Err(reason),
                };
                assert_eq!(found, decided(graph, &edges, callee, port), "{caller} -> {callee}:{port}");
                count += 1;
            }
            assert_eq!(policy.visible(who, to), edges.is_ok(), "{caller} -> {callee}");
            let mut sorted = policy.service_entry(to).ports.iter();
            let first = sorted.find(|port| decided(graph, &edges, callee, **port).is_ok());
            assert_eq!(policy.first_port(who, to), first.copied());
            visible.extend(edges.is_ok().then_some(to));
        }
        assert_eq!(policy.visible_services(who).collect::<Vec<_>>(), visible);
    }
    count
}

/// What is explained of a pair agrees with what is decided of it, and names each side's line.
fn explained(policy: &Policy, random: &mut Random) {
    let (workloads, services): (Vec<_>, Vec<_>) = (policy.workloads().collect(), policy.services().collect());
    for _ in 0..50 {
        let (who, to) = (*random.one(&workloads), *random.one(&services));
        let (caller, callee) = (&policy.workload_entry(who).id, policy.service_entry(to));
        let told = explain(policy, caller, &callee.id, Some(port(2, false)));
        let crosses = caller.tenant != callee.id.tenant;
        let given = |side: Side| told.consents.iter().any(|consent| consent.side == side && consent.given);
        assert_eq!(told.consents.len(), if crosses { 2 } else { 0 });
        assert_eq!(told.never.is_some(), kept_apart(policy.graph(), &caller.tenant, &callee.id.tenant));
        if crosses {
            let consented = given(Side::Server) && given(Side::Caller) && told.never.is_none();
            assert_eq!(told.allowed(), consented, "{told}");
        }
    }
}

#[test]
fn a_million_decisions_are_those_of_a_reference() {
    let seed = seed();
    println!("RIPSTOP_SEED={seed}");
    let (mut random, names) = (Random(seed), names());
    let (mut decisions, mut graphs, mut apart) = (0, 0, 0);
    while decisions < DECISIONS {
        let policy = compile(drawn(names.clone(), &mut random)).unwrap();
        decisions += compare(&policy);
        explained(&policy, &mut random);
        graphs += 1;
        apart += usize::from(!policy.graph().never.is_empty());
    }
    println!("measured: {decisions} decisions of {graphs} graphs, {apart} of them with tenants kept apart");
    assert!(apart * 2 > graphs, "most graphs have rules");
}
