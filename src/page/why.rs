//! Why a session went as it did: who the caller is and how that is known, what DNS told it, which rule decided, what limited
//! it, and which way it went.

use super::{
    asked::{Asked, quoted},
    pairs::Tone,
};
use crate::{
    admin::{LiveSession, Status, WorkloadState, WorkloadStatus},
    shown::{bytes, seconds},
};
use ripstop_config::{HostName, Identity, Port, Reason, ServiceId, WorkloadId, graph::Limits};
use ripstop_dns::{Answer, Looked, Via};
use ripstop_policy::{Explanation, Policy, PortAnswer};
use ripstop_telemetry::{Recent, SessionRecord, Side, edges};

/// A session that is looked at.
pub(super) struct Why {
    pub(super) caller: String,
    /// The service, or the address that was called, with its port.
    pub(super) target: String,
    pub(super) tone: Tone,
    /// In a few words.
    pub(super) verdict: String,
    pub(super) steps: Vec<Step>,
    /// Where to write what into the graph, for what is denied.
    pub(super) changes: Vec<(String, String)>,
    /// The command that says the same in a terminal.
    pub(super) command: Option<String>,
}

/// A part of the answer.
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) lines: Vec<String>,
}

/// What is known of a session, whether it is open or has ended.
struct Subject<'s> {
    record: Option<&'s SessionRecord>,
    live: Option<&'s LiveSession>,
    caller: &'s WorkloadId,
    caller_host: &'s HostName,
    service: Option<&'s ServiceId>,
    explained: Option<Explanation>,
}

impl Why {
    /// The session that is asked for, if it is still known.
    pub(super) fn find(
        asked: &Asked,
        status: &Status,
        policy: &Policy,
        live: &[LiveSession],
        recent: &Recent,
    ) -> Option<Self> {
        if asked.session.is_empty() {
            return None;
        }
        let is = |session: &str, side: Side| {
            session == asked.session && (asked.side.is_empty() || side.as_str() == asked.side)
        };
        let records = recent.since(None, |record| is(&record.session, record.side)).records;
        if let Some(record) = records.last() {
            let port = Port { number: record.port, protocol: record.protocol };
            let explained = record
                .service
                .as_ref()
                .map(|service| ripstop_policy::explain(policy, &record.caller, service, Some(port)));
            let subject = Subject {
                record: Some(record),
                live: None,
                caller: &record.caller,
                caller_host: &record.caller_host,
                service: record.service.as_ref(),
                explained,
            };
            return Some(of_record(&subject, record, status, policy));
        }
        let live = live.iter().find(|one| is(&one.session, one.side))?;
        let caller_host = match live.side {
            Side::Caller => &status.host,
            Side::Server => &live.peer,
        };
        // Which of the two protocols it is, the list of open sessions does not say: the one that is allowed.
        let ports = ripstop_policy::explain(policy, &live.caller, &live.service, None);
        let (caller, service) = (&live.caller, Some(&live.service));
        let subject = Subject { record: None, live: Some(live), caller, caller_host, service, explained: Some(ports) };
        Some(of_live(&subject, live, status, policy))
    }
}

fn of_record(subject: &Subject<'_>, record: &SessionRecord, status: &Status, policy: &Policy) -> Why {
    let denied = record.verdict == "deny";
    let what = record.reason.describe();
    let tone = match (denied, edges::was_limited(record)) {
        (true, _) => Tone::Denied,
        (false, true) => Tone::Limited,
        (false, false) => Tone::Used,
    };
    let changes = subject.explained.as_ref().map(|one| one.changes.as_slice()).unwrap_or_default();
    let changes = changes.iter().filter(|_| denied).map(|change| (change.under.clone(), change.line.clone()));
    let target = record.service.as_ref().map_or_else(|| record.destination.clone(), ToString::to_string);
    let port = format!("{}/{}", record.port, record.protocol);
    let explain =
        format!("ripstop explain {} {}", quoted(&record.caller.to_string()), quoted(&format!("{target}:{port}")));
    Why {
        caller: record.caller.to_string(),
        target: format!("{target}:{port}"),
        tone,
        verdict: what.into(),
        steps: steps(subject, status, policy),
        changes: changes.collect(),
        command: record.service.is_some().then_some(explain),
    }
}

fn of_live(subject: &Subject<'_>, live: &LiveSession, status: &Status, policy: &Policy) -> Why {
    let target = format!("{}:{}", live.service, live.port);
    Why {
        caller: live.caller.to_string(),
        command: Some(format!(
            "ripstop explain {} {}",
            quoted(&live.caller.to_string()),
            quoted(&live.service.to_string())
        )),
        target,
        tone: if live.waited_s > 0.0 { Tone::Limited } else { Tone::Used },
        verdict: format!("open since {}", live.started),
        steps: steps(subject, status, policy),
        changes: Vec::new(),
    }
}

