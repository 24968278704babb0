//! What two agents say at the head of a session.

use crate::Round;
use ripstop_config::PolicyVersion;
use ripstop_transport::{Accepted, Answer, Purpose, SessionHeader, SessionId};
use std::hint::black_box;

fn example() -> SessionHeader {
    SessionHeader {
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
    }
}

pub(crate) fn encode() -> Round {
    let header = example();
    let length = header.encode().len();
    Box::new(move || assert_eq!(black_box(&header).encode().len(), length))
}

pub(crate) fn decode() -> Round {
    let bytes = example().encode();
    Box::new(move || assert!(SessionHeader::decode(black_box(&bytes[2..])).is_ok()))
}

pub(crate) fn verdict() -> Round {
    let answer = Answer::Accepted(Accepted { endpoint: "beta 127.0.0.1:8080".into(), load: 3 });
    Box::new(move || assert_eq!(black_box(&answer).encode().len(), 25))
}
