//! Nebula from host to host: AES-256-GCM, which is its only AES, and no lighthouse, for both know where the other is.

use super::{Site, number, other};
use crate::{
    common::{bed::HOSTS, lab::Server},
    system::System,
};

/// What a packet adds: IPv4, UDP, Nebula's header and tag, with room to spare.
const OVERHEAD: u32 = 80;

/// Starts one on each host.
pub fn start(site: &Site<'_>) -> anyhow::Result<Vec<Server>> {
    let (system, program, certify) =
        (System::Nebula, site.programs.find("nebula")?, site.programs.find("nebula-cert")?);
    let file = |name: &str| site.bed.lab.path(&format!("nebula-{name}"));
    let (ca, ca_key) = (file("ca.crt"), file("ca.key"));
    let place = site.bed.lab.host("alpha");
    place.ok(&[&certify, "ca", "-name", "comparison", "-out-crt", &ca, "-out-key", &ca_key]);
    let start = |host: &str| {
        let (certificate, key) = (file(&format!("{host}.crt")), file(&format!("{host}.key")));
        let address = format!("{}/24", system.tunnel(number(host)));
        let line = [&certify, "sign", "-ca-crt", &ca, "-ca-key", &ca_key, "-name", host, "-ip", &address];
        place.ok(&[&line[..], &["-out-crt", &certificate, "-out-key", &key]].concat());
        let (there, endpoint) = (system.tunnel(number(other(host))), site.bed.lab.host_address(other(host)));
        let (port, link, mtu) = (system.port(), system.link(), site.mtu - OVERHEAD);
        // The buffers are those that its example for busy hosts has.
        let config = format!(
            "pki: {{ ca: {ca}, cert: {certificate}, key: {key} }}
static_host_map: {{ '{there}': ['{endpoint}:{port}'] }}
lighthouse: {{ am_lighthouse: false, hosts: [] }}
listen: {{ host: 0.0.0.0, port: {port}, read_buffer: 10485760, write_buffer: 10485760 }}
cipher: aes
tun: {{ dev: {link}, mtu: {mtu}, tx_queue: 1000 }}
logging: {{ level: error, format: text }}
firewall:
  outbound: [{{ port: any, proto: any, host: any }}]
  inbound: [{{ port: any, proto: any, host: any }}]
"
        );
        let config = site.write(&format!("nebula-{host}.yaml"), &config)?;
        anyhow::Ok(site.spawn(system, host, &[&program, "-config", &config]))
    };
    HOSTS.iter().map(|host| start(host)).collect()
}
