//! Bytes of a query to what is asked, or to the reply that a query with a mistake gets.

use crate::{
    answer::Answer,
    reply::{self, Rcode},
};
use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query},
    rr::{DNSClass, RecordType},
    serialize::binary::{BinDecodable, BinDecoder},
};
use ripstop_config::Reason;

/// Longest reply over UDP, bytes: what crosses any link without IP fragments (DNS flag day 2020, RFC 9715).
pub(crate) const UDP_MAX: u16 = 1232;
/// Longest reply over UDP to a client that says nothing of sizes, bytes (RFC 1035 section 4.2.1).
const UDP_MIN: u16 = 512;
/// Shortest message, bytes: the header (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;

/// How a query came, which bounds its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// A datagram: the reply is cut to what the client takes, 1232 bytes at most.
    Udp,
    /// A stream, framed by a length of two bytes that are not part of the messages here: 65535 bytes at most.
    Tcp,
}

/// One well-formed question of class IN.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The query's header.
    pub(crate) metadata: Metadata,
    /// The question, its name in the case it was asked in.
    pub(crate) question: Query,
    /// What the OPT record said, if there was one.
    pub(crate) edns: Option<ClientEdns>,
    /// How it came.
    pub(crate) via: Via,
}

/// What a client's OPT record says (RFC 6891 section 6.1.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientEdns {
    /// The largest datagram it takes, bytes.
    size: u16,
    /// It wants DNSSEC records (RFC 3225).
    pub(crate) dnssec_ok: bool,
}

impl Asked {
    /// The most bytes that the reply may have.
    pub(crate) fn limit(&self) -> usize {
        match (self.via, self.edns) {
            (Via::Tcp, _) => usize::from(u16::MAX),
            (Via::Udp, Some(edns)) => usize::from(edns.size.clamp(UDP_MIN, UDP_MAX)),
            (Via::Udp, None) => usize::from(UDP_MIN),
        }
    }

    /// Whether DNSSEC records are wanted.
    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }
}

/// The name asked for, in presentation form with everything unprintable escaped; for logs.
#[must_use]
pub fn peek_name(query: &[u8]) -> Option<String> {
    let mut decoder = BinDecoder::new(query);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries == 0 {
        return None;
    }
    Some(Query::read(&mut decoder).ok()?.name.to_ascii())
}

/// Reads a query.
///
/// # Errors
/// What to do with one that is no well-formed question: drop it, or reply with the error.
pub(crate) fn parse(bytes: &[u8], via: Via) -> Result<Asked, Answer> {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else {
        return Err(Answer::Drop(Reason::MalformedQuery));
    };
    // A reply to a reply can go round for ever.
    if header.metadata.message_type == MessageType::Response {
        return Err(Answer::Drop(Reason::MalformedQuery));
    }
    let fail = |rcode| Err(Answer::Reply(reply::bare(&header.metadata, rcode)));
    if header.metadata.op_code != OpCode::Query {
        return fail(Rcode::NotImp);
    }
    // Checked before anything is read: the decoder reserves room for as many as the header claims.
    if header.counts.queries != 1 {
        return fail(Rcode::FormErr);
    }
    let Ok(question) = Query::read(&mut decoder) else {
        return fail(Rcode::FormErr);
    };
    let Ok(edns) = read_rest(&mut decoder, &header) else {
        return fail(Rcode::FormErr);
    };
    let client = edns.as_ref().map(|edns| ClientEdns { size: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok });
    let asked = Asked { metadata: header.metadata, question, edns: client, via };
    check(asked, edns.map_or(0, |edns| edns.version()))
}

/// Reads what follows the question: records of no interest, and the OPT record.
fn read_rest(decoder: &mut BinDecoder<'_>, header: &Header) -> Result<Option<Edns>, ()> {
    let mut edns = None;
    let sections =
        [(header.counts.answers, false), (header.counts.authorities, false), (header.counts.additionals, true)];
    for (count, additional) in sections {
        let read = Message::read_records(decoder, usize::from(count), additional, OpCode::Query).map_err(|_| ())?;
        edns = read.1;
    }
    // Bytes after the last record are a mistake of the sender or a trick.
    if decoder.is_empty() { Ok(edns) } else { Err(()) }
}

/// What is well-formed but not answered.
fn check(asked: Asked, version: u8) -> Result<Asked, Answer> {
    let rcode = match asked.question.query_type {
        // RFC 6891 section 6.1.3.
        _ if version != 0 => Rcode::BadVers,
        _ if asked.question.query_class != DNSClass::IN => Rcode::NotImp,
        // Zone transfers and mail agents' questions of old: nothing here has them, and no upstream should be asked.
        RecordType::AXFR | RecordType::IXFR | RecordType::Unknown(253 | 254) => Rcode::NotImp,
        // These exist in messages only, never as data (RFC 6895 section 3.1).
        RecordType::ZERO | RecordType::OPT | RecordType::TSIG | RecordType::Unknown(0 | 249) => Rcode::FormErr,
        _ => return Ok(asked),
    };
    Err(Answer::Reply(reply::Draft::new(rcode).finish(&asked)))
}
