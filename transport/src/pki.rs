//! A fabric's own CA: makes the CA certificate and issues hosts' certificates, as X509-SVIDs.

mod grant;

pub use grant::{GRANTED_MAX, GRANTED_MIN, Granted, REQUEST_MAX, Request};

use crate::{enrol::Pin, leaf, pem, tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ripstop_config::{FabricName, HostName, Identity};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};
use zeroize::{Zeroize, Zeroizing};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a CA certificate is valid: long, because replacing it touches every host.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Shortest validity of a host's certificate: one that ends within a day is renewed too late by people.
pub const HOST_VALIDITY_MIN: Duration = DAY;
/// Longest validity of a host's certificate: what browsers' rules settled on, since nothing revokes one earlier here.
pub const HOST_VALIDITY_MAX: Duration = Duration::from_secs(825 * 24 * 60 * 60);
/// Certificates start this long before they are made, or a part of their validity, so that a host whose clock is behind
/// takes them.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
const BACKDATED_PART: u32 = 24;
/// Bytes of a serial number: 159 random bits, within the 20 octets and above zero (RFC 5280 section 4.1.2.2).
const SERIAL: usize = 20;

/// Why a CA could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The library that makes certificates failed.
    #[error("failed to make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The validity asked for is outside the bounds.
    #[error("a host's certificate is valid for 1 to 825 days, not for {} hours", .0.as_secs() / 3600)]
    Validity(Duration),
    /// The validity asked for of a certificate that is renewed by itself is outside the bounds.
    #[error("a certificate that is renewed by itself is valid for {} s to {} days, not for {} s", GRANTED_MIN.as_secs(), GRANTED_MAX.as_secs() / DAY.as_secs(), .0.as_secs())]
    Lifetime(Duration),
    /// The text is not a CA certificate of a fabric.
    #[error("it is not the CA certificate of a fabric: {0}")]
    NotAnAuthority(&'static str),
    /// The key is not the CA certificate's.
    #[error("the key is not that of the CA certificate")]
    KeyMismatch,
    /// What was sent is no request for a certificate over an ECDSA P-256 key, signed by that key.
    #[error("it is not a certificate request that its own ECDSA P-256 key has signed")]
    Request,
    /// Issued at this time, a certificate would not be good.
    #[error(
        "the clock is outside the validity of the CA's certificate, so that nobody would take what it signs: set the clock"
    )]
    Clock,
}

/// A fabric's certificate authority. Its `Debug` shows nothing of the key, which is wiped from memory at the end.
pub struct Authority {
    fabric: FabricName,
    certificate_pem: String,
    certificate_der: CertificateDer<'static>,
    issuer: Issuer<'static, WipedKey>,
    /// First and last moment of the CA certificate.
    validity: (SystemTime, SystemTime),
}

/// A certificate and its key, both PEM. Its `Debug` shows nothing of the key.
pub struct Issued {
    /// The certificate, to be shown to anyone.
    pub certificate_pem: String,
    /// The key, for its owner alone (mode 0600); wiped from memory when dropped.
    pub key_pem: Zeroizing<String>,
}

impl Authority {
    /// Makes a CA for a fabric: a new ECDSA P-256 key and a certificate over it, valid for [`CA_VALIDITY`].
    ///
    /// # Errors
    /// [`PkiError`] when cryptography fails.
    pub fn create(fabric: &FabricName) -> Result<Self, PkiError> {
        let mut params = params(&format!("{fabric} CA"), &format!("spiffe://{fabric}"), CA_VALIDITY)?;
        // The hosts' certificates are signed by this key itself: no CA below it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = WipedKey::generate()?;
        let issuer = CertifiedIssuer::self_signed(params.clone(), &key)?;
        let (certificate_pem, certificate_der) = (issuer.pem(), issuer.der().clone());
        let validity = (params.not_before.into(), params.not_after.into());
        drop(issuer);
        let (fabric, issuer) = (fabric.clone(), Issuer::new(params, key));
        Ok(Self { fabric, certificate_pem, certificate_der, issuer, validity })
    }

