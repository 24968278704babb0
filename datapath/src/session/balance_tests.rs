use super::*;

fn hosts(names: &[&str]) -> Vec<HostName> {
    names.iter().map(|name| HostName::new(name).unwrap()).collect()
}

fn service() -> ServiceId {
    "shop/api".parse().unwrap()
}

fn all(hosts: &[HostName]) -> Vec<Candidate<'_>> {
    let one = |host| Candidate { host, near: false, weight: 1, up: true, sessions: None, claim: None };
    hosts.iter().map(one).collect()
}

fn first(balancer: &Balancer, hosts: &[HostName], now: Instant) -> HostName {
    balancer.order(&service(), &all(hosts), None, now)[0].clone()
}

fn accepted(balancer: &Balancer, host: &HostName, took: Duration, load: u16) -> Using {
    let using = balancer.trying(&service(), host);
    using.accepted(took, load);
    using
}

fn answered(balancer: &Balancer, host: &HostName, response: Duration) {
    balancer.endpoint(&service(), host).state().response.add(response, Instant::now());
}

#[test]
fn equal_endpoints_share_and_one_that_is_slow_to_connect_gets_little() {
    let (balancer, hosts, now) = (Balancer::default(), hosts(&["a", "b"]), Instant::now());
    let mut firsts = HashMap::new();
    for _ in 0..2_000 {
        let host = first(&balancer, &hosts, now);
        let took = if host == hosts[0] { 5 } else { 50 };
        drop(accepted(&balancer, &host, Duration::from_millis(took), 0));
        *firsts.entry(host).or_insert(0) += 1;
    }
    assert!(firsts.get(&hosts[1]).copied().unwrap_or(0) < 300, "{firsts:?}");
}

/// Sixteen callers that each ask again as soon as they are answered, of two endpoints that accept at once: one answers in
/// 2 ms, the other in 20.
#[test]
fn one_that_answers_ten_times_slower_gets_at_most_fifteen_percent() {
    let (balancer, hosts, start) = (Balancer::default(), hosts(&["quick", "slow"]), Instant::now());
    let mut open: Vec<(Duration, HostName, Using)> = Vec::new();
    let (mut now, mut firsts) = (Duration::ZERO, HashMap::new());
    for _ in 0..4_000 {
        while open.len() < 16 {
            let host = first(&balancer, &hosts, start + now);
            let using = accepted(&balancer, &host, Duration::from_micros(200), 0);
            let takes = Duration::from_millis(if host == hosts[0] { 2 } else { 20 });
            *firsts.entry(host.clone()).or_insert(0) += 1;
            open.push((now + takes, host, using));
        }
        open.sort_by_key(|(at, ..)| Reverse(*at));
        let (at, host, using) = open.pop().unwrap();
        now = at;
        let takes = Duration::from_millis(if host == hosts[0] { 2 } else { 20 });
        using.endpoint.state().response.add(takes, start + now);
    }
    let slow = firsts[&hosts[1]] * 100 / firsts.values().sum::<i32>();
    assert!((1..=15).contains(&slow), "{slow} % {firsts:?}");
}

#[test]
fn a_slow_start_is_forgotten() {
    let (balancer, hosts) = (Balancer::default(), hosts(&["a", "b"]));
    drop(accepted(&balancer, &hosts[0], Duration::from_millis(100), 0));
    assert!((0..50).all(|_| first(&balancer, &hosts, Instant::now()) == hosts[1]));
    let later = Instant::now() + Duration::from_secs(300);
    assert!((0..50).any(|_| first(&balancer, &hosts, later) == hosts[0]));
}

#[test]
fn live_sessions_spread_over_endpoints() {
    let (balancer, hosts) = (Balancer::default(), hosts(&["a", "b", "c"]));
    let mut open: HashMap<HostName, Vec<Using>> = HashMap::new();
    for _ in 0..300 {
        let host = first(&balancer, &hosts, Instant::now());
        let load = open.get(&host).map_or(0, Vec::len) + 1;
        let using = accepted(&balancer, &host, Duration::from_millis(1), u16::try_from(load).unwrap());
        open.entry(host).or_default().push(using);
    }
    assert!(open.values().all(|list| (80..=120).contains(&list.len())));
}

