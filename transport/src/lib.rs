//! Sessions between hosts over QUIC (RFC 9000) with mutual TLS 1.3.
//!
//! Transport authenticates; it does not authorise. What it promises: a session's `peer` is the host that its
//! certificate names, signed by a CA of this fabric. Whether that host may speak for a workload is for policy to say.
//!
//! How a session goes: [`Transport::open`] takes the one connection to the host, opens a bidirectional stream and writes
//! a [`SessionHeader`]. There, [`Incoming::next`] hands out the stream, [`IncomingStream::open`] reads the header, and
//! [`IncomingSession::accept`] or [`IncomingSession::refuse`] gives the verdict. After that, plain bytes. Agents also ask
//! each other what is no session: [`Transport::ask`], which arrives there as a [`Request`].
//!
//! Two hosts keep one connection, whoever dialled it. When both dialled at once, the one that the host with the smaller
//! name dialled stays; sessions on the other finish undisturbed, then it is closed. A host that is not heard gets
//! no new sessions after 3 s at most; open ones outlive an outage of up to [`settings::IDLE`], and a host that restarts ends
//! those of its former life at once (stateless reset, RFC 9000 section 10.3).
//!
//! Every limit is a named constant in [`settings`], or next to what it limits.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod code;
mod codec;
mod congestion;
pub mod control;
mod datagram;
mod demand;
mod dial;
pub mod enrol;
#[cfg(feature = "etcd")]
pub mod etcd;
mod gather;
mod generations;
mod handed;
mod header;
#[cfg(feature = "http")]
pub mod http;
mod identity;
mod incoming;
mod leaf;
mod link;
mod liveness;
mod moves;
pub mod pem;
pub mod pki;
mod record;
mod report;
mod secret;
mod serve;
pub mod session;
pub mod settings;
mod shared;
pub mod signing;
mod socket;
mod sparing;
mod status;
mod stream;
mod suite;
mod table;
mod tls;
mod transport;
mod udp;
mod unidirectional;
mod verdict;
#[cfg(feature = "spire")]
pub mod workload_api;

pub use codec::CodecError;
pub use control::{AskError, Request};
pub use datagram::{DATAGRAM_MAX, DatagramError, DatagramReceiver, DatagramSender};
pub use handed::{Datagrams, Foreign};
pub use header::{HEADER_MAX, Purpose, SessionHeader, SessionId};
pub use identity::{Identity, IdentityError, SvidError};
pub use incoming::{
    AnswerError, HEADER_WAIT, HeaderError, INCOMING_QUEUE, Incoming, IncomingSession, IncomingStream, Opening,
    VERDICT_WRITE,
};
pub use leaf::{CertificateId, LeafError};
/// quinn's own types that appear here: errors of streams, and codes.
pub use quinn::{ConnectionError, ReadError, StoppedError, VarInt, WriteError};
pub use record::{
    CLOCKS_APART_MAX, RECORD_LIFE_MAX, RECORD_MAX, RECORD_REPORT_MAX, Record, RecordError, Stamp, StampError,
};
pub use report::{REPORT_MAX, Reports};
pub use secret::Secret;
pub use session::{OpenError, Opened};
pub use settings::Settings;
pub use sparing::Sparing;
pub use status::{Counts, PeerState, PeerStatus};
pub use stream::{RecvStream, SendStream};
pub use table::Revoked;
pub use tls::{ALPN, TlsError};
pub use transport::{BindError, RenewError, Transport};
pub use verdict::{Accepted, Answer, DETAIL_MAX, ENDPOINT_MAX, Refusal};
