//! One connection to a server that is none of the fabric: TCP, TLS 1.3 where it is asked for, HTTP/1.1. With libraries that
//! are here anyway.
//!
//! Whoever uses it bounds the waits and what is read of an answer; nothing is followed, tried again or kept beyond the
//! connection.

use crate::{
    identity::{IdentityError, certificates, check_mode, pair, read, trusted},
    tls,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, sign::SingleCertAndKey, version::TLS13};
use std::{fmt, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Longest wait for a server to take a connection: one that is gone is not to hold up the way to the next.
const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// Why a server is of no use at the moment. No secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("failed to connect to {0}: does something listen there, and does a firewall let this host in?")]
    Connect(SocketAddr, #[source] io::Error),
    /// The handshake failed.
    #[error("the TLS handshake with {0} failed: is its certificate signed by one in `ca`, for its address or `name`?")]
    Handshake(SocketAddr, #[source] io::Error),
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// A name that no certificate has.
    #[error("`{0}` cannot be the name in a certificate: write a DNS name or an address")]
    Name(String),
    /// A file cannot be read, or others can.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// The connection broke off.
    #[error("the connection broke off")]
    Broken(#[from] hyper::Error),
    /// More bytes than any answer has.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    /// Not an answer.
    #[error("its answer is not understood: {0}")]
    Malformed(String),
}

/// How a server is known, and this host to it.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'s> {
    /// PEM of the CA certificates that vouch for it.
    pub ca: &'s Path,
    /// The name that its certificate has; its address if there is none.
    pub name: Option<&'s str>,
    /// The certificate that this host shows where it is asked, and its key.
    pub identity: Option<(&'s Path, &'s Path)>,
}

/// A connection; the task that moves its bytes ends with it.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    endpoint: SocketAddr,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Ends the task when it is dropped.
#[derive(Debug)]
pub struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Connection {
    /// Connects. Files are read anew each time, as they are replaced. The caller bounds the wait.
    ///
    /// # Errors
    /// [`HttpError`]
    pub async fn open(endpoint: SocketAddr, tls: Option<Tls<'_>>) -> Result<Self, HttpError> {
        let tls = tls.map(|tls| Ok::<_, HttpError>((config(tls)?, name(tls, endpoint)?))).transpose()?;
        let connecting = tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(endpoint)).await;
        let connected = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|error| HttpError::Connect(endpoint, error))?;
        // Requests are whole, and each is waited for.
        stream.set_nodelay(true).map_err(|error| HttpError::Connect(endpoint, error))?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some((config, name)) => {
                let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
                Box::new(connected.map_err(|error| HttpError::Handshake(endpoint, error))?)
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %endpoint, "a connection ended");
            }
        });
        Ok(Self { sender, driver: Driver(driving.abort_handle()), endpoint })
    }

    /// The server's address.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// The server has ended it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Asks, and waits for the head of the answer, whatever its status.
    ///
    /// # Errors
    /// [`HttpError::Broken`]
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// What keeps an answer's body coming, where that is to outlive the connection's other uses.
    #[must_use]
    pub fn into_driver(self) -> Driver {
        self.driver
    }
}

/// The whole body of an answer, of at most so many bytes.
///
/// # Errors
/// [`HttpError::TooLong`], or that it broke off.
pub async fn whole(answer: Response<Incoming>, most: usize) -> Result<Bytes, HttpError> {
    match Limited::new(answer.into_body(), most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLong(most)),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(HttpError::Broken(*error)),
            Err(error) => Err(HttpError::Malformed(error.to_string())),
        },
    }
}

/// A secret of a file that its owner alone can use.
///
/// # Errors
/// When others can, or it cannot be read, or is too large.
pub fn secret(file: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    check_mode(file)?;
    read(file)
}

fn name(tls: Tls<'_>, endpoint: SocketAddr) -> Result<ServerName<'static>, HttpError> {
    let Some(name) = tls.name else { return Ok(ServerName::from(endpoint.ip().to_canonical())) };
    ServerName::try_from(name.to_owned()).map_err(|_| HttpError::Name(name.into()))
}

fn config(settings: Tls<'_>) -> Result<ClientConfig, HttpError> {
    let (roots, _) = trusted(settings.ca)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(tls::provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(HttpError::Tls)?.with_root_certificates(roots);
    let mut config = match settings.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (shown, _) = pair(certificates(certificate)?, certificate, key)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(shown))))
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}
