//! One authority and a certificate for each host, for those peers that take them: ECDSA P-256, as the fabric has it.

use crate::common::{bed::HOSTS, lab::Lab};
use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use sha2::{Digest, Sha256};
use std::fs;

/// The files of a lab, which all hosts see at the same paths.
pub struct Keys {
    /// The authority's certificate.
    pub authority: String,
    hosts: [Host; 2],
}

/// A host's files.
pub struct Host {
    pub certificate: String,
    pub key: String,
    /// Both in one, as haproxy wants it.
    pub both: String,
    /// SHA-256 of the certificate, in hex.
    pub fingerprint: String,
}

impl Keys {
    /// Makes them for a lab.
    pub fn make(lab: &Lab) -> anyhow::Result<Self> {
        let write = |name: &str, text: &str| {
            let path = lab.path(name);
            fs::write(&path, text).with_context(|| format!("failed to write {path}"))?;
            anyhow::Ok(path)
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "comparison");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let host = |name: &str| {
            let mut params = CertificateParams::new([name.to_owned(), lab.host_address(name).to_string()])?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?;
            let (pem, key) = (certificate.pem(), key.serialize_pem());
            let hash = Sha256::digest(certificate.der());
            anyhow::Ok(Host {
                certificate: write(&format!("{name}.pem"), &pem)?,
                key: write(&format!("{name}.key"), &key)?,
                both: write(&format!("{name}-both.pem"), &format!("{pem}{key}"))?,
                fingerprint: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            })
        };
        let [alpha, beta] = HOSTS;
        Ok(Self { authority: write("authority.pem", &issuer.pem())?, hosts: [host(alpha)?, host(beta)?] })
    }

    /// The files of a host.
    pub fn of(&self, host: &str) -> &Host {
        &self.hosts[super::number(host) - 1]
    }
}
