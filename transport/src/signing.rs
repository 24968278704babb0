//! Operators' keys: Ed25519 (RFC 8032), in PEM files of PKCS #8 (RFC 8410), as `openssl genpkey -algorithm ed25519` makes
//! them too. What is signed is for others to say.

use crate::{pem, pki::PkiError};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rcgen::{KeyPair, PKCS_ED25519};
use ripstop_config::OperatorKey;
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Largest key file that is read, in bytes: one key takes 120.
const KEY_FILE_MAX: u64 = 16 * 1024;
/// Permission bits that let others than the owner at a key file.
const NOT_THE_OWNER: u32 = 0o077;

/// Why an operator's key cannot be used. Nothing of the key is ever said.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file cannot be read.
    #[error("failed to read the operator's key {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is open to others than its owner.
    #[error("the operator's key {path} can be used by others than its owner (mode {mode:04o}): run `chmod 600 {path}`")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no such key in it.
    #[error(
        "{0} holds no operator's key: it should be a PEM file with an Ed25519 key, as `ripstop operator keygen` makes it"
    )]
    NoKey(PathBuf),
    /// Cryptography failed.
    #[error("failed to make a key")]
    Make(#[from] PkiError),
}

/// An operator's private key. Its `Debug` shows the public one.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a key; the text is its PEM file, for its owner alone (mode 0600), wiped from memory when dropped.
    ///
    /// # Errors
    /// [`SigningError::Make`].
    pub fn generate() -> Result<(Self, Zeroizing<String>), SigningError> {
        let made = KeyPair::generate_for(&PKCS_ED25519).map_err(PkiError::from)?;
        let der = Zeroizing::new(made.serialize_der());
        let pem = Zeroizing::new(made.serialize_pem());
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| PkiError::Random)?;
        Ok((Self(pair), pem))
    }

    /// Reads a key file, which must be its owner's alone.
    ///
    /// # Errors
    /// [`SigningError`].
    pub fn load(path: &Path) -> Result<Self, SigningError> {
        let failed = |source| SigningError::Read { path: path.into(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & NOT_THE_OWNER != 0 {
            return Err(SigningError::Mode { path: path.into(), mode });
        }
        // Room from the start: a vector that grows leaves copies of a key behind.
        let mut pem = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX as usize + 1));
        file.take(KEY_FILE_MAX).read_to_end(&mut pem).map_err(failed)?;
        let der = pem::private_key(&pem).ok_or_else(|| SigningError::NoKey(path.into()))?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_der()).map_err(|_| SigningError::NoKey(path.into()))?;
        Ok(Self(pair))
    }

    /// The key by which others know the operator.
    #[must_use]
    pub fn public(&self) -> OperatorKey {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        OperatorKey(public)
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(message).as_ref());
        signature
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

/// Whether a signature of a message was made with the private key that belongs to `key`.
#[must_use]
pub fn verify(key: &OperatorKey, message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_key_signs_as_itself_after_it_was_written_and_read() {
        let (key, pem) = SigningKey::generate().unwrap();
        let (_directory, path) = written(&pem, 0o600);
        let read = SigningKey::load(&path).unwrap();
        assert_eq!(read.public(), key.public());
        let signature = read.sign(b"a message");
        assert!(verify(&key.public(), b"a message", &signature));
        assert!(!verify(&key.public(), b"another", &signature));
        let (other, _) = SigningKey::generate().unwrap();
        assert!(!verify(&other.public(), b"a message", &signature));
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.public().to_string()) && shown.len() < 100, "{shown}");
    }

    #[test]
    fn keys_that_openssl_made_are_read() {
        // RFC 8410 section 10.3: a key without its public half.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let (_directory, path) = written(pem, 0o400);
        let public = SigningKey::load(&path).unwrap().public().to_string();
        assert_eq!(public, "ed25519:19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1");
    }

    #[test]
    fn a_key_that_others_can_use_is_none() {
        let (_, pem) = SigningKey::generate().unwrap();
        for mode in [0o640, 0o604, 0o601, 0o660] {
            let (_directory, path) = written(&pem, mode);
            let error = SigningKey::load(&path).unwrap_err();
            assert!(matches!(error, SigningError::Mode { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().contains("chmod 600"));
        }
        for text in ["", "not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            let (_directory, path) = written(text, 0o600);
            assert!(matches!(SigningKey::load(&path), Err(SigningError::NoKey(_))), "{text}");
        }
    }
}
