//! Which of two policies is newer.

use crate::name::NameError;
use std::{fmt, str::FromStr};

/// The version of a signed policy, written `EPOCH.COUNTER`. It only ever grows, and comes from no clock: operators count.
///
/// A policy that is a file of the host has [`PolicyVersion::UNSIGNED`], which is older than every signed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PolicyVersion {
    /// Which series of counters: a new one is begun when it is not known how far the last one got.
    pub epoch: u64,
    /// The place within the series, from 1.
    pub counter: u64,
}

impl PolicyVersion {
    /// Of a policy that nobody signed.
    pub const UNSIGNED: Self = Self { epoch: 0, counter: 0 };

    /// The version after this one in its series; `None` at the end of all numbers. The first series is number 1.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Some(Self { epoch: self.epoch.max(1), counter: self.counter.checked_add(1)? })
    }

    /// The first version of the series after this one's; `None` at the end of all numbers.
    #[must_use]
    pub fn next_epoch(self) -> Option<Self> {
        Some(Self { epoch: self.epoch.checked_add(1)?, counter: 1 })
    }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

impl FromStr for PolicyVersion {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Form(text.into(), "a version of the policy: write EPOCH.COUNTER, such as 1.17");
        let (epoch, counter) = text.split_once('.').ok_or_else(wrong)?;
        // `+1` is a number to Rust, and would be another text for the same version.
        let number = |digits: &str| digits.parse().ok().filter(|number: &u64| number.to_string() == digits);
        Ok(Self { epoch: number(epoch).ok_or_else(wrong)?, counter: number(counter).ok_or_else(wrong)? })
    }
}

impl serde::Serialize for PolicyVersion {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PolicyVersion {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_counts_more_than_any_counter() {
        let version = |text: &str| text.parse::<PolicyVersion>().unwrap();
        let order = ["0.0", "0.1", "1.0", "1.9", "1.10", "1.18446744073709551615", "2.0"].map(version);
        assert!(order.is_sorted_by(|one, next| one < next));
        assert_eq!(version("1.10").to_string(), "1.10");
        assert_eq!(PolicyVersion::UNSIGNED.next(), Some(version("1.1")));
        assert_eq!(version("1.9").next(), Some(version("1.10")));
        assert_eq!(version("1.9").next_epoch(), Some(version("2.1")));
        assert_eq!(version("1.18446744073709551615").next(), None);
    }

    #[test]
    fn a_version_is_written_in_one_way() {
        for bad in ["", "1", "1.", ".1", "1.2.3", "+1.2", "01.2", "1.-2", "1. 2", "18446744073709551616.1"] {
            assert!(bad.parse::<PolicyVersion>().is_err(), "{bad}");
        }
    }
}
