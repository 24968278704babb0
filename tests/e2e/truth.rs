//! What an application sees of a connection: the same through the fabric as over a direct one, in errors, bytes and order.
//!
//! Every case is a script for two puppets, a caller and a server, each of which does one thing at a time and says what came
//! of it. It is played over a direct connection between the hosts first, and then through the fabric, each way there is.
//! Where both ends would race, one waits until its kernel shows what the other did.

use crate::lab::{Lab, Place};
use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// `edge` calls `api` in a namespace and `store`, a user, on another host, and `near` and `nigh`, the same, on its own.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      edge: { on: [alpha], run: { netns: edge } }
      near: { on: [alpha], run: { netns: near } }
      nigh: { on: [alpha], run: { user: 64011 } }
      api: { on: [beta], run: { netns: api } }
      store: { on: [beta], run: { user: 64012 } }
      job: { on: [alpha], run: { user: 64013 } }
    services:
      near: { by: near, port: 8080/tcp }
      nigh: { by: nigh, port: 8080/tcp }
      api: { by: api, port: 8080/tcp }
      store: { by: store, port: 8080/tcp }
    allow:
      - { from: edge, to: near }
      - { from: edge, to: nigh }
      - { from: edge, to: api }
      - { from: edge, to: store }
      - { from: job, to: api }
";

/// Does what each line says and answers with one line.
const PUPPET: &str = r#"
import errno, fcntl, select, socket, struct, sys, termios, threading, time
S, LATE = {}, {}
def name(e): return errno.errorcode.get(e, str(e))
def pattern(at, n): return bytes((at + i) % 251 for i in range(n))
def conn(): return S['c']
def listen(family, port):
    family = socket.AF_INET6 if family == 'v6' else socket.AF_INET
    address = sys.argv[1] if family == socket.AF_INET else '::'
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, int(port))); s.listen(128); s.settimeout(20)
    S['l'] = s
    return 'ok'
def fresh(c, *more):
    c.settimeout(20)
    S.update(c=c, sent=0, got=0)
    return ' '.join(['ok', *more])
def connect(address, port):
    c = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    c.settimeout(20)
    c.connect((address, int(port)))
    return fresh(c)
def storm(n, address, port):
    found = set()
    for _ in range(int(n)):
        with socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET) as c:
            c.settimeout(20)
            found.add(name(c.connect_ex((address, int(port)))))
    return ' '.join(sorted(found))
def accept(): return fresh(S['l'].accept()[0])
def send(n):
    data, done = pattern(S['sent'], int(n)), 0
    while done < len(data):
        took = conn().send(data[done:]); done += took; S['sent'] += took
    return f'sent {done}'
def fill():
    conn().settimeout(0)
    try:
        while True: S['sent'] += conn().send(pattern(S['sent'], 65536))
    except BlockingIOError: pass
    conn().settimeout(20)
    return 'full'
def take(n):
    got = conn().recv(n)
    if got != pattern(S['got'], len(got)): raise ValueError('other bytes')
    S['got'] += len(got)
    return len(got)
def read(n):
    left = int(n)
    while left:
        got = take(left)
        if not got: return f'{int(n) - left} bytes, end'
        left -= got
    return f'{n} bytes'
def drain(exact=True):
    total = 0
    try:
        while True:
            got = take(65536)
            if not got: how = 'end'; break
            total += got
    except OSError as e: how = name(e.errno) if e.errno else 'nothing for 20 s'
    return f'{total if exact else "some" if total else "no"} bytes, {how}'
def raw(n, flags=0): return repr(conn().recv(int(n), flags))
def whole(n):
    data = b''
    while len(data) < int(n): data += conn().recv(int(n) - len(data))
    return repr(data)
def text(t): return f'sent {conn().send(t.encode())}'
def oob(t): return f'sent {conn().send(t.encode(), socket.MSG_OOB)}'
def inline(): conn().setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1); return 'ok'
def mark(): conn().shutdown(socket.SHUT_WR); return 'ok'
def deaf(): conn().shutdown(socket.SHUT_RD); return 'ok'
def both(): conn().shutdown(socket.SHUT_RDWR); return 'ok'
def close(): S.pop('c').close(); return 'ok'
def reset():
    conn().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    return close()
