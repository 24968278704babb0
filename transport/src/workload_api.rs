//! A host's identity by the Workload API of SPIFFE, as SPIRE's agent serves it on a Unix socket (SPIFFE Workload API, section 5).
//!
//! Each message is the whole of what this process may have, and stands in the place of all before it (section 4.3): its X.509-SVIDs
//! with their keys, and the CA certificates of their trust domain. The server knows who asks by the kernel (section 4.1). A
//! message has at most 4 MiB, which is the limit of the gRPC library.

use crate::{Identity, SvidError};
use futures::{Stream, StreamExt as _};
use ripstop_config::{FabricName, HostName};
use rustls_pki_types::CertificateDer;
use spiffe::{
    SpiffeId, TrustDomain, WorkloadApiClient, WorkloadApiError, X509Context, X509Svid, cert::Certificate,
    transport::Endpoint,
};
use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

/// How long the server may take for its first message: it has it at hand, or says that there is none.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Identities that an error lists; of more it says how many.
const LISTED_MAX: usize = 8;

/// Why a Workload API hands out nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nobody serves it.
    #[error("nobody answers on unix://{} ({why}): is SPIRE's agent running?", socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What the system said.
        why: String,
    },
    /// It takes too long.
    #[error("unix://{} has not answered for {} s", .0.display(), ANSWER_MAX.as_secs())]
    Silent(PathBuf),
    /// It has nothing for this process.
    #[error("unix://{} has no identity for this agent ({why}): register it, see `spire-server entry create`", socket.display())]
    NotEntitled {
        /// Its socket.
        socket: PathBuf,
        /// What it said.
        why: String,
    },
    /// It broke off, or said what cannot be understood.
    #[error("unix://{}: {why}", socket.display())]
    Failed {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
}

/// Why nothing of what is handed out makes this host's identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// They are of others.
    #[error(
        "{offered} is what the Workload API offers this agent, and {wanted} is needed: register it, with `spire-server entry \
         create -spiffeID {wanted}`"
    )]
    NoneFits {
        /// This host, as SPIFFE names it.
        wanted: String,
        /// The names that are offered.
        offered: String,
    },
    /// More than one fabric has such a host.
    #[error("the Workload API offers this host for several fabrics, {0}: register it in one")]
    Ambiguous(String),
    /// It is this host's, and no good.
    #[error("{id}, which the Workload API offers, cannot be used: {why}")]
    Unusable {
        /// Its name.
        id: String,
        /// What is wrong.
        why: SvidError,
    },
}

type Messages = Pin<Box<dyn Stream<Item = Result<X509Context, WorkloadApiError>> + Send>>;

/// A Workload API, connected to when something is asked of it.
pub struct WorkloadApi {
    socket: PathBuf,
    messages: Option<Messages>,
}

impl fmt::Debug for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadApi").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl WorkloadApi {
    /// The one on this Unix socket.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.into(), messages: None }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The next message; the first one after a connection comes at once, later ones when something has changed, which may be
    /// hours. After an error the next call connects anew: the caller pauses before. May be dropped at any time.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn next(&mut self) -> Result<Offer, SourceError> {
        let message = match &mut self.messages {
            Some(messages) => messages.next().await,
            None => {
                let first = tokio::time::timeout(ANSWER_MAX, connect(&self.socket)).await;
                let (messages, first) = first.map_err(|_| SourceError::Silent(self.socket.clone()))??;
                self.messages = Some(messages);
                Some(first)
            }
        };
        match message {
            Some(Ok(context)) => Ok(Offer(context)),
            other => {
                self.messages = None;
                Err(match other {
                    Some(Err(error)) => failed(&self.socket, &error),
                    Some(Ok(_)) | None => self.broken("it ended the connection"),
                })
            }
        }
    }

    fn broken(&self, why: &str) -> SourceError {
        SourceError::Failed { socket: self.socket.clone(), why: why.into() }
    }
}

