//! An identity that comes by memory, as a Workload API of SPIFFE hands it out, in place of files.

use super::{EndpointKeys, Identity, Time, authority, signed_by};
use crate::leaf::{Leaf, LeafError};
use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use std::sync::Arc;

/// Why an X.509-SVID, or the trust bundle that came with it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// There is no certificate in it.
    #[error("it holds no certificate")]
    Empty,
    /// The certificate is not a host's.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The key is of a kind that is not supported.
    #[error("its key cannot be used ({0}): have ECDSA P-256 keys issued")]
    Key(String),
    /// The key is not the certificate's.
    #[error("its key is not that of its certificate")]
    KeyMismatch,
    /// The certificate's time is over.
    #[error("it has expired: is this machine's clock right?")]
    Expired,
    /// The certificate's time has not come.
    #[error("it is not valid yet: is this machine's clock right?")]
    NotYetValid,
    /// No CA of the bundle signed the certificate.
    #[error("no CA of the trust bundle vouches for it ({0})")]
    NotSigned(String),
    /// Nothing in the bundle can be trusted.
    #[error("the trust bundle holds no CA's certificate")]
    NoAuthority,
}

impl Identity {
    /// Checks a certificate chain (leaf first), its key (PKCS#8) and the CA certificates of its trust domain, all DER. What of
    /// the bundle is no CA's certificate is not trusted.
    ///
    /// # Errors
    /// [`SvidError`] unless the key is the certificate's, and the certificate is a host's, signed by one of the CAs, and valid at
    /// this time.
    pub fn of_svid(
        chain: Vec<CertificateDer<'static>>,
        key: &[u8],
        bundle: &[CertificateDer<'static>],
    ) -> Result<Self, SvidError> {
        let leaf = Leaf::parse(chain.first().ok_or(SvidError::Empty)?)?;
        let (roots, authorities) = trusted(bundle)?;
        signed_by(&chain, &leaf, &roots, Time::Matters).map_err(not_signed)?;
        let signer = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&signer);
        let key_pair = CertifiedKey::new(chain, signer.map_err(|error| SvidError::Key(error.to_string()))?);
        key_pair.keys_match().map_err(|_| SvidError::KeyMismatch)?;
        let endpoint_keys = EndpointKeys::derive(key);
        Ok(Self { leaf, key: Arc::new(key_pair), endpoint_keys, roots, authorities })
    }

    /// The same certificate and key, with other CAs that are trusted. Whether one of them signed the certificate is left to the
    /// hosts that are shown it.
    ///
    /// # Errors
    /// [`SvidError::NoAuthority`].
    pub fn trusting(&self, bundle: &[CertificateDer<'static>]) -> Result<Self, SvidError> {
        let (roots, authorities) = trusted(bundle)?;
        Ok(Self { roots, authorities, ..self.clone() })
    }

    /// Whether both trust the same CAs, in whatever order they were named.
    #[must_use]
    pub fn trusts_as(&self, other: &Self) -> bool {
        let all_of = |one: &Self, other: &Self| one.authorities.iter().all(|ca| other.authorities.contains(ca));
        all_of(self, other) && all_of(other, self)
    }
}

type Trusted = (Arc<RootCertStore>, Arc<[CertificateDer<'static>]>);

fn trusted(bundle: &[CertificateDer<'static>]) -> Result<Trusted, SvidError> {
    let mut roots = RootCertStore::empty();
    let taken: Vec<_> = bundle.iter().filter(|one| authority(&mut roots, one).is_ok()).cloned().collect();
    match taken.is_empty() {
        true => Err(SvidError::NoAuthority),
        false => Ok((Arc::new(roots), taken.into())),
    }
}

fn not_signed(error: rustls::Error) -> SvidError {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => SvidError::Expired,
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => SvidError::NotYetValid,
        other => SvidError::NotSigned(other.to_string()),
    }
}
