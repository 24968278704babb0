//! Records: what a host says of itself, signed with the key of its certificate, so that others may hand it on. Between
//! connected hosts the connection says as much; what came by a third party has to say it itself.
//!
//! ```text
//! form (1) | host: length (1), name | issued, ms since 1970 (8) | life, s (2)
//!   | certificates (1) | each: length (2), DER | scheme (2) | length of the signature (2), signature | the report
//! ```
//! Numbers are big-endian. What is signed begins with [`CONTEXT`], which no message of TLS does (RFC 8446 section 4.4.3), and
//! has the fabric, the host, when it was issued and for how long, and the report.
//!
//! 1. [`Record::read`] finds whose it claims to be, which is enough to pass most of them over.
//! 2. [`Stamp::check`] says whether it is of this time.
//! 3. [`Identity::verify_record`] gives the report, if that host signed it.

use crate::{
    codec::{CodecError, Reader},
    identity::Identity,
    leaf::{Leaf, LeafError},
    table::Revoked,
    tls,
};
use ripstop_config::{FabricName, HostName};
use rustls::{
    SignatureScheme,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const FORM: u8 = 2;
const CONTEXT: &[u8] = b"ripstop host record 2\0";
/// Certificates of a chain: the host's, and those between it and a CA.
const CHAIN_MAX: usize = 4;
/// Bytes of a record besides the report.
const HEAD_MAX: usize = 16 << 10;
/// Longest record, in bytes (DESIGN section 12).
pub const RECORD_MAX: usize = 64 << 10;
/// Longest report in a record, in bytes.
pub const RECORD_REPORT_MAX: usize = RECORD_MAX - HEAD_MAX;
/// Longest life that a record may claim. Whoever keeps later ones back makes an old one count for no longer.
pub const RECORD_LIFE_MAX: Duration = Duration::from_secs(120);
/// How far the clocks of two hosts may be apart. Of one that is further off nobody believes a record, and it believes nobody's;
/// what hosts say over their connections needs no clock.
pub const CLOCKS_APART_MAX: Duration = Duration::from_secs(30);

/// What a host's key may sign by, best first.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];

/// When a record was issued, which also says which of two is the later, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970, by the clock of its host; greater with each record.
    pub issued: u64,
    /// Seconds.
    pub life: u16,
}

/// Why a record is not of this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// Its life is over.
    #[error("it has expired {0:?} ago; are both clocks right?")]
    Expired(Duration),
    /// Its time is to come.
    #[error("it was issued {0:?} from now; are both clocks right?")]
    Future(Duration),
    /// It claims to be good for too long, or not at all.
    #[error("it claims to be good for {0} s")]
    Life(u16),
}

impl Stamp {
    /// A stamp of this time, or of the first after `before` if that is not earlier.
    #[must_use]
    pub fn now(life: Duration, before: Option<Self>, now: SystemTime) -> Self {
        let issued = since_1970(now).max(before.map_or(0, |before| before.issued.saturating_add(1)));
        let life = life.min(RECORD_LIFE_MAX).as_secs();
        Self { issued, life: u16::try_from(life).unwrap_or(u16::MAX) }
    }

    /// For how long it is good.
    #[must_use]
    pub fn life(self) -> Duration {
        Duration::from_secs(self.life.into())
    }

    /// How long ago it was issued, by this host's clock; nothing where that is to come.
    #[must_use]
    pub fn age(self, now: SystemTime) -> Duration {
        Duration::from_millis(since_1970(now).saturating_sub(self.issued))
    }

    /// Seconds by which the clock of its host was ahead of this one's, if it was issued just now; less than nothing where it is
    /// behind, or old.
    #[must_use]
    pub fn ahead(self, now: SystemTime) -> f64 {
        (self.issued as f64 - since_1970(now) as f64) / 1e3
    }

