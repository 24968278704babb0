//! An agent that is killed: nothing for the fabric goes elsewhere meanwhile, who waits is told at once, and the next agent
//! takes over without a gap.

use crate::{
    lab::{Lab, Place, Tap, ripstop, within},
    servers::echo,
};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Kills, unless the long form is asked for with `RIPSTOP_LAB_LONG=1`.
const KILLS: usize = 5;
const KILLS_LONG: usize = 50;
/// Between two packets of the probers: 1 kHz.
const PROBE: Duration = Duration::from_millis(1);
/// The longest that a program waits before it calls that silence.
const SILENCE: Duration = Duration::from_secs(10);
/// Whoever waits for a killed agent's sessions is told within this, and as soon a new session can be had after a start.
const TOLD: Duration = Duration::from_secs(1);

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      box: { on: [alpha], run: { netns: box }, isolated: true }
      job: { on: [alpha], run: { user: 64001 } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, ports: [8080/tcp, 9000/udp] }
    allow:
      - { from: web, to: api }
      - { from: job, to: api }
";

fn kills() -> usize {
    if std::env::var_os("RIPSTOP_LAB_LONG").is_some() { KILLS_LONG } else { KILLS }
}

/// Sends datagrams to both addresses of a service, a thousand a second each, until it is dropped; says how many the
/// kernel took.
struct Prober {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    sending: Option<JoinHandle<()>>,
}

impl Prober {
    fn start(place: &Place, to: [SocketAddr; 2]) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, took) = (Arc::clone(&stop), Arc::clone(&sent));
        let sending = place.thread(move || {
            let sockets = [UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("[::]:0").unwrap()];
            let begun = Instant::now();
            for tick in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                for (socket, to) in sockets.iter().zip(to) {
                    if socket.send_to(b"probe", to).is_ok() {
                        took.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::sleep((PROBE * tick).saturating_sub(begun.elapsed()));
            }
        });
        Self { stop, sent, sending: Some(sending) }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sending) = self.sending.take() {
            let _ = sending.join();
        }
    }
}

/// What a program does with its session.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// It hears what the other end says.
    Receive,
    /// It says something every now and then.
    Send,
    /// It says more than is taken, and waits until that is.
    Fill,
}

impl Does {
    /// Until the session is over, or too long.
    fn until_told(self, stream: &mut TcpStream) -> io::Result<()> {
        let (piece, pause) = match self {
            Self::Receive => {
                while stream.read(&mut [0; 16])? > 0 {}
                return Ok(());
            }
            Self::Send => (1, PROBE * 10),
            Self::Fill => (1 << 20, Duration::ZERO),
        };
        loop {
            stream.write_all(&vec![0; piece])?;
            thread::sleep(pause);
        }
    }
}

/// A session whose program only waits; joined, it says how long after `killed` it was told.
fn waiting(place: &Place, to: SocketAddr, killed: &Arc<AtomicBool>) -> JoinHandle<Duration> {
    using(place, to, Does::Receive, killed)
}

/// A session with a program; joined, it says how long after `killed` that was told of an error.
fn using(place: &Place, to: SocketAddr, does: Does, killed: &Arc<AtomicBool>) -> JoinHandle<Duration> {
    let mut stream = place.connect(to).expect("allowed");
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    told(stream, does, killed)
}

fn told(mut stream: TcpStream, does: Does, killed: &Arc<AtomicBool>) -> JoinHandle<Duration> {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream.set_write_timeout(Some(SILENCE)).unwrap();
    let killed = Arc::clone(killed);
    thread::spawn(move || {
        let waker = thread::spawn(move || {
            while !killed.load(Ordering::Relaxed) {
                thread::sleep(PROBE);
            }
            Instant::now()
        });
        let told = does.until_told(&mut stream);
        let at = Instant::now();
        let error = told.expect_err("it is told of an error, not of an end");
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{does:?}, silence: {error}");
        at.saturating_duration_since(waker.join().unwrap())
    })
}

#[test]
fn nothing_leaves_across_kills_and_whoever_waits_is_told() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    lab.host("alpha").sh("ip route add default via 192.0.2.254; ip -6 route add default via 2001:db8::fe");
    lab.way_out("alpha", "web", 1);
    lab.way_out("alpha", "box", 2);
    let _server = lab.workload("api").serve(8080, echo);
    let to = lab.service("shop/api", 8080);
    let probed = [lab.service("shop/api", 9000), lab.service_v6("shop/api", 9000)];
    let (host, wire) = (lab.host("alpha"), lab.wire());
    let (web, boxed) = (lab.workload("web"), lab.workload("box"));
    let leaks = [Tap::on(&wire, &[], lab.is_for_fabric()), Tap::on(&host, &["out1", "out2"], lab.is_for_fabric())];
    let probers = [Prober::start(&web, probed), Prober::start(&boxed, probed), Prober::start(&host, probed)];
    let job = lab
        .workload("job")
        .spawn(&lab.file("job.log"), &["/usr/bin/python3", "-c", PROBE_AS_USER, &probed[0].ip().to_string()]);
    let (mut told, mut back) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..kills() {
        let killed = Arc::new(AtomicBool::new(false));
        let waiters = [Does::Receive, Does::Send, Does::Fill].map(|does| using(&web, to, does, &killed));
        thread::sleep(Duration::from_millis(100));
        lab.agent("alpha").kill();
        killed.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        lab.agent("alpha").launch();
        back =
            back.max(within(TOLD, "a first session", || web.inside(|| TcpStream::connect_timeout(&to, TOLD)).is_ok()));
        told = waiters.into_iter().map(|waiter| waiter.join().unwrap()).fold(told, Duration::max);
        assert!(begun.elapsed() < TOLD * 3);
        lab.agent("alpha").wait_ready();
    }
    drop(job);
    eprintln!(
        "{} kills: told after {} ms at most, a session after {} ms at most",
        kills(),
        told.as_millis(),
        back.as_millis()
    );
    assert!(told < TOLD, "{told:?}");
    assert!(probers[..2].iter().all(|prober| prober.sent.load(Ordering::Relaxed) > 100), "they did send");
    for leak in leaks {
        let found = leak.end();
        assert!(found.is_empty(), "{} packets for the fabric left outside it: {:02x?}", found.len(), found[0]);
    }
}

