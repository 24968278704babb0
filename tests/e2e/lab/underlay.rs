//! The network between hosts: a bridge with a cable to each, and the addresses at which hosts find each other.

use super::{FABRIC, machine::Machine, place::Place, relay::Relay};
use std::net::{Ipv4Addr, SocketAddr};

/// Makes the bridge on the wire's machine.
pub(super) const BRIDGE: &str = "ip link add br0 type bridge; ip addr add 192.0.2.254/24 dev br0
    ip addr add 2001:db8::fe/64 dev br0; ip link set br0 up";

/// The port of every agent.
const PORT: u16 = 7477;

/// How the hosts of a lab find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Underlay {
    /// At their IPv4 addresses.
    V4,
    /// At their IPv6 addresses; they have no others on the wire.
    V6,
    /// At the doors of a relay.
    Relay,
}

/// The IPv4 address of a host on the wire.
pub(super) fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number(index))
}

/// Where the others find a host that is behind the relay.
fn door(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 200 + number(index))
}

fn number(index: usize) -> u8 {
    11 + u8::try_from(index).expect("few hosts")
}

/// The graph with its head: the fabric's name, and where the hosts are.
pub(super) fn whole_graph(underlay: Underlay, hosts: &[&str], tenants: &str) -> String {
    let line = |(index, host): (usize, &&str)| match underlay {
        Underlay::V4 => format!("  {host}: {{ address: {} }}\n", address(index)),
        Underlay::V6 => format!("  {host}: {{ address: '[2001:db8::{}]' }}\n", number(index)),
        Underlay::Relay => format!("  {host}: {{ address: {} }}\n", door(index)),
    };
    let hosts: String = hosts.iter().enumerate().map(line).collect();
    format!("fabric: {FABRIC}\nhosts:\n{hosts}{tenants}")
}

/// Joins a machine to the bridge with a cable; both ends are made where they belong, so that nothing shows outside.
pub(super) fn plug_in(machine: &Machine, wire: &Machine, index: usize, underlay: Underlay) {
    let name = machine.name();
    let (inner, outer) = (machine.init().to_string(), wire.init().to_string());
    let port = format!("to-{name}");
    let cable = ["link", "add", "eth0", "netns", &inner, "type", "veth", "peer", "name", &port, "netns", &outer];
    let output = std::process::Command::new("ip").args(cable).output().expect("iproute2 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wire.place().sh(&format!("ip link set {port} master br0 up"));
    let v4 = match underlay {
        Underlay::V4 | Underlay::Relay => format!("ip addr add {}/24 dev eth0; ", address(index)),
        Underlay::V6 => String::new(),
    };
    let number = number(index);
    machine.place().sh(&format!("{v4}ip addr add 2001:db8::{number}/64 dev eth0 nodad; ip link set eth0 up"));
}

/// Starts the relay with a door for each host.
pub(super) fn relay(wire: &Place, hosts: usize) -> Relay {
    let at = |ip: Ipv4Addr| SocketAddr::from((ip, PORT));
    let door = |index: usize| {
        wire.sh(&format!("ip addr add {}/24 dev br0", door(index)));
        (at(door(index)), at(address(index)))
    };
    Relay::start(wire, &(0..hosts).map(door).collect::<Vec<_>>())
}