def unread(n):
    end = time.time() + 20
    while time.time() < end:
        have = struct.unpack('i', fcntl.ioctl(conn(), termios.FIONREAD, b'0000'))[0]
        if have >= int(n): return f'{n} unread'
        time.sleep(0.002)
    return f'{have} unread after 20 s'
def sees(what):
    mask = dict(end=select.POLLRDHUP, gone=select.POLLHUP)[what]
    p = select.poll(); p.register(conn(), mask)
    end = time.time() + 20
    while time.time() < end:
        for _, events in p.poll(100):
            if events & mask: return what
    return f'not {what} after 20 s'
def error(): return name(conn().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
def keep():
    c = conn()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL): c.setsockopt(socket.IPPROTO_TCP, option, 1)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return 'ok'
def idle(n): time.sleep(float(n)); return 'ok'
def clear():
    for key in ('c', 'l'):
        if key in S: S.pop(key).close()
    return 'ok'
def do(words):
    try: return globals()[words[0]](*words[1:])
    except socket.timeout: return 'nothing for 20 s'
    except OSError as e: return name(e.errno)
def go(*words):
    def run(): LATE['said'] = do(words)
    LATE['thread'] = threading.Thread(target=run); LATE['thread'].start()
    return 'begun'
def done(): LATE['thread'].join(); return LATE['said']
for line in sys.stdin:
    words = line.split()
    print(drain(False) if words == ['drain', 'some'] else do(words), flush=True)
"#;

/// `c` is the caller, `s` the server; OPEN stands for a connection that both have.
///
/// Where one end's buffers are full when the other resets, it is not asked to see that before it reads on.
const CASES: &[(&str, &str)] = &[
    ("nobody listens", "c connect"),
    ("nobody listens, a hundred times", "c storm 100"),
    ("the server speaks first", "OPEN; s send 10; c read 10; c send 5; s read 5; s close; c drain; c close"),
    (
        "the caller ends first, a long answer",
        "OPEN; c send 100; c mark; s drain; s go send 1000000; c go drain; s done; s close; c done",
    ),
    (
        "the server ends first, a long upload",
        "OPEN; s send 100; s mark; c drain; c go send 1000000; s go drain; c done; c close; s done",
    ),
    (
        "the caller ends at once",
        "s listen; c connect; c close; s accept; s drain; s send 10; s sees gone; s send 1; s send 1",
    ),
    (
        "the caller ends its half at once",
        "s listen; c connect; c mark; s accept; s drain; s send 1000; s close; c drain",
    ),
    ("both end at once", "OPEN; c mark; s mark; c drain; s drain; c close; s close"),
    ("both end, and are shut both ways", "OPEN; c send 10; s read 10; c both; s both; c drain; s drain"),
    ("the caller does not want to hear", "OPEN; c deaf; c send 10; s read 10; s send 10; c mark; s drain; s close"),
    (
        "the caller resets after an exchange",
        "OPEN; c send 5; s read 5; c reset; s sees gone; s drain; s drain; s send 1",
    ),
    (
        "the server resets after an exchange",
        "OPEN; s send 5; c read 5; s reset; c sees gone; c drain; c drain; c send 1",
    ),
    ("a reset is the pending error", "OPEN; s reset; c sees gone; c error; c drain; c send 1"),
    ("a reset ends a waiting read", "OPEN; s send 5; c read 5; c go read 5; s reset; c done"),
    ("a reset ends a waiting read of the server", "OPEN; c send 5; s read 5; s go read 5; c reset; s done"),
    ("a reset ends a waiting write", "OPEN; c fill; c go send 9000000; s unread 1; s reset; c done"),
    (
        "a reset behind data that waits at the server",
        "OPEN; c send 1000; s unread 1000; c reset; s sees gone; s drain; s drain",
    ),
    (
        "a reset behind data that waits at the caller",
        "OPEN; s send 1000; c unread 1000; s reset; c sees gone; c drain; c drain",
    ),
    ("a reset right behind data of the caller", "OPEN; c send 8000; c reset; s sees gone; s drain"),
    ("a reset right behind data of the server", "OPEN; s send 8000; s reset; c sees gone; c drain"),
    (
        "a write before the data that a reset came behind",
        "OPEN; s send 1000; c unread 1000; s reset; c sees gone; c send 1; c drain",
    ),
    ("a reset after the caller's end", "OPEN; c send 10; c mark; s sees end; c reset; s sees gone; s drain; s send 1"),
    ("a reset after the server's end", "OPEN; s send 10; s mark; c sees end; s reset; c sees gone; c drain; c send 1"),
    (
        "a reset by the caller after the server's end",
        "OPEN; s mark; c drain; c send 1000; c reset; s sees gone; s drain",
    ),
    (
        "a reset by the server after the caller's end",
        "OPEN; c mark; s drain; s send 1000; s reset; c sees gone; c drain",
    ),
    ("a reset throws away what was not sent", "OPEN; c fill; c reset; s drain some"),
    ("the server's reset does so too", "OPEN; s fill; s reset; c drain some"),
    ("a reset of a blocked upload, the download ended", "OPEN; s mark; c drain; c fill; c reset; s drain some"),
    ("a reset of a blocked download, the upload ended", "OPEN; c mark; s drain; s fill; s reset; c drain some"),
    (
        "closed by the server with data unread",
        "OPEN; c send 1000; s unread 1000; s close; c sees gone; c drain; c send 1",
    ),
    (
        "closed by the caller with data unread",
        "OPEN; s send 1000; c unread 1000; c close; s sees gone; s drain; s send 1",
    ),
    (
        "an answer, then closed with data unread",
        "OPEN; c send 1000; s unread 1000; s send 500; c unread 500; s close; c sees gone; c drain",
    ),
    (
        "the server closes, the caller writes",
        "OPEN; s send 5; s close; c sees end; c drain; c send 5; c sees gone; c send 5; c send 5; c drain",
    ),
    (
        "the caller closes, the server writes",
        "OPEN; c send 5; c close; s sees end; s drain; s send 5; s sees gone; s send 5; s drain",
    ),
    ("out-of-band data, kept in line", "OPEN; s inline; c text abc; c oob d; c text ef; s whole 6; s send 1; c read 1"),
    ("keep-alive", "OPEN; c keep; s keep; c idle 3; c send 5; s read 5; s send 5; c read 5; s close; c drain"),
];

