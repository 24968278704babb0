//! IPv6 wherever IPv4 works: a table of what each kind of call is answered with, over either underlay, and names by
//! either resolver.

use crate::lab::{Lab, Place, Server};
use std::net::{IpAddr, Ipv6Addr};

/// 8080 listens on both families, 8081 on IPv4 and 8082 on IPv6 only, 8083 not at all.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      other: { on: [alpha], run: { netns: other } }
      api: { on: [beta], run: { netns: api } }
    services:
      api:
        by: api
        ports: [8080/tcp, 8081/tcp, 8082/tcp, 8083/tcp, 8080/udp, 8081/udp, 8082/udp, 8083/udp]
    allow:
      - { from: web, to: api }
  depot:
    workloads:
      store: { on: [beta], run: { netns: store } }
    services:
      store: { by: store, ports: [8080/tcp, 8080/udp] }
";

/// Echoes on TCP and UDP.
const ECHO: &str = "
import select, socket
def at(kind, family, address, port, v6only):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    s.bind((address, port))
    if kind == socket.SOCK_STREAM: s.listen(64)
    return s
places = [(socket.AF_INET6, '::', 8080, 0), (socket.AF_INET, '0.0.0.0', 8081, 0), (socket.AF_INET6, '::', 8082, 1)]
streams = [at(socket.SOCK_STREAM, *place) for place in places]
datagrams = [at(socket.SOCK_DGRAM, *place) for place in places]
while True:
    for s in select.select(streams + datagrams, [], [])[0]:
        if s in streams:
            connection, _ = s.accept()
            connection.sendall(connection.recv(64))
            connection.close()
        else:
            data, source = s.recvfrom(64)
            s.sendto(data, source)
";

/// Says for each line of `KIND FAMILY ADDRESS PORT` what comes of it: `ok`, the name of the error, or `silence`.
const CALL: &str = "
import errno, socket, struct, sys
def call(kind, family, address, port):
    family = socket.AF_INET if family == 'v4' else socket.AF_INET6
    if kind == 'echo': return echo(family, address)
    s = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((address, int(port)))
    s.send(b'hello')
    return 'ok' if s.recv(64) == b'hello' else 'odd'
def echo(family, address):
    v4 = family == socket.AF_INET
    s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP if v4 else socket.IPPROTO_ICMPV6)
    s.settimeout(0.5)
    s.connect((address, 0))
    head = struct.pack('!BBHHH', 8 if v4 else 128, 0, 0, 77, 1)
    body = head + b'hello!'
    if v4:
        total = sum(struct.unpack('!7H', body))
        total = (total & 0xffff) + (total >> 16)
        body = body[:2] + struct.pack('!H', 0xffff ^ total) + body[4:]
    s.send(body)
    while True:
        answer = s.recv(2048)
        if v4: answer = answer[(answer[0] & 15) * 4:]
        if answer[0] in (0, 129): return 'ok' if answer[4:] == body[4:] else 'odd'
for line in sys.argv[1:]:
    try: print(call(*line.split()))
    except socket.timeout: print('silence')
    except OSError as error: print(errno.errorcode.get(error.errno, str(error)))
";

/// What is called.
#[derive(Clone, Copy)]
enum Callee {
    Port(u16),
    NoSuchService,
    NotExported,
}

