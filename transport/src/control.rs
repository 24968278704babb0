//! Requests between agents: a question and an answer on a stream of their own, for what is no session.
//!
//! ```text
//! request: u16 0xffff | u8 form = 1 | u8 kind | u32 length | body, end of stream
//! answer:  u8 status (0 answered, 1 refused) | u32 length | body, or why it is refused, end of stream
//! ```
//! Numbers are big-endian. The first two bytes stand where a session header has its length, which is never so large. What
//! the kinds mean is for the agent to say; whether a host may ask, too.

use crate::{
    code,
    codec::{CodecError, Reader, clip},
    incoming::AnswerError,
    link::{Link, describe},
    serve,
    session::{self, OpenError},
    shared::Shared,
    stream::{self, RecvStream, SendStream},
};
use bytes::Bytes;
use quinn::{ConnectionError, ReadError, ReadExactError, WriteError};
use ripstop_config::HostName;
use std::{sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time};

/// Largest body of a request, in bytes: a certificate request has a few thousand.
pub const REQUEST_MAX: usize = 64 << 10;
/// Requests of one host that are under way here at once, from their first byte to the end of the answer. More are reset.
pub const REQUESTS_MAX: usize = 4;
/// How long an answer may take to be written: 16 MiB on a path of 5 Mbit/s.
pub const ANSWER_WRITE: Duration = Duration::from_secs(30);
/// Longest text that says why a request is refused, in bytes; a longer one is cut.
pub const REFUSAL_MAX: usize = 512;

/// Stands for the length of a session header.
pub(crate) const MARK: [u8; 2] = [0xff; 2];
const FORM: u8 = 1;
/// Bytes of a request behind the mark and before its body.
const HEAD: usize = 6;
/// Bytes of an answer before its body.
const ANSWER_HEAD: usize = 5;
const ANSWERED: u8 = 0;
const REFUSED: u8 = 1;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no connection to the host.
    #[error("the host is not connected: {0}")]
    NotConnected(String),
    /// The connection ended before the answer.
    #[error("the host was lost: {}", describe(.0))]
    PeerLost(ConnectionError),
    /// No answer came in time.
    #[error("the host gave no answer in time")]
    Timeout,
    /// It does not answer such a request, or has too many.
    #[error("the host turned the request away")]
    TurnedAway,
    /// It says no.
    #[error("the host refused: {0}")]
    Refused(String),
    /// The request is too long, or the answer is none.
    #[error("the request or its answer is malformed: {0}")]
    Protocol(#[from] CodecError),
}

/// Another host's request. Dropped without an answer, it is turned away.
#[derive(Debug)]
pub struct Request {
    /// The host that asks, from its certificate.
    pub peer: HostName,
    /// What it asks for.
    pub kind: u8,
    /// With what.
    pub body: Bytes,
    send: SendStream,
    recv: RecvStream,
    _place: OwnedSemaphorePermit,
}

impl Request {
    /// Answers it. Takes [`ANSWER_WRITE`] at most.
    ///
    /// # Errors
    /// [`AnswerError`] when nobody waits for it any more, or takes it.
    pub async fn answer(self, body: Bytes) -> Result<(), AnswerError> {
        self.write(ANSWERED, body).await
    }

    /// Says no, and why.
    ///
    /// # Errors
    /// [`AnswerError`] when nobody waits for it any more, or takes it.
    pub async fn refuse(self, why: &str) -> Result<(), AnswerError> {
        self.write(REFUSED, Bytes::copy_from_slice(clip(why, REFUSAL_MAX).as_bytes())).await
    }

    async fn write(mut self, status: u8, body: Bytes) -> Result<(), AnswerError> {
        let mut head = Vec::with_capacity(ANSWER_HEAD);
        head.push(status);
        head.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        let written = time::timeout(ANSWER_WRITE, self.send.write_all_chunks(&mut [head.into(), body])).await;
        written.map_err(|_| AnswerError::Timeout)??;
        let (mut send, _recv) = stream::decide(self.send, self.recv);
        // Fails only on a stream that has ended by itself.
        let _ = send.finish();
        Ok(())
    }
}

/// Why a stream that began with the mark is no request.
pub(crate) enum Unread {
    Malformed(CodecError),
    Ended,
    Lost(ConnectionError),
    TooMany,
}

impl From<CodecError> for Unread {
    fn from(error: CodecError) -> Self {
        Self::Malformed(error)
    }
}

/// Reads a request behind its mark. The caller bounds the time.
pub(crate) async fn read(link: &Link, send: &mut SendStream, recv: &mut RecvStream) -> Result<Read, Unread> {
    let place = link.requests.clone().try_acquire_owned().map_err(|_| {
        stream::blame(send, recv, code::LIMIT.into());
        Unread::TooMany
    })?;
    let mut head = [0; HEAD];
    exactly(recv, &mut head).await?;
    let mut from = Reader::new(&head);
    let (form, kind) = (from.byte()?, from.byte()?);
    let length = u32::from_be_bytes(from.array()?) as usize;
    if form != FORM {
        return Err(CodecError::Version(form).into());
    }
    if length > REQUEST_MAX {
        return Err(CodecError::TooLong(length, REQUEST_MAX).into());
    }
    let mut body = vec![0; length];
    exactly(recv, &mut body).await?;
    Ok(Read { kind, body: body.into(), place })
}

