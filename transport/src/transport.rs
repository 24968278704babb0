//! The handle that the agent holds.

use crate::{
    code,
    control::{self, AskError},
    dial,
    generations::Ids,
    handed::{Datagrams, Foreign},
    header::SessionHeader,
    identity::Identity,
    incoming::{INCOMING_QUEUE, Incoming},
    report::{REPORT_MAX, Reports},
    serve,
    session::{self, OpenError, Opened},
    settings::Settings,
    shared::Shared,
    socket::Socket,
    status::{Counts, PeerStatus},
    table::Revoked,
    tls::TlsError,
    verdict::Accepted,
};
use bytes::Bytes;
use quinn::{Endpoint, TokioRuntime};
use ripstop_config::{FabricName, HostName};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::mpsc};

/// Why a transport could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Someone listens there already.
    #[error("the UDP address {0} is in use: does another agent run? See `ss -ulpn`, or choose another `listen:`")]
    InUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("failed to listen on the UDP address {address}: is it an address of this host?")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The identity does not make a TLS configuration.
    #[error("the host's identity cannot be used for TLS")]
    Tls(#[from] TlsError),
}

/// Why a certificate does not take the place of the one before.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It is of another host or fabric.
    #[error("the new certificate is of host `{0}` of `{1}`")]
    Another(HostName, FabricName),
    /// It does not make a TLS configuration.
    #[error("the new certificate cannot be used for TLS")]
    Tls(#[from] TlsError),
}

/// This host's end of the connections to all others. Clones are the same transport; dropping the last one closes it.
#[derive(Debug, Clone)]
pub struct Transport(Arc<Owner>);

