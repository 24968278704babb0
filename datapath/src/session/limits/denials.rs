//! How many denied attempts are recorded.

use governor::{DefaultDirectRateLimiter, Quota};
use std::num::NonZeroU32;

/// Denied attempts that are recorded per second, and at once, of one workload or one calling host. A scan is counted in full,
/// but must not fill the disk on which everybody's records go.
const DENIALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const DENIALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(2_000).expect("not zero");

/// Says which denied attempts are recorded, and which only counted.
pub struct DenialLimit(DefaultDirectRateLimiter);

impl Default for DenialLimit {
    fn default() -> Self {
        let quota = Quota::per_second(DENIALS_PER_SECOND).allow_burst(DENIALS_AT_ONCE);
        Self(DefaultDirectRateLimiter::direct(quota))
    }
}

impl DenialLimit {
    /// One more was denied; whether it is recorded.
    pub fn may_record(&self) -> bool {
        self.0.check().is_ok()
    }
}
