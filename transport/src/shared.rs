//! What the tasks of one transport share.

use crate::{
    identity::Identity, incoming::IncomingStream, report::Waiting, settings::Settings, socket::Socket,
    sparing::Sparing, status::Counters, table::Table,
};
use bytes::Bytes;
use ripstop_config::{FabricName, HostName};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, watch},
};

/// Handshakes of dialling hosts under way at once; each costs some hundred µs of processor time and up to 5 s of memory.
pub(crate) const HANDSHAKES_MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoint: quinn::Endpoint,
    /// The endpoint's.
    pub(crate) socket: Arc<Socket>,
    identity: Mutex<Identity>,
    /// This host and its fabric, which no new certificate changes.
    pub(crate) host: HostName,
    pub(crate) fabric: FabricName,
    pub(crate) settings: Settings,
    pub(crate) counters: Counters,
    pub(crate) handshakes: Arc<Semaphore>,
    /// Where the transport was bound. All tasks are spawned here, and with them quinn's drivers of connections,
    /// whichever thread asked for them.
    pub(crate) runtime: Handle,
    /// For the log of hosts that were turned away.
    pub(crate) turned_away: Sparing,
    /// This host's report; empty while there is none.
    pub(crate) report: watch::Sender<Bytes>,
    /// Those of others.
    pub(crate) reports: Arc<Waiting>,
    table: Mutex<Table>,
    /// Where accepted streams go; `None` once closed.
    incoming: Mutex<Option<mpsc::Sender<IncomingStream>>>,
}

impl Shared {
    pub(crate) fn new(
        endpoint: quinn::Endpoint,
        socket: Arc<Socket>,
        identity: Identity,
        settings: Settings,
        incoming: mpsc::Sender<IncomingStream>,
        runtime: Handle,
    ) -> Self {
        Self {
            endpoint,
            socket,
            host: identity.host().clone(),
            fabric: identity.fabric().clone(),
            identity: Mutex::new(identity),
            settings,
            counters: Counters::default(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            runtime,
            turned_away: Sparing::default(),
            report: watch::Sender::default(),
            reports: Arc::default(),
            table: Mutex::default(),
            incoming: Mutex::new(Some(incoming)),
        }
    }

    /// The identity that connections begin with from here on.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// The table of peers. Held briefly, never across an await, and never per packet.
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn incoming(&self) -> Option<mpsc::Sender<IncomingStream>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets [`crate::Incoming`] end when the connections have, and [`crate::Reports`].
    pub(crate) fn stop_incoming(&self) {
        self.reports.close();
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
