//! Whether the end of a handshake waits for the caller's first bytes.

use super::{ACK, Talk, run};
use crate::{packet::Segment, stack::FirstWord};
use bytes::Bytes;
use ripstop_config::Reason;
use std::{rc::Rc, time::Duration};

async fn say(talk: &Talk, bytes: &'static [u8]) -> Vec<Segment> {
    talk.endpoint.write(&mut vec![Bytes::from_static(bytes)], Reason::EndpointReset).await.unwrap();
    talk.sent()
}

/// A connection to a listener of which so much is known; what its kernel is sent at once when it answers.
fn called(word: &Rc<FirstWord>) -> (Talk, Vec<Segment>) {
    let (talk, _) = Talk::call(Some(Rc::clone(word)));
    let sent = talk.answer();
    (talk, sent)
}

/// Of a listener to which a caller spoke first.
async fn of_patient_listener() -> Rc<FirstWord> {
    let word = Rc::default();
    let (talk, sent) = called(&word);
    assert!(matches!(sent[..], [Segment { ack: true, .. }]), "nothing is known: {sent:?}");
    say(&talk, b"hello").await;
    word
}

#[test]
fn where_callers_speak_first_their_bytes_end_the_handshake() {
    run(async {
        let word = of_patient_listener().await;
        let (talk, sent) = called(&word);
        assert!(sent.is_empty(), "{sent:?}");
        talk.endpoint.established().await.unwrap();
        let [first] = say(&talk, b"hello").await.try_into().expect("one segment");
        assert!(first.ack && first.acknowledgement == super::ISN + 1, "{first:?}");
        assert!(talk.sent_soon().await.is_empty(), "no acknowledgement of its own");
    });
}

#[test]
fn a_caller_that_says_nothing_has_the_handshake_ended_soon() {
    run(async {
        let (talk, sent) = called(&of_patient_listener().await);
        assert!(sent.is_empty());
        drop(tokio::time::timeout(Duration::from_millis(11), talk.port.run()).await);
        let [alone] = talk.sent().try_into().expect("an acknowledgement");
        assert!(alone.ack && !alone.syn, "{alone:?}");
    });
}

#[test]
fn a_listener_that_once_spoke_first_is_not_kept_waiting_again() {
    run(async {
        let word = of_patient_listener().await;
        let (talk, _) = called(&word);
        talk.sent_soon().await;
        talk.send(ACK, 0, 0, 65_535, b"220 ready");
        for _ in 0..2 {
            let (talk, sent) = called(&word);
            assert_eq!(sent.len(), 1, "at once");
            say(&talk, b"a caller that spoke first this time").await;
        }
    });
}

#[test]
fn an_answer_is_no_first_word() {
    run(async {
        let word = Rc::default();
        let (talk, _) = called(&word);
        say(&talk, b"question").await;
        talk.send(ACK, 0, 8, 65_535, b"answer");
        assert!(called(&word).1.is_empty());
    });
}

#[test]
fn an_end_without_a_word_tells_nothing() {
    run(async {
        let word = of_patient_listener().await;
        let (talk, _) = called(&word);
        talk.send(ACK | super::FIN, 0, 0, 65_535, &[]);
        assert!(called(&word).1.is_empty(), "it still waits for callers");
        let word = Rc::default();
        called(&word).0.endpoint.finish();
        assert_eq!(called(&word).1.len(), 1, "nothing is known still");
    });
}

#[test]
fn few_handshakes_with_one_listener_wait_at_a_time() {
    run(async {
        let word = of_patient_listener().await;
        let waiting: Vec<_> = (0..4).map(|_| called(&word)).collect();
        assert!(waiting.iter().all(|(_, sent)| sent.is_empty()));
        let (fifth, sent) = called(&word);
        assert_eq!(sent.len(), 1, "at once");
        say(&fifth, b"x").await;
        assert_eq!(called(&word).1.len(), 1, "that one did not wait");
        say(&waiting[0].0, b"x").await;
        waiting[1].0.endpoint.abort();
        waiting[2].0.sent_soon().await;
        let more: Vec<_> = (0..4).map(|_| called(&word)).collect();
        assert_eq!(more.iter().filter(|(_, sent)| sent.is_empty()).count(), 3, "one waits still");
    });
}

#[test]
fn who_gave_up_before_the_handshake_is_ended_resets_it() {
    run(async {
        let (talk, _) = called(&of_patient_listener().await);
        talk.endpoint.abort();
        let [reset] = talk.sent().try_into().expect("a reset");
        assert!(reset.rst && reset.sequence == talk.isn + 1, "{reset:?}");
        drop(tokio::time::timeout(Duration::from_millis(15), talk.port.run()).await);
        assert!(talk.sent().is_empty());
    });
}
