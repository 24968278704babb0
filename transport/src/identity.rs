//! A host's own identity: its certificate chain, its key and the CA certificates that it trusts.

mod svid;

pub use svid::SvidError;

use crate::{
    generations::GENERATIONS,
    leaf::{CertificateId, Leaf, LeafError},
    pem, tls,
};
use aws_lc_rs::{hkdf, hmac};
use ripstop_config::{FabricName, HostName};
use rustls::{
    CertificateError, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use std::{
    fmt, fs, io,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use zeroize::Zeroizing;

/// Largest PEM file that is read: hundreds of certificates, and far below what could hurt.
const PEM_MAX: u64 = 256 * 1024;
/// Bytes of the endpoint's secret.
const SECRET: usize = 32;
/// Permission bits that let others than the owner at a key file.
const NOT_THE_OWNER: u32 = 0o077;

/// Why an identity cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is larger than any PEM file should be.
    #[error("{0} is larger than {PEM_MAX} bytes: is it the right file?")]
    TooLarge(PathBuf),
    /// The key file is open to others than its owner.
    #[error("the key file {path} can be used by others than its owner (mode {mode:04o}): run `chmod 600 {path}`")]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file has no certificate in it.
    #[error("{0} holds no certificate: it should be a PEM file with `-----BEGIN CERTIFICATE-----`")]
    NoCertificate(PathBuf),
    /// A file has no key in it.
    #[error("{0} holds no private key: it should be a PEM file with `-----BEGIN PRIVATE KEY-----`")]
    NoKey(PathBuf),
    /// The key is of a kind that is not supported.
    #[error("the key in {path} cannot be used ({why}): use an ECDSA P-256 key")]
    Key {
        /// The key file.
        path: PathBuf,
        /// What the cryptography library said; never anything of the key.
        why: String,
    },
    /// The certificate is not a host's.
    #[error("the certificate in {path} cannot be used: {why}")]
    Leaf {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        why: LeafError,
    },
    /// The key is not the certificate's.
    #[error("{key} is not the key of the certificate in {certificate}: they must be issued together")]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate's time is over.
    #[error(
        "the certificate in {path} of host `{host}` has expired: issue a new one with `ripstop ca issue host {host}`"
    )]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// The host that it is of.
        host: HostName,
    },
    /// The certificate's time has not come.
    #[error("the certificate in {0} is not valid yet: check this machine's clock")]
    NotYetValid(PathBuf),
    /// Another CA signed the certificate.
    #[error("the certificate in {certificate} is not signed by a CA in {ca} ({why}): are both of the same fabric?")]
    NotSigned {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA certificates' file.
        ca: PathBuf,
        /// What the verification said.
        why: String,
    },
    /// A CA certificate cannot be trusted.
    #[error("a certificate in {path} cannot be used as a CA: {why}")]
    Authority {
        /// The CA certificates' file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Keys of the QUIC endpoint that must be the same after a restart: with them an agent recognises packets of connections
/// that it had before, and answers with a stateless reset, which ends them at once (RFC 9000 section 10.3.2). They follow
/// from the private key, which nobody else has, and nothing of it follows from them (RFC 5869).
#[derive(Clone)]
pub(crate) struct EndpointKeys {
    pub(crate) reset: Arc<hmac::Key>,
    /// By which connection IDs of this host, of each generation, are told from others; it keeps resets from answering what
    /// is none.
    pub(crate) connection_ids: [u64; GENERATIONS],
}

impl EndpointKeys {
    fn derive(secret: &[u8]) -> Self {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ripstop").extract(secret);
        let expand = |what: &[u8], into: &mut [u8]| {
            // Fails only for lengths over 255 hashes.
            let filled = extracted.expand(&[what], Length(into.len())).and_then(|key| key.fill(into));
            debug_assert!(filled.is_ok(), "a few bytes can be derived");
        };
        let (mut reset, mut connection_ids) = (Zeroizing::new([0; 32]), [0; 8 * GENERATIONS]);
        expand(b"stateless reset", &mut *reset);
        expand(b"connection ids", &mut connection_ids);
        let reset = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &*reset));
        let (keys, _) = connection_ids.as_chunks();
        let key = |at: usize| keys.get(at).map_or(0, |key| u64::from_be_bytes(*key));
        Self { reset, connection_ids: std::array::from_fn(key) }
    }
}