    /// Reads a CA back from its certificate and key, both PEM.
    ///
    /// # Errors
    /// [`PkiError`] unless they belong together and are a fabric's CA.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| PkiError::NotAnAuthority("there is no PEM certificate in it"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|_| PkiError::NotAnAuthority("it is not an X.509 certificate"))?;
        let fabric = authority_of(&parsed)?;
        let secret = pem::private_key(key_pem.as_bytes()).ok_or(rcgen::Error::CouldNotParseKeyPair)?;
        let key = WipedKey(KeyPair::try_from(&*secret)?);
        if parsed.public_key().subject_public_key.data != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(PkiError::KeyMismatch);
        }
        let ends = parsed.validity();
        let validity = (leaf::time(ends.not_before.timestamp()), leaf::time(ends.not_after.timestamp()));
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        let certificate_pem = certificate_pem.to_owned();
        Ok(Self { fabric, certificate_pem, certificate_der: der, issuer, validity })
    }

    /// The CA's certificate and key, to be kept.
    #[must_use]
    pub fn to_pem(&self) -> Issued {
        let key_pem = Zeroizing::new(self.issuer.key().0.serialize_pem());
        Issued { certificate_pem: self.certificate_pem.clone(), key_pem }
    }

    /// The CA's certificate, PEM: what every host trusts.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// By which a host that has nothing yet knows the CA.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin::of(&self.certificate_der)
    }

    /// The fabric that it is the CA of.
    #[must_use]
    pub fn fabric(&self) -> &FabricName {
        &self.fabric
    }

    /// Issues a host's certificate with a new key.
    ///
    /// # Errors
    /// [`PkiError::Validity`] outside [`HOST_VALIDITY_MIN`] to [`HOST_VALIDITY_MAX`]; others when cryptography fails.
    pub fn issue_host(&self, host: &HostName, validity: Duration) -> Result<Issued, PkiError> {
        if !(HOST_VALIDITY_MIN..=HOST_VALIDITY_MAX).contains(&validity) {
            return Err(PkiError::Validity(validity));
        }
        let key = WipedKey::generate()?;
        let certificate = self.host_params(host, validity)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: Zeroizing::new(key.0.serialize_pem()) })
    }

    fn host_params(&self, host: &HostName, validity: Duration) -> Result<CertificateParams, PkiError> {
        let identity = Identity::host(self.fabric.clone(), host.clone());
        let mut params = params(host.as_str(), &identity.to_string(), validity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("fabric", &self.fabric).finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// A key whose bytes are overwritten when it is dropped.
struct WipedKey(KeyPair);

impl WipedKey {
    fn generate() -> Result<Self, PkiError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }
}

impl Drop for WipedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl rcgen::PublicKeyData for WipedKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        rcgen::PublicKeyData::algorithm(&self.0)
    }
}

impl rcgen::SigningKey for WipedKey {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(msg)
    }
}

fn params(common_name: &str, uri: &str, validity: Duration) -> Result<CertificateParams, PkiError> {
    let backdated = BACKDATED.min(validity / BACKDATED_PART);
    let start = SystemTime::now() - backdated;
    let mut params = CertificateParams::default();
    params.not_before = start.into();
    params.not_after = (start + backdated + validity).into();
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; SERIAL];
    tls::provider().secure_random.fill(&mut bytes).map_err(|_| PkiError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40; // positive, and always of full length
    Ok(SerialNumber::from_slice(&bytes))
}

/// The fabric in a CA certificate's one URI, `spiffe://FABRIC` (X509-SVID specification, section 3.2).
pub(crate) fn authority_of(certificate: &X509Certificate<'_>) -> Result<FabricName, PkiError> {
    let wrong = PkiError::NotAnAuthority;
    if !certificate.is_ca() {
        return Err(wrong("it is not a CA's certificate"));
    }
    let names = certificate.subject_alternative_name().map_err(|_| wrong("its names cannot be read"))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] => uri
            .strip_prefix("spiffe://")
            .and_then(|fabric| FabricName::new(fabric).ok())
            .ok_or(wrong("its name is not spiffe://FABRIC")),
        _ => Err(wrong("it does not have exactly one name, spiffe://FABRIC")),
    }
}
