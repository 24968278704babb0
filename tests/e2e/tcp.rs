//! TCP's own manners through the fabric, against the kernel's TCP on both sides.

use crate::{
    lab::{Lab, within},
    pattern,
    servers::{echo, greet},
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// The longest that anything of one test may wait for bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports that an agent calls an endpoint from, and calls that come when each was used once.
const PORTS: usize = 64_511;
const AGAIN: usize = 400;
/// What a connection takes at least whose first SYN was in vain.
const A_SYN_AGAIN: Duration = Duration::from_millis(600);
/// How long Linux keeps a connection in mind that it closed first.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// A silent host's sessions are kept for 10 s, so that they outlive an outage; its last word may have come up to a probe's
/// interval before it was cut off. Then they end, at the next probe's time at the latest.
const SILENT_KEPT: Duration = Duration::from_secs(7);
const SILENT_LOST: Duration = Duration::from_secs(12);

fn open(lab: &Lab) -> TcpStream {
    let stream = lab.workload("web").connect(lab.service("shop/api", 8080)).expect("allowed and served");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[test]
fn the_caller_may_finish_first() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, |mut stream| {
        assert_eq!(pattern::read_to_end(&mut stream, 1).unwrap(), 300_000, "the end is seen only after all bytes");
        pattern::write(&mut stream, 1_000_000, 2).unwrap();
    });
    let mut stream = open(&lab);
    pattern::write(&mut stream, 300_000, 1).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(pattern::read_to_end(&mut stream, 2).unwrap(), 1_000_000);
    let record = lab.agent("alpha").record(|_| true);
    assert_eq!(
        (record["bytes_up"].as_u64(), record["bytes_down"].as_u64()),
        (Some(300_000), Some(1_000_000)),
        "{record}"
    );
    assert_eq!(record["reason"], "closed", "{record}");
}

#[test]
fn the_endpoint_may_finish_first() {
    let lab = Lab::shop();
    let (tell, told) = mpsc::sync_channel(1);
    let _server = lab.workload("api").serve(8080, move |mut stream| {
        pattern::write(&mut stream, 1_000_000, 3).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        tell.send(pattern::read_to_end(&mut stream, 4).unwrap()).unwrap();
    });
    let mut stream = open(&lab);
    assert_eq!(pattern::read_to_end(&mut stream, 3).unwrap(), 1_000_000);
    thread::sleep(Duration::from_millis(300));
    pattern::write(&mut stream, 500_000, 4).expect("the other way is still open");
    drop(stream);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 500_000);
    assert_eq!(lab.agent("beta").record(|_| true)["reason"], "closed");
}

#[test]
fn more_connections_in_a_minute_than_there_are_ports_are_no_reason_to_wait() {
    let lab = Lab::shop();
    // By IPv4 alone, so that there is no other way; it closes first, so that its kernel keeps each connection in mind for a minute.
    let _server = lab.workload("api").serve_at("0.0.0.0:8080".parse().unwrap(), |mut stream| {
        let _ = stream.read(&mut [0]).and_then(|_| stream.write_all(b"x"));
    });
    let to = lab.service("shop/api", 8080);
    let (next, web) = (AtomicUsize::new(0), lab.workload("web"));
    let call = || {
        let start = Instant::now();
        let mut stream = TcpStream::connect(to).expect("allowed and served");
        stream.write_all(b"x").unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 1);
        start.elapsed()
    };
    let one_after_the_other = || {
        let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
        let calls = numbers.take_while(|number| *number < PORTS + AGAIN).map(|number| (number, call()));
        calls.filter(|(number, took)| *number >= PORTS && *took > A_SYN_AGAIN).count()
    };
    let start = Instant::now();
    let slow: usize = web.inside(|| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(one_after_the_other)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        })
    });
    assert!(start.elapsed() < TIME_WAIT, "too slow to find a port in TIME-WAIT: {:?}", start.elapsed());
    assert!(slow < AGAIN / 20, "{slow} of {AGAIN} waited for another SYN");
}

