//! A session's record, for tests here and of whoever shows records.

use super::*;

pub(crate) fn record(number: u64) -> SessionRecord {
    SessionRecord {
        session: format!("{number:032x}"),
        side: Side::Caller,
        start: OffsetDateTime::UNIX_EPOCH,
        duration_s: 0.123_456_789,
        caller: "shop/web".parse().unwrap(),
        caller_replica: None,
        caller_host: HostName::new("alpha").unwrap(),
        service: Some("shop/api".parse().unwrap()),
        destination: "198.18.0.2".into(),
        port: 8080,
        protocol: Protocol::Tcp,
        endpoint_host: None,
        endpoint: None,
        endpoint_replica: None,
        verdict: "allow",
        rule: Some("shop.yaml:14".into()),
        reason: Reason::Closed,
        detail: None,
        bytes_up: number,
        bytes_down: 2,
        connect_s: Some(0.001),
        waited_s: 0.0,
        throttled_bytes: 0,
        burst_bytes: None,
        datagrams_dropped: None,
        attempts: 1,
        policy: "0102030405060708".into(),
        cipher: Some("TLS13_AES_128_GCM_SHA256"),
        peer: None,
        handed_over: None,
        trace: None,
    }
}