/// Closes the transport when the last handle goes; its tasks hold [`Shared`] only.
#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Transport {
    /// Opens the UDP socket and starts taking connections. Called inside a tokio runtime with I/O and time. All tasks of
    /// the transport, and of its connections, run on that runtime, whichever thread calls the methods below.
    ///
    /// # Errors
    /// [`BindError`]; nothing is left behind.
    pub fn bind(settings: Settings, identity: Identity) -> Result<(Self, Incoming, Reports), BindError> {
        let socket =
            Socket::bind(settings.listen, settings.mtu(), Ids::new(identity.endpoint_keys().connection_ids, 0));
        Self::start(settings, identity, socket, 0)
    }

    fn start(
        settings: Settings,
        identity: Identity,
        socket: io::Result<Arc<Socket>>,
        generation: u8,
    ) -> Result<(Self, Incoming, Reports), BindError> {
        let address = settings.listen;
        let server = settings.server(&identity)?;
        let bound = socket.and_then(|socket| {
            let (config, under) = (settings.endpoint(&identity, generation), Arc::clone(&socket) as _);
            let runtime = Arc::new(TokioRuntime);
            Endpoint::new_with_abstract_socket(config, Some(server), under, runtime).map(|endpoint| (endpoint, socket))
        });
        let (endpoint, socket) = bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            _ => BindError::Socket { address, source },
        })?;
        let (queue, incoming) = mpsc::channel(INCOMING_QUEUE);
        let shared = Arc::new(Shared::new(endpoint, socket, identity, settings, queue, Handle::current()));
        shared.runtime.spawn(serve::accept(Arc::clone(&shared)));
        let reports = Reports(Arc::clone(&shared.reports));
        Ok((Self(Arc::new(Owner(shared))), Incoming(incoming), reports))
    }

    /// Opens a transport on the socket of another agent of this host, which has handed it over: that one's connections go on.
    /// `generation` is another one than its. `foreign` takes what arrives for it. Otherwise as [`Transport::bind`].
    ///
    /// # Errors
    /// [`BindError`]; the other agent may go on.
    pub fn inherit(
        settings: Settings,
        identity: Identity,
        socket: UdpSocket,
        generation: u8,
        foreign: Foreign,
    ) -> Result<(Self, Incoming, Reports), BindError> {
        let socket =
            Socket::inherit(socket, settings.mtu(), Ids::new(identity.endpoint_keys().connection_ids, generation));
        if let Ok(socket) = &socket {
            socket.set_foreign(Some(foreign));
        }
        Self::start(settings, identity, socket, generation)
    }

    /// Hands the socket to another agent of this host: it is not read here any more, and nobody is dialled; connections go on
    /// with what is [delivered](Transport::deliver). May be called from any thread.
    ///
    /// # Errors
    /// What the system says; nothing has changed.
    pub fn hand_over(&self) -> io::Result<UdpSocket> {
        let shared = self.shared();
        let descriptor = shared.socket.descriptor()?;
        shared.table().hand_over(true);
        shared.socket.handed().set(true);
        Ok(descriptor)
    }

    /// Undoes [`Transport::hand_over`]; [`Transport::set_peers`] says whom to dial again.
    pub fn take_back(&self) {
        self.shared().table().hand_over(false);
        self.shared().socket.handed().set(false);
    }

    /// Takes datagrams that another agent of this host has read; nothing unless the socket was handed over.
    pub fn deliver(&self, datagrams: &Datagrams<'_>) {
        self.shared().socket.handed().deliver(datagrams);
    }

    /// The other agent has ended: what is its own is answered with a stateless reset from now on.
    pub fn inherit_alone(&self) {
        self.shared().socket.set_foreign(None);
    }

    /// Dials hosts until each was connected once, whoever dialled: those that the other agent was connected with, so that they
    /// open new sessions to this one. Those that [`Transport::set_peers`] names are dialled anyway.
    pub fn reconnect(&self, peers: BTreeMap<HostName, SocketAddr>) {
        let dialled = self.shared().table().dialled();
        for (host, address) in peers.into_iter().filter(|(host, _)| !dialled.contains_key(host)) {
            self.shared().runtime.spawn(dial::connect_once(Arc::clone(self.shared()), host, address));
        }
    }

    /// This host, by its certificate.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.shared().host
    }

    /// The fabric, by its certificate.
    #[must_use]
    pub fn fabric(&self) -> &FabricName {
        &self.shared().fabric
    }

    /// The identity that connections begin with.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared().identity()
    }

    /// Takes another certificate of this host: connections that are made from here on show it; those that are open stay as
    /// they are, with their sessions. Only where it trusts other CAs, connections are closed with [`code::REVOKED`] on the spot
    /// that were made with a certificate for which none of these vouches. The keys of the endpoint stay those of the first
    /// identity. May be called from any thread.
    ///
    /// # Errors
    /// [`RenewError`]; the former identity stays.
    pub fn renew(&self, identity: Identity) -> Result<(), RenewError> {
        let shared = self.shared();
        if *identity.host() != shared.host || *identity.fabric() != shared.fabric {
            return Err(RenewError::Another(identity.host().clone(), identity.fabric().clone()));
        }
        shared.endpoint.set_server_config(Some(shared.settings.server(&identity)?));
        let roots = (!identity.trusts_as(&shared.identity())).then(|| Arc::clone(identity.roots()));
        shared.set_identity(identity);
        if let Some(roots) = roots {
            shared.table().trust(roots, Instant::now());
        }
        Ok(())
    }

    /// Says which certificates and hosts are revoked. Connections of theirs are closed with [`code::REVOKED`] on the spot,
    /// with all sessions on them, and others are not taken, whoever dials. What is not among them any more may connect
    /// again. May be called from any thread.
    pub fn revoke(&self, revoked: Revoked) {
        self.shared().table().revoke(revoked);
    }

    /// Where it listens, with the port that the system chose if none was given.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.shared().endpoint.local_addr()
    }

    /// Says which hosts to dial. New ones are dialled at once and whenever nothing leads to them. One that is not among
    /// them any more is not dialled again; a connection to it stays, as it may carry sessions that the other host opens.
    /// This host itself is passed over. After [`Transport::close`] nothing is dialled any more. May be called from any
    /// thread.
    pub fn set_peers(&self, mut peers: BTreeMap<HostName, SocketAddr>) {
        let shared = self.shared();
        peers.remove(&shared.host);
        let mut table = shared.table();
        // With the table in hand, as closing takes the queue before it ends all dialling.
        if shared.incoming().is_none() || table.is_handed_over() {
            return;
        }
        let dialled = table.dialled();
        for host in dialled.keys().filter(|host| !peers.contains_key(*host)) {
            table.dial_no_more(host);
        }
        for (host, address) in peers {
            if dialled.get(&host) != Some(&address) {
                let task = shared.runtime.spawn(dial::keep_connected(Arc::clone(shared), host.clone(), address));
                table.dial(&host, address, task.abort_handle());
            }
        }
    }

    /// Says where hosts may be besides the address that [`Transport::set_peers`] has, for those that do not answer there, in place
    /// of what was said before. Who answers has to show the certificate of that host, so that it matters little who says it. The
    /// caller bounds how many there are. May be called from any thread.
    pub fn set_hints(&self, hints: BTreeMap<HostName, Vec<SocketAddr>>) {
        self.shared().table().set_hints(hints);
    }

    /// Says which hosts may be connected at all. Connections to others are closed with [`code::POLICY`] on the spot, with
    /// all sessions on them, and they are dialled no more; from here on, connections from or to others are closed so
    /// before anything is taken from them. Before the first call, every host of the fabric may connect. Call it before
    /// [`Transport::set_peers`] names a host that is new. May be called from any thread.
    pub fn retain_hosts(&self, hosts: &BTreeSet<HostName>) {
        self.shared().table().retain(hosts);
    }

    /// What is known of the other hosts, by name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared().table().statuses()
    }

    /// Where a connected host is seen; none when there is no connection to it.
    #[must_use]
    pub fn address_of(&self, host: &HostName) -> Option<SocketAddr> {
        self.shared().table().address_of(host)
    }

    /// Whether sessions can be opened to a host.
    #[must_use]
    pub fn is_up(&self, host: &HostName) -> bool {
        self.shared().table().is_up(host)
    }

    /// How many connections to other hosts there are, those included that another one has replaced.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared().table().connections()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared().counters.snapshot()
    }

    /// Opens a session to a host and waits for its verdict: at most [`session::CONNECT_WAIT`] for a connection, if one is
    /// being made, and [`session::VERDICT_WAIT`] for the verdict. May be dropped at any time; the serving agent is told.
    ///
    /// # Errors
    /// [`OpenError`], also when the verdict is a refusal.
    pub async fn open(&self, host: &HostName, header: &SessionHeader) -> Result<Opened, OpenError> {
        session::open(self.shared(), host, header).await
    }

    /// Asks a host whether an endpoint there would take such a session, with a header whose purpose is
    /// [`crate::Purpose::Echo`]. The answer takes one round trip on the same connection as sessions, and nothing is opened.
    /// Waits as [`Transport::open`] does, and may be dropped at any time.
    ///
    /// # Errors
    /// [`OpenError`], also when the verdict is a refusal.
    pub async fn echo(&self, host: &HostName, header: &SessionHeader) -> Result<Accepted, OpenError> {
        session::echo(self.shared(), host, header).await
    }

    /// Asks a host's agent something: `kind` and `body` are for it to understand, `limit` is the longest answer in bytes that
    /// is taken, `wait` the longest wait for it. May be called on any thread, and dropped at any time.
    ///
    /// # Errors
    /// [`AskError`], also when the host refuses.
    pub async fn ask(
        &self,
        host: &HostName,
        kind: u8,
        body: &[u8],
        limit: usize,
        wait: Duration,
    ) -> Result<Bytes, AskError> {
        let asking = control::ask(self.shared(), host, kind, body, limit);
        tokio::time::timeout(wait, asking).await.map_err(|_| AskError::Timeout).flatten()
    }

    /// Says what this host reports of itself: to every host that is connected, at once or within some 100 ms of the report
    /// before, and to each that connects later. A report replaces the one before. May be called from any thread.
    ///
    /// Nothing more is said once the socket was handed over. One longer than [`REPORT_MAX`] is not sent, which is logged: no host would take it.
    pub fn announce(&self, report: Bytes) {
        if report.len() > REPORT_MAX {
            tracing::error!(bytes = report.len(), limit = REPORT_MAX, "the host's report is too long to be sent");
            return;
        }
        if !self.shared().table().is_handed_over() {
            self.shared().report.send_replace(report);
        }
    }

    /// What this host reports of itself, and each time that it is something else. Empty until it was announced.
    #[must_use]
    pub fn announced(&self) -> tokio::sync::watch::Receiver<Bytes> {
        self.shared().report.subscribe()
    }

    /// Ends everything: open sessions on both hosts fail with [`code::SHUTDOWN`], and [`Incoming`] ends.
    pub fn close(&self) {
        close(self.shared());
    }

    /// After [`Transport::close`], waits until the other hosts have been told. The caller bounds the wait; a host that
    /// does not answer makes it some round trips long.
    pub async fn wait_idle(&self) {
        self.shared().endpoint.wait_idle().await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close(shared: &Shared) {
    shared.stop_incoming();
    shared.table().stop();
    shared.endpoint.close(code::SHUTDOWN.into(), b"the agent is stopping");
}
