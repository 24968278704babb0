//! What a large fabric's policy costs, from the operator's file to a decision: `cargo bench -p ripstop-policy --bench scale`.
//!
//! 1 000 hosts, 10 000 services and as many workloads in 100 tenants of which four in five are below others, 100 000 edges,
//! one in ten to another tenant's service. The table is that of docs/scale.md; a number makes the fabric so many times as large.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use ripstop_config::{FabricName, Graph, OperatorKey, Operators, Port, Protocol};
use ripstop_policy::{Addresses, Bundle, Content, Envelope, Policy, ServiceIx, WorkloadIx, compile};
use std::{fmt::Write, hint::black_box, time::Duration};

const HOSTS: usize = 1_000;
const TENANTS: usize = 100;
/// Services of a tenant; as many workloads serve them.
const SERVICES: usize = 100;
/// Services that a workload calls: nine of its own tenant, and one of the next.
const CALLED: usize = 10;
/// Decisions that are timed.
const DECISIONS: usize = 2_000_000;
/// The better of so many.
const ROUNDS: usize = 3;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let times = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1);
    let text = text(times)?;
    let fabric = FabricName::new("bench.example")?;
    println!("| what | |\n|---|---|");
    row(
        "hosts, services, edges",
        format!("{HOSTS}, {}, {}", times * TENANTS * SERVICES, times * TENANTS * SERVICES * CALLED),
    );
    row("the graph's file", mib(text.len()));
    let (graph, took) = best(|| Ok(Graph::parse("g", &text).map_err(|found| found.to_string())?))?;
    row("read and check it", ms(took));
    let (_, took) = best(|| Ok(compile(graph.clone())?))?;
    row("compile it", ms(took));
    drop(graph);
    sealed(&fabric, &text)
}

/// What an operator does with it once, and each host then.
fn sealed(fabric: &FabricName, text: &str) -> Outcome<()> {
    let (content, took) = best(|| Ok(Content::of(fabric, "g", text, &Addresses::default())?))?;
    row("`apply`: check, compile, try its tests", ms(took));
    let raw = serde_json::to_vec(&content)?.len();
    let (envelope, took) = best(|| Ok(Envelope::seal(fabric, "1.1".parse()?, &content)?))?;
    row("`apply`: compress", ms(took));
    let (key, bytes) = signed(envelope)?;
    row("the bundle, raw", mib(raw));
    row("the bundle, as it travels", mib(bytes.len()));
    let operators = Operators::of(1, [("op".parse()?, key)].into());
    let verify = |key: &OperatorKey, message: &[u8], signature: &[u8; 64]| {
        UnparsedPublicKey::new(&ED25519, key.0).verify(message, signature).is_ok()
    };
    let (bundle, opened) = best(|| Ok(Bundle::open(&bytes, fabric, &operators, &verify)?))?;
    row("each host: verify and decompress", ms(opened));
    let before = resident()?;
    let (policy, compiled) = best(|| Ok(bundle.compile()?))?;
    row("each host: read and compile", ms(compiled));
    row("each host: a policy in memory", mib(resident()?.saturating_sub(before)));
    let (_, checked) = best(|| roles(&bundle, &operators))?;
    row("each host: hold it against the one before, where a tenant's operator signed", ms(checked));
    row("a decision", format!("{:.0} ns", decide(&policy)?.as_secs_f64() * 1e9));
    row("most memory at any time", mib(peak()?));
    Ok(())
}

fn signed(mut envelope: Envelope) -> Outcome<(OperatorKey, Vec<u8>)> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).map_err(|_| "the key is none")?;
    let key = OperatorKey(pair.public_key().as_ref().try_into()?);
    let signature = pair.sign(&envelope.message()).as_ref().try_into()?;
    envelope.sign(key, signature)?;
    Ok((key, envelope.encode()))
}

/// An operator of one tenant has signed what is as before.
fn roles(bundle: &Bundle, operators: &Operators) -> Outcome<()> {
    let mut limited = operators.clone();
    limited.limited.insert("op".parse()?, ["t0".parse()?].into());
    Ok(bundle.check_roles(Some(bundle), &limited)?)
}

