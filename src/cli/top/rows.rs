//! The lines of `ripstop top`.

use crate::{
    admin::{
        LiveSession,
        rates::{Ended, Rates},
    },
    cli::args::Sort,
};
use ripstop_telemetry::Side;
use serde::Serialize;
use std::cmp::Reverse;

/// All sessions from a caller to a service at one end. Rates are per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) caller: String,
    pub(super) service: String,
    /// `caller` or `server`: which end this host is.
    pub(super) side: &'static str,
    pub(super) sessions: u64,
    /// Payload bytes from the caller to the service.
    pub(super) up: f64,
    /// Payload bytes from the service to the caller.
    pub(super) down: f64,
    /// Sessions that ended.
    pub(super) ended: f64,
    /// Sessions that were denied.
    pub(super) denied: f64,
}

/// The rows of the time since the last look at an agent.
pub(super) fn look(rates: &mut Rates, live: &[LiveSession], ended: &[Ended], seconds: f64) -> Vec<Row> {
    let of_live = |one: &LiveSession| (one.caller.to_string(), one.service.to_string(), one.side.as_str());
    let of_ended = |one: &Ended| {
        let service = one.service.as_ref().unwrap_or(&one.destination);
        (one.caller.clone(), service.clone(), Side::as_str(one.side))
    };
    let sums = rates.look(live, ended, seconds, of_live, of_ended).into_iter();
    let row = |((caller, service, side), sums): ((String, String, &'static str), crate::admin::rates::Sums)| Row {
        caller,
        service,
        side,
        sessions: sums.sessions,
        up: sums.up,
        down: sums.down,
        ended: sums.ended,
        denied: sums.denied,
    };
    sums.map(row).collect()
}

/// Puts the rows in order, the greatest first.
pub(super) fn sort(rows: &mut [Row], by: Sort) {
    let millis = |rate: f64| Reverse((rate * 1e3) as u64);
    match by {
        Sort::Rate => rows.sort_by_key(|row| millis(row.up + row.down)),
        Sort::Sessions => rows.sort_by_key(|row| Reverse(row.sessions)),
        Sort::Denied => rows.sort_by_key(|row| millis(row.denied)),
        Sort::Name => rows.sort_by(|one, other| (&one.caller, &one.service).cmp(&(&other.caller, &other.service))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_is_first() {
        let row =
            |caller: &str, up, sessions, denied| Row { caller: caller.into(), up, sessions, denied, ..Row::default() };
        let mut rows = [row("b", 1.0, 9, 0.0), row("a", 2.0, 1, 0.0), row("c", 0.0, 5, 1.0)];
        for (by, first) in [(Sort::Rate, "a"), (Sort::Sessions, "b"), (Sort::Denied, "c"), (Sort::Name, "a")] {
            sort(&mut rows, by);
            assert_eq!(rows[0].caller, first, "{by:?}");
        }
    }
}
