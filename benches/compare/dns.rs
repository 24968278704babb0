//! DNS: dnsperf from a workload to its agent, and to an unbound on loopback that has the answer in its cache.

use crate::{
    common::{
        bed::Bed,
        lab::{FABRIC, Place, Server},
    },
    programs::Programs,
};
use anyhow::{Context, ensure};
use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

/// Where unbound listens, and where the server of what it caches does.
const PORT: u16 = 5301;
const UPSTREAM_PORT: u16 = 5302;
/// The longest that it may take to start.
const READY: Duration = Duration::from_secs(10);

/// Starts an unbound with one thread in a place, and another behind it that has the name.
pub fn serve(bed: &Bed, place: &Place, programs: &Programs) -> anyhow::Result<Vec<Server>> {
    let unbound = programs.find("unbound")?;
    let name = name();
    let has = format!("  local-zone: \"{name}\" static\n  local-data: \"{name} 3600 IN A 198.18.1.1\"\n");
    let asks = format!(
        "  local-zone: \"test.\" nodefault\n  do-not-query-localhost: no\n\
         forward-zone:\n  name: \".\"\n  forward-addr: 127.0.0.1@{UPSTREAM_PORT}\n"
    );
    let start = |port: u16, rest: &str| {
        let (file, log) = (bed.lab.file(&format!("unbound-{port}.conf")), bed.lab.file(&format!("unbound-{port}.log")));
        let config = format!(
            "server:\n  interface: 127.0.0.1@{port}\n  num-threads: 1\n  module-config: \"iterator\"\n  chroot: \"\"\n  \
             username: \"\"\n  pidfile: \"\"\n  directory: \"\"\n  use-syslog: no\n  do-daemonize: no\n  do-ip6: no\n{rest}"
        );
        std::fs::write(&file, config)?;
        anyhow::Ok(place.spawn(&log, &[&unbound, "-d", "-p", "-c", &file.display().to_string()]).listening(port))
    };
    Ok(vec![start(UPSTREAM_PORT, &has)?, start(PORT, &asks)?])
}

/// The name that is asked for: a service of the graph.
fn name() -> String {
    format!("space.bench.{FABRIC}.")
}

/// Answers a second from unbound.
pub fn unbound(bed: &Bed, place: &Place, seconds: u32) -> anyhow::Result<f64> {
    answers(bed, place, IpAddr::from([127, 0, 0, 1]), PORT, seconds)
}

/// Answers a second from the agent to one workload.
pub fn fabric(bed: &Bed, place: &Place, seconds: u32) -> anyhow::Result<f64> {
    answers(bed, place, bed.lab.policy().resolver().0.into(), 53, seconds)
}

fn answers(bed: &Bed, place: &Place, server: IpAddr, port: u16, seconds: u32) -> anyhow::Result<f64> {
    let file = bed.lab.path("dns-names");
    std::fs::write(&file, format!("{} A\n", name()))?;
    let (server, port, seconds) = (server.to_string(), port.to_string(), seconds.to_string());
    let ask = |seconds: &str| place.run(&["dnsperf", "-s", &server, "-p", &port, "-d", &file, "-l", seconds]);
    warm_up(&|| ask("1"))?;
    let output = ask(&seconds);
    read(&String::from_utf8_lossy(&output.stdout))
}

/// A server that has just started may not answer yet.
fn warm_up(ask: &dyn Fn() -> std::process::Output) -> anyhow::Result<()> {
    let start = Instant::now();
    while let Err(error) = read(&String::from_utf8_lossy(&ask().stdout)) {
        ensure!(start.elapsed() < READY, "{error:#}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn read(said: &str) -> anyhow::Result<f64> {
    let after = |key: &str| said.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
    let rate = after("Queries per second:").and_then(|text| text.parse::<f64>().ok());
    let rate = rate.filter(|rate| *rate > 0.0).with_context(|| format!("dnsperf said:\n{said}"))?;
    let codes = after("Response codes:").unwrap_or_default();
    ensure!(codes.starts_with("NOERROR") && codes.contains("(100.00%)"), "not all were answered well: {codes}");
    let lost = after("Queries lost:").unwrap_or_default();
    ensure!(lost.contains("(0.0"), "queries were lost: {lost}");
    Ok(rate)
}
