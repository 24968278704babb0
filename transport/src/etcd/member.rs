//! Requests to a member by its JSON gateway, on one connection.

use super::{
    EtcdError, WAIT,
    wire::{Failure, LoggedIn, Login},
};
use crate::http::{self, Connection, Driver, Tls};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use ripstop_config::agent;
use serde::{Serialize, de::DeserializeOwned};
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// Bytes of the answer to a login: a token.
const TOKEN_MAX: usize = 16 << 10;
/// Bytes of what is said where an answer is refused.
const FAILURE_MAX: usize = 16 << 10;
/// Bytes besides the password of the request that logs in: name, quotes, and a password that has to be escaped whole.
const LOGIN_ROOM: usize = 16 << 10;

/// A connection to a member.
#[derive(Debug)]
pub(super) struct Member {
    connection: Connection,
    /// Given for the login.
    token: Option<Token>,
}

/// Shows nothing of itself.
struct Token(Zeroizing<String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Member {
    /// Connects, and logs in where there is somebody to log in as. The caller bounds the wait.
    pub(super) async fn open(settings: &agent::Etcd, endpoint: SocketAddr) -> Result<Self, EtcdError> {
        let tls = settings.tls.as_ref().map(|tls| Tls {
            ca: &tls.ca,
            name: tls.name.as_deref(),
            identity: tls.identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path())),
        });
        let mut opened = Self { connection: Connection::open(endpoint, tls).await?, token: None };
        if let Some(login) = &settings.login {
            opened.log_in(login).await?;
        }
        Ok(opened)
    }

    async fn log_in(&mut self, login: &agent::EtcdLogin) -> Result<(), EtcdError> {
        let file = http::secret(&login.password).map_err(http::HttpError::File)?;
        let text = std::str::from_utf8(&file).map_err(|_| EtcdError::Password(login.password.clone()))?;
        let password = text.strip_suffix('\n').unwrap_or(text);
        if password.is_empty() || password.contains('\n') {
            return Err(EtcdError::Password(login.password.clone()));
        }
        // Room from the start: a vector that grows leaves copies of the password behind.
        let mut body = Zeroizing::new(Vec::with_capacity(LOGIN_ROOM + password.len() * 6));
        serde_json::to_writer(&mut *body, &Login { name: &login.user, password }).map_err(malformed)?;
        let answer = self.send("/v3/auth/authenticate", Bytes::from_owner(body)).await?;
        let whole: LoggedIn = parse(&http::whole(answer, TOKEN_MAX).await?)?;
        self.token = Some(Token(Zeroizing::new(whole.token)));
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
        let endpoint = self.connection.endpoint();
        let asking = async {
            let answer = self.send(path, body).await?;
            parse(&http::whole(answer, most).await?)
        };
        tokio::time::timeout(WAIT, asking).await.map_err(|_| EtcdError::Silent(endpoint))?
    }

    /// Asks for what goes on: the body, and what keeps it coming.
    pub(super) async fn stream(mut self, path: &str, ask: &impl Serialize) -> Result<(Incoming, Driver), EtcdError> {
        let body = Bytes::from(serde_json::to_vec(ask).map_err(malformed)?);
        let endpoint = self.connection.endpoint();
        let answer = tokio::time::timeout(WAIT, self.send(path, body)).await;
        let answer = answer.map_err(|_| EtcdError::Silent(endpoint))??;
        Ok((answer.into_body(), self.connection.into_driver()))
    }

    async fn send(&mut self, path: &str, body: Bytes) -> Result<Response<Incoming>, EtcdError> {
        let mut request = Request::post(path)
            .header(header::HOST, self.connection.endpoint().to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(Token(token)) = &self.token {
            let mut value = header::HeaderValue::try_from(token.as_str())
                .map_err(|_| EtcdError::Malformed("its token is no text".into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| EtcdError::Malformed(error.to_string()))?;
        let answer = self.connection.send(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => {
                let said = http::whole(answer, FAILURE_MAX).await.unwrap_or_default();
                Err(EtcdError::Refused { status: status.as_u16(), message: Failure::of(&said).text() })
            }
        }
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
