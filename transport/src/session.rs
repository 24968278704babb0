//! The calling side of a session: header out, verdict in.

use crate::{
    code::{self, End},
    codec::CodecError,
    datagram::{self, DatagramReceiver, DatagramSender},
    header::{Purpose, SessionHeader},
    link::{Link, describe},
    shared::Shared,
    stream::{self, RecvStream, SendStream},
    table::Found,
    verdict::{Accepted, Answer, HEAD, Head, Refusal},
};
use quinn::{ConnectionError, ReadError, ReadExactError, WriteError};
use ripstop_config::{HostName, Protocol, Reason};
use std::{sync::Arc, time::Duration};
use tokio::time::{self, Instant};

/// How long a session waits for its verdict (DESIGN section 12).
pub const VERDICT_WAIT: Duration = Duration::from_secs(10);
/// How long a session waits for a connection that is being made. Longer, and another endpoint is the better answer.
pub const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// A session that an endpoint has taken.
#[derive(Debug)]
pub struct Opened {
    /// To the endpoint.
    pub send: SendStream,
    /// From the endpoint; what the serving agent sent right behind its verdict is still in it.
    pub recv: RecvStream,
    /// Both directions of its datagrams, if it is a session of UDP. Its lifetime is that of the stream.
    pub datagrams: Option<(DatagramSender, DatagramReceiver)>,
    /// What the serving agent says of the endpoint.
    pub accepted: Accepted,
    /// The cipher suite of the connection, by its IANA name.
    pub cipher: &'static str,
}

/// Why a session was not opened. Nothing of it is left; another endpoint may be tried.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection to the host.
    #[error("the host is not connected: {0}")]
    NotConnected(String),
    /// The connection ended before the verdict.
    #[error("the host was lost: {}", describe(.0))]
    PeerLost(ConnectionError),
    /// No verdict came within [`VERDICT_WAIT`].
    #[error("the host gave no verdict within {} s", VERDICT_WAIT.as_secs())]
    Timeout,
    /// The serving agent, or the endpoint, does not take it.
    #[error("refused: {} ({})", .0.reason.describe(), .0.detail)]
    Refused(Refusal),
    /// The serving agent broke the session protocol.
    #[error("the host's verdict is malformed: {0}")]
    Protocol(#[from] CodecError),
}

impl OpenError {
    /// The reason for records and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotConnected(_) => Reason::HostUnreachable,
            Self::PeerLost(error) => code::of_connection(error),
            Self::Timeout => Reason::EndpointTimeout,
            Self::Refused(refusal) => refusal.reason,
            Self::Protocol(_) => Reason::Protocol,
        }
    }

    /// The serving agent reset the stream.
    fn reset(code: quinn::VarInt) -> Self {
        let reason = code::to_reason(code, End::Endpoint);
        Self::Refused(Refusal { reason, detail: "the stream was reset before a verdict".into() })
    }
}

impl From<ConnectionError> for OpenError {
    fn from(error: ConnectionError) -> Self {
        Self::PeerLost(error)
    }
}

/// Opens a session; dropped before the verdict, both halves are reset with [`code::CANCELLED`].
pub(crate) async fn open(shared: &Shared, host: &HostName, header: &SessionHeader) -> Result<Opened, OpenError> {
    let link = connected(shared, host).await?;
    let verdict = time::timeout(VERDICT_WAIT, async {
        let streams = link.connection.open_bi().await?;
        // Before the header is written, as datagrams may arrive ahead of the verdict.
        let id = streams.0.id();
        let datagrams = matches!(header.port.protocol, Protocol::Udp).then(|| datagram::attach(&link, id));
        let (mut send, mut recv) = stream::undecided(&link, streams, code::CANCELLED);
        write(&mut send, &mut recv, header).await?;
        match read_verdict(&mut recv).await? {
            Answer::Accepted(accepted) => {
                let (send, recv) = stream::decide(send, recv);
                Ok(Opened { send, recv, datagrams, accepted, cipher: link.cipher })
            }
            Answer::Refused(refusal) => Err(OpenError::Refused(refusal)),
        }
    });
    verdict.await.map_err(|_| OpenError::Timeout).flatten()
}

/// Asks whether an endpoint would take a session; nothing is left of it but the answer.
pub(crate) async fn echo(shared: &Shared, host: &HostName, header: &SessionHeader) -> Result<Accepted, OpenError> {
    debug_assert_eq!(header.purpose, Purpose::Echo, "the serving agent would open a session");
    let link = connected(shared, host).await?;
    let verdict = time::timeout(VERDICT_WAIT, async {
        let streams = link.connection.open_bi().await?;
        let (mut send, mut recv) = stream::undecided(&link, streams, code::CANCELLED);
        write(&mut send, &mut recv, header).await?;
        match read_verdict(&mut recv).await? {
            Answer::Accepted(accepted) => {
                // Dropped without a reset, they are over in the ordinary way.
                stream::decide(send, recv);
                Ok(accepted)
            }
            Answer::Refused(refusal) => Err(OpenError::Refused(refusal)),
        }
    });
    verdict.await.map_err(|_| OpenError::Timeout).flatten()
}

/// The live connection, after a wait while the host is being dialled.
pub(crate) async fn connected(shared: &Shared, host: &HostName) -> Result<Arc<Link>, OpenError> {
    let give_up = Instant::now() + CONNECT_WAIT;
    loop {
        let found = shared.table().find(host);
        match found {
            Found::Live(link) => return Ok(link),
            Found::Down(why) => return Err(OpenError::NotConnected(why)),
            Found::Wait(mut changed) => {
                let waited = time::timeout_at(give_up, changed.changed()).await;
                waited.map_err(|_| OpenError::NotConnected("it is still being dialled".into()))?.ok();
            }
        }
    }
}

/// Writes the header at once. A serving agent that refuses without reading says why in its verdict, not here.
async fn write(send: &mut SendStream, recv: &mut RecvStream, header: &SessionHeader) -> Result<(), OpenError> {
    match send.write_all(&header.encode()).await {
        Ok(()) => Ok(()),
        Err(WriteError::ConnectionLost(why)) => Err(why.into()),
        Err(WriteError::Stopped(code)) => match read_verdict(recv).await {
            Ok(Answer::Refused(refusal)) => Err(OpenError::Refused(refusal)),
            Ok(Answer::Accepted(_)) | Err(_) => Err(OpenError::reset(code)),
        },
        Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => Err(OpenError::Protocol(CodecError::Truncated)),
    }
}

async fn read_verdict(recv: &mut RecvStream) -> Result<Answer, OpenError> {
    let mut head = [0; HEAD];
    read_exact(recv, &mut head).await?;
    let head = Head::decode(head)?;
    let mut text = vec![0; head.length];
    if !text.is_empty() {
        read_exact(recv, &mut text).await?;
    }
    Ok(head.with_text(&text)?)
}

async fn read_exact(recv: &mut RecvStream, into: &mut [u8]) -> Result<(), OpenError> {
    match recv.read_exact(into).await {
        Ok(()) => Ok(()),
        Err(ReadExactError::ReadError(ReadError::ConnectionLost(why))) => Err(why.into()),
        Err(ReadExactError::ReadError(ReadError::Reset(code))) => Err(OpenError::reset(code)),
        Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => Err(CodecError::Truncated.into()),
    }
}
