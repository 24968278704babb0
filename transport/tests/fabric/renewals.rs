//! Certificates that are replaced or revoked while connections go on.

use crate::lab::{Fabric, Host, eventually, header, name, within};
use ripstop_transport::{CertificateId, Identity, PeerState, RenewError, Revoked, Transport, pki::Request};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, SystemTime},
};

const DAY: Duration = Duration::from_secs(86_400);

/// Another certificate for a host, with another key.
fn another(fabric: &Fabric, host: &str) -> Identity {
    let request = Request::new(&name(host)).unwrap();
    let granted = fabric.authority.grant(&name(host), &request.der, DAY).unwrap();
    let identity = fabric.write("next", &granted.certificate_pem, &request.key_pem).load().unwrap();
    assert_eq!(*identity.certificate(), granted.id);
    identity
}

fn revoke(transport: &Transport, certificates: &[&CertificateId], hosts: &[&str]) {
    let certificates = certificates.iter().map(|id| (*id).clone()).collect();
    transport.revoke(Revoked { hosts: hosts.iter().map(|host| name(host)).collect(), certificates });
}

#[tokio::test]
async fn a_new_certificate_ends_no_session_and_is_shown_from_then_on() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    beta.serve_echo();
    let mut opened = within(5, "opening", alpha.transport.open(&name("beta"), &header())).await.unwrap();
    let mut old = Vec::new();
    for host in [&alpha, &beta] {
        old.push(host.transport.identity().certificate().clone());
        host.transport.renew(another(&fabric, host.name().as_str())).unwrap();
    }
    let new = [&alpha, &beta].map(|host| host.transport.identity().certificate().clone());
    assert!(new.iter().all(|id| !old.contains(id)));
    opened.send.write_all(b"still").await.unwrap();
    let chunk = within(5, "an echo", opened.recv.read_chunk(64, true)).await.unwrap().unwrap();
    assert_eq!((&*chunk.bytes, alpha.transport.connections()), (&b"still"[..], 1));
    let gamma = fabric.host("gamma");
    gamma.dial(&[&beta]);
    gamma.up(&beta).await;
    alpha.dial(&[&beta, &gamma]);
    alpha.up(&gamma).await;
    eventually("the dialled end to know", Duration::from_secs(5), || gamma.transport.connections() == 2).await;
    revoke(&gamma.transport, &old.iter().collect::<Vec<_>>(), &[]);
    assert_eq!(gamma.transport.connections(), 2, "neither was made with an old one");
    revoke(&gamma.transport, &new.iter().collect::<Vec<_>>(), &[]);
    eventually("both to be closed", Duration::from_secs(5), || gamma.transport.connections() == 0).await;
}

#[tokio::test]
async fn a_certificate_of_another_host_is_not_taken() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let before = alpha.transport.identity();
    let other = Fabric::new("other.example");
    for identity in [another(&fabric, "beta"), another(&other, "alpha")] {
        assert!(matches!(alpha.transport.renew(identity), Err(RenewError::Another(..))));
    }
    assert_eq!(alpha.transport.identity().certificate(), before.certificate());
}

#[tokio::test]
async fn what_is_revoked_is_cut_at_once_and_stays_out() {
    let fabric = Fabric::new("shop.example");
    let (alpha, beta) = fabric.pair("alpha", "beta").await;
    let id = beta.transport.identity().certificate().clone();
    revoke(&alpha.transport, &[&id], &[]);
    assert!(alpha.down("beta").await.contains("revoked"));
    // Whoever dials.
    beta.dial(&[&alpha]);
    let why = beta.down("alpha").await;
    assert!(why.contains("the certificate of the host beta is revoked"), "{why}");
    beta.transport.renew(another(&fabric, "beta")).unwrap();
    alpha.up(&beta).await;
    revoke(&alpha.transport, &[&id], &["beta"]);
    eventually("it to be down", Duration::from_secs(5), || !alpha.transport.is_up(&name("beta"))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!alpha.transport.is_up(&name("beta")), "any certificate of the host is revoked");
    revoke(&alpha.transport, &[&id], &[]);
    alpha.up(&beta).await;
}

fn ca(fabric: &Fabric) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(fabric.authority.certificate_pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn a_ca_that_is_trusted_no_more_takes_its_hosts_along_and_no_others() {
    let [first, second] = ["shop.example"; 2].map(Fabric::new);
    let both = [ca(&first), ca(&second)];
    let trusts = |host: &Host, cas: &[CertificateDer<'static>]| {
        let identity = host.transport.identity().trusting(cas).unwrap();
        host.transport.renew(identity).unwrap();
    };
    let (alpha, beta) = first.pair("alpha", "beta").await;
    let gamma = second.host("gamma");
    for host in [&alpha, &beta, &gamma] {
        trusts(host, &both);
    }
    gamma.dial(&[&alpha]);
    gamma.up(&alpha).await;
    alpha.up(&gamma).await;
    assert_eq!(alpha.transport.connections(), 2, "one CA more ends nothing");
    trusts(&alpha, &[ca(&second), ca(&second)]);
    eventually("beta to be down", Duration::from_secs(1), || !alpha.transport.is_up(&name("beta"))).await;
    assert!(alpha.transport.is_up(&name("gamma")));
    beta.dial(&[&alpha]);
    let why = beta.down("alpha").await;
    assert!(why.contains("certificate"), "{why}");
    beta.transport.renew(second.issue("beta").load().unwrap().trusting(&both).unwrap()).unwrap();
    alpha.up(&beta).await;
    alpha.transport.identity().trusting(&[]).expect_err("a fabric without a CA");
}

#[tokio::test]
async fn another_hosts_connection_is_left_alone() {
    let fabric = Fabric::new("shop.example");
    let (alpha, beta) = fabric.pair("alpha", "beta").await;
    let stranger = CertificateId { serial: "00".into(), ..beta.transport.identity().certificate().clone() };
    revoke(&alpha.transport, &[&stranger], &["gamma"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let peers = alpha.transport.peers();
    assert_eq!(peers[0].state, PeerState::Up);
}

#[test]
fn an_identity_whose_time_is_over_is_read_where_that_is_wanted() {
    let fabric = Fabric::new("shop.example");
    let start = SystemTime::now() - 3 * DAY;
    let files = fabric.forge("past", |params| {
        crate::lab::uri(params, &["spiffe://shop.example/host/alpha"]);
        (params.not_before, params.not_after) = (start.into(), (start + DAY).into());
    });
    files.load().unwrap_err();
    let identity = Identity::load_whenever(&files.certificate, &files.key, &files.ca).unwrap();
    assert!(identity.not_after() < SystemTime::now());
    let other = Fabric::new("shop.example");
    fs::write(&files.ca, other.authority.certificate_pem()).unwrap();
    Identity::load_whenever(&files.certificate, &files.key, &files.ca).expect_err("but not another CA's");
}

#[test]
fn the_endpoints_secret_is_made_once_and_is_its_owners_alone() {
    let fabric = Fabric::new("shop.example");
    let path = fabric.path("endpoint.key");
    let identity = || fabric.issue("beta").load().unwrap();
    identity().with_endpoint_secret_of(&path).unwrap();
    let secret = fs::read(&path).unwrap();
    identity().with_endpoint_secret_of(&path).unwrap();
    assert_eq!((fs::read(&path).unwrap(), secret.len()), (secret, 32));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = identity().with_endpoint_secret_of(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "short").unwrap();
    identity().with_endpoint_secret_of(&path).unwrap_err();
}