    /// Whether it is of this time, as far as two clocks agree.
    ///
    /// # Errors
    /// [`StampError`].
    pub fn check(self, now: SystemTime) -> Result<(), StampError> {
        if self.life == 0 || self.life() > RECORD_LIFE_MAX {
            return Err(StampError::Life(self.life));
        }
        let early = Duration::from_millis(self.issued.saturating_sub(since_1970(now)));
        if early > CLOCKS_APART_MAX {
            return Err(StampError::Future(early));
        }
        match self.age(now).checked_sub(self.life() + CLOCKS_APART_MAX) {
            Some(late) if !late.is_zero() => Err(StampError::Expired(late)),
            Some(_) | None => Ok(()),
        }
    }

    fn bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.issued.to_be_bytes());
        bytes[8..].copy_from_slice(&self.life.to_be_bytes());
        bytes
    }
}

fn since_1970(now: SystemTime) -> u64 {
    u64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Why bytes are not the record of a host of this fabric.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not a record.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The certificate is not a host's of this fabric.
    #[error("its certificate cannot be used: {0}")]
    Leaf(#[from] LeafError),
    /// Nobody vouches for the certificate, or not at this time.
    #[error("its certificate is not good: {0}")]
    Certificate(rustls::Error),
    /// The certificate is another host's.
    #[error("its certificate is that of {0}")]
    Another(HostName),
    /// The policy shuts the host or its certificate out.
    #[error("its host is shut out")]
    Revoked,
    /// The signature is not that of the certificate's key.
    #[error("its signature is not that of its host")]
    Signature,
    /// This host's own key cannot sign.
    #[error("the key of this host cannot sign a record: use an ECDSA P-256 key")]
    Key,
}

/// A record that was read; who signed it is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'r> {
    /// Whose it claims to be.
    pub host: HostName,
    /// Of when it claims to be.
    pub stamp: Stamp,
    chain: Vec<CertificateDer<'r>>,
    scheme: SignatureScheme,
    signature: &'r [u8],
    report: &'r [u8],
}

impl<'r> Record<'r> {
    /// Reads a record.
    ///
    /// # Errors
    /// [`CodecError`]: it is none.
    pub fn read(bytes: &'r [u8]) -> Result<Self, CodecError> {
        if bytes.len() > RECORD_MAX {
            return Err(CodecError::TooLong(bytes.len(), RECORD_MAX));
        }
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            FORM => {}
            form => return Err(CodecError::Version(form)),
        }
        let host = HostName::new(reader.short_text()?)?;
        let stamp = Stamp { issued: u64::from_be_bytes(reader.array()?), life: reader.number()? };
        let count = usize::from(reader.byte()?);
        if count == 0 || count > CHAIN_MAX {
            return Err(CodecError::TooLong(count, CHAIN_MAX));
        }
        let chain = (0..count).map(|_| reader.long_bytes().map(CertificateDer::from)).collect::<Result<_, _>>()?;
        let scheme = SignatureScheme::from(reader.number()?);
        let signature = reader.long_bytes()?;
        let report = reader.rest();
        if report.len() > RECORD_REPORT_MAX {
            return Err(CodecError::TooLong(report.len(), RECORD_REPORT_MAX));
        }
        Ok(Self { host, stamp, chain, scheme, signature, report })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] when it has more than any record.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let count = u8::try_from(self.chain.len()).map_err(|_| CodecError::TooLong(self.chain.len(), CHAIN_MAX))?;
        let name = self.host.as_str().as_bytes();
        let mut record = vec![FORM, u8::try_from(name.len()).map_err(|_| CodecError::TooLong(name.len(), 255))?];
        record.extend(name);
        record.extend(self.stamp.bytes());
        record.push(count);
        for certificate in &self.chain {
            put(&mut record, certificate)?;
        }
        record.extend(u16::from(self.scheme).to_be_bytes());
        put(&mut record, self.signature)?;
        record.extend(self.report);
        match record.len() {
            length if length > RECORD_MAX => Err(CodecError::TooLong(length, RECORD_MAX)),
            _ => Ok(record),
        }
    }
}

