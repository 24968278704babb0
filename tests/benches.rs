//! What the benchmarks make of what they measure: a figure that is computed wrongly would look like any other.

#![allow(clippy::unwrap_used, unreachable_pub, dead_code)]

#[path = "../benches/common/search.rs"]
mod search;
#[path = "../benches/common/stats.rs"]
mod stats;
#[path = "../benches/compare/turns.rs"]
mod turns;

use proptest::prelude::*;
use search::{Attempt, FIRST, LAST, search};
use stats::{median, per_mille, spread};
use std::{convert::Infallible, time::Duration};

/// A path that carries so many datagrams a second, and a sender that offers so many at most.
fn path(carries: f64, offers: f64) -> impl FnMut(f64) -> Result<Attempt, Infallible> {
    move |rate| {
        let offered = rate.min(offers);
        Ok(Attempt { rate: offered.min(carries), clean: offered <= carries })
    }
}

proptest! {
    #[test]
    fn the_highest_clean_rate_is_found_to_a_twentieth(carries in FIRST / 8.0..LAST / 2.0) {
        let found = search(path(carries, f64::INFINITY)).unwrap();
        prop_assert!(found <= carries, "{found} of {carries} is more than is carried");
        // Below the first rate the steps are halves.
        let least = if carries < FIRST { carries * 0.45 } else { carries * 0.95 };
        prop_assert!(found >= least, "{found} of {carries}");
    }
}

#[test]
fn a_sender_that_lags_is_not_asked_for_more() {
    let (mut most, mut path) = (0.0_f64, path(f64::INFINITY, 70_000.0));
    let found = search(|rate| {
        most = most.max(rate);
        path(rate)
    });
    assert_eq!(found.unwrap(), 70_000.0);
    assert!(most <= 4.0 * 70_000.0, "{most}");
}

#[test]
fn a_sender_that_was_not_scheduled_for_a_moment_is_asked_for_more() {
    let (mut asked, mut path) = (0, path(300_000.0, f64::INFINITY));
    let found = search(|rate| {
        asked += 1;
        path(if asked % 2 == 0 { rate * 0.7 } else { rate })
    });
    assert!(found.unwrap() >= 200_000.0);
}

#[test]
fn a_path_that_always_loses_carries_nothing() {
    assert_eq!(search(path(0.0, f64::INFINITY)).unwrap(), 0.0);
}

#[test]
fn one_loss_by_chance_does_not_end_the_search() {
    let (mut chance, mut path) = (true, path(300_000.0, f64::INFINITY));
    let found = search(|rate| {
        let tried = path(rate)?;
        Ok::<_, Infallible>(Attempt { clean: tried.clean && !std::mem::take(&mut chance), ..tried })
    });
    assert!(found.unwrap() >= 285_000.0);
}

#[test]
fn medians_and_spreads() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(spread(&[8.0, 10.0, 12.0]), Some(0.2));
    assert_eq!(spread(&[0.0]), None);
}

#[test]
fn percentiles() {
    let times: Vec<_> = (1..=1000).map(Duration::from_micros).collect();
    assert_eq!(per_mille(&times, 500), 501.0);
    assert_eq!(per_mille(&times, 999), 1000.0);
    assert_eq!(per_mille(&times, 1000), 1000.0);
    assert_eq!(per_mille(&[], 500), 0.0);
}

#[test]
fn each_system_is_measured_as_often_after_each_other_one() {
    for systems in 1..=10 {
        let rows = if systems % 2 == 0 { systems } else { 2 * systems };
        let mut after = vec![vec![0; systems]; systems];
        for row in 0..rows {
            let order = turns::order(systems, row);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..systems).collect::<Vec<_>>(), "{systems}, row {row}: each once");
            order.windows(2).for_each(|pair| after[pair[0]][pair[1]] += 1);
        }
        // With three systems the last of a round may be the first but one of the next.
        let before = |row: usize, system: usize| {
            turns::order(systems, row).windows(2).find(|pair| pair[1] == system).map(|pair| pair[0])
        };
        for (row, system) in (0..rows).flat_map(|row| (0..systems).map(move |system| (row, system))) {
            let [one, next] = [row, row + 1].map(|row| before(row, system));
            assert!(systems < 4 || one.is_none() || one != next, "{systems}, row {row}: {system} after {one:?} again");
        }
        for (one, other) in (0..systems).flat_map(|one| (0..systems).map(move |other| (one, other))) {
            assert_eq!(after[one][other], if one == other { 0 } else { rows / systems }, "{systems}: {one}, {other}");
        }
    }
}
