//! Limits that several data threads share. Virtual time is of one runtime only, so this is on real time: what is asserted
//! holds however late a busy machine runs anything.

use super::{
    Admission, LimitTable, Refusal,
    bucket::{Kind, Start},
    fair::{FairBucket, Hold, Place, Progress, State},
};
use crate::session::{live::Request, pump::Way};
use ripstop_config::{Graph, Reason};
use ripstop_policy::{Permit, Policy, ServiceIx, Verdict};
use ripstop_telemetry::Side;
use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Longer than anything takes here on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// No limit that is ever reached.
const FREE: &str = "sessions: 1000000";

/// Workloads `w` and `x` call a service: limits of their tenant, of the service, and of each edge.
fn policy(tenant: &str, service: &str, edge: &str) -> Policy {
    let text = format!(
        "{{ fabric: f, hosts: {{ a: }}, tenants: {{ t: {{ limit: {{ {tenant} }}, \
         workloads: {{ w: {{ on: a, run: {{ netns: w }} }}, x: {{ on: a, run: {{ netns: x }} }} }}, \
         services: {{ s: {{ by: w, port: 1, limit: {{ {service} }} }} }}, \
         allow: [{{ from: w, to: s, limit: {{ {edge} }} }}, {{ from: x, to: s, limit: {{ {edge} }} }}] }} }} }}"
    );
    ripstop_policy::compile(Graph::parse("f", &text).unwrap()).unwrap()
}

fn asked(policy: &Policy, caller: &str) -> (Permit, Request, ServiceIx) {
    let (caller, service, port) = (caller.parse().unwrap(), "t/s".parse().unwrap(), "1".parse().unwrap());
    let (from, to) = (policy.workload(&caller).unwrap(), policy.service(&service).unwrap());
    let Verdict::Allow(permit) = policy.decide(from, to, port) else { panic!("it has an edge") };
    let speaker = "a".parse().unwrap();
    (permit, Request { side: Side::Caller, caller, service: Some(service), port, v6: false, speaker }, to)
}

fn admit(table: &LimitTable, policy: &Policy, caller: &str) -> Result<Admission, Refusal> {
    let (permit, request, service) = asked(policy, caller);
    table.admit(policy, &permit, &request, service, &"a".parse().unwrap())
}

/// As many as can be open at once, by one thread.
fn room(table: &LimitTable, policy: &Policy, caller: &str) -> usize {
    let mut held = Vec::new();
    loop {
        match admit(table, policy, caller) {
            Ok(admission) => held.push(admission),
            Err(refusal) => {
                assert_eq!(refusal.reason, Reason::Sessions);
                return held.len();
            }
        }
    }
}

/// A data thread's way to run.
fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

#[test]
fn threads_never_have_more_sessions_open_than_the_limit() {
    for most in [1, 3] {
        let (table, policy) = (LimitTable::default(), policy(&format!("sessions: {most}"), FREE, FREE));
        let (open, granted) = (AtomicU32::new(0), AtomicU32::new(0));
        let begin = Barrier::new(4);
        let body = |caller| {
            let ((permit, request, service), host) = (asked(&policy, caller), "a".parse().unwrap());
            begin.wait();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                let Ok(admission) = table.admit(&policy, &permit, &request, service, &host) else { continue };
                granted.fetch_add(1, Ordering::Relaxed);
                // Counted within the time that it is open: never more than there are.
                assert!(open.fetch_add(1, Ordering::SeqCst) < most);
                // Long enough for one that was let in at the same time to count too.
                (0..200).for_each(|_| std::hint::spin_loop());
                open.fetch_sub(1, Ordering::SeqCst);
                drop(admission);
            }
        };
        thread::scope(|scope| {
            for caller in ["t/w", "t/x", "t/w", "t/x"] {
                scope.spawn(move || body(caller));
            }
        });
        assert!(granted.into_inner() > most);
        assert_eq!(room(&table, &policy, "t/w"), most as usize, "those that ended are not counted any more");
        let other = self::policy(FREE, FREE, "sessions: 2");
        table.enforce(&other);
        assert_eq!(room(&table, &other, "t/w"), 2, "nothing is counted on the edge of what the tenant's limit refused");
    }
}

#[test]
fn threads_open_no_more_sessions_in_a_second_than_the_limit() {
    let (table, policy) = (LimitTable::default(), policy("open: 200/s", FREE, FREE));
    let granted = AtomicU32::new(0);
    let start = Instant::now();
    let body = || {
        while start.elapsed() < Duration::from_millis(300) {
            granted.fetch_add(u32::from(admit(&table, &policy, "t/w").is_ok()), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(body))));
    let (granted, most) = (granted.into_inner(), 20.0 + 200.0 * start.elapsed().as_secs_f64());
    assert!(granted > 20 && f64::from(granted) <= most + 1.0, "{granted} were let in, of at most {most}");
}

