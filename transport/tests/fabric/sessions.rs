//! Sessions between two hosts that trust each other.

use crate::lab::{Fabric, Host, accepted, echo, header, name, refusal, within};
use ripstop_config::Reason;
use ripstop_transport::{
    IncomingSession, OpenError, Opened, ReadError, RecvStream, SendStream, VarInt, WriteError, code,
};
use std::time::Duration;
use tokio::sync::mpsc;

/// Hands every session that `host` gets to the test.
fn sessions(host: &mut Host) -> mpsc::Receiver<IncomingSession> {
    let (to, from) = mpsc::channel(16);
    host.serve(move |session| {
        let to = to.clone();
        async move { to.send(session).await.unwrap_or_default() }
    });
    from
}

/// Opens one session; its two ends.
async fn both(
    from: &Host,
    to: &Host,
    served: &mut mpsc::Receiver<IncomingSession>,
) -> (Opened, (SendStream, RecvStream)) {
    let header = header();
    let accepting = async { served.recv().await.unwrap().accept(accepted()).await };
    let (opened, session) = tokio::join!(from.transport.open(to.name(), &header), accepting);
    (opened.unwrap(), session.unwrap())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_right_behind_the_verdict() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut served = sessions(&mut beta);
    let sent = header();
    let expected = sent.clone();
    let server = tokio::spawn(async move {
        let session = served.recv().await.unwrap();
        assert_eq!(session.peer, name("alpha"));
        assert_eq!(session.header, expected);
        assert_eq!(session.cipher, "TLS_AES_128_GCM_SHA256");
        let (mut send, mut recv) = session.accept(accepted()).await.unwrap();
        send.write_all(b"220 ready\r\n").await.unwrap();
        send.finish().unwrap();
        recv.read_to_end(64).await.unwrap()
    });
    let mut opened = alpha.transport.open(beta.name(), &sent).await.unwrap();
    assert_eq!(opened.accepted, accepted());
    assert_eq!(opened.cipher, "TLS_AES_128_GCM_SHA256");
    assert_eq!(opened.recv.read_to_end(64).await.unwrap(), b"220 ready\r\n");
    opened.send.write_all(b"QUIT\r\n").await.unwrap();
    opened.send.finish().unwrap();
    assert_eq!(server.await.unwrap(), b"QUIT\r\n");
}

#[tokio::test]
async fn either_host_opens_sessions_on_the_one_connection() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = fabric.pair("alpha", "beta").await;
    alpha.serve_echo();
    beta.serve_echo();
    for (from, to) in [(&alpha, &beta), (&beta, &alpha)] {
        let mut opened = from.transport.open(to.name(), &header()).await.unwrap();
        opened.send.write_all(b"there and back").await.unwrap();
        opened.send.finish().unwrap();
        assert_eq!(opened.recv.read_to_end(64).await.unwrap(), b"there and back");
        assert_eq!(from.transport.counts().connections, 1);
    }
}

#[tokio::test]
async fn a_refusal_says_why_and_nothing_else_of_the_connection_suffers() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve(|session| async { session.refuse(refusal(Reason::NoEdge, "web may not call api")).await.unwrap() });
    for _ in 0..50 {
        let error = alpha.transport.open(beta.name(), &header()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::NoEdge);
        let OpenError::Refused(refused) = error else { panic!("{error}") };
        assert_eq!(refused, refusal(Reason::NoEdge, "web may not call api"));
    }
    assert!(alpha.transport.is_up(beta.name()));
}

#[tokio::test]
async fn half_close_works_in_both_orders() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut served = sessions(&mut beta);
    for caller_first in [true, false] {
        let server = async {
            let (mut send, mut recv) = served.recv().await.unwrap().accept(accepted()).await.unwrap();
            if caller_first {
                assert_eq!(recv.read_to_end(64).await.unwrap(), b"question");
            }
            send.write_all(b"answer").await.unwrap();
            send.finish().unwrap();
            if !caller_first {
                assert_eq!(recv.read_to_end(64).await.unwrap(), b"question");
            }
        };
        let client = async {
            let mut opened = alpha.transport.open(beta.name(), &header()).await.unwrap();
            if !caller_first {
                assert_eq!(opened.recv.read_to_end(64).await.unwrap(), b"answer");
            }
            opened.send.write_all(b"question").await.unwrap();
            opened.send.finish().unwrap();
            if caller_first {
                assert_eq!(opened.recv.read_to_end(64).await.unwrap(), b"answer");
            }
        };
        within(5, "a half-closed session", async { tokio::join!(server, client) }).await;
    }
}

