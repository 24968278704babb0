//! Congestion control: CUBIC (RFC 9438) that keeps no queue of its own making, and never sends less at once than it began
//! with.
//!
//! All sessions of two hosts share one connection, and what waits in the path waits in one line: a session that wants
//! little stands behind all that one that takes everything has under way. CUBIC fills the narrowest queue until it
//! overflows; what is held back at the sender instead waits stream by stream, where sessions take turns. So the window is
//! bounded by the delay that it causes:
//!
//! 1. The shortest round trip of the last [`BASE_FOR`] is taken for the path without a queue.
//! 2. Once a round trip, the shortest one of that round shows the queue that never drained in it.
//! 3. Longer than [`allowed`]: the bound is set to what the path holds with an allowed queue, in proportion, and the next
//!    round shows what came of it. Shorter: the bound rises, and CUBIC's window rules again when it is the smaller one.
//! 4. A queue that stays while the bound shrinks, and that overflows even so, is somebody else's. A bound would only
//!    give them our share, so CUBIC alone rules for [`COMPETE_FOR`]. Without a loss it may be that both hosts are late to
//!    look at what has arrived: then the bound stays at [`BOUND_MIN`].
//! 5. On a short path no more is under way than a receiving socket's buffer holds, whatever the delay.
//!
//! The floor: CUBIC answers loss that has nothing to do with congestion down to two packets a round trip for all sessions,
//! less than one acknowledgement waits for, so that each round waits for the timer of delayed ones.
//!
//! A packet that is lost while few are sent, such as the first one to a host that is not up yet, says nothing of what the path
//! carries either. CUBIC would end slow start for it, and a long path would have a packet more with each round trip for as long as
//! the connection lives. At the floor, such a loss has CUBIC begin anew instead, which sends no more at once than before.

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;
use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

/// Packets that may always be in flight: what any connection may begin with without knowing the path (RFC 9002 section
/// 7.2).
const FLOOR: u64 = 10;
/// How long the shortest round trip is believed; a path that became longer is known after this.
const BASE_FOR: Duration = Duration::from_secs(10);
/// Queue that is allowed on every path: hosts that are busy look at what has arrived so much later.
const QUEUE_MIN: Duration = Duration::from_millis(1);
/// Queue that is allowed on a long path, as a part of its round trip: long paths vary more.
const QUEUE_PART: u32 = 8;
/// Times in a row that the bound shrinks before a queue can be somebody else's.
const STUBBORN: u32 = 6;
/// The bound in bytes at least: 1 Gbit/s for a host that looks at what has arrived once a millisecond.
const BOUND_MIN: u64 = 128 << 10;
/// Bytes in flight at most on a path whose round trip is shorter than [`SHORT`], and in proportion on longer ones: what the
/// receiving socket's buffer holds, in which packets take up about twice their length.
const UNDER_WAY: u64 = 3 << 19;
const SHORT: Duration = Duration::from_millis(1);
/// How long CUBIC alone rules where somebody else fills the queue.
const COMPETE_FOR: Duration = Duration::from_secs(2);
/// The bound falls to three quarters of itself in one round at most: one late wake-up is not to empty the path.
const FALL: f64 = 0.75;
/// And rises by an eighth.
const RISE: f64 = 1.125;

/// The queue that may stand in a path of such a round trip.
fn allowed(base: Duration) -> Duration {
    QUEUE_MIN.max(base / QUEUE_PART)
}

/// Makes the controllers of connections.
#[derive(Debug, Default)]
pub(crate) struct Factory(Arc<CubicConfig>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bounded::new(Arc::clone(&self.0), now, current_mtu))
    }
}

#[derive(Debug, Clone)]
struct Bounded {
    config: Arc<CubicConfig>,
    cubic: Cubic,
    mtu: u16,
    delay: Delay,
    /// The last acknowledgement found less to be sent than the window allows.
    app_limited: bool,
}

impl Bounded {
    fn new(config: Arc<CubicConfig>, now: Instant, mtu: u16) -> Self {
        let cubic = Cubic::new(Arc::clone(&config), now, mtu);
        Self { config, cubic, mtu, delay: Delay::new(now), app_limited: false }
    }

    fn floor(&self) -> u64 {
        FLOOR * u64::from(self.mtu)
    }
}

