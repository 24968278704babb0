//! HTTP/3 through the fabric: an application that brings a QUIC of its own, with its own keys, path MTU discovery and
//! segmentation offload.

use crate::{
    lab::{Lab, within},
    pattern,
};
use axum::http;
use bytes::{Buf, Bytes};
use h3::server::RequestResolver;
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 443/udp }
    allow:
      - { from: web, to: api }
";
const NAME: &str = "api.shop.lab.test";
/// Length of the answer.
const BYTES: u64 = 5_000_000;

fn run<F: Future>(work: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work().await })
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>) -> Endpoint {
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).unwrap()
}

/// What both ends need to know of each other: a certificate of the application's own.
fn configurations() -> (ServerConfig, ClientConfig) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = [&rustls::version::TLS13];
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions);
    let mut server =
        server.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap();
    server.alpn_protocols = vec![b"h3".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let mut client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h3".to_vec()];
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server).unwrap();
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
    (ServerConfig::with_crypto(Arc::new(server)), ClientConfig::new(Arc::new(client)))
}

/// Answers every request of every connection, until its endpoint is gone.
async fn serve(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = h3_quinn::Connection::new(incoming.await.unwrap());
            let mut connection = h3::server::Connection::new(connection).await.unwrap();
            while let Ok(Some(request)) = connection.accept().await {
                tokio::spawn(answer(request));
            }
        });
    }
}

async fn answer(request: RequestResolver<h3_quinn::Connection, Bytes>) {
    let (_, mut stream) = request.resolve_request().await.unwrap();
    let mut body = Vec::new();
    pattern::write(&mut body, BYTES, 3).unwrap();
    stream.send_response(http::Response::new(())).await.unwrap();
    stream.send_data(body.into()).await.unwrap();
    stream.finish().await.unwrap();
}

/// Fetches so many documents on one connection, one after the other, and returns their bytes.
async fn fetch(endpoint: &Endpoint, to: SocketAddr, times: usize) -> Vec<Vec<u8>> {
    let connection = endpoint.connect(to, NAME).unwrap().await.unwrap();
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    let driving = tokio::spawn(async move { driver.wait_idle().await });
    let mut documents = Vec::new();
    for _ in 0..times {
        let request = http::Request::get(format!("https://{NAME}/")).body(()).unwrap();
        let mut stream = requests.send_request(request).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut document = Vec::new();
        while let Some(mut piece) = stream.recv_data().await.unwrap() {
            document.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        documents.push(document);
    }
    drop(requests);
    driving.abort();
    documents
}

#[test]
fn http3_of_an_application_s_own() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let (server, client) = configurations();
    let listener = lab.workload("api").inside(|| UdpSocket::bind("[::]:443").unwrap());
    thread::spawn(move || run(|| async { serve(endpoint(listener, Some(server))).await }));
    for (to, local) in [(lab.service("shop/api", 443), "0.0.0.0:0"), (lab.service_v6("shop/api", 443), "[::]:0")] {
        let socket = lab.workload("web").inside(|| UdpSocket::bind(local).unwrap());
        let client = client.clone();
        let documents = run(|| async {
            let mut endpoint = endpoint(socket, None);
            endpoint.set_default_client_config(client);
            fetch(&endpoint, to, 3).await
        });
        assert_eq!(documents.len(), 3);
        for document in documents {
            assert_eq!(pattern::read_to_end(&document[..], 3).unwrap(), BYTES, "every byte, through {to}");
        }
    }
    // A session whose client is gone may have its record already, as its endpoint's next datagram was refused, or be on the
    // way there.
    within(Duration::from_secs(5), "all bytes to be accounted for", || {
        let mut sessions = lab.agent("alpha").records();
        sessions.extend(lab.agent("alpha").admin("/v1/sessions").unwrap().as_array().unwrap().iter().cloned());
        sessions.iter().filter_map(|session| session["bytes_down"].as_u64()).sum::<u64>() > 6 * BYTES
    });
}
