//! `health:` and `idle:` of a service: what is measured in spans of time.

use crate::{
    Port, Protocol, Span,
    graph::{Check, Health},
    yaml::{Fields, Node, Report, Shape, Value},
};
use std::{ops::RangeInclusive, time::Duration};

const HEALTH: Shape = Shape { what: "`health`", keys: &["tcp", "http", "every", "port"], later: &[] };
const HEALTH_FORMS: &str = "write `health: { tcp: 2s }`, or `health: { http: /ready, every: 2s }`";

/// The pause between two HTTP checks unless given.
const EVERY_DEFAULT: Duration = Duration::from_secs(2);
/// Pauses between two checks: not so short that checks are load, not so long that they say nothing of the present.
const EVERY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// Silence after which a UDP session ends: at least a slow answer's time; a day at most, as each session takes memory.
const IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// Longest path that a check asks for: it fits one packet, with room for the rest of the request.
const PATH_MAX: usize = 1024;

/// How endpoints are checked; `None` when that is wrong. `ports` are the service's.
pub(super) fn read(fields: &Fields<'_>, ports: Option<&[Port]>, report: &mut Report<'_>) -> Option<Option<Health>> {
    fields.optional("health", |node| health(node, ports, report))
}

fn health(node: &Node, ports: Option<&[Port]>, report: &mut Report<'_>) -> Option<Health> {
    if matches!(node.value, Value::Text(_)) {
        report.hinted(node.mark, "`health` does not say what is asked how often", HEALTH_FORMS);
        return None;
    }
    let fields = HEALTH.read(node, node.mark, report)?;
    let asked = check(node, &fields, report);
    let port = fields.optional("port", |node| tcp_port(node, report));
    let tcp = |ports: &[Port]| ports.iter().any(|port| port.protocol == Protocol::Tcp);
    if fields.get("port").is_none() && !fields.misspelt("port") && ports.is_some_and(|ports| !tcp(ports)) {
        let hint = "UDP itself is not checked: add `port:` with a TCP port of the endpoint that answers";
        report.hinted(node.mark, "the service has no TCP port that could be asked", hint);
        return None;
    }
    let (check, every) = asked?;
    Some(Health { check, every, port: port? })
}

/// What is asked, and how often.
fn check(node: &Node, fields: &Fields<'_>, report: &mut Report<'_>) -> Option<(Check, Duration)> {
    match (fields.get("tcp"), fields.get("http")) {
        (Some(tcp), None) => {
            if let Some(every) = fields.get("every") {
                report.hinted(every.mark, "`every` belongs to `http`", "write it as in `health: { tcp: 2s }`");
            }
            span(tcp, &EVERY, report).map(|every| (Check::Tcp, every))
        }
        (None, Some(http)) => {
            let every = fields.optional("every", |node| span(node, &EVERY, report));
            let path = path(http, report)?;
            Some((Check::Http(path), every?.unwrap_or(EVERY_DEFAULT)))
        }
        (Some(_), Some(http)) => {
            report.hinted(http.mark, "`health` has both `tcp` and `http`", "keep one");
            None
        }
        (None, None) => {
            if fields.is_whole() {
                report.hinted(node.mark, "`health` does not say what is asked", HEALTH_FORMS);
            }
            None
        }
    }
}

/// A path as a request line holds it (RFC 9112 section 3.2.1): it begins with a slash, and nothing in it ends it.
fn path(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let text = node.text("a path", report)?;
    if !text.starts_with('/') || text.len() > PATH_MAX || !text.bytes().all(is_of_path) {
        let hint =
            format!("write it as in `/ready`, at most {PATH_MAX} characters, others than those of URLs as `%20`");
        report.hinted(node.mark, format!("`{text}` is not a path that can be asked for"), hint);
        return None;
    }
    Some(text.to_owned())
}

/// What a path and a query may hold (RFC 3986 sections 3.3 and 3.4).
fn is_of_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/?-._~%!$&'()*+,;=:@".contains(&byte)
}

fn tcp_port(node: &Node, report: &mut Report<'_>) -> Option<u16> {
    let text = node.text("a TCP port", report)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    if port.is_none() {
        report.error(node.mark, format!("`{text}` is not a TCP port: write a number from 1 to 65535"));
    }
    port
}

/// After how much silence a UDP session ends; `None` when that is wrong.
pub(super) fn idle(fields: &Fields<'_>, ports: Option<&[Port]>, report: &mut Report<'_>) -> Option<Option<Duration>> {
    fields.optional("idle", |node| {
        let udp = |ports: &[Port]| ports.iter().any(|port| port.protocol == Protocol::Udp);
        if ports.is_some_and(|ports| !udp(ports)) {
            let hint = "leave it out: TCP sessions end when either side ends them";
            report.hinted(node.mark, "`idle` is for UDP sessions, and the service has no UDP port", hint);
            return None;
        }
        span(node, &IDLE, report)
    })
}

/// A span of time within bounds.
fn span(node: &Node, within: &RangeInclusive<Duration>, report: &mut Report<'_>) -> Option<Duration> {
    let span = node.parse::<Span>("a span of time", report)?;
    if within.contains(&span.duration()) {
        return Some(span.duration());
    }
    let bound = |bound: &Duration| Span::of(*bound).map(|span| span.to_string()).unwrap_or_default();
    let message = format!("`{span}` is not from {} to {}", bound(within.start()), bound(within.end()));
    report.error(node.mark, message);
    None
}
