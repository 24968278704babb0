//! Who is believed to be whom.

use crate::{
    hostile::{Raw, describe},
    lab::{Fabric, Host, LOOPBACK, eventually, name, uri, write_private},
};
use ripstop_transport::{
    BindError, Identity, IdentityError, PeerState, Settings, Transport,
    pki::{Authority, HOST_VALIDITY_MAX, HOST_VALIDITY_MIN, PkiError},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, SystemTime},
};
use time::OffsetDateTime;

fn error(files: &crate::lab::Files) -> IdentityError {
    files.load().expect_err("not a usable identity")
}

#[test]
fn an_issued_identity_loads_and_says_who_it_is() {
    let fabric = Fabric::new("shop.example");
    let identity = fabric.issue("alpha").load().unwrap();
    assert_eq!(identity.host().as_str(), "alpha");
    assert_eq!(identity.fabric().as_str(), "shop.example");
    let left = identity.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(left <= HOST_VALIDITY_MIN && left > HOST_VALIDITY_MIN - Duration::from_secs(60), "{left:?}");
    assert!(identity.not_before() < SystemTime::now());
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let fabric = Fabric::new("shop.example");
    let files = fabric.issue("alpha");
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        let error = error(&files).to_string();
        assert!(error.contains(&format!("chmod 600 {}", files.key.display())), "{error}");
        assert!(error.contains(&format!("{mode:04o}")), "{error}");
    }
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o400)).unwrap();
    files.load().unwrap();
}

#[test]
fn every_wrong_file_has_its_own_message() {
    let fabric = Fabric::new("shop.example");
    let fresh = || fabric.issue("alpha");
    let files = fresh();
    fs::remove_file(&files.key).unwrap();
    assert!(matches!(error(&files), IdentityError::Read { path, .. } if path == files.key));
    let files = fresh();
    write_private(&files.key, "not a key");
    assert!(matches!(error(&files), IdentityError::NoKey(_)));
    let files = fresh();
    write_private(&files.key, &fabric.authority.issue_host(&name("alpha"), HOST_VALIDITY_MIN).unwrap().key_pem);
    assert!(matches!(error(&files), IdentityError::KeyMismatch { .. }));
    let files = fresh();
    fs::write(&files.certificate, "").unwrap();
    assert!(matches!(error(&files), IdentityError::NoCertificate(_)));
    fs::write(&files.certificate, vec![b'x'; 300_000]).unwrap();
    assert!(matches!(error(&files), IdentityError::TooLarge(_)));
    let files = fresh();
    fs::copy(&files.certificate, &files.ca).unwrap();
    assert!(matches!(error(&files), IdentityError::Authority { .. }), "a host's certificate is no CA");
    let other = Fabric::new("other.example");
    let files = fresh();
    fs::write(&files.ca, other.authority.certificate_pem()).unwrap();
    assert!(matches!(error(&files), IdentityError::NotSigned { .. }));
}

#[test]
fn certificates_that_are_not_a_hosts_are_refused() {
    let fabric = Fabric::new("shop.example");
    let leaf = |uris: &[&str]| error(&fabric.forge("x", |params| uri(params, uris))).to_string();
    assert!(leaf(&["spiffe://shop.example/shop/web"]).contains("`shop/web`, which is not a host"));
    assert!(leaf(&[]).contains("0 URI names"));
    assert!(leaf(&["spiffe://shop.example/host/a", "spiffe://shop.example/host/b"]).contains("2 URI names"));
    assert!(leaf(&["https://shop.example/host/a"]).contains("does not identify anyone"));
    let authority = fabric.forge("x", |params| {
        uri(params, &["spiffe://shop.example/host/a"]);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert!(error(&authority).to_string().contains("CA's certificate"));
}

#[test]
fn certificates_are_refused_outside_their_time() {
    let fabric = Fabric::new("shop.example");
    let day = time::Duration::DAY;
    let made = |from: OffsetDateTime| {
        fabric.forge("x", |params| {
            uri(params, &["spiffe://shop.example/host/alpha"]);
            (params.not_before, params.not_after) = (from, from + day);
        })
    };
    let expired = error(&made(OffsetDateTime::now_utc() - 2 * day));
    assert!(matches!(&expired, IdentityError::Expired { host, .. } if *host == name("alpha")), "{expired}");
    assert!(expired.to_string().contains("ripstop ca issue host alpha"), "{expired}");
    assert!(matches!(error(&made(OffsetDateTime::now_utc() + day)), IdentityError::NotYetValid(_)));
}

#[test]
fn debug_output_holds_nothing_of_a_key() {
    let fabric = Fabric::new("shop.example");
    let files = fabric.issue("alpha");
    let secrets = [fs::read_to_string(&files.key).unwrap(), fabric.authority.to_pem().key_pem.to_string()];
    let shown = format!(
        "{:?} {:?} {:?} {:#?}",
        fabric.authority,
        fabric.authority.to_pem(),
        files.load().unwrap(),
        files.load().unwrap()
    );
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    for secret in &secrets {
        for line in secret.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!shown.contains(&line[..line.len().min(16)]), "{shown}");
        }
    }
}

