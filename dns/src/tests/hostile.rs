use super::*;
use crate::{Rcode, peek_name};
use proptest::prelude::*;
use ripstop_config::Reason;

const HEADER: usize = 12;

/// Checks what holds for every reply to any bytes.
fn check(policy: &Policy, bytes: &[u8], via: Via) -> Result<(), TestCaseError> {
    let reply = match answer(policy, who(policy, "shop/web"), bytes, via) {
        Answer::Reply(reply) => reply,
        Answer::Forward => return Ok(()),
        Answer::Drop(reason) => {
            prop_assert_eq!(reason, Reason::MalformedQuery);
            prop_assert!(bytes.len() < HEADER || bytes[2] & 0x80 != 0, "only replies and fragments are dropped");
            return Ok(());
        }
    };
    let message = Message::from_vec(&reply.bytes).unwrap();
    prop_assert_eq!(&reply.bytes[..2], &bytes[..2], "the id");
    prop_assert!(reply.bytes[2] & 0x80 != 0, "a reply");
    prop_assert_eq!(reply.bytes[2] & 0x79, bytes[2] & 0x79, "opcode and RD");
    let limit = if via == Via::Tcp { 65535 } else { 1232 };
    prop_assert!(reply.bytes.len() <= limit);
    if let Ok(query) = Message::from_vec(bytes) {
        if !message.queries.is_empty() {
            prop_assert_eq!(&message.queries, &query.queries);
            prop_assert!(message.queries[0].name.eq_case(&query.queries[0].name));
        }
        prop_assert!(query.edns.is_some() || message.edns.is_none());
        let size = query.edns.map_or(512, |edns| usize::from(edns.max_payload().clamp(512, 1232)));
        prop_assert!(via == Via::Tcp || reply.bytes.len() <= size, "{} of {size}", reply.bytes.len());
    }
    prop_assert!(message.metadata.response_code != hickory_proto::op::ResponseCode::Refused);
    Ok(())
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("api.shop.shop.example.".to_owned()),
        Just("_8080._tcp.api.shop.shop.example.".to_owned()),
        Just("db.shop.shop.example.".to_owned()),
        Just("5.0.18.198.in-addr.arpa.".to_owned()),
        Just("resolver.arpa.".to_owned()),
        "([a-z0-9_]([a-z0-9_-]{0,18}[a-z0-9_])?\\.){0,6}shop\\.example\\.",
        "([0-9]{1,3}\\.){0,5}(18|19)\\.198\\.in-addr\\.arpa\\.",
    ]
}

fn kind() -> impl Strategy<Value = RecordType> {
    any::<u16>().prop_map(|code| RecordType::from(code % 300))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600), tcp in any::<bool>()) {
        let _ = peek_name(&bytes);
        check(&POLICY, &bytes, if tcp { Via::Tcp } else { Via::Udp })?;
    }

    #[test]
    fn any_bytes_behind_a_sound_header(bytes in proptest::collection::vec(any::<u8>(), 0..300), extra in 0u8..3) {
        let mut whole = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, extra];
        whole.extend(bytes);
        let _ = peek_name(&whole);
        check(&POLICY, &whole, Via::Udp)?;
    }

    #[test]
    fn damaged_queries(
        name in name(),
        kind in kind(),
        size in any::<u16>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<proptest::sample::Index>(),
        cutting in proptest::bool::weighted(0.2),
    ) {
        let mut query = query(&name, kind);
        query.edns.as_mut().unwrap().set_max_payload(size);
        let mut bytes = query.to_vec().unwrap();
        for (at, to) in damage {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if cutting {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = peek_name(&bytes);
        check(&POLICY, &bytes, Via::Udp)?;
        check(&POLICY, &bytes, Via::Tcp)?;
    }

    #[test]
    fn sound_queries_under_the_suffix_never_leave(name in name(), kind in kind()) {
        let query = query(&name, kind).to_vec().unwrap();
        let answered = answer(&POLICY, who(&POLICY, "shop/web"), &query, Via::Udp);
        let Answer::Reply(reply) = answered else { return Err(TestCaseError::fail(format!("{answered:?}"))) };
        let allowed = [Rcode::NoError, Rcode::NxDomain, Rcode::NotImp, Rcode::FormErr];
        prop_assert!(allowed.contains(&reply.rcode));
    }
}

static POLICY: std::sync::LazyLock<Policy> = std::sync::LazyLock::new(policy);

#[test]
fn replies_get_no_reply() {
    let policy = policy();
    let mut message = query("api.shop.shop.example.", RecordType::A);
    message.metadata.message_type = hickory_proto::op::MessageType::Response;
    let bytes = message.to_vec().unwrap();
    assert_eq!(answer(&policy, who(&policy, "shop/web"), &bytes, Via::Udp), Answer::Drop(Reason::MalformedQuery));
    assert_eq!(answer(&policy, who(&policy, "shop/web"), &[0; 11], Via::Udp), Answer::Drop(Reason::MalformedQuery));
}

#[test]
fn bytes_after_the_message_and_false_counts_are_mistakes() {
    let policy = policy();
    let good = query("api.shop.shop.example.", RecordType::A).to_vec().unwrap();
    let mut trailing = good.clone();
    trailing.push(0);
    let mut many = good.clone();
    many[4..6].copy_from_slice(&u16::MAX.to_be_bytes());
    let mut records = good.clone();
    records[6..8].copy_from_slice(&9u16.to_be_bytes());
    for bytes in [trailing, many, records] {
        match answer(&policy, who(&policy, "shop/web"), &bytes, Via::Udp) {
            Answer::Reply(reply) => {
                assert_eq!(reply.rcode, Rcode::FormErr);
                assert_eq!(reply.bytes.len(), HEADER);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn peeking_escapes_what_is_unprintable() {
    let mut bytes = query("abc.example.", RecordType::A).to_vec().unwrap();
    assert_eq!(peek_name(&bytes).unwrap(), "abc.example.");
    bytes[13] = b'\n';
    let shown = peek_name(&bytes).unwrap();
    assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{shown:?}");
    assert_eq!(peek_name(&[]), None);
}
