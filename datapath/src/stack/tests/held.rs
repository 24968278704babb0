//! What is given leaves with what follows, and never later than when somebody waits.

use super::{ACK, BUFFER, OPTIONS, Talk, run};
use bytes::Bytes;
use ripstop_config::Reason;
use std::time::Duration;

const RESET: Reason = Reason::CallerReset;

/// A connection that is open.
fn open() -> Talk {
    let talk = Talk::start(OPTIONS);
    talk.send(ACK, 0, 0, 65_535, &[]);
    talk.sent();
    talk
}

async fn give(talk: &Talk, bytes: &'static [u8]) {
    talk.endpoint.give(&mut vec![Bytes::from_static(bytes)], RESET).await.unwrap();
}

/// Lengths of the segments that were sent, and whether each was the last.
fn sent(talk: &Talk) -> Vec<(u32, bool)> {
    talk.sent().iter().map(|segment| (segment.length, segment.fin)).collect()
}

#[test]
fn an_end_that_is_known_goes_with_the_last_bytes() {
    run(async {
        let talk = open();
        give(&talk, b"last ").await;
        give(&talk, b"words").await;
        assert_eq!(sent(&talk), []);
        talk.endpoint.finish();
        assert_eq!(sent(&talk), [(10, true)]);
    });
}

#[test]
fn what_was_given_leaves_once_somebody_waits() {
    run(async {
        let talk = open();
        give(&talk, b"one").await;
        drop(tokio::time::timeout(Duration::ZERO, talk.endpoint.broken(RESET)).await);
        assert_eq!(sent(&talk), [(3, false)]);
        give(&talk, b"two").await;
        drop(tokio::time::timeout(Duration::ZERO, talk.endpoint.taken()).await);
        assert_eq!(sent(&talk), [(3, false)]);
        give(&talk, b"three").await;
        talk.endpoint.flush();
        assert_eq!(sent(&talk), [(5, false)]);
        talk.endpoint.flush();
        assert_eq!(sent(&talk), []);
    });
}

#[test]
fn what_fills_a_segment_leaves_at_once() {
    run(async {
        let talk = open();
        let mut pieces = vec![Bytes::from(vec![7; 70_000])];
        talk.endpoint.give(&mut pieces, RESET).await.unwrap();
        assert!(!sent(&talk).is_empty());
    });
}

#[test]
fn what_was_given_goes_before_a_reset() {
    run(async {
        let talk = open();
        give(&talk, b"last words").await;
        talk.endpoint.abort();
        let sent: Vec<_> = talk.sent().iter().map(|segment| (segment.length, segment.rst)).collect();
        assert_eq!(sent[0], (10, false));
        assert!(sent[1..].iter().all(|(length, is_reset)| *length == 0 && *is_reset) && sent.len() > 1, "{sent:?}");
    });
}

#[test]
fn what_there_is_no_room_for_has_the_rest_sent() {
    run(async {
        let talk = open();
        let mut pieces = vec![Bytes::from(vec![7; BUFFER as usize + 1])];
        let given = tokio::time::timeout(Duration::from_millis(1), talk.endpoint.give(&mut pieces, RESET));
        given.await.unwrap_err();
        assert!(!sent(&talk).is_empty());
    });
}
