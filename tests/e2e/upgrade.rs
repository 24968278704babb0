//! One agent hands over to another: nothing of what is open ends, and nothing new fails.

use crate::{
    callers::{Call, rate},
    lab::{Agent, Lab, Place, Server, ask, http_get, ripstop, wait_for, within},
    servers::{Http, echo},
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// New sessions a second, and for how long; with `RIPSTOP_LAB_LONG=1` the second.
const RATE: u32 = 200;
const DURING: Duration = Duration::from_secs(6);
const DURING_LONG: Duration = Duration::from_secs(30);
/// Between two datagrams, and between two pieces of the bulk transfer.
const BEAT: Duration = Duration::from_millis(10);
const PIECE: usize = 64 << 10;

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      job: { on: [alpha], run: { user: 64001 } }
      api: { on: [beta], run: { netns: api } }
      base: { on: [beta], run: { user: 64003 } }
    services:
      api: { by: api, ports: [8080/tcp, 9090/tcp, 9000/udp], idle: 1s }
      base: { by: base, ports: [7070/tcp, 7000/udp], source: preserve, idle: 1s }
    allow:
      - { from: web, to: api }
      - { from: web, to: base }
      - { from: job, to: api }
";

/// Echoes TCP and UDP, as a user.
const ECHO: &str = "
import socket, threading
def stream(connection):
    while data := connection.recv(65536): connection.sendall(data)
    connection.close()
def datagrams():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 7000))
    while True:
        data, sender = s.recvfrom(65536); s.sendto(data, sender)
threading.Thread(target=datagrams, daemon=True).start()
listener = socket.create_server(('::', 7070), family=socket.AF_INET6, dualstack_ipv6=True)
while True: threading.Thread(target=stream, args=(listener.accept()[0],), daemon=True).start()
";

/// Calls the echo on port 9090 for as long as it is told, as a user; says how often.
const CALL: &str = "
import socket, sys, time
s = socket.create_connection((sys.argv[1], 9090)); until = time.time() + float(sys.argv[2]); count = 0
while time.time() < until:
    s.sendall(b'ping'); assert s.recv(4) == b'ping'; count += 1; time.sleep(0.02)
print(count)
";

/// Takes everything over, and is gone.
const VANISHES: &str = "
import json, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5); s.connect('/run/ripstop/successor.sock')
take = lambda: json.loads(socket.recv_fds(s, 70000, 8)[0])
assert take()['say'] == 'hello'
s.send(json.dumps({'say': 'prepared', 'drain_millis': 1000}).encode())
while take()['say'] != 'done': pass
";

fn during() -> Duration {
    if std::env::var_os("RIPSTOP_LAB_LONG").is_some() { DURING_LONG } else { DURING }
}

