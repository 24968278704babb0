//! Carries one session's bytes between its two sides, each direction at its own pace.
//!
//! A side is a workload's connection in userspace TCP, an endpoint's kernel socket, or a QUIC stream; the pump does not
//! know which. Per direction: read a piece, wait for the limiter, write it, count it; on end-of-stream finish the other
//! side and let the opposite direction go on (half-close). What breaks on either side ends both; a reset takes effect behind
//! what was sent before it, as it does over one connection.

use super::{balance::Using, limits::Shaper};
use crate::polling;
use bytes::Bytes;
use ripstop_config::Reason;
use ripstop_telemetry::EdgeInstruments;
use std::{
    cell::Cell,
    pin::pin,
    time::{Duration, Instant},
};

pub use crate::stack::Broken;

/// Pieces handed on at once: bounds one turn, and is what one `writev` or one QUIC write takes.
pub const PIECES: usize = 32;
/// Bytes asked for at once from a side that can give as many.
pub const READ: usize = 64 * 1024;

/// How long a side that was reset waits for the other one to take what was sent before. An application that reads takes it at
/// once; one that does not learns of the reset so much later than it would over one connection.
pub const RESET_PATIENCE: Duration = Duration::from_secs(1);

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

    /// Resolves when the side was reset or is gone before its end, even while what it sent before is not yet read.
    async fn broken(&mut self) -> Broken;

    /// Says that the session was reset behind the `written` bytes that the other half of this side was given. False where
    /// there is no way to say so.
    fn stop_behind(&mut self, reason: Reason, written: u64) -> bool;

    /// Says that nothing more is read, because the session was cut off.
    fn stop(&mut self, reason: Reason);
}

/// Where a session's bytes go.
#[expect(async_fn_in_trait, reason = "sessions stay on one thread: no bound on the futures is wanted")]
pub trait Sink {
    /// Writes all the pieces and empties the list. The last of them may be held, to leave with what follows: until
    /// [`Sink::flush`] or [`Sink::finish`], or until somebody waits for [`Sink::broken`] or [`Sink::taken`].
    ///
    /// # Errors
    /// [`Broken`] when the side was reset or is gone.
    async fn write(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Broken>;

    /// Sends what was written and is held.
    fn flush(&mut self);

    /// Says that nothing more comes.
    fn finish(&mut self);

    /// Bytes that were written.
    fn written(&self) -> u64;

    /// Resolves when the side has what was written, as far as it can be known. `told` when its other half was told of a
    /// reset behind that.
    async fn taken(&mut self, told: bool);

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

/// Which end of a direction broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Where the bytes come from, and all that it sent was handed on, or could not be in time.
    Source(Broken),
    /// Where the bytes go.
    Sink(Broken),
}

impl<F: Source, T: Sink> Direction<'_, F, T> {
    /// Carries bytes until the source has finished.
    ///
    /// # Errors
    /// [`Break`] when either side was reset or is gone.
    pub async fn run(mut self) -> Result<(), Break> {
        let mut pieces = Vec::new();
        loop {
            let unit = self.shaper.unit().map_or(READ, |unit| unit.min(READ));
            let got = tokio::select! {
                biased;
                got = self.from.read(unit, &mut pieces) => got.map_err(Break::Source)?,
                broken = self.to.broken() => return Err(Break::Sink(broken)),
            };
            polling::came();
            let Got::Bytes(length) = got else {
                self.to.finish();
                return Ok(());
            };
            if self.way == Way::Down {
                self.tell();
            }
            self.throttle(length).await;
            self.hand_on(&mut pieces).await?;
            if self.way == Way::Up {
                self.tell();
            }
            self.count(length as u64);
        }
    }

    /// A source that is reset while the sink takes nothing has its bytes handed on for a while yet.
    async fn hand_on(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), Break> {
        let mut writing = pin!(self.to.write(pieces));
        let broken = tokio::select! {
            biased;
            written = &mut writing => return written.map_err(Break::Sink),
            broken = self.from.broken() => broken,
        };
        let patience = if broken.is_reset() { RESET_PATIENCE } else { Duration::ZERO };
        let written = tokio::time::timeout(patience, writing).await;
        written.map_or(Err(Break::Source(broken)), |written| written.map_err(Break::Sink))
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
        self.to.flush();
        let start = Instant::now();
        if self.shaper.take(length).await {
            self.meter.waited.set(self.meter.waited.get() + start.elapsed());
        }
    }
}
