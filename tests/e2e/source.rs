//! Whom an endpoint sees: the caller's own address and its name, a PROXY header, and nobody but the workload sees anything.

use crate::lab::{Lab, Place, Server, within};
use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

/// `job` and `near` are users, `box` and `web` namespaces; each is called from its own host and from another.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      far: { on: [alpha], run: { user: 64001 } }
      near: { on: [beta], run: { user: 64002 } }
      hut: { on: [beta], run: { netns: hut } }
      job: { on: [beta], run: { user: 64003 } }
      box: { on: [beta], run: { netns: box } }
    services:
      job: { by: job, ports: [8080/tcp, 8081/tcp, 8082/tcp, 8080/udp, 8081/udp], source: preserve }
      box: { by: box, ports: [8080/tcp, 8081/tcp, 8080/udp, 8081/udp] }
      usual: { by: job, ports: [9080/tcp, 9081/tcp, 9081/udp] }
      told: { by: job, port: 8090/tcp, proxy-protocol: v2, health: { tcp: 100ms } }
      heard: { by: box, port: 8090/tcp, proxy-protocol: v2, health: { http: /health, every: 100ms } }
      raw: { by: job, port: 8091/tcp, proxy-protocol: v2 }
    allow:
      - { from: web, to: job }
      - { from: far, to: job }
      - { from: near, to: job }
      - { from: hut, to: job }
      - { from: job, to: job }
      - { from: web, to: box }
      - { from: far, to: box }
      - { from: near, to: box }
      - { from: hut, to: box }
      - { from: box, to: box }
      - { from: web, to: usual }
      - { from: web, to: told }
      - { from: far, to: told }
      - { from: near, to: told }
      - { from: web, to: heard }
      - { from: far, to: heard }
      - { from: hut, to: heard }
      - { from: web, to: raw }
";

/// Long enough for an answer on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Answers each connection and datagram with the address that it is seen from: on both families at 8080, on IPv6 only at
/// 8081. `{extra}` are more places.
const MIRROR: &str = "
import select, socket, sys
def at(kind, family, address, port):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, port))
    if kind == socket.SOCK_STREAM: s.listen(64)
    return s
places = [(socket.AF_INET, '0.0.0.0', 8080), (socket.AF_INET6, '::', 8080), (socket.AF_INET6, '::', 8081)]
if 'usual' in sys.argv: places += [(socket.AF_INET, '127.0.0.1', 9080), (socket.AF_INET6, '::1', 9081)]
streams = [at(socket.SOCK_STREAM, *place) for place in places]
datagrams = [at(socket.SOCK_DGRAM, *place) for place in places]
while True:
    for s in select.select(streams + datagrams, [], [])[0]:
        if s in streams:
            connection, seen = s.accept()
            try: connection.sendall(f'{seen[0]} {seen[1]}'.encode())
            except OSError: pass
            connection.close()
        else:
            _, seen = s.recvfrom(64)
            s.sendto(f'{seen[0]} {seen[1]}'.encode(), seen)
";

/// Prints what `KIND ADDRESS PORT` is answered, and the caller's own port.
const CALL: &str = "
import errno, socket, sys
kind, address, port = sys.argv[1:]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
s.settimeout(5)
try:
    s.connect((address, int(port)))
    if kind == 'udp': s.send(b'who am I?')
    print(s.recv(64).decode(), s.getsockname()[1])
except OSError as error: print(errno.errorcode.get(error.errno, str(error)))
";

const PYTHON: &str = "/usr/bin/python3";

fn lab() -> Lab {
    Lab::of(&["alpha", "beta"]).graph(GRAPH).start()
}

fn call(place: &Place, kind: &str, to: SocketAddr) -> String {
    place.ok(&[PYTHON, "-c", CALL, kind, &to.ip().to_string(), &to.port().to_string()]).trim().to_owned()
}

fn mirror(lab: &Lab, place: &Place) -> Server {
    place.spawn(&lab.file("mirror.log"), &[PYTHON, "-c", MIRROR, "usual"]).listening(9081)
}

/// The fabric addresses of a workload.
fn addresses(lab: &Lab, name: &str) -> [IpAddr; 2] {
    let entry = lab.policy().workload_entry(lab.policy().workload(&format!("shop/{name}").parse().unwrap()).unwrap());
    [entry.v4.into(), entry.v6.into()]
}

fn both(lab: &Lab, service: &str, port: u16) -> [SocketAddr; 2] {
    [lab.service(service, port), lab.service_v6(service, port)]
}

