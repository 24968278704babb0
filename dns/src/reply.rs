//! Building replies: header bits, Extended DNS Errors, and the size that the client takes.

use crate::query::{Asked, HEADER, UDP_MAX, Via};
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        Record,
        rdata::opt::{EdnsCode, EdnsOption},
    },
};
use ripstop_config::Reason;
use ripstop_policy::ServiceIx;
use std::fmt;

/// Longest text of an Extended DNS Error, bytes: with it, the longest question still fits 512 bytes.
const EDE_TEXT_MAX: usize = 200;
/// The EDNS option of Extended DNS Errors (RFC 8914 section 2).
pub(crate) const EDE_OPTION: u16 = 15;

/// The result of a query, as a closed set for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rcode {
    /// The name exists; there may be no record of the type.
    NoError,
    /// The query is malformed.
    FormErr,
    /// No upstream resolver gave an answer.
    ServFail,
    /// The name does not exist for this workload.
    NxDomain,
    /// A kind of query that is not served.
    NotImp,
    /// A version of EDNS other than 0.
    BadVers,
}

impl Rcode {
    /// Every result.
    pub const ALL: &'static [Self] =
        &[Self::NoError, Self::FormErr, Self::ServFail, Self::NxDomain, Self::NotImp, Self::BadVers];

    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::FormErr => "formerr",
            Self::ServFail => "servfail",
            Self::NxDomain => "nxdomain",
            Self::NotImp => "notimp",
            Self::BadVers => "badvers",
        }
    }

    fn wire(self) -> ResponseCode {
        match self {
            Self::NoError => ResponseCode::NoError,
            Self::FormErr => ResponseCode::FormErr,
            Self::ServFail => ResponseCode::ServFail,
            Self::NxDomain => ResponseCode::NXDomain,
            Self::NotImp => ResponseCode::NotImp,
            Self::BadVers => ResponseCode::BADVERS,
        }
    }
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A reply, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The message, without the length that goes before it over TCP.
    pub bytes: Vec<u8>,
    /// Its result.
    pub rcode: Rcode,
    /// Why the policy kept the name from the workload, where it did. More exact than what the workload is told.
    pub denied: Option<Reason>,
    /// The service that it kept from the workload, if there is one of the name: of the policy that answered.
    pub hidden: Option<ServiceIx>,
}

/// An Extended DNS Error (RFC 8914): why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ede {
    /// What kind.
    pub(crate) code: EdeCode,
    /// The sentence.
    pub(crate) text: String,
}

/// The codes that are used (RFC 8914 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum EdeCode {
    /// The text says it all.
    Other = 0,
    /// Upstream failed; this is what it said before.
    Stale = 3,
    /// The policy of whoever runs the fabric forbids it.
    Blocked = 15,
    /// The caller is not authorised.
    Prohibited = 18,
    /// No upstream resolver answered.
    NoReachableAuthority = 22,
    /// Talking to the upstream resolvers failed.
    NetworkError = 23,
}

/// A reply before it is cut to size.
#[derive(Debug)]
pub(crate) struct Draft {
    rcode: Rcode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
    pub(crate) ede: Option<Ede>,
    pub(crate) denied: Option<Reason>,
    pub(crate) hidden: Option<ServiceIx>,
}

impl Draft {
    /// An empty reply.
    pub(crate) fn new(rcode: Rcode) -> Self {
        Self {
            rcode,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            ede: None,
            denied: None,
            hidden: None,
        }
    }

    /// An empty reply that speaks for the zone itself.
    pub(crate) fn authoritative(rcode: Rcode) -> Self {
        Self { authoritative: true, ..Self::new(rcode) }
    }

    /// The message, no longer than the client takes. What goes first when it is too long: additional records (RFC 2181
    /// section 9), the error's text, then every record, with TC set so that the client comes back over TCP.
    pub(crate) fn finish(self, asked: &Asked) -> Reply {
        let Self { rcode, denied, hidden, .. } = self;
        let limit = asked.limit();
        let mut message = self.message(asked);
        let steps: [fn(&mut Message); 3] = [|_| {}, |message| message.additionals.clear(), drop_ede];
        for step in steps {
            step(&mut message);
            if let Some(bytes) = encode(&message).filter(|bytes| bytes.len() <= limit) {
                return Reply { bytes, rcode, denied, hidden };
            }
        }
        message.answers.clear();
        message.authorities.clear();
        // Over TCP there is nowhere else to go for the rest.
        let rcode = match asked.via {
            Via::Udp => rcode,
            Via::Tcp => Rcode::ServFail,
        };
        message.metadata.truncation = asked.via == Via::Udp;
        message.metadata.response_code = rcode.wire();
        Reply { bytes: message.to_vec().unwrap_or_else(|_| header_only(&message.metadata)), rcode, denied, hidden }
    }

    fn message(self, asked: &Asked) -> Message {
        let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata = header(&asked.metadata, self.rcode);
        message.metadata.authoritative = self.authoritative;
        message.queries.push(asked.question.clone());
        message.answers = self.answers;
        message.authorities = self.authorities;
        message.additionals = self.additionals;
        // An OPT record goes only to those who sent one (RFC 6891 section 7).
        message.edns = asked.edns.map(|client| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX).set_dnssec_ok(client.dnssec_ok);
            if let Some(ede) = self.ede {
                edns.options_mut().insert(ede.option());
            }
            edns
        });
        message
    }
}

impl Ede {
    /// Printable characters only: texts quote names, which may hold any byte, and end up on terminals.
    fn option(&self) -> EdnsOption {
        let printable = |char: char| if char.is_ascii_graphic() || char == ' ' { char } else { '?' };
        let text: String = self.text.chars().map(printable).take(EDE_TEXT_MAX).collect();
        let mut data = (self.code as u16).to_be_bytes().to_vec();
        data.extend_from_slice(text.as_bytes());
        EdnsOption::Unknown(EDE_OPTION, data)
    }
}

/// A reply without question, to a query whose question could not be read.
pub(crate) fn bare(query: &Metadata, rcode: Rcode) -> Reply {
    Reply { bytes: header_only(&header(query, rcode)), rcode, denied: None, hidden: None }
}

/// RD and CD are copied, RA says that other names are forwarded (RFC 1035 section 4.1.1, RFC 4035 section 3.2.2). AD is
/// never set: nothing here has validated anything.
fn header(query: &Metadata, rcode: Rcode) -> Metadata {
    let mut header = Metadata::response_from_request(query);
    header.recursion_available = true;
    header.response_code = rcode.wire();
    header
}

fn header_only(header: &Metadata) -> Vec<u8> {
    let mut message = Message::new(header.id, MessageType::Response, header.op_code);
    message.metadata = *header;
    message.to_vec().unwrap_or_else(|_| {
        // Twelve bytes always fit; were they not to, an empty header with the id is still a reply.
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&header.id.to_be_bytes());
        bytes[2] = 0x80;
        bytes
    })
}

fn drop_ede(message: &mut Message) {
    if let Some(edns) = message.edns.as_mut() {
        edns.options_mut().remove(EdnsCode::from(EDE_OPTION));
    }
}

/// The whole message, or nothing: what does not fit 65535 bytes would be cut without saying where.
pub(crate) fn encode(message: &Message) -> Option<Vec<u8>> {
    const TRUNCATED: u8 = 0x02;
    let bytes = message.to_vec().ok()?;
    (message.metadata.truncation || bytes.get(2)? & TRUNCATED == 0).then_some(bytes)
}
