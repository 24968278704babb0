//! A tunnel that does nothing but carry packets, by this program itself.

use super::{Site, number, other, wait};
use crate::{
    common::{bed::HOSTS, lab::Server, tunnel::OVERHEAD},
    system::System,
};
use std::net::SocketAddr;

/// Starts one end on each host.
pub fn start(site: &Site<'_>) -> anyhow::Result<Vec<Server>> {
    let (system, link) = (System::BareTun, System::BareTun.link());
    let end = |host: &str| SocketAddr::from((site.bed.lab.host_address(host), system.port())).to_string();
    let program = site.bed.program();
    let serve = |host: &&str| site.spawn(system, host, &[program, "tunnel", &link, &end(host), &end(other(host))]);
    let servers: Vec<_> = HOSTS.iter().map(serve).collect();
    for host in HOSTS {
        let is_there = || site.bed.lab.host(host).run(&["ip", "link", "show", "dev", &link]).status.success();
        wait(&format!("{link} on {host}"), is_there)?;
        let here = system.tunnel(number(host));
        let mtu = site.mtu - OVERHEAD;
        site.bed.lab.host(host).sh(&format!("ip address add {here}/24 dev {link}; ip link set {link} mtu {mtu} up"));
    }
    Ok(servers)
}
