//! The fabric's authority: it lets hosts join, and gives them certificates that are renewed by themselves.
//!
//! 1. [`Authority::open`] takes the authority's directory: the CA, the tokens and the ledger of what was issued.
//! 2. [`Authority::join`] takes a token and a certificate request. Under one lock, the token is checked and spent, the
//!    certificate is issued and noted; of any number of hosts that show one token at once, one gets a certificate.
//! 3. [`Authority::renew`] takes the present certificate of a host, as TLS has verified it, and a request.
//!
//! Whether a host is one of the fabric is not for the authority to say but for the signed policy ([`Membership`]): who is
//! not in it, or revoked by it, is not renewed.

mod attempts;
pub mod client;
mod ledger;
pub mod listener;
mod pattern;
mod tokens;
pub mod wire;

pub use ledger::{Issued, NotRenewable, RENEWABLE_EXPIRED};
pub use pattern::{HostPattern, PatternError};
pub use tokens::{CreateError, Kept, TokenRefused};

use ledger::Ledger;
use ripstop_config::{FabricName, HostName};
use ripstop_transport::{
    CertificateId,
    enrol::{Caller, Token, TokenId},
    pki::{self, GRANTED_MAX, GRANTED_MIN, Granted, PkiError},
};
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokens::Tokens;
use zeroize::Zeroizing;

/// The authority's files in its directory.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The CA's key.
pub const CA_KEY: &str = "ca.key";
const TOKENS: &str = "tokens.json";
const LEDGER: &str = "issued.jsonl";
/// Bytes of a key file that are read: one key has 250.
const KEY_BYTES: u64 = 16 << 10;
/// Permission bits that let others than the owner at a key file.
const NOT_THE_OWNER: u32 = 0o077;

/// Why the authority's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("failed to use {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// A file is not what the authority wrote.
    #[error("{} is damaged; put it back from a backup, or move it away to begin without it", .0.display())]
    Damaged(PathBuf, #[source] serde_json::Error),
    /// Others can use the key.
    #[error("{path} can be used by others than its owner (mode {mode:04o}): run `chmod 600 {path}`", path = .0.display(), mode = .1)]
    KeyMode(PathBuf, u32),
    /// No CA in it.
    #[error("{} and {CA_KEY} are not an authority: `ripstop init` makes one", .0.display())]
    Authority(PathBuf, #[source] PkiError),
    /// Another agent of this host has it from now on.
    #[error("this host's agent is being replaced by a new one, which holds the authority; ask again")]
    Moved,
    /// A lifetime that no certificate can have.
    #[error("certificates that are renewed by themselves are valid for {} s to {} days", GRANTED_MIN.as_secs(), GRANTED_MAX.as_secs() / 86_400)]
    Lifetime,
}

/// Why a host does not get a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// The name is another host's, and the token does not name it.
    #[error("the name `{0}` was given to a host before; make a token that names it: `ripstop token create {0}`")]
    Taken(HostName),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] NotRenewable),
    /// The policy does not have the host.
    #[error("the graph does not name the host `{0}`")]
    NotNamed(HostName),
    /// The policy revokes it.
    #[error("the host `{0}` is revoked; join with a new token that names it")]
    Revoked(HostName),
    /// The request for a certificate, or the clock.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// It could not be noted.
    #[error("the authority cannot write down what it does; see its log")]
    Store(#[from] StoreError),
}

/// What the policy in force says of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// The graph names it.
    Member,
    /// The graph does not.
    Unknown,
    /// It is revoked, or the certificate is.
    Revoked,
}

/// The authority. May be used from any thread; what it does blocks on the disk.
#[derive(Debug)]
pub struct Authority {
    ca: pki::Authority,
    lifetime: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: Tokens,
    ledger: Ledger,
    /// Another process writes the files.
    moved: bool,
}

impl Authority {
    /// Opens an authority that `ripstop init` or `ripstop ca init` has made.
    ///
    /// # Errors
    /// [`StoreError`], among others when the CA's key is open to others than its owner.
    pub fn open(directory: &Path, lifetime: Duration) -> Result<Self, StoreError> {
        if !(GRANTED_MIN..=GRANTED_MAX).contains(&lifetime) {
            return Err(StoreError::Lifetime);
        }
        let (certificate, key) = (directory.join(CA_CERTIFICATE), directory.join(CA_KEY));
        let pem = fs::read_to_string(&certificate).map_err(|error| StoreError::Io(certificate.clone(), error))?;
        let secret = read_secret(&key)?;
        let ca = pki::Authority::from_pem(&pem, &secret).map_err(|error| StoreError::Authority(certificate, error))?;
        let tokens = Tokens::open(&directory.join(TOKENS))?;
        let ledger = Ledger::open(&directory.join(LEDGER), seconds(SystemTime::now()))?;
        Ok(Self { ca, lifetime, state: Mutex::new(State { tokens, ledger, moved: false }) })
    }

    /// The CA.
    #[must_use]
    pub fn ca(&self) -> &pki::Authority {
        &self.ca
    }

