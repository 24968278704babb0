//! What the graph lets a workload change by its own word, at the resolver's address.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// What a workload may change of itself on the host where it says so; a key of `may:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Whether its endpoints take new sessions.
    Drain,
    /// The share of its endpoints.
    Weight,
    /// The zone or the host whose endpoints it is led to first, as a caller.
    Path,
    /// The ports at which instances of its endpoints listen.
    Instances,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Drain, Self::Weight, Self::Path, Self::Instances];

    /// As the graph writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Weight => "weight",
            Self::Path => "path",
            Self::Instances => "instances",
        }
    }

    /// `may: [drain, weight]`, the line of a workload that may change these.
    #[must_use]
    pub fn line(changes: &BTreeSet<Self>) -> String {
        format!("may: [{}]", changes.iter().map(|change| change.as_str()).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names nothing which a workload could change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing that a workload could change: write drain, weight, path or instances")]
pub struct ChangeError(String);

impl FromStr for Change {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, ChangeError> {
        Self::ALL.into_iter().find(|change| change.as_str() == text).ok_or_else(|| ChangeError(text.into()))
    }
}
