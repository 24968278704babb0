//! A fabric in one process: a CA in memory, hosts on loopback.

use ripstop_config::{FabricName, HostName, Reason};
use ripstop_transport::{
    Accepted, Identity, Incoming, IncomingSession, IncomingStream, Opening, PeerState, Refusal, Reports, SessionHeader,
    SessionId, Settings, Transport,
    pki::{Authority, HOST_VALIDITY_MIN},
};
use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(crate) fn name(text: &str) -> HostName {
    HostName::new(text).unwrap()
}

/// One CA and a directory for what it issues.
pub(crate) struct Fabric {
    pub(crate) authority: Authority,
    directory: TempDir,
}

/// The files of an identity.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

impl Files {
    pub(crate) fn load(&self) -> Result<Identity, ripstop_transport::IdentityError> {
        Identity::load(&self.certificate, &self.key, &self.ca)
    }
}

impl Fabric {
    pub(crate) fn new(fabric: &str) -> Self {
        let authority = Authority::create(&FabricName::new(fabric).unwrap()).unwrap();
        Self { authority, directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn write(&self, stem: &str, certificate: &str, key: &str) -> Files {
        let path = |end: &str| self.path(&format!("{stem}{end}"));
        let files = Files { certificate: path(".pem"), key: path(".key"), ca: self.path("ca.pem") };
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.ca, self.authority.certificate_pem()).unwrap();
        write_private(&files.key, key);
        files
    }

    pub(crate) fn issue(&self, host: &str) -> Files {
        let issued = self.authority.issue_host(&name(host), HOST_VALIDITY_MIN).unwrap();
        self.write(host, &issued.certificate_pem, &issued.key_pem)
    }

    /// Issues whatever is asked for, as no honest CA would.
    pub(crate) fn forge(&self, stem: &str, edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Files {
        let pem = self.authority.to_pem();
        let ca_key = rcgen::KeyPair::from_pem(&pem.key_pem).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&pem.certificate_pem, ca_key).unwrap();
        let mut params = rcgen::CertificateParams::default();
        edit(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        self.write(stem, &certificate.pem(), &key.serialize_pem())
    }

    pub(crate) fn host(&self, host: &str) -> Host {
        Host::start(self.issue(host).load().unwrap(), LOOPBACK)
    }

    /// Two hosts that know each other; the first one dials.
    pub(crate) async fn pair(&self, dialler: &str, dialled: &str) -> (Host, Host) {
        let (a, b) = (self.host(dialler), self.host(dialled));
        a.dial(&[&b]);
        a.up(&b).await;
        b.up(&a).await;
        (a, b)
    }
}

pub(crate) fn uri(params: &mut rcgen::CertificateParams, uris: &[&str]) {
    params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
}

pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A transport and what arrives at it.
pub(crate) struct Host {
    pub(crate) transport: Transport,
    pub(crate) incoming: Option<Incoming>,
    pub(crate) reports: Reports,
    pub(crate) address: SocketAddr,
}

impl Host {
    pub(crate) fn start(identity: Identity, listen: SocketAddr) -> Self {
        Self::with(Settings::listen(listen), identity)
    }

    pub(crate) fn with(settings: Settings, identity: Identity) -> Self {
        let (transport, incoming, reports) = Transport::bind(settings, identity).unwrap();
        let address = transport.local_address().unwrap();
        Self { transport, incoming: Some(incoming), reports, address }
    }

    pub(crate) fn name(&self) -> &HostName {
        self.transport.host()
    }

    pub(crate) fn dial(&self, others: &[&Host]) {
        let peers: BTreeMap<_, _> = others.iter().map(|other| (other.name().clone(), other.address)).collect();
        self.transport.set_peers(peers);
    }

    pub(crate) async fn up(&self, other: &Host) {
        eventually("a connection", Duration::from_secs(5), || self.transport.is_up(other.name())).await;
    }

    /// Why the other host is down, once it is, for another reason than not having been dialled.
    pub(crate) async fn down(&self, other: &str) -> String {
        let why = || {
            self.transport.peers().into_iter().find_map(|peer| match peer.state {
                PeerState::Down { reason } if peer.host == name(other) => Some(reason),
                PeerState::Down { .. } | PeerState::Silent | PeerState::Up | PeerState::Connecting => None,
            })
        };
        eventually("the peer to be down", Duration::from_secs(8), || why().is_some()).await;
        why().unwrap()
    }

    /// Serves every session with `serve`, each in its own task.
    pub(crate) fn serve<F, S>(&mut self, serve: F)
    where
        F: Fn(IncomingSession) -> S + Send + Sync + Clone + 'static,
        S: Future<Output = ()> + Send,
    {
        let mut incoming = self.incoming.take().expect("served once");
        tokio::spawn(async move {
            while let Some(stream) = incoming.next().await {
                let serve = serve.clone();
                tokio::spawn(async move {
                    if let Ok(Opening::Session(session)) = stream.open().await {
                        serve(session).await;
                    }
                });
            }
        });
    }

    pub(crate) fn serve_echo(&mut self) {
        self.serve(echo);
    }
}

/// Accepts and sends everything back.
pub(crate) async fn echo(session: IncomingSession) {
    let Ok((mut send, mut recv)) = session.accept(accepted()).await else { return };
    while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
        if send.write_chunk(chunk.bytes).await.is_err() {
            return;
        }
    }
    let _ = send.finish();
}

/// The session that a stream begins with.
pub(crate) async fn session(stream: IncomingStream) -> IncomingSession {
    match stream.open().await.unwrap() {
        Opening::Session(session) => session,
        Opening::Request(request) => panic!("a request, {request:?}"),
    }
}

pub(crate) fn accepted() -> Accepted {
    Accepted { endpoint: "beta 127.0.0.1:8080".into(), load: 7 }
}

pub(crate) fn refusal(reason: Reason, detail: &str) -> Refusal {
    Refusal { reason, detail: detail.into() }
}

pub(crate) fn header() -> SessionHeader {
    SessionHeader {
        session: SessionId::random(),
        caller: "shop/web".parse().unwrap(),
        service: "shop/api".parse().unwrap(),
        port: "8080/tcp".parse().unwrap(),
        policy: *b"policy01",
        version: ripstop_config::PolicyVersion { epoch: 1, counter: 7 },
        purpose: ripstop_transport::Purpose::Session,
        v6: false,
        source_port: 40_001,
        trace: Some([9; 24]),
    }
}

pub(crate) async fn eventually(what: &str, within: Duration, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < within, "waited {within:?} for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A whole test's limit, so that a hang is a failure with a line number.
pub(crate) async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), future).await.unwrap_or_else(|_| panic!("{what} took over {seconds} s"))
}
