//! The session header: what the calling agent says at the head of a stream, once, before plain bytes.
//!
//! ```text
//! u16 length of what follows | u8 version = 2 | 16 session | 8 policy | u64 epoch | u64 counter | u16 source port
//! | u16 port | u8 protocol | u8 flags (1: trace, 2: echo, 4: IPv6) | [24 trace] | u8 length, caller `tenant/name`
//! | u8 length, service `tenant/name`
//! ```
//! Numbers are big-endian. A reader takes the two bytes of the length, then exactly that many, so that payload right
//! behind the header stays in the stream.

use crate::codec::{CodecError, Reader};
use ripstop_config::{PolicyVersion, Port, Protocol, ServiceId, WorkloadId};
use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Longest session header, its length field included (DESIGN section 12). Version 2 needs at most 325 bytes.
pub const HEADER_MAX: usize = 1024;
/// Bytes of the length field at the head of a session header.
pub(crate) const LENGTH: usize = 2;
const VERSION: u8 = 2;
const FLAG_TRACE: u8 = 1;
const FLAG_ECHO: u8 = 2;
const FLAG_V6: u8 = 4;
const TCP: u8 = 6; // protocol numbers of the Internet Protocol (RFC 5237, IANA registry)
const UDP: u8 = 17;

/// Names one session on both hosts; in hexadecimal for people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A new identifier, which no other session of any host has, in all likelihood. It names, and protects nothing.
    #[must_use]
    pub fn random() -> Self {
        static SEEDS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [high, low] = SEEDS.each_ref().map(|seed| seed.hash_one((number, std::process::id())));
        Self(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a header asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A session.
    #[default]
    Session,
    /// Only a verdict: whether an endpoint is there for this caller, and how far away. Nothing is opened.
    Echo,
}

/// Who calls what: all that the serving agent needs for its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHeader {
    /// Names the session on both hosts.
    pub session: SessionId,
    /// The workload that calls.
    pub caller: WorkloadId,
    /// The service that it calls.
    pub service: ServiceId,
    /// The port of the service.
    pub port: Port,
    /// Digest of the policy by which the calling agent allowed it.
    pub policy: [u8; 8],
    /// Its version, if it is signed: a serving agent that has an older one gets this one first.
    pub version: PolicyVersion,
    /// What is asked for.
    pub purpose: Purpose,
    /// The caller used IPv6; its endpoint is tried over the same family first.
    pub v6: bool,
    /// The caller's own port, for endpoints that are shown where a connection comes from.
    pub source_port: u16,
    /// Trace context: 16 bytes of trace id, 8 of span id (W3C Trace Context, section 3.2.2). A span id of zero, which is none
    /// there, says that the calling host does not sample the session; without the whole it traces nothing.
    pub trace: Option<[u8; 24]>,
}

