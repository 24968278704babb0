use super::*;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use proptest::prelude::*;
use std::sync::LazyLock;

const GRAPH: &str = "\
fabric: shop.example
hosts: { alpha: {} }
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [alpha], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
";

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn key(&self) -> OperatorKey {
        OperatorKey(self.0.public_key().as_ref().try_into().unwrap())
    }

    fn sign(&self, envelope: &mut Envelope) {
        let signature = self.0.sign(&envelope.message()).as_ref().try_into().unwrap();
        envelope.sign(self.key(), signature).unwrap();
    }
}

fn verify(key: &OperatorKey, message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(message, signature).is_ok()
}

pub(super) fn fabric() -> FabricName {
    FabricName::new("shop.example").unwrap()
}

fn version(text: &str) -> PolicyVersion {
    text.parse().unwrap()
}

#[test]
fn what_is_staged_is_never_put_in_force_and_the_other_way_round() {
    let operators = trusting(2, &[1, 2]);
    let staged = Content { staged: Some(3), ..content() };
    let bytes = signed("1.2", &staged, &[1, 2]);
    assert_eq!(open(&bytes, &operators).unwrap_err(), BundleError::Staged);
    let open_staged = |bytes: &[u8]| Bundle::open_staged(bytes, &fabric(), &operators, &verify);
    let id = open_staged(&bytes).unwrap().stage_id().unwrap();
    assert_eq!((id.bundle.version, id.number), (version("1.2"), 3));
    // It changes nothing, so one is enough; but not nobody, and not somebody else.
    assert!(open_staged(&signed("1.2", &staged, &[2])).is_ok());
    for seeds in [&[][..], &[9]] {
        let refused = open_staged(&signed("1.2", &staged, seeds)).unwrap_err();
        assert_eq!(refused, BundleError::Signatures { found: 0, need: 1 });
    }
    assert_eq!(open_staged(&signed("1.2", &content(), &[1, 2])).unwrap_err(), BundleError::NotStaged);
}

fn content() -> Content {
    Content::of(&fabric(), "shop.yaml", GRAPH, &crate::Addresses::default()).unwrap()
}

pub(super) fn trusting(need: usize, seeds: &[u8]) -> Operators {
    let keys = seeds.iter().map(|seed| (format!("op{seed}").parse().unwrap(), Signer::new(*seed).key())).collect();
    Operators::of(need, keys)
}

pub(super) fn signed(version_of: &str, content: &Content, seeds: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::seal(&fabric(), version(version_of), content).unwrap();
    seeds.iter().for_each(|seed| Signer::new(*seed).sign(&mut envelope));
    envelope.encode()
}

pub(super) fn open(bytes: &[u8], operators: &Operators) -> Result<Bundle, BundleError> {
    Bundle::open(bytes, &fabric(), operators, &verify)
}