#[test]
fn what_one_limit_refuses_is_not_taken_from_another_s_rate() {
    let (table, policy) = (LimitTable::default(), policy("sessions: 1", FREE, "open: 1/s"));
    let first = admit(&table, &policy, "t/w").unwrap();
    for _ in 0..3 {
        let refusal = admit(&table, &policy, "t/x").err().expect("the tenant's one is open");
        assert_eq!(refusal.detail, "limit `sessions: 1` of tenant t");
    }
    drop(first);
    assert!(admit(&table, &policy, "t/x").is_ok(), "it has opened none yet");
}

/// A thread's sessions, each of which takes all it can get and counts it.
fn carry(table: &LimitTable, policy: &Policy, sessions: Vec<(&str, Arc<AtomicU64>)>, end: &AtomicBool) {
    const PIECE: usize = 16 * 1024;
    run(async {
        for (caller, got) in sessions {
            let shaper = admit(table, policy, caller).unwrap().shaper(Way::Up);
            tokio::task::spawn_local(async move {
                loop {
                    shaper.take(PIECE).await;
                    got.fetch_add(PIECE as u64, Ordering::Relaxed);
                }
            });
        }
        while !end.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_byte_rate_is_kept_and_shared_fairly_by_sessions_of_several_threads() {
    const RATE: f64 = 4e6;
    let (table, policy) = (LimitTable::default(), policy(FREE, "rate: 4 MB/s", FREE));
    let all: [Arc<AtomicU64>; 4] = Default::default();
    let [one, two, three, other] = all.clone();
    // Half of it is the workload's that has one session; the rest is that of three, which are on both threads.
    let due = [1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0, 0.5];
    let end = AtomicBool::new(false);
    let counts = || all.each_ref().map(|got| got.load(Ordering::Relaxed) as f64);
    // A machine that does not run a thread for a while has the other use what is left: some window is without that.
    let is_fair = || {
        let (start, before) = (Instant::now(), counts());
        thread::sleep(Duration::from_millis(400));
        let (all, took) = (counts(), start.elapsed().as_secs_f64());
        let got: Vec<_> = all.iter().zip(before).map(|(all, before)| (all - before) / (RATE * took)).collect();
        let fair = got.iter().zip(due).all(|(got, due)| (0.75..1.25).contains(&(got / due)));
        println!("shares of the rate: {got:.3?}");
        fair && (0.9..1.1).contains(&got.iter().sum())
    };
    let start = Instant::now();
    let fair = thread::scope(|scope| {
        scope.spawn(|| carry(&table, &policy, vec![("t/w", one), ("t/w", two)], &end));
        scope.spawn(|| carry(&table, &policy, vec![("t/w", three), ("t/x", other)], &end));
        thread::sleep(Duration::from_millis(100));
        let fair = (0..20).any(|_| is_fair());
        end.store(true, Ordering::Relaxed);
        fair
    });
    assert!(fair, "no window of 20 was fair");
    // What may pass at once: 50 ms, and a reserve of 25 ms.
    let (got, most) = (counts().iter().sum::<f64>(), RATE * (start.elapsed().as_secs_f64() + 0.075));
    assert!(got <= most * 1.01, "{got} bytes passed, of at most {most}");
}

#[test]
fn another_policy_holds_for_sessions_of_every_thread() {
    let (table, slow) = (LimitTable::default(), policy(FREE, "rate: 8 kbit/s", FREE));
    let fast = policy("sessions: 1", "rate: 8 gbit/s", "session: 8 kbit/s");
    let turn = Barrier::new(3);
    let body = |caller| {
        run(async {
            let admission = admit(&table, &slow, caller).unwrap();
            let shaper = admission.shaper(Way::Up);
            turn.wait();
            // Of the slow rate this would take half an hour.
            assert!(tokio::time::timeout(PATIENCE, shaper.take(2_000_000)).await.expect("the rate is another"));
            let refusal = admit(&table, &fast, caller).err().expect("its own is open");
            assert_eq!(refusal.detail, "limit `sessions: 1` of tenant t");
            let (permit, request, _) = asked(&fast, caller);
            table.readmit(&admission, &fast, &permit, &request);
            assert_eq!(shaper.unit(), Some(1_024), "its own rate is that of the policy");
        });
    };
    thread::scope(|scope| {
        for caller in ["t/w", "t/x"] {
            scope.spawn(move || body(caller));
        }
        turn.wait();
        // They wait by then; if not yet, they are faster.
        thread::sleep(Duration::from_millis(100));
        table.enforce(&fast);
    });
}

/// A state that nobody may ask for.
struct Untouched;

impl From<State> for Untouched {
    fn from(_: State) -> Self {
        Self
    }
}

impl Hold for Untouched {
    fn with<R>(&self, _: impl FnOnce(&mut State) -> R) -> R {
        panic!("the lock was asked for");
    }
}

#[test]
fn what_is_under_no_rate_asks_for_no_lock() {
    let (bucket, progress) = (FairBucket::<Untouched>::new(Kind::Shared, None), Progress::default());
    let place = Place { flow: 0, progress: &progress };
    assert!(bucket.passes(place, 1, Start::Full) && bucket.pass(place, 1));
    assert!(bucket.unit().is_none() && bucket.burst().is_none());
    assert!(!run(bucket.take(place, 1)));
    bucket.leave(place);
}
