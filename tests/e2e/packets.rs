//! Packets that no honest workload sends, made with raw sockets: dropped, each counted under its reason.

use crate::{
    lab::{Lab, Place},
    servers::echo,
};

/// Sends IPv4 packets as they are given; `packet(protocol, source, destination, payload, fragment)`.
const RAW: &str = "
import socket, struct, sys
def packet(protocol, source, destination, payload, fragment=0):
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(destination))
    total = sum(struct.unpack('!10H', head))
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    return head[:10] + struct.pack('!H', total ^ 0xffff) + head[12:] + payload
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def send(*args): raw.sendto(packet(*args), (args[2], 0))
syn = struct.pack('!HHIIBBHHH', 40000, 8080, 1, 0, 0x50, 2, 65535, 0, 0)
ack = struct.pack('!HHIIBBHHH', 40001, 8080, 1, 1, 0x50, 16, 65535, 0, 0)
";

struct Raw {
    lab: Lab,
    web: Place,
    own: String,
    service: String,
}

impl Raw {
    fn new() -> Self {
        let lab = Lab::shop();
        let web = lab.workload("web");
        let index = lab.policy().workload(&"shop/web".parse().unwrap()).unwrap();
        let own = lab.policy().workload_entry(index).v4.to_string();
        let service = lab.service("shop/api", 8080).ip().to_string();
        Self { lab, web, own, service }
    }

    fn python(&self, script: &str) {
        let names = format!("own, service = '{}', '{}'\n", self.own, self.service);
        self.web.ok(&["/usr/bin/python3", "-c", &format!("{RAW}{names}{script}")]);
    }

    fn counted(&self, reason: &str, at_least: f64) {
        let labels = [("tenant", "shop"), ("reason", reason)];
        self.lab.agent("alpha").wait_metric("ripstop_packets_dropped_total", &labels, at_least);
    }
}

#[test]
fn a_spoofed_source_is_dropped() {
    let raw = Raw::new();
    let _server = raw.lab.workload("api").serve(8080, echo);
    raw.python("for source in ['198.19.0.9', '192.0.2.11', '8.8.8.8']: send(6, source, service, syn)");
    raw.counted("spoofed_source", 3.0);
    assert!(raw.lab.agent("beta").records().is_empty(), "no session came of it");
}

#[test]
fn fragments_are_dropped() {
    let raw = Raw::new();
    raw.python("send(6, own, service, syn, 0x2000)\nsend(6, own, service, syn, 0x0010)");
    raw.counted("fragment", 2.0);
}

#[test]
fn unknown_protocols_are_dropped() {
    let raw = Raw::new();
    raw.python("for protocol in [47, 50, 132]: send(protocol, own, service, b'x' * 32)");
    raw.counted("unknown_protocol", 3.0);
}

#[test]
fn segments_of_no_session_are_counted() {
    let raw = Raw::new();
    raw.python("for n in range(3): send(6, own, service, ack)");
    raw.counted("no_session", 3.0);
}

#[test]
fn truncated_packets_are_dropped() {
    let raw = Raw::new();
    raw.python("send(6, own, service, syn[:10])\nsend(17, own, service, b'abc')");
    raw.counted("malformed", 2.0);
    assert!(raw.lab.agent("alpha").is_running());
}

#[test]
fn ipv6_extension_headers_are_dropped() {
    let raw = Raw::new();
    let to = raw.lab.service_v6("shop/api", 8080).ip().to_string();
    let script = format!(
        "raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 60)\n\
         options = struct.pack('!BB6x', 6, 0)\nraw.sendto(options + syn, ('{to}', 0))"
    );
    raw.python(&script);
    raw.counted("extension_header", 1.0);
}

#[test]
fn a_syn_flood_leaves_the_agent_standing() {
    let raw = Raw::new();
    let _server = raw.lab.workload("api").serve(8080, echo);
    let before = raw.lab.agent("alpha").resident();
    raw.python(
        "for n in range(20000):\n    try: send(6, own, service, struct.pack('!HH', 1024 + n * 3 % 60000, 8080) + syn[4:])\n    except OSError: pass",
    );
    let grown = raw.lab.agent("alpha").resident().saturating_sub(before);
    assert!(grown < 512 << 20, "grew by {grown}");
    let honest = || raw.web.connect(raw.lab.service("shop/api", 8080)).is_ok();
    crate::lab::within(std::time::Duration::from_secs(10), "the flooding workload itself to get through again", honest);
}
