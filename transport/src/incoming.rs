//! The serving side of a session: header in, verdict out.

use crate::{
    code,
    codec::CodecError,
    control::{self, Request, Unread},
    datagram::{self, DatagramReceiver, DatagramSender},
    header::{LENGTH, SessionHeader},
    link::{Link, describe},
    stream::{self, RecvStream, SendStream},
    verdict::{Accepted, Answer, Refusal},
};
use quinn::{ConnectionError, ReadError, ReadExactError, WriteError};
use ripstop_config::{HostName, Reason};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time,
};

/// Accepted streams that wait for [`Incoming::next`]; more wait in their connections.
pub const INCOMING_QUEUE: usize = 1_024;
/// How long a header may take to arrive; it comes in the packet that opens its stream.
pub const HEADER_WAIT: Duration = Duration::from_secs(5);
/// How long a verdict may take to be written. A peer has granted credit for it with the stream; one that has not must not
/// hold a session for ever.
pub const VERDICT_WRITE: Duration = Duration::from_secs(5);

/// Sessions that other hosts open, in the order in which their streams arrived.
#[derive(Debug)]
pub struct Incoming(pub(crate) mpsc::Receiver<IncomingStream>);

impl Incoming {
    /// The next one; `None` once the transport is closed.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        self.0.recv().await
    }
}

/// A stream whose header has not been read. Dropped, it is reset.
#[derive(Debug)]
pub struct IncomingStream {
    /// The host that opened it, from its certificate.
    pub peer: HostName,
    /// The cipher suite of its connection, by its IANA name.
    pub cipher: &'static str,
    link: Arc<Link>,
    send: SendStream,
    recv: RecvStream,
    /// Its place among the streams of its connection that have said nothing yet.
    _waiting: OwnedSemaphorePermit,
}

/// What another host began on a stream.
#[derive(Debug)]
pub enum Opening {
    /// A session, which waits for its verdict.
    Session(IncomingSession),
    /// A request of its agent.
    Request(Request),
}

/// Why a session's header was not to be had, nor a request. The stream has been reset.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It is not a header.
    #[error("the peer's session header is malformed: {0}")]
    Malformed(#[from] CodecError),
    /// It did not arrive in time.
    #[error("the peer's session header did not arrive within {} s", HEADER_WAIT.as_secs())]
    Timeout,
    /// The peer has too many requests under way.
    #[error("the peer has more than {} requests under way", control::REQUESTS_MAX)]
    TooMany,
    /// The peer ended or reset the stream instead.
    #[error("the peer gave up before its session header was complete")]
    Ended,
    /// The connection is gone.
    #[error("the peer was lost: {}", describe(.0))]
    PeerLost(ConnectionError),
}

impl HeaderError {
    /// The reason for metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) | Self::Timeout => Reason::Protocol,
            Self::TooMany => Reason::AgentFull,
            Self::Ended => Reason::CallerGone,
            Self::PeerLost(error) => code::of_connection(error),
        }
    }
}

/// Why a verdict could not be given.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The caller gave up before.
    #[error("the caller gave up before the verdict")]
    CallerGone,
    /// The peer granted no credit for it within [`VERDICT_WRITE`].
    #[error("the peer took no verdict within {} s", VERDICT_WRITE.as_secs())]
    Timeout,
    /// The connection is gone.
    #[error("the peer was lost: {}", describe(.0))]
    PeerLost(ConnectionError),
}

impl AnswerError {
    /// The reason for metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::CallerGone => Reason::CallerGone,
            Self::Timeout => Reason::Protocol,
            Self::PeerLost(error) => code::of_connection(error),
        }
    }
}

impl From<WriteError> for AnswerError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(why) => Self::PeerLost(why),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::CallerGone,
        }
    }
}

impl IncomingStream {
    pub(crate) fn new(
        link: &Arc<Link>,
        streams: (quinn::SendStream, quinn::RecvStream),
        waiting: OwnedSemaphorePermit,
    ) -> Self {
        let (send, recv) = stream::undecided(link, streams, code::ABANDONED);
        Self { peer: link.host.clone(), cipher: link.cipher, link: Arc::clone(link), send, recv, _waiting: waiting }
    }

    /// Reads what the stream begins with, within [`HEADER_WAIT`]: a header of at most [`crate::HEADER_MAX`] and no byte
    /// behind it, or a whole request.
    ///
    /// # Errors
    /// [`HeaderError`]; the stream has been reset with [`code::PROTOCOL`] or [`code::LIMIT`] then.
    pub async fn open(mut self) -> Result<Opening, HeaderError> {
        let read = time::timeout(HEADER_WAIT, read_first(&self.link, &mut self.send, &mut self.recv)).await;
        match read.map_err(|_| HeaderError::Timeout).flatten() {
            Ok(First::Header(header)) => {
                let Self { peer, cipher, link, send, recv, _waiting } = self;
                Ok(Opening::Session(IncomingSession { peer, cipher, header, link, send, recv }))
            }
            Ok(First::Request(read)) => Ok(Opening::Request(read.of(self.peer, self.send, self.recv))),
            Err(error) => {
                if !matches!(error, HeaderError::TooMany) {
                    stream::blame(&mut self.send, &mut self.recv, code::PROTOCOL.into());
                }
                Err(error)
            }
        }
    }
}