#[test]
fn a_reset_by_the_caller_reaches_the_endpoint() {
    let lab = Lab::shop();
    let (tell, told) = mpsc::sync_channel(1);
    let _server = lab.workload("api").serve(8080, move |mut stream| {
        let mut buffer = [0; 16];
        let first = stream.read(&mut buffer).unwrap();
        tell.send((first, stream.read(&mut buffer).map_err(|error| error.kind()))).unwrap();
    });
    let mut stream = open(&lab);
    stream.write_all(b"hello").unwrap();
    thread::sleep(Duration::from_millis(200));
    reset(stream);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), (5, Err(ErrorKind::ConnectionReset)));
    for host in ["alpha", "beta"] {
        assert_eq!(lab.agent(host).record(|_| true)["reason"], "caller_reset", "on {host}");
    }
}

#[test]
fn a_reset_by_the_endpoint_reaches_the_caller() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, |mut stream| {
        let _ = stream.read(&mut [0; 16]);
        reset(stream);
    });
    let mut stream = open(&lab);
    stream.write_all(b"hello").unwrap();
    let error = stream.read(&mut [0; 16]).expect_err("not an ordinary end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    for host in ["alpha", "beta"] {
        assert_eq!(lab.agent(host).record(|_| true)["reason"], "endpoint_reset", "on {host}");
    }
}

#[test]
fn the_server_may_speak_first() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, greet("220 ready\n"));
    let mut said = String::new();
    open(&lab).read_to_string(&mut said).unwrap();
    assert_eq!(said, "220 ready\n");
}

/// Answers the first byte of each connection with how many segments its kernel took until then: `tcpi_segs_in` of `struct tcp_info`.
/// A greeting comes before that byte is asked for, where the last connection's byte wanted it.
const COUNT_SEGMENTS: &str = r"
import socket, struct
listener = socket.create_server(('0.0.0.0', 8080))
greets = False
while True:
    stream, _ = listener.accept()
    if greets: stream.sendall(b'hello ')
    said = stream.recv(1)
    greets = said == b'g'
    info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    stream.sendall(b'%d' % struct.unpack_from('I', info, 140))
    stream.close()
";

#[test]
fn the_first_bytes_end_the_handshake_of_an_endpoint_that_waits_for_them() {
    let one = "data-threads: 1";
    let lab = Lab::of(&["alpha", "beta"]).settings("alpha", one).settings("beta", one).start();
    let line = ["/usr/bin/python3", "-u", "-c", COUNT_SEGMENTS];
    let _server = lab.workload("api").spawn(&lab.file("count.log"), &line).listening(8080);
    let say = |byte: &[u8]| {
        let mut stream = open(&lab);
        stream.write_all(byte).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let says_nothing_alone = |byte| (0..20).any(|_| say(byte) == "2");
    assert_eq!(say(b"x"), "3", "nothing is known of it: the SYN, the acknowledgement and the byte");
    assert!(says_nothing_alone(b"x"), "the last two in one, but where a busy machine is late");
    say(b"g");
    // It speaks first, to a caller that waits for that.
    let mut stream = open(&lab);
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello ");
    stream.write_all(b"x").unwrap();
    drop(stream);
    assert!(!says_nothing_alone(b"x"), "it is not kept waiting again");
}

#[test]
fn odd_sizes_go_both_ways_at_once() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    for size in [1, 2, 1_447, 1_448, 1_449, 65_535, 65_536, 65_537, 3_000_007, 40_000_001] {
        let stream = open(&lab);
        let mut writer = stream.try_clone().unwrap();
        let up = thread::spawn(move || {
            pattern::write(&mut writer, size, size).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(pattern::read_to_end(&stream, size).unwrap(), size);
        up.join().unwrap();
    }
    lab.agent("alpha").wait_records(10, |record| record["reason"] == "closed");
}

#[test]
fn many_small_writes_are_not_held_back() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut stream = open(&lab);
    stream.set_nodelay(true).unwrap();
    let start = Instant::now();
    for n in 0..500_u32 {
        stream.write_all(&n.to_be_bytes()).unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(u32::from_be_bytes(back), n);
    }
    let each = start.elapsed() / 500;
    assert!(each < Duration::from_millis(5), "{each:?} for each exchange: something waits for an acknowledgement");
}

#[test]
fn a_slow_reader_costs_no_memory() {
    const SIZE: u64 = 120 << 20;
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, |mut stream| {
        let _ = pattern::write(&mut stream, SIZE, 5);
    });
    let before = ["alpha", "beta"].map(|host| lab.agent(host).resident());
    let stream = open(&lab);
    thread::sleep(Duration::from_secs(3));
    for (host, before) in ["alpha", "beta"].iter().zip(before) {
        let grown = lab.agent(host).resident().saturating_sub(before);
        assert!(grown < 48 << 20, "the agent of {host} holds {grown} bytes more for one slow reader");
    }
    assert_eq!(pattern::read_to_end(&stream, 5).unwrap(), SIZE, "nothing was lost while it waited");
}