#[tokio::test]
async fn resets_carry_their_reason_both_ways() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut served = sessions(&mut beta);
    for reason in [Reason::CallerReset, Reason::EndpointReset, Reason::PolicyChanged, Reason::Idle, Reason::OpenRate] {
        let (opened, session) = both(&alpha, &beta, &mut served).await;
        let (mut caller, (mut send, mut recv)) = (opened, session);
        let seen = if reason == Reason::CallerReset {
            caller.send.reset(code::from_reason(reason)).unwrap();
            code::of_read(&recv.read_chunk(1, true).await.unwrap_err(), code::End::Caller)
        } else {
            send.reset(code::from_reason(reason)).unwrap();
            code::of_read(&caller.recv.read_chunk(1, true).await.unwrap_err(), code::End::Endpoint)
        };
        assert_eq!(seen, reason);
        if reason != Reason::CallerReset {
            recv.stop(code::from_reason(Reason::PolicyChanged)).unwrap();
            let stopped = within(5, "a stopped stream", caller.send.stopped()).await;
            assert_eq!(stopped.unwrap(), Some(VarInt::from_u32(code::POLICY)));
        }
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_is_noticed_before_the_verdict() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut served = sessions(&mut beta);
    let transport = alpha.transport.clone();
    let to = beta.name().clone();
    let caller = tokio::spawn(async move { transport.open(&to, &header()).await.map(|_| ()) });
    let session = served.recv().await.unwrap();
    let gone = session.gone();
    caller.abort();
    within(2, "the caller's end", gone).await;
    let error = session.accept(accepted()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::CallerGone);
}

#[tokio::test]
async fn a_session_that_the_serving_agent_lets_go_of_is_no_ordinary_end() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve(|session| async { drop(session) });
    let error = within(5, "the reset", alpha.transport.open(beta.name(), &header())).await.unwrap_err();
    assert!(matches!(error, OpenError::Refused(_)), "{error}");
    assert_eq!(error.reason(), Reason::PeerLost);
}

#[tokio::test]
async fn unknown_and_unconnected_hosts_fail_at_once() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let error = within(1, "the error", alpha.transport.open(&name("nobody"), &header())).await.unwrap_err();
    assert_eq!(error.reason(), Reason::HostUnreachable);
    assert!(error.to_string().contains("no such host"), "{error}");
    // A port where nobody answers: waits while the dial is under way, then fails within a second.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    alpha.transport.set_peers([(name("beta"), silent.local_addr().unwrap())].into());
    let start = std::time::Instant::now();
    let error = alpha.transport.open(&name("beta"), &header()).await.unwrap_err();
    assert!(matches!(error, OpenError::NotConnected(_)), "{error}");
    assert!((900..1_500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_session_opened_while_its_host_is_being_dialled_waits_for_it() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = (fabric.host("alpha"), fabric.host("beta"));
    beta.serve_echo();
    alpha.dial(&[&beta]);
    assert!(!alpha.transport.is_up(beta.name()));
    alpha.transport.open(beta.name(), &header()).await.unwrap();
}

#[tokio::test]
async fn a_thousand_sessions_at_once_keep_apart() {
    const SESSIONS: usize = 1_000;
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve(echo);
    let mut tasks = tokio::task::JoinSet::new();
    let gate = std::sync::Arc::new(tokio::sync::Barrier::new(SESSIONS));
    for number in 0..SESSIONS {
        let (transport, to, gate) = (alpha.transport.clone(), beta.name().clone(), gate.clone());
        tasks.spawn(async move {
            let mut opened = transport.open(&to, &header()).await.unwrap();
            gate.wait().await; // all are open before any goes on
            let payload = format!("session {number} ").repeat(200);
            opened.send.write_all(payload.as_bytes()).await.unwrap();
            opened.send.finish().unwrap();
            assert_eq!(opened.recv.read_to_end(8_000).await.unwrap(), payload.as_bytes());
        });
    }
    within(60, "a thousand sessions", async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn closing_ends_sessions_with_the_reason_and_the_queue() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut served = sessions(&mut beta);
    let (opened, session) = both(&alpha, &beta, &mut served).await;
    let (mut opened, _session) = (opened, session);
    beta.transport.close();
    let error: ReadError = within(2, "the end", opened.recv.read_chunk(1, true)).await.unwrap_err();
    assert_eq!(code::of_read(&error, code::End::Endpoint), Reason::Shutdown);
    let error: WriteError = opened.send.write_all(b"x").await.unwrap_err();
    assert_eq!(code::of_write(&error, code::End::Endpoint), Reason::Shutdown);
    within(2, "the queue's end", async { while served.recv().await.is_some() {} }).await;
    within(3, "the last packets", beta.transport.wait_idle()).await;
    assert!(!alpha.transport.is_up(beta.name()));
}

#[tokio::test]
async fn a_session_is_not_held_up_by_one_whose_reader_sleeps() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut served = sessions(&mut beta);
    let mut asleep = Vec::new();
    for _ in 0..20 {
        let (opened, session) = both(&alpha, &beta, &mut served).await;
        let mut opened = opened;
        // The window closes, so the write does: nothing piles up.
        let full = async { while opened.send.write(&[0; 65_536]).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(200), full).await.is_err(), "the window never closed");
        asleep.push((opened, session));
    }
    let transport = alpha.transport.clone();
    let to = beta.name().clone();
    let caller = tokio::spawn(async move {
        let mut opened = transport.open(&to, &header()).await.unwrap();
        opened.send.write_all(&[7; 300_000]).await.unwrap();
        opened.send.finish().unwrap();
        opened.recv.read_to_end(400_000).await.unwrap().len()
    });
    within(5, "the awake session", async {
        echo(served.recv().await.unwrap()).await;
        assert_eq!(caller.await.unwrap(), 300_000);
    })
    .await;
}