#[test]
fn sessions_of_other_callers_count_until_the_next_report() {
    let (balancer, hosts) = (Balancer::default(), hosts(&["a", "b"]));
    balancer.reported(&service(), &hosts[0], 3);
    assert!((0..50).all(|_| first(&balancer, &hosts, Instant::now()) == hosts[1]));
    let mine: Vec<_> = (0..4).map(|_| accepted(&balancer, &hosts[1], Duration::ZERO, 4)).collect();
    assert!((0..50).any(|_| first(&balancer, &hosts, Instant::now()) == hosts[0]), "3 against 4");
    drop(mine);
    assert!((0..50).all(|_| first(&balancer, &hosts, Instant::now()) == hosts[1]), "my own I know to be over");
}

/// How many of 100 sessions that stay open each endpoint gets first, where hosts say that so many are there before.
fn drawn(hosts: &[HostName], loads: &[u32], by_record: Option<Duration>) -> Vec<u32> {
    let (balancer, mut open) = (Balancer::default(), Vec::new());
    let mut candidates = all(hosts);
    for (candidate, load) in candidates.iter_mut().zip(loads) {
        match by_record {
            Some(age) => (candidate.up, candidate.claim) = (false, Some(Claim { sessions: *load, age })),
            None => balancer.reported(&service(), candidate.host, *load),
        }
    }
    for _ in 0..100 {
        let host = balancer.order(&service(), &candidates, None, Instant::now()).remove(0);
        open.push((balancer.trying(&service(), &host), host));
    }
    hosts.iter().map(|host| u32::try_from(open.iter().filter(|(_, one)| one == host).count()).unwrap()).collect()
}

#[test]
fn where_no_host_is_connected_the_loads_in_records_count() {
    let hosts = hosts(&["idle", "busy", "busier"]);
    let fresh = drawn(&hosts, &[0, 60, 200], Some(Duration::ZERO));
    assert!(fresh[0] > 40 && fresh[2] < 5, "{fresh:?}");
    let old = drawn(&hosts, &[0, 60, 200], Some(Duration::from_secs(120)));
    assert!(old.iter().all(|count| (20..=47).contains(count)), "what was two minutes ago says nothing: {old:?}");
}

#[test]
fn a_record_that_claims_no_load_draws_no_more_than_load_that_is_measured() {
    for loads in [vec![0, 40], vec![0, 40, 40], vec![0, 10, 20, 40], vec![0, 1_000, 1_000]] {
        let hosts = hosts(&["a", "b", "c", "d"][..loads.len()]);
        let sum = |age| (0..20).map(|_| drawn(&hosts, &loads, age)[0]).sum::<u32>() / 20;
        let measured = sum(None);
        for age in [0, 5, 30] {
            let claimed = sum(Some(Duration::from_secs(age)));
            // What chance makes of the mean of 20 rounds.
            assert!(claimed <= measured + 4, "{loads:?}: {claimed} by a record {age} s old, {measured} measured");
        }
    }
}

#[test]
fn who_is_heard_comes_before_who_claims() {
    let (balancer, hosts) = (Balancer::default(), hosts(&["heard", "claims"]));
    balancer.reported(&service(), &hosts[0], 1_000);
    let mut candidates = all(&hosts);
    (candidates[1].up, candidates[1].claim) = (false, Some(Claim { sessions: 0, age: Duration::ZERO }));
    assert!((0..50).all(|_| balancer.order(&service(), &candidates, None, Instant::now())[0] == hosts[0]));
    // What it reported over a connection that is gone is not what it has.
    balancer.reported(&service(), &hosts[1], 5_000);
    candidates[0].up = false;
    candidates[0].claim = Some(Claim { sessions: 100, age: Duration::ZERO });
    assert!((0..50).all(|_| balancer.order(&service(), &candidates, None, Instant::now())[0] == hosts[1]));
}

#[test]
fn the_answer_is_what_follows_the_question() {
    let (balancer, hosts) = (Balancer::default(), hosts(&["a"]));
    let response = || balancer.endpoint(&service(), &hosts[0]).state().response.0.is_some();
    let using = || accepted(&balancer, &hosts[0], Duration::ZERO, 0);
    let speaks_first = using();
    speaks_first.moved(Way::Down);
    speaks_first.moved(Way::Up);
    speaks_first.moved(Way::Down);
    drop(speaks_first);
    drop(using());
    assert!(!response(), "neither who speaks first nor who is asked nothing has answered");
    let asked = using();
    asked.moved(Way::Up);
    asked.moved(Way::Down);
    assert!(response());
}

