//! The bytes of a bundle.
//!
//! ```text
//! "RSPB" | u8 form = 1 | u32 length of what was signed | what was signed
//! | u8 number of signatures | for each: 32 public key | 64 signature (Ed25519, RFC 8032)
//!
//! what was signed: u8 length, fabric | u64 epoch | u64 counter | u32 length of the content | content, deflated (RFC 1951)
//! ```
//! Numbers are big-endian. A signature is over the words [`DOMAIN`] and SHA-256 of what was signed: no other thing that the
//! same key signs can be taken for a policy, and a large bundle with many bad signatures is read through once.

use super::{BundleError, BundleId, Content, ContentError};
use miniz_oxide::{deflate, inflate};
use ripstop_config::{FabricName, OperatorKey, PolicyVersion};
use sha2::{Digest, Sha256};

/// Largest bundle, in bytes (DESIGN section 12).
pub const BUNDLE_MAX: usize = 16 << 20;
/// Largest content, in bytes, when it is decompressed.
pub const CONTENT_MAX: usize = 16 << 20;
/// Signatures of a bundle at most: one of each operator that a fabric can have.
pub const SIGNATURES_MAX: usize = ripstop_config::operators::OPERATORS_MAX;

const FORM: u8 = 1;
/// What every signature begins with.
const DOMAIN: &[u8] = b"ripstop policy bundle, form 1\0";
/// How hard to compress: YAML gets little smaller with more.
const EFFORT: u8 = 6;

/// An operator's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) key: OperatorKey,
    pub(super) bytes: [u8; 64],
}

/// A bundle whose signatures nobody has verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    fabric: FabricName,
    version: PolicyVersion,
    signed: Vec<u8>,
    /// Where in `signed` the compressed content begins.
    body: usize,
    /// How long it says that its content is.
    length: usize,
    signatures: Vec<Signature>,
}

impl Envelope {
    /// What every bundle begins with.
    pub const MAGIC: &[u8; 4] = b"RSPB";

    /// Packs a content for signing.
    ///
    /// # Errors
    /// [`BundleError`] when it is too large, or says what a content cannot.
    pub fn seal(fabric: &FabricName, version: PolicyVersion, content: &Content) -> Result<Self, BundleError> {
        content.check()?;
        let text = content.to_text()?;
        if text.len() > CONTENT_MAX {
            return Err(ContentError::TooLarge(text.len()).into());
        }
        let mut signed = Vec::new();
        // A fabric's name has at most 120 characters, and the content was measured.
        signed.push(fabric.as_str().len() as u8);
        signed.extend_from_slice(fabric.as_str().as_bytes());
        signed.extend_from_slice(&version.epoch.to_be_bytes());
        signed.extend_from_slice(&version.counter.to_be_bytes());
        signed.extend_from_slice(&(text.len() as u32).to_be_bytes());
        let body = signed.len();
        signed.extend_from_slice(&deflate::compress_to_vec(&text, EFFORT));
        let envelope =
            Self { fabric: fabric.clone(), version, signed, body, length: text.len(), signatures: Vec::new() };
        if envelope.encode().len() + SIGNATURES_MAX * (32 + 64) > BUNDLE_MAX {
            return Err(BundleError::TooLarge);
        }
        Ok(envelope)
    }

