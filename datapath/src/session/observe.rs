//! What workloads of this host ask for and the policy denies, and what another policy would say to what they ask for.
//!
//! Both are counted, by caller, service and port, at the caller's host alone, so that nothing is counted twice. What is counted
//! is of the graph: a workload that scans addresses or invents names adds nothing.
//!
//! All data threads of the host count together. A session that is allowed takes no lock unless a policy is staged, and nothing is
//! decided under one but what another policy leaves.

use super::live::Request;
use ripstop_config::{HostName, Port, Reason, ServiceId, WorkloadId};
use ripstop_policy::{Policy, StageId, Verdict, WorkloadIx};
use ripstop_telemetry::instruments;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Services with their ports that are kept of one caller: a program calls few, and one that tries all of a big graph takes
/// this much and nobody else's.
const PER_CALLER_MAX: usize = 1_024;
/// Callers that are kept: a host has fewer workloads. With the limit above, some 100 bytes each.
const CALLERS_MAX: usize = 4_096;

/// What was asked for, how often and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Who asked.
    pub caller: WorkloadId,
    /// What for.
    pub service: ServiceId,
    /// At which port; none when it asked for the name's address, and was told that there is no such name.
    pub port: Option<Port>,
    /// How often.
    pub count: u64,
    /// When first; RFC 3339, UTC.
    pub first: String,
    /// When last.
    pub last: String,
}

/// What a policy that is staged would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The graph's file, as its operator named it.
    pub file: String,
    /// The graph; empty where another host tells of it.
    pub graph: String,
    /// Which one it is; none when it is staged on this host alone.
    #[serde(default)]
    pub stage: StageId,
    /// Since when it is staged; RFC 3339, UTC.
    pub since: String,
    /// What was denied since, and would not be.
    pub would_allow: Vec<Attempt>,
    /// What was allowed since, and would not be.
    pub would_deny: Vec<Attempt>,
    /// Open sessions of this host's workloads, as callers, that it would cut.
    pub would_cut: usize,
    /// Attempts that are not told, of those that were seen least often.
    #[serde(default)]
    pub left_out: usize,
}

/// A policy that is tried, but not in force.
#[derive(Clone)]
pub struct Candidate {
    /// The graph's file.
    pub file: String,
    /// The graph.
    pub graph: String,
    /// What it compiles to, with the addresses of the policy in force.
    pub policy: Arc<Policy>,
}

/// Attempts, counted, by caller.
#[derive(Default)]
struct Tally(Mutex<FxHashMap<WorkloadId, OfCaller>>);

/// By what one caller asked for.
type OfCaller = FxHashMap<(ServiceId, Option<Port>), Seen>;

#[derive(Clone, Copy)]
struct Seen {
    count: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

impl Tally {
    fn callers(&self) -> MutexGuard<'_, FxHashMap<WorkloadId, OfCaller>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, caller: &WorkloadId, service: &ServiceId, port: Option<Port>) {
        let mut callers = self.callers();
        if !callers.contains_key(caller) {
            if callers.len() >= CALLERS_MAX {
                return;
            }
            callers.insert(caller.clone(), OfCaller::default());
        }
        let Some(of_caller) = callers.get_mut(caller) else { return };
        let (key, now) = ((service.clone(), port), OffsetDateTime::now_utc());
        if let Some(seen) = of_caller.get_mut(&key) {
            seen.count = seen.count.saturating_add(1);
            seen.last = now;
        } else if of_caller.len() < PER_CALLER_MAX {
            of_caller.insert(key, Seen { count: 1, first: now, last: now });
        }
    }

    /// What was seen within the last so long, in the order of names.
    fn list(&self, within: Option<Duration>) -> Vec<Attempt> {
        let oldest = within.and_then(|within| OffsetDateTime::now_utc().checked_sub(within.try_into().ok()?));
        let is_recent = |seen: &Seen| oldest.is_none_or(|oldest| seen.last >= oldest);
        let mut recent = Vec::new();
        for (caller, seen) in &*self.callers() {
            let seen = seen.iter().filter(|(_, seen)| is_recent(seen));
            recent.extend(seen.map(|((service, port), seen)| (caller.clone(), service.clone(), *port, *seen)));
        }
        // Written and put in order without the lock.
        let attempt = |(caller, service, port, seen): (_, _, _, Seen)| {
            let (first, last) = (rfc3339(seen.first), rfc3339(seen.last));
            Attempt { caller, service, port, count: seen.count, first, last }
        };
        let mut all: Vec<_> = recent.into_iter().map(attempt).collect();
        all.sort_by(|one, other| {
            (&one.caller, &one.service, one.port).cmp(&(&other.caller, &other.service, other.port))
        });
        all
    }

