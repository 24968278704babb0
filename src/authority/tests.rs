//! The authority with real hosts at its listener, over TLS on loopback.

use super::{
    client::{self, Joining},
    listener::{self, Admission, Members},
    *,
};
use ripstop_config::agent::CERTIFICATES as LIFETIME;
use ripstop_transport::{
    Identity,
    pki::{HOST_VALIDITY_MIN, Request},
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// An authority on loopback. Its members are who the test says, in place of the policy.
struct Bed {
    directory: tempfile::TempDir,
    authority: Arc<Authority>,
    members: Arc<Standings>,
    address: SocketAddr,
}

struct Standings {
    identity: Identity,
    hosts: Mutex<BTreeMap<HostName, Membership>>,
}

impl Members for Standings {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn membership(&self, host: &HostName, _certificate: Option<&CertificateId>) -> Membership {
        self.hosts.lock().unwrap().get(host).copied().unwrap_or(Membership::Unknown)
    }

    fn admit(&self, admitted: &Admitted, address: Option<SocketAddr>) -> Admission {
        self.hosts.lock().unwrap().insert(admitted.host.clone(), Membership::Member);
        Admission { operators: "need: 1\n".into(), bundle: vec![0, 255], missing: address.map(|at| at.to_string()) }
    }
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn write(path: &Path, text: &str) {
    crate::durable::replace(path, text.as_bytes(), 0o600).unwrap();
}

impl Bed {
    async fn with(lifetime: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |file: &str| directory.path().join(file);
        let ca = pki::Authority::create(&"shop.example".parse().unwrap()).unwrap();
        let pem = ca.to_pem();
        write(&at(CA_CERTIFICATE), &pem.certificate_pem);
        write(&at(CA_KEY), &pem.key_pem);
        let own = ca.issue_host(&name("alpha"), HOST_VALIDITY_MIN).unwrap();
        write(&at("own.pem"), &format!("{}{}", own.certificate_pem, *own.key_pem));
        let identity = Identity::load(&at("own.pem"), &at("own.pem"), &at(CA_CERTIFICATE)).unwrap();
        let authority = Arc::new(Authority::open(directory.path(), lifetime).unwrap());
        let members = Arc::new(Standings { identity, hosts: Mutex::default() });
        let listener = listener::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(listener::serve(listener, Arc::clone(&authority), Arc::clone(&members) as _));
        Self { directory, authority, members, address }
    }

    async fn new() -> Self {
        Self::with(LIFETIME).await
    }

    fn token(&self, hosts: &str) -> Token {
        self.authority.create_token(hosts.parse().unwrap(), Duration::from_secs(60)).unwrap()
    }

    async fn join(&self, token: &Token, hostname: &str) -> Result<client::JoinedHost, String> {
        let joining = Joining { host: None, hostname: name(hostname), address: None, port: 7477 };
        client::join(self.address, token, joining).await.map_err(|error| format!("{error:#}"))
    }

    /// The identity of a host that has joined.
    fn identity(&self, joined: &client::JoinedHost) -> Identity {
        self.load(joined.welcome.host.as_str(), &joined.welcome.certificate, &joined.request.key_pem)
    }

    fn load(&self, host: &str, certificate: &str, key: &str) -> Identity {
        let path = self.directory.path().join(format!("{host}.pem"));
        write(&path, &format!("{certificate}{key}"));
        Identity::load_whenever(&path, &path, &self.directory.path().join(CA_CERTIFICATE)).unwrap()
    }

    async fn renew(&self, identity: &Identity) -> Result<Identity, String> {
        let renewed = client::renew(self.address, &name("alpha"), identity).await;
        let (certificate, request) = renewed.map_err(|error| format!("{error:#}"))?;
        Ok(self.load(identity.host().as_str(), &certificate, &request.key_pem))
    }
}

#[tokio::test]
async fn a_host_that_joins_gets_all_it_needs() {
    let bed = Bed::new().await;
    let joined = bed.join(&bed.token("b*"), "beta").await.unwrap();
    let welcome = &joined.welcome;
    assert_eq!(
        (welcome.host.as_str(), welcome.fabric.as_str(), joined.authority.as_str()),
        ("beta", "shop.example", "alpha")
    );
    assert_eq!((&*welcome.operators, &*welcome.bundle), ("need: 1\n", &[0, 255][..]));
    assert_eq!(welcome.missing.as_deref(), Some("127.0.0.1:7477"), "the address by which it came");
    assert_eq!(welcome.ca, bed.authority.ca().certificate_pem());
    let identity = bed.identity(&joined);
    assert_eq!(identity.host(), &name("beta"));
    let left = identity.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(left <= LIFETIME && left > LIFETIME - Duration::from_secs(60), "{left:?}");
    assert_eq!(bed.authority.certificates(&name("beta"))[0].id, *identity.certificate());
}

#[tokio::test]
async fn of_fifty_hosts_with_one_token_one_gets_a_certificate() {
    let bed = Arc::new(Bed::new().await);
    let token = bed.token("*");
    let joins = (0..50).map(|number| {
        let (bed, token) = (Arc::clone(&bed), token.clone());
        tokio::spawn(async move { bed.join(&token, &format!("host-{number}")).await })
    });
    let mut winners = Vec::new();
    for join in joins.collect::<Vec<_>>() {
        match join.await.unwrap() {
            Ok(joined) => winners.push(joined.welcome.host),
            Err(why) => assert!(why.contains("was used already"), "{why}"),
        }
    }
    let issued: Vec<_> =
        (0..50).flat_map(|number| bed.authority.certificates(&name(&format!("host-{number}")))).collect();
    assert_eq!((winners.len(), issued.len()), (1, 1), "{winners:?}");
    assert_eq!(issued[0].host, winners[0]);
    let after_restart = Authority::open(bed.directory.path(), LIFETIME).unwrap();
    assert_eq!(after_restart.tokens()[0].used.as_ref(), Some(&winners[0]));
}

#[tokio::test]
async fn another_authority_is_told_nothing() {
    let (bed, other) = (Bed::new().await, Bed::new().await);
    let token = bed.token("*");
    let why = other.join(&token, "beta").await.unwrap_err();
    assert!(why.contains("is not the authority that made the token"), "{why}");
    assert!(bed.authority.tokens()[0].used.is_none());
    bed.join(&token, "beta").await.unwrap();
}

#[tokio::test]
async fn a_pattern_is_no_way_to_a_name_that_was_given() {
    let bed = Bed::new().await;
    let first = bed.identity(&bed.join(&bed.token("*"), "beta").await.unwrap());
    let pattern = bed.token("b*");
    let why = bed.join(&pattern, "beta").await.unwrap_err();
    assert!(why.contains("ripstop token create beta"), "{why}");
    bed.join(&pattern, "bravo").await.expect("and the token was not spent for that");
    let named = bed.token("beta");
    bed.members.hosts.lock().unwrap().insert(name("beta"), Membership::Revoked);
    let again = bed.identity(&bed.join(&named, "laptop").await.unwrap());
    assert_eq!(again.host(), first.host(), "the token says what the host is called");
    assert_ne!(again.certificate(), first.certificate());
}

#[tokio::test]
async fn members_are_renewed_and_others_are_not() {
    let bed = Bed::new().await;
    let identity = bed.identity(&bed.join(&bed.token("beta"), "x").await.unwrap());
    let renewed = bed.renew(&identity).await.unwrap();
    assert_ne!(renewed.certificate(), identity.certificate());
    bed.renew(&identity).await.expect("the answer may have been lost");
    for (standing, why) in [(Membership::Revoked, "is revoked"), (Membership::Unknown, "does not name the host")] {
        bed.members.hosts.lock().unwrap().insert(name("beta"), standing);
        let refused = bed.renew(&renewed).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let offline = bed.authority.ca().issue_host(&name("beta"), HOST_VALIDITY_MIN).unwrap();
    bed.members.hosts.lock().unwrap().insert(name("beta"), Membership::Member);
    let refused = bed.renew(&bed.load("offline", &offline.certificate_pem, &offline.key_pem)).await.unwrap_err();
    assert!(refused.contains("was not issued by this authority"), "{refused}");
    let stranger = Bed::new().await;
    let foreign = stranger.identity(&stranger.join(&stranger.token("beta"), "x").await.unwrap());
    bed.renew(&foreign).await.expect_err("of another CA with the same name");
}

#[tokio::test]
async fn a_host_whose_certificate_expired_while_it_was_off_comes_back() {
    let bed = Bed::with(GRANTED_MIN).await;
    let identity = bed.identity(&bed.join(&bed.token("beta"), "x").await.unwrap());
    tokio::time::sleep(GRANTED_MIN + Duration::from_secs(1)).await;
    assert!(identity.not_after() < SystemTime::now());
    let renewed = bed.renew(&identity).await.unwrap();
    assert!(renewed.not_after() > SystemTime::now());
    bed.renew(&renewed).await.unwrap();
    let replaced = bed.renew(&identity).await.unwrap_err();
    assert!(replaced.contains("revoke the host"), "{replaced}");
}

#[tokio::test]
async fn nobody_tries_tokens_for_long_and_nothing_shows_one() {
    let bed = Bed::new().await;
    let (good, other) = (bed.token("*"), Bed::new().await.token("*"));
    // The right pin, and the secret of another authority's token.
    let mut bad = other.clone();
    bad.pin = good.pin;
    for _ in 0..attempts::BAD_MAX {
        let why = bed.join(&bad, "beta").await.unwrap_err();
        assert!(why.contains("not known here"), "{why}");
        let secret = serde_json::to_value(bad.proof()).unwrap()["secret"].as_str().unwrap().to_owned();
        assert!(!why.contains(&secret), "{why}");
    }
    let why = bed.join(&good, "beta").await.unwrap_err();
    assert!(why.contains("too many bad tokens"), "{why}");
    assert!(bed.authority.tokens()[0].used.is_none());
}

#[test]
fn what_is_no_request_for_a_p256_key_is_refused() {
    let ca = pki::Authority::create(&"shop.example".parse().unwrap()).unwrap();
    let request = Request::new(&name("beta")).unwrap().der;
    assert_eq!(ca.grant(&name("gamma"), &request, LIFETIME).unwrap().id.serial.len(), 40);
    let mut tampered = request.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = rcgen::CertificateParams::default().serialize_request(&p384).unwrap().der().to_vec();
    for wrong in [&tampered[..], &request[..40], b"", &vec![0x30; 5_000], &p384] {
        assert!(matches!(ca.grant(&name("beta"), wrong, LIFETIME), Err(PkiError::Request)));
    }
    for lifetime in [GRANTED_MIN - Duration::from_secs(1), GRANTED_MAX + Duration::from_secs(1)] {
        assert!(matches!(ca.grant(&name("beta"), &request, lifetime), Err(PkiError::Lifetime(_))));
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pem = pki::Authority::create(&"shop.example".parse().unwrap()).unwrap().to_pem();
    write(&directory.path().join(CA_CERTIFICATE), &pem.certificate_pem);
    write(&directory.path().join(CA_KEY), &pem.key_pem);
    Authority::open(directory.path(), LIFETIME).unwrap();
    fs::set_permissions(directory.path().join(CA_KEY), fs::Permissions::from_mode(0o640)).unwrap();
    let why = Authority::open(directory.path(), LIFETIME).unwrap_err().to_string();
    assert!(why.contains("mode 0640") && why.contains("chmod 600"), "{why}");
}
