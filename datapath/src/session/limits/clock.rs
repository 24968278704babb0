//! The runtime's clock for rate limiters, so that tests may run on virtual time.

use governor::{
    clock::{Clock, Reference},
    nanos::Nanos,
};
use std::{ops::Add, time::Duration};
use tokio::time::Instant;

/// Reads the clock by which the runtime sleeps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RuntimeClock;

/// A point in time of the runtime's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(Instant);

impl At {
    /// The time since an earlier point.
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

impl Add<Nanos> for At {
    type Output = Self;

    fn add(self, more: Nanos) -> Self {
        Self(self.0 + Duration::from(more))
    }
}

impl Reference for At {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::from(self.since(earlier))
    }

    fn saturating_sub(&self, less: Nanos) -> Self {
        Self(self.0.checked_sub(Duration::from(less)).unwrap_or(self.0))
    }
}

impl Clock for RuntimeClock {
    type Instant = At;

    fn now(&self) -> At {
        At(Instant::now())
    }
}
