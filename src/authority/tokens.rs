//! The tokens that were given out: each is good once, for a time, for some names. Of its secret only a hash is kept.
//!
//! Every change is on the disk before it counts, so that no crash makes a spent token good again.

use super::{HostPattern, StoreError};
use crate::durable;
use ripstop_config::HostName;
use ripstop_transport::enrol::{Pin, Proof, SecretHash, Token, TokenId};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Tokens kept at once; spent and expired ones make room for new ones.
pub(super) const TOKENS_MAX: usize = 1_024;
/// Shortest and longest time for which a token is good.
pub(super) const LIFETIME_MIN: Duration = Duration::from_secs(1);
/// A month: longer, and it is a password that nobody remembers having given out.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// How far the clock may have gone back since a token was made, in seconds: with more of it nobody knows when it expires.
const CLOCK_SLACK: u64 = 300;

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Too many are still good.
    #[error("{TOKENS_MAX} tokens are still good; revoke some with `ripstop token revoke ID`")]
    Full,
    /// Too short or too long a time.
    #[error("a token is good for {} s to {} days", LIFETIME_MIN.as_secs(), LIFETIME_MAX.as_secs() / 86_400)]
    Lifetime,
    /// No random numbers.
    #[error(transparent)]
    Pki(#[from] ripstop_transport::pki::PkiError),
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token is not taken. Who shows no right secret is told nothing but that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// There is no such token, or its secret is another.
    #[error("the token is not known here; make one with `ripstop token create` on the host that holds the authority")]
    Unknown,
    /// It was used.
    #[error("the token was used already, by `{0}`; a token is good once: make another one")]
    Used(HostName),
    /// Its time is over.
    #[error("the token has expired; make another one")]
    Expired,
    /// It was made in the future.
    #[error(
        "the clock of the authority's host has gone back since the token was made; set the clock, or make another token"
    )]
    Clock,
    /// It is for other hosts.
    #[error("the token is for `{0}`, not for `{1}`")]
    OtherHost(HostPattern, HostName),
}

/// A token as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Its name.
    pub id: TokenId,
    hash: SecretHash,
    /// Whom it is for.
    pub hosts: HostPattern,
    /// When it was made, seconds since 1970.
    pub made: u64,
    /// When it stops being good, seconds since 1970.
    pub expires: u64,
    /// By whom it was used.
    pub used: Option<HostName>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tokens: Vec<Kept>,
}

/// The tokens, with their file.
#[derive(Debug)]
pub(super) struct Tokens {
    path: PathBuf,
    kept: Vec<Kept>,
}

/// Says that a token was found good for a host; to be spent.
#[derive(Debug)]
pub(super) struct Permit {
    /// Which token.
    pub(super) id: TokenId,
    /// The host that may join with it.
    pub(super) host: HostName,
    /// Whether the token names this very host.
    pub(super) named: bool,
}

