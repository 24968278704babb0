//! Peers that do what no agent of ours does, on bare quinn.

use crate::lab::{Fabric, Files, Host, accepted, echo, eventually, header, name, refusal, session, within};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadError, ServerConfig, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use ripstop_config::Reason;
use ripstop_transport::{ALPN, AnswerError, HEADER_WAIT, HeaderError, SessionHeader, VERDICT_WRITE, code};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    version::TLS13,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Takes any server.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(m, c, d, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(m, c, d, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A QUIC endpoint with any certificate, or none, that checks nothing.
pub(crate) struct Raw(Endpoint, ClientConfig);

impl Raw {
    pub(crate) fn new(files: Option<&Files>) -> Self {
        Self::with(files, &[ALPN], aws_lc_rs::default_provider())
    }

    pub(crate) fn with(files: Option<&Files>, protocols: &[&[u8]], provider: CryptoProvider) -> Self {
        let provider = Arc::new(provider);
        let protocols: Vec<_> = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let pair = || {
            files.map(|files| {
                let certificate = CertificateDer::from_pem_file(&files.certificate).unwrap();
                (vec![certificate], PrivateKeyDer::from_pem_file(&files.key).unwrap())
            })
        };
        let client = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible(provider.clone())));
        let mut client = match pair() {
            Some((chain, key)) => client.with_client_auth_cert(chain, key).unwrap(),
            None => client.with_no_client_auth(),
        };
        client.alpn_protocols.clone_from(&protocols);
        let server = pair().map(|(chain, key)| {
            let server = rustls::ServerConfig::builder_with_provider(provider.clone());
            let server = server.with_protocol_versions(&[&TLS13]).unwrap().with_no_client_auth();
            let mut server = server.with_single_cert(chain, key).unwrap();
            server.alpn_protocols = protocols;
            ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()))
        });
        let local = "127.0.0.1:0".parse().unwrap();
        let mut endpoint = match server {
            Some(server) => Endpoint::server(server, local).unwrap(),
            None => Endpoint::client(local).unwrap(),
        };
        let client = QuicClientConfig::try_from(client).unwrap();
        let client = ClientConfig::new(Arc::new(client));
        endpoint.set_default_client_config(client.clone());
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move {
                    if let Ok(c) = incoming.await {
                        c.closed().await;
                    }
                });
            }
        });
        Self(endpoint, client)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) async fn connect(&self, to: SocketAddr) -> Connection {
        self.0.connect(to, "any").unwrap().await.unwrap()
    }

    /// A connection on which the other side may send `window` bytes a stream.
    async fn connect_granting(&self, to: SocketAddr, window: u32) -> Connection {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(window.into());
        let mut client = self.1.clone();
        client.transport_config(Arc::new(transport));
        self.0.connect_with(client, to, "any").unwrap().await.unwrap()
    }

    /// The error with which the other side ends the attempt, during or right after the handshake.
    pub(crate) async fn rejected(&self, to: SocketAddr) -> ConnectionError {
        within(5, "the rejection", async {
            match self.0.connect(to, "any").unwrap().await {
                Ok(connection) => connection.closed().await,
                Err(error) => error,
            }
        })
        .await
    }
}

/// What the peer gave as its reason.
pub(crate) fn describe(error: ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
        ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
        other => other.to_string(),
    }
}

async fn attacked() -> (Fabric, Host, Connection) {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let connection = Raw::new(Some(&fabric.issue("mallory"))).connect(alpha.address).await;
    eventually("the attacker", Duration::from_secs(2), || alpha.transport.is_up(&name("mallory"))).await;
    (fabric, alpha, connection)
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let raw = Raw::with(Some(&fabric.issue("beta")), &[b"h3"], aws_lc_rs::default_provider());
    let why = describe(raw.rejected(alpha.address).await);
    assert!(why.contains("any known protocol"), "{why}");
}

#[tokio::test]
async fn the_suite_that_is_reported_is_the_one_in_use() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let suites = aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    // quinn cannot do without AES-128 for Initial packets, so it is offered last.
    let cipher_suites = vec![suites, aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() };
    let _connection = Raw::with(Some(&fabric.issue("beta")), &[ALPN], provider).connect(alpha.address).await;
    eventually("the peer", Duration::from_secs(2), || alpha.transport.is_up(&name("beta"))).await;
    let [status] = &alpha.transport.peers()[..] else { panic!("one peer") };
    assert_eq!(status.cipher.as_deref(), Some("TLS_CHACHA20_POLY1305_SHA256"));
}

#[tokio::test]
async fn bad_headers_are_answered_with_a_reset() {
    let (_fabric, mut alpha, connection) = attacked().await;
    let mut incoming = alpha.incoming.take().unwrap();
    let good = header().encode();
    let mut other_version = good.clone();
    other_version[2] = 9;
    let cases: [&[u8]; 5] =
        [&[0xff; 600], b"GET / HTTP/1.1\r\n\r\n", &[0, 0], &other_version, &[&[0, 4][..], &[1; 4]].concat()];
    for bytes in cases {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let error = incoming.next().await.unwrap().open().await.unwrap_err();
        assert!(matches!(error, HeaderError::Malformed(_)), "{error}");
        assert_eq!(error.reason(), Reason::Protocol);
        let reset = recv.read_chunk(1, true).await.unwrap_err();
        assert_eq!(reset, ReadError::Reset(code::PROTOCOL.into()));
    }
    // One that ends in the middle.
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&good[..20]).await.unwrap();
    send.finish().unwrap();
    assert!(matches!(incoming.next().await.unwrap().open().await, Err(HeaderError::Ended)));
    // The connection has not suffered.
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&good).await.unwrap();
    let session = session(incoming.next().await.unwrap()).await;
    assert_eq!(session.peer, name("mallory"));
    assert_eq!(SessionHeader::decode(&good[2..]).unwrap(), session.header);
}

