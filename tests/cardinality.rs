//! However many names are thrown at an agent, the number of its series is bounded. A process of its own, as the bound is one
//! of the process.

#![allow(clippy::unwrap_used)]

use ripstop_config::{Reason, ServiceId, WorkloadId};
use ripstop_telemetry::{
    EdgeInstruments, Side,
    cardinality::EDGES_MAX,
    instruments::{install, verdict},
};

/// Hostile names.
const NAMES: usize = 100_000;
/// Series that they may make.
const SERIES_MAX: usize = 5_000;
/// Series of one edge at one end: its counters, and the buckets of its histograms.
const SERIES_OF_EDGE: usize = 60;

fn names(number: usize) -> (WorkloadId, ServiceId) {
    let tenant = format!("t{}", number / 100);
    (format!("{tenant}/caller-{number}").parse().unwrap(), format!("{tenant}/service-{number}").parse().unwrap())
}

#[test]
fn a_hundred_thousand_names_make_a_bounded_number_of_series() {
    let metrics = install().unwrap();
    let series = || metrics.render().lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    for number in 0..NAMES {
        let (caller, service) = names(number);
        verdict(Some(&caller), Some(&service), Side::Server, Some(Reason::NoEdge));
        verdict(Some(&caller), None, Side::Server, Some(Reason::NoService));
        verdict(None, None, Side::Server, Some(Reason::UnknownCaller));
    }
    let denied = series();
    assert!((EDGES_MAX..=SERIES_MAX).contains(&denied), "{denied} series of names that were denied");
    let text = metrics.render();
    let other: u64 = text
        .lines()
        .filter(|line| line.starts_with("ripstop_sessions_total{tenant=\"other\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(other, (3 * NAMES - EDGES_MAX) as u64, "what has no series of its own is counted all the same");

    // Were all of them in the graph, and used.
    for number in 0..NAMES {
        let (caller, service) = names(number);
        EdgeInstruments::new(&caller, &service, Side::Server).opened();
    }
    let used = series();
    assert!(used <= denied + EDGES_MAX * SERIES_OF_EDGE, "{used} series of names that were used");
}