    /// Forgets callers and services that are no more, and what a policy allows. One caller after the other, so that other threads
    /// wait for no more than its part of the decisions.
    fn retain_denied(&self, policy: &Policy) {
        let all: Vec<_> = self.callers().keys().cloned().collect();
        for caller in all {
            let mut callers = self.callers();
            let (Some(seen), known) = (callers.get_mut(&caller), policy.workload(&caller)) else { continue };
            seen.retain(|(service, port), _| known.is_some_and(|known| denies(policy, known, service, *port)));
            if seen.is_empty() {
                callers.remove(&caller);
            }
        }
    }
}

/// Whether a policy knows the service, and denies it to a caller or hides its name.
fn denies(policy: &Policy, caller: WorkloadIx, service: &ServiceId, port: Option<Port>) -> bool {
    policy.service(service).is_some_and(|service| match port {
        Some(port) => matches!(policy.decide(caller, service, port), Verdict::Deny(_)),
        None => !policy.visible(caller, service),
    })
}

/// A policy that is tried, and what it would have changed.
struct Stage {
    candidate: Candidate,
    since: OffsetDateTime,
    would_allow: Tally,
    would_deny: Tally,
}

/// What is observed on this host.
#[derive(Default)]
pub struct Observed {
    denied: Tally,
    on_stage: Mutex<OnStage>,
    /// The same as whether there is one, for sessions to ask without a lock.
    is_staged: AtomicBool,
}

#[derive(Default)]
struct OnStage {
    stage: Option<Arc<Stage>>,
    id: StageId,
}

impl Observed {
    fn on_stage(&self) -> MutexGuard<'_, OnStage> {
        self.on_stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stage at this moment. What is counted on one that is over meanwhile is gone with it.
    fn staging(&self) -> Option<Arc<Stage>> {
        if self.is_staged() { self.on_stage().stage.clone() } else { None }
    }

    /// A session was asked for: counted where the policy denies it, or the staged one decides otherwise.
    pub fn call(&self, policy: &Policy, request: &Request, host: &HostName) {
        let Some(service) = &request.service else { return };
        let (caller, port) = (&request.caller, Some(request.port));
        let decided = request.authorise(policy, host).map(drop);
        let has_port =
            || policy.service(service).is_some_and(|ix| policy.service_entry(ix).ports.contains(&request.port));
        if decided.is_err_and(could_be_allowed) && has_port() {
            self.denied.count(caller, service, port);
        }
        if let Some(stage) = self.staging() {
            let staged = request.authorise(&stage.candidate.policy, host).map(drop);
            stage.compare((caller, service, port), decided.is_ok(), staged.is_ok());
        }
    }

    /// A name was asked for that the policy hides.
    pub fn hidden_name(&self, caller: &WorkloadId, service: &ServiceId) {
        self.denied.count(caller, service, None);
        if let Some(stage) = self.staging() {
            let policy = &stage.candidate.policy;
            let pair = policy.workload(caller).zip(policy.service(service));
            let visible = pair.is_some_and(|(caller, service)| policy.visible(caller, service));
            stage.compare((caller, service, None), false, visible);
        }
    }

    /// Whether every session has to be observed, not only those that are denied.
    pub fn is_staged(&self) -> bool {
        self.is_staged.load(Ordering::Relaxed)
    }

    /// Another policy is in force on a data thread. Each says so for itself: one that was behind may have counted what this policy
    /// allows after the others said it.
    pub fn enforce(&self, policy: &Policy) {
        self.denied.retain_denied(policy);
    }

    /// What was denied and last seen within so long.
    pub fn denied(&self, within: Option<Duration>) -> Vec<Attempt> {
        self.denied.list(within)
    }

