//! The fuzz targets without a fuzzer: each corpus as it is, and as many changes of it as fit into a moment.
//!
//! What a fuzzer finds is put into `fuzz/corpus/TARGET` and stays there. `RIPSTOP_SEED` repeats a run; a failure says after
//! which input.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::{
    fs,
    hash::BuildHasher,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use targets::{TARGETS, Target};

/// How long each target is given changed inputs.
const EACH: Duration = Duration::from_secs(1);
/// Changes of one input, one after the other.
const CHANGES_MAX: usize = 6;
/// Bytes that mean something to one parser or another, and numbers at their limits.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0",
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b"\n",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!",
    b"\"",
    b"'",
    b"#",
    b"\t",
    b"/",
    b"shop/eu",
    b"never: ",
    b"between",
    b"export: ",
    b"18446744073709551616",
    b"-1",
    b"1e9",
    b"\xc3\x28",
];

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// xorshift64* (Marsaglia 2003, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % most.max(1)
    }
}

/// Changes an input somewhere: bits, bytes, words, and pieces of itself and of others.
fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(16)).min(bytes.len()).max(at);
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        4 => bytes.truncate(at),
        5 => {
            let other = &others[random.below(others.len())];
            let from = random.below(other.len() + 1);
            let to = (from + random.below(64)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        _ => {
            let word = WORDS[random.below(WORDS.len())];
            bytes.splice(at..at, word.iter().copied());
        }
    }
}

fn run(target: Target, input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let file = std::env::temp_dir().join(format!("ripstop-fuzz-{}", what.replace(' ', "-")));
        fs::write(&file, input).unwrap();
        panic!("{what}: the input is in {}; put it into the corpus once it is understood", file.display());
    }
}

fn seed() -> u64 {
    let given = std::env::var("RIPSTOP_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| std::hash::RandomState::new().hash_one(0)).max(1)
}

#[test]
fn no_parser_panics_on_the_corpora_nor_on_what_comes_of_them() {
    let seed = seed();
    println!("RIPSTOP_SEED={seed}");
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(inputs.len() >= 3, "{name} has a corpus");
        inputs.iter().for_each(|input| run(*target, input, &format!("{name} of the corpus")));
        let (mut random, began, mut count) = (Random(seed), Instant::now(), 0);
        while began.elapsed() < EACH {
            let mut input = inputs[random.below(inputs.len())].clone();
            (0..=random.below(CHANGES_MAX)).for_each(|_| change(&mut input, &inputs, &mut random));
            run(*target, &input, &format!("{name} {seed} {count}"));
            count += 1;
        }
        println!("measured: {name}: {} inputs of the corpus, {count} changes of them", inputs.len());
        assert!(count > 100, "{name} had time for no more than {count}");
    }
}

/// That the corpora reach what they are for: an input of each is taken whole.
#[test]
fn the_corpora_hold_what_is_taken() {
    use ripstop_config::{Graph, Operators};
    use ripstop_datapath::{
        capture::{Part, Question},
        handover::Frame,
        packet::parse,
    };
    use std::mem::discriminant;
    let text =
        |name: &str| inputs(name).into_iter().filter_map(|input| String::from_utf8(input).ok()).collect::<Vec<_>>();
    assert!(text("graph").iter().any(|text| Graph::parse("f", text).is_ok_and(|graph| !graph.never.is_empty())));
    assert!(text("operators").iter().any(|text| Operators::parse("f", text).is_ok_and(|all| !all.limited.is_empty())));
    let bundles = inputs("bundle").into_iter().filter_map(|bytes| ripstop_policy::Envelope::decode(&bytes).ok());
    assert!(bundles.into_iter().any(|envelope| envelope.look().is_ok()));
    assert!(inputs("header").iter().any(|bytes| ripstop_transport::SessionHeader::decode(&bytes[2..]).is_ok()));
    assert!(inputs("record").iter().any(|bytes| ripstop_transport::Record::read(bytes).is_ok()));
    assert!(inputs("capture").iter().any(|bytes| Part::decode(bytes).is_ok_and(|part| part.packets.len() > 1)));
    assert!(inputs("capture").iter().any(|bytes| serde_json::from_slice::<Question>(bytes).is_ok()));
    assert!(text("enrol").iter().any(|text| text.parse::<ripstop_transport::enrol::Token>().is_ok()));
    assert!(inputs("frame").iter().all(|bytes| Frame::parse(bytes).is_some()));
    let packets = inputs("packet");
    let kinds = packets.iter().filter_map(|bytes| Some(discriminant(&parse(bytes).ok()?.payload)));
    assert_eq!(kinds.collect::<std::collections::HashSet<_>>().len(), 5, "all that a packet may be");
    assert!(
        inputs("dns").iter().any(|bytes| ripstop_dns::Looked::read(bytes).is_ok_and(|read| !read.answers.is_empty()))
    );
    assert!(inputs("report").iter().any(|bytes| ripstop_datapath::session::report::decode(bytes).is_ok()));
}

