//! One authenticated connection to one host, and which of two such connections carries new sessions.

use crate::{
    control::REQUESTS_MAX,
    datagram::{Inbox, Lane},
    demand::Demand,
    identity::is_vouched,
    leaf::{CertificateId, Leaf, LeafError},
    report::Pace,
    settings::SESSIONS_FIRST,
    shared::Shared,
    socket::{Followed, Socket},
    suite::PeerIdentity,
};
use quinn::{Connection, ConnectionError};
use ripstop_config::HostName;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::Semaphore};

/// Longest handshake. An attempt that takes longer is given up by both sides.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Age of a connection from which a second one between the same hosts is no coincidence of both dialling at once: both
/// handshakes would be over. The peer has lost the first one then, and the second takes its place.
const RACE: Duration = Duration::from_secs(10);

/// Which side dialled a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    ByUs,
    ByPeer,
}

/// An authenticated connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) host: HostName,
    /// The one that the peer showed.
    pub(crate) certificate: CertificateId,
    /// That one and those between it and a CA, as the handshake verified them at that time.
    chain: Vec<CertificateDer<'static>>,
    verified: UnixTime,
    pub(crate) dialled: Dialled,
    pub(crate) cipher: &'static str,
    /// Follows the host if we dialled it; if it dialled us, QUIC does.
    pub(crate) followed: Option<Followed>,
    /// Where what outlives its stream is spawned.
    pub(crate) runtime: Handle,
    established: Instant,
    /// Not used for new sessions; closed when nothing is left on it.
    retired: AtomicBool,
    /// Not heard for a while.
    silent: AtomicBool,
    /// Halves of streams that someone holds.
    halves: AtomicUsize,
    /// Sessions that the peer may have open on it, now and at most.
    places: AtomicU32,
    places_max: u32,
    /// What its streams want of the path.
    pub(crate) demand: Demand,
    /// Datagrams that arrived.
    pub(crate) inbox: Arc<Inbox>,
    /// Datagrams to be sent that fit a packet.
    pub(crate) small: Lane,
    /// Those that do not.
    pub(crate) large: Lane,
    /// How often the peer reports.
    pub(crate) reports: Pace,
    /// Places for the peer's requests.
    pub(crate) requests: Arc<Semaphore>,
}

