//! One connection to a member: TCP, TLS where the settings say so, HTTP/1.1.

use super::{
    EtcdError, WAIT,
    wire::{Failure, LoggedIn, Login},
};
use crate::{
    identity::{certificates, check_mode, pair, read, trusted},
    tls,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use ripstop_config::agent;
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, sign::SingleCertAndKey, version::TLS13};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Longest wait for a member to take a connection: one that is gone is not to hold up the way to the next.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// Bytes of the answer to a login: a token.
const TOKEN_MAX: usize = 16 << 10;
/// Bytes of what is said where an answer is refused.
const FAILURE_MAX: usize = 16 << 10;
/// Bytes besides the password of the request that logs in: name, quotes, and a password that has to be escaped whole.
const LOGIN_ROOM: usize = 16 << 10;

/// A connection; the task that moves its bytes ends with it.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    endpoint: SocketAddr,
    /// Given for the login.
    token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Ends the task when it is dropped.
#[derive(Debug)]
pub(super) struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Connection {
    /// Connects, and logs in where there is somebody to log in as. The caller bounds the wait.
    pub(super) async fn open(settings: &agent::Etcd, endpoint: SocketAddr) -> Result<Self, EtcdError> {
        let tls =
            settings.tls.as_ref().map(|tls| Ok::<_, EtcdError>((config(tls)?, name(tls, endpoint)?))).transpose()?;
        let connecting = tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(endpoint)).await;
        let connected = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|error| EtcdError::Connect(endpoint, error))?;
        // Requests are small, and each is waited for.
        stream.set_nodelay(true).map_err(|error| EtcdError::Connect(endpoint, error))?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some((config, name)) => {
                let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
                Box::new(connected.map_err(|error| EtcdError::Handshake(endpoint, error))?)
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to etcd ended");
            }
        });
        let mut opened = Self { sender, driver: Driver(driving.abort_handle()), endpoint, token: None };
        if let Some(login) = &settings.login {
            opened.log_in(login).await?;
        }
        Ok(opened)
    }

    async fn log_in(&mut self, login: &agent::EtcdLogin) -> Result<(), EtcdError> {
        check_mode(&login.password)?;
        let file = read(&login.password)?;
        let text = std::str::from_utf8(&file).map_err(|_| EtcdError::Password(login.password.clone()))?;
        let password = text.strip_suffix('\n').unwrap_or(text);
        if password.is_empty() || password.contains('\n') {
            return Err(EtcdError::Password(login.password.clone()));
        }
        // Room from the start: a vector that grows leaves copies of the password behind.
        let mut body = Zeroizing::new(Vec::with_capacity(LOGIN_ROOM + password.len() * 6));
        serde_json::to_writer(&mut *body, &Login { name: &login.user, password }).map_err(malformed)?;
        let answer = self.send("/v3/auth/authenticate", Bytes::from_owner(body)).await?;
        let whole: LoggedIn = parse(&whole(answer, TOKEN_MAX).await?)?;
        self.token = Some(Zeroizing::new(whole.token));
        Ok(())
    }

    /// Asks, and waits for the answer, of at most so many bytes.
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        ask: &impl Serialize,
        most: usize,
    ) -> Result<T, EtcdError> {
        let body = Bytes::from(serde_json::to_vec(ask).map_err(malformed)?);
        let endpoint = self.endpoint;
        let asking = async {
            let answer = self.send(path, body).await?;
            parse(&whole(answer, most).await?)
        };
        tokio::time::timeout(WAIT, asking).await.map_err(|_| EtcdError::Silent(endpoint))?
    }

    /// Asks for what goes on: the body, and what keeps it coming.
    pub(super) async fn stream(mut self, path: &str, ask: &impl Serialize) -> Result<(Incoming, Driver), EtcdError> {
        let body = Bytes::from(serde_json::to_vec(ask).map_err(malformed)?);
        let endpoint = self.endpoint;
        let answer = tokio::time::timeout(WAIT, self.send(path, body)).await;
        let answer = answer.map_err(|_| EtcdError::Silent(endpoint))??;
        Ok((answer.into_body(), self.driver))
    }

    async fn send(&mut self, path: &str, body: Bytes) -> Result<Response<Incoming>, EtcdError> {
        self.sender.ready().await?;
        let mut request = Request::post(path)
            .header(header::HOST, self.endpoint.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            let mut value = header::HeaderValue::try_from(token.as_str())
                .map_err(|_| EtcdError::Malformed("its token is no text".into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| EtcdError::Malformed(error.to_string()))?;
        let answer = self.sender.send_request(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => {
                let said = whole(answer, FAILURE_MAX).await.unwrap_or_default();
                Err(EtcdError::Refused { status: status.as_u16(), message: Failure::of(&said).text() })
            }
        }
    }
}

async fn whole(answer: Response<Incoming>, most: usize) -> Result<Bytes, EtcdError> {
    match Limited::new(answer.into_body(), most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(EtcdError::TooLong(most)),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(EtcdError::Broken(*error)),
            Err(error) => Err(EtcdError::Malformed(error.to_string())),
        },
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, EtcdError> {
    serde_json::from_slice(body).map_err(malformed)
}

/// What serde says of a place, never of the value there, which may be secret.
#[expect(clippy::needless_pass_by_value, reason = "it maps an error")]
pub(super) fn malformed(error: serde_json::Error) -> EtcdError {
    EtcdError::Malformed(format!("{:?} at column {}", error.classify(), error.column()))
}

fn name(tls: &agent::EtcdTls, endpoint: SocketAddr) -> Result<ServerName<'static>, EtcdError> {
    let Some(name) = &tls.name else { return Ok(ServerName::from(endpoint.ip().to_canonical())) };
    let wrong =
        || EtcdError::Setting(format!("`{name}` cannot be the name in a certificate: write a DNS name or an address"));
    ServerName::try_from(name.clone()).map_err(|_| wrong())
}

fn config(settings: &agent::EtcdTls) -> Result<ClientConfig, EtcdError> {
    let (roots, _) = trusted(&settings.ca)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(tls::provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(EtcdError::Tls)?.with_root_certificates(roots);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (shown, _) = pair(certificates(certificate)?, certificate, key)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(shown))))
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}
