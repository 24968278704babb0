//! Takes connections and the streams on them.

use crate::{
    datagram,
    incoming::IncomingStream,
    link::{Dialled, HANDSHAKE_MAX, Link, describe},
    liveness, report,
    shared::{HANDSHAKES_MAX, Shared},
    status::Counters,
    table::Unwanted,
    unidirectional,
};
use quinn::Connecting;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time,
};

/// Connections in all; a fabric has a few per host, and each can hold its windows full of payload.
const CONNECTIONS_MAX: usize = 4_096;
/// Streams of one connection whose header has not arrived yet. A host that opens streams and says nothing waits here
/// behind itself; headers of a well-behaved one arrive with the streams.
const HEADERS_MAX: usize = 1_024;
/// How long a replaced connection is kept at least: until a host that lost the other one has noticed.
const RETIRED_MIN: Duration = Duration::from_secs(4);
/// How often to look whether a replaced connection is unused.
const RETIRED_POLL: Duration = Duration::from_millis(500);

/// It has to be seen unused so many times in a row, since a session may be about to be opened by the other host.
const RETIRED_LOOKS: u32 = 2;

/// Takes connections until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let free = shared.handshakes.available_permits();
        let permit = Arc::clone(&shared.handshakes).try_acquire_owned();
        let Ok(permit) = permit else {
            Counters::add(&shared.counters.handshakes_refused);
            incoming.ignore();
            continue;
        };
        if shared.endpoint.open_connections() >= CONNECTIONS_MAX {
            Counters::add(&shared.counters.handshakes_refused);
            incoming.refuse();
        } else if free < HANDSHAKES_MAX / 2 && incoming.may_retry() {
            // Under pressure only addresses that answer may go on (RFC 9000 section 8.1.2).
            let _ = incoming.retry();
        } else if let Ok(connecting) = incoming.accept() {
            shared.runtime.spawn(handshake(Arc::clone(&shared), connecting, permit));
        }
    }
}

async fn handshake(shared: Arc<Shared>, connecting: Connecting, permit: OwnedSemaphorePermit) {
    let address = connecting.remote_address();
    let taken = authenticated(&shared, connecting)
        .await
        .inspect_err(|_| Counters::add(&shared.counters.handshakes_failed))
        .and_then(|link| start(&shared, &Arc::new(link)).map_err(|why| why.to_string()));
    if let Err(why) = taken
        && let Some(left_out) = shared.turned_away.due(Instant::now())
    {
        tracing::warn!(%address, why, left_out, "turned away a host that dialled");
    }
    drop(permit);
}

async fn authenticated(shared: &Shared, connecting: Connecting) -> Result<Link, String> {
    let connection = match time::timeout(HANDSHAKE_MAX, connecting).await {
        Ok(connected) => connected.map_err(|error| describe(&error))?,
        Err(_) => return Err("it took too long".into()),
    };
    Link::new(connection, Dialled::ByPeer, shared).map_err(|why| why.to_string())
}

/// Takes in an authenticated connection and serves it until it ends, or closes it at once.
pub(crate) fn start(shared: &Arc<Shared>, link: &Arc<Link>) -> Result<(), Unwanted> {
    let registered = shared.table().register(&shared.host, link);
    let replaced = registered.inspect_err(|unwanted| {
        Counters::add(&shared.counters.connections_rejected);
        link.close(unwanted.code(), &unwanted.to_string());
    })?;
    Counters::add(&shared.counters.connections);
    tracing::info!(host = %link.host, dialled = ?link.dialled, cipher = link.cipher, "connected");
    shared.runtime.spawn(serve(Arc::clone(shared), Arc::clone(link)));
    if let Some(replaced) = replaced {
        Counters::add(&shared.counters.connections_replaced);
        shared.runtime.spawn(retire(Arc::clone(shared), replaced));
    }
    Ok(())
}

/// Has a replaced connection carry new sessions in place of the one that does.
pub(crate) fn prefer(shared: &Arc<Shared>, link: &Arc<Link>) {
    if let Some(replaced) = shared.table().prefer(link) {
        shared.runtime.spawn(retire(Arc::clone(shared), replaced));
    }
}

async fn serve(shared: Arc<Shared>, link: Arc<Link>) {
    // Aborted when this ends.
    let mut beside = JoinSet::new();
    beside.spawn(datagram::carry::small(Arc::clone(&link)));
    beside.spawn(datagram::carry::large(Arc::clone(&link)));
    beside.spawn(datagram::intake::small(Arc::clone(&shared), Arc::clone(&link)));
    beside.spawn(unidirectional::accept(Arc::clone(&shared), Arc::clone(&link)));
    beside.spawn(liveness::watch(Arc::clone(&shared), Arc::clone(&link)));
    beside.spawn(report::send(Arc::clone(&link), shared.report.subscribe()));
    tokio::select! {
        () = accept_streams(&shared, &link) => {}
        _ = link.connection.closed() => {}
    }
    let why = link.connection.closed().await;
    tracing::info!(host = %link.host, why = describe(&why), "disconnected");
    link.small.close();
    link.large.close();
    link.inbox.close();
    shared.table().ended(&link);
}

/// Hands on the peer's streams. When nobody takes them they wait, at most as many as the peer may open.
async fn accept_streams(shared: &Shared, link: &Arc<Link>) {
    let Some(incoming) = shared.incoming() else { return };
    let headers = Arc::new(Semaphore::new(HEADERS_MAX));
    while let Ok(permit) = Arc::clone(&headers).acquire_owned().await {
        let Ok(streams) = link.connection.accept_bi().await else { return };
        let stream = IncomingStream::new(link, streams, permit);
        link.make_room();
        let taken = incoming.send(stream).await;
        if taken.is_err() {
            return;
        }
    }
}

/// Closes a replaced connection when nothing is left on it, or leaves it alone when it has become the only one.
async fn retire(shared: Arc<Shared>, link: Arc<Link>) {
    time::sleep(RETIRED_MIN).await;
    let mut unused = 0;
    while link.is_open() && link.is_retired() {
        unused = if link.is_unused() { unused + 1 } else { 0 };
        if unused >= RETIRED_LOOKS {
            shared.table().close_replaced(&link);
        }
        time::sleep(RETIRED_POLL).await;
    }
}
