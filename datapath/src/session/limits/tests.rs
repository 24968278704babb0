use super::{
    LimitTable, Scope,
    bucket::{Kind, Start},
    fair::{FairBucket, Place, Progress},
};
use crate::session::{live::Request, pump::Way};
use ripstop_config::ByteRate;
use ripstop_policy::{Permit, Policy, ServiceIx, Verdict};
use ripstop_telemetry::{EdgeInstruments, Side};
use std::{cell::Cell, rc::Rc, time::Duration};
use tokio::time::Instant;

/// On virtual time: what is measured does not depend on how busy the machine is.
fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

fn bucket(kind: Kind, rate: u64) -> Rc<FairBucket> {
    Rc::new(FairBucket::new(kind, ByteRate::per_second(rate)))
}

/// A session that takes all it can get, in pieces of the bucket's unit and of at most `most`, until it is dropped.
fn greedy(bucket: &Rc<FairBucket>, flow: u64, most: u64) -> (Rc<Cell<u64>>, tokio::task::JoinHandle<()>) {
    let (bucket, got) = (Rc::clone(bucket), Rc::new(Cell::new(0)));
    let counted = Rc::clone(&got);
    let task = tokio::task::spawn_local(async move {
        let progress = Progress::default();
        loop {
            let piece = bucket.unit().unwrap().min(most);
            bucket.take(Place { flow, progress: &progress }, piece).await;
            counted.set(counted.get() + piece);
        }
    });
    (got, task)
}

/// Jain's index: 1 when all got the same, 1/n when one got all.
fn jain(got: &[f64]) -> f64 {
    let (sum, squares) = got.iter().fold((0.0, 0.0), |(sum, squares), one| (sum + one, squares + one * one));
    sum * sum / (got.len() as f64 * squares)
}

#[test]
fn rates_from_slow_to_fast_are_met() {
    for rate in [8_000u64, 125_000, 1_250_000, 12_500_000, 125_000_000, 625_000_000] {
        for kind in [Kind::Stream, Kind::Datagrams, Kind::Shared] {
            let got = run(async {
                let bucket = bucket(kind, rate);
                let (got, task) = greedy(&bucket, 0, 64 * 1024);
                tokio::time::sleep(Duration::from_secs(10)).await;
                task.abort();
                got.get()
            });
            let ratio = got as f64 / 10.0 / rate as f64;
            assert!((0.98..1.02).contains(&ratio), "{rate} bytes/s, {kind:?}: {ratio}");
        }
    }
}

#[test]
fn datagrams_get_the_rate_too() {
    for (rate, size) in [(8_000u64, 200u64), (1_250_000, 1_400), (125_000_000, 65_507)] {
        let got = run(async {
            let (bucket, progress) = (bucket(Kind::Datagrams, rate), Progress::default());
            let place = Place { flow: 0, progress: &progress };
            let pause = Duration::from_secs_f64(size as f64 / (2.0 * rate as f64)).max(Duration::from_millis(1));
            let offered = (pause.as_secs_f64() * 2.0 * rate as f64 / size as f64).ceil() as u64;
            // What it has at first is not measured.
            while bucket.passes(place, size, Start::Full) && bucket.pass(place, size) {}
            let (start, mut got) = (Instant::now(), 0);
            while start.elapsed() < Duration::from_secs(20) {
                for _ in 0..offered {
                    got += if bucket.pass(place, size) { size } else { 0 };
                }
                tokio::time::sleep(pause).await;
            }
            got as f64 / start.elapsed().as_secs_f64()
        });
        let ratio = got / rate as f64;
        assert!((0.95..1.05).contains(&ratio), "{rate} bytes/s in datagrams of {size}: {ratio}");
    }
}

#[test]
fn the_first_datagram_of_a_session_passes_whatever_its_size() {
    run(async {
        for kind in [Kind::Datagrams, Kind::Shared] {
            let (bucket, progress) = (bucket(kind, 1_000), Progress::default());
            let place = Place { flow: 0, progress: &progress };
            assert!(bucket.passes(place, 65_507, Start::Full) && bucket.pass(place, 65_507));
            assert!(!bucket.passes(place, 65_507, Start::Full));
        }
    });
}

