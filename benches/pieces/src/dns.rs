//! Answers to queries of a workload: the message alone, and from packet to packet.

use crate::{Round, bed, bed::Bed, wire};
use ripstop_datapath::packet::craft;
use ripstop_dns::{Answer, Rcode, Via};
use std::{hint::black_box, net::SocketAddr};

fn answered(name: &str, kind: u16, expected: Rcode) -> Round {
    let policy = bed::policy();
    let caller = policy.workload(&"shop/web".parse().unwrap()).unwrap();
    let query = wire::query(name, kind);
    Box::new(move || {
        let answer = ripstop_dns::answer(&policy, caller, black_box(&query), Via::Udp);
        let Answer::Reply(reply) = answer else { panic!("{answer:?}") };
        assert_eq!(reply.rcode, expected);
    })
}

/// An address of a service.
pub(crate) fn address() -> Round {
    answered("api.shop.bench.test", wire::A, Rcode::NoError)
}

/// A service that the caller may not call: no such name, with an Extended DNS Error.
pub(crate) fn hidden() -> Round {
    answered("db.shop.bench.test", wire::A, Rcode::NxDomain)
}

/// The ports of a service, with its addresses.
pub(crate) fn ports() -> Round {
    answered("api.shop.bench.test", wire::SRV, Rcode::NoError)
}

/// The query's packet from the interface to the answer's packet into it.
pub(crate) fn interface() -> Round {
    from_interface(Bed::new())
}

pub(crate) fn from_interface(bed: Bed) -> Round {
    let (resolver, _) = bed.context.policy().resolver();
    let from = SocketAddr::from(wire::at(bed.address(bed.web()), 50_000));
    let to = SocketAddr::from(wire::at(resolver, 53));
    let packet = craft::datagram(from, to, &wire::query("api.shop.bench.test", wire::A));
    Box::new(move || {
        let before = bed.sink.packets();
        bed.packet(bed.web(), black_box(&packet));
        assert_eq!(bed.sink.packets(), before + 1);
    })
}
