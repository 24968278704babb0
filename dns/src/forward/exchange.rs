//! One question to one upstream resolver: over UDP, then over TCP if the answer does not fit.
//!
//! What an attacker off the path would have to guess (RFC 5452): the socket's random port, the random id, and the
//! random case of the name's letters. A datagram that does not match is passed over and the wait goes on.

use super::cache::Key;
use crate::query::{HEADER, UDP_MAX};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::Name,
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Duration, timeout},
};

/// Largest datagram that is read, bytes: resolvers are told 1232, and some send more.
const DATAGRAM_MAX: usize = 4096;
/// Datagrams that do not match before the question is asked over TCP, which cannot be forged so: someone is guessing.
const FORGED_MAX: usize = 32;

/// Why an upstream resolver gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("no upstream resolver is configured")]
    NoUpstreams,
    #[error("upstream resolvers did not answer in time")]
    TimedOut,
    #[error("upstream resolvers cannot be reached: {0}")]
    Network(io::ErrorKind),
    #[error("the upstream resolver answered {0}")]
    Failed(ResponseCode),
    #[error("the upstream resolver's answer is malformed")]
    Garbled,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Network(error.kind())
    }
}

/// Asks, waiting at most `wait` for UDP and as long again for TCP.
///
/// # Errors
/// [`Trouble`] when there is no answer; also when the answer is neither "here it is" nor "no such name".
pub(super) async fn ask(server: SocketAddr, key: &Key, wait: Duration) -> Result<Message, Trouble> {
    let question = question(key);
    let wire = question.to_vec().map_err(|_| Trouble::Garbled)?;
    let mut reply = timeout(wait, by_udp(server, &question, &wire)).await.map_err(|_| Trouble::TimedOut)??;
    if reply.as_ref().is_none_or(|reply| reply.metadata.truncation) {
        reply = Some(timeout(wait, by_tcp(server, &question, &wire)).await.map_err(|_| Trouble::TimedOut)??);
    }
    let reply = reply.ok_or(Trouble::Garbled)?;
    match reply.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(reply),
        other => Err(Trouble::Failed(other)),
    }
}

/// A new question with a random id and random case. Nothing of the client's message is passed on but what it asks:
/// no cookies, no client subnet.
fn question(key: &Key) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = key.checking_disabled;
    let mut name: Name = key.name.clone();
    name.randomize_label_case();
    let mut query = Query::query(name, key.kind);
    query.set_query_class(key.class);
    message.queries.push(query);
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX).set_dnssec_ok(key.dnssec_ok);
    message.edns = Some(edns);
    message
}

/// `None` when the question should be asked over TCP.
async fn by_udp(server: SocketAddr, question: &Message, wire: &[u8]) -> Result<Option<Message>, Trouble> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket for each question has its own random port; connected, it takes datagrams from this resolver only, and
    // reports that nobody listens there.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(wire).await?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    for _ in 0..FORGED_MAX {
        let length = socket.recv(&mut buffer).await?;
        match judge(question, &buffer[..length]) {
            Judgement::Ours(message) => return Ok(Some(*message)),
            Judgement::CaseLost => return Ok(None),
            Judgement::Forged => tracing::trace!(%server, length, "a datagram that does not match the question"),
        }
    }
    Ok(None)
}

async fn by_tcp(server: SocketAddr, question: &Message, wire: &[u8]) -> Result<Message, Trouble> {
    let length = u16::try_from(wire.len()).map_err(|_| Trouble::Garbled)?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(wire);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    match judge(question, &buffer) {
        Judgement::Ours(message) => Ok(*message),
        // Nobody but the resolver writes to this connection, so a resolver that loses the case is believed here.
        Judgement::CaseLost => Message::from_vec(&buffer).map_err(|_| Trouble::Garbled),
        Judgement::Forged => Err(Trouble::Garbled),
    }
}

/// What a message is to a question.
#[derive(Debug)]
enum Judgement {
    /// The answer to it.
    Ours(Box<Message>),
    /// The answer, but for the case of the name's letters.
    CaseLost,
    /// Not the answer.
    Forged,
}

fn judge(question: &Message, bytes: &[u8]) -> Judgement {
    // The number of questions first: the decoder reserves room for as many as the header claims.
    if bytes.len() < HEADER || bytes[4..6] != [0, 1] || bytes[..2] != question.metadata.id.to_be_bytes() {
        return Judgement::Forged;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        return Judgement::Forged;
    };
    let reply = message.metadata.message_type == MessageType::Response && message.metadata.op_code == OpCode::Query;
    let (Some(asked), Some(echo), true) = (question.queries.first(), message.queries.first(), reply) else {
        return Judgement::Forged;
    };
    match asked == echo {
        true if asked.name.eq_case(&echo.name) => Judgement::Ours(Box::new(message)),
        true => Judgement::CaseLost,
        false => Judgement::Forged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn judging_any_bytes_never_panics_and_believes_none_with_another_id(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let question = question(&Key::for_test("www.example.com."));
            if bytes.len() >= 12 {
                bytes[..2].copy_from_slice(&question.metadata.id.wrapping_add(1).to_be_bytes());
            }
            prop_assert!(matches!(judge(&question, &bytes), Judgement::Forged));
        }

        #[test]
        fn a_damaged_answer_never_panics(at in 0usize..64, to in any::<u8>()) {
            let question = question(&Key::for_test("www.example.com."));
            let mut reply = question.clone();
            reply.metadata.message_type = MessageType::Response;
            let mut bytes = reply.to_vec().unwrap();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = judge(&question, &bytes);
        }
    }

    #[test]
    fn the_echo_must_match_in_everything() {
        let mut question = question(&Key::for_test("www.example.com."));
        question.queries[0].name = Name::from_ascii("wWw.eXample.com.").unwrap();
        let mut reply = question.clone();
        assert!(matches!(judge(&question, &reply.to_vec().unwrap()), Judgement::Forged), "a query is no reply");
        reply.metadata.message_type = MessageType::Response;
        assert!(matches!(judge(&question, &reply.to_vec().unwrap()), Judgement::Ours(_)));
        reply.queries[0].name = Name::from_ascii("www.example.com.").unwrap();
        assert!(matches!(judge(&question, &reply.to_vec().unwrap()), Judgement::CaseLost));
        reply.queries[0].name = Name::from_ascii("www.example.org.").unwrap();
        assert!(matches!(judge(&question, &reply.to_vec().unwrap()), Judgement::Forged));
    }
}
