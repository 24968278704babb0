//! Spans of time.

use super::UnitError;
use std::{fmt, str::FromStr, time::Duration};

/// A span of time, written `500ms`, `2s`, `5m` or `1h`: a whole number and its unit. Kept in milliseconds, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

/// How a span is written, for messages.
const SPAN_FORM: &str = "a span of time: write `500ms`, `2s`, `5m` or `1h`";
/// The units, the largest first, in milliseconds. `m` alone is minutes.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// A span of whole milliseconds; what is left over is cut off. `None` when nothing remains, or beyond what 64 bits
    /// of milliseconds hold.
    #[must_use]
    pub fn of(duration: Duration) -> Option<Self> {
        let millis = u64::try_from(duration.as_millis()).ok().filter(|millis| *millis > 0)?;
        Some(Self(Duration::from_millis(millis)))
    }

    /// How long it is.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Span {
    /// In the largest unit in which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let suits = |(_, unit): &(&str, u64)| millis.is_multiple_of(u128::from(*unit));
        let (name, unit) = UNITS.into_iter().find(suits).unwrap_or(("ms", 1));
        write!(f, "{}{name}", millis / u128::from(unit))
    }
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::new(text, SPAN_FORM);
        let end = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, name) = text.split_at(end);
        let (_, unit) = UNITS.into_iter().find(|(unit, _)| *unit == name.trim_start()).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Duration::from_millis).and_then(Self::of).ok_or_else(wrong)
    }
}

impl serde::Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_whole_numbers_with_a_unit() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("2s", 2_000, "2s"),
            ("2 s", 2_000, "2s"),
            ("120s", 120_000, "2m"),
            ("5m", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("90m", 5_400_000, "90m"),
            ("1500ms", 1_500, "1500ms"),
        ] {
            let span: Span = text.parse().expect(text);
            assert_eq!((span.duration().as_millis(), span.to_string().as_str()), (millis, shown), "{text}");
        }
        for bad in
            ["", "2", "s", "0s", "-1s", "+1s", "1.5s", "2S", "2sec", "1d", "99999999999999999999s", "5124095576031h"]
        {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert_eq!(Span::of(Duration::from_micros(999)), None);
        assert_eq!(Span::of(Duration::MAX), None);
    }

    proptest! {
        #[test]
        fn spans_round_trip(millis in 1..=u64::MAX, shift in 0..64_u32) {
            let span = Span::of(Duration::from_millis((millis >> shift).max(1))).expect("not zero");
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }

        #[test]
        fn no_text_makes_a_span_panic(text in "[0-9]{0,24} ?(ms|s|m|h|é)?") {
            let _ = text.parse::<Span>();
        }
    }
}