pub fn upgrade(lab: &Lab, host: &str, arguments: &[&str]) -> Value {
    let config = lab.agent(host).config();
    let said = lab.host(host).ok(&[&[ripstop(), "-o", "json", "upgrade", "--config", &config], arguments].concat());
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn is_alive(lab: &Lab, host: &str, pid: &Value) -> bool {
    // Nobody waits for the children of the machine's first process.
    let state = lab.host(host).run(&["grep", "State", &format!("/proc/{pid}/status")]);
    state.status.success() && !String::from_utf8_lossy(&state.stdout).contains("zombie")
}

/// The new one has the rights of an agent, and a door; the former one has none any more.
fn is_an_agent_like_any(lab: &Lab, host: &str, upgraded: &Value) {
    let of = |pid: &Value, file: &str| lab.host(host).sh(&format!("cat /proc/{pid}/{file}"));
    let status = of(&upgraded["pid"], "status");
    for line in ["CapEff:\t0000000000001000", "CapPrm:\t0000000000001000", "NoNewPrivs:\t1", "Seccomp:\t2", "PPid:\t1"]
    {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    assert_eq!(of(&upgraded["pid"], "task/*/children").split_whitespace().count(), 1, "its door");
    wait_for("the former door to end", || of(&upgraded["former"], "task/*/children").trim().is_empty());
}

/// Answers datagrams with themselves, until its place is gone.
fn echo_datagrams(place: &Place, port: u16) {
    let socket = place.inside(|| UdpSocket::bind(("::", port))).expect("the port is free");
    thread::spawn(move || {
        let mut buffer = [0; 2_000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// Something that goes on until it is stopped, and says how often it went well and what did not.
struct Ongoing(Arc<AtomicBool>, JoinHandle<(usize, Vec<String>)>);

impl Ongoing {
    fn start(place: &Place, mut once: impl FnMut(usize) -> Result<(), String> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = place.thread(move || {
            let (mut well, mut wrong) = (0, Vec::new());
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                match once(number) {
                    Ok(()) => well += 1,
                    Err(error) => wrong.push(format!("{number}: {error}")),
                }
                thread::sleep(BEAT);
            }
            (well, wrong)
        });
        Self(stop, task)
    }

    /// One UDP session, each datagram of which is answered.
    fn datagrams(place: &Place, to: SocketAddr) -> Self {
        let socket = place.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.connect(to).unwrap();
        Self::start(place, move |number| exchange(&socket, &number.to_be_bytes(), &number.to_be_bytes()))
    }

    /// A query for a name, each from a port of its own.
    fn queries(place: &Place, resolver: SocketAddr) -> Self {
        let name = b"\x03api\x04shop\x03lab\x04test\x00\x00\x01\x00\x01";
        let query = [&b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"[..], name].concat();
        Self::start(place, move |_| {
            let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| error.to_string())?;
            socket.connect(resolver).map_err(|error| error.to_string())?;
            exchange(&socket, &query, b"\x12\x34")
        })
    }

    fn stop(self) -> (usize, Vec<String>) {
        self.0.store(true, Ordering::Relaxed);
        self.1.join().unwrap()
    }
}

/// Sends, and waits for an answer that begins so; what comes late is passed over.
fn exchange(socket: &UdpSocket, sent: &[u8], expected: &[u8]) -> Result<(), String> {
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.send(sent).map_err(|error| error.to_string())?;
    let mut buffer = [0; 2_000];
    loop {
        let length = socket.recv(&mut buffer).map_err(|error| error.to_string())?;
        if buffer[..length].starts_with(expected) {
            return Ok(());
        }
    }
}

/// A transfer to an echo and back, until it is stopped; joined, it says how much went, and both sums.
fn bulk(place: &Place, to: SocketAddr, stop: &Arc<AtomicBool>) -> JoinHandle<(usize, [String; 2])> {
    let stream = place.connect(to).expect("allowed");
    let stopped = Arc::clone(stop);
    thread::spawn(move || {
        let mut reading = stream.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let (mut sum, mut buffer) = (Sha256::new(), vec![0; PIECE]);
            loop {
                let length = reading.read(&mut buffer).expect("it goes on");
                if length == 0 {
                    return sum.finalize();
                }
                sum.update(&buffer[..length]);
            }
        });
        let (mut sum, mut writing, mut total) = (Sha256::new(), stream, 0);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while !stopped.load(Ordering::Relaxed) {
            let piece: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .take(PIECE)
            .collect();
            sum.update(&piece);
            total += piece.len();
            writing.write_all(&piece).expect("it goes on");
            thread::sleep(BEAT);
        }
        writing.shutdown(std::net::Shutdown::Write).unwrap();
        let sums = [sum.finalize(), reader.join().unwrap()];
        (total, sums.map(|sum| format!("{sum:02x?}")))
    })
}

fn ping(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"ping").expect("it goes on");
    stream.read_exact(&mut [0; 4]).expect("it goes on");
}

fn open(place: &Place, to: SocketAddr) -> TcpStream {
    let mut stream = place.connect(to).expect("allowed");
    ping(&mut stream);
    stream
}

fn failed(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|call| call.answer.is_err()).collect()
}

/// Programs of [`GRAPH`]'s endpoints on beta.
fn endpoints(lab: &Lab) -> (Vec<crate::lab::Listening>, Server) {
    let api = lab.workload("api");
    let serving = vec![api.serve(8080, Http::new("beta", Duration::ZERO).handler()), api.serve(9090, echo)];
    echo_datagrams(&api, 9000);
    let base = lab.workload("base").spawn(&lab.file("base.log"), &["/usr/bin/python3", "-c", ECHO]);
    (serving, base.listening(7070))
}

fn predecessor(agent: &Agent) -> Value {
    agent.status()["predecessor"].clone()
}

#[test]
fn both_hosts_are_upgraded_and_nothing_fails() {
    nothing_fails(&Lab::of(&["alpha", "beta"]).graph(GRAPH).start());
}

#[test]
fn each_of_several_data_threads_hands_over_what_it_has() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH);
    nothing_fails(&lab.settings("alpha", "data-threads: 2").settings("beta", "data-threads: 3").start());
}