#[test]
fn a_slow_endpoint_stops_the_caller() {
    let lab = Lab::shop();
    let (go, wait) = mpsc::sync_channel::<()>(1);
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let (tell, told) = mpsc::sync_channel(1);
    let _server = lab.workload("api").serve(8080, move |mut stream| {
        wait.lock().unwrap().recv().unwrap();
        tell.send(pattern::read_to_end(&mut stream, 6).unwrap()).unwrap();
    });
    let stream = open(&lab);
    stream.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut counted = Counted { stream: &stream, bytes: 0 };
    let blocked = pattern::write(&mut counted, 1 << 30, 6).expect_err("the window must close");
    assert!(matches!(blocked.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{blocked}");
    let sent = counted.bytes;
    assert!(sent < 64 << 20, "{sent} bytes were taken while the endpoint read nothing");
    go.send(()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), sent);
}

/// Counts what the socket took, also of a write that is cut short.
struct Counted<'a> {
    stream: &'a TcpStream,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = (&mut &*self.stream).write(bytes)?;
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn three_percent_loss_between_hosts_loses_nothing() {
    const SIZE: u64 = 8 << 20;
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    lab.link("beta").lose_per_mille(30);
    let stream = open(&lab);
    let mut writer = stream.try_clone().unwrap();
    let up = thread::spawn(move || {
        pattern::write(&mut writer, SIZE, 8).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(pattern::read_to_end(&stream, 8).unwrap(), SIZE);
    up.join().unwrap();
    let status = lab.agent("alpha").status();
    let lost = status["peers"][0]["lost_packets"].as_u64();
    assert!(lost > Some(0), "loss shows in the status: {:#}", status["peers"]);
}

#[test]
fn a_host_that_falls_silent_ends_its_sessions() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut stream = open(&lab);
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    lab.link("beta").blackhole();
    let start = Instant::now();
    let error = stream.read(&mut [0; 16]).expect_err("not an ordinary end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let took = start.elapsed();
    println!("measured: a silent host's session ended after {took:?}");
    assert!((SILENT_KEPT..SILENT_LOST).contains(&took), "ended after {took:?}");
    for host in ["alpha", "beta"] {
        assert_eq!(lab.agent(host).record(|_| true)["reason"], "peer_lost", "on {host}");
    }
    lab.link("beta").heal();
    within(Duration::from_secs(6), "the hosts to find each other again", || lab.agent("alpha").is_up(&["beta"]));
    let mut again = open(&lab);
    again.write_all(b"hello").unwrap();
    again.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn a_thin_link_is_used_and_not_overrun() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, |mut stream| {
        let _ = pattern::write(&mut stream, 4 << 20, 9);
    });
    lab.link("beta").rate_mbit(20);
    let start = Instant::now();
    assert_eq!(pattern::read_to_end(open(&lab), 9).unwrap(), 4 << 20);
    let rate = f64::from(4 << 20) * 8.0 / start.elapsed().as_secs_f64() / 1e6;
    assert!((8.0..21.0).contains(&rate), "{rate} Mbit/s on a link of 20");
}