/// Every caller, TCP and UDP, IPv4 and IPv6: the endpoint sees the caller's address of the same family, and of UDP its port;
/// an endpoint that listens on IPv6 only sees the caller's IPv6 address.
fn sees_each(lab: &Lab, service: &str, callers: &[&str]) {
    for caller in callers {
        let place = lab.workload(caller);
        let own = addresses(lab, caller);
        for kind in ["tcp", "udp"] {
            for (to, seen) in both(lab, service, 8080).into_iter().zip(own) {
                let answer = call(&place, kind, to);
                // Bound to no address, it would answer this one from that very address: it sees the service's.
                let seen = if (service, *caller, kind) == ("shop/job", "near", "udp") { to.ip() } else { seen };
                let [address, port, own_port] = answer.split(' ').collect::<Vec<_>>()[..] else {
                    panic!("{caller} to {service} {to} by {kind}: {answer}")
                };
                assert_eq!(address.parse(), Ok(seen), "{caller} to {service} {to} by {kind}");
                if kind == "udp" {
                    assert_eq!(port, own_port, "{caller} to {service} {to} by {kind}");
                }
            }
            for to in
                both(lab, service, 8081).into_iter().filter(|_| (service, *caller, kind) != ("shop/job", "near", "udp"))
            {
                let answer = call(&place, kind, to);
                assert_eq!(answer.split(' ').next().unwrap().parse(), Ok(own[1]), "{caller} {kind} {to}: {answer}");
            }
        }
    }
}

#[test]
fn an_endpoint_in_a_namespace_sees_who_calls() {
    let lab = lab();
    let _server = mirror(&lab, &lab.workload("box"));
    sees_each(&lab, "shop/box", &["web", "far", "near", "hut"]);
    // The kernel would take nothing from outside that has its own address: then it is the service's.
    for (to, seen) in both(&lab, "shop/box", 8080).into_iter().zip(both(&lab, "shop/box", 8080)) {
        for kind in ["tcp", "udp"] {
            let answer = call(&lab.workload("box"), kind, to);
            assert_eq!(answer.split(' ').next().unwrap().parse(), Ok(seen.ip()), "{kind} {to}");
        }
    }
}

#[test]
fn an_endpoint_of_a_user_sees_who_calls() {
    let lab = lab();
    let server = mirror(&lab, &lab.workload("job"));
    sees_each(&lab, "shop/job", &["web", "far", "hut", "near"]);
    for (to, seen) in both(&lab, "shop/job", 8080).into_iter().zip(addresses(&lab, "job")) {
        for kind in ["tcp", "udp"] {
            let answer = call(&lab.workload("job"), kind, to);
            assert_eq!(answer.split(' ').next().unwrap().parse(), Ok(seen), "itself, {kind} {to}: {answer}");
        }
    }
    // TCP has the caller's port as well, while nobody uses it.
    let answer = call(&lab.workload("web"), "tcp", lab.service("shop/job", 8080));
    let words: Vec<_> = answer.split(' ').collect();
    assert_eq!(words[1], words[2], "{answer}");
    // A port that nobody listens on is refused on both families, at once.
    for to in both(&lab, "shop/job", 8082) {
        assert_eq!(call(&lab.workload("web"), "tcp", to), "ECONNREFUSED");
    }
    let records = lab.agent("beta").wait_records(2, |record| record["reason"] == "endpoint_refused");
    assert!(records.iter().all(|record| record["caller"] == "shop/web"), "{records:?}");
    drop(server);
    // A UDP server that is bound to its address answers from it: it sees a user of the same host as well.
    let script = "import socket, sys\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.bind((sys.argv[1], 8081))\nprint('bound', flush=True)\n\
                 while True:\n    _, seen = s.recvfrom(64)\n    s.sendto(f'{seen[0]} {seen[1]}'.encode(), seen)\n";
    let line = [PYTHON, "-c", script, &addresses(&lab, "job")[0].to_string()];
    let bound = lab.workload("job").spawn(&lab.file("bound.log"), &line);
    within(SOON, "the bound server", || bound.log().contains("bound"));
    let answer = call(&lab.workload("near"), "udp", lab.service("shop/job", 8081));
    assert_eq!(answer.split(' ').next().unwrap().parse(), Ok(addresses(&lab, "near")[0]), "{answer}");
}

#[test]
fn without_preserve_a_user_s_endpoint_is_called_by_the_host_at_either_family() {
    let lab = lab();
    let _server = mirror(&lab, &lab.workload("job"));
    let web = lab.workload("web");
    for (port, seen) in [(9080, "127.0.0.1"), (9081, "::1")] {
        for to in both(&lab, "shop/usual", port) {
            for kind in ["tcp", "udp"].iter().take(if port == 9081 { 2 } else { 1 }) {
                let answer = call(&web, kind, to);
                assert_eq!(answer.split(' ').next(), Some(seen), "{kind} {to}: {answer}");
            }
        }
    }
    let records = lab.agent("beta").wait_records(2, |record| record["port"] == 9081 && record["protocol"] == "tcp");
    assert!(records.iter().all(|record| record["endpoint"] == "beta [::1]:9081"), "{records:?}");
}

