//! Requests between agents.

use crate::{
    hostile::Raw,
    lab::{Fabric, Host, eventually, header, name, within},
};
use bytes::Bytes;
use ripstop_transport::{
    AskError, Incoming, Opening, Request, code,
    control::{REFUSAL_MAX, REQUEST_MAX, REQUESTS_MAX},
};
use std::{future, time::Duration};

const WAIT: Duration = Duration::from_secs(3);

/// Serves requests, and sessions with an echo.
pub(crate) fn serve<F, S>(host: &mut Host, answer: F)
where
    F: Fn(Request) -> S + Send + Sync + Clone + 'static,
    S: Future<Output = ()> + Send,
{
    let mut incoming: Incoming = host.incoming.take().expect("served once");
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                match stream.open().await {
                    Ok(Opening::Request(request)) => answer(request).await,
                    Ok(Opening::Session(session)) => crate::lab::echo(session).await,
                    Err(_) => {}
                }
            });
        }
    });
}

async fn answer(request: Request) {
    let kind = request.kind;
    answer_as(kind, request).await;
}

async fn answer_as(kind: u8, request: Request) {
    let said = Bytes::from(format!("{} {} {}", request.peer, request.kind, request.body.len()));
    match kind {
        0 => request.refuse("no\u{1b}[2J").await.unwrap(),
        1 => request.answer(said).await.unwrap(),
        2 => request.answer(vec![7; 5_000_000].into()).await.unwrap(),
        3 => drop(request),
        _ => future::pending().await,
    }
}

async fn ask(from: &Host, kind: u8, body: &[u8], limit: usize) -> Result<Bytes, AskError> {
    within(4, "an answer", from.transport.ask(&name("beta"), kind, body, limit, WAIT)).await
}

#[tokio::test]
async fn a_question_has_its_answer_beside_sessions() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    serve(&mut beta, answer);
    let mut session = alpha.transport.open(beta.name(), &header()).await.unwrap();
    assert_eq!(ask(&alpha, 1, b"", 100).await.unwrap(), "alpha 1 0");
    assert_eq!(ask(&alpha, 1, &[0; REQUEST_MAX], 100).await.unwrap(), format!("alpha 1 {REQUEST_MAX}"));
    assert_eq!(ask(&alpha, 2, b"", 5_000_000).await.unwrap(), vec![7; 5_000_000]);
    session.send.write_all(b"ping").await.unwrap();
    session.recv.read_exact(&mut [0; 4]).await.unwrap();
    assert!(matches!(ask(&alpha, 0, b"", 9).await, Err(AskError::Refused(why)) if why == "no\u{fffd}[2J"));
    assert!(matches!(ask(&alpha, 3, b"", 9).await, Err(AskError::TurnedAway)));
    assert!(matches!(ask(&alpha, 2, b"", 4_999_999).await, Err(AskError::Protocol(_))));
    assert!(matches!(ask(&alpha, 1, &[0; REQUEST_MAX + 1], 9).await, Err(AskError::Protocol(_))));
    let nobody = alpha.transport.ask(&name("gamma"), 1, b"", 9, WAIT).await;
    assert!(matches!(nobody, Err(AskError::NotConnected(_))), "{nobody:?}");
    let slow = alpha.transport.ask(beta.name(), 9, b"", 9, Duration::from_millis(200)).await;
    assert!(matches!(slow, Err(AskError::Timeout)), "{slow:?}");
}

#[tokio::test]
async fn a_host_has_few_requests_under_way_and_gets_its_places_back() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    serve(&mut beta, async |request: Request| {
        if request.kind == 9 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        answer_as(1, request).await;
    });
    let held: Vec<_> = (0..REQUESTS_MAX)
        .map(|_| {
            let transport = alpha.transport.clone();
            tokio::spawn(async move { transport.ask(&name("beta"), 9, b"", 100, WAIT).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(ask(&alpha, 1, b"", 100).await, Err(AskError::TurnedAway)));
    for one in held {
        assert!(one.await.unwrap().is_ok());
    }
    assert!(ask(&alpha, 1, b"", 100).await.is_ok());
}

#[tokio::test]
async fn what_is_no_request_is_turned_away_and_costs_no_place() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    serve(&mut beta, answer);
    let mallory = Raw::new(Some(&fabric.issue("mallory"))).connect(beta.address).await;
    let long = u32::try_from(REQUEST_MAX + 1).unwrap().to_be_bytes();
    for bad in [
        &[0xff, 0xff, 2, 1, 0, 0, 0, 0][..],
        &[0xff, 0xff, 1, 1, long[0], long[1], long[2], long[3]],
        &[0xff, 0xff, 1, 1, 0, 0, 0, 9, 1],
        &[0xff, 0xfe],
    ] {
        for _ in 0..=REQUESTS_MAX {
            let (mut send, mut recv) = mallory.open_bi().await.unwrap();
            send.write_all(bad).await.unwrap();
            send.finish().unwrap();
            let end = within(2, "the end", recv.read_to_end(100)).await.unwrap_err();
            let reset = quinn::ReadToEndError::Read(quinn::ReadError::Reset(code::PROTOCOL.into()));
            assert_eq!(end, reset, "{bad:?}");
        }
    }
    assert!(mallory.close_reason().is_none());
    assert!(ask(&alpha, 1, b"", 100).await.is_ok());
}

#[tokio::test]
async fn an_answer_is_what_it_says_or_none() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let mallory = Raw::new(Some(&fabric.issue("mallory"))).connect(alpha.address).await;
    eventually("a connection", WAIT, || alpha.transport.is_up(&name("mallory"))).await;
    let refusal = u32::try_from(REFUSAL_MAX + 1).unwrap().to_be_bytes();
    for bad in [
        &[0, 0, 0, 0][..],
        &[0, 0, 0, 0, 2, 7],
        &[0, 0, 0, 0, 1, 7, 7],
        &[2, 0, 0, 0, 0],
        &[1, refusal[0], refusal[1], refusal[2], refusal[3]],
        &[0, 0xff, 0xff, 0xff, 0xff],
    ] {
        let host = name("mallory");
        let asking = alpha.transport.ask(&host, 1, b"?", 1_000, WAIT);
        let answering = async {
            let (mut send, mut recv) = mallory.accept_bi().await.unwrap();
            assert_eq!(recv.read_to_end(100).await.unwrap(), [0xff, 0xff, 1, 1, 0, 0, 0, 1, b'?']);
            send.write_all(bad).await.unwrap();
            send.finish().unwrap();
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert!(matches!(answer, Err(AskError::Protocol(_))), "{bad:?}: {answer:?}");
    }
}