impl Identity {
    /// Makes this host's record of a report.
    ///
    /// # Errors
    /// [`RecordError::Key`], or [`CodecError::TooLong`] for a report of more than [`RECORD_REPORT_MAX`] bytes.
    pub fn sign_record(&self, stamp: Stamp, report: &[u8]) -> Result<Vec<u8>, RecordError> {
        if report.len() > RECORD_REPORT_MAX {
            return Err(CodecError::TooLong(report.len(), RECORD_REPORT_MAX).into());
        }
        let pair = self.key();
        let signer = pair.key.choose_scheme(&SCHEMES).ok_or(RecordError::Key)?;
        let message = message(self.fabric(), self.host(), stamp, report);
        let signature = signer.sign(&message).map_err(|_| RecordError::Key)?;
        let chain = pair.cert.get(..pair.cert.len().min(CHAIN_MAX)).unwrap_or_default();
        let record = Record {
            host: self.host().clone(),
            stamp,
            chain: chain.iter().map(|certificate| CertificateDer::from(&certificate[..])).collect(),
            scheme: signer.scheme(),
            signature: &signature,
            report,
        };
        Ok(record.encode()?)
    }

    /// The report in a record, if a host of this fabric signed it whom nothing shuts out. That it is the host's last is not
    /// known: whoever kept it may keep a later one back. Of what time it is, [`Stamp::check`] says.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn verify_record<'r>(&self, record: &Record<'r>, revoked: &Revoked) -> Result<&'r [u8], RecordError> {
        let leaf = self.vouched(&record.chain)?;
        if leaf.host != record.host {
            return Err(RecordError::Another(leaf.host));
        }
        if revoked.hosts.contains(&leaf.host) || revoked.certificates.contains(&leaf.id) {
            return Err(RecordError::Revoked);
        }
        let signed = message(&leaf.fabric, &leaf.host, record.stamp, record.report);
        let own = record.chain.first().ok_or(CodecError::Truncated)?;
        match is_signed(own, record.scheme, &signed, record.signature) {
            true => Ok(record.report),
            false => Err(RecordError::Signature),
        }
    }

    /// Whose certificate it is, as a CA of the fabric says at this time.
    fn vouched(&self, chain: &[CertificateDer<'_>]) -> Result<Leaf, RecordError> {
        let (own, between) = chain.split_first().ok_or(CodecError::Truncated)?;
        let parsed = ParsedCertificate::try_from(own).map_err(RecordError::Certificate)?;
        let algorithms = tls::provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, self.roots(), between, UnixTime::now(), algorithms)
            .map_err(RecordError::Certificate)?;
        Ok(Leaf::of_fabric(own, self.fabric())?)
    }
}

fn message(fabric: &FabricName, host: &HostName, stamp: Stamp, report: &[u8]) -> Vec<u8> {
    let names = [fabric.as_str().as_bytes(), b"\0", host.as_str().as_bytes(), b"\0"].concat();
    [CONTEXT, &names, &stamp.bytes(), report].concat()
}

fn put(record: &mut Vec<u8>, bytes: &[u8]) -> Result<(), CodecError> {
    let length = u16::try_from(bytes.len()).map_err(|_| CodecError::TooLong(bytes.len(), HEAD_MAX))?;
    record.extend(length.to_be_bytes());
    record.extend(bytes);
    Ok(())
}

fn is_signed(certificate: &[u8], scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let key = &parsed.public_key().subject_public_key.data;
    let known = tls::provider().signature_verification_algorithms.mapping;
    let mut fitting = known.iter().filter(|(known, _)| *known == scheme && SCHEMES.contains(known));
    // Each takes keys of its own kind alone.
    fitting.any(|(_, algorithms)| algorithms.iter().any(|one| one.verify_signature(key, message, signature).is_ok()))
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
