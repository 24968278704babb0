use super::*;
use crate::Rcode;
use hickory_proto::op::ResponseCode;

/// A policy in which one service has so many ports that its SRV records do not fit a datagram.
fn crowded() -> Policy {
    let mut graph = graph();
    let api = graph.services.get_mut(&"shop/api".parse().unwrap()).unwrap();
    api.ports = (1..=200).map(|port| format!("{port}/tcp").parse().unwrap()).collect();
    graph.edges[0].ports.clear();
    compile(graph).unwrap()
}

fn size_and_message(size: Option<u16>, via: Via) -> (usize, Message) {
    let policy = crowded();
    let mut query = query("api.shop.shop.example.", RecordType::SRV);
    match size {
        Some(size) => drop(query.edns.as_mut().unwrap().set_max_payload(size)),
        None => query.edns = None,
    }
    match answer(&policy, who(&policy, "shop/web"), &query.to_vec().unwrap(), via) {
        Answer::Reply(reply) => (reply.bytes.len(), Message::from_vec(&reply.bytes).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_too_long_for_a_datagram_comes_whole_over_tcp() {
    for size in [None, Some(512), Some(1232), Some(4096), Some(65535)] {
        let (length, message) = size_and_message(size, Via::Udp);
        assert!(message.metadata.truncation, "{size:?}");
        assert_eq!((message.answers.len(), message.queries.len()), (0, 1));
        assert_eq!(message.edns.is_some(), size.is_some());
        assert!(length <= 512);
        let (length, message) = size_and_message(size, Via::Tcp);
        assert!(!message.metadata.truncation && message.answers.len() == 200 && length > 1232, "{length}");
    }
}

#[test]
fn additional_records_go_before_truncation() {
    let mut graph = graph();
    // So many SRV records of 42 bytes fit 1232 bytes only without the addresses.
    let service = graph.services.get_mut(&"shop/api".parse().unwrap()).unwrap();
    service.ports = (1..=28).map(|port| format!("{port}/tcp").parse().unwrap()).collect();
    graph.edges[0].ports.clear();
    let policy = compile(graph).unwrap();
    let query = query("api.shop.shop.example.", RecordType::SRV).to_vec().unwrap();
    let sizes: Vec<_> = [Via::Udp, Via::Tcp]
        .into_iter()
        .map(|via| match answer(&policy, who(&policy, "shop/web"), &query, via) {
            Answer::Reply(reply) => (reply.bytes.len(), Message::from_vec(&reply.bytes).unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    let [(udp, small), (tcp, whole)] = sizes.as_slice() else { unreachable!() };
    assert!(*tcp > 1232 && *udp <= 1232, "{udp} {tcp}");
    assert_eq!((small.answers.len(), small.additionals.len(), small.metadata.truncation), (28, 0, false));
    assert_eq!((whole.answers.len(), whole.additionals.len()), (28, 2));
}

#[test]
fn the_longest_question_is_still_answered_in_512_bytes() {
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}.shop.example.", "b".repeat(45));
    let mut query = query(&name, RecordType::A);
    query.edns.as_mut().unwrap().set_max_payload(512);
    let (message, reply) = reply_to("shop/web", &query, Via::Udp);
    assert!(reply.bytes.len() <= 512, "{}", reply.bytes.len());
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.rcode, Rcode::NxDomain);
    assert_eq!(message.queries, query.queries);
}
