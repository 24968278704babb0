//! Requests to the collector: OTLP over HTTP with Protocol Buffers (OTLP specification 1.x, section OTLP/HTTP), one at a time, on a
//! connection that is kept.
//!
//! The collector is believed in nothing: an answer is read to [`ANSWER_MAX`], its text is never logged, and no redirection is
//! followed.

use super::headers;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, trace::v1::ExportTraceServiceResponse,
};
use prost::Message as _;
use ripstop_config::agent::Otel;
use ripstop_transport::http::{self, Connection, HttpError, Tls};
use std::{net::SocketAddr, time::Duration};

/// Bytes of an answer that are read: a collector says how many items it rejected, and a sentence.
const ANSWER_MAX: usize = 64 << 10;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Logs,
}

impl Signal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }
}

/// Why a request came to nothing. No secret and nothing of the collector's own words is in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{0:#}")]
    Headers(anyhow::Error),
    #[error("no answer from {0} within {1:?}")]
    Silent(SocketAddr, Duration),
    #[error("it has too much to do ({status})")]
    Busy { status: StatusCode, wait: Option<Duration> },
    #[error(
        "it refuses ({0}): is it an OTLP receiver for HTTP, and are the path of `endpoint` and `headers-file` right?"
    )]
    Refused(StatusCode),
}

impl Failure {
    /// The same request may do better later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Http(_) | Self::Headers(_) | Self::Silent(..) | Self::Busy { .. } => true,
            Self::Refused(_) => false,
        }
    }

    /// How long the collector wants to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Busy { wait, .. } => *wait,
            Self::Http(_) | Self::Headers(_) | Self::Silent(..) | Self::Refused(_) => None,
        }
    }
}

/// A collector, and the connection to it.
pub(super) struct Collector {
    settings: Otel,
    kept: Option<Kept>,
}

struct Kept {
    connection: Connection,
    headers: header::HeaderMap,
}

impl Collector {
    pub(super) fn new(settings: Otel) -> Self {
        Self { settings, kept: None }
    }

    /// Sends a batch, and says how many of its items the collector rejected.
    ///
    /// # Errors
    /// [`Failure`], within the settings' `timeout`; the connection is gone then.
    pub(super) async fn post(&mut self, signal: Signal, body: Bytes) -> Result<u64, Failure> {
        let (endpoint, most) = (self.settings.endpoint, self.settings.timeout);
        let posting = tokio::time::timeout(most, self.try_post(signal, body)).await;
        posting.unwrap_or(Err(Failure::Silent(endpoint, most)))
    }

    async fn try_post(&mut self, signal: Signal, body: Bytes) -> Result<u64, Failure> {
        // Taken, so that it is dropped wherever this ends early.
        let mut kept = match self.kept.take().filter(|kept| !kept.connection.is_closed()) {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let answer = kept.connection.send(self.request(signal, &kept.headers, body)).await?;
        match answer.status() {
            StatusCode::OK => match http::whole(answer, ANSWER_MAX).await {
                Ok(said) => {
                    self.kept = Some(kept);
                    Ok(rejected(signal, &said))
                }
                // It has said that it took them; what else it says is not worth the connection.
                Err(_) => Ok(0),
            },
            // OTLP/HTTP, section Failures: these, and no others, are to be tried again.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::Busy { status: answer.status(), wait: retry_after(&answer) }),
            status => Err(Failure::Refused(status)),
        }
    }

    /// Files are read anew each time, as they are replaced.
    async fn connect(&self) -> Result<Kept, Failure> {
        let headers = match &self.settings.headers {
            Some(file) => headers::read(file).map_err(Failure::Headers)?,
            None => header::HeaderMap::new(),
        };
        let tls = self.settings.tls.as_ref();
        let tls = tls.map(|tls| Tls { ca: &tls.ca, name: tls.name.as_deref(), identity: None });
        Ok(Kept { connection: Connection::open(self.settings.endpoint, tls).await?, headers })
    }

    fn request(&self, signal: Signal, headers: &header::HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = hyper::Method::POST;
        *request.headers_mut() = headers.clone();
        let path = format!("{}/v1/{}", self.settings.path, signal.as_str());
        // The settings let nothing through that is no path; an address is a header's value.
        if let Ok(path) = path.parse() {
            *request.uri_mut() = path;
        }
        let host = self.settings.tls.as_ref().and_then(|tls| tls.name.clone());
        let host = host.unwrap_or_else(|| self.settings.endpoint.to_string());
        if let Ok(host) = host.parse() {
            request.headers_mut().insert(header::HOST, host);
        }
        let own = [
            (header::CONTENT_TYPE, "application/x-protobuf"),
            (header::USER_AGENT, concat!("ripstop/", env!("CARGO_PKG_VERSION"))),
        ];
        for (name, value) in own {
            request.headers_mut().insert(name, header::HeaderValue::from_static(value));
        }
        request
    }
}

/// Partial success (OTLP/HTTP, section Success): what is not understood rejects nothing.
fn rejected(signal: Signal, said: &[u8]) -> u64 {
    let rejected = match signal {
        Signal::Traces => {
            let said = ExportTraceServiceResponse::decode(said).ok().and_then(|said| said.partial_success);
            said.map(|partial| partial.rejected_spans)
        }
        Signal::Logs => {
            let said = ExportLogsServiceResponse::decode(said).ok().and_then(|said| said.partial_success);
            said.map(|partial| partial.rejected_log_records)
        }
    };
    rejected.and_then(|rejected| u64::try_from(rejected).ok()).unwrap_or(0)
}

/// Whole seconds (RFC 9110 section 10.2.3); a date is not worth a clock.
fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}
