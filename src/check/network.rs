//! Addresses, ports, forwarding and packet sizes.

use super::{Finding, Group};
use ripstop_config::{
    AgentConfig,
    agent::{DEFAULT_METRICS_PORT, DEFAULT_PORT},
};
use ripstop_kernel::LINKS;
use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

/// Bytes that every path of QUIC must carry (RFC 9000 section 14): 1200 of payload, and UDP's and IPv6's headers.
const MTU_MIN: u32 = 1_248;

/// An agent that runs holds the ports itself.
pub(super) fn findings(config: Option<&AgentConfig>, runs: bool) -> Vec<Finding> {
    let mut findings = vec![forwarding(), mtu(&links())];
    let listen = config.map_or((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into(), |config| config.listen);
    let metrics = match config {
        Some(config) => config.metrics,
        None => Some((Ipv4Addr::LOCALHOST, DEFAULT_METRICS_PORT).into()),
    };
    findings.push(port("QUIC port", listen, "udp", runs, || UdpSocket::bind(listen).map(drop)));
    if config.is_some_and(|config| config.authority.is_some()) {
        findings.push(port("enrolment port", listen, "tcp", runs, || TcpListener::bind(listen).map(drop)));
    }
    findings.extend(metrics.map(|at| port("metrics port", at, "tcp", runs, || TcpListener::bind(at).map(drop))));
    findings
}

fn forwarding() -> Finding {
    let on = |path: &str| fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
    let (v4, v6) = (on("/proc/sys/net/ipv4/ip_forward"), on("/proc/sys/net/ipv6/conf/all/forwarding"));
    let says = match (v4, v6) {
        (false, false) => "off, and not needed",
        (true, _) | (_, true) => "on; not needed, and what others send through this host is no workload's",
    };
    Finding::good(Group::Network, "forwarding", says)
}

/// Interfaces that are up and may lead to other hosts, with the packets that they carry.
fn links() -> Vec<(String, u32)> {
    let named = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let links = named.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let of = |file: &str| fs::read_to_string(entry.path().join(file)).ok().map(|text| text.trim().to_owned());
        let up = of("operstate").is_some_and(|state| state != "down");
        (up && name != "lo" && !name.starts_with(LINKS)).then_some(())?;
        Some((name, of("mtu")?.parse().ok()?))
    });
    links.collect()
}

fn mtu(links: &[(String, u32)]) -> Finding {
    let shown = links.iter().map(|(name, mtu)| format!("{name} {mtu}")).collect::<Vec<_>>().join(", ");
    let narrow: Vec<_> = links.iter().filter(|(_, mtu)| *mtu < MTU_MIN).map(|(name, _)| name.as_str()).collect();
    match (links.is_empty(), narrow.is_empty()) {
        (true, _) => Finding::doubtful(
            Group::Network,
            "MTU",
            "no interface is up but loopback",
            "bring up the one that leads to the other hosts",
        ),
        (false, true) => Finding::good(Group::Network, "MTU", shown),
        (false, false) => Finding::doubtful(
            Group::Network,
            "MTU",
            format!("{} carry less than the {MTU_MIN} bytes that QUIC needs", narrow.join(", ")),
            format!("if they lead to other hosts: `ip link set {} mtu 1280` or more", narrow[0]),
        ),
    }
}

fn port(what: &str, at: SocketAddr, protocol: &str, runs: bool, bind: impl FnOnce() -> io::Result<()>) -> Finding {
    if runs {
        return Finding::good(Group::Network, what, format!("{at}/{protocol}, the agent has it"));
    }
    let key = if what.starts_with("metrics") { "metrics:" } else { "listen:" };
    let list = if protocol == "udp" { "ss -ulpn" } else { "ss -tlpn" };
    match bind() {
        Ok(()) => Finding::good(Group::Network, what, format!("{at}/{protocol} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::bad(
            Group::Network,
            what,
            format!("{at}/{protocol} is in use"),
            format!("stop what `{list}` shows there, or choose another with `{key}`"),
        ),
        Err(error) => Finding::bad(
            Group::Network,
            what,
            format!("{at}/{protocol} cannot be listened on ({error})"),
            format!("choose an address of this host with `{key}`"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn a_narrow_link_is_named() {
        let links =
            |links: &[(&str, u32)]| mtu(&links.iter().map(|(name, mtu)| ((*name).into(), *mtu)).collect::<Vec<_>>());
        assert_eq!(links(&[("eth0", 1_500)]).state, State::Good);
        assert_eq!(links(&[]).state, State::Doubtful);
        let narrow = links(&[("eth0", 1_500), ("ppp0", 1_200)]);
        assert!(narrow.state == State::Doubtful && narrow.says.starts_with("ppp0 carry less"), "{narrow:?}");
        assert!(narrow.remedy.unwrap().contains("ip link set ppp0"));
    }

    #[test]
    fn a_port_in_use_comes_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let found = port("metrics port", at, "tcp", false, || TcpListener::bind(at).map(drop));
        assert_eq!(found.state, State::Bad);
        assert!(found.remedy.unwrap().contains("`metrics:`"));
        assert_eq!(port("metrics port", at, "tcp", true, || unreachable!()).state, State::Good, "the agent's own");
    }
}
