//! A stand-in for SPIRE's agent, which no package has: the X.509 part of the Workload API, made of its protobuf (SPIFFE Workload
//! API, section 5.2), on a Unix socket. What it hands out is what the test says; CAs and SVIDs are rcgen's.

use futures::{FutureExt as _, stream};
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    path::PathBuf,
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    net::UnixListener,
    runtime::Builder,
    sync::{oneshot, watch},
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, BoxStream, Service, http, tokio_stream::wrappers::UnixListenerStream},
    server::{Grpc, ServerStreamingService},
    transport::Server,
};
use tonic_prost::ProstCodec;

/// The one method that is served.
const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Without it a request is refused, as it could come from a page that a browser was sent to (SPIFFE Workload Endpoint, section 3).
const SECURITY_HEADER: &str = "workload.spiffe.io";

#[derive(Clone, PartialEq, Message)]
struct X509SvidRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

#[derive(Clone, PartialEq, Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// A CA of a trust domain.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// An SVID that was made an hour ago, is good for so long, and comes with these CAs as the bundle.
    pub fn svid(&self, id: &str, serial: u64, left: Duration, bundle: &[&Self]) -> X509Svid {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.serial_number = Some(serial.into());
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(3_600);
        params.not_after = OffsetDateTime::now_utc() + left;
        let key = KeyPair::generate().unwrap();
        X509Svid {
            spiffe_id: id.into(),
            x509_svid: params.signed_by(&key, &self.0).unwrap().der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: bundle.iter().flat_map(|ca| ca.0.der().to_vec()).collect(),
            hint: String::new(),
        }
    }
}

/// What is handed out; nothing where the agent that asks is registered for nothing.
type Offer = Option<Vec<X509Svid>>;

/// The server of one host, on and off as the test says.
pub struct StandIn {
    socket: PathBuf,
    offer: watch::Sender<Offer>,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl StandIn {
    /// Off, with nothing to hand out.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket, offer: watch::Sender::new(None), serving: None }
    }

    /// What it hands out from now on, which whoever listens is sent at once.
    pub fn offer(&self, svids: Vec<X509Svid>) {
        self.offer.send_replace(Some(svids));
    }

    /// From now on nobody is registered.
    pub fn deny(&self) {
        self.offer.send_replace(None);
    }

    pub fn on(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let (stop, stopped) = oneshot::channel();
        let (socket, api) = (self.socket.clone(), Api(self.offer.subscribe()));
        let (bound, binding) = std::sync::mpsc::sync_channel(1);
        let body = move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
                bound.send(()).unwrap();
                let serving = Server::builder().serve_with_incoming(api, listener);
                tokio::select! {
                    served = serving => served.unwrap(),
                    _ = stopped => {}
                }
            });
        };
        self.serving = Some((stop, thread::spawn(body)));
        binding.recv().unwrap();
    }

    /// Ends it with all its connections, and leaves its socket, as a crash would.
    pub fn off(&mut self) {
        if let Some((stop, thread)) = self.serving.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.off();
    }
}

#[derive(Clone)]
struct Api(watch::Receiver<Offer>);

impl Service<http::Request<Body>> for Api {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = self.clone();
        async move {
            match request.uri().path() {
                FETCH => Ok(Grpc::new(ProstCodec::new()).server_streaming(api, request).await),
                other => Ok(Status::unimplemented(other).into_http()),
            }
        }
        .boxed()
    }
}

impl ServerStreamingService<X509SvidRequest> for Api {
    type Response = X509SvidResponse;
    type ResponseStream = BoxStream<X509SvidResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<X509SvidRequest>) -> Self::Future {
        let offer = self.0.clone();
        let secure = request.metadata().get(SECURITY_HEADER).is_some_and(|value| value == "true");
        async move {
            if !secure {
                return Err(Status::invalid_argument("security header missing from request"));
            }
            let messages = stream::unfold((offer, false), message);
            Ok(Response::new(Box::pin(messages) as BoxStream<X509SvidResponse>))
        }
        .boxed()
    }
}

type Follower = (watch::Receiver<Offer>, bool);

/// What is there at first, and then each change.
async fn message((mut offer, changes): Follower) -> Option<(Result<X509SvidResponse, Status>, Follower)> {
    if changes {
        offer.changed().await.ok()?;
    }
    let now = offer.borrow_and_update().clone();
    let message = match now {
        Some(svids) => Ok(X509SvidResponse { svids, federated_bundles: BTreeMap::new() }),
        None => Err(Status::permission_denied("no identity issued")),
    };
    Some((message, (offer, true)))
}