/// What a stream begins with.
enum First {
    Header(SessionHeader),
    Request(control::Read),
}

async fn read_first(link: &Link, send: &mut SendStream, from: &mut RecvStream) -> Result<First, HeaderError> {
    let mut length = [0; LENGTH];
    read_exact(from, &mut length).await?;
    if length == control::MARK {
        return Ok(First::Request(control::read(link, send, from).await?));
    }
    let mut body = vec![0; SessionHeader::body_length(length)?];
    read_exact(from, &mut body).await?;
    Ok(First::Header(SessionHeader::decode(&body)?))
}

impl From<Unread> for HeaderError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Malformed(error) => Self::Malformed(error),
            Unread::Ended => Self::Ended,
            Unread::Lost(why) => Self::PeerLost(why),
            Unread::TooMany => Self::TooMany,
        }
    }
}

async fn read_exact(from: &mut RecvStream, into: &mut [u8]) -> Result<(), HeaderError> {
    match from.read_exact(into).await {
        Ok(()) => Ok(()),
        Err(ReadExactError::ReadError(ReadError::ConnectionLost(why))) => Err(HeaderError::PeerLost(why)),
        Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => Err(HeaderError::Ended),
    }
}

/// A session that waits for its verdict. Dropped without one, it is reset with [`code::ABANDONED`].
#[derive(Debug)]
pub struct IncomingSession {
    /// The host that opened it, from its certificate.
    pub peer: HostName,
    /// The cipher suite of its connection, by its IANA name.
    pub cipher: &'static str,
    /// What the peer's agent says of it; nothing of it is to be believed yet.
    pub header: SessionHeader,
    link: Arc<Link>,
    send: SendStream,
    recv: RecvStream,
}

impl IncomingSession {
    /// Gives the verdict that an endpoint took the session; plain bytes follow. Takes [`VERDICT_WRITE`] at most.
    ///
    /// # Errors
    /// [`AnswerError`] when nobody waits for it any more, or takes it; the stream has been reset then.
    pub async fn accept(mut self, accepted: Accepted) -> Result<(SendStream, RecvStream), AnswerError> {
        write_verdict(&mut self.send, &Answer::Accepted(accepted)).await?;
        Ok(stream::decide(self.send, self.recv))
    }

    /// As [`IncomingSession::accept`], for a session of UDP, whose datagrams are taken from here on.
    ///
    /// # Errors
    /// As there.
    pub async fn accept_datagrams(
        self,
        accepted: Accepted,
    ) -> Result<(SendStream, RecvStream, DatagramSender, DatagramReceiver), AnswerError> {
        let (to, from) = datagram::attach(&self.link, self.send.id());
        let (send, recv) = self.accept(accepted).await?;
        Ok((send, recv, to, from))
    }

    /// Answers an echo: an endpoint would take such a session. Nothing is left of it then. Takes [`VERDICT_WRITE`] at most.
    ///
    /// # Errors
    /// [`AnswerError`] when nobody waits for it any more, or takes it.
    pub async fn accept_echo(self, accepted: Accepted) -> Result<(), AnswerError> {
        let (mut send, mut recv) = self.accept(accepted).await?;
        // Both fail only on a stream that has ended by itself.
        let _ = (send.finish(), recv.stop(code::from_reason(Reason::Closed)));
        Ok(())
    }

    /// Gives the verdict that the session is refused, and ends it. Nothing that the caller sends later is read. Takes
    /// [`VERDICT_WRITE`] at most.
    ///
    /// # Errors
    /// [`AnswerError`] when nobody waits for it any more, or takes it; the stream has been reset with the reason then.
    pub async fn refuse(mut self, refusal: Refusal) -> Result<(), AnswerError> {
        stream::blame(&mut self.send, &mut self.recv, code::from_reason(refusal.reason));
        write_verdict(&mut self.send, &Answer::Refused(refusal)).await?;
        let (mut send, mut recv) = stream::decide(self.send, self.recv);
        // Both fail only on a stream that has ended by itself.
        let _ = (send.finish(), recv.stop(code::from_reason(Reason::Closed)));
        Ok(())
    }

    /// Completes when the caller has given up or its host is gone, so that an endpoint need not be waited for.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.send.stopped();
        async {
            let _ = stopped.await;
        }
    }
}

async fn write_verdict(to: &mut SendStream, verdict: &Answer) -> Result<(), AnswerError> {
    let written = time::timeout(VERDICT_WRITE, to.write_all(&verdict.encode())).await;
    Ok(written.map_err(|_| AnswerError::Timeout)??)
}