/// Connects, and waits for the first message.
async fn connect(socket: &Path) -> Result<(Messages, Result<X509Context, WorkloadApiError>), SourceError> {
    let client = WorkloadApiClient::connect(Endpoint::Unix(socket.into())).await;
    let client = client.map_err(|error| SourceError::Unreachable { socket: socket.into(), why: root(&error) })?;
    let stream = client.stream_x509_contexts().await.map_err(|error| failed(socket, &error))?;
    let mut messages: Messages = Box::pin(stream);
    match messages.next().await {
        Some(first) => Ok((messages, first)),
        None => Err(SourceError::Failed { socket: socket.into(), why: "it ended without an answer".into() }),
    }
}

fn failed(socket: &Path, error: &WorkloadApiError) -> SourceError {
    let socket = socket.to_owned();
    match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
            SourceError::NotEntitled { socket, why: error.to_string() }
        }
        other => SourceError::Failed { socket, why: root(other) },
    }
}

/// What is behind an error, without the layers that only say that something failed.
fn root(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// All that a Workload API hands out to this process at a time.
pub struct Offer(X509Context);

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Offer").field(&self.names()).finish()
    }
}

impl Offer {
    /// The identity of a host: `spiffe://FABRIC/host/NAME`, of the one fabric that has it where none is given. Of several that
    /// are good the one that is good longest.
    ///
    /// # Errors
    /// [`OfferError`] when there is none.
    pub fn identity(&self, host: &HostName, fabric: Option<&FabricName>) -> Result<Identity, OfferError> {
        let path = format!("/host/{host}");
        let is_wanted =
            |id: &SpiffeId| id.path() == path && fabric.is_none_or(|fabric| fabric.as_str() == id.trust_domain_name());
        let fitting: Vec<_> = self.0.svids().iter().filter(|svid| is_wanted(svid.spiffe_id())).collect();
        let Some(first) = fitting.first() else {
            let wanted = format!("spiffe://{}{path}", fabric.map_or("FABRIC", FabricName::as_str));
            return Err(OfferError::NoneFits { wanted, offered: self.names() });
        };
        if fitting.iter().any(|svid| svid.spiffe_id() != first.spiffe_id()) {
            let domains = fitting.iter().map(|svid| svid.spiffe_id().trust_domain_name());
            return Err(OfferError::Ambiguous(listed(domains)));
        }
        let (good, bad): (Vec<_>, Vec<_>) = fitting.iter().map(|svid| self.usable(svid)).partition(Result::is_ok);
        match good.into_iter().flatten().max_by_key(Identity::not_after) {
            Some(longest) => Ok(longest),
            None => {
                let why = bad.into_iter().find_map(Result::err).unwrap_or(SvidError::Empty);
                Err(OfferError::Unusable { id: first.spiffe_id().to_string(), why })
            }
        }
    }

    /// The CA certificates of a fabric, where the Workload API has any.
    #[must_use]
    pub fn bundle(&self, fabric: &FabricName) -> Option<Vec<CertificateDer<'static>>> {
        self.bundle_of(&TrustDomain::new(fabric.as_str()).ok()?)
    }

    fn bundle_of(&self, domain: &TrustDomain) -> Option<Vec<CertificateDer<'static>>> {
        Some(self.0.bundle_set().get(domain)?.authorities().iter().map(der).collect())
    }

    fn usable(&self, svid: &X509Svid) -> Result<Identity, SvidError> {
        let bundle = self.bundle_of(svid.spiffe_id().trust_domain()).ok_or(SvidError::NoAuthority)?;
        Identity::of_svid(svid.cert_chain().iter().map(der).collect(), svid.private_key().as_bytes(), &bundle)
    }

    fn names(&self) -> String {
        listed(self.0.svids().iter().map(|svid| svid.spiffe_id().to_string()))
    }
}

fn der(certificate: &Certificate) -> CertificateDer<'static> {
    certificate.as_bytes().to_vec().into()
}

