//! What the data threads of one host do at the same time. A round that takes longer beside another thread's shares something with it.

use crate::{Round, bed::Bed, bed::Shared, dns, limits, tcp::Talk, wire};
use ripstop_config::Graph;
use ripstop_datapath::{packet::craft, session::health};
use ripstop_policy::compile;
use std::{
    hint::black_box,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Without byte rates: these are what sessions share because they are told to.
const GRAPH: &str = "
fabric: bench.test
hosts: { alpha: , beta: }
tenants:
  shop:
    workloads:
      web: { on: alpha, run: { netns: web } }
      cron: { on: alpha, run: { netns: cron } }
      api: { on: beta, run: { netns: api } }
    services:
      api: { by: api, port: 8080 }
      log: { by: cron, port: 9125/udp }
    allow:
      - { from: web, to: api }
      - { from: web, to: log }
";
/// Bytes of a segment, and of a datagram.
const SEGMENT: usize = 100;
const DATAGRAM: usize = 1_200;
/// In which the endpoint's kernel would have said that nobody listens: later datagrams are not kept.
const SETTLED: Duration = Duration::from_millis(300);
/// Steps of a computation that takes about as long as a DNS query, the shortest of what is measured.
const STEPS: u64 = 80;

/// Something that each data thread of a host does on its own.
#[derive(Clone, Copy)]
pub struct AtOnce {
    /// What it is.
    pub name: &'static str,
    /// Makes ready for its rounds, on the thread that runs them.
    pub set_up: fn(&Shared) -> Round,
}

/// All of it; the last is what it would be like if packets were counted in one place.
pub const AT_ONCE: &[AtOnce] = &[
    AtOnce { name: "TCP segment", set_up: segment },
    AtOnce { name: "UDP datagram", set_up: datagram },
    AtOnce { name: "DNS query", set_up: |shared| dns::from_interface(Bed::of(shared)) },
    AtOnce { name: "session admitted", set_up: admission },
    AtOnce { name: "a shared counter", set_up: counter },
];

/// A host for one of them, with two data threads.
#[must_use]
pub fn host() -> Shared {
    Shared::new(compile(Graph::parse("bench", GRAPH).unwrap()).unwrap(), 2)
}

/// Nothing but computation, which shares no more than the processors do.
#[must_use]
pub fn computation() -> Round {
    let mut number = 1;
    Box::new(move || number = compute(number))
}

fn compute(from: u64) -> u64 {
    (0..STEPS).fold(black_box(from), |number, step| (number ^ step).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A segment of a session, from its packet until it is read and counted.
fn segment(shared: &Shared) -> Round {
    let bed = Bed::of(shared);
    let instruments = bed.context.edge_instruments(&limits::request("shop/web", "shop/api", "8080")).unwrap();
    let mut talk = Talk::new(bed);
    let mut packet = talk.segment(&[7; SEGMENT]);
    Box::new(move || {
        talk.inward(&mut packet, SEGMENT);
        instruments.bytes_up(SEGMENT as u64);
    })
}

/// A datagram of a session, from the caller's packet to the endpoint's.
fn datagram(shared: &Shared) -> Round {
    let bed = Bed::of(shared);
    let from = SocketAddr::from(wire::at(bed.address(bed.web()), 50_000 + bed.number()));
    let to = SocketAddr::from(wire::at(bed.service("shop/log"), 9125));
    let packet = craft::datagram(from, to, &[7; DATAGRAM]);
    bed.run(async {
        for interface in &bed.interfaces {
            bed.context.attach(interface);
        }
        health::follow(&bed.context);
        bed.packet(bed.web(), &packet);
        tokio::time::sleep(SETTLED).await;
    });
    assert_eq!((bed.sink.packets(), bed.context.live.len()), (1, 1), "a session is open");
    Box::new(move || {
        let before = bed.sink.packets();
        bed.packet(bed.web(), black_box(&packet));
        assert_eq!(bed.sink.packets(), before + 1);
    })
}

/// A session that the limits let in, and that ends.
fn admission(shared: &Shared) -> Round {
    let (table, policy) = (Arc::clone(&shared.common.limits), Arc::clone(&shared.policy));
    let request = limits::request("shop/web", "shop/api", "8080");
    Box::new(move || drop(limits::admitted(&table, &policy, black_box(&request))))
}

fn counter(_: &Shared) -> Round {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut number = 1;
    Box::new(move || {
        number = compute(number);
        COUNTER.fetch_add(1, Relaxed);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_of_a_host_do_all_of_it() {
        for one in AT_ONCE {
            let shared = host();
            std::thread::scope(|threads| {
                for _ in 0..2 {
                    threads.spawn(|| {
                        let mut round = (one.set_up)(&shared);
                        (0..3).for_each(|_| round());
                    });
                }
            });
        }
    }
}
