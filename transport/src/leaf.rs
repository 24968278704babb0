//! What a leaf certificate says: one SPIFFE identity and its validity (X509-SVID specification, sections 2 to 4).

use aws_lc_rs::digest;
use ripstop_config::{FabricName, HostName, Identity, name::Subject};
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

/// Why a certificate does not identify a host of the fabric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not an X.509 certificate.
    #[error("it is not an X.509 certificate")]
    Malformed,
    /// An X509-SVID has exactly one URI.
    #[error("it has {0} URI names where a host's certificate has exactly one, spiffe://FABRIC/host/NAME")]
    Uris(usize),
    /// The URI is no identity.
    #[error("its URI name does not identify anyone: {0}")]
    Identity(String),
    /// A workload's identity, where a host's is needed.
    #[error("it identifies `{0}`, which is not a host: spiffe://FABRIC/host/NAME is needed")]
    NotAHost(String),
    /// The certificate of a CA.
    #[error("it is a CA's certificate, not a host's")]
    Authority,
    /// A host of another fabric.
    #[error("it is of the fabric `{found}`, not of `{expected}`")]
    OtherFabric {
        /// The trust domain in the certificate.
        found: FabricName,
        /// One's own.
        expected: FabricName,
    },
    /// Another host than the one that was dialled.
    #[error("it is of the host `{found}`, not of `{expected}`, which was dialled")]
    OtherHost {
        /// The host in the certificate.
        found: HostName,
        /// The host that was dialled.
        expected: HostName,
    },
}

/// Which certificate: its issuer and, among those of that issuer, its serial number (RFC 5280 section 4.1.2.2). What a
/// certificate is revoked by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CertificateId {
    /// SHA-256 over the issuer's distinguished name in DER, lower-case hexadecimal.
    pub issuer: String,
    /// The serial number, lower-case hexadecimal, two digits for each octet of it as it is encoded.
    pub serial: String,
}

impl CertificateId {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let issuer = digest::digest(&digest::SHA256, certificate.issuer().as_raw());
        Self { issuer: hex(issuer.as_ref()), serial: hex(certificate.raw_serial()) }
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.serial)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A leaf certificate that identifies a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) fabric: FabricName,
    pub(crate) host: HostName,
    pub(crate) id: CertificateId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Leaf {
    /// Reads the identity of a host. Whether anyone vouches for it is for the caller to check.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, LeafError> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| LeafError::Malformed)?;
        let identity = identity(&certificate)?;
        if certificate.is_ca() {
            return Err(LeafError::Authority);
        }
        let host = match identity.subject {
            Subject::Host(host) => host,
            Subject::Workload(workload) => return Err(LeafError::NotAHost(workload.to_string())),
        };
        let validity = certificate.validity();
        let (not_before, not_after) = (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
        Ok(Self { fabric: identity.fabric, host, id: CertificateId::of(&certificate), not_before, not_after })
    }

    /// The time of its validity that is nearest to `now`.
    pub(crate) fn time_within(&self, now: UnixTime) -> UnixTime {
        let of = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Duration::from_secs(now.as_secs());
        // In this order, as a certificate whose end comes before its start must not panic.
        UnixTime::since_unix_epoch(now.max(of(self.not_before)).min(of(self.not_after)))
    }

    /// The same, if the host is of that fabric.
    pub(crate) fn of_fabric(der: &[u8], expected: &FabricName) -> Result<Self, LeafError> {
        let leaf = Self::parse(der)?;
        match leaf.fabric == *expected {
            true => Ok(leaf),
            false => Err(LeafError::OtherFabric { found: leaf.fabric, expected: expected.clone() }),
        }
    }
}

fn identity(certificate: &X509Certificate<'_>) -> Result<Identity, LeafError> {
    let names = certificate.subject_alternative_name().map_err(|_| LeafError::Malformed)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let uris: Vec<&str> =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    match uris.as_slice() {
        [uri] => uri.parse().map_err(|error: ripstop_config::name::NameError| LeafError::Identity(error.to_string())),
        several => Err(LeafError::Uris(several.len())),
    }
}

/// A time before 1970 is as good as 1970: both are past.
pub(crate) fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