fn listed(names: impl IntoIterator<Item = impl Into<String>>) -> String {
    let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(LISTED_MAX);
    names.truncate(LISTED_MAX);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
        SanType,
    };
    use spiffe::{X509Bundle, X509BundleSet};
    use std::sync::Arc;
    use time::OffsetDateTime;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn ca() -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn svid(ca: &Ca, id: &str, hours: i64) -> Arc<X509Svid> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_before = OffsetDateTime::now_utc() - time::Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::hours(hours);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, ca).unwrap();
        Arc::new(X509Svid::parse_from_der(certificate.der(), key.serialized_der()).unwrap())
    }

    fn offer(svids: Vec<Arc<X509Svid>>, bundles: &[(&str, &[&Ca])]) -> Offer {
        let mut set = X509BundleSet::new();
        for (domain, cas) in bundles {
            let ders: Vec<u8> = cas.iter().flat_map(|ca| ca.der().to_vec()).collect();
            set.add_bundle(X509Bundle::parse_from_der(TrustDomain::new(domain).unwrap(), &ders).unwrap());
        }
        Offer(X509Context::new(svids, Arc::new(set)))
    }

    fn names() -> (HostName, FabricName) {
        (HostName::new("alpha").unwrap(), FabricName::new("shop.example").unwrap())
    }

    #[test]
    fn of_what_is_offered_the_one_that_fits_is_taken() {
        let (host, fabric) = names();
        let (ours, other) = (ca(), ca());
        let svids = [
            ("spiffe://shop.example/shop/web", 9),
            ("spiffe://shop.example/host/beta", 9),
            ("spiffe://shop.example/host/alpha", 1),
            ("spiffe://shop.example/host/alpha", 4),
            ("spiffe://shop.example/host/alpha", -1),
        ];
        let mut svids: Vec<_> = svids.iter().map(|(id, hours)| svid(&ours, id, *hours)).collect();
        let bundles: [(&str, &[&Ca]); 2] = [("shop.example", &[&ours]), ("other.example", &[&other])];
        for fabric in [Some(&fabric), None] {
            let identity = offer(svids.clone(), &bundles).identity(&host, fabric).unwrap();
            let left = identity.not_after().duration_since(std::time::SystemTime::now()).unwrap().as_secs();
            assert_eq!((identity.host(), identity.fabric().as_str()), (&host, "shop.example"));
            assert!(
                (3 * 3_600..4 * 3_600).contains(&left),
                "the one that is good longest, and not the expired: {left}"
            );
        }
        svids.push(svid(&other, "spiffe://other.example/host/alpha", 9));
        let both = offer(svids, &bundles);
        assert_eq!(both.identity(&host, Some(&fabric)).unwrap().fabric(), &fabric);
        let error = both.identity(&host, None).unwrap_err().to_string();
        assert!(error.contains("other.example, shop.example"), "{error}");
    }

    #[test]
    fn what_is_offered_is_named_where_nothing_fits() {
        let (host, fabric) = names();
        let ours = ca();
        let bundles: [(&str, &[&Ca]); 1] = [("shop.example", &[&ours])];
        let said = |ids: &[&str]| {
            let svids = ids.iter().map(|id| svid(&ours, id, 1)).collect();
            offer(svids, &bundles).identity(&host, Some(&fabric)).unwrap_err().to_string()
        };
        let error = said(&["spiffe://shop.example/host/beta", "spiffe://other.example/host/alpha"]);
        assert!(
            error.starts_with("spiffe://other.example/host/alpha, spiffe://shop.example/host/beta is what"),
            "{error}"
        );
        assert!(error.contains("spiffe://shop.example/host/alpha is needed"), "{error}");
        let many: Vec<_> = (0..10).map(|number| format!("spiffe://shop.example/n/{number}")).collect();
        let error = said(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(error.contains("/n/7 and 2 more is what"), "{error}");
    }

    #[test]
    fn one_that_no_ca_of_the_bundle_vouches_for_is_refused() {
        let (host, fabric) = names();
        let (ours, other) = (ca(), ca());
        let svids = vec![svid(&ours, "spiffe://shop.example/host/alpha", 1)];
        let refused =
            |bundles: &[(&str, &[&Ca])]| offer(svids.clone(), bundles).identity(&host, Some(&fabric)).unwrap_err();
        let why = |error| match error {
            OfferError::Unusable { why, .. } => why,
            other => panic!("{other}"),
        };
        assert!(matches!(why(refused(&[("shop.example", &[&other])])), SvidError::NotSigned(_)));
        assert_eq!(why(refused(&[("other.example", &[&ours])])), SvidError::NoAuthority);
    }
}
