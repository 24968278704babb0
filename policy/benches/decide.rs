//! What one decision costs with 10, 1 000 and 100 000 rules: it must not grow with their number.
//!
//! Callers and services are asked about in a scattered order, as traffic would. Run with `cargo bench -p ripstop-policy`.

#![allow(missing_docs, reason = "criterion_group! makes a public function without any")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ripstop_config::{
    Graph, Port, ServiceId, WorkloadId,
    diagnostic::Location,
    graph::{Edge, Limits},
};
use ripstop_policy::{Policy, ServiceIx, WorkloadIx, compile};
use std::hint::black_box;

/// Workloads in each graph: as many as have room in the default range, fewer where there are fewer rules.
fn policy(rules: usize) -> Policy {
    let workloads = rules.clamp(10, 10_000);
    let mut text = String::from("fabric: bench\nhosts: { a: }\ntenants:\n  t:\n    workloads:\n");
    (0..workloads).for_each(|n| text += &format!("      w{n}: {{ on: a, run: {{ netns: n{n} }} }}\n"));
    text += "    services:\n";
    (0..workloads).for_each(|n| text += &format!("      s{n}: {{ by: w{n}, ports: [80, 443] }}\n"));
    let mut graph = match Graph::parse("bench", &text) {
        Ok(graph) => graph,
        Err(found) => panic!("{found}"),
    };
    let callers: Vec<WorkloadId> = graph.workloads.keys().cloned().collect();
    let services: Vec<ServiceId> = graph.services.keys().cloned().collect();
    graph.edges =
        (0..rules).map(|rule| edge(&callers[rule % workloads], &services[rule * 7 / workloads % workloads])).collect();
    match compile(graph) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

fn edge(from: &WorkloadId, to: &ServiceId) -> Edge {
    let at = Location { file: "bench".into(), line: 1, column: 1 };
    Edge { from: from.clone(), to: to.clone(), ports: Vec::new(), limits: Limits::default(), at }
}

/// Pairs in a scattered order: one in two has an edge.
fn questions(policy: &Policy) -> Vec<(WorkloadIx, ServiceIx)> {
    let (callers, services): (Vec<_>, Vec<_>) = (policy.workloads().collect(), policy.services().collect());
    let edges = &policy.graph().edges;
    let scattered = (0..4096_usize).map(|n| n.wrapping_mul(2_654_435_761));
    let allowed = |n: usize| {
        let edge = &edges[n % edges.len()];
        policy.workload(&edge.from).zip(policy.service(&edge.to))
    };
    let other = |n: usize| Some((callers[n % callers.len()], services[n / 7 % services.len()]));
    scattered.filter_map(|n| if n % 2 == 0 { allowed(n) } else { other(n) }).collect()
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for rules in [10, 1_000, 100_000] {
        let policy = policy(rules);
        let questions = questions(&policy);
        let port = Port { number: 443, protocol: ripstop_config::Protocol::Tcp };
        let mut next = questions.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(rules), |bench| {
            bench.iter(|| next.next().map(|(who, to)| policy.decide(black_box(*who), black_box(*to), port)));
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