#[test]
fn what_was_signed_comes_through() {
    let mut content = content();
    content.revoked.hosts.insert("gamma".parse().unwrap());
    content.revoked.certificates.insert(RevokedCertificate { issuer: "ab".repeat(32), serial: "01ff".into() });
    content.note = "a word".into();
    let bytes = signed("1.7", &content, &[1]);
    let bundle = open(&bytes, &trusting(1, &[1, 2])).unwrap();
    assert_eq!((bundle.version(), bundle.content(), &bundle.bytes()[..]), (version("1.7"), &content, &bytes[..]));
    assert_eq!(bundle.signers().iter().map(OperatorName::as_str).collect::<Vec<_>>(), ["op1"]);
    let policy = bundle.compile().unwrap();
    assert_eq!((policy.version(), policy.revoked()), (version("1.7"), &content.revoked));
    assert_eq!(policy.addresses(), content.addresses);
    let edge = policy.graph().edges[0].at.to_string();
    assert_eq!(edge, "shop.yaml:11", "as the operator wrote it");
    let id = bundle.id();
    assert_eq!(BundleId::decode(&id.encode()), Some(id));
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!(serde_json::from_str::<BundleId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
}

#[test]
fn enough_different_operators_must_have_signed() {
    let found = |seeds: &[u8], need: usize, trusted: &[u8]| {
        open(&signed("1.1", &content(), seeds), &trusting(need, trusted)).map(|bundle| bundle.signers().len())
    };
    let short = |found, need| Err(BundleError::Signatures { found, need });
    assert_eq!(found(&[1], 1, &[1]), Ok(1));
    assert_eq!(found(&[], 1, &[1]), short(0, 1));
    assert_eq!(found(&[9], 1, &[1]), short(0, 1), "a stranger");
    assert_eq!(found(&[1], 2, &[1, 2, 3]), short(1, 2));
    assert_eq!(found(&[1, 9], 2, &[1, 2, 3]), short(1, 2));
    assert_eq!(found(&[1, 3], 2, &[1, 2, 3]), Ok(2));
    assert_eq!(found(&[3, 9, 1, 2], 2, &[1, 2, 3]), Ok(3), "a stranger's name beside theirs does no harm");
    // One operator under two names in a file that nobody checked counts once at most.
    let mut twice = trusting(2, &[1]);
    twice.keys.insert("again".parse().unwrap(), Signer::new(1).key());
    assert_eq!(
        open(&signed("1.1", &content(), &[1]), &twice).unwrap_err(),
        BundleError::Signatures { found: 1, need: 2 }
    );
}

#[test]
fn one_signature_cannot_be_given_twice() {
    let mut envelope = Envelope::seal(&fabric(), version("1.1"), &content()).unwrap();
    Signer::new(1).sign(&mut envelope);
    Signer::new(1).sign(&mut envelope);
    assert_eq!(envelope.signatures().len(), 1);
    let mut bytes = envelope.encode();
    let at = bytes.len() - 97;
    let copy = bytes[at + 1..].to_vec();
    bytes[at] = 2;
    bytes.extend_from_slice(&copy);
    assert_eq!(Envelope::decode(&bytes), Err(BundleError::Malformed("one key signed it twice")));
}

#[test]
fn a_policy_of_another_fabric_is_refused() {
    let bytes = signed("1.1", &content(), &[1]);
    let other = FabricName::new("other.example").unwrap();
    let error = Bundle::open(&bytes, &other, &trusting(1, &[1]), &verify).unwrap_err();
    assert_eq!(error, BundleError::Fabric(fabric(), other.clone()));
    let graph = GRAPH.replace("shop.example", "other.example");
    let error = Content::of(&fabric(), "shop.yaml", &graph, &crate::Addresses::default()).unwrap_err();
    assert_eq!(error, ContentError::Fabric(other, fabric()));
}

#[test]
fn a_signature_of_another_version_or_of_bare_bytes_is_none() {
    let (signer, operators) = (Signer::new(1), trusting(1, &[1]));
    let mut first = Envelope::seal(&fabric(), version("1.1"), &content()).unwrap();
    let second = Envelope::seal(&fabric(), version("1.2"), &content()).unwrap();
    let signature = signer.0.sign(&second.message()).as_ref().try_into().unwrap();
    first.sign(signer.key(), signature).unwrap();
    assert!(matches!(open(&first.encode(), &operators), Err(BundleError::Signatures { .. })));
    let signature = signer.0.sign(&first.signed_bytes()).as_ref().try_into().unwrap();
    first.sign(signer.key(), signature).unwrap();
    assert!(matches!(open(&first.encode(), &operators), Err(BundleError::Signatures { .. })));
}

#[test]
fn a_bomb_is_not_decompressed_beyond_what_it_says() {
    let mut bomb = Envelope::seal(&fabric(), version("1.1"), &content()).unwrap();
    let zeros = miniz_oxide::deflate::compress_to_vec(&vec![b' '; 64 << 20], 6);
    for claimed in [1_000, u32::try_from(CONTENT_MAX).unwrap(), u32::MAX] {
        bomb.replace_body(claimed, &zeros);
        Signer::new(1).sign(&mut bomb);
        let error = open(&bomb.encode(), &trusting(1, &[1])).unwrap_err();
        let expected =
            if claimed == u32::MAX { ContentError::TooLarge(claimed as usize) } else { ContentError::Compression };
        assert_eq!(error, BundleError::Content(expected));
    }
}

#[test]
fn what_is_too_large_is_not_sealed() {
    let mut content = content();
    content.graph = "x".repeat(CONTENT_MAX);
    assert!(matches!(
        Envelope::seal(&fabric(), version("1.1"), &content),
        Err(BundleError::Content(ContentError::TooLarge(_)))
    ));
    assert_eq!(Envelope::decode(&vec![0; BUNDLE_MAX + 1]), Err(BundleError::TooLarge));
}

#[test]
fn fields_for_people_are_fit_to_be_shown() {
    for (field, edit) in [
        ("note", (|content: &mut Content| content.note = "\u{1b}[2J".into()) as fn(&mut Content)),
        ("file", |content| content.file = "f".repeat(300)),
        ("revoked.certificates", |content| {
            let one = RevokedCertificate { issuer: "AB".repeat(32), serial: "01".into() };
            content.revoked.certificates.insert(one);
        }),
    ] {
        let mut content = content();
        edit(&mut content);
        let error = Envelope::seal(&fabric(), version("1.1"), &content).unwrap_err();
        assert_eq!(error, BundleError::Content(ContentError::Field(field)));
    }
}

#[test]
fn of_two_with_one_version_every_host_takes_the_same() {
    let mut other = content();
    other.note = "another operator at the same time".into();
    let ids = [content(), other].map(|content| Envelope::seal(&fabric(), version("1.5"), &content).unwrap().id());
    assert!(ids[0] != ids[1] && (ids[0] < ids[1]) != (ids[1] < ids[0]));
    let later = Envelope::seal(&fabric(), version("1.6"), &content()).unwrap().id();
    assert!(ids.iter().all(|id| *id < later));
}

#[test]
fn addresses_are_carried_from_version_to_version() {
    let first = content();
    // A name whose hash would take the address of another, were it not taken.
    let more = GRAPH.replace("      web:", "      aaa: { on: [alpha], run: { netns: aaa } }\n      web:");
    let second = Content::of(&fabric(), "shop.yaml", &more, &first.addresses).unwrap();
    for (id, pair) in &first.addresses.workloads {
        assert_eq!(second.addresses.workloads[id], *pair);
    }
    let web: ripstop_config::WorkloadId = "shop/web".parse().unwrap();
    let moved = ("198.19.0.9".parse().unwrap(), first.addresses.workloads[&web].1);
    let mut carried = first.addresses.clone();
    carried.workloads.insert(web.clone(), moved);
    let third = Content::of(&fabric(), "shop.yaml", GRAPH, &carried).unwrap();
    assert_eq!(third.addresses.workloads[&web], moved, "wherever it came from");
}

#[test]
fn a_graph_that_breaks_its_own_tests_is_not_made_a_policy() {
    let made = |tests: &str| {
        let graph = format!("{GRAPH}tests:\n{tests}");
        Content::of(&fabric(), "shop.yaml", &graph, &crate::Addresses::default()).map(drop)
    };
    let (web, api) = ("{ from: shop/web, to: shop/api }", "{ from: shop/api, to: shop/api, port: 8080 }");
    assert_eq!(made(&format!("  allow: [{web}]\n  deny: [{api}]\n")), Ok(()));
    let broken = "shop.yaml:14: shop/web -> shop/api:8080/tcp must be denied, and is allowed\nshop.yaml:13: ";
    match made(&format!("  allow: [{api}]\n  deny: [{web}]\n")) {
        Err(ContentError::Tests(said)) => assert!(
            said.contains(broken.split('\n').next().unwrap())
                && said.contains("must be allowed, and is denied (no_edge)"),
            "{said}"
        ),
        other => panic!("{other:?}"),
    }
    let unknown = made("  deny: [{ from: shop/wbe, to: shop/api }]\n").unwrap_err().to_string();
    assert!(unknown.contains("did you mean `shop/web`?"), "{unknown}");
}

static SIGNED: LazyLock<Vec<u8>> = LazyLock::new(|| signed("1.7", &content(), &[1, 2]));

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), begins: bool) {
        let bytes = if begins { [b"RSPB\x01".as_slice(), &bytes].concat() } else { bytes };
        if let Ok(envelope) = Envelope::decode(&bytes) {
            prop_assert_eq!(envelope.encode(), bytes);
            // As a key that signs anything would have it.
            let _ = envelope.content();
        }
    }

    #[test]
    fn a_mutated_bundle_never_verifies(at: prop::sample::Index, to: u8) {
        let mut bytes = SIGNED.clone();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(open(&bytes, &trusting(2, &[1, 2])).is_err());
    }

    #[test]
    fn a_cut_or_stretched_bundle_is_none(end: prop::sample::Index, extra in 1..9_usize) {
        let end = end.index(SIGNED.len());
        prop_assert!(Envelope::decode(&SIGNED[..end]).is_err());
        prop_assert!(Envelope::decode(&[&SIGNED, &[0; 9][..extra]].concat()).is_err());
    }

    #[test]
    fn identifiers_round_trip_and_keep_their_order(a: (u64, u64, [u8; 8]), b: (u64, u64, [u8; 8])) {
        let id = |(epoch, counter, digest)| BundleId { version: PolicyVersion { epoch, counter }, digest };
        let (a, b) = (id(a), id(b));
        prop_assert_eq!(BundleId::decode(&a.encode()), Some(a));
        prop_assert_eq!(a.to_string().parse(), Ok(a));
        prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
    }
}
