//! Certificates over keys that the CA never sees: the host makes the key and asks with a request (PKCS #10, RFC 2986).

use super::{Authority, PkiError, WipedKey};
use crate::{
    identity::Identity,
    leaf::{CertificateId, Leaf},
};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};
use ripstop_config::HostName;
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

/// Longest request in bytes; one over an ECDSA P-256 key has some 250.
pub const REQUEST_MAX: usize = 4 << 10;
/// Shortest validity: below it a certificate is over before its renewal is done.
pub const GRANTED_MIN: Duration = Duration::from_secs(4);
/// Longest validity: what is renewed by itself need not be good for longer than a host may be off.
pub const GRANTED_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Bytes of an uncompressed point of P-256, and how it begins.
const POINT: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// A new key and the request for a certificate over it. Its `Debug` shows nothing of the key.
pub struct Request {
    /// DER; to be sent to the authority.
    pub der: Vec<u8>,
    /// The key, for this host alone (mode 0600); wiped from memory when dropped.
    pub key_pem: Zeroizing<String>,
}

/// A certificate that was issued for a request.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The certificate.
    pub certificate_pem: String,
    /// Which it is.
    pub id: CertificateId,
    /// When it stops being valid.
    pub not_after: SystemTime,
}

impl Request {
    /// Makes an ECDSA P-256 key and a request that it signs. The name in it is for people: it is the authority that says
    /// whose certificate it becomes.
    ///
    /// # Errors
    /// [`PkiError`] when cryptography fails.
    pub fn new(host: &HostName) -> Result<Self, PkiError> {
        let key = WipedKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, host.as_str());
        let request = params.serialize_request(&key)?;
        Ok(Self { der: request.der().to_vec(), key_pem: Zeroizing::new(key.0.serialize_pem()) })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Authority {
    /// Issues a host's certificate over the key of a request. Of the request nothing else is taken: what the certificate
    /// says is the authority's own word.
    ///
    /// # Errors
    /// [`PkiError::Request`] for what is no request that its key has signed; [`PkiError::Lifetime`] outside [`GRANTED_MIN`]
    /// to [`GRANTED_MAX`]; [`PkiError::Clock`] when this machine's clock is outside the CA certificate's own validity.
    pub fn grant(&self, host: &HostName, request: &[u8], validity: Duration) -> Result<Granted, PkiError> {
        if !(GRANTED_MIN..=GRANTED_MAX).contains(&validity) {
            return Err(PkiError::Lifetime(validity));
        }
        let now = SystemTime::now();
        if now < self.validity.0 || now + validity > self.validity.1 {
            return Err(PkiError::Clock);
        }
        let key = requested(request)?;
        let certificate = self.host_params(host, validity)?.signed_by(&key, &self.issuer)?;
        let leaf = Leaf::of_fabric(certificate.der(), &self.fabric).map_err(|_| PkiError::Request)?;
        Ok(Granted { certificate_pem: certificate.pem(), id: leaf.id, not_after: leaf.not_after })
    }

    /// Whether this is the CA whose certificates the identity's host trusts.
    #[must_use]
    pub fn is_trusted_by(&self, identity: &Identity) -> bool {
        identity.authorities().iter().any(|trusted| **trusted == *self.certificate_der)
    }
}

/// The key of a request that it has signed.
fn requested(der: &[u8]) -> Result<rcgen::PublicKey, PkiError> {
    if der.len() > REQUEST_MAX {
        return Err(PkiError::Request);
    }
    let request = CertificateSigningRequestParams::from_der(&der.into()).map_err(|_| PkiError::Request)?;
    let key = request.public_key;
    // An uncompressed point of the curve (RFC 5480 section 2.2): the signature's algorithm does not tell the curve.
    let is_point = key.der_bytes().len() == POINT && key.der_bytes().first() == Some(&UNCOMPRESSED);
    match *PublicKeyData::algorithm(&key) == PKCS_ECDSA_P256_SHA256 && is_point {
        true => Ok(key),
        false => Err(PkiError::Request),
    }
}