#[test]
fn sessions_that_take_all_they_get_share_equally_whatever_their_pieces() {
    let (shares, total) = run(async {
        let bucket = bucket(Kind::Shared, 1_250_000);
        let all: Vec<_> = (0..51).map(|n| greedy(&bucket, 0, if n == 0 { 64 * 1024 } else { 1_400 })).collect();
        tokio::time::sleep(Duration::from_secs(20)).await;
        all.iter().for_each(|(_, task)| task.abort());
        let got: Vec<f64> = all.iter().map(|(got, _)| got.get() as f64).collect();
        (jain(&got), got.iter().sum::<f64>())
    });
    assert!(shares > 0.99, "Jain's index of 51 sessions: {shares}");
    assert!((0.98..1.02).contains(&(total / 20.0 / 1_250_000.0)), "{total}");
}

#[test]
fn a_workload_gets_no_more_by_opening_more_sessions() {
    let (rogue, other) = run(async {
        let bucket = bucket(Kind::Shared, 1_250_000);
        let rogue: Vec<_> = (0..100).map(|_| greedy(&bucket, 1, 64 * 1024)).collect();
        let (other, _task) = greedy(&bucket, 2, 64 * 1024);
        tokio::time::sleep(Duration::from_secs(20)).await;
        (rogue.iter().map(|(got, _)| got.get()).sum::<u64>() as f64, other.get() as f64)
    });
    assert!((0.95..1.05).contains(&(rogue / other)), "{rogue} and {other}");
}

#[test]
fn who_asks_for_little_does_not_wait_behind_who_takes_all() {
    let longest = run(async {
        let bucket = bucket(Kind::Shared, 1_250_000);
        let (_, _task) = greedy(&bucket, 0, 64 * 1024);
        let all: Vec<_> = (0..50).map(|_| Progress::default()).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            for progress in &all {
                let asked = Instant::now();
                bucket.take(Place { flow: 0, progress }, 200).await;
                longest = longest.max(asked.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        longest
    });
    assert!(longest < Duration::from_millis(2), "{longest:?}");
}

#[test]
fn one_that_is_served_at_once_leaves_nobody_of_another_flow_asleep() {
    let (rogue, other) = run(async {
        let bucket = bucket(Kind::Shared, 1_250_000);
        let (rogue, _one) = greedy(&bucket, 1, 64 * 1024);
        let (other, _two) = greedy(&bucket, 2, 64 * 1024);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_micros(3_700)).await;
            // Each time a session that used nothing yet.
            bucket.pass(Place { flow: 1, progress: &Progress::default() }, 8 * 1024);
        }
        (rogue.get() as f64, other.get() as f64)
    });
    assert!(
        (0.98..1.02).contains(&(other / (0.5 * 20.0 * 1_250_000.0))),
        "the other flow got {other}, the rogue {rogue}"
    );
}

#[test]
fn a_flood_of_datagrams_leaves_streams_their_share() {
    let (stream, flood) = run(async {
        let bucket = bucket(Kind::Shared, 1_250_000);
        let (stream, _task) = greedy(&bucket, 0, 64 * 1024);
        let progress = Progress::default();
        let (start, mut flood) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(20) {
            for _ in 0..100 {
                flood += if bucket.pass(Place { flow: 0, progress: &progress }, 1_400) { 1_400 } else { 0 };
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (stream.get() as f64, f64::from(flood))
    });
    let (sum, share) = (stream + flood, stream / (stream + flood));
    assert!((0.45..0.75).contains(&share), "the stream got {share}");
    assert!((0.95..1.02).contains(&(sum / 20.0 / 1_250_000.0)), "{sum}");
}

#[test]
fn who_gives_up_waiting_leaves_its_turn_to_the_next() {
    run(async {
        let bucket = bucket(Kind::Shared, 8_000);
        let (first, second) = (Progress::default(), Progress::default());
        let place = |progress| Place { flow: 0, progress };
        let given_up = tokio::time::timeout(Duration::from_millis(10), bucket.take(place(&first), 4_096));
        let (given_up, waited) = tokio::join!(given_up, bucket.take(place(&second), 1_024));
        assert!(given_up.is_err() && waited);
        // Nothing of it is left: the next is not behind it.
        assert!(tokio::time::timeout(Duration::from_secs(2), bucket.take(place(&second), 1_024)).await.is_ok());
    });
}

#[test]
fn another_rate_holds_for_those_who_wait() {
    run(async {
        let bucket = bucket(Kind::Shared, 1);
        let progress = Progress::default();
        let started = Instant::now();
        let faster = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            bucket.set_rate(ByteRate::per_second(1_000_000));
        };
        tokio::join!(bucket.take(Place { flow: 0, progress: &progress }, 1_024), faster);
        assert!(started.elapsed() < Duration::from_millis(1_100), "{:?}", started.elapsed());
        let endless = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            bucket.set_rate(None);
        };
        bucket.set_rate(ByteRate::per_second(1));
        tokio::join!(bucket.take(Place { flow: 0, progress: &progress }, 1_024), endless);
        assert!(started.elapsed() < Duration::from_millis(2_200), "{:?}", started.elapsed());
    });
}

