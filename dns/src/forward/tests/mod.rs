//! The forwarder against small resolvers on loopback.

mod cached;
mod exchanged;
mod server;

use super::{FabricRanges, Forwarder, UpstreamError, Upstreams};
use crate::{
    Answer, Rcode, Reply, Via,
    tests::{ede, id, query, ranges},
};
use hickory_proto::{op::Message, rr::RecordType};
use server::Server;
use std::net::{IpAddr, SocketAddr};

fn forwarder(servers: &[SocketAddr]) -> Forwarder {
    Forwarder::new(Upstreams::new(servers.iter().copied()), ranges().into()).unwrap()
}

async fn resolve(forwarder: &Forwarder, caller: &str, name: &str) -> (Message, Reply) {
    resolve_via(forwarder, caller, &query(name, RecordType::A), Via::Udp).await
}

async fn resolve_via(forwarder: &Forwarder, caller: &str, query: &Message, via: Via) -> (Message, Reply) {
    match forwarder.resolve(&id(caller), &query.to_vec().unwrap(), via).await {
        Answer::Reply(reply) => {
            let message = Message::from_vec(&reply.bytes).unwrap();
            assert_eq!((message.metadata.id, &message.queries), (query.metadata.id, &query.queries));
            assert!(message.queries[0].name.eq_case(&query.queries[0].name), "{message}");
            assert!(message.metadata.recursion_available && !message.metadata.authoritative);
            (message, reply)
        }
        other => panic!("{other:?}"),
    }
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[test]
fn resolv_conf_is_read_for_its_resolvers_only() {
    let text = "# nameserver 1.1.1.1\nsearch example.com\nnameserver 9.9.9.9\n\tnameserver\t2620:fe::fe # two\n\
                nameserver fe80::1%eth0\nnameserver fe80::1\nnameserver not.an.address\nnameserver\noptions ndots:5\n\
                nameservers 8.8.8.8\nnameserver 9.9.9.9\n";
    let expected: Vec<SocketAddr> = ["9.9.9.9:53", "[2620:fe::fe]:53"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(Upstreams::from_resolv_conf(text).as_slice(), expected);
    assert!(Upstreams::from_resolv_conf("").as_slice().is_empty());
}

#[test]
fn the_fabric_is_never_its_own_upstream() {
    let refuse = FabricRanges::from(ranges());
    let attempt = |text: &str| Forwarder::new(Upstreams::new([text.parse().unwrap()]), refuse).map(drop);
    for text in ["198.18.0.1:53", "198.19.200.1:5353", "[fd5e:1c00:77::1]:53", "[::ffff:198.18.0.1]:53"] {
        assert_eq!(attempt(text), Err(UpstreamError::Ourselves(text.parse().unwrap())));
    }
    for text in ["0.0.0.0:53", "[::]:53", "224.0.0.251:5353", "255.255.255.255:53", "9.9.9.9:0"] {
        assert_eq!(attempt(text), Err(UpstreamError::NotAnAddress(text.parse().unwrap())));
    }
    assert_eq!(attempt("127.0.0.53:53"), Ok(()));
    assert_eq!(attempt("198.20.0.1:53"), Ok(()));
}

#[tokio::test]
async fn without_upstream_resolvers_the_answer_says_so() {
    let (message, reply) = resolve(&forwarder(&[]), "shop/web", "www.example.com.").await;
    assert_eq!(reply.rcode, Rcode::ServFail);
    assert_eq!(ede(&message).unwrap(), (22, "no upstream resolver is configured".into()));
}
