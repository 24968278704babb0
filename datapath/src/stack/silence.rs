//! When a workload's kernel is gone without a word.
//!
//! A kernel answers every segment that asks for an answer, whatever its application does; one that does not has lost the
//! connection. It may have said so by a reset that was dropped on a full interface, or it may be unable to speak: its
//! namespace filters, or is about to go. TCP itself would ask for ever.

use super::{device::TunPort, tcp::Connection};
use std::time::Duration;
use tokio::time::Instant;

/// A kernel that has said nothing for so long, though it was asked, is gone. Half-open sessions are known within this time.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A kernel that was not heard for so long is asked whether it still has the connection. The application sees nothing of
/// it, and a busy session is never asked.
const ASK_AFTER: Duration = Duration::from_secs(45);
/// By how much earlier some sessions ask: thousands that fell idle together must not overflow the interface together.
const SPREAD_MILLIS: u64 = 5_000;
/// How often it is asked: three times at least before it is given up, as an answer may be lost on a full interface.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASKED_MIN: usize = 3;

/// How long a workload's kernel has said nothing on one connection.
pub(super) struct Silence {
    heard: Instant,
    /// When to ask it, or to give it up.
    next: Instant,
    ask_after: Duration,
    /// Packets sent since it was heard.
    asked: usize,
    is_final: bool,
}

impl Silence {
    /// None yet; `seed` is random.
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        let ask_after = ASK_AFTER - Duration::from_millis(seed % SPREAD_MILLIS);
        Self { heard: now, next: now + ask_after, ask_after, asked: 0, is_final: false }
    }

    /// It was given up.
    pub(super) fn is_final(&self) -> bool {
        self.is_final
    }

    /// A packet came.
    pub(super) fn heard(&mut self, now: Instant) {
        (self.heard, self.next, self.asked) = (now, now + self.ask_after, 0);
    }

    /// So many packets were sent.
    pub(super) fn asked(&mut self, packets: usize) {
        self.asked = self.asked.saturating_add(packets);
    }

    /// Asks the kernel when it is time, and ends the connection when that was in vain.
    pub(super) fn look(&mut self, now: Instant, connection: &mut Connection, port: &TunPort) {
        if now < self.next || !connection.is_open() {
            return;
        }
        if now >= self.heard + SILENCE_MAX && self.asked >= ASKED_MIN {
            self.is_final = true;
            return connection.abort(port);
        }
        // What is sent again asks as well, but seldom, and not of a kernel that has no room for it and says nothing.
        connection.ask(port);
        self.asked += 1;
        let last = self.heard + SILENCE_MAX;
        self.next = now + ASK_EVERY;
        if now < last {
            self.next = self.next.min(last);
        }
    }

    /// When to look again. The handshake and the end have limits of their own.
    pub(super) fn deadline(&self, connection: &Connection) -> Option<Instant> {
        connection.is_open().then_some(self.next)
    }
}