#[test]
fn a_ca_survives_its_files_and_bounds_validity() {
    let fabric = Fabric::new("shop.example");
    let pem = fabric.authority.to_pem();
    let again = Authority::from_pem(&pem.certificate_pem, &pem.key_pem).unwrap();
    assert_eq!(again.fabric(), fabric.authority.fabric());
    let issued = again.issue_host(&name("beta"), HOST_VALIDITY_MAX).unwrap();
    let identity = fabric.write("beta", &issued.certificate_pem, &issued.key_pem).load().unwrap();
    assert_eq!(identity.host(), &name("beta"), "the old CA certificate vouches for what the read one issues");
    let second = Duration::from_secs(1);
    for wrong in [Duration::ZERO, HOST_VALIDITY_MIN - second, HOST_VALIDITY_MAX + second] {
        assert!(matches!(again.issue_host(&name("beta"), wrong), Err(PkiError::Validity(_))), "{wrong:?}");
    }
    let other = Fabric::new("shop.example").authority.to_pem();
    assert!(matches!(Authority::from_pem(&pem.certificate_pem, &other.key_pem), Err(PkiError::KeyMismatch)));
    assert!(matches!(Authority::from_pem(&issued.certificate_pem, &issued.key_pem), Err(PkiError::NotAnAuthority(_))));
    assert!(matches!(Authority::from_pem("", &pem.key_pem), Err(PkiError::NotAnAuthority(_))));
}

#[test]
fn issued_certificates_are_svids() {
    let fabric = Fabric::new("shop.example");
    let files = fabric.issue("alpha");
    let pem = fs::read(&files.certificate).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!certificate.is_ca());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(certificate.raw_serial().len() == 20 && certificate.raw_serial()[0] < 0x80);
    let (_, ca) = x509_parser::pem::parse_x509_pem(fabric.authority.certificate_pem().as_bytes()).unwrap();
    let ca = ca.parse_x509().unwrap();
    assert_eq!(ca.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert!(ca.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[tokio::test]
async fn a_host_of_another_fabric_is_refused_whoever_dials() {
    let (shop, other) = (Fabric::new("shop.example"), Fabric::new("shop.example"));
    let (ours, theirs) = (shop.host("alpha"), other.host("beta"));
    for (dialler, dialled) in [(&ours, &theirs), (&theirs, &ours)] {
        dialler.dial(&[dialled]);
        let why = dialler.down(dialled.name().as_str()).await;
        assert!(why.contains("certificate"), "{why}");
        eventually("the count", Duration::from_secs(2), || dialled.transport.counts().handshakes_failed > 0).await;
        assert_eq!(dialler.transport.counts().connections + dialled.transport.counts().connections, 0);
        dialler.dial(&[]);
    }
}

#[tokio::test]
async fn one_ca_for_two_fabrics_does_not_join_them() {
    // Both trust the same CA; only the trust domain on the leaf tells them apart.
    let fabric = Fabric::new("shop.example");
    let ours = fabric.host("alpha");
    let foreign = fabric.forge("foreign", |params| uri(params, &["spiffe://other.example/host/beta"]));
    let theirs = Host::start(foreign.load().unwrap(), LOOPBACK);
    ours.dial(&[&theirs]);
    let why = ours.down("beta").await;
    assert!(why.contains("of the fabric `other.example`, not of `shop.example`"), "{why}");
    theirs.dial(&[&ours]);
    let why = theirs.down("alpha").await;
    assert!(why.contains("of the fabric"), "{why}");
    assert_eq!(ours.transport.counts().connections, 0);
}

#[tokio::test]
async fn the_dialled_name_has_to_answer() {
    let fabric = Fabric::new("shop.example");
    let (alpha, beta) = (fabric.host("alpha"), fabric.host("beta"));
    alpha.transport.set_peers([(name("gamma"), beta.address)].into());
    let why = alpha.down("gamma").await;
    assert!(why.contains("of the host `beta`, not of `gamma`"), "{why}");
    assert!(!alpha.transport.is_up(&name("beta")) && !alpha.transport.is_up(&name("gamma")));
}

#[tokio::test]
async fn a_workload_is_not_a_host_even_if_the_ca_says_who_it_is() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let files = fabric.forge("workload", |params| uri(params, &["spiffe://shop.example/shop/web"]));
    let raw = Raw::new(Some(&files));
    let why = describe(raw.rejected(alpha.address).await);
    assert!(why.contains("`shop/web`, which is not a host"), "{why}");
    // As a server it does not get any further.
    let server = Raw::new(Some(&files));
    alpha.transport.set_peers([(name("beta"), server.address())].into());
    let why = alpha.down("beta").await;
    assert!(why.contains("which is not a host"), "{why}");
    assert_eq!(alpha.transport.counts().connections, 0);
}

#[tokio::test]
async fn an_expired_certificate_and_none_at_all_are_refused() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let expired = fabric.forge("expired", |params| {
        uri(params, &["spiffe://shop.example/host/beta"]);
        params.not_before = OffsetDateTime::now_utc() - 2 * time::Duration::DAY;
        params.not_after = OffsetDateTime::now_utc() - time::Duration::DAY;
    });
    let why = describe(Raw::new(Some(&expired)).rejected(alpha.address).await);
    assert!(why.contains("expired"), "{why}");
    let why = describe(Raw::new(None).rejected(alpha.address).await);
    assert!(why.contains("no certificates") || why.contains("certificate"), "{why}");
    assert_eq!(alpha.transport.counts().connections, 0);
    assert_eq!(alpha.transport.counts().handshakes_failed, 2);
}

