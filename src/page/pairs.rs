//! Who calls what: the edges of the policy, with what was carried over each, and what was denied without one.

use super::{asked::Asked, pulse::Look};
use crate::admin::rates::Sums;
use ripstop_config::{HostName, ServiceId, WorkloadId};
use ripstop_policy::{Policy, ServiceIx, WorkloadIx};
use ripstop_telemetry::{EdgeTally, Edges};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use time::OffsetDateTime;

/// For how long a call that a limit held back is shown as one.
const LIMITED_FOR: time::Duration = time::Duration::minutes(1);

/// How calls fare, the worst last, so that the greater of two says how both fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// Allowed, and never used since the agent started.
    Unused,
    /// Allowed and used.
    Used,
    /// A limit has lately denied some, or held them back.
    Limited,
    /// They are denied.
    Denied,
}

impl Tone {
    /// Of the style.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Used => "used",
            Self::Limited => "limited",
            Self::Denied => "denied",
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Used => "allowed",
            Self::Limited => "limited",
            Self::Denied => "denied",
        }
    }
}

/// The calls of one workload to one service.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) from: WorkloadId,
    pub(super) to: ServiceId,
    pub(super) tone: Tone,
    /// What was carried since the look before.
    pub(super) sums: Sums,
    /// Those of each endpoint's host, of every host that serves it.
    pub(super) hosts: BTreeMap<HostName, (Tone, Sums)>,
    /// Sessions since the agent started: allowed, and denied.
    pub(super) allowed: u64,
    pub(super) denied: u64,
}

impl Pair {
    /// Bytes a second, both ways.
    pub(super) fn rate(&self) -> f64 {
        self.sums.up + self.sums.down
    }
}

/// The calls that are asked for, those that carry the most first. Of the whole graph, or of those that this host has to do
/// with.
pub(super) fn of(
    policy: &Policy,
    edges: &Edges,
    look: &Look,
    host: &HostName,
    asked: &Asked,
    now: OffsetDateTime,
) -> Vec<Pair> {
    let calls = by_pair(look);
    let held: BTreeSet<_> =
        look.live.iter().filter(|one| one.waited_s > 0.0).map(|one| (&one.caller, &one.service)).collect();
    let dormant: BTreeSet<_> = policy.dormant().map(|edge| (&edge.from, &edge.to)).collect();
    let allowed = policy.graph().edges.iter().map(|edge| (&edge.from, &edge.to));
    let allowed: BTreeSet<_> = allowed.filter(|pair| !dormant.contains(pair)).collect();
    let denied = edges.iter().filter(|(_, tally)| tally.denied > 0).map(|((from, to), _)| (from, to));
    let denied: Vec<_> = denied.filter(|pair| !allowed.contains(pair)).collect();
    let all = allowed.iter().map(|pair| (*pair, true)).chain(denied.into_iter().map(|pair| (pair, false)));
    let mut pairs = Vec::new();
    for ((from, to), is_allowed) in all.filter(|((from, to), _)| asked.fits(from, to)) {
        let (Some(caller), Some(service)) = (policy.workload(from), policy.service(to)) else { continue };
        if !asked.is_whole() && !concerns(policy, host, caller, service) {
            continue;
        }
        let tally = edges.of(from, to).cloned().unwrap_or_default();
        let held = held.contains(&(from, to)) || tally.limited.is_some_and(|at| now - at < LIMITED_FOR);
        let known = calls.get(&(from.to_string(), to.to_string()));
        let hosts = &policy.service_entry(service).hosts;
        pairs.push(pair(from, to, (is_allowed, held), &tally, known, hosts));
    }
    pairs.retain(|pair| fits_verdict(pair, asked.verdict.trim()));
    pairs.sort_by(|one, other| other.rate().total_cmp(&one.rate()).then_with(|| order(one).cmp(&order(other))));
    pairs
}

fn order(pair: &Pair) -> (std::cmp::Reverse<u64>, &WorkloadId, &ServiceId) {
    (std::cmp::Reverse(pair.allowed + pair.denied + pair.sums.sessions), &pair.from, &pair.to)
}

fn fits_verdict(pair: &Pair, verdict: &str) -> bool {
    match verdict {
        "deny" => pair.denied > 0,
        "allow" => pair.tone != Tone::Denied || pair.allowed > 0,
        _ => true,
    }
}

/// Whether this host is an end of these calls.
fn concerns(policy: &Policy, host: &HostName, caller: WorkloadIx, service: ServiceIx) -> bool {
    policy.workload_entry(caller).on.contains(host) || policy.service_entry(service).hosts.contains(host)
}

type Known = (Sums, BTreeMap<String, Sums>);

fn by_pair(look: &Look) -> HashMap<(String, String), Known> {
    let mut pairs: HashMap<(String, String), Known> = HashMap::new();
    for ((caller, service, host), sums) in &look.calls {
        let (all, hosts) = pairs.entry((caller.clone(), service.clone())).or_default();
        add(all, sums);
        if let Some(host) = host {
            add(hosts.entry(host.clone()).or_default(), sums);
        }
    }
    pairs
}

pub(super) fn add(to: &mut Sums, sums: &Sums) {
    to.sessions += sums.sessions;
    to.up += sums.up;
    to.down += sums.down;
    to.ended += sums.ended;
    to.denied += sums.denied;
}

fn pair(
    from: &WorkloadId,
    to: &ServiceId,
    (is_allowed, held): (bool, bool),
    tally: &EdgeTally,
    known: Option<&Known>,
    hosts: &[HostName],
) -> Pair {
    let (sums, by_host) = known.cloned().unwrap_or_default();
    let used = tally.allowed > 0 || sums.sessions > 0;
    let tone = match (is_allowed, held, used) {
        (false, _, _) => Tone::Denied,
        (true, true, _) => Tone::Limited,
        (true, false, true) => Tone::Used,
        (true, false, false) if tally.denied > 0 => Tone::Denied,
        (true, false, false) => Tone::Unused,
    };
    let of_host = |host: &HostName| {
        let sums = by_host.get(host.as_str()).copied().unwrap_or_default();
        let used = sums.sessions > 0 || sums.up + sums.down > 0.0 || tally.hosts.iter().any(|(known, _)| known == host);
        (host.clone(), (if used { Tone::Used } else { Tone::Unused }, sums))
    };
    let hosts = if is_allowed { hosts.iter().map(of_host).collect() } else { BTreeMap::new() };
    Pair { from: from.clone(), to: to.clone(), tone, sums, hosts, allowed: tally.allowed, denied: tally.denied }
}