    /// Which policy this host tells others that it has on stage.
    pub fn stage_id(&self) -> StageId {
        self.on_stage().id
    }

    /// Tries a policy from here on, in place of one that is tried; or none. `id` is told to other hosts. The one that is tried
    /// already, which every data thread may be told to try, keeps what it has counted.
    pub fn stage(&self, candidate: Option<Candidate>, id: StageId) {
        let mut on_stage = self.on_stage();
        on_stage.id = id;
        let is_tried = match (&candidate, &on_stage.stage) {
            (Some(candidate), Some(stage)) => Arc::ptr_eq(&candidate.policy, &stage.candidate.policy),
            (Some(_) | None, Some(_) | None) => false,
        };
        if !is_tried {
            on_stage.stage = candidate.map(|candidate| Arc::new(Stage::new(candidate)));
        }
        self.is_staged.store(on_stage.stage.is_some(), Ordering::Relaxed);
    }

    /// What the staged policy would change; `cut` says how many open sessions it would cut.
    pub fn staged(&self, cut: impl FnOnce(&Policy) -> usize) -> Option<Staged> {
        let (stage, id) = {
            let on_stage = self.on_stage();
            (on_stage.stage.clone()?, on_stage.id)
        };
        Some(Staged {
            file: stage.candidate.file.clone(),
            graph: stage.candidate.graph.clone(),
            stage: id,
            since: rfc3339(stage.since),
            would_allow: stage.would_allow.list(None),
            would_deny: stage.would_deny.list(None),
            would_cut: cut(&stage.candidate.policy),
            left_out: 0,
        })
    }
}

impl Stage {
    fn new(candidate: Candidate) -> Self {
        let since = OffsetDateTime::now_utc();
        Self { candidate, since, would_allow: Tally::default(), would_deny: Tally::default() }
    }

    fn compare(&self, what: (&WorkloadId, &ServiceId, Option<Port>), is: bool, would_be: bool) {
        let (caller, service, port) = what;
        let (tally, verdict) = match (is, would_be) {
            (false, true) => (&self.would_allow, "would_allow"),
            (true, false) => (&self.would_deny, "would_deny"),
            (true, true) | (false, false) => return,
        };
        tally.count(caller, service, port);
        instruments::staged(caller, service, verdict);
    }
}