fn nothing_fails(lab: &Lab) {
    let _endpoints = endpoints(lab);
    let web = lab.workload("web");
    let during = during();
    let to = |service: &str, port| lab.service(service, port);
    let stop = Arc::new(AtomicBool::new(false));
    let transfers = [bulk(&web, to("shop/api", 9090), &stop), bulk(&web, to("shop/base", 7070), &stop)];
    let mut idle = [open(&web, to("shop/api", 9090)), open(&web, to("shop/base", 7070))];
    let ongoing = [
        Ongoing::datagrams(&web, to("shop/api", 9000)),
        Ongoing::datagrams(&web, to("shop/base", 7000)),
        Ongoing::queries(&web, (lab.policy().resolver().0, 53).into()),
    ];
    let seconds = during.as_secs().to_string();
    let called = to("shop/api", 9090).ip().to_string();
    let mut job = lab.workload("job").spawn(&lab.file("job.log"), &["/usr/bin/python3", "-c", CALL, &called, &seconds]);
    let callers = rate(&web, to("shop/api", 8080), RATE, during);
    let mut former = Vec::new();
    for host in ["alpha", "beta"] {
        thread::sleep(during / 3);
        let upgraded = upgrade(lab, host, &[]);
        assert_ne!(upgraded["pid"], upgraded["former"]);
        assert!(upgraded["sessions"].as_u64() >= Some(6), "{upgraded}");
        assert_eq!(lab.agent(host).status()["pid"], upgraded["pid"], "the new one answers");
        is_an_agent_like_any(lab, host, &upgraded);
        former.push((host, upgraded["former"].clone()));
    }
    let calls = callers.join().unwrap();
    assert_eq!(calls.len(), (during.as_secs_f64() * f64::from(RATE)) as usize);
    assert!(failed(&calls).is_empty(), "{} of {} failed: {:?}", failed(&calls).len(), calls.len(), failed(&calls)[0]);
    assert_eq!(job.wait(Duration::from_secs(10)), Some(0), "{}", job.log());
    for ongoing in ongoing {
        let (well, wrong) = ongoing.stop();
        assert!(well > 50 && wrong.is_empty(), "{well} went well, but {wrong:?}");
    }
    for (host, pid) in &former {
        let shown = predecessor(lab.agent(host));
        assert_eq!(shown["pid"], *pid, "{shown}");
        assert!(lab.host(host).ok(&[ripstop(), "status"]).contains("handed over"));
        lab.agent(host).wait_metric("ripstop_predecessor_sessions_open", &[], 2.0);
    }
    stop.store(true, Ordering::Relaxed);
    for transfer in transfers {
        let (total, [sent, back]) = transfer.join().unwrap();
        assert!(total > 1_000_000 && sent == back, "{total} bytes, {sent}, {back}");
    }
    idle.iter_mut().for_each(ping);
    drop(idle);
    let slowest = calls.iter().map(|call| call.took).max().unwrap_or_default();
    eprintln!("{} calls, 0 failed, the slowest took {} ms", calls.len(), slowest.as_millis());
    for (host, pid) in &former {
        let agent = lab.agent(host);
        wait_for("the former agent to end", || !is_alive(lab, host, pid));
        wait_for("that to show", || predecessor(agent).is_null());
        let drained = |record: &Value| record["handed_over"] == "drained" && record["reason"] == "closed";
        assert!(agent.records().iter().filter(|record| drained(record)).count() >= 4, "on {host}");
        assert!(agent.records().iter().all(|record| record["handed_over"] != "ended"), "on {host}");
    }
    ping(&mut open(&web, to("shop/api", 9090)));
}

