//! `/metrics`, `/livez` and `/readyz`, on an address of their own.
//!
//! The agent runs this on a thread apart from sessions, so that a scrape never costs a packet.

use super::{process, web};
use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;

/// Between two clean-ups of histogram samples; Prometheus scrapes more seldom, so that their number stays small.
const UPKEEP: Duration = Duration::from_secs(5);
/// The text format's version (Prometheus exposition formats, "text-based format").
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why an address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something else listens there.
    #[error("{0}: port in use; stop what listens there, or choose another address with `{1}:`")]
    InUse(SocketAddr, &'static str),
    /// The address is not of this machine, or may not be used.
    #[error("cannot listen on {0}; choose another address with `{1}:`")]
    Other(SocketAddr, &'static str, #[source] io::Error),
}

/// Takes the metrics address.
///
/// # Errors
/// [`BindError`] when it cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    bind_as(address, "metrics").await
}

/// Takes an address that a setting of this name gives.
///
/// # Errors
/// [`BindError`] when it cannot be had.
pub async fn bind_as(address: SocketAddr, setting: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address, setting),
        _ => BindError::Other(address, setting, error),
    })
}

/// Answers scrapes and probes, and has [`upkeep`] run. Runs until it is dropped.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, readiness: Readiness) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .with_state(metrics.clone())
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready).with_state(readiness))
        .layer(DefaultBodyLimit::max(web::BODY_BYTES));
    tokio::join!(web::serve_tcp(listener, router), upkeep(metrics));
}

/// Keeps histogram samples from piling up between scrapes. Runs until it is dropped.
pub async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

async fn scrape(State(metrics): State<PrometheusHandle>) -> Response {
    process::sample();
    ([(header::CONTENT_TYPE, EXPOSITION)], metrics.render()).into_response()
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let waiting = readiness.waiting_for();
    if waiting.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", waiting.join(", "))).into_response()
}

/// What the agent still waits for before it is ready. Clones share one state; ready when no [`Unready`] is held.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Readiness {
    /// Ready, until somebody [`hold`](Self::hold)s it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready for as long as the guard lives; `what` is shown by `/readyz`, such as `policy` or `stopping`.
    pub fn hold(&self, what: &'static str) -> Unready {
        *self.lock().entry(what).or_default() += 1;
        Unready { readiness: self.clone(), what }
    }

    /// What is waited for, in order of the alphabet; empty when ready.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps `/readyz` from saying ready until it is dropped.
#[derive(Debug)]
#[must_use = "the agent is ready once this is dropped"]
pub struct Unready {
    readiness: Readiness,
    what: &'static str,
}

impl Drop for Unready {
    fn drop(&mut self) {
        let mut held = self.readiness.lock();
        let Some(count) = held.get_mut(self.what) else { return };
        *count -= 1;
        if *count == 0 {
            held.remove(self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruments;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_probes_are_served() {
        let recorder = instruments::recorder().unwrap();
        metrics::with_local_recorder(&recorder, instruments::build_info);
        let readiness = Readiness::new();
        let policy = readiness.hold("policy");
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, recorder.handle(), readiness));

        let page = ask(address, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("version=0.0.4"), "{page}");
        assert!(page.contains("ripstop_build_info{version="), "{page}");
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let waiting = ask(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.contains("not ready: policy"), "{waiting}");
        drop(policy);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }

    #[tokio::test]
    async fn a_port_in_use_is_said_plainly() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err().to_string();
        assert!(error.contains("port in use") && error.contains("`metrics:`"), "{error}");
    }

    #[test]
    fn ready_only_when_every_guard_is_dropped() {
        let readiness = Readiness::new();
        let (one, two) = (readiness.hold("policy"), readiness.hold("policy"));
        drop(one);
        assert_eq!(readiness.waiting_for(), ["policy"]);
        drop(two);
        assert!(readiness.waiting_for().is_empty());
    }
}
