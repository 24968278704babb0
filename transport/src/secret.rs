//! A secret that is shown once and known again: of which only a hash need be kept.

use crate::{enrol::SecretHash, pki::PkiError, tls};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of it. Nobody guesses 256 bits.
const BYTES: usize = 32;

/// Random bytes as text that fits a URL and a cookie. Its `Debug` shows nothing of it; it is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Makes one.
    ///
    /// # Errors
    /// [`PkiError::Random`].
    pub fn generate() -> Result<Self, PkiError> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        tls::provider().secure_random.fill(&mut *bytes).map_err(|_| PkiError::Random)?;
        let mut text = Zeroizing::new(String::new());
        URL_SAFE_NO_PAD.encode_string(*bytes, &mut text);
        Ok(Self(text))
    }

    /// All of it, for whom it is meant.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What need be kept to know it again.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        Self::hash_of(&self.0)
    }

    /// The hash of what somebody shows as one.
    #[must_use]
    pub fn hash_of(shown: &str) -> SecretHash {
        SecretHash::of(shown.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_again_and_not_shown() {
        let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_eq!(one.hash(), Secret::hash_of(one.reveal()));
        assert_ne!(one.hash(), other.hash());
        assert!(
            one.reveal().len() == 43 && one.reveal().bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
        );
        assert!(!format!("{one:?}").contains(one.reveal()));
    }
}
