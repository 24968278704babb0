//! Which cipher suite a QUIC connection uses, and what protects its packets.
//!
//! All cryptography is aws-lc's but AES-GCM on packets where the processor has the wide AES instructions without
//! AVX-512 ([`is_wide_without_avx512`]): aws-lc passes them over there, ring does not, and takes half the time.
//!
//! quinn keeps the TLS connection to itself, so the suite is learnt where it shows: the suites of the provider here note
//! their name when they make packet keys, and [`Noted`] reads that note right after the one call in which rustls makes
//! the keys of a handshake, on the same thread. Nothing of this is on the path of a packet.

use quinn::{
    ConnectError, ConnectionId, Side,
    crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session, UnsupportedVersion},
};
use quinn_proto::{TransportError, transport_parameters::TransportParameters};
use rustls::{
    SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        aws_lc_rs::cipher_suite,
        cipher::{AeadKey, Iv},
        ring,
    },
    pki_types::CertificateDer,
    quic,
};
use std::{
    any::Any,
    cell::Cell,
    sync::{Arc, LazyLock},
};

/// Where no handshake has told the suite; a connection that is up always has one.
const UNKNOWN: &str = "TLS1.3";

thread_local! {
    static LAST: Cell<&'static str> = const { Cell::new(UNKNOWN) };
}

/// Notes its name when it makes packet keys; all else is the algorithm's.
struct Noting {
    name: &'static str,
    algorithm: &'static dyn quic::Algorithm,
}

impl quic::Algorithm for Noting {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn quic::PacketKey> {
        LAST.set(self.name);
        self.algorithm.packet_key(key, iv)
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn quic::HeaderProtectionKey> {
        self.algorithm.header_protection_key(key)
    }

    fn aead_key_len(&self) -> usize {
        self.algorithm.aead_key_len()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

/// The suites that are offered, best first: AES-128 is the fastest where the processor has AES instructions.
static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let is_wide = is_wide_without_avx512();
    let of = |usual, wide| if is_wide { wide } else { usual };
    let aes_128 = of(cipher_suite::TLS13_AES_128_GCM_SHA256, ring::cipher_suite::TLS13_AES_128_GCM_SHA256);
    let aes_256 = of(cipher_suite::TLS13_AES_256_GCM_SHA384, ring::cipher_suite::TLS13_AES_256_GCM_SHA384);
    let chacha20 = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    let named = [
        ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256, aes_128),
        ("TLS_CHACHA20_POLY1305_SHA256", chacha20, chacha20),
        ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384, aes_256),
    ];
    named.into_iter().filter_map(|(name, suite, packets)| noting(name, suite, packets)).collect()
});

/// Whether the processor has AES and carry-less multiplication on 256 bits at once, but not the AVX-512 with which alone
/// aws-lc uses them: AMD's Zen 3, and Intel's newer processors for clients.
#[cfg(target_arch = "x86_64")]
fn is_wide_without_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("vaes")
        && has!("vpclmulqdq")
        && has!("avx2")
        && !(has!("avx512f") && has!("avx512dq") && has!("avx512bw") && has!("avx512vl"))
}

#[cfg(not(target_arch = "x86_64"))]
fn is_wide_without_avx512() -> bool {
    false
}

/// The suite, made to note its name, with the other's protection of packets. Called once per suite and process: a suite
/// has to live for ever.
fn noting(name: &'static str, suite: SupportedCipherSuite, packets: SupportedCipherSuite) -> Option<Tls13CipherSuite> {
    let (suite, packets) = (suite.tls13()?, packets.tls13()?);
    let algorithm = Box::leak(Box::new(Noting { name, algorithm: packets.quic? }));
    let CipherSuiteCommon { suite: number, hash_provider, confidentiality_limit } = suite.common;
    Some(Tls13CipherSuite {
        common: CipherSuiteCommon { suite: number, hash_provider, confidentiality_limit },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: Some(algorithm),
    })
}

/// The suites to offer, in order.
pub(crate) fn offered() -> Vec<SupportedCipherSuite> {
    SUITES.iter().map(SupportedCipherSuite::Tls13).collect()
}

/// The suite whose keys protect QUIC's Initial packets (RFC 9001 section 5.2).
pub(crate) fn initial() -> Option<quic::Suite> {
    SUITES.first().and_then(Tls13CipherSuite::quic_suite)
}

/// What [`quinn::Connection::peer_identity`] holds for connections of this crate.
pub(crate) struct PeerIdentity {
    /// The peer's certificates, leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The negotiated suite.
    pub(crate) suite: &'static str,
}

/// Makes TLS sessions whose suite is known.
pub(crate) struct Noted<T>(pub(crate) Arc<T>);

impl crypto::ClientConfig for Noted<crypto::rustls::QuicClientConfig> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(NotedSession { inner, suite: UNKNOWN }))
    }
}

