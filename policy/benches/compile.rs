//! What it takes to read and compile a graph of 1 000 hosts and 10 000 services: `cargo bench -p ripstop-policy --bench compile`.
//!
//! Two workloads in three call ten services, a third of the edges with limits.

#![allow(missing_docs, reason = "criterion_group! makes a public function without any")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ripstop_config::Graph;
use ripstop_policy::compile;
use std::{fmt::Write, hint::black_box, time::Duration};

const HOSTS: usize = 1_000;
const TENANTS: usize = 100;
/// Services of a tenant; as many workloads serve them.
const SERVICES: usize = 100;
/// Services that a workload calls.
const CALLED: usize = 10;

fn text() -> String {
    let mut text = String::from("fabric: bench\nhosts:\n");
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    (0..HOSTS)
        .for_each(|n| line(format_args!("  h{n}: {{ zone: z{}, address: 10.0.{}.{} }}", n % 4, n / 250, n % 250 + 1)));
    line(format_args!("tenants:"));
    for tenant in 0..TENANTS {
        line(format_args!("  t{tenant}:\n    workloads:"));
        for n in 0..SERVICES {
            let host = (tenant * SERVICES + n) % HOSTS;
            line(format_args!(
                "      w{n}: {{ on: [h{host}, h{}], run: {{ netns: t{tenant}w{n} }} }}",
                (host + 1) % HOSTS
            ));
        }
        line(format_args!("    services:"));
        (0..SERVICES).for_each(|n| line(format_args!("      s{n}: {{ by: w{n}, ports: [80, 443, 53/udp] }}")));
        line(format_args!("    allow:"));
        for (from, step) in
            (0..SERVICES).filter(|from| from % 3 > 0).flat_map(|from| (0..CALLED).map(move |step| (from, step)))
        {
            let limit = if step % 3 == 0 { ", limit: { session: 50 mbit/s, open: 100/s }" } else { "" };
            line(format_args!("      - {{ from: w{from}, to: s{}{limit} }}", (from + step * 7 + 1) % SERVICES));
        }
    }
    text
}

fn graph(text: &str) -> Graph {
    match Graph::parse("bench", text) {
        Ok(graph) => graph,
        Err(found) => panic!("{found}"),
    }
}

fn large(criterion: &mut Criterion) {
    let text = text();
    let parsed = graph(&text);
    let size =
        format!("{} hosts, {} services, {} edges", parsed.hosts.len(), parsed.services.len(), parsed.edges.len());
    let mut group = criterion.benchmark_group(size);
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("read", |bench| bench.iter(|| graph(black_box(&text))));
    group.bench_function("compile", |bench| {
        bench.iter_batched(|| parsed.clone(), |graph| compile(graph).is_ok(), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, large);
criterion_main!(benches);
