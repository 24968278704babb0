//! Which hosts are dialled, and which may be connected, as the graph changes.

use crate::lab::{Fabric, Host, LOOPBACK, eventually, header, name, within};
use ripstop_config::HostName;
use ripstop_transport::{ConnectionError, Opened, PeerState, ReadError, code};
use std::{collections::BTreeSet, thread, time::Duration};

fn set(names: &[&str]) -> BTreeSet<HostName> {
    names.iter().map(|text| name(text)).collect()
}

async fn opened(from: &Host, to: &Host) -> Opened {
    within(2, "a session", from.transport.open(to.name(), &header())).await.unwrap()
}

async fn ping(session: &mut Opened) {
    let mut pong = [0; 4];
    session.send.write_all(b"ping").await.unwrap();
    within(2, "the reply", session.recv.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"ping");
}

#[tokio::test]
async fn a_host_that_is_not_to_be_dialled_any_more_stays_connected_while_it_is() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = fabric.pair("alpha", "beta").await;
    alpha.serve_echo();
    beta.serve_echo();
    let (mut ab, mut ba) = (opened(&alpha, &beta).await, opened(&beta, &alpha).await);
    alpha.dial(&[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    for session in [&mut ab, &mut ba] {
        ping(session).await;
    }
    ping(&mut opened(&alpha, &beta).await).await;
    ping(&mut opened(&beta, &alpha).await).await;
    assert_eq!((alpha.transport.counts().connections, beta.transport.counts().connections), (1, 1));
    // When it ends nobody makes another, and nothing is left of the host.
    beta.transport.close();
    eventually("no entry", Duration::from_secs(2), || alpha.transport.peers().is_empty()).await;
    let again = Host::start(fabric.issue("beta").load().unwrap(), LOOPBACK);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((again.transport.connections(), alpha.transport.counts().dials_failed), (0, 0));
}

#[tokio::test]
async fn a_host_that_is_not_retained_is_cut_off_with_all_its_sessions() {
    let fabric = Fabric::new("shop.example");
    let (mut alpha, mut beta) = fabric.pair("alpha", "beta").await;
    let mut gamma = fabric.host("gamma");
    for host in [&mut alpha, &mut beta, &mut gamma] {
        host.serve_echo();
    }
    alpha.dial(&[&beta, &gamma]);
    alpha.up(&gamma).await;
    let (mut ab, mut ba) = (opened(&alpha, &beta).await, opened(&beta, &alpha).await);
    let mut with_gamma = opened(&alpha, &gamma).await;
    alpha.transport.retain_hosts(&set(&["alpha", "gamma"]));
    let error = within(1, "the end here", ab.recv.read_chunk(1, true)).await.unwrap_err();
    assert_eq!(error, ReadError::ConnectionLost(ConnectionError::LocallyClosed));
    let error = within(1, "the end there", ba.recv.read_chunk(1, true)).await.unwrap_err();
    assert_eq!(code::of_read(&error, code::End::Endpoint), ripstop_config::Reason::PolicyChanged);
    ping(&mut with_gamma).await;
    eventually("no entry", Duration::from_secs(1), || alpha.transport.peers().len() == 1).await;
    // It is not dialled any more either, although it was.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!beta.transport.is_up(alpha.name()));
    assert_eq!(alpha.transport.peers().len(), 1);
}

#[tokio::test]
async fn a_host_that_is_not_retained_cannot_come_in_until_it_is() {
    let fabric = Fabric::new("shop.example");
    let (alpha, beta) = (fabric.host("alpha"), fabric.host("beta"));
    alpha.transport.retain_hosts(&set(&["gamma"]));
    beta.dial(&[&alpha]);
    let refused = || alpha.transport.counts().connections_rejected > 0;
    eventually("the refusal", Duration::from_secs(3), refused).await;
    let told = || {
        beta.transport.peers().iter().any(
            |peer| matches!(&peer.state, PeerState::Down { reason } if reason.contains("does not name the host beta")),
        )
    };
    eventually("the reason", Duration::from_secs(3), told).await;
    assert!(alpha.transport.peers().is_empty() && alpha.transport.counts().connections == 0);
    alpha.transport.retain_hosts(&set(&["beta", "gamma"]));
    beta.up(&alpha).await;
    alpha.up(&beta).await;
}

#[tokio::test]
async fn a_host_that_is_dialled_before_it_is_retained_is_connected_once_it_is() {
    let fabric = Fabric::new("shop.example");
    let (alpha, beta) = (fabric.host("alpha"), fabric.host("beta"));
    alpha.transport.retain_hosts(&BTreeSet::new());
    alpha.dial(&[&beta]);
    assert!(alpha.down("beta").await.contains("does not name the host beta"));
    alpha.transport.retain_hosts(&set(&["beta"]));
    alpha.up(&beta).await;
}

#[tokio::test]
async fn peers_can_be_set_on_any_thread_and_connections_stay_where_the_transport_was_bound() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = (fabric.host("alpha"), fabric.host("beta"));
    beta.serve_echo();
    // A runtime that lives until the connection is up, and no longer.
    let (done, gone) = tokio::sync::oneshot::channel();
    let (transport, to, address) = (alpha.transport.clone(), beta.name().clone(), beta.address);
    let elsewhere = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            transport.set_peers([(to.clone(), address)].into());
            eventually("a connection", Duration::from_secs(5), || transport.is_up(&to)).await;
        });
        drop(runtime);
        done.send(()).unwrap();
    });
    within(6, "the other runtime", gone).await.unwrap();
    elsewhere.join().unwrap();
    ping(&mut opened(&alpha, &beta).await).await;
    // And a thread without any runtime.
    let transport = alpha.transport.clone();
    let gamma = fabric.host("gamma");
    let peers = [(gamma.name().clone(), gamma.address)];
    thread::spawn(move || {
        transport.set_peers(peers.into());
        transport.retain_hosts(&set(&["gamma"]));
    })
    .join()
    .unwrap();
    alpha.up(&gamma).await;
    eventually("the end of the other", Duration::from_secs(1), || alpha.transport.peers().len() == 1).await;
}
