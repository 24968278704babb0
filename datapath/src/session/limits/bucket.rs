//! A byte rate as a bucket that fills with time.

use super::clock::{At, RuntimeClock};
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use ripstop_config::ByteRate;
use std::{cell::Cell, num::NonZeroU32, time::Duration};

type Limiter = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, StateInformationMiddleware>;

/// Bytes per cell: a limiter counts in nanoseconds per cell, which for single bytes would be too coarse.
pub(super) const CELL: u64 = 1024;
/// How much may pass at once, as time at the full rate: what a busy machine may be late with a wake-up, so that lateness
/// costs no rate.
const BURST: Duration = Duration::from_millis(50);
/// Smallest burst of one stream, in cells: four of its smallest pieces.
const STREAM_BURST_MIN: u64 = 4;
/// Smallest burst where datagrams may pass, in cells: the largest datagram (65 507 bytes), which cannot be cut.
const DATAGRAM_BURST_MIN: u64 = 64;
/// What is kept for sessions that use less than their share, as time at the full rate and at least in cells: they find it
/// there, and do not wait behind one that takes all it can get.
const RESERVE: Duration = Duration::from_millis(25);
const RESERVE_MIN: u64 = 4;
/// The most that is taken at once, as time at the full rate: a small part of a burst, as waiting for a full bucket would
/// lose what comes after it is full.
const UNIT: Duration = Duration::from_micros(12_500);

/// Whose bytes a bucket limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those of one session that carries a stream.
    Stream,
    /// Those of one session that carries datagrams.
    Datagrams,
    /// Those of many sessions, of either sort.
    Shared,
}

/// What a bucket holds when it is first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Only the reserve: a stream can wait, so its first second carries no more than any other.
    Empty,
    /// All: a datagram that comes first would else be lost.
    Full,
}

/// The sizes of a bucket, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    per_cell: u64,
    burst: u32,
    reserve: u64,
    unit: u64,
}

impl Sizes {
    fn of(rate: ByteRate, kind: Kind) -> Option<Self> {
        let rate = rate.bytes_per_second();
        let per_cell = u64::try_from(u128::from(CELL) * 1_000_000_000 / u128::from(rate)).ok()?;
        let cells_in = |time: Duration| u64::try_from(u128::from(rate) * time.as_micros() / 1_000_000 / 1024).ok();
        let (least, reserve) = match kind {
            Kind::Stream => (STREAM_BURST_MIN, 0),
            Kind::Datagrams => (DATAGRAM_BURST_MIN, 0),
            Kind::Shared => (DATAGRAM_BURST_MIN, cells_in(RESERVE)?.max(RESERVE_MIN)),
        };
        let burst = u32::try_from(cells_in(BURST)?.max(least) + reserve).ok()?;
        (per_cell > 0).then_some(Self { per_cell, burst, reserve, unit: cells_in(UNIT)?.max(1) })
    }

    fn burst_bytes(self) -> u64 {
        u64::from(self.burst) * CELL
    }
}

/// A byte rate.
pub(super) struct Bucket {
    limiter: Limiter,
    sizes: Sizes,
    /// Cells that were left, and when: what the limiter does not tell without being asked for some.
    left: Cell<(u64, At)>,
    /// Bytes that passed and do not yet make a cell.
    remainder: Cell<u64>,
}

impl Bucket {
    /// A bucket for a rate; `None` when the rate is too high to be told from none (above 1 TB/s).
    pub(super) fn new(rate: ByteRate, kind: Kind, start: Start) -> Option<Self> {
        let sizes = Sizes::of(rate, kind)?;
        let burst = NonZeroU32::new(sizes.burst)?;
        let quota = Quota::with_period(Duration::from_nanos(sizes.per_cell))?.allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, RuntimeClock).with_middleware();
        let left = match start {
            Start::Full => u64::from(sizes.burst),
            Start::Empty => {
                if let Some(gone) = NonZeroU32::new(burst.get().saturating_sub(u32::try_from(sizes.reserve).ok()?)) {
                    // It has a whole burst, as it was not used yet.
                    let _ = limiter.check_n(gone);
                }
                sizes.reserve
            }
        };
        Some(Self { limiter, sizes, left: Cell::new((left, RuntimeClock.now())), remainder: Cell::new(0) })
    }

    /// The most bytes to take at once.
    pub(super) fn unit(&self) -> u64 {
        self.sizes.unit * CELL
    }

    /// What may pass at once after a pause, in bytes.
    pub(super) fn burst(&self) -> u64 {
        self.sizes.burst_bytes()
    }

    /// The same of a bucket that is not made yet; `None` where none would be.
    pub(super) fn burst_of(rate: ByteRate, kind: Kind) -> Option<u64> {
        Sizes::of(rate, kind).map(Sizes::burst_bytes)
    }

    /// How long until so many bytes may pass; zero when they may at once. Whoever is not `light` leaves the reserve alone.
    pub(super) fn wait(&self, bytes: u64, light: bool) -> Duration {
        self.wait_at(self.cells(bytes), light, RuntimeClock.now())
    }

    /// Lets so many bytes pass, at most a burst less the reserve.
    ///
    /// # Errors
    /// How long until they may.
    pub(super) fn take(&self, bytes: u64, light: bool) -> Result<(), Duration> {
        let cells = self.cells(bytes);
        if let Some(cells) = u32::try_from(cells).ok().and_then(NonZeroU32::new) {
            let now = RuntimeClock.now();
            let wait = self.wait_at(u64::from(cells.get()), light, now);
            if !wait.is_zero() {
                return Err(wait);
            }
            match self.limiter.check_n(cells) {
                Ok(Ok(state)) => self.left.set((u64::from(state.remaining_burst_capacity()), now)),
                Ok(Err(not_until)) => return Err(not_until.wait_time_from(now).max(Duration::from_nanos(1))),
                // More than a burst: `cells` gives no such number.
                Err(_) => {}
            }
        }
        self.remainder.set((self.remainder.get() + bytes) % CELL);
        Ok(())
    }

    fn cells(&self, bytes: u64) -> u64 {
        ((self.remainder.get() + bytes) / CELL).min(u64::from(self.sizes.burst) - self.sizes.reserve)
    }

    fn wait_at(&self, cells: u64, light: bool, now: At) -> Duration {
        if cells == 0 {
            return Duration::ZERO;
        }
        let (left, at) = self.left.get();
        let wanted = if light { cells } else { cells + self.sizes.reserve };
        let missing = Duration::from_nanos(self.sizes.per_cell)
            .saturating_mul(u32::try_from(wanted.saturating_sub(left)).unwrap_or(u32::MAX));
        missing.saturating_sub(now.since(at))
    }
}