#[test]
fn nobody_sees_a_host_without_its_workloads_meanwhile() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let socket = lab.agent("alpha").socket();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&answers);
    let looks = Ongoing::start(&lab.host("alpha"), move |_| {
        let status = ask(&socket, "/v1/status").ok_or("no answer")?;
        seen.lock().unwrap().push(status);
        let begun = TcpStream::connect("127.0.0.1:7478").map_err(|error| error.to_string())?;
        let (status, body) = http_get(begun, "/readyz").ok_or("no readiness")?;
        if status == 200 { Ok(()) } else { Err(body) }
    });
    let mut pids: Vec<_> = (0..3).map(|_| upgrade(&lab, "alpha", &[])["pid"].clone()).collect();
    wait_for("the last one's answer", || {
        answers.lock().unwrap().iter().any(|status| Some(&status["pid"]) == pids.last())
    });
    let (_, wrong) = looks.stop();
    // A connection that the agent before has taken as it ends is closed.
    assert!(wrong.len() <= pids.len(), "{wrong:?}");
    assert!(wrong.iter().all(|error| error.ends_with("no answer") || error.ends_with("no readiness")), "{wrong:?}");
    for status in answers.lock().unwrap().iter() {
        pids.retain(|pid| *pid != status["pid"]);
        let workloads = status["workloads"].as_array().unwrap();
        assert!(workloads.len() == 2 && workloads.iter().all(|one| one["state"] == "attached"), "{workloads:?}");
        assert_eq!(status["waiting_for"].as_array().map(Vec::len), Some(0), "{}", status["waiting_for"]);
    }
    assert!(pids.is_empty(), "{pids:?} were not asked");
}

#[test]
fn records_go_on_in_standard_output() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).settings("alpha", "sessions: stdout").start();
    let _endpoints = endpoints(&lab);
    let web = lab.workload("web");
    let to = lab.service("shop/api", 9090);
    let recorded = || {
        let log = lab.agent("alpha").log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let mut open_before = open(&web, to);
    ping(&mut open_before);
    for count in 1..=3 {
        upgrade(&lab, "alpha", &[]);
        ping(&mut open(&web, to));
        wait_for("the session's record in standard output", || recorded().len() == count);
    }
    ping(&mut open_before);
    drop(open_before);
    wait_for("the record of the agent before", || recorded().len() == 4);
    let drained = |record: &Value| record["handed_over"] == "drained";
    assert_eq!(recorded().iter().filter(|record| drained(record)).count(), 1);
    assert!(recorded().iter().all(|record| record["service"] == "shop/api" && record["reason"] == "closed"));
    // What the next agents log comes to where the first one logs.
    assert_eq!(lab.agent("alpha").log().matches("taken over ").count(), 3, "{}", lab.agent("alpha").log());
}

#[test]
fn an_upgrade_that_fails_changes_nothing() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let _endpoints = endpoints(&lab);
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 9090));
    let (alpha, host) = (lab.agent("alpha"), lab.host("alpha"));
    let mut stream = open(&web, to);
    let (pid, before) = (alpha.status()["pid"].clone(), lab.snapshot("alpha"));
    let settings = fs::read_to_string(alpha.config()).unwrap();
    let calls = rate(&web, lab.service("shop/api", 8080), 50, Duration::from_secs(3));
    let mut goes_on = || {
        assert_eq!(alpha.status()["pid"], pid);
        ping(&mut stream);
        ping(&mut open(&web, to));
    };
    let mut refused = |door: &str, why: &str| {
        let (code, said) = host.fails(&[ripstop(), "upgrade", "--config", &alpha.config(), "--door", door]);
        assert!(code == 1 && said.contains(why) && said.contains("the agent that ran goes on"), "{code}: {said}");
        goes_on();
    };
    refused("/nonexistent", "no door answers on /nonexistent");
    let mut refused = |line: &str, why: &str| {
        let key = line.split_once(':').unwrap().0;
        let others = settings.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n"));
        fs::write(alpha.config(), format!("{}{line}\n", others.collect::<String>())).unwrap();
        let (code, said) = host.fails(&[ripstop(), "upgrade", "--config", &alpha.config()]);
        assert!(code == 1 && said.contains(why), "{code}: {said}");
        goes_on();
    };
    // Before anything is started, before anything is handed over, and when all was.
    refused("colour: red", "colour");
    refused("listen: 0.0.0.0:7500", "restart the agent");
    refused("data-threads: 16", "`data-threads:` has changed");
    refused("sessions: /nonexistent/log", "/nonexistent/log");
    fs::write(alpha.config(), &settings).unwrap();
    // One that goes before it reads, with all in its hands; and somebody whose it is not.
    let entrance = |user: &str| host.run(&["setpriv", "--reuid", user, "--clear-groups", "python3", "-c", VANISHES]);
    assert!(!entrance("64001").status.success());
    assert!(entrance("0").status.success());
    wait_for("the agent to go on", || alpha.log().contains("did not take over; this one goes on: it ended"));
    goes_on();
    let calls = calls.join().unwrap();
    assert!(failed(&calls).is_empty(), "{:?}", failed(&calls));
    assert_eq!(lab.snapshot("alpha"), before);
    assert!(!upgrade(&lab, "alpha", &[])["pid"].is_null(), "nothing is in the way of one that can");
    ping(&mut open(&web, to));
}

