//! The other end of enrolment: a host that joins, or renews its certificate.

use super::wire::{self, Join, Renew, Renewed, Welcome};
use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use ripstop_config::HostName;
use ripstop_transport::{
    Identity,
    enrol::{self, Token},
    pki::Request as CertificateRequest,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use zeroize::Zeroizing;

/// Longest wait for a connection with its handshake: so long the other end waits for one, too.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for an answer: the authority writes to its disk, and signs and compiles a policy of any size.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// What a host says when it joins.
#[derive(Debug, Clone)]
pub struct Joining {
    /// What it wants to be called, if it does.
    pub host: Option<HostName>,
    /// What the machine is called.
    pub hostname: HostName,
    /// Where the others reach it; `None` for the address from which it reaches the authority.
    pub address: Option<SocketAddr>,
    /// The port of its agent.
    pub port: u16,
}

/// A host that has joined.
#[derive(Debug)]
pub struct JoinedHost {
    /// What the authority gave it.
    pub welcome: Welcome,
    /// The host that holds the authority.
    pub authority: HostName,
    /// Its key and the request that was made with it.
    pub request: CertificateRequest,
}

/// Joins the fabric of a token, by the authority at an address.
///
/// # Errors
/// When it is not reached, is not the one that the token pins, or refuses; the error says what to do.
pub async fn join(authority: SocketAddr, token: &Token, joining: Joining) -> anyhow::Result<JoinedHost> {
    let connecting = async {
        let stream = TcpStream::connect(authority).await.with_context(|| unreachable_hint(authority))?;
        let own = stream.local_addr().context("failed to find this host's address")?;
        let (stream, joined) = enrol::join(stream, token.pin).await.with_context(|| {
            format!("what answers at {authority} is not the authority that made the token, or a clock is wrong")
        })?;
        anyhow::Ok((stream, joined, own))
    };
    let connected = time::timeout(CONNECT_MAX, connecting).await;
    let (stream, joined, own) = connected.map_err(|_| anyhow!(unreachable_hint(authority)))??;
    let request = CertificateRequest::new(joining.host.as_ref().unwrap_or(&joining.hostname))?;
    let address = joining.address.unwrap_or_else(|| SocketAddr::new(own.ip().to_canonical(), joining.port));
    let ask = Join {
        token: token.proof(),
        host: joining.host,
        hostname: joining.hostname,
        address: Some(address),
        request: request.der.clone(),
    };
    let welcome: Welcome = ask_http(stream, "/v1/join", &ask).await?;
    if welcome.fabric != joined.fabric {
        bail!("the authority is of the fabric `{}` but says `{}`", joined.fabric, welcome.fabric);
    }
    Ok(JoinedHost { welcome, authority: joined.host, request })
}

/// Asks for another certificate; returns it with its key, PEM both.
///
/// # Errors
/// When the authority is not reached, or refuses.
pub async fn renew(
    address: SocketAddr,
    authority: &HostName,
    identity: &Identity,
) -> anyhow::Result<(String, CertificateRequest)> {
    let connecting = async {
        let stream = TcpStream::connect(address).await.with_context(|| unreachable_hint(address))?;
        anyhow::Ok(enrol::renew(stream, identity, authority).await?)
    };
    let connected = time::timeout(CONNECT_MAX, connecting).await;
    let stream = connected.map_err(|_| anyhow!(unreachable_hint(address)))??;
    let request = CertificateRequest::new(identity.host())?;
    let renewed: Renewed = ask_http(stream, "/v1/renew", &Renew { request: request.der.clone() }).await?;
    Ok((renewed.certificate, request))
}

fn unreachable_hint(authority: SocketAddr) -> String {
    format!(
        "no authority answers at {authority}: does its agent run, and does a firewall let TCP port {} in?",
        authority.port()
    )
}

async fn ask_http<T: DeserializeOwned>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    ask: &impl Serialize,
) -> anyhow::Result<T> {
    // A token may be in it, and a vector that grows would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(wire::REQUEST_MAX));
    serde_json::to_writer(&mut *body, ask).context("failed to write the request")?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder().method(Method::POST).uri(path).header(header::HOST, "authority");
        let request =
            request.header(header::CONTENT_TYPE, "application/json").body(Full::new(Bytes::from_owner(body)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), wire::ANSWER_MAX).collect().await;
        driver.abort();
        anyhow::Ok((status, body.map_err(|error| anyhow!(error))?.to_bytes()))
    };
    let exchanged =
        time::timeout(ANSWER_WAIT, exchange).await.context("the authority took the request but does not answer")?;
    let (status, body) = exchanged.context("the authority broke the connection off")?;
    if status.is_success() {
        return serde_json::from_slice(&body).context("the authority's answer does not fit this version of ripstop");
    }
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = answer.get("error").and_then(serde_json::Value::as_str).unwrap_or("no reason given");
    bail!("the authority refuses: {message}")
}