/// Whether an edge is what is missing, or an export and an edge.
fn could_be_allowed(reason: Reason) -> bool {
    matches!(reason, Reason::NoEdge | Reason::NotExported | Reason::PortNotAllowed)
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripstop_config::{Graph, Protocol};
    use ripstop_telemetry::Side;

    const THREADS: usize = 4;
    const ROUNDS: usize = 500;
    const GRAPH: &str = "\
fabric: shop.example
hosts: { alpha: {} }
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [alpha], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
      db: { by: api, port: 5432/tcp }
    allow:
      - { from: web, to: api }
";

    fn policy(text: &str) -> Policy {
        ripstop_policy::compile(Graph::parse("g", text).unwrap()).unwrap()
    }

    fn staged(text: &str) -> Candidate {
        Candidate { file: "new.yaml".into(), graph: text.into(), policy: Arc::new(policy(text)) }
    }

    fn request(service: &str, number: u16) -> Request {
        Request {
            side: Side::Caller,
            caller: "shop/web".parse().unwrap(),
            service: Some(service.parse().unwrap()),
            port: Port { number, protocol: Protocol::Tcp },
            v6: false,
            speaker: "alpha".parse().unwrap(),
        }
    }

    fn shown(attempts: &[Attempt]) -> Vec<String> {
        let port = |one: &Attempt| one.port.map_or("name".into(), |port| port.to_string());
        attempts.iter().map(|one| format!("{} {} {}", one.service, port(one), one.count)).collect()
    }

    #[test]
    fn what_an_edge_would_allow_is_counted_and_nothing_else() {
        let (observed, policy, host) = (Observed::default(), policy(GRAPH), "alpha".parse().unwrap());
        for (service, port) in
            [("shop/db", 5432), ("shop/db", 5432), ("shop/db", 1), ("shop/api", 8080), ("shop/no", 1)]
        {
            observed.call(&policy, &request(service, port), &host);
        }
        observed.hidden_name(&"shop/web".parse().unwrap(), &"shop/db".parse().unwrap());
        let seen = observed.denied(Some(Duration::from_secs(3600)));
        assert_eq!(shown(&seen), ["shop/db name 1", "shop/db 5432/tcp 2"]);
        observed.enforce(&policy);
        assert_eq!(observed.denied(None).len(), 2);
        // What is allowed from here on was denied long ago.
        observed.enforce(&self::policy(&GRAPH.replace("to: api }", "to: db }")));
        assert!(observed.denied(None).is_empty());
        observed.call(&policy, &request("shop/db", 5432), &host);
        observed.enforce(&self::policy(&GRAPH.replace("      db: { by: api, port: 5432/tcp }\n", "")));
        assert!(observed.denied(None).is_empty());
    }

    #[test]
    fn a_staged_policy_is_compared_and_not_enforced() {
        let (observed, policy, host) = (Observed::default(), policy(GRAPH), "alpha".parse().unwrap());
        observed.stage(Some(staged(&GRAPH.replace("to: api }", "to: db }"))), StageId::default());
        for (service, port) in [("shop/db", 5432), ("shop/api", 8080), ("shop/api", 8080), ("shop/db", 1)] {
            observed.call(&policy, &request(service, port), &host);
        }
        observed.hidden_name(&"shop/web".parse().unwrap(), &"shop/db".parse().unwrap());
        let staged = observed.staged(|_| 7).unwrap();
        assert_eq!(shown(&staged.would_allow), ["shop/db name 1", "shop/db 5432/tcp 1"]);
        assert_eq!(shown(&staged.would_deny), ["shop/api 8080/tcp 2"]);
        assert_eq!((staged.would_cut, staged.file.as_str()), (7, "new.yaml"));
        observed.stage(None, StageId::default());
        assert!(observed.staged(|_| 0).is_none() && !observed.is_staged());
    }

    #[test]
    fn threads_count_together_and_none_begins_anew_what_all_are_told() {
        let (observed, policy, host) = (Observed::default(), policy(GRAPH), "alpha".parse().unwrap());
        let (candidate, id) = (staged(&GRAPH.replace("to: api }", "to: db }")), StageId::default());
        observed.stage(Some(staged(GRAPH)), id);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    // As each data thread is told of the same.
                    observed.stage(Some(candidate.clone()), id);
                    for _ in 0..ROUNDS {
                        observed.call(&policy, &request("shop/db", 5432), &host);
                        observed.call(&policy, &request("shop/api", 8080), &host);
                    }
                    observed.enforce(&policy);
                });
            }
        });
        let all = THREADS * ROUNDS;
        assert_eq!(shown(&observed.denied(None)), [format!("shop/db 5432/tcp {all}")]);
        let before = observed.staged(|_| observed.denied(None).len()).unwrap();
        assert_eq!(before.would_cut, 1, "nothing is locked meanwhile");
        assert_eq!(shown(&before.would_allow), [format!("shop/db 5432/tcp {all}")]);
        assert_eq!(shown(&before.would_deny), [format!("shop/api 8080/tcp {all}")]);
        observed.stage(Some(staged(&candidate.graph)), id);
        assert!(observed.staged(|_| 0).unwrap().would_allow.is_empty(), "staged anew by its operator, it counts anew");
    }

    #[test]
    fn one_caller_takes_no_more_than_its_share() {
        let tally = Tally::default();
        for number in 0..5_000_u16 {
            let port = Some(Port { number: number + 1, protocol: Protocol::Tcp });
            tally.count(&"shop/web".parse().unwrap(), &"shop/db".parse().unwrap(), port);
        }
        tally.count(&"shop/api".parse().unwrap(), &"shop/db".parse().unwrap(), None);
        assert_eq!(tally.list(None).len(), PER_CALLER_MAX + 1);
        for number in 0..CALLERS_MAX {
            tally.count(&format!("shop/w{number}").parse().unwrap(), &"shop/db".parse().unwrap(), None);
        }
        assert_eq!(tally.callers().len(), CALLERS_MAX);
    }
}
