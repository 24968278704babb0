//! `agent.yaml`.

use super::{
    admin::admin,
    carrier::carrier,
    hosts::{address, socket_address},
    otel::otel,
    source::{identity, renewal},
};
use crate::{
    Diagnostics, HostName,
    agent::{
        AGENT_MAX, Admin, AgentConfig, BusyPoll, Carrier, DATA_THREADS_MAX, DEFAULT_METRICS_PORT, DEFAULT_PAGE_PORT,
        DEFAULT_PORT, PolicySource, SessionLog,
    },
    yaml::{self, Fields, Node, Report, Shape, Value},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

const AGENT: Shape = Shape {
    what: "the configuration",
    keys: &[
        "host",
        "graph",
        "trust",
        "state",
        "authority",
        "carrier",
        "renew",
        "identity",
        "listen",
        "data-threads",
        "busy-poll",
        "metrics",
        "page",
        "run",
        "admin",
        "capture",
        "sessions",
        "otel",
        "dns",
    ],
    later: &[],
};
const CAPTURE: Shape = Shape { what: "`capture`", keys: &["allow"], later: &[] };
const DNS: Shape = Shape { what: "`dns`", keys: &["upstream", "resolv-conf", "resolved"], later: &[] };

/// The directory of the admin socket and of the journal unless told otherwise.
const DEFAULT_RUN: &str = "/run/ripstop";
/// The directory of signed policies unless told otherwise.
const DEFAULT_STATE: &str = "/var/lib/ripstop";
/// Longest path of the run directory: the admin socket's path in it must fit `sun_path` of 108 bytes (unix(7)).
const RUN_MAX: usize = 90;
/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// Upstream servers that are asked at most, one after another.
const UPSTREAM_MAX: usize = 8;

/// Reads the settings; see [`AgentConfig::parse`].
pub(crate) fn agent(file: &str, text: &str) -> Result<AgentConfig, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file, text);
    let directory = Path::new(file).parent().unwrap_or(Path::new(""));
    let root = yaml::parse(text, AGENT_MAX, &mut report);
    let config = root.and_then(|root| read(&root, directory, &mut report));
    report.finish()?;
    // Whatever keeps the settings from being read is in the report.
    config.ok_or_else(Diagnostics::default)
}

fn read(root: &Node, directory: &Path, report: &mut Report<'_>) -> Option<AgentConfig> {
    let top = AGENT.read(root, root.mark, report)?;
    let host = top.require("host", "write `host: NAME` with this host's name in the graph", report);
    let host = host.and_then(|node| node.parse::<HostName>("this host's name", report));
    let policy = policy(&top, directory, report);
    let state =
        top.get("state").map_or_else(|| Some(PathBuf::from(DEFAULT_STATE)), |node| path(node, directory, report));
    let identity = identity(&top, directory, report);
    let (authority, renew) = renewal(&top, identity.as_ref(), directory, report)?;
    let carried = top
        .get("carrier")
        .map_or_else(|| Some(Carrier::default()), |node| carrier(node, policy.as_ref(), directory, report));
    let listen = top.get("listen").map_or(Some(default_listen()), |node| listen(node, report));
    let data_threads = top.get("data-threads").map_or(Some(1), |node| data_threads(node, listen, report));
    let busy_poll = top.get("busy-poll").map_or(Some(BusyPoll::default()), |node| busy_poll(node, report));
    let metrics = top.get("metrics").map_or(Some(Some(default_metrics())), |node| metrics(node, report));
    let page = top.get("page").map_or(Some(None), |node| page(node, report));
    let run = top.get("run").map_or_else(|| Some(PathBuf::from(DEFAULT_RUN)), |node| run(node, directory, report));
    let admin = top.get("admin").map_or_else(|| Some(Admin::default()), |node| admin(node, report));
    let capture = top.get("capture").map_or_else(|| Some(BTreeSet::new()), |node| capture(node, report));
    let sessions = top.get("sessions").map_or(Some(SessionLog::Stdout), |node| sessions(node, directory, report));
    let otel = top.optional("otel", |node| otel(node, directory, report));
    let (upstream, resolv_conf, resolved) =
        top.get("dns").map_or((None, Some(false), Some(false)), |node| dns(node, report));
    Some(AgentConfig {
        host: host?,
        policy: policy?,
        state: state?,
        authority,
        carrier: carried?,
        renew,
        identity: identity?,
        listen: listen?,
        data_threads: data_threads?,
        busy_poll: busy_poll?,
        metrics: metrics?,
        page: page?,
        run: run?,
        admin: admin?,
        capture: capture?,
        sessions: sessions?,
        otel: otel?,
        upstream,
        resolv_conf: resolv_conf?,
        resolved: resolved?,
    })
}