#[test]
fn who_is_called_may_ask_for_the_caller_s_name() {
    let lab = lab();
    let resolver = format!("@{}", lab.policy().resolver().0);
    for endpoint in ["job", "box"] {
        for caller in ["web", "far", "near"] {
            for address in addresses(&lab, caller) {
                let name =
                    lab.workload(endpoint).ok(&["dig", "+short", "+tries=1", &resolver, "-x", &address.to_string()]);
                assert_eq!(name.trim(), format!("{caller}.shop.workloads.lab.test."), "{endpoint} asks for {address}");
            }
        }
    }
}

#[test]
fn another_s_listener_is_not_the_endpoint() {
    let lab = lab();
    let impostors = [lab.host("beta"), lab.workload("near")];
    for (impostor, uid) in impostors.iter().zip(["uid 0", "uid 64002"]) {
        let mut server = mirror(&lab, impostor);
        let before = lab.agent("beta").records().len();
        for (caller, service, port) in
            [("web", "shop/job", 8080), ("hut", "shop/job", 8081), ("web", "shop/usual", 9080)]
        {
            for to in both(&lab, service, port) {
                assert_eq!(call(&lab.workload(caller), "tcp", to), "ECONNREFUSED", "{caller} {service} {to}");
            }
        }
        for to in both(&lab, "shop/job", 8080) {
            assert_eq!(call(&lab.workload("web"), "udp", to), "ECONNREFUSED", "{to}");
        }
        let denied = |record: &serde_json::Value| {
            record["reason"] == "wrong_listener" && record["detail"].as_str().is_some_and(|detail| detail.contains(uid))
        };
        lab.agent("beta").wait_records(before + 8, |_| true);
        let records = lab.agent("beta").wait_records(8, denied);
        assert!(records.iter().any(|record| record["protocol"] == "udp"), "{records:?}");
        server.kill();
    }
    let labels = [("caller", "shop/web"), ("service", "shop/job"), ("reason", "wrong_listener")];
    assert!(lab.agent("beta").metric("ripstop_sessions_total", &labels) >= 4.0, "{}", lab.agent("beta").metrics());
}

/// Root listens on the fabric address; a child that has become the workload's user accepts.
const LISTEN_AS_ROOT: &str = "
import os, socket
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('::', 8080))
listener.listen(64)
if os.fork(): os.wait()
os.setgid(64003)
os.setuid(64003)
while True:
    connection, seen = listener.accept()
    connection.sendall(f'{seen[0]} {seen[1]}'.encode())
    connection.recv(1)
    connection.close()
";

#[test]
fn a_server_that_listens_as_root_sees_who_calls() {
    let lab = lab();
    let _server = lab.host("beta").spawn(&lab.file("root.log"), &[PYTHON, "-c", LISTEN_AS_ROOT]).listening(8080);
    for caller in ["web", "near"] {
        for (to, seen) in both(&lab, "shop/job", 8080).into_iter().zip(addresses(&lab, caller)) {
            let answer = call(&lab.workload(caller), "tcp", to);
            let address = answer.split(' ').next().unwrap().parse::<IpAddr>();
            assert_eq!(address.map(|address| address.to_canonical()), Ok(seen), "{caller} {to}: {answer}");
        }
    }
}

/// Calls `ADDRESS PORT` from `SOURCE`, past the fabric; prints what comes of it.
const FORGE: &str = "
import errno, socket, sys
source, address, port = sys.argv[1:]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family)
s.settimeout(1)
try:
    s.setsockopt(socket.IPPROTO_IP, 15, 1)
    s.bind((source, 0))
    s.connect((address, int(port)))
    print(s.recv(64).decode())
except OSError as error: print(errno.errorcode.get(error.errno, str(error)))
";

#[test]
fn nobody_on_the_host_calls_with_another_s_address() {
    let lab = lab();
    let _server = mirror(&lab, &lab.workload("job"));
    let (job, near, web) = (addresses(&lab, "job"), addresses(&lab, "near"), addresses(&lab, "web"));
    let forge = |who: &[&str], source: IpAddr, to: IpAddr| {
        let (source, to) = (source.to_string(), to.to_string());
        let line = [who, &[PYTHON, "-c", FORGE, &source, &to, "8080"]].concat();
        lab.host("beta").ok(&line).trim().to_owned()
    };
    let as_stranger = ["setpriv", "--reuid=64099", "--regid=64099", "--clear-groups"];
    let as_near = ["setpriv", "--reuid=64002", "--regid=64002", "--clear-groups"];
    for family in 0..2 {
        for (who, source) in
            [(as_stranger, near), (as_stranger, job), (as_stranger, web), (as_near, job), (as_near, web)]
        {
            let answer = forge(&who, source[family], job[family]);
            assert!(answer.starts_with('E') || answer == "timed out", "{who:?} from {}: {answer}", source[family]);
        }
    }
}