    /// The fabric.
    #[must_use]
    pub fn fabric(&self) -> &FabricName {
        self.ca.fabric()
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn create_token(&self, hosts: HostPattern, lifetime: Duration) -> Result<Token, CreateError> {
        self.writing()?.tokens.create(self.ca.pin(), hosts, lifetime, seconds(SystemTime::now()))
    }

    /// The tokens, the newest last.
    #[must_use]
    pub fn tokens(&self) -> Vec<Kept> {
        self.state().tokens.all().to_vec()
    }

    /// Makes a token good for nothing; `false` if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn revoke_token(&self, id: TokenId) -> Result<bool, StoreError> {
        self.writing()?.tokens.revoke(id)
    }

    /// Gives a host its first certificate for a token. A token that is a pattern is no way to a name that a certificate was
    /// issued for before, or that is revoked: the token has to name it.
    ///
    /// # Errors
    /// [`Refused`]; the token is spent only if all is well, or the disk fails.
    pub fn join(&self, ask: &wire::Join, membership: &dyn Fn(&HostName) -> Membership) -> Result<Admitted, Refused> {
        let now = SystemTime::now();
        let mut state = self.writing()?;
        let permit = state.tokens.check(&ask.token, ask.host.as_ref(), &ask.hostname, seconds(now))?;
        let host = permit.host.clone();
        let revoked = membership(&host) == Membership::Revoked;
        if !permit.named && (revoked || !state.ledger.of(&host).is_empty()) {
            return Err(Refused::Taken(host));
        }
        let granted = self.ca.grant(&host, &ask.request, self.lifetime)?;
        state.tokens.spend(&permit)?;
        note(&mut state.ledger, &host, &granted, now, format!("token {}", permit.id))?;
        Ok(Admitted { host, granted })
    }

    /// Gives a host another certificate for the one that it has.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn renew(
        &self,
        caller: &Caller,
        request: &[u8],
        membership: &dyn Fn(&HostName, &CertificateId) -> Membership,
    ) -> Result<Granted, Refused> {
        match membership(&caller.host, &caller.certificate) {
            Membership::Member => {}
            Membership::Unknown => return Err(Refused::NotNamed(caller.host.clone())),
            Membership::Revoked => return Err(Refused::Revoked(caller.host.clone())),
        }
        let mut state = self.writing()?;
        state.ledger.check(&caller.host, &caller.certificate, seconds(SystemTime::now()))?;
        self.issue(&mut state, &caller.host, request, format!("renewal of {}", caller.certificate.serial))
    }

    /// Gives the authority's own host a certificate; it holds the CA's key, and need not show anything.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn issue_own(&self, host: &HostName, request: &[u8]) -> Result<Granted, Refused> {
        self.issue(&mut *self.writing()?, host, request, "this host".into())
    }

    /// The certificates of a host that are valid now, or can still be renewed.
    #[must_use]
    pub fn certificates(&self, host: &HostName) -> Vec<Issued> {
        let alive = seconds(SystemTime::now()).saturating_sub(RENEWABLE_EXPIRED.as_secs());
        self.state().ledger.of(host).iter().filter(|issued| issued.not_after >= alive).cloned().collect()
    }

    /// Whether a certificate is known to be over for so long that nothing can come of it.
    #[must_use]
    pub fn is_over(&self, id: &CertificateId) -> bool {
        self.state().ledger.is_over(id, seconds(SystemTime::now()))
    }

    fn issue(&self, state: &mut State, host: &HostName, request: &[u8], by: String) -> Result<Granted, Refused> {
        let granted = self.ca.grant(host, request, self.lifetime)?;
        note(&mut state.ledger, host, &granted, SystemTime::now(), by)?;
        Ok(granted)
    }

    /// Another agent of this host takes the files over: nothing is given out, or written, from the return on; or again.
    pub fn hand_over(&self, moved: bool) {
        self.state().moved = moved;
    }

    fn writing(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.moved { Err(StoreError::Moved) } else { Ok(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a key file, which must be its owner's alone.
///
/// # Errors
/// [`StoreError`].
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, StoreError> {
    let failed = |error| StoreError::Io(path.into(), error);
    let file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & NOT_THE_OWNER != 0 {
        return Err(StoreError::KeyMode(path.into(), mode));
    }
    // Room from the start: a string that grows leaves copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES as usize + 1));
    file.take(KEY_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// A host that was let in.
#[derive(Debug)]
pub struct Admitted {
    /// Its name.
    pub host: HostName,
    /// Its certificate.
    pub granted: Granted,
}

fn note(
    ledger: &mut Ledger,
    host: &HostName,
    granted: &Granted,
    now: SystemTime,
    by: String,
) -> Result<(), StoreError> {
    let (at, not_after) = (seconds(now), seconds(granted.not_after));
    ledger.add(Issued { host: host.clone(), id: granted.id.clone(), at, not_after, by })
}

/// Seconds since 1970; before that it is 1970.
#[must_use]
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
