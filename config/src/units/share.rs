//! Shares of a whole.

use super::UnitError;
use std::{fmt, str::FromStr};

/// A share of sessions, written `0.25`: from 0, none, to 1, all. Kept in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// How it is written, for messages.
const FORM: &str = "a share: write a number from 0 (none) to 1 (all), such as `0.25`";
const MILLION: u32 = 1_000_000;

impl Share {
    /// The whole.
    pub const ALL: Self = Self(MILLION);

    /// Whether a random number is within the share; the same number always is or is not, and what is within a share is
    /// within every larger one.
    #[must_use]
    pub fn takes(self, random: u64) -> bool {
        u128::from(random) * u128::from(MILLION) < u128::from(self.0) << 64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&(f64::from(self.0) / f64::from(MILLION)), f)
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::new(text, FORM);
        let share: f64 = text.parse().map_err(|_| wrong())?;
        if !(0.0..=1.0).contains(&share) {
            return Err(wrong());
        }
        // Between 0 and a million: nothing is lost.
        Ok(Self((share * f64::from(MILLION)).round() as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_so_many_and_nested() {
        let [none, tenth, all] = ["0", "0.1", "1"].map(|text| text.parse::<Share>().unwrap());
        assert!(!none.takes(0) && all.takes(u64::MAX) && all == Share::ALL);
        let step = u64::MAX / 10_000;
        let spread = || (0..10_000_u64).map(|n| n * step + step / 2);
        assert_eq!(spread().filter(|random| tenth.takes(*random)).count(), 1_000);
        let half: Share = "0.5".parse().unwrap();
        assert!(spread().filter(|random| tenth.takes(*random)).all(|random| half.takes(random)));
        assert_eq!(tenth.to_string(), "0.1");
        for wrong in ["", "-0.1", "1.1", "10%", "NaN", "inf"] {
            assert!(wrong.parse::<Share>().unwrap_err().to_string().contains("from 0 (none) to 1"), "{wrong}");
        }
    }
}
