//! HTTP: nginx at the endpoints, wrk beside the client.

use crate::common::{
    bed::{Bed, HTTP_PORT},
    lab::{Place, Server},
    way::Way,
};
use anyhow::{Context, ensure};

/// Connections of wrk at once.
const CONNECTIONS: &str = "32";
/// Requests of a thousand that may fail: a connection that its server has just closed is tried again by real clients.
const FAILED_PER_MILLE: u64 = 1;

/// What the requests of one figure were.
pub struct Requests {
    pub per_second: f64,
    /// In microseconds.
    pub p99: f64,
    /// Processor time of the carriers of both hosts for one request, in microseconds.
    pub cpu: f64,
}

/// Starts nginx in a place.
pub fn serve(bed: &Bed, place: &Place) -> anyhow::Result<Server> {
    let name = place.name().replace('/', "-");
    let (config, log) = (bed.lab.file(&format!("nginx-{name}.conf")), bed.lab.file(&format!("nginx-{name}.log")));
    let text = format!(
        "user root;
worker_processes 1;
pid {directory}/nginx-{name}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  server {{
    listen {HTTP_PORT} backlog=4096;
    location / {{ return 200 \"one small answer\\n\"; }}
  }}
}}
",
        directory = bed.lab.path(""),
    );
    std::fs::write(&config, text)?;
    let config = config.display().to_string();
    Ok(place.spawn(&log, &["nginx", "-c", &config, "-g", "daemon off;"]).listening(HTTP_PORT))
}

/// Requests on kept connections, or each on its own, from [`CONNECTIONS`] at once.
pub fn requests(way: &Way, kept: bool, seconds: u32) -> anyhow::Result<Requests> {
    let (url, length) = (format!("http://{}/", way.target(HTTP_PORT)), format!("{seconds}s"));
    let mut line = vec!["wrk", "--latency", "-t", "1", "-c", CONNECTIONS, "-d", &length, "--timeout", "10s"];
    if !kept {
        line.extend(["-H", "Connection: close"]);
    }
    line.push(&url);
    let before = way.cpu();
    let output = way.client.run(&line);
    let cpu = way.cpu() - before;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "wrk: {}{}", said, String::from_utf8_lossy(&output.stderr));
    read(&said, cpu).with_context(|| format!("wrk said:\n{said}"))
}

fn read(said: &str, cpu: f64) -> anyhow::Result<Requests> {
    let line = |with: &str| said.lines().map(str::trim).find(|line| line.contains(with));
    let per_second = line("Requests/sec:").and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let p99 = line("99%").and_then(|line| micros(line.split_whitespace().nth(1)?));
    let count = line("requests in").and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
    let count = count.filter(|count| *count > 0).context("no request was answered")?;
    let numbers = |line: &str| -> u64 {
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok()).sum()
    };
    // `Socket errors: connect 0, read 0, write 0, timeout 0`, `Non-2xx or 3xx responses: 0`; neither where there are none.
    let after_colon =
        |with: &str| line(with).and_then(|line| line.split_once(':')).map_or(0, |(_, rest)| numbers(rest));
    let failed = after_colon("Socket errors:") + after_colon("Non-2xx");
    ensure!(failed * 1000 <= count * FAILED_PER_MILLE, "{failed} of {count} requests failed");
    Ok(Requests {
        per_second: per_second.context("no rate")?,
        p99: p99.context("no p99")?,
        cpu: cpu * 1e6 / count as f64,
    })
}

/// `1.23ms` in microseconds.
fn micros(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let scale = match &text[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * scale)
}
