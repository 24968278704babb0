//! Whether the other end of a connection is heard.
//!
//! QUIC gives a connection up after [`crate::settings::IDLE`], so that sessions outlive an outage of some seconds. New
//! sessions must not wait that long: a host that was not heard for [`SILENT`] gets none until it is heard again.

use crate::{link::Link, shared::Shared};
use quinn::Connection;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// Silence after which a host gets no new sessions: four probes of [`crate::settings::KEEP_ALIVE`] and a round trip. With
/// [`LOOK`] and a slow moment it stays within the 3 s that are promised.
pub(crate) const SILENT: Duration = Duration::from_millis(2_400);
/// How often to look. A host that has moved is followed when this notices that it is heard.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Notices when the other end falls silent, and when it is heard again, until the connection ends.
pub(crate) async fn watch(shared: Arc<Shared>, link: Arc<Link>) {
    let mut ear = Ear::new(Instant::now(), heard(&link.connection));
    loop {
        time::sleep(LOOK).await;
        let now = heard(&link.connection);
        if let Some(followed) = link.followed.as_ref().filter(|_| ear.hears(now))
            && let Some(at) = followed.heard()
        {
            tracing::info!(host = %link.host, %at, "it has another address");
        }
        let silent = ear.is_silent(Instant::now(), now);
        if silent != link.is_silent() {
            match silent {
                true => tracing::info!(host = %link.host, "not heard for {SILENT:?}"),
                false => tracing::info!(host = %link.host, "heard again"),
            }
            shared.table().fell_silent(&link, silent);
        }
    }
}

/// Frames received so far of the kinds that an end under probes sends. quinn counts them when a packet has been decrypted,
/// so nobody but the other end can raise it.
fn heard(connection: &Connection) -> u64 {
    let frames = connection.stats().frame_rx;
    [frames.acks, frames.ping, frames.stream, frames.datagram, frames.max_data, frames.max_stream_data]
        .into_iter()
        .fold(0, u64::wrapping_add)
}

/// Listens to a number that changes while the other end lives.
#[derive(Debug)]
struct Ear {
    heard: u64,
    last: Instant,
    looked: Instant,
}

impl Ear {
    fn new(now: Instant, heard: u64) -> Self {
        Self { heard, last: now, looked: now }
    }

    /// Whether the other end was heard since the last look.
    fn hears(&self, heard: u64) -> bool {
        heard != self.heard
    }

    fn is_silent(&mut self, now: Instant, heard: u64) -> bool {
        let slept = now.saturating_duration_since(self.looked).saturating_sub(LOOK * 5);
        self.looked = now;
        // While this agent itself was held up it could not listen.
        self.last += slept;
        if heard != self.heard {
            (self.heard, self.last) = (heard, now);
        }
        now.saturating_duration_since(self.last) > SILENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{IDLE, KEEP_ALIVE};

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn silence_is_noticed_and_ends_with_the_next_sign_of_life() {
        let start = Instant::now();
        let mut ear = Ear::new(start, 5);
        let mut noticed = (1..).map(|look| look * 100).find(|at| ear.is_silent(start + ms(*at), 5));
        assert_eq!(noticed.take(), Some(2_500));
        assert!(ear.is_silent(start + ms(2_600), 5));
        assert!(!ear.is_silent(start + ms(2_700), 6));
        assert!(!ear.is_silent(start + ms(3_100), 6));
    }

    #[test]
    fn an_agent_that_was_held_up_does_not_blame_the_other_end() {
        let start = Instant::now();
        let mut ear = Ear::new(start, 5);
        assert!(!ear.is_silent(start + ms(100), 5));
        assert!(!ear.is_silent(start + ms(60_000), 5));
        assert!((1..=17).all(|look| !ear.is_silent(start + ms(60_000 + look * 100), 5)));
        assert!((1..=10).any(|look| ear.is_silent(start + ms(62_000 + look * 100), 5)));
    }

    #[test]
    fn silence_is_noticed_within_three_seconds_and_sessions_outlive_it() {
        assert!(SILENT + LOOK + ms(500) <= ms(3_000));
        assert!(KEEP_ALIVE * 4 < SILENT, "three lost probes are no silence");
        assert!(SILENT * 4 < IDLE);
    }
}
