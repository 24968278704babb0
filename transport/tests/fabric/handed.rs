//! Two agents of one host share its socket.

use crate::lab::{Fabric, Host, LOOPBACK, eventually, header, name, within};
use ripstop_transport::{Foreign, Settings, Transport};
use std::{collections::BTreeMap, time::Duration};

/// The next agent of a host, which hands on to the one before, whose endpoints answer no more.
fn succeed(fabric: &Fabric, before: &Host, generation: u8) -> Host {
    let socket = before.transport.hand_over().unwrap();
    let to = before.transport.clone();
    let foreign: Foreign = Box::new(move |datagrams| to.deliver(datagrams));
    let identity = before.transport.identity();
    let settings = Settings::listen(LOOPBACK);
    let (transport, incoming, reports) = Transport::inherit(settings, identity, socket, generation, foreign).unwrap();
    assert_eq!(transport.local_address().unwrap(), before.address, "of {}", fabric.path("").display());
    Host { transport, incoming: Some(incoming), reports, address: before.address }
}

async fn echoes(opened: &mut ripstop_transport::Opened, text: &[u8]) {
    opened.send.write_all(text).await.unwrap();
    let chunk = within(5, "an echo", opened.recv.read_chunk(64, true)).await.unwrap().unwrap();
    assert_eq!(&*chunk.bytes, text);
}

#[tokio::test]
async fn sessions_of_both_agents_go_on_whoever_dialled() {
    let fabric = Fabric::new("shop.example");
    // Each is replaced once: the one that dialled, and the one that was dialled.
    for replaced in ["alpha", "beta"] {
        let (mut alpha, mut beta) = fabric.pair("alpha", "beta").await;
        beta.serve_echo();
        let mut old = within(5, "opening", alpha.transport.open(&name("beta"), &header())).await.unwrap();
        echoes(&mut old, b"before").await;
        let before = if replaced == "alpha" { &mut alpha } else { &mut beta };
        let mut next = succeed(&fabric, before, 1);
        let other = if replaced == "alpha" { &beta } else { &alpha };
        next.transport.reconnect(BTreeMap::from([(other.name().clone(), other.address)]));
        next.up(other).await;
        echoes(&mut old, b"the old session goes on").await;
        let caller = if replaced == "alpha" { &next.transport } else { &alpha.transport };
        let caller = caller.clone();
        if replaced == "beta" {
            next.serve_echo();
            eventually("the new connection", Duration::from_secs(5), || alpha.transport.connections() == 2).await;
        }
        let mut new = within(5, "opening", caller.open(&name("beta"), &header())).await.unwrap();
        echoes(&mut new, b"and a new one").await;
        echoes(&mut old, b"beside it").await;
    }
}

#[tokio::test]
async fn what_the_one_before_turns_away_is_asked_of_the_next() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut next = succeed(&fabric, &beta, 1);
    // Soon after alpha dialled: alpha has it for one that was dialled at the same time, and keeps its own.
    next.transport.reconnect(BTreeMap::from([(alpha.name().clone(), alpha.address)]));
    eventually("the new connection", Duration::from_secs(5), || alpha.transport.connections() == 2).await;
    beta.serve(|_| async {});
    crate::requests::serve(&mut next, |request| async { request.answer("of the next".into()).await.unwrap() });
    let name = name("beta");
    let asking = alpha.transport.ask(&name, 7, b"", 64, Duration::from_secs(3));
    let answer = within(5, "an answer", asking).await;
    assert_eq!(answer.unwrap(), "of the next");
    let mut new = within(5, "opening", alpha.transport.open(&name, &header())).await.unwrap();
    echoes(&mut new, b"and so are sessions").await;
}

#[tokio::test]
async fn what_was_handed_over_can_be_taken_back() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve_echo();
    let mut opened = within(5, "opening", alpha.transport.open(&name("beta"), &header())).await.unwrap();
    let next = succeed(&fabric, &alpha, 1);
    echoes(&mut opened, b"handed on").await;
    drop(next);
    alpha.transport.take_back();
    alpha.dial(&[&beta]);
    echoes(&mut opened, b"taken back").await;
    let mut another = within(5, "opening", alpha.transport.open(&name("beta"), &header())).await.unwrap();
    echoes(&mut another, b"and a new one").await;
}

#[tokio::test]
async fn connections_of_an_agent_that_is_gone_are_reset_by_the_next() {
    let fabric = Fabric::new("shop.example");
    let (alpha, beta) = fabric.pair("alpha", "beta").await;
    let next = succeed(&fabric, &alpha, 1);
    next.transport.inherit_alone();
    // By a reset, long before silence would tell.
    eventually("the reset", Duration::from_secs(3), || beta.transport.connections() == 0).await;
}
