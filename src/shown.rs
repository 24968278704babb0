//! Figures as people read them.

use time::{OffsetDateTime, macros::format_description};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits_and_their_unit() {
        let shown: Vec<_> = [0.0, 999.0, 999.6, 1_500.0, 99_960.0, 2.5e6, 7.2e15].map(bytes).into();
        assert_eq!(shown, ["0B", "999B", "1.0kB", "1.5kB", "100kB", "2.5MB", "7200TB"]);
        let shown: Vec<_> = [0.000_25, 0.0123, 1.5, 300.0, 86_400.0, 864_000.0].map(seconds).into();
        assert_eq!(shown, ["250us", "12.3ms", "1.50s", "5min", "24h", "10d"]);
        assert_eq!((loss(0, 0), loss(200, 1)), (0.0, 0.5));
    }
}