/// One kind of call and its answers: TCP, then UDP, each by IPv4, IPv6, and IPv4 in an IPv6 socket; then echo by either.
struct Row(&'static str, &'static str, Callee, [&'static str; 8]);

const REFUSED: &str = "ECONNREFUSED";
/// ICMP "administratively prohibited" as Linux tells it: of IPv4, of IPv6.
const PROHIBITED: &str = "EHOSTUNREACH";
const PROHIBITED_V6: &str = "EACCES";

fn rows() -> [Row; 8] {
    use Callee::{NoSuchService, NotExported, Port};
    let ok = ["ok"; 8];
    let tcp_refused = |udp: [&'static str; 3], echo: [&'static str; 2]| {
        [REFUSED, REFUSED, REFUSED, udp[0], udp[1], udp[2], echo[0], echo[1]]
    };
    let prohibited = [PROHIBITED, PROHIBITED_V6];
    let denied = tcp_refused([PROHIBITED, PROHIBITED_V6, PROHIBITED], prohibited);
    let closed = tcp_refused([REFUSED; 3], ["ok"; 2]);
    let nowhere = tcp_refused([REFUSED; 3], prohibited);
    [
        Row("allowed, both families listen", "web", Port(8080), ok),
        Row("allowed, IPv4 alone listens", "web", Port(8081), ok),
        Row("allowed, IPv6 alone listens", "web", Port(8082), ok),
        Row("allowed, nothing listens", "web", Port(8083), closed),
        Row("no such port", "web", Port(9999), closed),
        Row("denied", "other", Port(8080), denied),
        Row("no such service", "web", NoSuchService, nowhere),
        Row("another tenant's, not exported", "web", NotExported, denied),
    ]
}

fn addresses(lab: &Lab, callee: Callee) -> (IpAddr, Ipv6Addr, u16) {
    let (service, port) = match callee {
        Callee::Port(port) => ("shop/api", port),
        Callee::NoSuchService => ("shop/api", 8080),
        Callee::NotExported => ("depot/store", 8080),
    };
    let IpAddr::V6(mut v6) = lab.service_v6(service, port).ip() else { unreachable!("it is asked for IPv6") };
    let mut v4 = lab.service(service, port).ip();
    if matches!(callee, Callee::NoSuchService) {
        v4 = IpAddr::from([198, 18, 255, 77]);
        v6 = Ipv6Addr::from(u128::from(v6) ^ 0x5555);
    }
    (v4, v6, port)
}

fn answers(lab: &Lab, row: &Row) -> Vec<String> {
    let (v4, v6, port) = addresses(lab, row.2);
    let mapped = format!("::ffff:{v4}");
    let mut lines = Vec::new();
    for kind in ["tcp", "udp"] {
        lines.push(format!("{kind} v4 {v4} {port}"));
        lines.push(format!("{kind} v6 {v6} {port}"));
        lines.push(format!("{kind} v6 {mapped} {port}"));
    }
    lines.extend([format!("echo v4 {v4} 0"), format!("echo v6 {v6} 0")]);
    let python = ["/usr/bin/python3", "-c", CALL];
    let line = [&python[..], &lines.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    lab.workload(row.1).ok(&line).lines().map(str::to_owned).collect()
}

fn echo_server(lab: &Lab) -> Server {
    lab.workload("api").spawn(&lab.file("echo.log"), &["/usr/bin/python3", "-c", ECHO]).listening(8082)
}

/// Makes every call of the table, prints what is answered, and fails if any cell is another than expected.
fn table(lab: &Lab) {
    let _server = echo_server(lab);
    let mut wrong = Vec::new();
    println!("{:<32} {:<42} {:<42} echo v4, v6", "", "tcp v4, v6, v4-mapped", "udp v4, v6, v4-mapped");
    for row in rows() {
        let found = answers(lab, &row);
        let cells = |range: std::ops::Range<usize>| found[range].join(" ");
        println!("{:<32} {:<42} {:<42} {}", row.0, cells(0..3), cells(3..6), cells(6..8));
        if found != row.3 {
            wrong.push(format!("{}: expected {:?}", row.0, row.3));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_call_is_answered_as_it_should_be_over_ipv4() {
    table(&Lab::of(&["alpha", "beta"]).graph(GRAPH).start());
}

#[test]
fn every_call_is_answered_as_it_should_be_over_ipv6() {
    let listen = |last| format!("listen: '[2001:db8::{last}]:7477'\n");
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).over_ipv6();
    let lab = lab.settings("alpha", &listen(11)).settings("beta", &listen(12)).start();
    table(&lab);
    let peer = lab.agent("alpha").status()["peers"][0]["address"].clone();
    assert_eq!(peer, "[2001:db8::12]:7477");
}

fn dig(place: &Place, query: &[&str]) -> String {
    place.ok(&[&["dig", "+tries=1", "+timeout=3", "+short"][..], query].concat()).trim().to_owned()
}

#[test]
fn names_are_told_by_either_resolver_and_either_transport() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).over_ipv6().start();
    let web = lab.workload("web");
    let (v4, v6) = (lab.service("shop/api", 1).ip().to_string(), lab.service_v6("shop/api", 1).ip().to_string());
    let resolver = lab.policy().resolver();
    for resolver in [resolver.0.to_string(), resolver.1.to_string()] {
        for transport in ["+notcp", "+tcp"] {
            let ask = |query: &[&str]| {
                let at = format!("@{resolver}");
                dig(&web, &[&[at.as_str(), transport][..], query].concat())
            };
            let name = "api.shop.lab.test";
            assert_eq!(ask(&[name, "A"]), v4, "{resolver} {transport}");
            assert_eq!(ask(&[name, "AAAA"]), v6, "{resolver} {transport}");
            for address in [&v4, &v6] {
                assert_eq!(ask(&["-x", address]), format!("{name}."), "{resolver} {transport}");
            }
            assert!(ask(&["_8080._tcp.api.shop.lab.test", "SRV"]).contains("8080"), "{resolver} {transport}");
        }
    }
}
