use super::*;
use std::collections::HashMap;

/// Enough draws that a share is seen to a percent or two.
const DRAWS: u32 = 10_000;

fn names(count: usize) -> Vec<HostName> {
    (0..count).map(|index| HostName::new(&format!("h{index}")).unwrap()).collect()
}

fn endpoint(host: &HostName) -> Ranked<'_> {
    let candidate = Candidate { host, near: false, weight: 1, up: true, sessions: None, claim: None };
    Ranked { candidate, ejected: false, latency: 0.005, sessions: 0 }
}

fn generator() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// How often each endpoint comes first.
fn shares(ranked: &[Ranked<'_>]) -> HashMap<String, f64> {
    let (mut random, mut firsts) = (generator(), HashMap::new());
    for _ in 0..DRAWS {
        let host = order(ranked.to_vec(), None, &mut random)[0].to_string();
        *firsts.entry(host).or_insert(0) += 1;
    }
    firsts.into_iter().map(|(host, count)| (host, f64::from(count) / f64::from(DRAWS))).collect()
}

#[test]
fn nothing_is_ordered_and_nothing_is_lost() {
    let mut random = generator();
    assert!(order(Vec::new(), None, &mut random).is_empty());
    let hosts = names(7);
    for _ in 0..100 {
        let mut found = order(hosts.iter().map(endpoint).collect(), None, &mut random);
        found.sort();
        assert_eq!(found, hosts);
    }
}

#[test]
fn equal_endpoints_share_equally_and_shares_are_kept() {
    let hosts = names(4);
    let equal = shares(&hosts.iter().map(endpoint).collect::<Vec<_>>());
    assert!(equal.values().all(|share| (0.22..0.28).contains(share)), "{equal:?}");
    let mut ranked: Vec<_> = hosts[..2].iter().map(endpoint).collect();
    ranked[0].candidate.weight = 3;
    let weighted = shares(&ranked);
    assert!((0.73..0.77).contains(&weighted["h0"]), "{weighted:?}");
    ranked[0].candidate.weight = 300;
    ranked[1].candidate.weight = 100;
    (ranked[0].sessions, ranked[1].sessions) = (30, 10);
    let loaded = shares(&ranked);
    assert!((0.73..0.77).contains(&loaded["h0"]), "three times the sessions are its share: {loaded:?}");
    ranked[1].sessions = 100;
    assert_eq!(shares(&ranked)["h0"], 1.0, "the other has more than its share");
}

#[test]
fn no_share_is_for_when_no_other_can() {
    let hosts = names(3);
    let mut ranked: Vec<_> = hosts.iter().map(endpoint).collect();
    ranked[0].candidate.weight = 0;
    assert!(!shares(&ranked).contains_key("h0"));
    ranked[1].ejected = true;
    ranked[2].candidate.up = false;
    assert_eq!(order(ranked, None, &mut generator()), hosts);
}

#[test]
fn the_zone_comes_first_until_it_is_clearly_costlier() {
    let hosts = names(3);
    let mut ranked: Vec<_> = hosts.iter().map(endpoint).collect();
    ranked[0].candidate.near = true;
    assert_eq!(shares(&ranked)["h0"], 1.0);
    ranked[0].sessions = 40;
    assert_eq!(shares(&ranked)["h0"], 1.0, "some sessions more are no reason to leave");
    ranked[0].sessions = 60;
    assert!(!shares(&ranked).contains_key("h0"), "(60 + 16) against (0 + 16)");
    (ranked[1].sessions, ranked[2].sessions) = (10, 10);
    assert_eq!(shares(&ranked)["h0"], 1.0, "those elsewhere are busy too");
    ranked[0].sessions = 0;
    ranked[0].latency = 0.1;
    let slow = shares(&ranked);
    assert!(!slow.contains_key("h0") && slow.len() == 2, "shared by those elsewhere: {slow:?}");
    ranked[0].latency = 0.005;
    ranked[0].ejected = true;
    assert!(!shares(&ranked).contains_key("h0"));
}

fn sticky<'a>(service: &'a ServiceId, caller: &'a WorkloadId, host: &'a HostName) -> Sticky<'a> {
    Sticky { service, caller, host }
}

#[test]
fn a_sticky_caller_keeps_its_endpoint_whatever_it_costs() {
    let (hosts, service) = (names(5), "shop/api".parse().unwrap());
    let (caller, on) = ("shop/web".parse().unwrap(), HostName::new("alpha").unwrap());
    let mut ranked: Vec<_> = hosts.iter().map(endpoint).collect();
    let mut random = generator();
    let mut find = |ranked: &[Ranked<'_>]| order(ranked.to_vec(), Some(sticky(&service, &caller, &on)), &mut random);
    let before = find(&ranked);
    let index = hosts.iter().position(|host| *host == before[0]).unwrap();
    ranked[index].sessions = 1_000;
    ranked[index].latency = 1.0;
    assert_eq!(find(&ranked), before);
    ranked[index].ejected = true;
    let without = find(&ranked);
    assert_eq!((&without[..4], &without[4]), (&before[1..], &before[0]), "over to the next");
    ranked[index].ejected = false;
    assert_eq!(find(&ranked), before, "and back");
}

#[test]
fn sticky_callers_are_spread_by_share_and_few_move() {
    let (hosts, service) = (names(5), "shop/api".parse().unwrap());
    let on = HostName::new("alpha").unwrap();
    let callers: Vec<WorkloadId> = (0..2_000).map(|index| format!("shop/w{index}").parse().unwrap()).collect();
    let mut random = generator();
    let mut places = |ranked: &[Ranked<'_>]| -> Vec<HostName> {
        let find = |caller| order(ranked.to_vec(), Some(sticky(&service, caller, &on)), &mut random).remove(0);
        callers.iter().map(find).collect()
    };
    let mut ranked: Vec<_> = hosts.iter().map(endpoint).collect();
    let five = places(&ranked);
    let four = places(&ranked[..4]);
    for (before, after) in five.iter().zip(&four) {
        assert!(before == after || *before == hosts[4], "only those of the one that is gone move");
    }
    let on_last = five.iter().filter(|host| **host == hosts[4]).count();
    assert!((330..470).contains(&on_last), "a fifth: {on_last}");
    ranked[4].candidate.weight = 4;
    let heavy = places(&ranked).iter().filter(|host| **host == hosts[4]).count();
    assert!((900..1_100).contains(&heavy), "four eighths: {heavy}");
}
