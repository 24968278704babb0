//! Those that speak WireGuard: a process with a TUN interface, set up by wg(8).

use super::{Site, number, other, wait};
use crate::{
    common::{bed::HOSTS, lab::Server},
    system::System,
};

/// What WireGuard adds to a packet over IPv6, the most: the MTU that wg-quick sets is the link's less this.
const OVERHEAD: u32 = 80;

/// Starts one on each host: PROGRAM OPTIONS INTERFACE.
pub fn start(system: System, site: &Site<'_>, options: &[&str]) -> anyhow::Result<Vec<Server>> {
    let program = site.programs.find(system.programs()[0])?;
    let link = system.link();
    let mut line = vec![program.as_str()];
    line.extend(options);
    line.push(&link);
    let servers: Vec<_> = HOSTS.iter().map(|host| site.spawn(system, host, &line)).collect();
    let wg = site.programs.find("wg")?;
    let key = |host: &str| site.bed.lab.path(&format!("{link}-{host}.key"));
    for host in HOSTS {
        site.bed.lab.host(host).sh(&format!("umask 077; {wg} genkey > {}", key(host)));
        let socket = format!("/run/wireguard/{link}.sock");
        let is_there = || site.bed.lab.host(host).run(&["test", "-S", &socket]).status.success();
        wait(&format!("{socket} on {host}"), is_there)?;
    }
    for host in HOSTS {
        let (here, there, port) = (system.tunnel(number(host)), system.tunnel(number(other(host))), system.port());
        let endpoint = site.bed.lab.host_address(other(host));
        site.bed.lab.host(host).sh(&format!(
            "{wg} set {link} private-key {} listen-port {port} \
             peer $({wg} pubkey < {}) allowed-ips {there}/32 endpoint {endpoint}:{port}
             ip address add {here}/24 dev {link}; ip link set {link} mtu {} up",
            key(host),
            key(other(host)),
            site.mtu - OVERHEAD,
        ));
    }
    Ok(servers)
}
