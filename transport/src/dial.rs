//! Keeps one host connected: dials whenever nothing leads to it, with growing pauses.

use crate::{
    link::{Dialled, HANDSHAKE_MAX, Link, describe},
    serve,
    shared::Shared,
    status::Counters,
    tls,
};
use quinn::{ClientConfig, Connection};
use ripstop_config::HostName;
use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// Pause after the first failure; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts: a host that comes back is up again within this and a handshake.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that lasted this long was a success; a shorter one counts as a failed attempt, so that a host that takes
/// connections only to close them is not dialled without pause.
const STABLE: Duration = Duration::from_secs(2);
/// How often, at first and at most, to look whether the other host has confirmed the handshake.
const CONFIRM_POLL: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(20));

/// Dials a host until it is to be dialled at that address no more; the task is aborted then, too. Where it does not answer there,
/// each second attempt is at another place where it may be.
pub(crate) async fn keep_connected(shared: Arc<Shared>, host: HostName, address: SocketAddr) {
    let (mut pauses, mut attempt) = (Pauses::default(), 0);
    loop {
        let up_since = Instant::now();
        while_up(&shared, &host).await;
        if up_since.elapsed() >= STABLE {
            pauses = Pauses::default();
        }
        time::sleep(pauses.next()).await;
        if shared.table().is_up(&host) {
            continue;
        }
        if !shared.table().dial_started(&host, address) {
            return;
        }
        let at = at(address, &shared.table().hints(&host), attempt);
        let dialled = dial(&shared, &host, at).await;
        let started = dialled.and_then(|link| serve::start(&shared, &Arc::new(link)).map_err(|why| why.to_string()));
        if let Err(why) = started {
            tracing::debug!(%host, address = %at, why, "failed to connect");
            Counters::add(&shared.counters.dials_failed);
            shared.table().dial_failed(&host, address, why);
            attempt += 1;
        }
    }
}

/// Where to try it: at its address and elsewhere in turn. An attempt that succeeds is made again when the connection is lost.
fn at(address: SocketAddr, hints: &[SocketAddr], attempt: usize) -> SocketAddr {
    let elsewhere: Vec<_> = hints.iter().filter(|hint| **hint != address).collect();
    match elsewhere.get((attempt / 2).checked_rem(elsewhere.len()).unwrap_or(0)) {
        Some(hint) if attempt % 2 == 1 => **hint,
        Some(_) | None => address,
    }
}

/// Attempts at a host that is to be connected once: half a minute of them. It may be gone, and then needs no connection.
const ONCE_MAX: u32 = 20;

/// Dials a host until it is connected, whoever dialled.
pub(crate) async fn connect_once(shared: Arc<Shared>, host: HostName, address: SocketAddr) {
    let mut pauses = Pauses::default();
    for _ in 0..ONCE_MAX {
        time::sleep(pauses.next()).await;
        if shared.table().is_up(&host) || shared.incoming().is_none() {
            return;
        }
        let dialled = dial(&shared, &host, address).await;
        let started = dialled.and_then(|link| serve::start(&shared, &Arc::new(link)).map_err(|why| why.to_string()));
        if let Err(why) = started {
            tracing::debug!(%host, %address, why, "failed to connect");
            Counters::add(&shared.counters.dials_failed);
        }
    }
}

async fn while_up(shared: &Shared, host: &HostName) {
    loop {
        let changed = shared.table().change_while_up(host);
        let Some(mut changed) = changed else { return };
        // Fails when the entry is forgotten; the next look tells.
        let _ = changed.changed().await;
    }
}

async fn dial(shared: &Shared, host: &HostName, address: SocketAddr) -> Result<Link, String> {
    let tls = tls::client(&shared.identity(), host).map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(tls);
    config.transport_config(shared.settings.transport());
    let connecting =
        shared.endpoint.connect_with(config, address, tls::UNUSED_NAME).map_err(|error| error.to_string())?;
    let connected = async {
        let connection = connecting.await.map_err(|error| describe(&error))?;
        confirmed(&connection).await?;
        Ok::<_, String>(connection)
    };
    let connection = time::timeout(HANDSHAKE_MAX, connected)
        .await
        .map_err(|_| format!("the handshake took longer than {} s", HANDSHAKE_MAX.as_secs()))??;
    Link::new(connection, Dialled::ByUs, shared).map_err(|why| why.to_string())
}

/// Waits until the other host has accepted this host's certificate: in TLS 1.3 the dialling side is done before that
/// (RFC 9001 section 4.1.2), and would take a refusal for the end of a connection that was up.
async fn confirmed(connection: &Connection) -> Result<(), String> {
    let (mut poll, longest) = CONFIRM_POLL;
    while connection.stats().frame_rx.handshake_done == 0 {
        tokio::select! {
            closed = connection.closed() => return Err(describe(&closed)),
            () = time::sleep(poll) => poll = (poll * 2).min(longest),
        }
    }
    Ok(())
}

/// Pauses before each attempt: none before the first, then doubling, each of them drawn from its upper half so that the
/// hosts of a fabric do not dial in step.
struct Pauses {
    next: Duration,
    random: RandomState,
    count: u32,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: Duration::ZERO, random: RandomState::new(), count: 0 }
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.count = self.count.wrapping_add(1);
        let share = f64::from(self.random.hash_one(self.count) as u32) / f64::from(u32::MAX);
        pause.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_tried_at_its_address_and_elsewhere_in_turn() {
        let place = |last| SocketAddr::from(([192, 0, 2, last], 7477));
        let tried = |hints: &[_]| (0..5).map(|attempt| at(place(1), hints, attempt)).collect::<Vec<_>>();
        assert_eq!(tried(&[]), [place(1); 5]);
        assert_eq!(tried(&[place(1)]), [place(1); 5]);
        assert_eq!(tried(&[place(1), place(2), place(3)]), [1, 2, 1, 3, 1].map(place));
    }

    #[test]
    fn pauses_grow_to_two_seconds_and_vary() {
        let mut pauses = Pauses::default();
        let drawn: Vec<_> = std::iter::repeat_with(|| pauses.next()).take(40).collect();
        assert_eq!(drawn[0], Duration::ZERO);
        assert!((50..=100).contains(&drawn[1].as_millis()), "{:?}", drawn[1]);
        assert!((100..=200).contains(&drawn[2].as_millis()), "{:?}", drawn[2]);
        assert!(drawn[7..].iter().all(|pause| (1_000..=2_000).contains(&pause.as_millis())), "{drawn:?}");
        let distinct: std::collections::BTreeSet<_> = drawn[7..].iter().collect();
        assert!(distinct.len() > 10, "drawn at random");
    }
}
