//! `ripstop status`.

use super::{
    Exit, args,
    output::{self, Output, Tone},
    peers as others,
    shown::{clocks_apart, seconds, to_second},
    socket,
};
use crate::admin::{
    CaptureStatus, CarrierStatus, DataThread, EndpointState, EndpointStatus, PolicyStatus, Status, WorkloadState,
};
use comfy_table::Cell;
use ripstop_config::Reason;
use ripstop_telemetry::Tally;
use ripstop_transport::PeerState;
use std::{cmp::Reverse, fmt::Write};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Reasons that are limits which were hit.
const LIMITS: [Reason; 3] = [Reason::OpenRate, Reason::Sessions, Reason::AgentFull];

/// Shows every agent that answers.
pub(super) fn run(status: &args::Status, output: &Output) -> anyhow::Result<Exit> {
    let found = socket::answering(&status.socket)?;
    if status.ready {
        return readiness(&found, output);
    }
    let text = || found.iter().map(|one| describe(&one.status, output)).collect::<Vec<_>>().join("\n");
    match found.as_slice() {
        [one] => output.show(&one.status, text)?,
        several => output.show_list("agents", &several.iter().map(|one| &one.status).collect::<Vec<_>>(), text)?,
    }
    Ok(Exit::Ok)
}

/// Whether all of them are ready, and what those that are not wait for.
fn readiness(found: &[socket::Found], output: &Output) -> anyhow::Result<Exit> {
    let waiting: Vec<_> = found.iter().flat_map(|one| &one.status.waiting_for).collect();
    let ready = waiting.is_empty();
    let says = || match ready {
        true => "ready\n".to_owned(),
        false => format!("not ready: {}\n", waiting.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ")),
    };
    output.show(&serde_json::json!({ "ready": ready, "waiting_for": waiting }), says)?;
    Ok(if ready { Exit::Ok } else { Exit::Failed })
}

fn describe(status: &Status, output: &Output) -> String {
    [agent(status), peers(status, output), workloads(status, output), services(status, output)].join("\n")
}

fn agent(status: &Status) -> String {
    let policy = &status.policy;
    let mut text = format!(
        "host {} of {}: ripstop {}, pid {}, since {}\n",
        status.host,
        status.fabric,
        status.version,
        status.pid,
        to_second(&status.started)
    );
    let mut line = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    line("sessions", &format!("{} open{}", status.sessions_open, by_thread(&status.data_threads)));
    for warning in status.data_threads.iter().filter_map(unreached) {
        line("", &format!("WARNING: {warning}"));
    }
    if let Some(before) = &status.predecessor {
        line("handed over", &format!("by pid {}, which has {} sessions left", before.pid, before.sessions));
    }
    line("metrics", &status.metrics.as_ref().map_or("off".into(), |address| format!("http://{address}/metrics")));
    line("identity", &format!("spiffe://{}/host/{}, from {}", status.fabric, status.host, status.identity.source));
    if let Some(away) = &status.identity.away {
        line("", &format!("WARNING: {away}; nothing changes until the certificate expires"));
    }
    line("certificate", &format!("good until {}{}", status.certificate_expires, left(&status.certificate_expires)));
    for warning in status.certificate_warning.iter().chain(&status.door_warning) {
        line("", &format!("WARNING: {warning}"));
    }
    for CaptureStatus { by, uid, target, since } in &status.captures {
        let who = uid.map_or(format!("an operator of {by}"), |uid| format!("user {uid} of this host"));
        line("capture", &format!("packets of {target} are copied for {who}, since {}", ago(since)));
    }
    line("policy", &policy_line(policy));
    line("", &format!("{} workloads, {} services, {} edges", policy.workloads, policy.services, policy.edges));
    if let Some(carrier) = &status.carrier {
        line("carrier", &carrier_line(carrier));
        for warning in carrier.error.iter().chain(&carrier.refused) {
            line("", &format!("WARNING: {warning}"));
        }
    }
    if let Some(apart) = clocks_apart(&status.clocks_apart) {
        line("clocks", &format!("WARNING: {apart}; set them, see `ripstop check`"));
    }
    line("denied", &denied(&status.tally));
    line("held back", &format!("{} sessions, by rate limits", status.tally.held_back));
    if let Some(error) = &policy.last_error {
        line("last reload", &format!("REFUSED, the policy above stays in force:\n{}", indented(error)));
    }
    text
}

/// How the sessions are spread over several data threads.
fn by_thread(threads: &[DataThread]) -> String {
    let each: Vec<_> = threads.iter().map(|thread| thread.sessions.to_string()).collect();
    if each.is_empty() { String::new() } else { format!(", by data threads {}", each.join(" + ")) }
}

fn unreached(thread: &DataThread) -> Option<String> {
    let hosts: Vec<_> = thread.unreached.iter().map(ToString::to_string).collect();
    (!hosts.is_empty()).then(|| {
        format!(
            "a data thread does not reach {} at UDP port {} and so on; sessions take the first thread's connection: let \
             all ports of `data-threads:` through, on both hosts",
            hosts.join(", "),
            thread.port
        )
    })
}

fn policy_line(policy: &PolicyStatus) -> String {
    let PolicyStatus { digest, file, loaded, signed, .. } = policy;
    match signed {
        Some(id) => format!("{}, {digest} of {file}, loaded {}", id.version, ago(loaded)),
        // A file always has a name.
        None if file.is_empty() => "none yet, so all is denied: `ripstop apply`, or another host, brings one".into(),
        None => format!("{digest} of {file}, loaded {}", ago(loaded)),
    }
}

fn carrier_line(carrier: &CarrierStatus) -> String {
    let CarrierStatus { endpoint, since, last_answer, policy, .. } = carrier;
    if carrier.up {
        let policy = policy.map_or("no policy in it yet".into(), |id| format!("policy {}", id.version));
        return format!("etcd at {endpoint}, {policy}, answers since {}", ago(since));
    }
    let last = last_answer.as_ref().map_or("and never has".into(), |at| format!("since {}", ago(at)));
    format!("etcd at {endpoint} does not answer, {last}; the policy above stays in force")
}

/// The reasons that are limits come first.
fn denied(tally: &Tally) -> String {
    let is_limit = |reason: &str| LIMITS.iter().any(|limit| limit.as_str() == reason);
    let mut reasons: Vec<_> = tally.denied.iter().collect();
    reasons.sort_by_key(|(reason, count)| (!is_limit(reason), Reverse(**count)));
    let shown: Vec<_> = reasons
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}{}", if is_limit(reason) { " (limit)" } else { "" }))
        .collect();
    if shown.is_empty() { "no sessions".into() } else { format!("{} since the start", shown.join(", ")) }
}

