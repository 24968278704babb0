//! Limits of sessions: bytes per second, new sessions per second, concurrent sessions.

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::{InMemoryState, NotKeyed},
};
use ripstop_config::{ByteRate, OpenRate, Reason, graph::Limits};
use std::{
    cell::{Cell, RefCell},
    num::NonZeroU32,
    rc::Rc,
    time::Duration,
};

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;

/// Bytes per cell: a limiter counts in nanoseconds per cell, which for single bytes would be too coarse.
const CELL: u64 = 1024;
/// How much may pass at once, as time at the full rate: what a busy machine may be late with a wake-up, so that lateness
/// costs no rate.
const BURST: Duration = Duration::from_millis(50);
/// Smallest burst in cells.
const BURST_MIN: u64 = 4;
/// A read takes at most this part of a burst: waiting for a full bucket would lose what comes after it is full.
const READS_PER_BURST: usize = 4;

/// Holds one direction of one session to a byte rate, by making its reader wait.
pub struct Shaper {
    bucket: Bucket,
    clock: DefaultClock,
    burst: NonZeroU32,
    /// Bytes that passed and do not yet make a cell.
    remainder: Cell<u64>,
}

impl Shaper {
    /// A shaper for a rate; `None` when the rate is too high to be told from none (above 1 TB/s).
    #[must_use]
    pub fn new(rate: ByteRate) -> Option<Self> {
        let rate = rate.bytes_per_second();
        let per_cell = u64::try_from(u128::from(CELL) * 1_000_000_000 / u128::from(rate)).ok()?;
        let burst = u128::from(rate) * BURST.as_millis() / 1000 / u128::from(CELL);
        let burst = u64::try_from(burst).ok()?.max(BURST_MIN);
        let burst = NonZeroU32::new(u32::try_from(burst).ok()?)?;
        let quota = Quota::with_period(Duration::from_nanos(per_cell))?.allow_burst(burst);
        let shaper =
            Self { bucket: RateLimiter::direct(quota), clock: DefaultClock::default(), burst, remainder: Cell::new(0) };
        // Starts empty: the first second carries no more than any other.
        let _ = shaper.bucket.check_n(burst);
        Some(shaper)
    }

    /// The most bytes to read at once.
    #[must_use]
    pub fn unit(&self) -> usize {
        self.burst.get() as usize * CELL as usize / READS_PER_BURST
    }

    /// Waits until so many bytes may pass; true if it had to wait.
    pub async fn take(&self, bytes: usize) -> bool {
        let total = self.remainder.get() + bytes as u64;
        self.remainder.set(total % CELL);
        let mut cells = total / CELL;
        let mut waited = false;
        while cells > 0 {
            let now = cells.min(u64::from(self.burst.get()));
            cells -= now;
            // `now` is at most the burst, which is a u32 and not zero.
            let Some(now) = u32::try_from(now).ok().and_then(NonZeroU32::new) else { break };
            waited |= self.take_cells(now).await;
        }
        waited
    }

    async fn take_cells(&self, cells: NonZeroU32) -> bool {
        let mut waited = false;
        loop {
            match self.bucket.check_n(cells) {
                Ok(Ok(())) | Err(_) => return waited,
                Ok(Err(not_until)) => {
                    waited = true;
                    tokio::time::sleep(not_until.wait_time_from(self.clock.now())).await;
                }
            }
        }
    }
}

/// Denied attempts that are recorded per second, and at once, of one workload or one calling host. A scan is counted in full,
/// but must not fill the disk on which everybody's records go.
const DENIALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const DENIALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(2_000).expect("not zero");

/// Says which denied attempts are recorded, and which only counted.
pub struct DenialLimit(Bucket);

impl Default for DenialLimit {
    fn default() -> Self {
        Self(Bucket::direct(Quota::per_second(DENIALS_PER_SECOND).allow_burst(DENIALS_AT_ONCE)))
    }
}

impl DenialLimit {
    /// One more was denied; whether it is recorded.
    pub fn may_record(&self) -> bool {
        self.0.check().is_ok()
    }
}

/// What one edge may open on this host, shared by all its sessions.
pub struct EdgeLimits {
    limits: Cell<Limits>,
    opens: RefCell<Option<Bucket>>,
    open: Cell<u32>,
}

/// The right to have one more session open on an edge; given back when dropped.
pub struct Admission(Rc<EdgeLimits>);

impl EdgeLimits {
    /// The limits of an edge, with nothing open.
    #[must_use]
    pub fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self { limits: Cell::new(limits), opens: RefCell::new(open_bucket(&limits)), open: Cell::new(0) })
    }

    /// Goes over to other limits; what is open stays counted.
    pub fn update(&self, limits: Limits) {
        if self.limits.replace(limits).open != limits.open {
            *self.opens.borrow_mut() = open_bucket(&limits);
        }
    }

    /// Sessions of the edge are open.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.open.get() > 0
    }

    /// The right to open one more session.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(self: &Rc<Self>) -> Result<Admission, Reason> {
        if self.limits.get().sessions.is_some_and(|most| self.open.get() >= most) {
            return Err(Reason::Sessions);
        }
        if self.opens.borrow().as_ref().is_some_and(|opens| opens.check().is_err()) {
            return Err(Reason::OpenRate);
        }
        self.open.set(self.open.get() + 1);
        Ok(Admission(Rc::clone(self)))
    }
}

fn open_bucket(limits: &Limits) -> Option<Bucket> {
    limits.open.map(|rate| Bucket::direct(open_quota(rate)))
}

/// Opens come in bunches (a browser, a connection pool): a tenth of a second's worth may come at once.
fn open_quota(rate: OpenRate) -> Quota {
    let rate = rate.sessions_per_second();
    let burst = NonZeroU32::new(rate.get() / 10).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(rate).allow_burst(burst)
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// Rates are met within 5 %, in pieces as the pump takes them.
    #[test]
    fn rates_from_slow_to_fast_are_met() {
        for (rate, bytes) in [(8_000u64, 8_000usize), (1_250_000, 1_250_000), (125_000_000, 60_000_000)] {
            let shaper = Shaper::new(ByteRate::per_second(rate).unwrap()).unwrap();
            let start = Instant::now();
            run(async {
                let mut left = bytes;
                while left > 0 {
                    let piece = left.min(shaper.unit()).min(1_452);
                    shaper.take(piece).await;
                    left -= piece;
                }
            });
            let achieved = bytes as f64 / start.elapsed().as_secs_f64();
            let ratio = achieved / rate as f64;
            // A lower bound only for the slow rates: a loaded machine may be late, but never early.
            assert!(ratio < 1.15, "{rate}: {ratio}");
            assert!(ratio > 0.5, "{rate}: {ratio}");
        }
    }

    #[test]
    fn concurrent_sessions_are_counted_and_given_back() {
        let limits = EdgeLimits::new(Limits { sessions: Some(2), ..Limits::default() });
        let first = limits.admit().map_err(|reason| panic!("{reason}"));
        let second = limits.admit();
        assert!(second.is_ok());
        assert_eq!(limits.admit().err(), Some(Reason::Sessions));
        drop(first);
        assert!(limits.admit().is_ok());
    }

    #[test]
    fn opens_beyond_the_rate_are_refused() {
        let limits = EdgeLimits::new(Limits { open: OpenRate::per_second(50), ..Limits::default() });
        let admitted = (0..100).filter(|_| limits.admit().is_ok()).count();
        assert!((5..=7).contains(&admitted), "{admitted}");
        assert_eq!(limits.admit().err(), Some(Reason::OpenRate));
    }
}
