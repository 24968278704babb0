//! What is fuzzed: each parser of what other hosts, operators and files say. Nothing may make one panic, and what it takes
//! must be what it would write.
//!
//! cargo-fuzz runs these with bytes of its own (`fuzz/fuzz_targets`), the test `tests/fuzz.rs` with the committed corpora and
//! with what it makes of them.

use ripstop_config::{Graph, Operators};
use ripstop_datapath::session::report;
use ripstop_policy::{Addresses, Content, Envelope, compile};
use ripstop_transport::{Record, SessionHeader};

/// A target.
pub(crate) type Target = fn(&[u8]);

/// All of them, each with the name of its corpus.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("bundle", bundle),
    ("graph", graph),
    ("header", header),
    ("operators", operators),
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
            let _ = record.stamp.check(std::time::SystemTime::now());
        }
    }
}

/// What a host says of itself.
pub(crate) fn report(bytes: &[u8]) {
    if let Err(error) = report::decode(bytes) {
        assert!(!error.to_string().is_empty(), "a mistake is told");
    }
}
