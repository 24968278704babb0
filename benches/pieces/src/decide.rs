//! Decisions on a thousand rules. More are in `cargo bench -p ripstop-policy`.

use crate::Round;
use ripstop_config::{Graph, Port, Protocol};
use ripstop_policy::{Policy, ServiceIx, Verdict, WorkloadIx, compile};
use std::hint::black_box;

/// Workloads, each of which serves, and may call the next ten.
const WORKLOADS: usize = 100;
const CALLED: usize = 10;
const PORT: Port = Port { number: 443, protocol: Protocol::Tcp };

fn policy() -> Policy {
    let mut text = String::from("fabric: bench\nhosts: { a: }\ntenants:\n  t:\n    workloads:\n");
    (0..WORKLOADS).for_each(|n| text += &format!("      w{n}: {{ on: a, run: {{ netns: n{n} }} }}\n"));
    text += "    services:\n";
    (0..WORKLOADS).for_each(|n| text += &format!("      s{n}: {{ by: w{n}, ports: [80, 443] }}\n"));
    text += "    allow:\n";
    for (from, step) in (0..WORKLOADS).flat_map(|from| (1..=CALLED).map(move |step| (from, step))) {
        text += &format!("      - {{ from: w{from}, to: s{} }}\n", (from + step) % WORKLOADS);
    }
    compile(Graph::parse("bench", &text).unwrap()).unwrap()
}

fn asked(is_wanted: fn(Verdict) -> bool) -> Round {
    let policy = policy();
    let all = policy.workloads().flat_map(|who| policy.services().map(move |to| (who, to)));
    let pairs: Vec<(WorkloadIx, ServiceIx)> =
        all.filter(|(who, to)| is_wanted(policy.decide(*who, *to, PORT))).collect();
    let mut next = 0;
    Box::new(move || {
        let (who, to) = pairs[next];
        next = (next + 1) % pairs.len();
        assert!(is_wanted(policy.decide(black_box(who), black_box(to), PORT)));
    })
}

pub(crate) fn allowed() -> Round {
    asked(|verdict| matches!(verdict, Verdict::Allow(_)))
}

pub(crate) fn denied() -> Round {
    asked(|verdict| matches!(verdict, Verdict::Deny(_)))
}
