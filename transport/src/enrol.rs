//! TLS 1.3 over TCP between a host that is to get a certificate and the host that holds the authority. Sessions never go
//! this way: between hosts of the fabric QUIC stays the only one, with certificates at both ends.
//!
//! - A host that joins trusts nothing yet but a [`Pin`], the hash of the fabric's CA certificate. The server shows that
//!   certificate after its own, [`join`] looks for it there, and verifies the server's by it.
//! - A host that renews shows its certificate, also one that has expired, which [`accept`] says: whether that is good
//!   enough is for the authority to decide.

mod token;

pub use token::{Proof, SecretHash, Token, TokenError, TokenId};

use crate::{
    identity::Identity,
    leaf::{CertificateId, Leaf, LeafError},
    pki, tls,
};
use aws_lc_rs::digest;
use ripstop_config::{FabricName, HostName};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use std::{fmt, io, sync::Arc, time::SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// The application protocol (RFC 7301): another than that of sessions, so that neither is taken for the other.
const ALPN: &[u8] = b"ripstop-enrol/1";
/// Certificates that a server may show: its own, and a CA's old and new one. Of more the pinned one is not looked for.
const SHOWN_MAX: usize = 8;

/// The SHA-256 of a CA certificate's DER: what a host that joins knows of the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    pub(crate) fn of(certificate: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(hash)
    }
}

/// A host that renews, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The host.
    pub host: HostName,
    /// Which certificate it showed.
    pub certificate: CertificateId,
    /// When that stops being valid, or stopped.
    pub not_after: SystemTime,
}

/// The fabric that a host is about to join, by the CA that was pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The fabric.
    pub fabric: FabricName,
    /// The host that holds the authority.
    pub host: HostName,
}

/// Why there is no connection to the authority.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The peer's certificate does not identify it.
    #[error("the certificate of the other end cannot be used: {0}")]
    Leaf(LeafError),
    /// No certificate was shown.
    #[error("the other end showed no certificate")]
    Nameless,
}

/// Takes a connection with the host's own identity. The caller bounds the wait.
///
/// # Errors
/// [`EnrolError`]: among others when the caller shows a certificate that no CA of the fabric has signed.
pub async fn accept(
    stream: TcpStream,
    identity: &Identity,
) -> Result<(server::TlsStream<TcpStream>, Option<Caller>), EnrolError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls::TlsError::from)?
        .with_client_cert_verifier(Arc::new(Member::of(identity)?))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(with_authorities(identity))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.map_err(EnrolError::Handshake)?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let leaf = shown.map(|leaf| Leaf::of_fabric(leaf, identity.fabric())).transpose().map_err(EnrolError::Leaf)?;
    let caller = leaf.map(|leaf| Caller { host: leaf.host, certificate: leaf.id, not_after: leaf.not_after });
    Ok((stream, caller))
}

/// Connects a host that trusts nothing but the pin. The caller bounds the wait.
///
/// # Errors
/// [`EnrolError`] unless the other end is a host of a fabric whose CA certificate is the pinned one.
pub async fn join(stream: TcpStream, pin: Pin) -> Result<(client::TlsStream<TcpStream>, Joined), EnrolError> {
    let builder = client_builder(Pinned { pin })?;
    let stream = connect(stream, builder.with_no_client_auth()).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).ok_or(EnrolError::Nameless)?;
    let leaf = Leaf::parse(shown).map_err(EnrolError::Leaf)?;
    Ok((stream, Joined { fabric: leaf.fabric, host: leaf.host }))
}

/// Connects a host of the fabric to the one that holds the authority. The caller bounds the wait.
///
/// # Errors
/// [`EnrolError`] unless that host answers, by its certificate.
pub async fn renew(
    stream: TcpStream,
    identity: &Identity,
    authority: &HostName,
) -> Result<client::TlsStream<TcpStream>, EnrolError> {
    let builder = client_builder(tls::DialledHost::of(identity, authority))?;
    let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(identity.key())));
    connect(stream, builder.with_client_cert_resolver(resolver)).await
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client_builder(verifier: impl ServerCertVerifier + 'static) -> Result<ClientBuilder, EnrolError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(tls::provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(tls::TlsError::from)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

async fn connect(stream: TcpStream, mut config: ClientConfig) -> Result<client::TlsStream<TcpStream>, EnrolError> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    // It is not sent, and who answers is for the verifier to say.
    let name = ServerName::try_from(tls::UNUSED_NAME).map_err(|_| EnrolError::Nameless)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(EnrolError::Handshake)
}

/// The host's certificate, and after it those of the CAs, which who joins does not have yet.
fn with_authorities(identity: &Identity) -> Arc<CertifiedKey> {
    let own = identity.key();
    let chain = own.cert.iter().chain(identity.authorities()).cloned().collect();
    Arc::new(CertifiedKey::new(chain, Arc::clone(&own.key)))
}

/// The server's certificate is signed by the CA whose certificate it shows and whose hash is known.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = shown.iter().take(SHOWN_MAX).find(|shown| Pin::of(shown) == self.pin).ok_or_else(refused)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(ca).map_err(|_| refused())?;
        let fabric = pki::authority_of(&parsed).map_err(|_| refused())?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let algorithms = tls::provider().signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        Leaf::of_fabric(leaf, &fabric).map_err(tls::refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The client shows no certificate, or that of a host of the fabric, which may have expired.
struct Member {
    chain: Arc<dyn ClientCertVerifier>,
    fabric: FabricName,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("fabric", &self.fabric).finish_non_exhaustive()
    }
}

impl Member {
    fn of(identity: &Identity) -> Result<Self, EnrolError> {
        let provider: Arc<CryptoProvider> = Arc::clone(tls::provider());
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::clone(identity.roots()), provider);
        let chain = chain.allow_unauthenticated().build().map_err(tls::TlsError::from)?;
        Ok(Self { chain, fabric: identity.fabric().clone() })
    }
}

impl ClientCertVerifier for Member {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let facts = Leaf::of_fabric(leaf, &self.fabric).map_err(tls::refused)?;
        // As of a time at which it was valid. One that is not valid yet is judged as of now, and refused.
        let when = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            now.as_secs().min(facts.time_within(now).as_secs()),
        ));
        self.chain.verify_client_cert(leaf, between, when)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
