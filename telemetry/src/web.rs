//! A small HTTP/1.1 server (RFC 9112) whose every wait and size is bounded, for a page that few clients ask for.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Connections served at once by one listener; more wait in the kernel's queue. A few scrapers and people.
const CONNECTIONS_MAX: usize = 64;
/// Time in which a request's head must arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest life of a connection: a scraper's interval is below it, and one that hangs gives its place back.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a request's head. hyper's least is 8 KiB.
const HEAD_BYTES: usize = 16 * 1024;
/// Bytes of a request's body: no request here has more than a few words.
pub const BODY_BYTES: usize = 64 * 1024;
/// Wait after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `router` on a TCP listener. Runs until it is dropped.
pub async fn serve_tcp(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, router.clone(), place))),
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Serves each peer of a Unix socket what `admit` says; the permit that comes with it is given back when the connection
/// ends. Runs until it is dropped.
pub async fn serve_unix(
    listener: UnixListener,
    admit: impl Fn(&UnixStream) -> Option<(Router, Option<OwnedSemaphorePermit>)>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some((router, permit)) = admit(&stream) {
                    tokio::spawn(connection(stream, router, (place, permit)));
                }
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "cannot accept an HTTP connection");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

async fn connection<S>(stream: S, router: Router, _places: impl Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_one(stream, router).await;
}

/// Serves `router` on one connection until it ends, for a bounded time.
pub async fn serve_one(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
    let serving = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended early"),
        Err(_) => tracing::debug!("an HTTP connection was open for too long"),
    }
}