    /// What an operator signs.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        [DOMAIN, &Sha256::digest(&self.signed)].concat()
    }

    /// Adds a signature, in place of an earlier one with the same key.
    ///
    /// # Errors
    /// [`BundleError::Full`].
    pub fn sign(&mut self, key: OperatorKey, signature: [u8; 64]) -> Result<(), BundleError> {
        self.signatures.retain(|one| one.key != key);
        if self.signatures.len() >= SIGNATURES_MAX {
            return Err(BundleError::Full);
        }
        self.signatures.push(Signature { key, bytes: signature });
        Ok(())
    }

    /// Which bundle it says that it is.
    #[must_use]
    pub fn id(&self) -> BundleId {
        let digest = Sha256::digest(&self.signed);
        BundleId { version: self.version, digest: std::array::from_fn(|at| digest[at]) }
    }

    /// The fabric that it says it is of.
    #[must_use]
    pub fn fabric(&self) -> &FabricName {
        &self.fabric
    }

    pub(super) fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.signed.len() + 16 + self.signatures.len() * 96);
        out.extend_from_slice(Self::MAGIC);
        out.push(FORM);
        out.extend_from_slice(&u32::try_from(self.signed.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&self.signed);
        // Bounded by `sign` and by `decode`.
        out.push(self.signatures.len() as u8);
        for one in &self.signatures {
            out.extend_from_slice(&one.key.0);
            out.extend_from_slice(&one.bytes);
        }
        out
    }

    /// Reads the outside of a bundle; nothing in it is to be believed yet.
    ///
    /// # Errors
    /// [`BundleError`] for anything but exactly one well-formed envelope.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_MAX {
            return Err(BundleError::TooLarge);
        }
        let mut from = Reader(bytes);
        if from.array::<4>()? != *Self::MAGIC {
            return Err(BundleError::Malformed("it does not begin as one"));
        }
        match from.array::<1>()? {
            [FORM] => {}
            [other] => return Err(BundleError::Form(other)),
        }
        let signed = from.counted()?.to_vec();
        let signatures = signatures(&mut from)?;
        from.end()?;
        let mut from = Reader(&signed);
        let [length] = from.array()?;
        let name = std::str::from_utf8(from.slice(length.into())?).ok().and_then(|name| FabricName::new(name).ok());
        let fabric = name.ok_or(BundleError::Malformed("the fabric's name is none"))?;
        let version =
            PolicyVersion { epoch: u64::from_be_bytes(from.array()?), counter: u64::from_be_bytes(from.array()?) };
        if version == PolicyVersion::UNSIGNED {
            return Err(BundleError::Malformed("it has no version"));
        }
        let length = u32::from_be_bytes(from.array()?) as usize;
        let body = signed.len() - from.0.len();
        Ok(Self { fabric, version, signed, body, length, signatures })
    }

    /// What is to be signed, for an operator who is asked to. Nobody has vouched for it.
    ///
    /// # Errors
    /// [`ContentError`] when it cannot be read.
    pub fn look(&self) -> Result<Content, ContentError> {
        self.content()
    }

    /// Decompresses and reads what was signed. For verified bundles alone.
    pub(super) fn content(&self) -> Result<Content, ContentError> {
        if self.length > CONTENT_MAX {
            return Err(ContentError::TooLarge(self.length));
        }
        let text = inflate::decompress_to_vec_with_limit(&self.signed[self.body..], self.length);
        let text = text.ok().filter(|text| text.len() == self.length).ok_or(ContentError::Compression)?;
        Content::from_text(&text)
    }
}

fn signatures(from: &mut Reader<'_>) -> Result<Vec<Signature>, BundleError> {
    let [count] = from.array()?;
    if usize::from(count) > SIGNATURES_MAX {
        return Err(BundleError::Malformed("it has too many signatures"));
    }
    let mut found: Vec<Signature> = Vec::with_capacity(count.into());
    for _ in 0..count {
        let one = Signature { key: OperatorKey(from.array()?), bytes: from.array()? };
        // Each costs a verification.
        if found.iter().any(|other| other.key == one.key) {
            return Err(BundleError::Malformed("one key signed it twice"));
        }
        found.push(one);
    }
    Ok(found)
}

/// Takes fields from the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&mut self, length: usize) -> Result<&'a [u8], BundleError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(BundleError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BundleError> {
        let slice = self.slice(N)?;
        Ok(std::array::from_fn(|at| slice[at]))
    }

    fn counted(&mut self) -> Result<&'a [u8], BundleError> {
        let length = u32::from_be_bytes(self.array()?);
        self.slice(length as usize)
    }

    fn end(&self) -> Result<(), BundleError> {
        if self.0.is_empty() { Ok(()) } else { Err(BundleError::Malformed("bytes are left over at its end")) }
    }
}

#[cfg(test)]
impl Envelope {
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        self.signed.clone()
    }

    /// What no honest operator signs: another length than the content has.
    pub(super) fn replace_body(&mut self, length: u32, deflated: &[u8]) {
        self.signed.truncate(self.body - 4);
        self.signed.extend_from_slice(&length.to_be_bytes());
        self.signed.extend_from_slice(deflated);
        self.length = length as usize;
    }
}
