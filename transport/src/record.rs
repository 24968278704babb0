//! Records: what a host says of itself, signed with the key of its certificate, so that others may hand it on. Between
//! connected hosts the connection says as much; what lies with a third party has to say it itself.
//!
//! ```text
//! form (1) | certificates (1) | each: length (2), DER | scheme (2) | length of the signature (2), signature | the report
//! ```
//! What is signed begins with [`CONTEXT`], which no message of TLS does (RFC 8446 section 4.4.3), and names fabric and host.

use crate::{
    codec::{CodecError, Reader},
    identity::Identity,
    leaf::{Leaf, LeafError},
    report::REPORT_MAX,
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

const FORM: u8 = 1;
const CONTEXT: &[u8] = b"ripstop host record 1\0";
/// Certificates of a chain: the host's, and those between it and a CA.
const CHAIN_MAX: usize = 4;
/// Bytes of a record besides the report.
const HEAD_MAX: usize = 16 << 10;
/// Longest record, in bytes.
pub const RECORD_MAX: usize = REPORT_MAX + HEAD_MAX;

/// What a host's key may sign by, best first.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];

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

impl Identity {
    /// Makes this host's record of a report.
    ///
    /// # Errors
    /// [`RecordError::Key`], or [`CodecError::TooLong`] for a report of more than [`REPORT_MAX`] bytes.
    pub fn sign_record(&self, report: &[u8]) -> Result<Vec<u8>, RecordError> {
        if report.len() > REPORT_MAX {
            return Err(CodecError::TooLong(report.len(), REPORT_MAX).into());
        }
        let pair = self.key();
        let signer = pair.key.choose_scheme(&SCHEMES).ok_or(RecordError::Key)?;
        let signature = signer.sign(&message(self.fabric(), self.host(), report)).map_err(|_| RecordError::Key)?;
        let chain = pair.cert.get(..pair.cert.len().min(CHAIN_MAX)).unwrap_or_default();
        let count = u8::try_from(chain.len()).map_err(|_| RecordError::Key)?;
        let mut record = vec![FORM, count];
        for certificate in chain {
            put(&mut record, certificate)?;
        }
        record.extend(u16::from(signer.scheme()).to_be_bytes());
        put(&mut record, &signature)?;
        match record.len() {
            head if head > HEAD_MAX => Err(CodecError::TooLong(head, HEAD_MAX).into()),
            _ => Ok([&record, report].concat()),
        }
    }

    /// The report in a record of a host of this fabric, whose key signed it and whom nothing shuts out. That it is
    /// the host's last is not known: whoever kept it may keep a later one back.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open_record<'r>(&self, record: &'r [u8], revoked: &Revoked) -> Result<(HostName, &'r [u8]), RecordError> {
        if record.len() > RECORD_MAX {
            return Err(CodecError::TooLong(record.len(), RECORD_MAX).into());
        }
        let mut reader = Reader::new(record);
        match reader.byte()? {
            FORM => {}
            form => return Err(CodecError::Version(form).into()),
        }
        let count = usize::from(reader.byte()?);
        if count == 0 || count > CHAIN_MAX {
            return Err(CodecError::TooLong(count, CHAIN_MAX).into());
        }
        let chain = (0..count).map(|_| reader.long_bytes().map(CertificateDer::from)).collect::<Result<Vec<_>, _>>()?;
        let scheme = SignatureScheme::from(reader.number()?);
        let signature = reader.long_bytes()?;
        let report = reader.rest();
        let leaf = self.vouched(&chain)?;
        if revoked.hosts.contains(&leaf.host) || revoked.certificates.contains(&leaf.id) {
            return Err(RecordError::Revoked);
        }
        let signed = message(&leaf.fabric, &leaf.host, report);
        if !is_signed(&chain[0], scheme, &signed, signature) {
            return Err(RecordError::Signature);
        }
        Ok((leaf.host, report))
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

fn message(fabric: &FabricName, host: &HostName, report: &[u8]) -> Vec<u8> {
    [CONTEXT, fabric.as_str().as_bytes(), b"\0", host.as_str().as_bytes(), b"\0", report].concat()
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
mod tests {
    use super::*;
    use crate::pki;
    use proptest::prelude::*;
    use std::{path::Path, sync::LazyLock};

    fn identities(directory: &Path) -> [Identity; 3] {
        let fabric: FabricName = "lab.test".parse().unwrap();
        let authority = pki::Authority::create(&fabric).unwrap();
        let other = pki::Authority::create(&fabric).unwrap();
        let load = |authority: &pki::Authority, name: &str, place: &str| {
            let at = |file: &str| directory.join(format!("{place}-{file}"));
            let issued = authority.issue_host(&HostName::new(name).unwrap(), pki::HOST_VALIDITY_MIN).unwrap();
            std::fs::write(at("ca"), authority.certificate_pem()).unwrap();
            std::fs::write(at("pem"), &issued.certificate_pem).unwrap();
            std::fs::write(at("key"), issued.key_pem.as_bytes()).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(at("key"), mode).unwrap();
            Identity::load(&at("pem"), &at("key"), &at("ca")).unwrap()
        };
        [load(&authority, "alpha", "a"), load(&authority, "beta", "b"), load(&other, "alpha", "c")]
    }

    static ALL: LazyLock<[Identity; 3]> = LazyLock::new(|| identities(tempfile::tempdir().unwrap().path()));

    #[test]
    fn a_record_is_believed_of_the_host_that_signed_it_alone() {
        let [alpha, beta, stranger] = &*ALL;
        let nobody = Revoked::default();
        let record = alpha.sign_record(b"hello").unwrap();
        let (host, report) = beta.open_record(&record, &nobody).unwrap();
        assert_eq!((host.as_str(), report), ("alpha", &b"hello"[..]));
        let foreign = stranger.sign_record(b"hello").unwrap();
        assert!(matches!(beta.open_record(&foreign, &nobody), Err(RecordError::Certificate(_))));
        let shut_out = Revoked { hosts: [alpha.host().clone()].into(), ..Revoked::default() };
        assert!(matches!(beta.open_record(&record, &shut_out), Err(RecordError::Revoked)));
        let old = Revoked { certificates: [alpha.certificate().clone()].into(), ..Revoked::default() };
        assert!(matches!(beta.open_record(&record, &old), Err(RecordError::Revoked)));
        assert!(alpha.sign_record(&vec![0; REPORT_MAX + 1]).is_err());
        assert!(beta.open_record(&vec![FORM; RECORD_MAX + 1], &nobody).is_err());
    }

    #[test]
    fn no_byte_of_it_can_be_another() {
        let [alpha, beta, _] = &*ALL;
        let record = alpha.sign_record(b"hello").unwrap();
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            assert!(beta.open_record(&changed, &Revoked::default()).is_err(), "byte {at}");
            assert!(beta.open_record(&record[..at], &Revoked::default()).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn bytes_do_not_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [&[FORM, 1][..], &bytes].concat();
            prop_assert!(ALL[0].open_record(&bytes, &Revoked::default()).is_err());
        }
    }
}