/// A graph's file or the operators' file, not both: it must be clear what is in force.
fn policy(top: &Fields<'_>, directory: &Path, report: &mut Report<'_>) -> Option<PolicySource> {
    let Some(trust) = top.get("trust") else {
        let hint =
            "write `graph: /etc/ripstop/graph.yaml`, or `trust: /etc/ripstop/operators.yaml` for signed policies";
        let graph = top.require("graph", hint, report)?;
        return path(graph, directory, report).map(PolicySource::File);
    };
    if top.get("graph").is_some() {
        let hint = "leave out `graph`: with `trust` the policy is what `ripstop apply` signs";
        report.hinted(trust.mark, "`graph` and `trust` cannot both be given", hint);
    }
    path(trust, directory, report).map(PolicySource::Signed)
}

pub(super) fn path(node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<PathBuf> {
    let text = node.text("a path", report)?;
    if text.is_empty() || text.contains('\0') {
        report.error(node.mark, "a path cannot be empty");
        return None;
    }
    Some(directory.join(text))
}

fn default_listen() -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PORT)
}

fn default_metrics() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_METRICS_PORT)
}

/// An own address to listen at; port 0 would be another at every start.
fn listen(node: &Node, report: &mut Report<'_>) -> Option<SocketAddr> {
    own_address(node, DEFAULT_PORT, Ipv6Addr::UNSPECIFIED.into(), report)
}

fn data_threads(node: &Node, listen: Option<SocketAddr>, report: &mut Report<'_>) -> Option<u8> {
    let text = node.text("a number of threads", report)?;
    let Some(threads) = text.parse().ok().filter(|threads| (1..=DATA_THREADS_MAX).contains(threads)) else {
        let hint = format!("write a number from 1 to {DATA_THREADS_MAX}, and not more than the host has processors");
        report.hinted(node.mark, format!("`{text}` is no number of data threads"), hint);
        return None;
    };
    let first = listen.map_or(0, |listen| listen.port());
    if first.checked_add(u16::from(threads) - 1).is_none() {
        let hint = "each data thread takes the port after the one before it; choose a lower port for `listen:`";
        report.hinted(node.mark, format!("there are no {threads} ports from {first} on"), hint);
    }
    Some(threads)
}

fn busy_poll(node: &Node, report: &mut Report<'_>) -> Option<BusyPoll> {
    match node.text("`auto`, `on` or `off`", report)? {
        "auto" => Some(BusyPoll::Auto),
        "on" => Some(BusyPoll::On),
        "off" => Some(BusyPoll::Off),
        other => {
            let hint = "write `auto`, `on` or `off`";
            report.hinted(node.mark, format!("`{other}` does not say whether to poll"), hint);
            None
        }
    }
}

fn metrics(node: &Node, report: &mut Report<'_>) -> Option<Option<SocketAddr>> {
    if matches!(&node.value, Value::Text(text) if text == "off") {
        return Some(None);
    }
    own_address(node, DEFAULT_METRICS_PORT, Ipv4Addr::LOCALHOST.into(), report).map(Some)
}