#[tokio::test]
async fn streams_that_say_nothing_are_few_and_do_not_stay() {
    let (fabric, mut alpha, connection) = attacked().await;
    alpha.serve(echo);
    let mut silent = Vec::new();
    // As many as it is given places for: those are made as sessions take them, and none of these becomes one.
    let place = || tokio::time::timeout(Duration::from_millis(200), connection.open_bi());
    while let Ok(opened) = place().await {
        let (mut send, recv) = opened.unwrap();
        send.write_all(&[3]).await.unwrap(); // half a length
        silent.push((send, recv));
        assert!(silent.len() < 3_000, "streams that say nothing are given places without end");
    }
    assert!(silent.len() > 500, "{} places are fewer than a busy host needs", silent.len());
    // Another host is served at once meanwhile.
    let beta = fabric.host("beta");
    beta.dial(&[&alpha]);
    beta.up(&alpha).await;
    let opened = within(2, "an honest session", beta.transport.open(alpha.name(), &header())).await;
    opened.unwrap();
    // The attacker's first streams are reset when their time is over, the next ones after that.
    let (_, recv) = &mut silent[0];
    let reset = within(HEADER_WAIT.as_secs() + 2, "the reset", recv.read_chunk(1, true)).await.unwrap_err();
    assert_eq!(reset, ReadError::Reset(code::PROTOCOL.into()));
    let (_, last) = silent.last_mut().unwrap();
    let still_waiting = tokio::time::timeout(Duration::from_millis(100), last.read_chunk(1, true)).await;
    assert!(still_waiting.is_err(), "the limit of streams without a header does not hold");
}

#[tokio::test]
async fn a_peer_that_takes_no_verdict_does_not_hold_the_session() {
    let fabric = Fabric::new("shop.example");
    let mut alpha = fabric.host("alpha");
    let mut incoming = alpha.incoming.take().unwrap();
    let mallory = Raw::new(Some(&fabric.issue("mallory")));
    // The refusal's head fits, its detail does not.
    let connection = mallory.connect_granting(alpha.address, 8).await;
    let mut ends = Vec::new();
    for _ in 0..2 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&header().encode()).await.unwrap();
        ends.push((send, recv));
    }
    let first = session(incoming.next().await.unwrap()).await;
    let second = session(incoming.next().await.unwrap()).await;
    let both = async { tokio::join!(first.accept(accepted()), second.refuse(refusal(Reason::NoEdge, "a detail"))) };
    let (accepting, refusing) = within(VERDICT_WRITE.as_secs() + 1, "to give up", both).await;
    assert!(matches!(accepting, Err(AnswerError::Timeout)), "{accepting:?}");
    assert!(matches!(refusing, Err(AnswerError::Timeout)), "{refusing:?}");
    for ((_, recv), expected) in ends.iter_mut().zip([code::ABANDONED.into(), code::from_reason(Reason::NoEdge)]) {
        let end = async {
            loop {
                if let Err(error) = recv.read_chunk(100, true).await {
                    return error;
                }
            }
        };
        assert_eq!(within(1, "the reset", end).await, ReadError::Reset(expected));
    }
}

#[tokio::test]
async fn more_than_the_streams_allowed_cannot_be_opened() {
    let fabric = Fabric::new("shop.example");
    let settings =
        ripstop_transport::Settings { sessions: 8, ..ripstop_transport::Settings::listen(crate::lab::LOOPBACK) };
    let (alpha, _incoming, _reports) =
        ripstop_transport::Transport::bind(settings, fabric.issue("alpha").load().unwrap()).unwrap();
    let connection = Raw::new(Some(&fabric.issue("mallory"))).connect(alpha.local_address().unwrap()).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(connection.open_bi().await.unwrap());
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), connection.open_bi()).await.is_err());
    let mut messages = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), connection.open_uni()).await {
        messages.push(stream.unwrap());
    }
    assert_eq!(messages.len(), 40, "messages under way");
}

#[tokio::test]
async fn a_host_that_connects_over_and_over_keeps_few_connections() {
    let fabric = Fabric::new("shop.example");
    let alpha = fabric.host("alpha");
    let raw = Raw::new(Some(&fabric.issue("mallory")));
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(raw.connect(alpha.address).await);
    }
    let open = || connections.iter().filter(|connection| connection.close_reason().is_none()).count();
    eventually("the surplus to be closed", Duration::from_secs(3), || open() <= 5).await;
    assert!(open() >= 1);
    eventually("the rest to be closed", Duration::from_secs(8), || open() == 1).await;
    assert!(connections.last().unwrap().close_reason().is_none(), "the newest one stays");
}
