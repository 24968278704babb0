//! TLS as this fabric speaks it: 1.3 only, mutual, one protocol name, no resumption.
//!
//! A chain is verified by rustls; the name on the leaf is verified here, because rustls-webpki enforces no constraints on
//! URI names: whatever a CA signed, the leaf has to be a host of one's own fabric, and of the dialled name.

use crate::{
    identity::Identity,
    leaf::{Leaf, LeafError},
    suite::{self, Noted},
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ripstop_config::{FabricName, HostName};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme,
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
    sign::SingleCertAndKey,
    version::TLS13,
};
use std::{
    fmt,
    sync::{Arc, LazyLock},
};

/// The one application protocol (RFC 7301): sessions of Ripstop, first version.
pub const ALPN: &[u8] = b"ripstop/1";
/// Stands where TLS wants a server's name; it is not sent. Who answers is checked by [`DialledHost`].
pub(crate) const UNUSED_NAME: &str = "host.invalid";

/// Why TLS could not be set up from an identity that was loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refused the configuration.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// rustls refused the CA certificates.
    #[error(transparent)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The cipher suite of QUIC's Initial packets is missing.
    #[error("the cryptography library lacks TLS_AES_128_GCM_SHA256")]
    Suite,
}

/// The cryptography of the whole crate, never taken from a process-wide default.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider { cipher_suites: suite::offered(), ..rustls::crypto::aws_lc_rs::default_provider() })
    });
    &PROVIDER
}

/// What dials one host: its answer must come from that host.
pub(crate) fn client(identity: &Identity, host: &HostName) -> Result<Arc<dyn quinn::crypto::ClientConfig>, TlsError> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(DialledHost::of(identity, host)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(identity.key()))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the certificates; every connection shows them.
    config.resumption = Resumption::disabled();
    // A name would tell an onlooker who talks to whom, and no server here needs it.
    config.enable_sni = false;
    let initial = suite::initial().ok_or(TlsError::Suite)?;
    let config = QuicClientConfig::with_initial(Arc::new(config), initial).map_err(|_| TlsError::Suite)?;
    Ok(Arc::new(Noted(Arc::new(config))))
}

/// What is dialled by any host of the fabric.
pub(crate) fn server(identity: &Identity) -> Result<Arc<dyn quinn::crypto::ServerConfig>, TlsError> {
    let chain =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(identity.roots()), Arc::clone(provider())).build()?;
    let verifier = AnyHost { chain, fabric: identity.fabric().clone() };
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(identity.key()))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let initial = suite::initial().ok_or(TlsError::Suite)?;
    let config = QuicServerConfig::with_initial(Arc::new(config), initial).map_err(|_| TlsError::Suite)?;
    Ok(Arc::new(Noted(Arc::new(config))))
}

pub(crate) fn refused(why: LeafError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Said(why)))))
}

/// Shows as text wherever rustls shows it as it is built, which it does in what travels to the peer.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Said(LeafError);

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The server's certificate is that of the dialled host.
#[derive(Debug)]
pub(crate) struct DialledHost {
    roots: Arc<RootCertStore>,
    fabric: FabricName,
    host: HostName,
}

impl DialledHost {
    pub(crate) fn of(identity: &Identity, host: &HostName) -> Self {
        Self { roots: Arc::clone(identity.roots()), fabric: identity.fabric().clone(), host: host.clone() }
    }
}

impl ServerCertVerifier for DialledHost {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, between, now, algorithms)?;
        let found = Leaf::of_fabric(leaf, &self.fabric).map_err(refused)?.host;
        match found == self.host {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(refused(LeafError::OtherHost { found, expected: self.host.clone() })),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The client's certificate is that of any host of the fabric.
#[derive(Debug)]
struct AnyHost {
    chain: Arc<dyn ClientCertVerifier>,
    fabric: FabricName,
}

impl ClientCertVerifier for AnyHost {
    fn client_auth_mandatory(&self) -> bool {
        true
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
        let verified = self.chain.verify_client_cert(leaf, between, now)?;
        Leaf::of_fabric(leaf, &self.fabric).map_err(refused)?;
        Ok(verified)
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
