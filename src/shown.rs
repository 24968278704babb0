//! Figures as people read them.

use ripstop_config::HostName;
use std::collections::BTreeMap;
use time::{OffsetDateTime, macros::format_description};

/// Hosts of which is said by how much their clocks are off; of more, how many.
const CLOCKS_SHOWN: usize = 3;

/// A number of bytes, or of bytes a second: three digits and a decimal unit.
pub(crate) fn bytes(count: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut at) = (count, 0);
    while value >= 999.5 && at + 1 < units.len() {
        value /= 1_000.0;
        at += 1;
    }
    // Bytes come whole.
    let digits = if at == 0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.digits$}{}", units[at])
}

/// A length of time: three digits and a unit.
pub(crate) fn seconds(length: f64) -> String {
    match length {
        _ if length < 0.001 => format!("{:.0}us", length * 1e6),
        _ if length < 1.0 => format!("{:.1}ms", length * 1e3),
        _ if length < 120.0 => format!("{length:.2}s"),
        _ if length < 7_200.0 => format!("{:.0}min", length / 60.0),
        _ if length < 172_800.0 => format!("{:.0}h", length / 3_600.0),
        _ => format!("{:.0}d", length / 86_400.0),
    }
}

/// How much of what was sent was lost, in per cent.
pub(crate) fn loss(sent: u64, lost: u64) -> f64 {
    if sent == 0 { 0.0 } else { lost as f64 / sent as f64 * 100.0 }
}

/// The time of day, UTC.
pub(crate) fn clock(at: OffsetDateTime) -> String {
    let form = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
    at.to_offset(time::UtcOffset::UTC).format(form).unwrap_or_default()
}

/// A moment as agents tell it (RFC 3339, UTC), to the second.
pub(crate) fn to_second(moment: &str) -> String {
    match moment.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => moment.into(),
    }
}

/// Whose clock is too far from this host's, by seconds ahead of it; nothing where nobody's is.
pub(crate) fn clocks_apart(apart: &BTreeMap<HostName, f64>) -> Option<String> {
    let one = |(host, ahead): (&HostName, &f64)| {
        format!("{host}'s is {:.0} s {} this host's", ahead.abs(), if *ahead < 0.0 { "behind" } else { "ahead of" })
    };
    let mut shown: Vec<_> = apart.iter().take(CLOCKS_SHOWN).map(one).collect();
    match apart.len().saturating_sub(CLOCKS_SHOWN) {
        0 => {}
        more => shown.push(format!("{more} more are off, so that it may be this host's own")),
    }
    (!shown.is_empty()).then(|| format!("{}: neither believes the other's records", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits_and_their_unit() {
        let shown: Vec<_> = [0.0, 999.0, 999.6, 1_500.0, 99_960.0, 2.5e6, 7.2e15].map(bytes).into();
        assert_eq!(shown, ["0B", "999B", "1.0kB", "1.5kB", "100kB", "2.5MB", "7200TB"]);
        let shown: Vec<_> = [0.000_25, 0.0123, 1.5, 300.0, 86_400.0, 864_000.0].map(seconds).into();
        assert_eq!(shown, ["250us", "12.3ms", "1.50s", "5min", "24h", "10d"]);
        let moments = ["2026-01-31T12:00:00.018386142Z", "2026-01-31T12:00:00Z"];
        assert_eq!(moments.map(to_second), ["2026-01-31T12:00:00Z"; 2]);
        assert_eq!((loss(0, 0), loss(200, 1)), (0.0, 0.5));
    }

    #[test]
    fn clocks_that_are_apart_are_told_by_host() {
        let host = |number: usize| HostName::new(&format!("h{number}")).unwrap();
        assert_eq!(clocks_apart(&BTreeMap::new()), None);
        let two = clocks_apart(&[(host(1), 62.4), (host(2), -31.0)].into()).unwrap();
        assert_eq!(
            two,
            "h1's is 62 s ahead of this host's, h2's is 31 s behind this host's: neither believes the other's records"
        );
        let many = clocks_apart(&(0..9).map(|number| (host(number), -90.0)).collect()).unwrap();
        assert!(
            many.contains("h2's is 90 s") && many.contains("6 more are off, so that it may be this host's own"),
            "{many}"
        );
    }
}