/// The longest that one step may take.
const STEP: Duration = Duration::from_secs(40);

/// So many of the ways go to another host; they come first.
const ACROSS: usize = 4;

/// A puppet says one line for each that it is told.
const LINES: usize = 1;

struct Puppet {
    child: Child,
    says: ChildStdin,
    hears: mpsc::Receiver<String>,
}

impl Puppet {
    fn new(place: &Place, listens_at: &str) -> Self {
        let mut command = place.command(&["/usr/bin/python3", "-c", PUPPET, listens_at]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, hears) = mpsc::sync_channel(LINES);
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { says: child.stdin.take().unwrap(), child, hears }
    }

    fn does(&mut self, what: &str) -> String {
        writeln!(self.says, "{what}").unwrap();
        self.hears.recv_timeout(STEP).unwrap_or_else(|_| panic!("no answer to `{what}`"))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two places and the address by which one reaches the other.
struct Stage {
    name: &'static str,
    caller: Puppet,
    server: Puppet,
    to: SocketAddr,
}

impl Stage {
    fn new(name: &'static str, caller: &Place, server: &Place, listens_at: &str, to: SocketAddr) -> Self {
        Self { name, caller: Puppet::new(caller, listens_at), server: Puppet::new(server, listens_at), to }
    }

    /// Plays a script and returns what was said at each step.
    fn play(&mut self, script: &str) -> Vec<String> {
        let script = script.replace("OPEN", "s listen; c connect; s accept");
        let said = script.split(';').map(|step| self.step(step.trim())).collect();
        self.caller.does("clear");
        self.server.does("clear");
        said
    }

    fn step(&mut self, step: &str) -> String {
        let (to, port) = (self.to.ip(), self.to.port());
        let family = if to.is_ipv6() { "v6" } else { "v4" };
        let (who, what) = step.split_once(' ').unwrap();
        let what = match what {
            "connect" | "storm 100" => format!("{what} {to} {port}"),
            "listen" => format!("listen {family} {port}"),
            other => other.to_owned(),
        };
        let said = if who == "c" { self.caller.does(&what) } else { self.server.does(&what) };
        format!("{step}: {said}")
    }
}

fn stages(lab: &Lab) -> (Stage, Vec<Stage>) {
    let direct = SocketAddr::new(lab.host_address("beta").into(), 9090);
    let direct = Stage::new("direct", &lab.host("alpha"), &lab.host("beta"), "0.0.0.0", direct);
    let edge = lab.workload("edge");
    let to = |service: &str| lab.service(service, 8080);
    let any = "0.0.0.0";
    let own = "127.0.0.1";
    let fabric = vec![
        Stage::new("to a namespace of another host", &edge, &lab.workload("api"), any, to("shop/api")),
        Stage::new("the same by IPv6", &edge, &lab.workload("api"), any, lab.service_v6("shop/api", 8080)),
        Stage::new("to a user of another host", &edge, &lab.workload("store"), own, to("shop/store")),
        Stage::new("from a user to a namespace", &lab.workload("job"), &lab.workload("api"), any, to("shop/api")),
        Stage::new("to a namespace of this host", &edge, &lab.workload("near"), any, to("shop/near")),
        Stage::new("to a user of this host", &edge, &lab.workload("nigh"), own, to("shop/nigh")),
    ];
    (direct, fabric)
}

#[test]
fn a_connection_looks_the_same_through_the_fabric() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let (mut direct, mut fabric) = stages(&lab);
    let only = std::env::var("RIPSTOP_TRUTH").unwrap_or_default();
    let mut wrong = Vec::new();
    for (name, script) in CASES.iter().filter(|(name, _)| name.contains(&only)) {
        let expected = direct.play(script);
        println!("{name}\n    {}", expected.join("; "));
        for stage in &mut fabric {
            let start = Instant::now();
            let found = stage.play(script);
            if found != expected {
                let differ = expected.iter().zip(&found).filter(|(expected, found)| expected != found);
                let differ: Vec<_> = differ.map(|(expected, found)| format!("{found} (not {expected})")).collect();
                wrong.push(format!("{name}, {}: {}", stage.name, differ.join("; ")));
            } else if start.elapsed() > Duration::from_secs(2) {
                println!("    {}: {} ms", stage.name, start.elapsed().as_millis());
            }
        }
    }
    println!("measured: {} cases, {} ways each, {} other than direct", CASES.len(), fabric.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Where a direct connection and the fabric differ, and how: README says why.
#[test]
fn what_differs_from_a_direct_connection_is_known() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let (mut direct, mut fabric) = stages(&lab);
    let urgent = "OPEN; c text abc; c oob d; c text ef; s unread 5; s raw 9";
    let last = |said: Vec<String>| said[said.len() - 2..].to_vec();
    assert_eq!(
        last(direct.play(&format!("{urgent}; s raw 9"))),
        ["s raw 9: b'abc'", "s raw 9: b'ef'"],
        "the urgent byte is elsewhere"
    );
    for stage in &mut fabric {
        let said = stage.play(urgent).join("; ");
        assert!(said.contains("b'abcd"), "{}: the urgent byte is a byte like others: {said}", stage.name);
    }
    // A server whose kernel says nothing: directly, the caller's own kernel gives up after two minutes, with ETIMEDOUT.
    lab.workload("api").sh("nft add table inet t; nft add chain inet t i '{ type filter hook input priority 0; }'; \
                            nft add rule inet t i tcp dport 8080 drop");
    let start = Instant::now();
    assert_eq!(fabric[0].play("s listen; c connect"), ["s listen: ok", "c connect: EHOSTUNREACH"]);
    println!("measured: an endpoint that says nothing is unreachable after {} ms", start.elapsed().as_millis());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_host_that_is_not_there_is_unreachable() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let (mut direct, mut fabric) = stages(&lab);
    direct.to = SocketAddr::from(([192, 0, 2, 77], 9090));
    let expected = direct.play("c connect");
    assert_eq!(expected, ["c connect: EHOSTUNREACH"]);
    lab.link("beta").unplug();
    lab.agent("beta").kill();
    for stage in &mut fabric[..ACROSS] {
        assert_eq!(stage.play("c connect"), expected, "{}", stage.name);
    }
}