/// The only edge of a graph, which is of host `a`, as a caller there asks for it.
fn asked(text: &str) -> (Policy, Permit, Request, ServiceIx) {
    let policy = ripstop_policy::compile(ripstop_config::Graph::parse("f", text).unwrap()).unwrap();
    let (caller, service) = (policy.workloads().next().unwrap(), policy.services().next().unwrap());
    let port = policy.service_entry(service).ports[0];
    let Verdict::Allow(permit) = policy.decide(caller, service, port) else { panic!("it is allowed") };
    let request = Request {
        side: Side::Caller,
        caller: policy.workload_entry(caller).id.clone(),
        service: Some(policy.service_entry(service).id.clone()),
        port,
        v6: false,
        speaker: "a".parse().unwrap(),
    };
    (policy, permit, request, service)
}

#[test]
fn the_first_datagrams_of_a_session_pass_though_its_burst_was_told() {
    const DATAGRAM: usize = 1_400;
    let text = "{ fabric: f, hosts: { a: }, tenants: { t: { limit: { rate: 1 mbit/s }, \
                workloads: { w: { on: a, run: { netns: w } } }, services: { s: { by: w, port: 1/udp } }, \
                allow: [{ from: w, to: s, limit: { session: 1 mbit/s } }] } } }";
    let (policy, permit, request, service) = asked(text);
    run(async {
        let (table, host) = (LimitTable::default(), "a".parse().unwrap());
        let admission = table.admit(&policy, &permit, &request, service, &host).unwrap();
        let instruments = EdgeInstruments::new(&request.caller, request.service.as_ref().unwrap(), request.side);
        admission.count_in(Some(Rc::new(instruments)));
        let burst = usize::try_from(admission.burst_bytes().unwrap()).unwrap();
        for way in [Way::Up, Way::Down] {
            // No time passes here: all of it is what was there at first.
            let passed = (0..1_000).take_while(|_| admission.police(way, DATAGRAM)).count();
            // What does not make a whole cell is not taken yet: one more may pass.
            let due = burst / DATAGRAM;
            assert!((due..=due + 1).contains(&passed), "{passed} passed, of a burst of {burst} bytes");
        }
    });
}

#[test]
fn a_session_counts_for_its_tenant_and_for_all_above_it() {
    let text = "{ fabric: f, hosts: { a: }, tenants: { t: { limit: { sessions: 9 } }, t/u: {}, t/u/v: { limit: { sessions: 5 }, \
                workloads: { w: { on: a, run: { netns: w } } }, services: { s: { by: w, port: 1 } }, \
                allow: [{ from: w, to: s }] } } }";
    let (policy, permit, request, service) = asked(text);
    let scopes: Vec<_> = Scope::of(&policy, &permit, &request, service, &"a".parse().unwrap()).collect();
    let shown: Vec<_> = scopes.iter().map(|(scope, limits)| (scope.to_string(), limits.sessions)).collect();
    let tenants = [("tenant t/u/v", Some(5)), ("tenant t/u", None), ("tenant t", Some(9))];
    assert_eq!(shown[3..], tenants.map(|(tenant, sessions)| (tenant.to_owned(), sessions)));
    assert!(scopes[5].0.limits_in(&policy).is_some_and(|limits| limits.sessions == Some(9)), "it follows a new policy");
}