fn steps(subject: &Subject<'_>, status: &Status, policy: &Policy) -> Vec<Step> {
    let all = [
        ("Identity", identity(subject, status, policy)),
        ("Name", name(subject, policy)),
        ("Rule", rule(subject)),
        ("Limits", limits(subject)),
        ("Path", path(subject, status)),
        ("Carried", carried(subject)),
        ("Packets", packets(subject)),
    ];
    all.into_iter().filter(|(_, lines)| !lines.is_empty()).map(|(title, lines)| Step { title, lines }).collect()
}

/// How those of an open session are to be had.
fn packets(subject: &Subject<'_>) -> Vec<String> {
    let command = |live: &LiveSession| {
        format!("ripstop capture {} --write FILE, where the settings of its hosts let that", live.session)
    };
    subject.live.map(command).into_iter().collect()
}

/// By what the caller is known.
fn identity(subject: &Subject<'_>, status: &Status, policy: &Policy) -> Vec<String> {
    let Subject { caller, caller_host, .. } = subject;
    let spiffe = Identity::workload(status.fabric.clone(), (*caller).clone()).to_string();
    let mut lines = vec![spiffe];
    if **caller_host == status.host {
        let which = match (subject.record, subject.live) {
            (Some(record), _) => record.caller_replica.as_ref(),
            (None, live) => live.and_then(|live| live.caller_replica.as_ref()),
        };
        let is_it = |one: &WorkloadStatus| which.is_none() || one.replica.as_ref() == which;
        let is_there = |one: &&WorkloadStatus| one.id == **caller && one.state == WorkloadState::Attached && is_it(one);
        let interfaces: Vec<_> = status.workloads.iter().filter(is_there).collect();
        lines.push(match interfaces.as_slice() {
            [] => format!("by an interface of {} that is not there any more", status.host),
            [one] => format!(
                "the kernel says so: its packets come by {} alone, which is for {} {}, from {}",
                one.link,
                one.how(),
                one.place,
                one.v4
            ),
            [one, ..] => format!(
                "the kernel says so: its packets come by one of {} alone, each for a {} of it, from {}",
                interfaces.iter().map(|one| one.link.as_str()).collect::<Vec<_>>().join(", "),
                one.kind,
                one.v4
            ),
        });
        return lines;
    }
    let entitled = policy.workload(caller).is_some_and(|caller| policy.may_speak_for(caller_host, caller));
    let may = if entitled { "the graph places it there" } else { "but the graph does not place it there" };
    lines.push(format!("spoken for by host {caller_host}, known by its certificate in mutual TLS 1.3; {may}"));
    lines
}

/// What the resolver tells the caller by the policy in force.
fn name(subject: &Subject<'_>, policy: &Policy) -> Vec<String> {
    let Some(service) = subject.service else {
        return vec!["an address, and of no service".into()];
    };
    let name = service.dns_name(policy.fabric());
    let Some(caller) = policy.workload(subject.caller) else { return vec![name] };
    let answer =
        ripstop_dns::question(&name, "A").ok().map(|query| ripstop_dns::answer(policy, caller, &query, Via::Tcp));
    let Some(Answer::Reply(reply)) = answer else { return vec![name] };
    let Ok(looked) = Looked::read(&reply.bytes) else { return vec![name] };
    let data: Vec<_> = looked.answers.iter().map(|record| record.data.clone()).collect();
    let errors = looked.errors.iter().map(|error| format!("Extended DNS Error {}: {}", error.code, error.text));
    let said = if data.is_empty() { looked.code.to_uppercase() } else { data.join(", ") };
    std::iter::once(format!("{name} → {said}")).chain(errors).collect()
}

fn rule(subject: &Subject<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(record) = subject.record {
        lines.push(match (&record.rule, record.reason) {
            (Some(rule), _) => rule.clone(),
            (None, reason) => format!("none: {}", reason.describe()),
        });
        lines.extend(record.detail.clone());
    }
    let Some(explained) = &subject.explained else { return lines };
    let answer = answer(explained);
    let now = answer.and_then(|answer| answer.rule.as_ref()).map(ToString::to_string);
    match (now, subject.record) {
        (Some(now), None) => lines.push(now),
        (Some(now), Some(record)) if record.rule.as_deref() != Some(&*now) => {
            lines.push(format!("by the policy in force now: {now} allows it"));
        }
        (None, Some(record)) if record.rule.is_some() => {
            lines.push("by the policy in force now nothing allows it".into());
        }
        (Some(_) | None, _) => {}
    }
    lines.extend(explained.never.iter().map(ToString::to_string));
    lines.extend(explained.consents.iter().map(|consent| format!("{}: {consent}", consent.side)));
    lines
}

