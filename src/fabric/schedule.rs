//! When a certificate is renewed, as of the wall clock, whichever way that jumps. Pure.

use std::time::{Duration, SystemTime};

/// Part of its life after which a certificate is renewed.
const HALF: f64 = 0.5;
/// Part of its life by which that is put off at most, so that the hosts of a fabric do not renew all at once.
const SPREAD: f64 = 0.1;
/// Part of its life from which a certificate that was not renewed is something to be told of.
const WORRYING: f64 = 0.7;
/// Pauses after failures: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
/// In its life a certificate is tried to be renewed so often at least, however short that is.
const TRIES: u32 = 16;
/// How often to look at the clock: a machine that slept, or whose clock was set, is noticed within this.
const LOOK_MAX: Duration = Duration::from_secs(30);
const LOOK_MIN: Duration = Duration::from_millis(100);

/// A certificate's life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// From 0 to 1, drawn once for each certificate.
    pub(super) spread: f64,
}

impl Life {
    fn whole(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// Also a certificate that is not valid yet is replaced: it comes of a clock that was ahead.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        now < self.not_before || now >= self.not_before + self.whole().mul_f64(HALF + SPREAD * self.spread)
    }

    /// It should have been replaced long ago.
    pub(super) fn is_worrying(&self, now: SystemTime) -> bool {
        now < self.not_before || now >= self.not_before + self.whole().mul_f64(WORRYING)
    }

    /// How long to wait before looking at the clock again.
    pub(super) fn look(&self) -> Duration {
        (self.whole() / TRIES / 2).clamp(LOOK_MIN, LOOK_MAX)
    }

    /// How long to wait after so many failures in a row; `drawn` is from 0 to 1.
    pub(super) fn pause(&self, failures: u32, drawn: f64) -> Duration {
        let growing = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = PAUSE_MAX.min((self.whole() / TRIES).max(LOOK_MIN));
        growing.min(longest).mul_f64(0.5 + drawn / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn life(whole: Duration) -> (SystemTime, Life) {
        let start = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
        (start, Life { not_before: start, not_after: start + whole, spread: 0.5 })
    }

    #[test]
    fn it_is_due_at_half_its_life_or_when_the_clock_was_wrong() {
        let (start, day) = life(24 * HOUR);
        assert!(!day.is_due(start) && !day.is_due(start + 13 * HOUR), "half a day and a spread");
        assert!(day.is_due(start + 14 * HOUR) && !day.is_worrying(start + 16 * HOUR));
        assert!(day.is_worrying(start + 17 * HOUR), "with seven hours left");
        let ten_years = 87_600 * HOUR;
        for away in [start + ten_years, start - ten_years] {
            assert!(day.is_due(away) && day.is_worrying(away));
        }
        assert!(!day.is_due(start + HOUR), "and no more once the clock is right again");
    }

    #[test]
    fn hosts_do_not_renew_at_once() {
        let (start, day) = life(24 * HOUR);
        let due =
            |spread| (0..24 * 60).find(|minute| Life { spread, ..day }.is_due(start + *minute * HOUR / 60)).unwrap();
        assert_eq!((due(0.0), due(1.0)), (720, 864));
    }

    #[test]
    fn failures_are_retried_with_growing_pauses_but_often_enough() {
        let (_, day) = life(24 * HOUR);
        let pauses: Vec<_> = (1..12).map(|failures| day.pause(failures, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(day.pause(4_000_000_000, 0.0), PAUSE_MAX / 2);
        let (_, short) = life(Duration::from_secs(8));
        assert_eq!(short.pause(9, 1.0), Duration::from_millis(500));
        assert!(short.look() <= Duration::from_millis(250) && day.look() == LOOK_MAX);
    }
}
