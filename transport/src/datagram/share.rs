//! How datagrams and streams of one connection share its path.
//!
//! quinn puts DATAGRAM frames into every packet ahead of STREAM frames. On a path that carries less than is sent, datagrams
//! that never end would leave streams nothing: no bulk, no header, no verdict. So datagrams go in bursts:
//!
//! 1. The time for which a burst held the path is measured: the time that its datagrams waited for room in quinn's small
//!    buffer, and until that was empty. Where nothing waits there is no congestion, and no burst ever ends.
//! 2. A burst that held the path for [`BURST`] ends, and the path is left to the streams for as long, times the number of
//!    streams that wait and over the number of sessions whose datagrams do: each session gets a like share.
//! 3. When the streams did not use it (quinn does not tell whether they have something to send; a stream that waits may wait
//!    for its receiver), the next burst is twice as long, up to 2^[`BACK_OFF_MAX`] times, and they are only asked
//!    [`BURST`] for `BURST`. A new write has them asked again at once.

use std::time::Duration;

/// How long datagrams hold the path at once. Timers here are good to a millisecond; a stream waits this long more.
const BURST: Duration = Duration::from_millis(4);
/// Doublings of a burst while streams do not use what they are left: 64 bursts, of which asking again costs 2 %.
const BACK_OFF_MAX: u32 = 6;
/// Longest time for which datagrams are held back at once: many streams must not make them late beyond use.
const HOLD_MAX: Duration = Duration::from_millis(200);
/// Of a like share for each session, datagrams together have a sixteenth at least, and streams together a fifth.
const STREAMS_FOR_ONE: (f64, f64) = (0.25, 16.0);

/// What is known of the streams when a burst may end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    /// Streams that wait for the path.
    pub(super) waiting: usize,
    /// Writes so far.
    pub(super) written: u64,
}

/// The state of the bursts of one connection.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// The path's time that this burst took.
    held: Duration,
    /// Its bytes.
    bytes: usize,
    /// All that the path carried meanwhile.
    all: u64,
    /// Bytes that the path carried in [`BURST`] in the burst before; not known at first.
    per_burst: Option<usize>,
    back_off: u32,
    /// Writes when streams were last asked.
    written: u64,
}

impl Share {
    /// A datagram was handed over after it had waited.
    pub(super) fn sent(&mut self, bytes: usize, waited: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.held += waited;
    }

    /// Nothing was there to be sent for a while, in which streams had the path.
    pub(super) fn idle(&mut self, idle: Duration) {
        self.held = self.held.saturating_sub(idle);
    }

    /// Whether the burst ends here.
    pub(super) fn is_over(&self, streams: Streams) -> bool {
        let asked_again = streams.written != self.written;
        let long = if asked_again { BURST } else { BURST * 2_u32.pow(self.back_off) };
        // On a slow path quinn's buffer alone would be many times a burst.
        let much = self.per_burst.is_some_and(|bytes| self.bytes >= bytes) && (asked_again || self.back_off == 0);
        self.held >= long || (much && streams.waiting > 0)
    }

    /// The burst is over and its datagrams have left: for how long to leave the path to the streams.
    ///
    /// The path carried `all` bytes in the burst: streams fill what datagrams leave of their packets.
    pub(super) fn hold(&mut self, streams: Streams, sessions: usize, all: u64) -> Duration {
        self.all = all.max(self.bytes as u64).max(1);
        let own = self.held.mul_f64(self.bytes as f64 / self.all as f64);
        let share = streams.waiting.max(1) as f64 / sessions.max(1) as f64;
        let share = share.clamp(STREAMS_FOR_ONE.0, STREAMS_FOR_ONE.1);
        match self.back_off {
            0 => own.mul_f64(share).min(HOLD_MAX),
            _ => own.min(BURST).mul_f64(share.min(1.0)),
        }
    }

    /// The streams sent `bytes` while the path was left to them for `hold`; a new burst begins.
    pub(super) fn used(&mut self, bytes: u64, hold: Duration, streams: Streams) {
        let seconds = self.held.as_secs_f64().max(1e-6);
        let rate = self.all as f64 / seconds;
        let used = bytes as f64 >= rate * hold.as_secs_f64() / 2.0;
        self.back_off = if used { 0 } else { (self.back_off + 1).min(BACK_OFF_MAX) };
        self.per_burst = Some((rate * BURST.as_secs_f64()) as usize);
        self.written = streams.written;
        (self.held, self.bytes, self.all) = (Duration::ZERO, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn streams(waiting: usize, written: u64) -> Streams {
        Streams { waiting, written }
    }

    #[test]
    fn without_congestion_no_burst_ends() {
        let mut share = Share::default();
        for written in 0..100_000 {
            share.sent(1_200, Duration::ZERO);
            assert!(!share.is_over(streams(8, written)));
        }
    }

    #[test]
    fn streams_that_use_their_time_get_as_much_of_it_each_as_a_session() {
        for (waiting, sessions, expected) in [(1, 1, 1.0), (8, 1, 8.0), (8, 4, 2.0), (1, 100, 0.25), (1_000, 1, 16.0)] {
            let mut share = Share::default();
            for _ in 0..10 {
                let now = streams(waiting, 0);
                while !share.is_over(now) {
                    share.sent(1_250, MS);
                }
                let held = share.held;
                let hold = share.hold(now, sessions, 0);
                assert!((hold.as_secs_f64() / held.as_secs_f64() - expected).abs() < 0.01, "{hold:?} after {held:?}");
                share.used((1_250.0 * hold.as_secs_f64() * 1e3) as u64, hold, now);
            }
        }
    }

    #[test]
    fn streams_that_do_not_use_it_cost_little_and_are_asked_again_when_they_write() {
        let mut share = Share::default();
        let (mut held, mut left) = (Duration::ZERO, Duration::ZERO);
        let stalled = streams(200, 7);
        for _ in 0..100 {
            while !share.is_over(stalled) {
                share.sent(1_250, MS);
            }
            held += share.held;
            let hold = share.hold(stalled, 1, 0);
            left += hold;
            share.used(0, hold, stalled);
        }
        assert!(left.as_secs_f64() / held.as_secs_f64() < 0.05, "{left:?} of {held:?}");
        for _ in 0..4 {
            assert!(!share.is_over(streams(1, 8)));
            share.sent(1_250, MS);
        }
        assert!(share.is_over(streams(1, 8)), "at the end of one burst");
    }
}