/// That of the port that was called, or of one that is allowed.
fn answer(explained: &Explanation) -> Option<&PortAnswer> {
    explained.ports.iter().find(|answer| answer.allowed).or(explained.ports.first())
}

fn limits(subject: &Subject<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(record) = subject.record {
        if record.throttled_bytes > 0 {
            let waited = seconds(record.waited_s);
            lines.push(format!("held back for {waited}: {} had to wait", bytes(record.throttled_bytes as f64)));
        }
        if let Some(dropped) = record.datagrams_dropped.filter(|dropped| *dropped > 0) {
            lines.push(format!("{dropped} datagrams were dropped"));
        }
        if [Reason::OpenRate, Reason::Sessions, Reason::AgentFull].contains(&record.reason) {
            lines.push(record.reason.describe().into());
        }
    }
    if let Some(live) = subject.live.filter(|live| live.waited_s > 0.0) {
        lines.push(format!("held back for {} so far", seconds(live.waited_s)));
    }
    let chain = subject.explained.as_ref().and_then(answer).map(|answer| &answer.limits);
    let given = |whose: &str, limits: &Limits| (!limits.is_none()).then(|| format!("of the {whose}: {limits}"));
    if let Some(chain) = chain {
        let all =
            [("rule", chain.edge), ("service", chain.service), ("workload", chain.workload), ("tenant", chain.tenant)];
        lines.extend(all.iter().filter_map(|(whose, limits)| given(whose, limits)));
        lines.extend(chain.above.iter().filter_map(|above| given(&format!("tenant {}", above.name), &above.limits)));
    }
    if lines.is_empty() {
        lines.push("none".into());
    }
    lines
}

/// To the endpoint, and by which connection.
fn path(subject: &Subject<'_>, status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    let mut other = subject.live.map(|live| live.peer.clone());
    if let Some(replica) = subject.live.and_then(|live| live.endpoint_replica.as_ref()) {
        lines.push(format!("served by replica {replica} on {}", status.host));
    }
    if let Some(record) = subject.record {
        let endpoint = record.endpoint.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        match &record.endpoint_host {
            Some(host) => {
                let replica =
                    record.endpoint_replica.as_ref().map(|one| format!(", replica {one}")).unwrap_or_default();
                lines.push(format!("endpoint on {host}{endpoint}{replica}"));
            }
            None => lines.push("no endpoint was asked".into()),
        }
        let connected = record.connect_s.map(|took| format!("answered after {}", seconds(took)));
        let attempts = (record.attempts > 1).then(|| format!("{} endpoints were tried", record.attempts));
        lines.extend(connected.into_iter().chain(attempts));
        other.clone_from(&record.peer);
    }
    let Some(other) = other.filter(|other| *other != status.host) else {
        return lines;
    };
    let cipher =
        subject.record.and_then(|record| record.cipher).map(|cipher| format!(", {cipher}")).unwrap_or_default();
    lines.push(format!("QUIC between {} and {other}{cipher}", status.host));
    if let Some(peer) = status.peers.iter().find(|peer| peer.host == other) {
        let address = peer.address.map(|address| address.to_string());
        let rtt = peer.rtt.map(|rtt| format!("round trip {}", seconds(rtt)));
        let mtu = peer.mtu.map(|mtu| format!("packets of {mtu} bytes"));
        let parts: Vec<_> = [address, rtt, mtu].into_iter().flatten().collect();
        lines.push(format!("now: {}", if parts.is_empty() { "not connected".into() } else { parts.join(", ") }));
    }
    lines
}

fn carried(subject: &Subject<'_>) -> Vec<String> {
    let figures = |up: u64, down: u64| format!("{} to the service, {} back", bytes(up as f64), bytes(down as f64));
    match (subject.record, subject.live) {
        (Some(record), _) if record.verdict == "deny" => Vec::new(),
        (Some(record), _) => {
            vec![format!("{}, in {}", figures(record.bytes_up, record.bytes_down), seconds(record.duration_s))]
        }
        (None, Some(live)) => vec![format!("{} so far", figures(live.bytes_up, live.bytes_down))],
        (None, None) => Vec::new(),
    }
}