#[test]
fn an_answer_that_never_comes_counts() {
    let (balancer, hosts) = (Balancer::default(), hosts(&["a"]));
    let using = accepted(&balancer, &hosts[0], Duration::ZERO, 0);
    using.asked.set(Instant::now().checked_sub(Duration::from_secs(3600)));
    drop(using);
    let latency = balancer.known(&service(), &hosts[0], Instant::now()).latency;
    assert!((Duration::from_millis(200)..UNANSWERED_MAX).contains(&latency), "an hour is not taken whole: {latency:?}");
}

#[test]
fn failed_and_unreachable_ones_come_last_and_return() {
    let (balancer, hosts, now) = (Balancer::default(), hosts(&["a", "b", "c"]), Instant::now());
    balancer.failed(&service(), &hosts[0], now);
    for _ in 0..50 {
        let mut candidates = all(&hosts);
        candidates[1].up = false;
        let order = balancer.order(&service(), &candidates, None, now);
        assert_eq!(order, [hosts[2].clone(), hosts[0].clone(), hosts[1].clone()]);
    }
    let later = now + EJECT_FIRST;
    assert!((0..50).any(|_| first(&balancer, &hosts, later) == hosts[0]));
}

#[test]
fn failures_at_once_are_one_and_failures_in_a_row_double_the_time() {
    let (balancer, hosts, mut now) = (Balancer::default(), hosts(&["a", "b"]), Instant::now());
    let ejected = |now| balancer.known(&service(), &hosts[0], now).ejected;
    for rest in [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
        for _ in 0..20 {
            balancer.failed(&service(), &hosts[0], now);
        }
        assert!(ejected(now + Duration::from_millis(rest - 1)), "{rest}");
        now += Duration::from_millis(rest);
        assert!(!ejected(now), "{rest}");
    }
    balancer.failed(&service(), &hosts[0], now);
    drop(accepted(&balancer, &hosts[0], Duration::ZERO, 0));
    assert!(!ejected(now), "a success ends it");
}

#[test]
fn at_most_half_of_the_endpoints_are_left_alone() {
    let now = Instant::now();
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let names: Vec<_> = (0..count).map(|index| format!("h{index}")).collect();
        let hosts = hosts(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let balancer = Balancer::default();
        for (index, host) in hosts.iter().enumerate() {
            balancer.failed(&service(), host, now + Duration::from_millis(u64::try_from(index).unwrap()));
        }
        let states = balancer.states(&service(), &all(&hosts));
        let left = ejected(&states, now);
        assert_eq!(left.iter().filter(|left| **left).count(), most, "of {count}");
        assert!(left.iter().rev().take(most).all(|left| *left), "those whose time is longest: {left:?}");
    }
}

#[test]
fn old_endpoints_are_forgotten_unless_they_have_sessions() {
    let (balancer, hosts) = (Balancer::default(), hosts(&["a", "b"]));
    let using = accepted(&balancer, &hosts[0], Duration::ZERO, 0);
    answered(&balancer, &hosts[1], Duration::from_secs(1));
    balancer.retain(|_, _| false);
    assert_eq!(balancer.table().len(), 1);
    drop(using);
    balancer.retain(|_, _| false);
    assert_eq!(balancer.table().len(), 0);
}

#[test]
fn sessions_and_failures_of_many_threads_are_counted_to_the_last() {
    let (balancer, hosts, now) = (Balancer::default(), hosts(&["a", "b", "fails"]), Instant::now());
    let session = |round: usize| {
        let host = balancer.order(&service(), &all(&hosts[..2]), None, now).remove(0);
        let using = accepted(&balancer, &host, Duration::from_millis(1), 1);
        using.moved(Way::Up);
        using.moved(Way::Down);
        balancer.failed(&service(), &hosts[2], now);
        balancer.retain(|_, host| host.as_str() != "a");
        round.is_multiple_of(2).then_some(using)
    };
    let run = || (0..500).filter_map(session).collect::<Vec<_>>();
    let kept: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let sessions = || hosts.iter().map(|host| balancer.known(&service(), host, now).sessions).sum::<u32>();
    assert_eq!((kept.len(), sessions()), (1_000, 1_000));
    assert_eq!(balancer.endpoint(&service(), &hosts[2]).state().failures, 1, "all at once are one");
    drop(kept);
    assert_eq!(sessions(), 0);
}

#[test]
fn threads_draw_different_numbers() {
    let balancer = Balancer::default();
    let draw = || (0..1_000).map(|_| balancer.random()).collect::<Vec<_>>();
    let drawn: HashSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(drawn.len(), 4_000);
}
