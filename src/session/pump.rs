//! Carries one session's bytes between its two sides, each direction at its own pace.
//!
//! A side is a workload's connection in userspace TCP, an endpoint's kernel socket, or a QUIC stream; the pump does not
//! know which. Per direction: read a piece, wait for the limiter, write it, count it; on end-of-stream finish the other
//! side and let the opposite direction go on (half-close). What breaks on either side ends both.

use super::{balance::Using, limits::Shaper};
use crate::telemetry::EdgeInstruments;
use bytes::Bytes;
use ripstop_config::Reason;
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

pub use crate::stack::Broken;

/// Pieces handed on at once: bounds one turn, and is what one `writev` or one QUIC write takes.
pub const PIECES: usize = 32;
/// Bytes asked for at once from a side that can give as many.
pub const READ: usize = 64 * 1024;

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// So many bytes were appended.
    Bytes(usize),
    /// The side has finished sending.
    End,
}

/// Where a session's bytes come from.
#[expect(async_fn_in_trait, reason = "sessions stay on one thread: no bound on the futures is wanted")]
pub trait Source {
    /// Appends pieces to `pieces`, at most `max` bytes and [`PIECES`] pieces.
    ///
    /// # Errors
    /// [`Broken`] when the side was reset or is gone.
    async fn read(&mut self, max: usize, pieces: &mut Vec<Bytes>) -> Result<Got, Broken>;

    /// Says that nothing more is read, because the session was cut off.
    fn stop(&mut self, reason: Reason);
}

/// Where a session's bytes go.
#[expect(async_fn_in_trait, reason = "sessions stay on one thread: no bound on the futures is wanted")]
pub trait Sink {
    /// Writes all the pieces and empties the list.
    ///
    /// # Errors
    /// [`Broken`] when the side was reset or is gone.
    async fn write(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Broken>;

    /// Says that nothing more comes.
    fn finish(&mut self);

    /// Says that the session was cut off: what is under way may be lost.
    fn reset(&mut self, reason: Reason);

    /// Resolves when the side can no longer take anything, even while there is nothing to write.
    async fn broken(&mut self) -> Broken;
}

/// The two directions of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the caller to the service.
    Up,
    /// From the service to the caller.
    Down,
}

/// What one direction has done so far; read by records and the live view while the session runs.
#[derive(Debug, Default)]
pub struct Meter {
    /// Payload bytes handed on.
    pub bytes: Cell<u64>,
    /// Time spent waiting for the limiter.
    pub waited: Cell<Duration>,
}

/// One direction of a session.
pub struct Direction<'s, F, T> {
    /// Where bytes come from.
    pub from: &'s mut F,
    /// Where bytes go.
    pub to: &'s mut T,
    /// What holds it to its byte rates.
    pub shaper: Shaper,
    /// What is counted for the session.
    pub meter: &'s Meter,
    /// What is counted for the edge, and as which way.
    pub instruments: Option<&'s EdgeInstruments>,
    /// Which way it goes.
    pub way: Way,
    /// Who wants to know how soon the endpoint answers.
    pub using: Option<&'s Using>,
}

impl<F: Source, T: Sink> Direction<'_, F, T> {
    /// Carries bytes until the source has finished.
    ///
    /// # Errors
    /// [`Broken`] when either side was reset or is gone.
    pub async fn run(mut self) -> Result<(), Broken> {
        let mut pieces = Vec::new();
        loop {
            let unit = self.shaper.unit().map_or(READ, |unit| unit.min(READ));
            let got = tokio::select! {
                biased;
                got = self.from.read(unit, &mut pieces) => got?,
                broken = self.to.broken() => return Err(broken),
            };
            let Got::Bytes(length) = got else {
                self.to.finish();
                return Ok(());
            };
            if self.way == Way::Down {
                self.tell();
            }
            self.throttle(length).await;
            self.to.write(&mut pieces).await?;
            if self.way == Way::Up {
                self.tell();
            }
            self.count(length as u64);
        }
    }

    /// What waiting there is on the way, for the limiter or a slow reader, is not the endpoint's.
    fn tell(&self) {
        if let Some(using) = self.using {
            using.moved(self.way);
        }
    }

    fn count(&self, length: u64) {
        self.meter.bytes.set(self.meter.bytes.get() + length);
        match (self.instruments, self.way) {
            (Some(instruments), Way::Up) => instruments.bytes_up(length),
            (Some(instruments), Way::Down) => instruments.bytes_down(length),
            (None, Way::Up | Way::Down) => {}
        }
    }

    async fn throttle(&mut self, length: usize) {
        if self.shaper.unit().is_none() {
            return;
        }
        let start = Instant::now();
        if self.shaper.take(length).await {
            self.meter.waited.set(self.meter.waited.get() + start.elapsed());
        }
    }
}
