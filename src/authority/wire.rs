//! What a host that joins or renews says to the authority, and what it is answered: JSON over HTTP/1.1 in TLS.
//!
//! | request | who | answer |
//! |---|---|---|
//! | `POST /v1/join` [`Join`] | anyone with a token | [`Welcome`] |
//! | `POST /v1/renew` [`Renew`] | a host, by its certificate | [`Renewed`] |
//!
//! An answer that is not 200 is `{"error": "..."}`.

use ripstop_config::{FabricName, HostName};
use ripstop_transport::enrol::Proof;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Bytes of a request at most: a certificate request and some names take 1 KiB.
pub const REQUEST_MAX: usize = 16 << 10;
/// Bytes of an answer at most: a policy bundle of 16 MiB in base64, and the rest.
pub const ANSWER_MAX: usize = 24 << 20;

/// A host that is to join.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// What lets it.
    pub token: Proof,
    /// What it wants to be called; `None` for what the token says, or else its [`Join::hostname`].
    pub host: Option<HostName>,
    /// What the machine is called.
    pub hostname: HostName,
    /// Where its agent will listen.
    pub address: Option<SocketAddr>,
    /// Its certificate request, DER.
    #[serde(with = "base64_bytes")]
    pub request: Vec<u8>,
}

/// All that a host needs to be one of the fabric.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The fabric.
    pub fabric: FabricName,
    /// The host's name.
    pub host: HostName,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The CA's certificate, PEM.
    pub ca: String,
    /// The file of the operators whose signature makes a policy.
    pub operators: String,
    /// The policy in force; empty if there is none.
    #[serde(with = "base64_bytes")]
    pub bundle: Vec<u8>,
    /// What is still to be done by an operator, for people.
    pub missing: Option<String>,
}

/// A host that needs another certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// The certificate request, DER.
    #[serde(with = "base64_bytes")]
    pub request: Vec<u8>,
}

/// Its new certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Renewed {
    /// PEM.
    pub certificate: String,
}

mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(|_| D::Error::custom("it is not base64"))
    }
}