impl crypto::ServerConfig for Noted<crypto::rustls::QuicServerConfig> {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Box::new(NotedSession { inner: Arc::clone(&self.0).start_session(version, params), suite: UNKNOWN })
    }
}

struct NotedSession {
    inner: Box<dyn Session>,
    suite: &'static str,
}

impl Session for NotedSession {
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        LAST.set(UNKNOWN);
        let keys = self.inner.write_handshake(buf);
        if keys.is_some() {
            self.suite = LAST.get();
        }
        keys
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let chain = *self.inner.peer_identity()?.downcast().ok()?;
        Some(Box::new(PeerIdentity { chain, suite: self.suite }))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::quic::{Keys, Version};

    /// Seals with one key and opens with the other, of every length that a packet has.
    fn seal_and_open(sealing: &dyn quic::PacketKey, opening: &dyn quic::PacketKey) {
        for length in (0..300).chain([1_200, 1_452, 8_973, 65_000]) {
            let plain: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let (number, header) = (length as u64 + 7, [length as u8; 13]);
            let mut packet = plain.clone();
            let tag = sealing.encrypt_in_place(number, &header, &mut packet).unwrap();
            packet.extend_from_slice(tag.as_ref());
            let opened = opening.decrypt_in_place(number, &header, &mut packet.clone()).map(<[u8]>::to_vec);
            assert_eq!(opened.unwrap(), plain);
            packet[length / 2] ^= 1;
            assert!(opening.decrypt_in_place(number, &header, &mut packet).is_err(), "{length}");
        }
    }

    #[test]
    fn either_library_opens_what_the_other_has_sealed() {
        for (usual, wide, length) in [
            (cipher_suite::TLS13_AES_128_GCM_SHA256, ring::cipher_suite::TLS13_AES_128_GCM_SHA256, 16),
            (cipher_suite::TLS13_AES_256_GCM_SHA384, ring::cipher_suite::TLS13_AES_256_GCM_SHA384, 32),
        ] {
            let algorithm = |packets| noting("", usual, packets).unwrap().quic.unwrap();
            let algorithms = [algorithm(usual), algorithm(wide)];
            assert!(algorithms.iter().all(|algorithm| algorithm.aead_key_len() == length));
            for [here, there] in [algorithms, [algorithms[1], algorithms[0]]] {
                match length {
                    // A key of 16 bytes can only be had by way of QUIC's Initial keys, which are of AES-128.
                    16 => initial_keys(usual, here, there),
                    _ => {
                        let key = |of: &dyn quic::Algorithm| of.packet_key([7; 32].into(), [3; 12].into());
                        seal_and_open(&*key(here), &*key(there));
                        let mask = |of: &dyn quic::Algorithm| of.header_protection_key([9; 32].into());
                        hide_and_show(&*mask(here), &*mask(there));
                    }
                }
            }
        }
    }

    fn initial_keys(
        suite: SupportedCipherSuite,
        here: &'static dyn quic::Algorithm,
        there: &'static dyn quic::Algorithm,
    ) {
        let suite = suite.tls13().unwrap();
        let keys = |algorithm, side| Keys::initial(Version::V1, suite, algorithm, b"destination", side);
        let (here, there) = (keys(here, rustls::Side::Client), keys(there, rustls::Side::Server));
        seal_and_open(&*here.local.packet, &*there.remote.packet);
        hide_and_show(&*here.local.header, &*there.remote.header);
    }

    fn hide_and_show(hiding: &dyn quic::HeaderProtectionKey, showing: &dyn quic::HeaderProtectionKey) {
        let (sample, mut first, mut number) = ([5; 16], 0x41, [1, 2, 3, 4]);
        hiding.encrypt_in_place(&sample, &mut first, &mut number).unwrap();
        assert_ne!(number, [1, 2, 3, 4]);
        showing.decrypt_in_place(&sample, &mut first, &mut number).unwrap();
        assert_eq!(first, 0x41);
        // As many bytes as the first one says are the number.
        assert_eq!(number[..2], [1, 2]);
    }

    #[test]
    fn suites_are_what_they_are_called() {
        let names = offered().into_iter().map(|suite| format!("{:?}", suite.suite()).replace("TLS13", "TLS"));
        let noted = offered().into_iter().map(|suite| {
            let suite = suite.tls13().unwrap();
            let algorithm = suite.quic.unwrap();
            LAST.set(UNKNOWN);
            // Keys of QUIC's Initial packets are of AES-128, and another suite would not take them.
            if algorithm.aead_key_len() == 16 {
                Keys::initial(Version::V1, suite, algorithm, b"destination", rustls::Side::Client);
                assert_eq!(LAST.get(), "TLS_AES_128_GCM_SHA256");
            }
            algorithm.aead_key_len()
        });
        let expected = ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384"];
        assert_eq!(names.collect::<Vec<_>>(), expected);
        assert_eq!(noted.collect::<Vec<_>>(), [16, 32, 32]);
    }
}
