//! Signed policies: a graph as its operator wrote it, with what must be the same on every host, under the signatures of
//! enough operators.
//!
//! 1. [`Content`] is what is signed; [`Envelope::seal`] packs it, and [`Envelope::sign`] adds an operator's signature.
//! 2. [`Bundle::open`] takes the bytes from whoever hands them on. Signatures are verified over the bytes as they came,
//!    before anything in them is decompressed or parsed: nobody but an operator reaches the parser.
//! 3. [`Bundle::check_roles`] holds it against the policy that it replaces: who is limited to tenants changes nothing else.
//! 4. [`Bundle::compile`] makes the policy.
//!
//! What verifies a signature is handed in: nothing here depends on a cryptographic library.

mod content;
mod envelope;
mod roles;
mod stage;

pub use content::{Content, ContentError, REVOKED_MAX, Revoked, RevokedCertificate};
pub use envelope::{BUNDLE_MAX, CONTENT_MAX, Envelope, SIGNATURES_MAX};
pub use roles::RoleError;
pub use stage::StageId;

use crate::Policy;
use envelope::Signature;
use ripstop_config::{FabricName, OperatorKey, OperatorName, Operators, PolicyVersion};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Says whether a signature of a message was made with a key (Ed25519, RFC 8032 section 5.1.7).
pub type Verify = dyn Fn(&OperatorKey, &[u8], &[u8; 64]) -> bool + Send + Sync;

/// Which bundle it is. Of two with one version, as when two operators apply at once, the greater one wins everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct BundleId {
    /// Its version.
    pub version: PolicyVersion,
    /// The first bytes of SHA-256 over what was signed.
    pub digest: [u8; 8],
}

/// Why bytes are not a policy of this fabric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Larger than any policy may be.
    #[error("it has more than {} MiB", BUNDLE_MAX >> 20)]
    TooLarge,
    /// Not a bundle, or damaged.
    #[error("it is no policy bundle, or is damaged: {0}")]
    Malformed(&'static str),
    /// A form that this agent does not know.
    #[error("it has the form {0}, which this version of ripstop does not know: upgrade this host")]
    Form(u8),
    /// Of another fabric.
    #[error("it is of the fabric `{0}`, not of `{1}`")]
    Fabric(FabricName, FabricName),
    /// Too few operators signed it.
    #[error("it has {found} of the {need} signatures that are needed, of operators that are trusted here")]
    Signatures {
        /// Valid ones, of different operators.
        found: usize,
        /// How many there must be.
        need: usize,
    },
    /// No room for another signature.
    #[error("it has {SIGNATURES_MAX} signatures already")]
    Full,
    /// It was signed to be tried, not to be put in force.
    #[error("it was staged, and is not to be put in force: `ripstop stage commit` has it signed for that")]
    Staged,
    /// It was signed to be put in force, not to be tried.
    #[error("it is a policy to be put in force, and was not staged")]
    NotStaged,
    /// What was signed cannot be read here.
    #[error("what was signed cannot be read: {0}")]
    Content(#[from] ContentError),
}

/// A signed policy, verified. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bundle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: BundleId,
    fabric: FabricName,
    content: Content,
    signers: BTreeSet<OperatorName>,
    bytes: Arc<[u8]>,
}

impl Bundle {
    /// Verifies a bundle of a fabric: enough operators must have signed exactly these bytes.
    ///
    /// # Errors
    /// [`BundleError`], also for one that is only staged.
    pub fn open(
        bytes: &[u8],
        fabric: &FabricName,
        operators: &Operators,
        verify: &Verify,
    ) -> Result<Self, BundleError> {
        let bundle = Self::read(bytes, fabric, operators, operators.need.max(1), verify)?;
        if bundle.content().staged.is_none() { Ok(bundle) } else { Err(BundleError::Staged) }
    }

    fn read(
        bytes: &[u8],
        fabric: &FabricName,
        operators: &Operators,
        need: usize,
        verify: &Verify,
    ) -> Result<Self, BundleError> {
        let envelope = Envelope::decode(bytes)?;
        if envelope.fabric() != fabric {
            return Err(BundleError::Fabric(envelope.fabric().clone(), fabric.clone()));
        }
        let signers = envelope.signers(operators, verify);
        if signers.len() < need {
            return Err(BundleError::Signatures { found: signers.len(), need });
        }
        let content = envelope.content()?;
        let (id, fabric) = (envelope.id(), fabric.clone());
        Ok(Self(Arc::new(Inner { id, fabric, content, signers, bytes: bytes.into() })))
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> BundleId {
        self.0.id
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> PolicyVersion {
        self.0.id.version
    }

    /// The fabric that it is of.
    #[must_use]
    pub fn fabric(&self) -> &FabricName {
        &self.0.fabric
    }

    /// What was signed.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.0.content
    }

    /// The operators whose signatures it has.
    #[must_use]
    pub fn signers(&self) -> &BTreeSet<OperatorName> {
        &self.0.signers
    }

    /// Its bytes, to be handed on as they came.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0.bytes
    }

    /// The policy.
    ///
    /// # Errors
    /// What is wrong with the graph.
    pub fn compile(&self) -> Result<Policy, ContentError> {
        let mut policy = self.content().compile(self.fabric())?;
        policy.id = self.id();
        policy.revoked = self.content().revoked.clone();
        Ok(policy)
    }
}

impl Envelope {
    /// The operators of whom it has a valid signature.
    fn signers(&self, operators: &Operators, verify: &Verify) -> BTreeSet<OperatorName> {
        let message = self.message();
        let valid = |one: &&Signature| operators.name_of(&one.key).is_some() && verify(&one.key, &message, &one.bytes);
        self.signatures().iter().filter(valid).filter_map(|one| operators.name_of(&one.key)).cloned().collect()
    }
}

impl BundleId {
    /// Nobody signed it: the policy is a file of its host, or the host has none.
    #[must_use]
    pub fn is_unsigned(&self) -> bool {
        self.version == PolicyVersion::UNSIGNED
    }

    /// Bytes of [`BundleId::encode`].
    pub const LENGTH: usize = 24;

    /// As it travels: epoch, counter, digest, numbers big-endian.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut out = [0; Self::LENGTH];
        out[..8].copy_from_slice(&self.version.epoch.to_be_bytes());
        out[8..16].copy_from_slice(&self.version.counter.to_be_bytes());
        out[16..].copy_from_slice(&self.digest);
        out
    }

    /// Reads what [`BundleId::encode`] wrote; `None` for anything of another length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let version = PolicyVersion { epoch: number(0), counter: number(8) };
        Some(Self { version, digest: std::array::from_fn(|at| bytes[16 + at]) })
    }
}

/// `1.17-00c0ffee00c0ffee`.
impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.version)?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for BundleId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "write EPOCH.COUNTER-DIGEST";
        let (version, digits) = text.split_once('-').ok_or(WRONG)?;
        let version = version.parse().map_err(|_| WRONG)?;
        if digits.len() != 16 || !digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return Err(WRONG);
        }
        let number = u64::from_str_radix(digits, 16).map_err(|_| WRONG)?;
        Ok(Self { version, digest: number.to_be_bytes() })
    }
}

impl serde::Serialize for BundleId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for BundleId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod roles_tests;
#[cfg(test)]
mod tests;
