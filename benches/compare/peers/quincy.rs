//! Quincy, a VPN over QUIC datagrams: its client on alpha, its server on beta, mutual TLS 1.3.

use super::Site;
use crate::{common::lab::Server, system::System};

/// What its packets add to those of the tunnel, with room to spare; its default is a tunnel of 1400 bytes on a link of 1500.
const OVERHEAD: u32 = 100;

/// Starts the server, then the client.
pub fn start(site: &Site<'_>) -> anyhow::Result<Vec<Server>> {
    let (system, link, mtu) = (System::Quincy, System::Quincy.link(), site.mtu - OVERHEAD);
    let (server, client) = (site.programs.find("quincy-server")?, site.programs.find("quincy-client")?);
    let (address, port) = (site.bed.lab.host_address("beta"), system.port());
    let (alpha, beta) = (site.keys.of("alpha"), site.keys.of("beta"));
    let users = format!("[users.alpha]\nauthorized_keys = []\nauthorized_certs = ['sha256:{}']\n", alpha.fingerprint);
    let users = site.write("quincy-users.toml", &users)?;
    let serving = format!(
        "name = 'comparison'
interface_name = '{link}'
bind_address = '{address}'
bind_port = {port}
tunnel_network = '{tunnel}/24'
users_file = '{users}'
[protocol]
mode = 'tls'
key_exchange = 'standard'
certificate_file = '{certificate}'
certificate_key_file = '{key}'
[connection]
mtu = {mtu}
[log]
level = 'warn'
",
        tunnel = system.tunnel(2),
        certificate = beta.certificate,
        key = beta.key,
    );
    let calling = format!(
        "connection_string = '{address}:{port}'
[protocol]
mode = 'tls'
key_exchange = 'standard'
trusted_certificate_paths = ['{authority}']
client_certificate_file = '{certificate}'
client_certificate_key_file = '{key}'
[connection]
mtu = {mtu}
[network]
interface_name = '{link}'
[log]
level = 'warn'
",
        authority = site.keys.authority,
        certificate = alpha.certificate,
        key = alpha.key,
    );
    let (serving, calling) = (site.write("quincy-server.toml", &serving)?, site.write("quincy-client.toml", &calling)?);
    let server = site.spawn(system, "beta", &[&server, "--config-path", &serving]);
    let bound = format!(":{port:04X} ");
    let is_bound = || site.bed.lab.host("beta").ok(&["cat", "/proc/net/udp"]).contains(&bound);
    super::wait(&format!("socket at {port}/udp on beta"), is_bound)?;
    // It does not try again: the server must be there first.
    Ok(vec![site.spawn(system, "alpha", &[&client, "--config-path", &calling]), server])
}