#[test]
fn what_is_left_ends_with_its_time_or_with_its_agent() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).without_agent("alpha").start();
    let clean = lab.snapshot("alpha");
    let alpha = lab.agent("alpha");
    alpha.start();
    let _endpoints = endpoints(&lab);
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 9090));
    // The time for it is over.
    let mut stream = open(&web, to);
    let first = upgrade(&lab, "alpha", &["--drain", "1s"]);
    stream.read_exact(&mut [0; 1]).expect_err("it is reset");
    let record = alpha.record(|record| record["handed_over"] == "ended");
    assert_eq!(record["reason"], "shutdown", "{record}");
    wait_for("the former agent to end", || !is_alive(&lab, "alpha", &first["former"]));
    // The former agent is killed, while its session waits.
    let mut stream = open(&web, to);
    let second = upgrade(&lab, "alpha", &[]);
    ping(&mut stream);
    let mut kept = open(&web, to);
    lab.host("alpha").ok(&["kill", "-9", &second["former"].to_string()]);
    within(Duration::from_secs(2), "its session to be reset", || {
        stream.set_nonblocking(true).unwrap();
        (&stream).read(&mut [0; 1]).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    });
    ping(&mut kept);
    // The new one is killed: the former one ends with it, and another agent begins.
    let third = upgrade(&lab, "alpha", &[]);
    lab.host("alpha").ok(&["kill", "-9", &third["pid"].to_string()]);
    wait_for("the former agent to end", || !is_alive(&lab, "alpha", &third["former"]));
    kept.read_exact(&mut [0; 1]).expect_err("it is reset");
    alpha.start();
    within(Duration::from_secs(5), "a session", || web.connect(to).is_ok());
    // Three agents, each with a session, and what was handed over is undone by whoever has it last.
    let mut streams = vec![open(&web, to)];
    let mut pids = Vec::new();
    for _ in 0..2 {
        pids.push(upgrade(&lab, "alpha", &[]));
        streams.push(open(&web, to));
        streams.iter_mut().for_each(ping);
    }
    assert_eq!(pids[0]["pid"], pids[1]["former"]);
    wait_for("the sessions of both", || predecessor(alpha)["sessions"] == 2);
    lab.host("alpha").ok(&["kill", &pids[1]["pid"].to_string()]);
    for pid in [&pids[0]["former"], &pids[0]["pid"], &pids[1]["pid"]] {
        wait_for("all agents to end", || !is_alive(&lab, "alpha", pid));
    }
    assert_eq!(lab.snapshot("alpha"), clean);
}

#[test]
fn a_policy_reaches_both_agents() {
    let cut = |text: &str| text.replace("      - { from: web, to: api }\n", "");
    for signed in [false, true] {
        let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH);
        let lab = if signed { lab.signed().start() } else { lab.start() };
        let _endpoints = endpoints(&lab);
        let (web, alpha) = (lab.workload("web"), lab.agent("alpha"));
        let mut stream = open(&web, lab.service("shop/api", 9090));
        let mut stays = open(&web, lab.service("shop/base", 7070));
        upgrade(&lab, "alpha", &[]);
        ping(&mut stream);
        match signed {
            true => drop(lab.apply("alpha", cut)),
            false => lab.write_graph(cut),
        }
        stream.read_exact(&mut [0; 1]).expect_err("it is cut");
        ping(&mut stays);
        let record = alpha.record(|record| record["handed_over"] == "drained");
        assert_eq!((&record["service"], &record["reason"]), (&"shop/api".into(), &"policy_changed".into()), "{record}");
        wait_for("both agents to have it", || alpha.log().contains("in force for the sessions that are left"));
        web.connect(lab.service("shop/api", 9090)).expect_err("nor is a new one allowed");
    }
}