/// How many bytes are to be derived.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Who this host is, and whom it trusts. Its `Debug` shows nothing of the key.
#[derive(Clone)]
pub struct Identity {
    leaf: Leaf,
    key: Arc<CertifiedKey>,
    endpoint_keys: EndpointKeys,
    roots: Arc<RootCertStore>,
    /// The certificates behind `roots`, for those who do not have them yet.
    authorities: Arc<[CertificateDer<'static>]>,
}

/// Whether a certificate must be valid at this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Matters,
    /// It is judged as of a time at which it was valid.
    Aside,
}

impl Identity {
    /// Reads and checks a certificate chain (leaf first), its key and the CA certificates, all PEM.
    ///
    /// # Errors
    /// [`IdentityError`] unless the key is its owner's alone and the certificate's, and the certificate is a host's,
    /// signed by one of the CAs, and valid at this time.
    pub fn load(certificate: &Path, key: &Path, ca: &Path) -> Result<Self, IdentityError> {
        Self::read(certificate, key, ca, Time::Matters)
    }

    /// The same for a certificate that has expired, or is not valid yet: no host takes it, but with it another one can be
    /// asked for.
    ///
    /// # Errors
    /// [`IdentityError`], but neither [`IdentityError::Expired`] nor [`IdentityError::NotYetValid`].
    pub fn load_whenever(certificate: &Path, key: &Path, ca: &Path) -> Result<Self, IdentityError> {
        Self::read(certificate, key, ca, Time::Aside)
    }

    fn read(certificate: &Path, key: &Path, ca: &Path, time: Time) -> Result<Self, IdentityError> {
        let chain = certificates(certificate)?;
        let wrong = |why| IdentityError::Leaf { path: certificate.into(), why };
        let leaf = chain.first().ok_or_else(|| IdentityError::NoCertificate(certificate.into()))?;
        let facts = Leaf::parse(leaf).map_err(wrong)?;
        let (roots, authorities) = trusted(ca)?;
        check_signed(&chain, &facts, &roots, time, (certificate, ca))?;
        let (key, endpoint_keys) = pair(chain, certificate, key)?;
        let (roots, authorities) = (Arc::new(roots), authorities.into());
        Ok(Self { leaf: facts, key: Arc::new(key), endpoint_keys, roots, authorities })
    }

    /// Takes the keys of the endpoint from a secret in a file, which is made if there is none, and stays when the
    /// certificate and its key are replaced: so a host that restarts still ends the sessions of its former life at once.
    ///
    /// # Errors
    /// [`IdentityError::Read`], and [`IdentityError::KeyMode`] when others can use the file.
    pub fn with_endpoint_secret_of(mut self, path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Read { path: path.into(), source };
        match make_secret(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_mode(path)?,
            made => made.map_err(failed)?,
        }
        let secret = read(path)?;
        if secret.len() < SECRET {
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off: remove it")));
        }
        self.endpoint_keys = EndpointKeys::derive(&secret);
        Ok(self)
    }

    /// Which certificate it is.
    #[must_use]
    pub fn certificate(&self) -> &CertificateId {
        &self.leaf.id
    }

    /// The host that the certificate is of.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.leaf.host
    }

    /// The fabric that the host is of.
    #[must_use]
    pub fn fabric(&self) -> &FabricName {
        &self.leaf.fabric
    }

    /// When the certificate stops being valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// When the certificate started being valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub(crate) fn endpoint_keys(&self) -> &EndpointKeys {
        &self.endpoint_keys
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub(crate) fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