impl Link {
    /// Takes the peer's name from its certificate, which the handshake has verified.
    pub(crate) fn new(connection: Connection, dialled: Dialled, shared: &Shared) -> Result<Self, LeafError> {
        let identity = connection.peer_identity().and_then(|any| any.downcast::<PeerIdentity>().ok());
        let identity = identity.ok_or(LeafError::Malformed)?;
        let leaf = Leaf::of_fabric(identity.chain.first().ok_or(LeafError::Malformed)?, &shared.fabric)?;
        Ok(Self {
            host: leaf.host,
            certificate: leaf.id,
            cipher: identity.suite,
            chain: identity.chain,
            verified: UnixTime::now(),
            followed: (dialled == Dialled::ByUs).then(|| Socket::follow(&shared.socket, connection.remote_address())),
            connection,
            dialled,
            runtime: shared.runtime.clone(),
            established: Instant::now(),
            retired: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            halves: AtomicUsize::new(0),
            places: AtomicU32::new(shared.settings.sessions.min(SESSIONS_FIRST)),
            places_max: shared.settings.sessions,
            demand: Demand::default(),
            inbox: Arc::default(),
            small: Lane::small(),
            large: Lane::large(),
            reports: Pace::default(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether a DATAGRAM frame of so many bytes fits a packet of the path.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.connection.max_datagram_size().unwrap_or(0)
    }

    /// Whether one of these CAs vouched for the peer when the connection was made: one that expires later ends no session.
    pub(crate) fn is_vouched_by(&self, roots: &RootCertStore) -> bool {
        is_vouched(&self.chain, roots, self.verified).is_ok()
    }

    pub(crate) fn age(&self) -> Duration {
        self.established.elapsed()
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(crate) fn set_retired(&self, retired: bool) {
        self.retired.store(retired, Ordering::Relaxed);
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    pub(crate) fn hold(&self) {
        self.halves.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn release(&self) {
        self.halves.fetch_sub(1, Ordering::Relaxed);
    }

    /// No session is left on it.
    pub(crate) fn is_unused(&self) -> bool {
        self.halves.load(Ordering::Relaxed) == 0
    }

    /// Doubles the sessions that the peer may have open when three quarters may be, up to the limit. For one task at a time.
    pub(crate) fn make_room(&self) {
        let places = self.places.load(Ordering::Relaxed);
        // Sessions of both hosts are counted: where this one opens many too, the peer has room earlier.
        let open = self.halves.load(Ordering::Relaxed) / 2;
        if places < self.places_max && open >= places as usize / 4 * 3 {
            let more = places.saturating_mul(2).min(self.places_max);
            self.places.store(more, Ordering::Relaxed);
            self.connection.set_max_concurrent_bi_streams(more.into());
        }
    }

    pub(crate) fn close(&self, code: u32, why: &str) {
        self.connection.close(code.into(), why.as_bytes());
    }
}

/// Whether a newly made connection takes the place of a live one of that age. Both hosts come to the same answer: of two
/// that were dialled at once, the one stays that the host with the smaller name dialled.
pub(crate) fn newcomer_wins(live: Dialled, age: Duration, newcomer: Dialled, we_are_smaller: bool) -> bool {
    live == newcomer || age >= RACE || (newcomer == Dialled::ByUs) == we_are_smaller
}

/// The end of a connection, or of an attempt at one, for people.
pub(crate) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "it does not answer".into(),
        ConnectionError::Reset => "it has restarted".into(),
        ConnectionError::LocallyClosed => "closed by this agent".into(),
        ConnectionError::ApplicationClosed(close) => format!("closed by it: {}", said(&close.reason)),
        ConnectionError::ConnectionClosed(close) => format!("refused by it: {}", said(&close.reason)),
        ConnectionError::TransportError(error) if error.reason.is_empty() => error.to_string(),
        ConnectionError::TransportError(error) => unwrapped(&error.reason),
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => error.to_string(),
    }
}

/// What a peer said, fit for a log: bounded and printable.
fn said(reason: &[u8]) -> String {
    const SHOWN: usize = 400; // bytes; enough for any reason of ours
    match reason {
        [] => "no reason given".into(),
        _ => {
            let text = String::from_utf8_lossy(&reason[..reason.len().min(SHOWN)]);
            let printable: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            unwrapped(&printable)
        }
    }
}

/// rustls shows errors of a verifier of ours as they are built, ours in the middle.
fn unwrapped(reason: &str) -> String {
    let ours =
        reason.strip_prefix("invalid peer certificate: Other(OtherError(").and_then(|rest| rest.strip_suffix("))"));
    ours.map_or_else(|| reason.to_owned(), |why| format!("the certificate is not accepted: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dialled::{ByPeer, ByUs};

    #[test]
    fn both_hosts_keep_the_same_one_of_two_that_were_dialled_at_once() {
        let young = Duration::from_millis(3);
        // Seen from the smaller host its own dial stays, whichever was first; seen from the greater one the peer's.
        for (we_are_smaller, keeper, loser) in [(true, ByUs, ByPeer), (false, ByPeer, ByUs)] {
            assert!(newcomer_wins(loser, young, keeper, we_are_smaller));
            assert!(!newcomer_wins(keeper, young, loser, we_are_smaller));
        }
    }

    #[test]
    fn a_peer_that_dials_again_has_lost_the_old_connection() {
        for (we_are_smaller, age) in [(true, Duration::ZERO), (false, Duration::ZERO), (true, RACE), (false, RACE)] {
            assert!(newcomer_wins(ByPeer, age, ByPeer, we_are_smaller));
            assert!(newcomer_wins(ByUs, age.max(RACE), ByPeer, we_are_smaller));
        }
    }

    #[test]
    fn what_a_peer_says_is_bounded_and_printable() {
        assert_eq!(said(b""), "no reason given");
        assert_eq!(said(b"a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!(said(&[b'x'; 5_000]).len(), 400);
    }
}