/// Writes the first inputs of the corpora that no text editor makes: `cargo test --test fuzz -- --ignored`.
#[test]
#[ignore = "it writes into the repository"]
fn binary_corpora_are_written() {
    use ripstop_config::PolicyVersion;
    use ripstop_policy::{Addresses, Content, Envelope};
    use ripstop_transport::{Purpose, SessionHeader, SessionId, signing::SigningKey};
    let fabric = "shop.example".parse().unwrap();
    for (number, graph) in inputs("graph").into_iter().enumerate() {
        let Ok(content) = Content::of(&fabric, "g", &String::from_utf8(graph).unwrap(), &Addresses::default()) else {
            continue;
        };
        let version = PolicyVersion { epoch: 1, counter: 1 + number as u64 };
        let mut envelope = Envelope::seal(&fabric, version, &content).unwrap();
        for _ in 0..number % 3 {
            let (key, _) = SigningKey::generate().unwrap();
            envelope.sign(key.public(), key.sign(&envelope.message())).unwrap();
        }
        fs::write(corpus("bundle").join(format!("signed-{number}")), envelope.encode()).unwrap();
    }
    let plain = SessionHeader {
        session: SessionId([7; 16]),
        caller: "shop/web".parse().unwrap(),
        service: "shop/eu/west/api".parse().unwrap(),
        port: "8080".parse().unwrap(),
        policy: [9; 8],
        version: PolicyVersion { epoch: 1, counter: 7 },
        purpose: Purpose::Session,
        v6: false,
        source_port: 40_000,
        trace: None,
    };
    let udp = SessionHeader { port: "53/udp".parse().unwrap(), v6: true, trace: Some([3; 24]), ..plain.clone() };
    let echo = SessionHeader { purpose: Purpose::Echo, ..plain.clone() };
    for (name, header) in [("tcp", plain), ("udp", udp), ("echo", echo)] {
        fs::write(corpus("header").join(name), header.encode()).unwrap();
    }
    write_records(&fabric);
    write_captures();
    write_enrolment();
    write_frames();
    write_names();
    write_packets();
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    fs::create_dir_all(corpus(target)).unwrap();
    fs::write(corpus(target).join(name), bytes).unwrap();
}

fn write_captures() {
    use ripstop_config::{InterfaceId, Replica};
    use ripstop_datapath::{
        capture::{Asked, Part, Question, Take, Target},
        stack::Copied,
    };
    let copied = |source, toward, bytes: &[u8]| Copied { source, at: 7, toward, length: 99, bytes: bytes.to_vec() };
    let only = |workload: &str| InterfaceId::only(workload.parse().unwrap());
    let sources = vec![(only("shop/web"), 7), (only("shop/eu/api"), u64::MAX)];
    let packets = vec![copied(1, true, b"a packet"), copied(0, false, b"")];
    let part = Part { over: false, sources, packets };
    write("capture", "part", &part.encode(false));
    let replica = InterfaceId::of("shop/web".parse().unwrap(), Replica::new("4f2a9c81d2aa"));
    let sources = [part.sources, vec![(replica, 8)]].concat();
    write("capture", "replicas", &Part { sources, ..part }.encode(true));
    write("capture", "over", &Part { over: true, ..Part::default() }.encode(false));
    let target = Target::Service("shop/api".parse().unwrap());
    let begin = Question::Begin(Asked { target, from: None, seconds: 60, bytes: 1 << 20, snap: 96 });
    for (name, question) in [("begin", begin), ("take", Question::Take(Take { id: 7, end: true, by_replica: true }))] {
        write("capture", name, &serde_json::to_vec(&question).unwrap());
    }
}

/// Of an authority that nobody has any more.
fn write_enrolment() {
    use ripstop_transport::{enrol::Token, pki};
    let authority = pki::Authority::create(&"shop.example".parse().unwrap()).unwrap();
    let token = Token::generate(authority.pin()).unwrap();
    write("enrol", "token", token.reveal().as_bytes());
    write("enrol", "proof", &serde_json::to_vec(&token.proof()).unwrap());
    write("enrol", "request", &pki::Request::new(&"beta".parse().unwrap()).unwrap().der);
}

