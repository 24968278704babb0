//! What is fuzzed: each parser of what other hosts, workloads, servers, operators and files say. Nothing may make one panic, and
//! what it takes must be what it would write.
//!
//! cargo-fuzz runs these with bytes of its own (`fuzz/fuzz_targets`), the test `tests/fuzz.rs` with the committed corpora and
//! with what it makes of them.

use ripstop_config::{Graph, Operators};
use ripstop_datapath::{
    capture::{PART_MAX, Part, Question},
    handover::Frame,
    packet::{self, FlowKey, Halves, Payload, craft},
    session::report,
    stack::{Endpoint, PacketSink, TunPort},
};
use ripstop_dns::{Answer, Looked, Via, answer, peek_name};
use ripstop_policy::{Addresses, Content, Envelope, Policy, compile};
use ripstop_transport::{
    Record, SessionHeader,
    enrol::{Proof, Token},
    pki::{Authority, GRANTED_MIN},
};
use std::{
    io::{self, IoSlice},
    rc::Rc,
    sync::LazyLock,
    time::SystemTime,
};

/// A target.
pub(crate) type Target = fn(&[u8]);

/// All of them, each with the name of its corpus.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("bundle", bundle),
    ("capture", capture),
    ("dns", dns),
    ("enrol", enrol),
    ("frame", frame),
    ("graph", graph),
    ("header", header),
    ("operators", operators),
    ("packet", packet),
    ("record", record),
    ("report", report),
];

/// Largest text that is compiled: mistakes are found in small ones.
const COMPILED_MAX: usize = 64 << 10;

/// A signed policy, as if whoever sent it had every key.
pub(crate) fn bundle(bytes: &[u8]) {
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    assert_eq!(envelope.encode(), bytes, "one bundle has one form");
    let Ok(content) = envelope.look() else { return };
    if content.graph.len() <= COMPILED_MAX {
        // Addresses come from whoever signed, as the graph does.
        let _ = Content::of(envelope.fabric(), &content.file, &content.graph, &content.addresses);
    }
}

/// What another host has captured, or asks about captures.
pub(crate) fn capture(bytes: &[u8]) {
    match Part::decode(bytes) {
        // One that is longer than any is not written whole, nor is one as long where an empty replica takes a byte more each.
        Ok(part) if bytes.len() + part.sources.len() <= PART_MAX => {
            assert!(Part::decode(&part.encode(false)).is_ok(), "what is written is read again");
            assert_eq!(Part::decode(&part.encode(true)), Ok(part), "as it was");
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty(), "a mistake is told"),
    }
    if let Ok(Question::Begin(asked)) = serde_json::from_slice(bytes) {
        let _ = asked.check();
    }
}

/// The graph of those that ask in [`dns`].
pub(crate) const NAMES: &str = "
fabric: shop.example
hosts: { alpha: { address: 192.0.2.1 } }
tenants:
  shop:
    workloads: { web: { on: [alpha], run: { netns: web } }, db: { on: [alpha], run: { netns: db } } }
    services:
      db: { by: db, ports: [5432/tcp, 53/udp] }
      web: { by: web, port: 80/tcp }
    allow: [{ from: web, to: db }]
";

static POLICY: LazyLock<Option<Policy>> = LazyLock::new(|| compile(Graph::parse("names.yaml", NAMES).ok()?).ok());

/// A workload's query, or a server's reply.
pub(crate) fn dns(bytes: &[u8]) {
    let (_, _) = (peek_name(bytes), Looked::read(bytes));
    let web = "shop/web".parse().ok();
    let asking = POLICY.as_ref().zip(web).and_then(|(policy, web)| Some((policy, policy.workload(&web)?)));
    assert!(asking.is_some(), "the graph above has web");
    let Some((policy, web)) = asking else { return };
    for (via, most) in [(Via::Udp, 1_232), (Via::Tcp, 65_535)] {
        if let Answer::Reply(reply) = answer(policy, web, bytes, via) {
            assert!(reply.bytes.len() <= most, "{} bytes", reply.bytes.len());
            assert!(Looked::read(&reply.bytes).is_ok(), "what is replied is read");
        }
    }
}

static AUTHORITY: LazyLock<Option<Authority>> = LazyLock::new(|| Authority::create(&"shop.example".parse().ok()?).ok());

/// What a host that is not one yet shows and asks for, and what an operator pastes.
pub(crate) fn enrol(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Proof>(bytes).map(|proof| proof.hash().is_some());
    if let Some(token) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Token>().ok()) {
        let again = token.reveal().parse::<Token>().map(|again| again.hash());
        assert_eq!(again, Ok(token.hash()), "what is written is read again");
    }
    let named = AUTHORITY.as_ref().zip("beta".parse().ok());
    assert!(named.is_some(), "an authority is made, and a name is one");
    let Some((authority, host)) = named else { return };
    if let Ok(granted) = authority.grant(&host, bytes, GRANTED_MIN) {
        assert!(granted.not_after <= SystemTime::now() + GRANTED_MIN, "the request says nothing of that");
    }
}

