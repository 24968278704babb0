//! OpenVPN from host to host: TLS with certificates, data by AES-128-GCM, in its own process and not in the kernel.

use super::{Site, number, other};
use crate::{
    common::{bed::HOSTS, lab::Server},
    system::System,
};

/// What a data packet adds: IPv4, UDP, opcode, packet number and tag, with room to spare.
const OVERHEAD: u32 = 80;
/// Socket buffers, for the kernel's default is too small for this rate.
const BUFFERS: &str = "4194304";

/// Starts one on each host.
pub fn start(site: &Site<'_>) -> anyhow::Result<Vec<Server>> {
    let (system, program) = (System::OpenVpn, site.programs.find("openvpn")?);
    let mtu = (site.mtu - OVERHEAD).to_string();
    let (link, port) = (system.link(), system.port().to_string());
    let start = |host: &str| {
        let keys = site.keys.of(host);
        let (here, there) = (system.tunnel(number(host)), system.tunnel(number(other(host))));
        let addresses = [host, other(host)].map(|host| site.bed.lab.host_address(host).to_string());
        let role = if host == "alpha" { "--tls-client" } else { "--tls-server" };
        let mut line =
            vec![program.as_str(), role, "--dev", &link, "--dev-type", "tun", "--proto", "udp", "--dh", "none"];
        line.extend([
            "--local",
            &addresses[0],
            "--remote",
            &addresses[1],
            "--port",
            &port,
            "--ifconfig",
            &here,
            &there,
        ]);
        line.extend(["--ca", &site.keys.authority, "--cert", &keys.certificate, "--key", &keys.key]);
        line.extend(["--data-ciphers", "AES-128-GCM", "--disable-dco", "--tun-mtu", &mtu, "--mssfix", "0"]);
        line.extend(["--sndbuf", BUFFERS, "--rcvbuf", BUFFERS, "--txqueuelen", "1000", "--verb", "1"]);
        site.spawn(system, host, &line)
    };
    Ok(HOSTS.iter().map(|host| start(host)).collect())
}