fn from_now(time: &str) -> Option<f64> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    Some((time - OffsetDateTime::now_utc()).as_seconds_f64())
}

fn left(time: &str) -> String {
    from_now(time).filter(|left| *left > 0.0).map(|left| format!(", {} left", seconds(left))).unwrap_or_default()
}

/// A moment, and how long ago it was.
fn ago(time: &str) -> String {
    let ago = from_now(time).map(|left| format!(", {} ago", seconds((-left).max(0.0)))).unwrap_or_default();
    format!("{}{ago}", to_second(time))
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn peers(status: &Status, output: &Output) -> String {
    if status.peers.is_empty() {
        return "no other hosts\n".into();
    }
    let signed = status.policy.signed;
    let policy = signed.map(|_| "POLICY");
    let head: Vec<_> = ["PEER", "STATE", "ADDRESS", "RTT", "LOST", "MTU", "CIPHER"].into_iter().chain(policy).collect();
    let mut table = output.table(&head);
    for peer in &status.peers {
        let tone = if peer.state == PeerState::Up { Tone::Good } else { Tone::Bad };
        let mut row = vec![
            Cell::new(&peer.host),
            output.cell(&others::state(&peer.state), tone),
            optional(peer.address.as_ref()),
            optional(peer.rtt.map(seconds).as_ref()),
            Cell::new(peer.lost_packets),
            optional(peer.mtu.as_ref()),
            optional(peer.cipher.as_ref()),
        ];
        let theirs = status.peer_policies.get(&peer.host);
        row.extend(signed.map(|own| match theirs {
            Some(id) if *id == own => output.cell(&id.version.to_string(), Tone::Good),
            Some(id) => output.cell(&id.version.to_string(), Tone::Bad),
            None => Cell::new("-"),
        }));
        table.add_row(row);
    }
    output::lines(&table)
}

fn optional<T: ToString>(value: Option<&T>) -> Cell {
    Cell::new(value.map_or("-".into(), ToString::to_string))
}

fn workloads(status: &Status, output: &Output) -> String {
    if status.workloads.is_empty() {
        return "no workloads on this host\n".into();
    }
    let mut table = output.table(&["WORKLOAD", "STATE", "INTERFACE", "PLACE", "IPV4", "IPV6", "SESSIONS"]);
    for workload in &status.workloads {
        let tone = match workload.state {
            WorkloadState::Attached => Tone::Good,
            WorkloadState::Waiting(_) => Tone::Bad,
        };
        table.add_row(vec![
            Cell::new(&workload.id),
            output.cell(&workload.state.to_string(), tone),
            Cell::new(&workload.link),
            Cell::new(format!("{} {}", workload.how(), workload.place)),
            Cell::new(workload.v4),
            Cell::new(workload.v6),
            Cell::new(workload.sessions),
        ]);
    }
    format!("{}{}", output::lines(&table), super::workloads::said(status.workloads.iter()))
}

/// `ready`, or `ready, weight 5` where its workload said so; `draining, by a record 3 s old` where its host is not connected.
fn state(endpoint: &EndpointStatus) -> String {
    let weight = endpoint.weight.map(|weight| format!(", weight {weight}")).unwrap_or_default();
    let record = endpoint.record_age.map(|age| format!(", by a record {} old", seconds(age))).unwrap_or_default();
    format!("{}{weight}{record}", endpoint.state.as_str())
}

fn services(status: &Status, output: &Output) -> String {
    if status.services.is_empty() {
        return "no services that this host serves or calls\n".into();
    }
    let mut table = output.table(&["SERVICE", "ENDPOINT", "STATE", "SESSIONS", "LATENCY"]);
    for service in &status.services {
        for endpoint in &service.endpoints {
            let tone = if endpoint.state == EndpointState::Ready { Tone::Good } else { Tone::Bad };
            table.add_row(vec![
                Cell::new(&service.id),
                Cell::new(&endpoint.host),
                output.cell(&state(endpoint), tone),
                optional(endpoint.sessions.as_ref()),
                optional(endpoint.latency.map(seconds).as_ref()),
            ]);
        }
    }
    output::lines(&table)
}