/// What agents of one host hand each other.
pub(crate) fn frame(bytes: &[u8]) {
    if let Some(frame) = Frame::parse(bytes) {
        let (head, tail) = frame.parts();
        assert_eq!(Frame::parse(&[&head, tail].concat()), Some(frame), "what is written is read again");
    }
}

/// A workload's packet, and what it is answered with.
pub(crate) fn packet(bytes: &[u8]) {
    let mut halves = Halves::default();
    let joined = [halves.join(bytes), halves.join(bytes)];
    joined.iter().flatten().flatten().for_each(|whole| {
        let _ = packet::parse(whole);
    });
    let Ok(packet) = packet::parse(bytes) else { return };
    let answer = match packet.payload {
        Payload::Tcp(segment) => {
            connection(&packet.flow(&segment), packet.bytes);
            let kept = packet.without_data(&segment);
            let again = packet::parse(&kept).map(|kept| (kept.source, kept.destination));
            assert_eq!(again, Ok((packet.source, packet.destination)), "a SYN is kept so that it is one");
            craft::reset(&packet, &segment)
        }
        Payload::Udp { .. } => craft::unreachable(&packet, craft::Unreachable::Port),
        Payload::EchoRequest(echo) => craft::echo_reply(&packet, echo),
        Payload::IcmpError(_) | Payload::OtherIcmp => return,
    };
    // From an address from which nothing is taken it may not be read.
    if let Ok(read) = packet::parse(&answer) {
        assert_eq!((read.source, read.destination), (packet.destination, packet.source), "to whom it came from");
    }
}

/// A device that takes all packets.
struct Nowhere;

impl PacketSink for Nowhere {
    fn send(&self, _: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
}

/// A segment as what opens a connection, and as what comes then.
fn connection(flow: &FlowKey, segment: &[u8]) {
    let port = TunPort::new(Rc::new(Nowhere));
    let called = Endpoint::connect(&port, flow, 7, Some(Rc::default()));
    for endpoint in [Endpoint::accept(&port, flow, segment, 7), called] {
        (0..2).for_each(|_| endpoint.ingest(segment, None));
        endpoint.abort();
        assert!(endpoint.is_gone(), "a reset ends it");
    }
}

/// A graph: mistakes are shown, and what has none compiles, or there is no room for it.
pub(crate) fn graph(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Graph::parse("graph.yaml", text) {
        Err(mistakes) => assert!(!mistakes.to_string().is_empty(), "a mistake is told"),
        Ok(graph) if text.len() <= COMPILED_MAX => {
            let Ok(policy) = compile(graph) else { return };
            let again = ripstop_policy::compile_after(policy.graph().clone(), &policy.addresses());
            assert_eq!(again.map(|again| again.digest()), Ok(policy.digest()), "addresses are kept");
            assert!(Addresses::default().services.len() <= policy.addresses().services.len());
            policy.tests().for_each(|tested| assert!(!tested.to_string().is_empty()));
        }
        Ok(_) => {}
    }
}

/// A session's header, as a peer writes it: the length, then so many bytes.
pub(crate) fn header(bytes: &[u8]) {
    let Some((length, body)) = bytes.split_first_chunk() else { return };
    let Ok(length) = SessionHeader::body_length(*length) else { return };
    let Some(body) = body.get(..length) else { return };
    if let Ok(header) = SessionHeader::decode(body) {
        let written = header.encode();
        assert_eq!(written[2..], *body, "one header has one form");
    }
}

/// The file of operators.
pub(crate) fn operators(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Operators::parse("operators.yaml", text) {
        Err(mistakes) => assert!(!mistakes.to_string().is_empty(), "a mistake is told"),
        Ok(operators) => {
            let again = Operators::parse("operators.yaml", &operators.to_string());
            assert_eq!(again.map_err(|mistakes| mistakes.to_string()), Ok(operators), "what is written is read again");
        }
    }
}

/// A host's record, before anybody has looked who signed it.
pub(crate) fn record(bytes: &[u8]) {
    match Record::read(bytes) {
        Err(error) => assert!(!error.to_string().is_empty(), "a mistake is told"),
        Ok(record) => {
            assert_eq!(record.encode().as_deref(), Ok(bytes), "one record has one form");
            let _ = record.stamp.check(SystemTime::now());
        }
    }
}

/// What a host says of itself.
pub(crate) fn report(bytes: &[u8]) {
    if let Err(error) = report::decode(bytes) {
        assert!(!error.to_string().is_empty(), "a mistake is told");
    }
}