impl SessionHeader {
    /// The header's bytes, length field included; never more than [`HEADER_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (caller, service) = (self.caller.to_string(), self.service.to_string());
        let mut out = Vec::with_capacity(64 + caller.len() + service.len());
        out.extend_from_slice(&[0; LENGTH]);
        out.push(VERSION);
        out.extend_from_slice(&self.session.0);
        out.extend_from_slice(&self.policy);
        out.extend_from_slice(&self.version.epoch.to_be_bytes());
        out.extend_from_slice(&self.version.counter.to_be_bytes());
        out.extend_from_slice(&self.source_port.to_be_bytes());
        out.extend_from_slice(&self.port.number.to_be_bytes());
        out.push(protocol_number(self.port.protocol));
        out.push(self.flags());
        out.extend_from_slice(self.trace.as_ref().map_or(&[], |trace| trace.as_slice()));
        for name in [caller, service] {
            // Two labels of at most 63 bytes and a slash always fit one byte of length.
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
        }
        let length = u16::try_from(out.len() - LENGTH).unwrap_or(u16::MAX);
        out[..LENGTH].copy_from_slice(&length.to_be_bytes());
        out
    }

    fn flags(&self) -> u8 {
        let echo = self.purpose == Purpose::Echo;
        [(self.trace.is_some(), FLAG_TRACE), (echo, FLAG_ECHO), (self.v6, FLAG_V6)]
            .into_iter()
            .fold(0, |flags, (set, flag)| if set { flags | flag } else { flags })
    }

    /// How many bytes follow the length field.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] when the whole would be longer than [`HEADER_MAX`].
    pub fn body_length(length: [u8; 2]) -> Result<usize, CodecError> {
        let body = usize::from(u16::from_be_bytes(length));
        match body + LENGTH > HEADER_MAX {
            true => Err(CodecError::TooLong(body + LENGTH, HEADER_MAX)),
            false => Ok(body),
        }
    }

    /// Reads a header from the bytes behind its length field.
    ///
    /// # Errors
    /// [`CodecError`] for anything but exactly one well-formed header.
    pub fn decode(body: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::new(body);
        let version = from.byte()?;
        if version != VERSION {
            return Err(CodecError::Version(version));
        }
        let (session, policy) = (SessionId(from.array()?), from.array()?);
        let [epoch, counter] = [from.array()?, from.array()?].map(u64::from_be_bytes);
        let version = PolicyVersion { epoch, counter };
        let source_port = from.number()?;
        let port = read_port(&mut from)?;
        let flags = from.byte()?;
        if flags & !(FLAG_TRACE | FLAG_ECHO | FLAG_V6) != 0 {
            return Err(CodecError::Value("flags", flags.into()));
        }
        let trace = if flags & FLAG_TRACE == 0 { None } else { Some(from.array()?) };
        let purpose = if flags & FLAG_ECHO == 0 { Purpose::Session } else { Purpose::Echo };
        let caller = from.short_text()?.parse()?;
        let service = from.short_text()?.parse()?;
        from.end()?;
        let v6 = flags & FLAG_V6 != 0;
        Ok(Self { session, caller, service, port, policy, version, purpose, v6, source_port, trace })
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

fn read_port(from: &mut Reader<'_>) -> Result<Port, CodecError> {
    let number = from.number()?;
    let protocol = match from.byte()? {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        other => return Err(CodecError::Value("protocol", other.into())),
    };
    match number {
        0 => Err(CodecError::Value("port", number)),
        number => Ok(Port { number, protocol }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label() -> impl Strategy<Value = String> {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    }

    prop_compose! {
        fn header()(
            session: [u8; 16], policy: [u8; 8], version: (u64, u64), source_port: u16, trace: Option<[u8; 24]>,
            number in 1..=u16::MAX, udp: bool, echo: bool, v6: bool, names in [label(), label(), label(), label()],
        ) -> SessionHeader {
            let [a, b, c, d] = names;
            let purpose = if echo { Purpose::Echo } else { Purpose::Session };
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            SessionHeader {
                version: PolicyVersion { epoch: version.0, counter: version.1 },
                session: SessionId(session), policy, purpose, v6, source_port, trace, port: Port { number, protocol },
                caller: format!("{a}/{b}").parse().expect("labels"),
                service: format!("{c}/{d}").parse().expect("labels"),
            }
        }
    }

    fn split(bytes: &[u8]) -> (usize, &[u8]) {
        let (length, body) = bytes.split_first_chunk::<LENGTH>().expect("a length field");
        (SessionHeader::body_length(*length).expect("within the limit"), body)
    }

    proptest! {
        #[test]
        fn headers_round_trip_within_the_limit(header in header()) {
            let bytes = header.encode();
            prop_assert!(bytes.len() <= 325);
            let (length, body) = split(&bytes);
            prop_assert_eq!(length, body.len());
            prop_assert_eq!(SessionHeader::decode(body), Ok(header));
        }

        #[test]
        fn every_truncation_and_every_extension_is_an_error(header in header(), extra in 1..9_usize) {
            let bytes = header.encode();
            let (_, body) = split(&bytes);
            for end in 0..body.len() {
                prop_assert!(SessionHeader::decode(&body[..end]).is_err(), "cut at {end}");
            }
            let long = [body, &[0_u8; 9][..extra]].concat();
            prop_assert_eq!(SessionHeader::decode(&long), Err(CodecError::Trailing(extra)));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_what_is_accepted_is_canonical(body in prop::collection::vec(any::<u8>(), 0..1100)) {
            if let Ok(header) = SessionHeader::decode(&body) {
                prop_assert_eq!(&header.encode()[LENGTH..], &body[..]);
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(header in header(), at: prop::sample::Index, to: u8) {
            let mut bytes = header.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = SessionHeader::decode(&bytes[LENGTH..]);
        }
    }

    #[test]
    fn fields_that_cannot_be_are_named() {
        let good = SessionHeader {
            session: SessionId([7; 16]),
            caller: "shop/web".parse().unwrap(),
            service: "shop/api".parse().unwrap(),
            port: "8080".parse().unwrap(),
            policy: [1; 8],
            version: PolicyVersion { epoch: 1, counter: 7 },
            purpose: Purpose::Session,
            v6: false,
            source_port: 40_000,
            trace: None,
        };
        let with = |at: usize, value: u8| {
            let mut body = good.encode()[LENGTH..].to_vec();
            body[at] = value;
            SessionHeader::decode(&body)
        };
        assert_eq!(with(0, 1), Err(CodecError::Version(1)));
        assert_eq!(with(45, 132), Err(CodecError::Value("protocol", 132)), "SCTP");
        assert_eq!(with(46, 0x80), Err(CodecError::Value("flags", 0x80)));
        assert!(matches!(with(48, b'S'), Err(CodecError::Name(_))));
        assert_eq!(with(48, 0xff), Err(CodecError::Text));
        assert_eq!(SessionHeader::body_length([4, 0]), Err(CodecError::TooLong(1026, HEADER_MAX)));
        assert_eq!(SessionHeader::body_length([3, 0xfe]), Ok(1022));
        assert_eq!(good.session.to_string(), "07070707070707070707070707070707");
    }

    #[test]
    fn random_identifiers_differ() {
        let many: std::collections::BTreeSet<_> = (0..10_000).map(|_| SessionId::random()).collect();
        assert_eq!(many.len(), 10_000);
    }
}