#[test]
fn both_ends_of_a_session_are_told_when_the_agent_of_its_endpoint_is_killed() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    let killed = Arc::new(AtomicBool::new(false));
    let (of_endpoint, told_there) = mpsc::sync_channel(2);
    let there = Arc::clone(&killed);
    let _server = lab.workload("api").serve(8080, move |mut stream| {
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).and_then(|()| stream.write_all(&ping)).unwrap();
        let _ = of_endpoint.send(told(stream, Does::Receive, &there));
    });
    let waiters = [Does::Receive, Does::Send].map(|does| using(&web, to, does, &killed));
    let served = [(); 2].map(|()| told_there.recv().unwrap());
    thread::sleep(Duration::from_millis(100));
    lab.agent("beta").kill();
    killed.store(true, Ordering::Relaxed);
    lab.agent("beta").launch();
    for (which, waiter) in waiters.into_iter().chain(served).enumerate() {
        let after = waiter.join().unwrap();
        assert!(after < TOLD, "{which}: after {after:?}");
    }
    lab.agent("beta").wait_ready();
}

const PROBE_AS_USER: &str = "
import socket, sys, time
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try: probe.sendto(b'probe', (sys.argv[1], 9000))
    except OSError: pass
    time.sleep(0.001)
";

#[test]
fn cleanup_after_each_kill_leaves_the_host_as_it_was() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).without_agent("alpha").start();
    let before = lab.snapshot("alpha");
    let alpha = lab.host("alpha");
    for turn in 0..kills() {
        lab.agent("alpha").start();
        assert_ne!(lab.snapshot("alpha"), before);
        lab.agent("alpha").kill();
        // Every other time the next agent comes between, and takes over.
        if turn % 2 == 1 {
            lab.agent("alpha").start();
            lab.agent("alpha").kill();
        }
        alpha.ok(&[ripstop(), "cleanup"]);
        assert_eq!(lab.snapshot("alpha"), before, "kill {turn}");
    }
}

#[test]
fn sessions_of_a_dead_agent_can_be_ended_without_opening_anything() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let _server = lab.workload("api").serve(8080, echo);
    let (web, to) = (lab.workload("web"), lab.service("shop/api", 8080));
    let killed = Arc::new(AtomicBool::new(false));
    let waiter = waiting(&web, to, &killed);
    lab.agent("alpha").kill();
    killed.store(true, Ordering::Relaxed);
    let said = lab.host("alpha").ok(&[ripstop(), "cleanup", "--sessions-only"]);
    assert!(said.contains("ended 1 sockets"), "{said}");
    assert!(waiter.join().unwrap() < TOLD);
    let asked = Instant::now();
    web.connect(to).expect_err("it stays closed");
    assert!(asked.elapsed() < TOLD, "and says so at once");
}

#[test]
fn what_the_graph_no_longer_has_is_undone_by_the_next_agent() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    lab.agent("alpha").kill();
    lab.write_graph(|text| {
        text.replace("      job: { on: [alpha], run: { user: 64001 } }\n", "")
            .replace("      - { from: job, to: api }\n", "")
    });
    lab.agent("alpha").start();
    let left = lab.host("alpha").sh("ip rule; ip route show table all; nft list tables");
    assert!(!left.contains("64001") && !left.contains("ripstop-rs-job"), "{left}");
}

#[test]
fn the_host_s_resolv_conf_comes_back_after_a_kill_too() {
    let settings = "dns: { upstream: [], resolv-conf: true }";
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).settings("alpha", settings).without_agent("alpha").start();
    let _server = lab.workload("api").serve(8080, echo);
    let alpha = lab.host("alpha");
    alpha.sh("printf '# mine\nnameserver 192.0.2.254' > /etc/resolv.conf; chmod 640 /etc/resolv.conf");
    let look = || alpha.sh("ls -l --time-style=full-iso /etc/resolv.conf*; cat /etc/resolv.conf");
    let before = look();
    for kill in [false, true] {
        lab.agent("alpha").start();
        lab.agent("alpha").wait_up(&["beta"]);
        assert!(look().contains("nameserver 198.18.0.1"));
        let line = "exec 3<>/dev/tcp/api.shop.lab.test/8080; echo ping >&3; head -1 <&3";
        alpha.sh("chmod 644 /etc/resolv.conf");
        assert_eq!(lab.workload("job").ok(&["bash", "-c", line]), "ping\n");
        if kill {
            lab.agent("alpha").kill();
            alpha.ok(&[ripstop(), "cleanup"]);
        } else {
            assert_eq!(lab.agent("alpha").stop(), 0);
        }
        assert_eq!(look(), before);
    }
}
