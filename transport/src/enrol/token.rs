//! What a host needs in order to join: a secret that the authority knows again, and the pin of the fabric's CA.

use super::Pin;
use crate::{pki::PkiError, tls};
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// How a token begins, so that it is known wherever it turns up.
const PREFIX: &str = "rsj1_";
/// Bytes of a token's name, of its secret, and of the pin. Nobody guesses 144 bits.
const ID: usize = 6;
const SECRET: usize = 18;
const PIN: usize = 32;

/// A token's name, by which it is listed and revoked; no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; ID]);

/// A one-time secret for joining a fabric. Its `Debug` shows nothing of the secret, which is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its name.
    pub id: TokenId,
    /// By which who joins knows the fabric.
    pub pin: Pin,
    secret: Zeroizing<[u8; SECRET]>,
}

/// What an authority keeps of a token's secret: SHA-256. The secret is random and long, so that nothing leads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

/// Why a text is no token, token's name or hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else, or a part is missing.
    #[error("it is not a whole token: copy all of it, from `{PREFIX}` on, as `ripstop token create` printed it")]
    Token,
    /// Not a token's name.
    #[error("a token's name has {} hexadecimal digits, as `ripstop token list` shows it", ID * 2)]
    Id,
    /// Not the hash of a secret.
    #[error("the hash of a token's secret has 64 hexadecimal digits")]
    Hash,
}

impl Token {
    /// Makes a token.
    ///
    /// # Errors
    /// [`PkiError::Random`].
    pub fn generate(pin: Pin) -> Result<Self, PkiError> {
        let (mut id, mut secret) = ([0; ID], Zeroizing::new([0; SECRET]));
        let random = tls::provider().secure_random;
        random.fill(&mut id).and_then(|()| random.fill(&mut *secret)).map_err(|_| PkiError::Random)?;
        Ok(Self { id: TokenId(id), pin, secret })
    }

    /// The whole token, to be given to the host that is to join, and kept nowhere.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; ID + SECRET + PIN]);
        bytes[..ID].copy_from_slice(&self.id.0);
        bytes[ID..ID + SECRET].copy_from_slice(&*self.secret);
        bytes[ID + SECRET..].copy_from_slice(&self.pin.0);
        // Room from the start: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 2));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(*bytes, &mut text);
        text
    }

    /// The token without the pin: all that the authority need be told.
    #[must_use]
    pub fn proof(&self) -> Proof {
        Proof { id: self.id, secret: URL_SAFE_NO_PAD.encode(*self.secret).into() }
    }

    /// What the authority keeps.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&*self.secret)
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Token)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Token)?);
        if bytes.len() != ID + SECRET + PIN {
            return Err(TokenError::Token);
        }
        let (mut id, mut secret, mut pin) = ([0; ID], Zeroizing::new([0; SECRET]), [0; PIN]);
        id.copy_from_slice(&bytes[..ID]);
        secret.copy_from_slice(&bytes[ID..ID + SECRET]);
        pin.copy_from_slice(&bytes[ID + SECRET..]);
        Ok(Self { id: TokenId(id), pin: Pin(pin), secret })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A token as it is shown to the authority. Its `Debug` shows nothing of the secret.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Which token.
    pub id: TokenId,
    secret: Zeroizing<String>,
}

impl Proof {
    /// The hash of the secret, to be compared with what is kept; `None` if it is none.
    #[must_use]
    pub fn hash(&self) -> Option<SecretHash> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(self.secret.as_bytes()).ok()?);
        (bytes.len() == SECRET).then(|| SecretHash::of(&bytes))
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SecretHash {
    pub(crate) fn of(secret: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
        Self(hash)
    }
}

/// Reads exactly so many bytes of lower-case hexadecimal.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != N * 2 || !text.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

macro_rules! hexadecimal {
    ($type:ident, $error:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&crate::leaf::hex(&self.0))
            }
        }

        impl FromStr for $type {
            type Err = TokenError;
            fn from_str(text: &str) -> Result<Self, TokenError> {
                from_hex(text).map(Self).ok_or($error)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hexadecimal!(TokenId, TokenError::Id);
hexadecimal!(SecretHash, TokenError::Hash);

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::generate(Pin([7; 32])).unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let (token, other) = (token(), token());
        let text = token.reveal();
        assert_eq!(text.len(), PREFIX.len() + 75);
        assert_eq!(*format!("  {}\n", *text).parse::<Token>().unwrap().reveal(), *text);
        assert_eq!(token.id.to_string().parse(), Ok(token.id));
        assert_eq!(token.hash().to_string().parse(), Ok(token.hash()));
        assert_eq!(token.proof().hash(), Some(token.hash()));
        assert_ne!(other.hash(), token.hash());
    }

    #[test]
    fn a_part_of_a_token_is_none() {
        let text = token().reveal();
        let cut = |length: usize| text[..length].parse::<Token>();
        assert!((0..text.len()).all(|length| cut(length) == Err(TokenError::Token)));
        assert_eq!(format!("{}A", *text).parse::<Token>(), Err(TokenError::Token));
        assert_eq!(text.replace(PREFIX, "rsj2_").parse::<Token>(), Err(TokenError::Token));
        assert_eq!("0123".parse::<TokenId>(), Err(TokenError::Id));
    }

    #[test]
    fn nothing_shows_the_secret() {
        let token = token();
        let secret = URL_SAFE_NO_PAD.encode(*token.secret);
        let shown = format!("{token:?} {:?} {:?} {}", token.proof(), token.hash(), token.id);
        assert!(!shown.contains(&secret) && !shown.contains(&format!("{:?}", *token.secret)), "{shown}");
    }
}