/// A request that was read.
pub(crate) struct Read {
    kind: u8,
    body: Bytes,
    place: OwnedSemaphorePermit,
}

impl Read {
    pub(crate) fn of(self, peer: HostName, send: SendStream, recv: RecvStream) -> Request {
        let Self { kind, body, place } = self;
        Request { peer, kind, body, send, recv, _place: place }
    }
}

async fn exactly(from: &mut RecvStream, into: &mut [u8]) -> Result<(), Unread> {
    if into.is_empty() {
        return Ok(());
    }
    match from.read_exact(into).await {
        Ok(()) => Ok(()),
        Err(ReadExactError::ReadError(ReadError::ConnectionLost(why))) => Err(Unread::Lost(why)),
        Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => Err(Unread::Ended),
    }
}

/// Asks a host, and waits for its answer of at most `limit` bytes. Dropped before, the host is told.
pub(crate) async fn ask(
    shared: &Arc<Shared>,
    host: &HostName,
    kind: u8,
    body: &[u8],
    limit: usize,
) -> Result<Bytes, AskError> {
    if body.len() > REQUEST_MAX {
        return Err(CodecError::TooLong(body.len(), REQUEST_MAX).into());
    }
    let mut request = Vec::with_capacity(MARK.len() + HEAD + body.len());
    request.extend_from_slice(&MARK);
    request.extend_from_slice(&[FORM, kind]);
    request.extend_from_slice(&(body.len() as u32).to_be_bytes());
    request.extend_from_slice(body);
    let link = session::connected(shared, host).await?;
    let answer = ask_by(&link, &request, limit).await;
    let (Err(AskError::TurnedAway), Some(newer)) = (&answer, shared.table().newer(&link)) else { return answer };
    // An agent that has handed over answers nothing any more, and the next one's connection may be taken for the loser of two
    // that were dialled at once.
    let answer = ask_by(&newer, &request, limit).await;
    if matches!(answer, Ok(_) | Err(AskError::Refused(_))) {
        serve::prefer(shared, &newer);
    }
    answer
}

async fn ask_by(link: &Arc<Link>, request: &[u8], limit: usize) -> Result<Bytes, AskError> {
    let streams = link.connection.open_bi().await.map_err(AskError::PeerLost)?;
    let (mut send, mut recv) = stream::undecided(link, streams, code::CANCELLED);
    send.write_all(request).await.map_err(not_written)?;
    // Fails only on a stream that has ended by itself; reading says why.
    let _ = send.finish();
    let answer = read_answer(&mut recv, limit).await?;
    stream::decide(send, recv);
    Ok(answer)
}

fn not_written(error: WriteError) -> AskError {
    match error {
        WriteError::ConnectionLost(why) => AskError::PeerLost(why),
        WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => AskError::TurnedAway,
    }
}

async fn read_answer(from: &mut RecvStream, limit: usize) -> Result<Bytes, AskError> {
    let mut head = [0; ANSWER_HEAD];
    match from.read_exact(&mut head).await {
        Ok(()) => {}
        Err(ReadExactError::ReadError(ReadError::ConnectionLost(why))) => return Err(AskError::PeerLost(why)),
        Err(ReadExactError::ReadError(ReadError::Reset(_))) => return Err(AskError::TurnedAway),
        Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => {
            return Err(CodecError::Truncated.into());
        }
    }
    let [status, length @ ..] = head;
    let limit = if status == REFUSED { REFUSAL_MAX } else { limit };
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(CodecError::TooLong(length, limit).into());
    }
    let body = whole(from, length).await?;
    match status {
        ANSWERED => Ok(body),
        REFUSED => Err(AskError::Refused(printable(&body))),
        other => Err(CodecError::Value("status", other.into()).into()),
    }
}

/// As much memory as has arrived, not as was promised.
async fn whole(from: &mut RecvStream, length: usize) -> Result<Bytes, AskError> {
    let mut read = Vec::new();
    loop {
        match from.read_chunk(usize::MAX, true).await {
            Ok(Some(piece)) if read.len() + piece.bytes.len() > length => {
                return Err(CodecError::Trailing(read.len() + piece.bytes.len() - length).into());
            }
            Ok(Some(piece)) => read.extend_from_slice(&piece.bytes),
            Ok(None) if read.len() == length => return Ok(read.into()),
            Ok(None) => return Err(CodecError::Truncated.into()),
            Err(ReadError::ConnectionLost(why)) => return Err(AskError::PeerLost(why)),
            Err(_) => return Err(AskError::TurnedAway),
        }
    }
}

/// What a peer says, fit for a log.
pub(crate) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl From<OpenError> for AskError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotConnected(why) => Self::NotConnected(why),
            OpenError::PeerLost(why) => Self::PeerLost(why),
            OpenError::Timeout => Self::Timeout,
            OpenError::Refused(_) => Self::TurnedAway,
            OpenError::Protocol(error) => Self::Protocol(error),
        }
    }
}
