//! Every knob and limit of QUIC, set explicitly; the library's defaults are not limits.

use crate::{
    congestion,
    generations::Ids,
    identity::Identity,
    tls::{self, TlsError},
    unidirectional,
};
use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use ripstop_config::agent::DEFAULT_PORT;
use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// How often an otherwise silent connection is probed.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// Silence after which a connection, with all sessions on it, is given up: the longest outage that they outlive. In an
/// outage probes come at growing intervals (RFC 9002 section 6.2.1), on a fast path at 0.03, 0.06, … 1.9 and 3.8 s: with a
/// shorter time, one of 2 s could be the end, as the first probe after it may be sent after 4 s. The timer restarts with the
/// first probe after the last answer (RFC 9000 section 10.1), so the end comes [`KEEP_ALIVE`] + this after the last sign of
/// life at most. No new session waits for it: see the states of a peer.
pub const IDLE: Duration = Duration::from_secs(10);
/// Payload of one session that may wait unread at a receiver: 1.6 Gbit/s at 20 ms of round trip, as Linux's own TCP comes to
/// without being tuned.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// Payload of all sessions of a connection that may wait unread.
///
/// A session whose workload does not read takes up to a [`STREAM_WINDOW`] of it and gives nothing back. quinn announces
/// new credit in eighths of the window, so with `stalled sessions × STREAM_WINDOW` beyond seven eighths of it, 448
/// sessions, **all** sessions of that direction stand still until one of the stalled ones is read or ends. A smaller
/// window stalls earlier. A larger one costs memory: this much per connection at worst, of an honest peer at most a
/// stream window for each of its sessions that policy admits here.
pub const CONNECTION_WINDOW: u32 = 1 << 31;
/// Payload that a connection keeps until it is acknowledged, over all its sessions.
///
/// Only what both windows of the receiver have room for is taken from a writer, and the receiver acknowledges it whether
/// or not its workload reads: a session that is stalled at the receiver holds nothing of this. Sessions that fill a slow
/// path hold a stream window each at most. When that adds up to this, writers of the connection, verdicts and headers
/// among them, wait for room in no fair order, while below it packets are shared out stream by stream. So it is as large
/// as the connection window, which then always closes first. What it costs is that memory at worst; what is in flight
/// is for the congestion controller to bound.
pub const SEND_WINDOW: u64 = CONNECTION_WINDOW as u64;
/// Sessions that a peer may have open towards this host on one connection. Session one more waits for one to end, so
/// this is what one host's agent admits of sessions at most (DESIGN section 12).
pub const SESSIONS: u32 = 65_536;
/// How many of them it may open at first. quinn keeps two entries of 80 bytes in all for each that may be opened, so that
/// connections begin with few places and get more as they are taken: see [`Link::make_room`](crate::link::Link::make_room).
pub(crate) const SESSIONS_FIRST: u32 = 1_024;
/// Largest UDP payload tried on a path: what an IPv4 packet of 9 001 bytes holds, the largest that clouds' networks carry.
pub const MTU_MAX: u16 = 8_973;
/// First UDP payload on a path: what every QUIC path carries (RFC 9000 section 14).
const MTU_FIRST: u16 = 1_200;
/// How often a larger packet size is tried again.
const MTU_INTERVAL: Duration = Duration::from_secs(600);
/// How long after a packet size stopped working it is tried again.
const MTU_COOLDOWN: Duration = Duration::from_secs(60);
/// Search for the packet size ends when it is known to so many bytes.
const MTU_STEP: u16 = 20;
/// DATAGRAM frames of a connection that wait to be handed to their sessions, in bytes; of more the oldest are lost. What
/// the socket's buffer holds can arrive at once.
const DATAGRAM_RECEIVE: usize = 4 << 20;
/// DATAGRAM frames of a connection that wait to be put into packets, in bytes. They go out in the order in which they were
/// handed over, before all streams, so that few may: three of the largest packets. The others wait where sessions take turns.
pub(crate) const DATAGRAM_SEND: usize = 32 << 10;
/// Packets after which a peer should acknowledge; fewer acknowledgements are worth a few percent of throughput.
const ACK_EVERY: u32 = 10;
/// A packet that comes out of order is acknowledged at once (RFC 9000 section 13.2.1): held back, it would be old enough to
/// be taken for lost.
const ACK_OVERTAKEN: VarInt = VarInt::from_u32(1);
/// Longest time after which a packet is acknowledged. The sender waits this much longer before it repeats the last packet
/// of a burst.
const ACK_AFTER: Duration = Duration::from_millis(5);
/// A packet is lost when so many later ones have arrived, and when it is so many round trips old and a later one has. Paths
/// that spread packets over several lines let more overtake than the three that QUIC begins with (RFC 9002 section
/// 6.1.1); a loss that is none shrinks the window for all sessions. It is time that tells, as for TCP (RFC 8985).
const OVERTAKEN_MAX: u32 = 128;
const OVERTAKEN_FOR: f32 = 1.25;
/// Round trip assumed before one was measured: hosts of a fabric are rarely further apart.
const FIRST_RTT: Duration = Duration::from_millis(100);
/// Handshake bytes that may arrive out of order: certificate chains are a few KiB.
const CRYPTO_BUFFER: usize = 32 << 10;
/// Connection attempts that may wait to be looked at; more are dropped by quinn.
const INCOMING_WAITING: usize = 256;
/// Bytes that such an attempt may have sent on.
const INCOMING_BUFFER: u64 = 64 << 10;
/// The same for all attempts together.
const INCOMING_BUFFER_ALL: u64 = 4 << 20;
/// How long the token of an address check can be used.
const RETRY_TOKEN_LIFETIME: Duration = Duration::from_secs(15);

