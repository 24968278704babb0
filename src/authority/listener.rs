//! The enrolment listener: TCP on the port of QUIC, TLS 1.3, and within it the requests of [`super::wire`].
//!
//! Who connects is a stranger until its token or certificate says otherwise, so everything is bounded: how many connections
//! there are, of one network and in all, how long a handshake and a request may take, and how often bad tokens are looked at.

use super::{
    Admitted, Authority, Membership, Refused, TokenRefused,
    attempts::{self, Attempts},
    wire,
};
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use ripstop_config::HostName;
use ripstop_telemetry::{instruments, web};
use ripstop_transport::{
    CertificateId, Identity,
    enrol::{self, Caller},
};
use std::{
    collections::HashMap,
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};

/// Connections at once; more wait in the kernel's queue. A few joins and renewals a second are many.
const CONNECTIONS_MAX: usize = 256;
/// Those of one network, so that one stranger cannot keep all others out; more are closed at once.
const PER_NETWORK_MAX: usize = 64;
/// Longest TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Longest life of a connection behind its handshake: one request, and a policy of any size on a thin line.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// Wait after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the listener asks of the agent.
pub trait Members: Send + Sync + 'static {
    /// The identity that the listener shows.
    fn identity(&self) -> Identity;
    /// What the policy says of a host; of a certificate too, if one is given.
    fn membership(&self, host: &HostName, certificate: Option<&CertificateId>) -> Membership;
    /// Makes a host that was let in one of the fabric, at an address, and gives it what it needs. May block.
    fn admit(&self, admitted: &Admitted, address: Option<SocketAddr>) -> Admission;
}

/// What a host gets with its certificate.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// The file of the operators.
    pub operators: String,
    /// The policy in force.
    pub bundle: Vec<u8>,
    /// What an operator still has to do.
    pub missing: Option<String>,
}

/// What requests are answered from.
struct Desk {
    authority: Arc<Authority>,
    members: Arc<dyn Members>,
    attempts: Mutex<Attempts>,
}

/// Who asks.
#[derive(Clone)]
struct From {
    address: IpAddr,
    caller: Option<Caller>,
}

/// Takes the address for enrolment.
///
/// # Errors
/// What the system says.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves hosts that join or renew. Runs until it is dropped.
pub async fn serve(listener: TcpListener, authority: Arc<Authority>, members: Arc<dyn Members>) {
    let desk = Arc::new(Desk { authority, members, attempts: Mutex::default() });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let networks = Arc::new(Networks::default());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(share) = networks.enter(from.ip()) else { continue };
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    connection(desk, stream, from.ip()).await;
                    drop((place, share));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection for enrolment");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(desk: Arc<Desk>, stream: TcpStream, address: IpAddr) {
    let identity = desk.members.identity();
    let (stream, caller) = match time::timeout(HANDSHAKE_MAX, enrol::accept(stream, &identity)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "a handshake for enrolment failed"),
        Err(_) => return tracing::debug!(%address, "a handshake for enrolment took too long"),
    };
    let router = Router::new()
        .route("/v1/join", post(join))
        .route("/v1/renew", post(renew))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "no such request"))
        .layer(DefaultBodyLimit::max(wire::REQUEST_MAX))
        .layer(Extension(From { address, caller }))
        .with_state(desk);
    if time::timeout(CONNECTION_MAX, web::serve_one(stream, router)).await.is_err() {
        tracing::debug!(%address, "a connection for enrolment was open for too long");
    }
}

/// How many connections each network has.
#[derive(Default)]
struct Networks(Mutex<HashMap<IpAddr, usize>>);

/// One of them.
struct Share(Arc<Networks>, IpAddr);

impl Networks {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let network = attempts::network(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= PER_NETWORK_MAX {
            return None;
        }
        *count += 1;
        Some(Share(Arc::clone(self), network))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = counts.get_mut(&self.1) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.1);
        }
    }
}

async fn join(
    State(desk): State<Arc<Desk>>,
    Extension(from): Extension<From>,
    Json(ask): Json<wire::Join>,
) -> Response {
    if !desk.attempts().may_try(from.address, Instant::now()) {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "too many bad tokens from this address; try again in a minute");
    }
    let working = Arc::clone(&desk);
    let id = ask.token.id;
    let done = tokio::task::spawn_blocking(move || welcome(&working, &ask)).await;
    match done {
        Ok(Ok(welcome)) => {
            tracing::info!(host = %welcome.host, token = %id, address = %from.address, "a host has joined");
            instruments::enrolment("joined");
            Json(welcome).into_response()
        }
        Ok(Err(why)) => {
            if matches!(why, Refused::Token(TokenRefused::Unknown)) {
                desk.attempts().failed(from.address, Instant::now());
            }
            instruments::enrolment("refused");
            tracing::warn!(token = %id, address = %from.address, %why, "a host was not let in");
            refused(&why)
        }
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the join broke off; see the agent's log"),
    }
}

fn welcome(desk: &Desk, ask: &wire::Join) -> Result<wire::Welcome, Refused> {
    let admitted = desk.authority.join(ask, &|host| desk.members.membership(host, None))?;
    let admission = desk.members.admit(&admitted, ask.address);
    Ok(wire::Welcome {
        fabric: desk.authority.fabric().clone(),
        host: admitted.host,
        certificate: admitted.granted.certificate_pem,
        ca: desk.authority.ca().certificate_pem().to_owned(),
        operators: admission.operators,
        bundle: admission.bundle,
        missing: admission.missing,
    })
}

async fn renew(
    State(desk): State<Arc<Desk>>,
    Extension(from): Extension<From>,
    Json(ask): Json<wire::Renew>,
) -> Response {
    let Some(caller) = from.caller else {
        return refuse(StatusCode::UNAUTHORIZED, "a certificate is renewed for the host that shows it");
    };
    let host = caller.host.clone();
    let done = tokio::task::spawn_blocking(move || {
        let membership = |host: &HostName, id: &CertificateId| desk.members.membership(host, Some(id));
        desk.authority.renew(&caller, &ask.request, &membership)
    });
    match done.await {
        Ok(Ok(granted)) => {
            tracing::info!(%host, serial = %granted.id, "renewed a certificate");
            instruments::enrolment("renewed");
            Json(wire::Renewed { certificate: granted.certificate_pem }).into_response()
        }
        Ok(Err(why)) => {
            instruments::enrolment("refused");
            tracing::warn!(%host, %why, "a certificate was not renewed");
            refused(&why)
        }
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the renewal broke off; see the agent's log"),
    }
}

fn refused(why: &Refused) -> Response {
    let status = match why {
        Refused::Pki(_) => StatusCode::BAD_REQUEST,
        Refused::Store(error) => {
            tracing::error!(%error, source = error.source().map(tracing::field::display), "the authority cannot keep its files");
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Refused::Token(_)
        | Refused::Taken(_)
        | Refused::Certificate(_)
        | Refused::NotNamed(_)
        | Refused::Revoked(_) => StatusCode::FORBIDDEN,
    };
    refuse(status, &why.to_string())
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}

impl Desk {
    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_share_and_gives_it_back() {
        let networks = Arc::new(Networks::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut shares: Vec<_> = (0..PER_NETWORK_MAX).map(|_| networks.enter(one).unwrap()).collect();
        assert!(networks.enter(one).is_none() && networks.enter(other).is_some());
        shares.pop();
        assert!(networks.enter(one).is_some());
        drop(shares);
        assert!(networks.0.lock().unwrap().is_empty());
    }
}
