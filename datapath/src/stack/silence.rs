//! When a workload's kernel is gone without a word.
//!
//! A kernel answers every segment that asks for an answer, whatever its application does; one that does not has lost the
//! connection. It may have said so by a reset that was dropped on a full interface, or it may be unable to speak: its
//! namespace filters, or is about to go. TCP itself would ask for ever.

use super::connection::Connection;
use smoltcp::{
    socket::tcp::State,
    time::{Duration, Instant},
};

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
    ask_after: Duration,
    /// Packets sent since it was heard.
    asked: usize,
    asking: bool,
    is_final: bool,
}

impl Silence {
    /// None yet; `seed` is random.
    pub(super) fn new(seed: u64) -> Self {
        let ask_after = ASK_AFTER - Duration::from_millis(seed % SPREAD_MILLIS);
        Self { heard: Instant::ZERO, ask_after, asked: 0, asking: false, is_final: false }
    }

    /// It was given up.
    pub(super) fn is_final(&self) -> bool {
        self.is_final
    }

    /// A packet came.
    pub(super) fn heard(&mut self, now: Instant, connection: &mut Connection) {
        (self.heard, self.asked) = (now, 0);
        if std::mem::take(&mut self.asking) {
            connection.socket(|socket| socket.set_keep_alive(None));
        }
    }

    /// So many packets were sent.
    pub(super) fn asked(&mut self, packets: usize) {
        self.asked = self.asked.saturating_add(packets);
    }

    /// Has the kernel asked when it is time, and the connection ended when that was in vain.
    pub(super) fn look(&mut self, now: Instant, connection: &mut Connection) {
        let silent = now - self.heard;
        if silent < self.ask_after || !may_ask(connection) {
            return;
        }
        if silent >= SILENCE_MAX && self.asked >= ASKED_MIN {
            self.is_final = true;
            connection.abort();
        } else if !std::mem::replace(&mut self.asking, true) {
            // While something is in flight that asks, and this waits.
            connection.socket(|socket| socket.set_keep_alive(Some(ASK_EVERY)));
        }
    }

    /// When to look again. Behind the last of these times, the connection's own timers are the ones to look after.
    pub(super) fn deadline(&self, now: Instant, connection: &mut Connection) -> Option<Instant> {
        if !may_ask(connection) {
            return None;
        }
        let next = self.heard + if self.asking { SILENCE_MAX } else { self.ask_after };
        (next > now || !self.asking).then_some(next)
    }
}

/// The handshake and TIME-WAIT have limits of their own.
fn may_ask(connection: &mut Connection) -> bool {
    match connection.socket(|socket| socket.state()) {
        State::Closed | State::Listen | State::SynSent | State::SynReceived | State::TimeWait => false,
        State::Established | State::FinWait1 | State::FinWait2 | State::CloseWait | State::Closing | State::LastAck => {
            true
        }
    }
}