/// A whole file, wiped when it is let go of.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.into(), source };
    let file = fs::File::open(path).map_err(failed)?;
    // Room from the start: a vector that grows leaves copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PEM_MAX as usize + 1));
    file.take(PEM_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > PEM_MAX {
        true => Err(IdentityError::TooLarge(path.into())),
        false => Ok(bytes),
    }
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(path)?;
    // A key may lie beside them, which no reader is to leave in memory.
    let found: Result<Vec<_>, _> = pem::certificates(&text).into_iter().map(CertificateDer::from_pem_slice).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(IdentityError::NoCertificate(path.into())),
    }
}

pub(crate) fn trusted(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), IdentityError> {
    let mut roots = RootCertStore::empty();
    let authorities = certificates(path)?;
    for one in &authorities {
        authority(&mut roots, one).map_err(|why| IdentityError::Authority { path: path.into(), why })?;
    }
    Ok((roots, authorities))
}

/// Has the CA of a certificate trusted, or says why that cannot be.
fn authority(roots: &mut RootCertStore, certificate: &CertificateDer<'static>) -> Result<(), String> {
    let is_ca = x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| parsed.is_ca());
    match is_ca {
        true => roots.add(certificate.clone()).map_err(|error| error.to_string()),
        false => Err("it is not a CA's certificate".into()),
    }
}

fn check_signed(
    chain: &[CertificateDer<'static>],
    facts: &Leaf,
    roots: &RootCertStore,
    time: Time,
    (path, ca): (&Path, &Path),
) -> Result<(), IdentityError> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let wrong = |error: rustls::Error| match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            IdentityError::Expired { path: path.into(), host: facts.host.clone() }
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            IdentityError::NotYetValid(path.into())
        }
        other => IdentityError::NotSigned { certificate: path.into(), ca: ca.into(), why: other.to_string() },
    };
    signed_by(chain, facts, roots, time).map_err(wrong)
}

/// Whether one of the CAs signed a chain, leaf first, for a host that dials and is dialled.
fn signed_by(
    chain: &[CertificateDer<'static>],
    facts: &Leaf,
    roots: &RootCertStore,
    time: Time,
) -> Result<(), rustls::Error> {
    let at = match time {
        Time::Matters => UnixTime::now(),
        Time::Aside => facts.time_within(UnixTime::now()),
    };
    is_vouched(chain, roots, at)
}

/// Whether one of the CAs vouches for a chain, leaf first, as of a time.
pub(crate) fn is_vouched(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    at: UnixTime,
) -> Result<(), rustls::Error> {
    let Some((leaf, between)) = chain.split_first() else {
        return Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding));
    };
    let leaf = ParsedCertificate::try_from(leaf)?;
    let algorithms = tls::provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, between, at, algorithms)
}

/// A secret file is its owner's alone.
pub(crate) fn check_mode(path: &Path) -> Result<(), IdentityError> {
    let metadata = fs::metadata(path).map_err(|source| IdentityError::Read { path: path.into(), source })?;
    match metadata.permissions().mode() & 0o7777 {
        mode if mode & NOT_THE_OWNER != 0 => Err(IdentityError::KeyMode { path: path.into(), mode }),
        _ => Ok(()),
    }
}

/// Writes random bytes to a file that must not exist.
fn make_secret(path: &Path) -> io::Result<()> {
    let mut secret = Zeroizing::new([0; SECRET]);
    tls::provider()
        .secure_random
        .fill(&mut *secret)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&*secret)?;
    file.sync_all()
}

pub(crate) fn pair(
    chain: Vec<CertificateDer<'static>>,
    path: &Path,
    key: &Path,
) -> Result<(CertifiedKey, EndpointKeys), IdentityError> {
    check_mode(key)?;
    let secret = pem::private_key(&read(key)?).ok_or_else(|| IdentityError::NoKey(key.into()))?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&secret);
    let keys = EndpointKeys::derive(secret.secret_der());
    drop(secret);
    let signer = signer.map_err(|error| IdentityError::Key { path: key.into(), why: error.to_string() })?;
    let pair = CertifiedKey::new(chain, signer);
    match pair.keys_match() {
        Ok(()) => Ok((pair, keys)),
        Err(_) => Err(IdentityError::KeyMismatch { certificate: path.into(), key: key.into() }),
    }
}
