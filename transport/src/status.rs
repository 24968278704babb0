//! What is known of the other hosts, for people and metrics.

use ripstop_config::HostName;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

/// Whether a host can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PeerState {
    /// Connected; sessions can be opened.
    Up,
    /// Connected, but not heard for over 2 s: open sessions wait, new ones are not opened, and it is dialled again.
    Silent,
    /// The first attempt, or another one, is under way.
    Connecting,
    /// Not connected.
    Down {
        /// Why, for people.
        reason: String,
    },
}

/// One other host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name, from its certificate or from the graph.
    pub host: HostName,
    /// Where it is: where its packets come from, or where it is dialled.
    pub address: Option<SocketAddr>,
    /// Whether it can be reached.
    #[serde(flatten)]
    pub state: PeerState,
    /// Smoothed round trip, seconds; while up.
    pub rtt: Option<f64>,
    /// Packets sent on the connection; 0 while not up.
    pub sent_packets: u64,
    /// Packets of those that were lost.
    pub lost_packets: u64,
    /// UDP payload that the path carries, bytes; while up.
    pub mtu: Option<u16>,
    /// The negotiated TLS cipher suite, by its IANA name; while up.
    pub cipher: Option<String>,
    /// Since when it has been up, or has not; seconds since 1970.
    pub since: f64,
}

/// What happened since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections made: dialled and accepted.
    pub connections: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Handshakes of dialling hosts that failed, those with a bad certificate included.
    pub handshakes_failed: u64,
    /// Connection attempts turned away because too many were under way.
    pub handshakes_refused: u64,
    /// Connections of this host's own name or of hosts that are not to be connected, closed after the handshake.
    pub connections_rejected: u64,
    /// Connections replaced by another one between the same hosts.
    pub connections_replaced: u64,
    /// Datagrams that arrived for a session that has ended, or for none.
    pub late_datagrams: u64,
    /// Reports of hosts that send more of them than are taken.
    pub reports_ignored: u64,
}

/// The live form of [`Counts`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) dials_failed: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) handshakes_refused: AtomicU64,
    pub(crate) connections_rejected: AtomicU64,
    pub(crate) connections_replaced: AtomicU64,
    pub(crate) late_datagrams: AtomicU64,
    pub(crate) reports_ignored: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: read(&self.connections),
            dials_failed: read(&self.dials_failed),
            handshakes_failed: read(&self.handshakes_failed),
            handshakes_refused: read(&self.handshakes_refused),
            connections_rejected: read(&self.connections_rejected),
            connections_replaced: read(&self.connections_replaced),
            late_datagrams: read(&self.late_datagrams),
            reports_ignored: read(&self.reports_ignored),
        }
    }
}