/// The mean of decisions in a scattered order, one in two of them with an edge.
fn decide(policy: &Policy) -> Outcome<Duration> {
    let port = Port { number: 443, protocol: Protocol::Tcp };
    let (callers, services): (Vec<_>, Vec<_>) = (policy.workloads().collect(), policy.services().collect());
    let edges = &policy.graph().edges;
    let pair = |n: usize| -> Option<(WorkloadIx, ServiceIx)> {
        let edge = &edges[n % edges.len()];
        match n % 2 {
            0 => policy.workload(&edge.from).zip(policy.service(&edge.to)),
            _ => Some((callers[n % callers.len()], services[n / 7 % services.len()])),
        }
    };
    let pairs: Vec<_> = (0..65_536_usize).filter_map(|n| pair(n.wrapping_mul(2_654_435_761))).collect();
    let began = processor()?;
    for (who, to) in pairs.iter().cycle().take(DECISIONS) {
        let _ = black_box(policy.decide(black_box(*who), black_box(*to), port));
    }
    Ok(processor()?.saturating_sub(began) / u32::try_from(DECISIONS)?)
}

/// The last outcome, and the shortest time of [`ROUNDS`].
fn best<T>(mut of: impl FnMut() -> Outcome<T>) -> Outcome<(T, Duration)> {
    let mut shortest = Duration::MAX;
    let mut last = None;
    for _ in 0..ROUNDS {
        // Not two at once: memory is measured, too.
        drop(last.take());
        let began = processor()?;
        last = Some(of()?);
        shortest = shortest.min(processor()?.saturating_sub(began));
    }
    Ok((last.ok_or("no round")?, shortest))
}

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what} | {value} |");
}

fn ms(took: Duration) -> String {
    format!("{:.0} ms", took.as_secs_f64() * 1e3)
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Time of the processor that this process has had: what others do beside it does not count (Documentation/scheduler/
/// sched-stats.rst).
fn processor() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let first = text.split(' ').next().ok_or("/proc/self/schedstat is empty")?;
    Ok(Duration::from_nanos(first.parse()?))
}

/// Memory of this process in bytes (proc(5)).
fn resident() -> Outcome<usize> {
    of_status("VmRSS:")
}

fn peak() -> Outcome<usize> {
    of_status("VmHWM:")
}

fn of_status(key: &str) -> Outcome<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("/proc/self/status lacks it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}

/// The name of a tenant: of five, the first is at the top, and the others are below it.
fn tenant(number: usize) -> String {
    match number % 5 {
        0 => format!("t{number}"),
        below => format!("t{}/b{below}", number - below),
    }
}

fn text(times: usize) -> Outcome<String> {
    let mut text =
        String::from("fabric: bench.example\nranges: { services: 10.0.0.0/8, workloads: 11.0.0.0/8 }\nnever:\n");
    let tenants = TENANTS * times;
    for n in 0..tenants / 10 {
        writeln!(text, "  - {{ between: [t{}, {}] }}", n * 5, tenant((n * 5 + tenants / 2 + 1) % tenants))?;
    }
    text += "hosts:\n";
    for n in 0..HOSTS {
        writeln!(text, "  h{n}: {{ zone: z{}, address: 172.16.{}.{} }}", n % 4, n / 250, n % 250 + 1)?;
    }
    text += "tenants:\n";
    for number in 0..tenants {
        let (own, next) = (tenant(number), tenant((number + 1) % tenants));
        // Callers are those of the tenant before.
        let caller = tenant((number + tenants - 1) % tenants);
        writeln!(text, "  {own}:\n    workloads:")?;
        for n in 0..SERVICES {
            let host = (number * SERVICES + n) % HOSTS;
            let (next, run) = ((host + 1) % HOSTS, format!("t{number}w{n}"));
            writeln!(text, "      w{n}: {{ on: [h{host}, h{next}], run: {{ netns: {run} }} }}")?;
        }
        text += "    services:\n";
        for n in 0..SERVICES {
            writeln!(text, "      s{n}: {{ by: w{n}, ports: [80, 443, 53/udp], export: [{caller}] }}")?;
        }
        text += "    allow:\n";
        for (from, step) in (0..SERVICES).flat_map(|from| (0..CALLED).map(move |step| (from, step))) {
            let limit = if step % 3 == 0 { ", limit: { session: 50 mbit/s, open: 100/s }" } else { "" };
            let service = (from + step * 7 + 1) % SERVICES;
            let to = if step + 1 == CALLED { format!("{next}/s{service}") } else { format!("s{service}") };
            writeln!(text, "      - {{ from: w{from}, to: {to}{limit} }}")?;
        }
    }
    Ok(text)
}