/// Only of loopback: what is beyond comes by a tunnel that says who it is.
fn page(node: &Node, report: &mut Report<'_>) -> Option<Option<SocketAddr>> {
    if matches!(&node.value, Value::Text(text) if text == "off") {
        return Some(None);
    }
    let address = own_address(node, DEFAULT_PAGE_PORT, Ipv4Addr::LOCALHOST.into(), report)?;
    if !address.ip().is_loopback() {
        let hint =
            format!("write `127.0.0.1:{}`; from elsewhere, forward it: ssh -L {0}:127.0.0.1:{0} HOST", address.port());
        report.hinted(node.mark, format!("the page is served on loopback alone, not on {}", address.ip()), hint);
        return None;
    }
    Some(Some(address))
}

/// `IP:PORT`, `IP` at the default port or `:PORT` at the default address.
fn own_address(node: &Node, port: u16, ip: IpAddr, report: &mut Report<'_>) -> Option<SocketAddr> {
    let text = node.text("an address with a port", report)?;
    let of_port = || text.strip_prefix(':').and_then(|port| port.parse().ok()).map(|port| SocketAddr::new(ip, port));
    let address = socket_address(text, port).or_else(of_port);
    let address = address.filter(|address| address.port() != 0 && !address.ip().is_multicast());
    if address.is_none() {
        let hint = format!("write `{}`", SocketAddr::new(ip, port));
        report.hinted(node.mark, format!("`{text}` is not an address with a port"), hint);
    }
    address
}

fn run(node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<PathBuf> {
    let path = path(node, directory, report)?;
    if path.as_os_str().len() > RUN_MAX {
        let message = format!("the path has more than {RUN_MAX} bytes: the admin socket in it could not be opened");
        report.hinted(node.mark, message, format!("choose a shorter one, such as `{DEFAULT_RUN}`"));
        return None;
    }
    Some(path)
}

/// Hosts are named one by one: whoever may see plaintext is not to be had by a pattern.
fn capture(node: &Node, report: &mut Report<'_>) -> Option<BTreeSet<HostName>> {
    let fields = CAPTURE.read(node, node.mark, report)?;
    let allow = fields.require("allow", "write `allow: [HOST]` with the hosts whose operators may capture", report)?;
    let hosts = allow.items("a list of hosts", report);
    hosts.into_iter().map(|host| host.parse::<HostName>("a host's name", report)).collect()
}

fn sessions(node: &Node, directory: &Path, report: &mut Report<'_>) -> Option<SessionLog> {
    match node.text("`stdout`, `off` or a path", report)? {
        "stdout" => Some(SessionLog::Stdout),
        "off" => Some(SessionLog::Off),
        _ => path(node, directory, report).map(SessionLog::File),
    }
}

/// The servers, where they are given, whether the host's `resolv.conf` is changed, and whether systemd-resolved is told.
fn dns(node: &Node, report: &mut Report<'_>) -> (Option<Vec<SocketAddr>>, Option<bool>, Option<bool>) {
    let Some(fields) = DNS.read(node, node.mark, report) else { return (None, None, None) };
    let mut flag = |key| fields.get(key).map_or(Some(false), |node| node.flag(report));
    let (resolv_conf, resolved) = (flag("resolv-conf"), flag("resolved"));
    (fields.get("upstream").and_then(|node| upstream(node, report)), resolv_conf, resolved)
}

fn upstream(node: &Node, report: &mut Report<'_>) -> Option<Vec<SocketAddr>> {
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        return Some(Vec::new());
    }
    let items = node.items("`upstream`", report);
    if items.len() > UPSTREAM_MAX {
        report.error(node.mark, format!("`upstream` has {} servers, at most {UPSTREAM_MAX} are asked", items.len()));
        return None;
    }
    Some(items.into_iter().filter_map(|item| address(item, DNS_PORT, report)).collect())
}
