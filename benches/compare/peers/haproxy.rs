//! A haproxy on each host, as a mesh of sidecars has it: the client connects to its own host's, in clear; from there each
//! connection is one TLS 1.3 connection, with certificates of both sides, to the other's, which connects to the server.

use super::{Site, TCP_PORTS};
use crate::{
    common::{bed::HOSTS, lab::Server},
    system::System,
};
use std::{fmt::Write, net::Ipv4Addr};

/// Where a client finds its sidecar, and a sidecar its server.
pub const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// What is added to a server's port for that between the sidecars.
const BETWEEN: u16 = 10_000;
/// Connections at once: each has two descriptors, of 20 000 that some machines give a process.
const CONNECTIONS: u16 = 9_800;

/// Starts one on each host.
pub fn start(site: &Site<'_>) -> anyhow::Result<Vec<Server>> {
    let program = site.programs.find("haproxy")?;
    let start = |host: &str| {
        let mut config = format!(
            "global
  maxconn {CONNECTIONS}
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode tcp
  timeout connect 10s
  timeout client 10m
  timeout server 10m
"
        );
        for port in TCP_PORTS {
            write_listener(site, host, port, &mut config)?;
        }
        let config = site.write(&format!("haproxy-{host}.cfg"), &config)?;
        anyhow::Ok(site.spawn(System::Haproxy, host, &[&program, "-db", "-f", &config]))
    };
    HOSTS.iter().map(|host| start(host)).collect()
}

fn write_listener(site: &Site<'_>, host: &str, port: u16, config: &mut String) -> std::fmt::Result {
    let (authority, both, beta) = (&site.keys.authority, &site.keys.of(host).both, site.bed.lab.host_address("beta"));
    let between = port + BETWEEN;
    if host == "alpha" {
        writeln!(config, "listen to-{port}\n  bind {LOCAL}:{port}")?;
        writeln!(
            config,
            "  server beta {beta}:{between} ssl crt {both} ca-file {authority} verify required verifyhost beta sni str(beta)"
        )
    } else {
        writeln!(config, "listen from-{port}")?;
        writeln!(config, "  bind {beta}:{between} ssl crt {both} ca-file {authority} verify required")?;
        writeln!(config, "  server here {LOCAL}:{port}")
    }
}