#[tokio::test]
async fn a_host_with_this_hosts_own_name_is_turned_away() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let clone = Raw::new(Some(&fabric.issue("alpha")));
    let why = describe(clone.rejected(alpha.address).await);
    assert!(why.contains("same name"), "{why}");
    assert!(alpha.transport.peers().is_empty());
    assert_eq!(alpha.transport.counts().connections_rejected, 1);
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let again = |address| Transport::bind(Settings::listen(address), fabric.issue("alpha").load().unwrap()).map(|_| ());
    let error = again(alpha.address).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)) && error.to_string().contains("another agent"), "{error}");
    let error = again("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert!(matches!(error, BindError::Socket { .. }), "{error}");
}

#[tokio::test]
async fn both_families_reach_a_host_that_listens_on_all() {
    let fabric = Fabric::new("shop.example");
    let alpha = Host::start(fabric.issue("alpha").load().unwrap(), "[::]:0".parse().unwrap());
    for (host, target, source) in [("beta", "127.0.0.1", "0.0.0.0:0"), ("gamma", "::1", "[::]:0")] {
        let identity: Identity = fabric.issue(host).load().unwrap();
        let other = Host::start(identity, source.parse().unwrap());
        other.transport.set_peers(
            [(name("alpha"), (target.parse::<std::net::IpAddr>().unwrap(), alpha.address.port()).into())].into(),
        );
        other.up(&alpha).await;
        let [status] = &other.transport.peers()[..] else { panic!("one peer") };
        assert_eq!(status.address.unwrap().ip().to_string(), target);
        eventually("the accepted side", Duration::from_secs(2), || alpha.transport.is_up(other.name())).await;
        let seen = alpha.transport.peers();
        let seen = seen.iter().find(|peer| peer.host == name(host)).unwrap();
        assert_eq!(seen.state, PeerState::Up);
        assert_eq!(seen.address.unwrap().ip().to_string(), target, "mapped addresses are shown as IPv4");
        assert_eq!(seen.cipher.as_deref(), Some("TLS_AES_128_GCM_SHA256"));
        let json = serde_json::to_value(seen).unwrap();
        assert_eq!(json["state"], "up");
        assert_eq!(&serde_json::from_value::<ripstop_transport::PeerStatus>(json).unwrap(), seen);
    }
}