impl Controller for Bounded {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        // A window that is not used says nothing of the path, and may not grow.
        let unused = app_limited || self.cubic.window() > self.delay.bound().saturating_mul(2);
        self.cubic.on_ack(now, sent, bytes, unused, rtt);
        self.delay.on_ack(now, sent, app_limited, self.window(), self.floor());
        self.app_limited = app_limited;
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        if self.app_limited && self.cubic.window() <= self.floor() {
            self.cubic = Cubic::new(Arc::clone(&self.config), now, self.mtu);
            return;
        }
        self.delay.on_loss(now, sent);
        self.cubic.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
        self.mtu = new_mtu;
    }

    fn window(&self) -> u64 {
        self.cubic.window().min(self.delay.bound()).max(self.floor())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The bound on the window, by the delay that it causes.
#[derive(Debug, Clone)]
struct Delay {
    /// Bytes in flight at most, while there is a queue to bound.
    bound: Option<u64>,
    base: Shortest,
    /// When the round began, and the shortest round trip in it.
    round: Instant,
    standing: Option<Duration>,
    /// What was in flight in this round was sent before the bound shrank.
    settling: bool,
    /// Times in a row that the bound shrank, and since when it is so tight that the queue should be gone.
    shrunk: u32,
    tight: Option<Instant>,
    compete_until: Option<Instant>,
}

impl Delay {
    fn new(now: Instant) -> Self {
        Self {
            bound: None,
            base: Shortest::new(now),
            round: now,
            standing: None,
            settling: false,
            shrunk: 0,
            tight: None,
            compete_until: None,
        }
    }

    fn bound(&self) -> u64 {
        let stretch = self.base.get().as_secs_f64() / SHORT.as_secs_f64();
        let under_way = (UNDER_WAY as f64 * stretch.max(1.0)) as u64;
        self.bound.unwrap_or(u64::MAX).min(under_way)
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, app_limited: bool, window: u64, floor: u64) {
        let trip = now.saturating_duration_since(sent);
        self.base.see(now, trip);
        if sent >= self.round {
            if let Some(standing) = self.standing.take() {
                self.end_round(now, standing, app_limited, window, floor);
            }
            self.round = now;
        }
        self.standing = Some(self.standing.map_or(trip, |standing| standing.min(trip)));
    }

    fn end_round(&mut self, now: Instant, standing: Duration, app_limited: bool, window: u64, floor: u64) {
        if self.compete_until.is_some_and(|until| now < until) || std::mem::take(&mut self.settling) {
            return;
        }
        self.compete_until = None;
        let base = self.base.get();
        let queue = standing.saturating_sub(base);
        if queue <= allowed(base) {
            self.rise(app_limited, window);
        } else {
            self.fall(now, standing, base + allowed(base), window, floor);
        }
    }

    fn rise(&mut self, app_limited: bool, window: u64) {
        (self.shrunk, self.tight) = (0, None);
        let Some(bound) = self.bound else { return };
        if !app_limited {
            let risen = (bound as f64 * RISE) as u64;
            self.bound = (risen < window).then_some(risen);
        }
    }

    fn fall(&mut self, now: Instant, standing: Duration, wanted: Duration, window: u64, floor: u64) {
        self.shrunk += 1;
        if self.shrunk == STUBBORN {
            self.tight = Some(now);
        }
        self.settling = true;
        let part = (wanted.as_secs_f64() / standing.as_secs_f64()).max(FALL);
        let bound = self.bound.map_or(window, |bound| bound.min(window));
        self.bound = Some(((bound as f64 * part) as u64).max(floor).max(BOUND_MIN));
    }

    fn on_loss(&mut self, now: Instant, sent: Instant) {
        if self.tight.is_some_and(|since| sent > since) {
            (self.bound, self.shrunk, self.tight) = (None, 0, None);
            self.compete_until = Some(now + COMPETE_FOR);
        }
    }
}

/// The shortest of some values over [`BASE_FOR`] to twice that.
#[derive(Debug, Clone)]
struct Shortest {
    current: Duration,
    previous: Duration,
    since: Instant,
}

impl Shortest {
    fn new(now: Instant) -> Self {
        Self { current: Duration::MAX, previous: Duration::MAX, since: now }
    }

    fn see(&mut self, now: Instant, value: Duration) {
        if now.saturating_duration_since(self.since) >= BASE_FOR {
            (self.previous, self.current, self.since) = (self.current, Duration::MAX, now);
        }
        self.current = self.current.min(value);
    }

    fn get(&self) -> Duration {
        self.current.min(self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR_BYTES: u64 = FLOOR * 1_452;
    const WINDOW: u64 = 1 << 30;

    /// A loss ends slow start where the window was used, and only there or above the floor.
    #[test]
    fn a_packet_lost_while_few_are_sent_says_nothing_of_the_path() {
        let start = Instant::now();
        let after_loss = |app_limited: bool, window: u64| {
            let mut controller = Bounded::new(Arc::default(), start, 1_452);
            controller.cubic = Cubic::new(with_initial(window), start, 1_452);
            controller.app_limited = app_limited;
            controller.on_congestion_event(start + ms(300), start, false, 2_400);
            let metrics = controller.metrics();
            (metrics.ssthresh.unwrap(), metrics.congestion_window)
        };
        assert_eq!(after_loss(true, 12_000), (u64::MAX, FLOOR_BYTES));
        assert_eq!(after_loss(false, 12_000), (8_400, FLOOR_BYTES));
        assert_eq!(after_loss(true, 100_000), (70_000, 70_000));
    }

    fn with_initial(window: u64) -> Arc<CubicConfig> {
        let mut config = CubicConfig::default();
        config.initial_window(window);
        Arc::new(config)
    }

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// So many round trips of a length, each with one acknowledgement, full windows throughout.
    fn rounds(delay: &mut Delay, mut now: Instant, count: u32, trip: Duration) -> Instant {
        for _ in 0..count {
            let window = WINDOW.min(delay.bound());
            delay.on_ack(now + trip, now, false, window, FLOOR_BYTES);
            now += trip;
        }
        now
    }

    #[test]
    fn a_path_without_a_queue_is_bounded_by_the_receiving_socket_alone() {
        let start = Instant::now();
        for (trip, bytes) in [(Duration::from_micros(100), UNDER_WAY), (ms(1), UNDER_WAY), (ms(40), 40 * UNDER_WAY)] {
            let mut delay = Delay::new(start);
            rounds(&mut delay, start, 50, trip);
            assert_eq!((delay.bound, delay.bound()), (None, bytes), "{trip:?}");
        }
    }

    #[test]
    fn a_queue_shrinks_the_bound_and_its_end_lifts_it() {
        let start = Instant::now();
        let mut delay = Delay::new(start);
        let now = rounds(&mut delay, start, 5, ms(1));
        // The round that ends is the one before: the first long one has no bound yet.
        let now = rounds(&mut delay, now, 2, ms(4));
        assert_eq!(delay.bound, Some(UNDER_WAY * 3 / 4), "by a quarter at most");
        let now = rounds(&mut delay, now, 1, ms(4));
        assert_eq!(delay.bound, Some(UNDER_WAY * 3 / 4), "the next round was sent before");
        let now = rounds(&mut delay, now, 20, ms(4));
        assert_eq!(delay.bound, Some(BOUND_MIN));
        rounds(&mut delay, now, 40, ms(1));
        assert_eq!(delay.bound, None);
    }

    #[test]
    fn a_long_path_may_vary_by_a_part_of_itself() {
        let start = Instant::now();
        let mut delay = Delay::new(start);
        let now = rounds(&mut delay, start, 5, ms(80));
        let now = rounds(&mut delay, now, 20, ms(89));
        assert_eq!(delay.bound, None);
        rounds(&mut delay, now, 20, ms(95));
        assert!(delay.bound.is_some());
    }

    #[test]
    fn a_queue_that_overflows_though_the_bound_is_tight_is_somebody_elses() {
        let start = Instant::now();
        let mut delay = Delay::new(start);
        let now = rounds(&mut delay, start, 5, ms(1));
        delay.on_loss(now, now);
        let now = rounds(&mut delay, now, 40, ms(4));
        assert!(delay.bound.is_some(), "no loss: the hosts may be late");
        delay.on_loss(now, start);
        assert!(delay.bound.is_some(), "what was lost was sent before the bound was tight");
        delay.on_loss(now, now);
        assert_eq!(delay.bound, None);
        let now = rounds(&mut delay, now, 400, ms(4));
        assert_eq!(delay.bound, None, "so CUBIC alone rules");
        rounds(&mut delay, now, 200, ms(4));
        assert!(delay.bound.is_some(), "for a while");
    }

    #[test]
    fn a_path_that_became_longer_is_known_in_time() {
        let start = Instant::now();
        let mut delay = Delay::new(start);
        let now = rounds(&mut delay, start, 5, ms(1));
        let now = rounds(&mut delay, now, 1_000, ms(30));
        assert_eq!(delay.base.get(), ms(30), "after {:?}", now - start);
        assert_eq!(delay.bound, None);
    }
}
