//! What operators sign.

use super::{BundleId, CONTENT_MAX};
use crate::{Addresses, CompileError, Policy, compile_after};
use ripstop_config::{Diagnostics, FabricName, Graph, HostName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Longest name of a graph's file, in bytes.
const FILE_MAX: usize = 256;
/// Longest word on who made it, when, and for what, in bytes each.
const NOTE_MAX: usize = 512;
/// Hosts, and certificates, that a policy shuts out at most: expired ones need not be kept.
pub const REVOKED_MAX: usize = 65_536;
/// Tests that do not hold, shown at once.
const BROKEN_MAX: usize = 100;
/// Hexadecimal digits of a serial number at most: 20 octets (RFC 5280 section 4.1.2.2).
const SERIAL_MAX: usize = 40;
/// Hexadecimal digits of an issuer: SHA-256.
const ISSUER: usize = 64;

/// All that must be the same on every host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The graph's file, as messages name it.
    pub file: String,
    /// The graph as its operator wrote it, so that lines in messages are those of the file.
    pub graph: String,
    /// The addresses of its names.
    pub addresses: Addresses,
    /// Who is shut out.
    #[serde(default)]
    pub revoked: Revoked,
    /// The policy that it was made to replace. A host that has an older one gets that first, where operators who are limited to
    /// tenants signed this one.
    #[serde(default)]
    pub before: Option<BundleId>,
    /// The number of a policy that is only to be tried ([`StageId`](super::StageId)); none of one that is to be put in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<u64>,
    /// When it was made, RFC 3339, for people; nothing depends on it.
    pub made: String,
    /// What it was made for, for people.
    pub note: String,
}

/// Hosts and certificates that are shut out, whatever else speaks for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Hosts, with every certificate that they have.
    pub hosts: BTreeSet<HostName>,
    /// Certificates, by issuer and serial number.
    pub certificates: BTreeSet<RevokedCertificate>,
}

/// A certificate that is not to be accepted any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedCertificate {
    /// SHA-256 over the issuer's distinguished name in DER, lower-case hexadecimal.
    pub issuer: String,
    /// The serial number, lower-case hexadecimal, two digits for each octet of it as it is encoded.
    pub serial: String,
}

/// Why a content is none, or makes no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// It cannot be decompressed to the length that it says.
    #[error("it is not compressed as it says")]
    Compression,
    /// Larger than a policy may be.
    #[error("the graph with its addresses has {0} bytes, more than {max} MiB", max = CONTENT_MAX >> 20)]
    TooLarge(usize),
    /// It is no JSON of the right form.
    #[error("{0}")]
    Form(String),
    /// A field says what it cannot.
    #[error("`{0}` is too long, or has characters that it cannot have")]
    Field(&'static str),
    /// The graph has mistakes.
    #[error("the graph has mistakes\n\n{0}")]
    Graph(Diagnostics),
    /// The graph is of another fabric.
    #[error("the graph is of the fabric `{0}`, not of `{1}`")]
    Fabric(FabricName, FabricName),
    /// The graph does not do what its own tests say.
    #[error("the graph does not hold its own tests\n\n{0}")]
    Tests(String),
    /// The graph cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

impl Content {
    /// A content for a graph, with the addresses that its names have after those of `carried`. Its own tests must hold.
    ///
    /// # Errors
    /// What is wrong with the graph.
    pub fn of(fabric: &FabricName, file: &str, graph: &str, carried: &Addresses) -> Result<Self, ContentError> {
        let content = Self { file: file.into(), graph: graph.into(), addresses: carried.clone(), ..Self::default() };
        let policy = content.compile(fabric)?;
        let broken: Vec<String> =
            policy.tests().filter(|tested| !tested.holds()).take(BROKEN_MAX).map(|tested| tested.to_string()).collect();
        if !broken.is_empty() {
            return Err(ContentError::Tests(broken.join("\n")));
        }
        Ok(Self { addresses: policy.addresses(), ..content })
    }

    /// The policy.
    pub(super) fn compile(&self, fabric: &FabricName) -> Result<Policy, ContentError> {
        let graph = Graph::parse(&self.file, &self.graph).map_err(ContentError::Graph)?;
        if graph.fabric != *fabric {
            return Err(ContentError::Fabric(graph.fabric, fabric.clone()));
        }
        Ok(compile_after(graph, &self.addresses)?)
    }

    /// Whether the fields for people are fit to be shown, and lists are within their limits.
    pub(super) fn check(&self) -> Result<(), ContentError> {
        let texts = [("file", &self.file, FILE_MAX), ("made", &self.made, NOTE_MAX), ("note", &self.note, NOTE_MAX)];
        for (name, text, most) in texts {
            if text.len() > most || text.chars().any(char::is_control) {
                return Err(ContentError::Field(name));
            }
        }
        self.revoked.check()
    }

    pub(super) fn to_text(&self) -> Result<Vec<u8>, ContentError> {
        serde_json::to_vec(self).map_err(|error| ContentError::Form(error.to_string()))
    }

    pub(super) fn from_text(text: &[u8]) -> Result<Self, ContentError> {
        let content: Self = serde_json::from_slice(text).map_err(|error| ContentError::Form(error.to_string()))?;
        content.check()?;
        Ok(content)
    }
}

impl Revoked {
    /// Nobody is shut out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.certificates.is_empty()
    }

    fn check(&self) -> Result<(), ContentError> {
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let fits = |one: &RevokedCertificate| {
            let (issuer, serial) = (one.issuer.len(), one.serial.len());
            issuer == ISSUER && (2..=SERIAL_MAX).contains(&serial) && hex(&one.issuer) && hex(&one.serial)
        };
        if self.hosts.len() > REVOKED_MAX {
            return Err(ContentError::Field("revoked.hosts"));
        }
        if self.certificates.len() > REVOKED_MAX || !self.certificates.iter().all(fits) {
            return Err(ContentError::Field("revoked.certificates"));
        }
        Ok(())
    }
}