/// How the transport behaves. The limits of one connection are multiplied by the number of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where QUIC connections are taken and dialled from; `[::]` means both families.
    pub listen: SocketAddr,
    /// How often an otherwise silent connection is probed; default [`KEEP_ALIVE`].
    pub keep_alive: Duration,
    /// Silence after which a connection is given up; default [`IDLE`]. The smaller of both hosts' counts.
    pub idle: Duration,
    /// Bytes of one session that may wait unread; default [`STREAM_WINDOW`]. Times the round trips per second, this is
    /// the most that one session carries.
    pub stream_window: u32,
    /// Bytes of all sessions of one connection that may wait unread; default [`CONNECTION_WINDOW`]. When seven eighths
    /// of this, `stalled sessions × stream_window`, are full of data that workloads do not read, the other sessions of
    /// the connection stand still.
    pub connection_window: u32,
    /// Bytes that one connection keeps until they are acknowledged; default [`SEND_WINDOW`]. Below
    /// `sessions sending at once × stream_window`, sessions wait for each other on a slow path.
    pub send_window: u64,
    /// Sessions that a peer may have open towards this host on one connection; default [`SESSIONS`].
    pub sessions: u32,
    /// Largest UDP payload tried, 1 200 to [`MTU_MAX`], which is the default.
    pub mtu_max: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT)),
            keep_alive: KEEP_ALIVE,
            idle: IDLE,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            send_window: SEND_WINDOW,
            sessions: SESSIONS,
            mtu_max: MTU_MAX,
        }
    }
}

impl Settings {
    /// The defaults, with an address to listen on.
    #[must_use]
    pub fn listen(listen: SocketAddr) -> Self {
        Self { listen, ..Self::default() }
    }

    /// The largest UDP payload, within what QUIC needs and buffers are made for.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu_max.clamp(MTU_FIRST, MTU_MAX)
    }

    pub(crate) fn transport(&self) -> Arc<TransportConfig> {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu()).interval(MTU_INTERVAL).black_hole_cooldown(MTU_COOLDOWN).minimum_change(MTU_STEP);
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(ACK_EVERY.into())
            .reordering_threshold(ACK_OVERTAKEN)
            .max_ack_delay(Some(ACK_AFTER));
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(self.sessions.min(SESSIONS_FIRST).into())
            .max_concurrent_uni_streams(unidirectional::STREAMS.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(self.send_window)
            .send_fairness(true)
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(idle(self.idle)))
            .packet_threshold(OVERTAKEN_MAX)
            .time_threshold(OVERTAKEN_FOR)
            .initial_rtt(FIRST_RTT)
            .initial_mtu(MTU_FIRST)
            .min_mtu(MTU_FIRST)
            .mtu_discovery_config(Some(mtu))
            .ack_frequency_config(Some(acks))
            .crypto_buffer_size(CRYPTO_BUFFER)
            .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE))
            .datagram_send_buffer_size(DATAGRAM_SEND)
            .congestion_controller_factory(Arc::new(congestion::Factory::default()))
            .enable_segmentation_offload(true);
        Arc::new(config)
    }

    pub(crate) fn endpoint(&self, identity: &Identity, generation: u8) -> EndpointConfig {
        let keys = identity.endpoint_keys().clone();
        let mut config = EndpointConfig::new(keys.reset);
        config.cid_generator(move || Box::new(Ids::new(keys.connection_ids, generation)));
        if let Err(error) = config.max_udp_payload_size(self.mtu()) {
            tracing::warn!(%error, "quinn did not take the packet size; its default stands");
        }
        config
    }

    pub(crate) fn server(&self, identity: &Identity) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::with_crypto(tls::server(identity)?);
        config
            .transport_config(self.transport())
            .migration(true)
            .retry_token_lifetime(RETRY_TOKEN_LIFETIME)
            .max_incoming(INCOMING_WAITING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER_ALL);
        Ok(config)
    }
}

/// The longest that QUIC can say is 2^62 ms, which no duration of use exceeds.
fn idle(after: Duration) -> IdleTimeout {
    IdleTimeout::try_from(after).unwrap_or_else(|_| IdleTimeout::from(VarInt::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_sizes_stay_within_what_paths_carry() {
        let mtu = |mtu_max| Settings { mtu_max, ..Settings::default() }.mtu();
        assert_eq!((mtu(0), mtu(1_452), mtu(u16::MAX)), (1_200, 1_452, 8_973));
    }

    #[test]
    fn some_hundred_stalled_sessions_leave_room_for_others() {
        assert_eq!((CONNECTION_WINDOW - CONNECTION_WINDOW / 8) / STREAM_WINDOW, 448);
        assert!(SEND_WINDOW >= CONNECTION_WINDOW.into(), "the receiver's window closes first");
    }
}