/// nginx on 8090 of both families that expects PROXY headers and answers with what they say.
fn nginx(lab: &Lab, name: &str) -> Server {
    let place = lab.workload(name);
    let home = lab.path(&format!("nginx-{name}"));
    fs::create_dir_all(&home).unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {home}/{kind};\n"))
        .collect();
    let config = format!(
        "daemon off;\npid {home}/pid;\nerror_log {home}/error.log info;\nworker_processes 1;\nevents {{ }}\nhttp {{\n\
         access_log {home}/access.log;\n{temporary}server {{\nlisten 8090 proxy_protocol; listen [::]:8090 proxy_protocol;\n\
         location = /health {{ return 204; }}\n\
         location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
         $proxy_protocol_server_port\\n\"; }}\n}}\n}}\n"
    );
    let file = format!("{home}/nginx.conf");
    fs::write(&file, config).unwrap();
    place.spawn(&lab.file(&format!("{name}.log")), &["nginx", "-p", &home, "-e", "stderr", "-c", &file]).listening(8090)
}

#[test]
fn nginx_is_told_who_calls_by_a_proxy_header() {
    let lab = lab();
    for (server, service, callers) in
        [("job", "shop/told", ["web", "far", "near"]), ("box", "shop/heard", ["web", "far", "hut"])]
    {
        let _server = nginx(&lab, server);
        within(SOON, "its health", || {
            let name = service.trim_start_matches("shop/");
            lab.workload("web").run(&["curl", "-sf", &format!("http://{name}.shop.lab.test:8090/")]).status.success()
        });
        for caller in callers {
            for (to, seen) in both(&lab, service, 8090).into_iter().zip(addresses(&lab, caller)) {
                let line = ["curl", "-sS", "-m", "5", "-w", "%{local_port}", &format!("http://{to}/")];
                let said = lab.workload(caller).ok(&line);
                let (told, port) = said.split_once('\n').unwrap();
                assert_eq!(told, format!("{seen} {port} {} 8090", to.ip()), "{caller} to {service}");
            }
        }
        let errors = fs::read_to_string(lab.path(&format!("nginx-{server}/error.log"))).unwrap();
        assert!(!errors.contains("broken header"), "a health check is LOCAL: {errors}");
    }
}

/// Prints the first bytes that come, in hexadecimal.
const FIRST: &str = "
import socket
listener = socket.create_server(('127.0.0.1', 8091))
connection, _ = listener.accept()
data = b''
while not data.endswith(b'hello'):
    data += connection.recv(4096)
print(data.hex(), flush=True)
connection.sendall(b'bye')
";

#[test]
fn the_header_names_the_caller_s_identity_and_the_service() {
    let lab = lab();
    let server = lab.workload("job").spawn(&lab.file("first.log"), &[PYTHON, "-c", FIRST]).listening(8091);
    let line = "exec 3<>/dev/tcp/raw.shop.lab.test/8091; printf hello >&3; head -c 3 <&3";
    assert_eq!(lab.workload("web").ok(&["bash", "-c", line]), "bye");
    let log = server.log();
    let bytes: Vec<u8> =
        (0..log.trim().len()).step_by(2).map(|at| u8::from_str_radix(&log[at..at + 2], 16).unwrap()).collect();
    assert!(bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21"), "{bytes:?}");
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    assert_eq!(&bytes[16 + length..], b"hello", "what the caller sent comes next, and whole");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("\x02\0\x11raw.shop.lab.test\u{fffd}\0\x1aspiffe://lab.test/shop/web"), "{text:?}");
    let record = lab.agent("beta").record(|record| record["service"] == "shop/raw");
    assert_eq!(record["bytes_up"], 5, "the header is not the caller's: {record}");
}

#[test]
fn the_first_datagrams_reach_an_endpoint_that_listens_on_ipv6_only() {
    let lab = lab();
    let server = lab.workload("box").inside(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        socket.set_only_v6(true).unwrap();
        socket.bind(&SocketAddr::from(([0_u16; 8], 8081)).into()).unwrap();
        UdpSocket::from(socket)
    });
    server.set_read_timeout(Some(SOON)).unwrap();
    let socket = lab.workload("web").inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for number in 0..20_u8 {
        socket.send_to(&[number; 1_000], lab.service("shop/box", 8081)).unwrap();
    }
    let mut got: Vec<u8> = (0..20)
        .map(|_| {
            let mut buffer = [0; 2_000];
            let (length, from) = server.recv_from(&mut buffer).expect("each arrives");
            assert_eq!((length, from.ip()), (1_000, addresses(&lab, "web")[1]));
            buffer[0]
        })
        .collect();
    got.sort_unstable();
    assert_eq!(got, (0..20).collect::<Vec<_>>(), "each once");
}