fn write_frames() {
    use ripstop_config::Protocol;
    use ripstop_datapath::{
        handover::{Flow, Frame},
        packet::FlowKey,
    };
    use ripstop_transport::Datagrams;
    let (v4, v6) = (("198.19.0.1:4000", "198.18.0.3:80"), ("[fd00::1]:4000", "[fd00::2]:53"));
    let flow = |protocol, (workload, fabric): (&str, &str)| Flow {
        protocol,
        key: FlowKey { workload: workload.parse().unwrap(), fabric: fabric.parse().unwrap() },
    };
    let from = "[::ffff:192.0.2.1]:7477".parse().unwrap();
    let frames = [
        ("packet", Frame::Packet { interface: 7, datagram: 1_200, bytes: b"a packet" }),
        ("datagrams", Frame::Datagrams(Datagrams { from, to: None, ecn: 2, stride: 1_452, bytes: b"datagrams" })),
        ("tcp", Frame::Flow { interface: 1, flow: flow(Protocol::Tcp, v4), open: true }),
        ("udp", Frame::Flow { interface: 1, flow: flow(Protocol::Udp, v6), open: false }),
        ("gone", Frame::Gone { interface: 1 }),
    ];
    for (name, frame) in frames {
        let (head, tail) = frame.parts();
        write("frame", name, &[&head, tail].concat());
    }
}

/// Queries for names of the targets' graph, and for others, and the replies to them.
fn write_names() {
    use ripstop_dns::{Answer, Via, answer, question};
    let graph = ripstop_config::Graph::parse("names.yaml", targets::NAMES).unwrap();
    let policy = ripstop_policy::compile(graph).unwrap();
    let web = policy.workload(&"shop/web".parse().unwrap()).unwrap();
    for (name, kind) in [
        ("db.shop.shop.example", "A"),
        ("_5432._tcp.db.shop.shop.example", "SRV"),
        ("none.shop.shop.example", "AAAA"),
        ("1.0.18.198.in-addr.arpa", "PTR"),
        ("www.example.org", "TXT"),
    ] {
        let query = question(name, kind).unwrap();
        write("dns", &format!("{kind}-query"), &query);
        if let Answer::Reply(reply) = answer(&policy, web, &query, Via::Tcp) {
            write("dns", &format!("{kind}-reply"), &reply.bytes);
        }
    }
}

/// What [`ripstop_datapath::packet`] makes, and what only workloads do.
fn write_packets() {
    use ripstop_datapath::packet::{FlowKey, craft, parse};
    let flows = [("198.19.0.1:4000", "198.18.0.3:80"), ("[fd00::1]:4000", "[fd00::2]:53")];
    for (family, (workload, fabric)) in ["v4", "v6"].into_iter().zip(flows) {
        let flow = FlowKey { workload: workload.parse().unwrap(), fabric: fabric.parse().unwrap() };
        let datagram = craft::datagram(flow.workload, flow.fabric, b"data");
        let refused = craft::unreachable(&parse(&datagram).unwrap(), craft::Unreachable::Port);
        let mut echo = refused.clone();
        let at = if family == "v4" { 20 } else { 40 };
        echo[at..at + 2].copy_from_slice(if family == "v4" { &[8, 0] } else { &[128, 0] });
        let mut other = refused.clone();
        other[at] = 250;
        let segment = craft::question(&flow);
        let all = [("udp", datagram), ("error", refused), ("echo", echo), ("icmp", other), ("tcp", segment)];
        for (name, bytes) in all {
            write("packet", &format!("{family}-{name}"), &bytes);
        }
    }
    // A half of a packet: the fragment header has the next one's number (RFC 8200 section 4.5).
    let mut half = fs::read(corpus("packet").join("v6-udp")).unwrap();
    let rest = half.split_off(40);
    half[6] = 44;
    half[4..6].copy_from_slice(&u16::try_from(8 + rest.len()).unwrap().to_be_bytes());
    half.extend([17, 0, 0, 1, 0, 0, 0, 9]);
    half.extend(rest);
    write("packet", "v6-half", &half);
}

fn write_records(fabric: &ripstop_config::FabricName) {
    use ripstop_transport::{Identity, Stamp, pki};
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let authority = pki::Authority::create(fabric).unwrap();
    let issued = authority.issue_host(&"alpha".parse().unwrap(), pki::HOST_VALIDITY_MIN).unwrap();
    fs::write(at("ca"), authority.certificate_pem()).unwrap();
    fs::write(at("pem"), &issued.certificate_pem).unwrap();
    fs::write(at("key"), issued.key_pem.as_bytes()).unwrap();
    fs::set_permissions(at("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let identity = Identity::load(&at("pem"), &at("key"), &at("ca")).unwrap();
    for (number, report) in inputs("report").into_iter().enumerate() {
        let stamp = Stamp { issued: 1_800_000_000_000, life: 10 << number };
        let record = identity.sign_record(stamp, &report).unwrap();
        fs::write(corpus("record").join(format!("signed-{number}")), record).unwrap();
    }
}