impl Tokens {
    /// Reads the tokens; none where there is no file yet.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read, or is damaged.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(error) => return Err(StoreError::Io(path.into(), error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged(path.into(), error))?,
        };
        Ok(Self { path: path.into(), kept: file.tokens })
    }

    /// Makes a token. `now` is in seconds since 1970, here and below.
    ///
    /// # Errors
    /// [`CreateError`].
    pub(super) fn create(
        &mut self,
        pin: Pin,
        hosts: HostPattern,
        lifetime: Duration,
        now: u64,
    ) -> Result<Token, CreateError> {
        if !(LIFETIME_MIN..=LIFETIME_MAX).contains(&lifetime) {
            return Err(CreateError::Lifetime);
        }
        let mut kept = self.kept.clone();
        if kept.len() >= TOKENS_MAX {
            kept.retain(|token| token.used.is_none() && now < token.expires);
        }
        if kept.len() >= TOKENS_MAX {
            return Err(CreateError::Full);
        }
        let token = Token::generate(pin)?;
        let expires = now + lifetime.as_secs();
        kept.push(Kept { id: token.id, hash: token.hash(), hosts, made: now, expires, used: None });
        self.keep(kept)?;
        Ok(token)
    }

    /// All tokens, the newest last.
    #[must_use]
    pub(super) fn all(&self) -> &[Kept] {
        &self.kept
    }

    /// Makes a token good for nothing; `false` if there is none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn revoke(&mut self, id: TokenId) -> Result<bool, StoreError> {
        let kept: Vec<_> = self.kept.iter().filter(|token| token.id != id).cloned().collect();
        let found = kept.len() < self.kept.len();
        if found {
            self.keep(kept)?;
        }
        Ok(found)
    }

    /// Whether a token is good for a host. `named` is what who joins wants to be called, `or` what it is called anyway.
    ///
    /// # Errors
    /// [`TokenRefused`].
    pub(super) fn check(
        &self,
        proof: &Proof,
        named: Option<&HostName>,
        or: &HostName,
        now: u64,
    ) -> Result<Permit, TokenRefused> {
        let hash = proof.hash().ok_or(TokenRefused::Unknown)?;
        let found = self.kept.iter().find(|token| token.id == proof.id && token.hash == hash);
        let token = found.ok_or(TokenRefused::Unknown)?;
        if let Some(host) = &token.used {
            return Err(TokenRefused::Used(host.clone()));
        }
        if now >= token.expires {
            return Err(TokenRefused::Expired);
        }
        if now + CLOCK_SLACK < token.made {
            return Err(TokenRefused::Clock);
        }
        let exact = token.hosts.exact();
        let host = named.or(exact.as_ref()).unwrap_or(or).clone();
        if !token.hosts.matches(&host) {
            return Err(TokenRefused::OtherHost(token.hosts.clone(), host));
        }
        Ok(Permit { id: token.id, named: exact.is_some(), host })
    }

    /// Makes a token good for nothing more. It is so on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; the token may have been spent all the same.
    pub(super) fn spend(&mut self, permit: &Permit) -> Result<(), StoreError> {
        let mut kept = self.kept.clone();
        for token in kept.iter_mut().filter(|token| token.id == permit.id) {
            token.used = Some(permit.host.clone());
        }
        self.keep(kept)
    }

    fn keep(&mut self, kept: Vec<Kept>) -> Result<(), StoreError> {
        let file = File { tokens: kept };
        let bytes = serde_json::to_vec_pretty(&file).map_err(|error| StoreError::Damaged(self.path.clone(), error))?;
        durable::replace(&self.path, &bytes, 0o600).map_err(|error| StoreError::Io(self.path.clone(), error))?;
        self.kept = file.tokens;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const HOUR: Duration = Duration::from_secs(3_600);

    fn store() -> (tempfile::TempDir, Tokens) {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(&directory.path().join("tokens.json")).unwrap();
        (directory, tokens)
    }

    fn again(tokens: &Tokens) -> Tokens {
        Tokens::open(&tokens.path).unwrap()
    }

    fn make(tokens: &mut Tokens, hosts: &str) -> Token {
        tokens.create(Pin([1; 32]), hosts.parse().unwrap(), HOUR, NOW).unwrap()
    }

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    #[test]
    fn a_token_is_good_once_also_after_a_restart() {
        let (_directory, mut tokens) = store();
        let token = make(&mut tokens, "web-*");
        let permit = again(&tokens).check(&token.proof(), None, &host("web-1"), NOW).unwrap();
        assert_eq!((permit.host.as_str(), permit.named), ("web-1", false));
        tokens.spend(&permit).unwrap();
        for tokens in [&tokens, &again(&tokens)] {
            let refused = tokens.check(&token.proof(), None, &host("web-2"), NOW).unwrap_err();
            assert_eq!(refused, TokenRefused::Used(host("web-1")));
        }
    }

    #[test]
    fn a_token_is_good_for_its_hosts_and_its_time() {
        let (_directory, mut tokens) = store();
        let token = make(&mut tokens, "beta");
        let check =
            |named: Option<&str>, now| tokens.check(&token.proof(), named.map(host).as_ref(), &host("laptop"), now);
        assert_eq!(check(None, NOW).unwrap().host, host("beta"), "the token says who it is for");
        assert!(check(Some("beta"), NOW + 3_599).unwrap().named);
        assert!(matches!(check(Some("gamma"), NOW).unwrap_err(), TokenRefused::OtherHost(..)));
        assert_eq!(check(None, NOW + 3_600).unwrap_err(), TokenRefused::Expired);
        let ten_years = 10 * 365 * 86_400;
        assert_eq!(check(None, NOW - ten_years).unwrap_err(), TokenRefused::Clock);
        assert_eq!(check(None, NOW + ten_years).unwrap_err(), TokenRefused::Expired);
        assert!(check(None, NOW).is_ok(), "a clock that is right again finds it as it was");
    }

    #[test]
    fn another_secret_or_a_revoked_token_is_unknown() {
        let (_directory, mut tokens) = store();
        let (token, other) = (make(&mut tokens, "*"), make(&mut tokens, "*"));
        let forged =
            serde_json::to_string(&other.proof()).unwrap().replace(&other.id.to_string(), &token.id.to_string());
        let forged: Proof = serde_json::from_str(&forged).unwrap();
        let check = |tokens: &Tokens, proof: &Proof| tokens.check(proof, None, &host("a"), NOW).map(drop);
        assert_eq!(check(&tokens, &forged), Err(TokenRefused::Unknown));
        assert_eq!(check(&tokens, &token.proof()), Ok(()));
        assert!(tokens.revoke(token.id).unwrap() && !tokens.revoke(token.id).unwrap());
        assert_eq!(check(&again(&tokens), &token.proof()), Err(TokenRefused::Unknown));
        assert_eq!(check(&again(&tokens), &other.proof()), Ok(()));
    }

    #[test]
    fn the_file_holds_no_secret_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, mut tokens) = store();
        let token = make(&mut tokens, "*");
        let text = fs::read_to_string(&tokens.path).unwrap();
        let secret = serde_json::to_value(token.proof()).unwrap()["secret"].as_str().unwrap().to_owned();
        assert!(!text.contains(&secret) && text.contains(&token.hash().to_string()));
        assert_eq!(fs::metadata(&tokens.path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&tokens.path, "{").unwrap();
        assert!(Tokens::open(&tokens.path).unwrap_err().to_string().contains("tokens.json"));
    }

    #[test]
    fn there_are_only_so_many() {
        let (_directory, mut tokens) = store();
        let token = make(&mut tokens, "*");
        let kept = tokens.kept[0].clone();
        tokens.kept = vec![kept; TOKENS_MAX];
        let create = |tokens: &mut Tokens, now| tokens.create(Pin([1; 32]), "*".parse().unwrap(), HOUR, now);
        assert!(matches!(create(&mut tokens, NOW), Err(CreateError::Full)));
        create(&mut tokens, NOW + 3_600).unwrap();
        assert_eq!(tokens.kept.len(), 1, "expired ones made room");
        assert_ne!(tokens.kept[0].id, token.id);
        for lifetime in [Duration::ZERO, LIFETIME_MAX + LIFETIME_MIN] {
            let made = tokens.create(Pin([1; 32]), "*".parse().unwrap(), lifetime, NOW);
            assert!(matches!(made, Err(CreateError::Lifetime)));
        }
    }
}
