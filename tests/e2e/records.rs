//! Hosts' records: what a host knows of another one that it has no connection to, and what a hostile member makes of it.

use crate::{
    health::state,
    lab::{Lab, ripstop, within},
    servers::greet,
};
use bytes::{BufMut, Bytes, BytesMut};
use nix::sys::signal::Signal;
use ripstop_config::HostName;
use ripstop_transport::{Identity, Opening, Record, Request, Settings, Stamp, Transport};
use serde_json::Value;
use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

/// In the ring of eight, h5 is connected with all but h2 and h8. The clock of h6 is wrong at first.
const EIGHT: [&str; 8] = ["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8"];
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [h5], run: { netns: web } }
      api: { on: [h2, h8], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
";
/// How soon a host hears of a change of one that it is not connected to.
const SOON: Duration = Duration::from_secs(5);
/// How long a record of few hosts is good, and how long it may take until that is noticed.
const LIFE: Duration = Duration::from_secs(10);
const NOTICE: Duration = Duration::from_secs(3);
/// What hosts ask each other for, as numbers.
const HEADS: u8 = 7;
const RECORDS: u8 = 8;

/// Where Debian's libfaketime is.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Where h8 moves to.
const ELSEWHERE: &str = "192.0.2.208";

/// Loses every QUIC packet between h5 and some addresses, and no others any more.
fn part(lab: &Lab, others: &[&str]) {
    let set = others.join(", ");
    lab.host("h5").sh("nft delete table inet lab 2>/dev/null || true");
    lab.host("h5").sh(&format!(
        "nft -f - <<'END'\ntable inet lab {{\n\
         chain in {{ type filter hook input priority 0; meta l4proto udp ip saddr {{ {set} }} drop; }}\n\
         chain out {{ type filter hook output priority 0; meta l4proto udp ip daddr {{ {set} }} drop; }}\n}}\nEND"
    ));
}

/// How long ago h5 had a record of a host.
fn age(lab: &Lab, host: &str) -> Option<f64> {
    lab.agent("h5").status()["records"].get(host).and_then(Value::as_f64)
}

#[test]
fn a_host_hears_of_those_that_it_is_not_connected_to_and_of_nobody_else() {
    let lab = Lab::of(&EIGHT).graph(GRAPH).signed().without_agent("h5").without_agent("h6").start();
    start_in_the_future(&lab, "h6");
    let [at_h2, at_h8] = ["h2", "h8"].map(|host| lab.host_address(host).to_string());
    part(&lab, &[&at_h2, &at_h8]);
    let (h2, h8) = (lab.workload_on("h2", "api"), lab.workload_on("h8", "api"));
    let _servers = (h2.serve(8080, greet("h2")), h8.serve(8080, greet("h8")));
    let early = Hostile::in_place_of(&lab, "h3").records_of(&lab, "h1", "h2");
    lab.agent("h3").start();
    lab.agent("h5").start();
    let heard = within(SOON, "records of all", || EIGHT.iter().all(|host| *host == "h6" || age(&lab, host).is_some()));
    assert!(["h2", "h8"].iter().all(|host| !lab.agent("h5").is_up(&[host])), "by others");
    lab.host("h2").ok(&[ripstop(), "drain"]);
    let told = within(SOON, "h2's drain to come to h5", || state(&lab, "h5", "h2") == "draining");
    let shown = lab.host("h5").ok(&[ripstop(), "status"]);
    assert!(shown.contains("draining, by a record "), "{shown}");
    println!(
        "measured: all records on a new host {} ms after its start, a drain {} ms",
        heard.as_millis(),
        told.as_millis()
    );
    wrong_clock(&lab);
    forget_address(&lab, "h2");
    first_session(&lab);
    let found = within(SOON, "h5 to find h2", || lab.agent("h5").is_up(&["h2"]));
    println!("measured: a host without an address is found {} ms after the first session", found.as_millis());

    part(&lab, &[&at_h2, &at_h8, ELSEWHERE]);
    lab.host("h8").sh(&format!("ip addr del {at_h8}/24 dev eth0; ip addr add {ELSEWHERE}/24 dev eth0"));
    lab.agent("h7").signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    hostile(&lab, &early);
    within(LIFE + NOTICE, "h7's record to go", || age(&lab, "h7").is_none());
    let gone = stopped.elapsed();
    println!("measured: a host that was stopped is heard of no more after {:.1} s", gone.as_secs_f64());
    assert!(gone < LIFE + NOTICE, "{gone:?}");
    assert!(age(&lab, "h2").is_some() && age(&lab, "h6").is_some(), "those of others are renewed");
    moved(&lab, &at_h2, &at_h8);
}

/// Starts an agent whose clock is ahead of all others'.
fn start_in_the_future(lab: &Lab, host: &str) {
    assert!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing: apt-get install libfaketime");
    let preload = format!("LD_PRELOAD={FAKETIME}");
    lab.agent(host).launch_by(&["env", &preload, "FAKETIME=+90s", "FAKETIME_DONT_FAKE_MONOTONIC=1"], &[]);
    lab.agent(host).wait_ready();
}

/// A host with a wrong clock is told of where its records are not believed, and connected as all are; then its clock is set.
fn wrong_clock(lab: &Lab) {
    let apart = |host: &str, other: &str| lab.agent(host).status()["clocks_apart"].get(other).and_then(Value::as_f64);
    within(SOON * 2, "both to say so", || apart("h5", "h6").is_some() && apart("h6", "h5").is_some());
    let (ahead, behind) = (apart("h5", "h6").unwrap(), apart("h6", "h5").unwrap());
    // The record was some seconds old when it came, on a busy machine more.
    assert!((60.0..91.0).contains(&ahead) && (-120.0..-89.0).contains(&behind), "{ahead} {behind}");
    assert!(lab.agent("h5").is_up(&["h6"]) && age(lab, "h6").is_none(), "connected, and not believed");
    assert_eq!(apart("h5", "h7"), None);
    let log = lab.agent("h5").log();
    assert!(
        log.contains("h6") && log.contains("s ahead of this host's: neither believes the other's records"),
        "{log}"
    );
    let shown = lab.host("h5").ok(&[ripstop(), "status"]);
    assert!(shown.contains("WARNING: h6's is ") && shown.contains("see `ripstop check`"), "{shown}");
    let checked = lab.host("h5").run(&[ripstop(), "check"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("h6's is ") && checked.contains("set the clock that is wrong"), "{checked}");
    lab.agent("h6").kill();
    lab.agent("h6").start();
    within(SOON * 2, "h6 to be believed", || age(lab, "h6").is_some() && apart("h5", "h6").is_none());
}

/// The graph says no more where a host is, so that nothing but its record leads from h5 to it: it does not dial h5.
fn forget_address(lab: &Lab, host: &str) {
    let line = format!("  {host}: {{ address: {} }}\n", lab.host_address(host));
    lab.apply("h1", |text| {
        assert!(text.contains(&line), "{text}");
        text.replace(&line, &format!("  {host}: {{}}\n"))
    });
    let newest = lab.agent("h1").version();
    within(SOON, "h5 to have that policy", || lab.agent("h5").version() == newest);
}

/// A host that the graph has elsewhere is found where its record says that it is.
fn moved(lab: &Lab, at_h2: &str, at_h8: &str) {
    // Longer than the connection outlives silence, which would have followed it.
    within(LIFE + NOTICE, "h5's connection to end", || {
        let status = lab.agent("h5").status();
        let peers = status["peers"].as_array().unwrap();
        !peers.iter().any(|peer| peer["host"] == "h8" && (peer["state"] == "up" || peer["state"] == "silent"))
    });
    part(lab, &[at_h2, at_h8]);
    let found = within(LIFE * 2, "h5 to find h8", || lab.agent("h5").is_up(&["h8"]));
    println!("measured: a host that has moved is found after {:.1} s", found.as_secs_f64());
    let peers = lab.host("h5").ok(&[ripstop(), "peers"]);
    assert!(peers.contains(ELSEWHERE), "{peers}");
}

/// The first session goes to the endpoint that takes it, and the other one never hears of it.
fn first_session(lab: &Lab) {
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    let calling = web.thread(move || {
        let begun = Instant::now();
        while begun.elapsed() < SOON * 2 {
            // While no endpoint can be reached it is refused at once.
            if let Ok(mut stream) = std::net::TcpStream::connect_timeout(&to, SOON) {
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                return said;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no endpoint answers");
    });
    part(lab, &["192.0.2.250"]);
    assert_eq!(calling.join().unwrap(), "h8");
    let attempts = lab.agent("h2").records();
    assert!(attempts.is_empty(), "h2 was asked: {attempts:?}");
}

/// A member of the fabric, h4, is in other hands: it hands on what it likes.
fn hostile(lab: &Lab, early: &Bytes) {
    let before = lab.agent("h5").resident();
    let hostile = Hostile::in_place_of(lab, "h4");
    let forged = hostile.forged(early);
    let refused = |reason| lab.agent("h5").metric("ripstop_host_records_refused_total", &[("reason", reason)]);
    assert!(refused("forged") < 1.0);
    let asked = hostile.hand_on(lab, vec![early.clone(), forged]);
    within(SOON, "h5 to refuse what h2 has not signed", || refused("forged") >= 1.0);
    let number = asked.load(Ordering::Relaxed);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(asked.load(Ordering::Relaxed), number, "it is left alone");
    assert_eq!(state(lab, "h5", "h2"), "draining", "unmoved");
    assert!(lab.agent("h5").metric("ripstop_host_records", &[]) <= 8.0);
    let grown = lab.agent("h5").resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    let log = lab.agent("h5").log();
    assert!(log.contains("does not hand on others' records as it should"), "{log}");
}

/// A host's identity in the hands of this test, its agent killed.
struct Hostile {
    name: &'static str,
    identity: Identity,
}

impl Hostile {
    fn in_place_of(lab: &Lab, name: &'static str) -> Self {
        lab.agent(name).kill();
        let home = lab.agent(name).directory();
        let at = |file: &str| home.join(file);
        let identity = Identity::load(&at("host.pem"), &at("host.key"), &ca(home)).unwrap();
        Self { name, identity }
    }

    /// The record of a host as another one hands it on.
    fn records_of(&self, lab: &Lab, from: &'static str, of: &str) -> Bytes {
        let (identity, address) = (self.identity.clone(), lab.host_address(from));
        let mut body = BytesMut::new();
        body.put_u8(2);
        body.put_slice(of.as_bytes());
        let asking = lab.host(self.name).thread(move || {
            run(async move {
                let (transport, _incoming, _reports) = bind(identity, &[(from, address)]);
                let host = HostName::new(from).unwrap();
                let begun = Instant::now();
                loop {
                    let asked = transport.ask(&host, RECORDS, &body, 1 << 20, Duration::from_secs(2)).await;
                    match asked {
                        Ok(answer) if answer.len() > 4 => return answer.slice(4..),
                        Ok(_) | Err(_) if begun.elapsed() < SOON => tokio::time::sleep(Duration::from_millis(50)).await,
                        other => panic!("no record of it: {other:?}"),
                    }
                }
            })
        });
        let record = asking.join().unwrap();
        assert_eq!(Record::read(&record).unwrap().host.as_str(), of);
        record
    }

    /// What this host signs, said to be of the host of a true record, and of this moment.
    fn forged(&self, record: &[u8]) -> Bytes {
        let of = Record::read(record).unwrap().host;
        let report = br#"{"version":1,"endpoints":[{"service":"shop/api","state":"ready","sessions":0}]}"#;
        let stamp = Stamp::now(LIFE, None, SystemTime::now());
        let own = self.identity.sign_record(stamp, report).unwrap();
        let mut forged = Record::read(&own).unwrap();
        forged.host = of;
        forged.encode().unwrap().into()
    }

    /// Serves h5 from now on, for half a minute: names the records' host as of this moment, and hosts that there are not, and hands
    /// the records on one after the other. Returns how often it was asked.
    fn hand_on(&self, lab: &Lab, records: Vec<Bytes>) -> Arc<AtomicUsize> {
        let (identity, to) = (self.identity.clone(), lab.host_address("h5"));
        let asked = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&asked);
        let records = Arc::new(Mutex::new(records));
        drop(lab.host(self.name).thread(move || {
            let serving = async move {
                let (_transport, mut incoming, _reports) = bind(identity, &[("h5", to)]);
                while let Some(stream) = incoming.next().await {
                    let of_h5 = stream.peer.as_str() == "h5";
                    // The others dial it as well; they are told nothing.
                    let Ok(Opening::Request(request)) = stream.open().await else { continue };
                    if of_h5 && [HEADS, RECORDS].contains(&request.kind) {
                        answer(request, &records, counting.fetch_add(1, Ordering::Relaxed)).await;
                    }
                }
            };
            run(async move { drop(tokio::time::timeout(Duration::from_secs(30), serving).await) });
        }));
        asked
    }
}

async fn answer(request: Request, records: &Mutex<Vec<Bytes>>, number: usize) {
    let mut answer = BytesMut::new();
    match request.kind {
        HEADS => {
            // Another table each time, of which there is always more.
            answer.put_u64(number as u64);
            answer.put_u64(number as u64);
            answer.put_u8(1);
            answer.put_u8(0);
            for name in ["h2".to_owned()].into_iter().chain((0..1_023).map(|host| format!("flood{number}-{host}"))) {
                answer.put_u8(name.len() as u8);
                answer.put_slice(name.as_bytes());
                answer.put_u64(u64::MAX);
            }
        }
        RECORDS => {
            let mut records = records.lock().unwrap();
            let record = if records.len() > 1 { records.remove(0) } else { records[0].clone() };
            answer.put_u32(record.len() as u32);
            answer.put(record);
        }
        _ => {}
    }
    let _ = request.answer(answer.freeze()).await;
}

fn bind(
    identity: Identity,
    peers: &[(&str, Ipv4Addr)],
) -> (Transport, ripstop_transport::Incoming, ripstop_transport::Reports) {
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7477));
    let bound = Transport::bind(Settings { listen, ..Settings::default() }, identity).unwrap();
    let peers = peers.iter().map(|(host, at)| (HostName::new(host).unwrap(), SocketAddr::from((*at, 7477))));
    bound.0.set_peers(peers.collect());
    bound
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn ca(home: &Path) -> std::path::PathBuf {
    home.join("ca.pem")
}
