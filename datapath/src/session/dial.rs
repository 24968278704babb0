//! Finds an endpoint that takes a session: one attempt after the other, in the balancer's order.
//!
//! What one attempt is, a TCP session, a UDP session or an echo request, is the caller's to say. A failure of one endpoint
//! or of its host leads on to the next; a denial ends the search, as another host would not know better.

use super::{
    balance::{Candidate, Using},
    claims::Claim,
    context::Context,
    endpoints::Standing,
    limits::Refusal,
    order::Sticky,
    voice::Prefer,
};
use crate::interface::InterfaceId;
use ripstop_config::{
    HostName, Reason, ServiceId,
    graph::{Change, WEIGHT_MAX},
};
use ripstop_policy::{Policy, ServiceEntry};
use std::time::{Duration, Instant};

/// Wait for a verdict, over all endpoints tried (DESIGN section 12).
const VERDICT_MAX: Duration = Duration::from_secs(10);
/// Wait for one endpoint while there are others to try: a connection takes milliseconds, so one that takes this long is
/// better looked for elsewhere, and a host that just died is passed over before its connection is known to be lost.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);

/// Why an endpoint could not be had.
#[derive(Debug)]
pub struct Refused {
    /// The reason.
    pub reason: Reason,
    /// More about it, for people.
    pub detail: Option<String>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: None }
    }
}

impl From<Refusal> for Refused {
    fn from(Refusal { reason, detail }: Refusal) -> Self {
        Self { reason, detail: Some(detail) }
    }
}

/// Tries the endpoints of a service for who calls by an interface until one takes it: `attempt` is given a host, and returns what it got
/// there and the load that the host reported. At most [`VERDICT_MAX`] in all.
///
/// # Errors
/// The denial, or what the last endpoint answered.
pub async fn dial<T>(
    context: &Context,
    service: &ServiceEntry,
    caller: &InterfaceId,
    attempt: impl AsyncFn(&HostName) -> Result<(T, u16), Refused>,
) -> Result<(T, Using), Refused> {
    let dialling = tokio::time::timeout(VERDICT_MAX, try_all(context, service, caller, attempt)).await;
    dialling.unwrap_or_else(|_| Err(Reason::EndpointTimeout.into()))
}

async fn try_all<T>(
    context: &Context,
    service: &ServiceEntry,
    caller: &InterfaceId,
    attempt: impl AsyncFn(&HostName) -> Result<(T, u16), Refused>,
) -> Result<(T, Using), Refused> {
    let policy = context.policy();
    let candidates = candidates(context, &policy, service, caller)?;
    let whose = Sticky { service: &service.id, caller: &caller.workload, host: &context.host };
    let sticky = service.balance.sticky.then_some(whose);
    let order = context.balancer.order(&service.id, &candidates, sticky, Instant::now());
    let mut last = Refused::from(Reason::NoEndpoint);
    for (index, host) in order.iter().enumerate() {
        let wait = if index + 1 < order.len() { ATTEMPT_MAX } else { VERDICT_MAX };
        let (started, using) = (Instant::now(), context.balancer.trying(&service.id, host));
        let attempted = tokio::time::timeout(wait, attempt(host)).await;
        match attempted.unwrap_or_else(|_| Err(Reason::EndpointTimeout.into())) {
            Ok((got, load)) => {
                using.accepted(started.elapsed(), load);
                return Ok((got, using));
            }
            Err(refused) if has_declined(refused.reason) => {
                context.balancer.declined(&service.id, host, Instant::now());
                last = refused;
            }
            Err(refused) if is_of_endpoint(refused.reason) => {
                context.balancer.failed(&service.id, host, Instant::now());
                last = refused;
            }
            Err(refused) => return Err(refused),
        }
    }
    Err(last)
}

/// The endpoints that may take a session: those that said so of themselves or are not heard of; where there are none,
/// those that said no, as what another host said is a moment old and it will answer for itself.
///
/// # Errors
/// Why none does.
fn candidates<'a>(
    context: &Context,
    policy: &Policy,
    service: &'a ServiceEntry,
    caller: &InterfaceId,
) -> Result<Vec<Candidate<'a>>, Refused> {
    let zone = |host: &HostName| policy.graph().hosts.get(host).and_then(|host| host.zone.as_ref());
    let own_zone = zone(&context.host);
    let prefers = context.paths.of(caller, &service.id);
    let near = |host: &HostName| match &prefers {
        Some(Prefer::Host(preferred)) => preferred == host,
        Some(Prefer::Zone(preferred)) => zone(host) == Some(preferred),
        None => own_zone.is_some() && zone(host) == own_zone,
    };
    let mut why = Reason::NoEndpoint;
    let mut candidates = Vec::with_capacity(service.hosts.len());
    let mut unready = Vec::new();
    for host in &service.hosts {
        let own = *host == context.host;
        let up = own || context.first.is_up(host);
        let (heard, claim) = heard(context, host, &service.id);
        let ready = match own {
            true => context.endpoints.ready(&service.id),
            false => heard.as_ref().map_or(Ok(()), |heard| heard.state.ready()),
        };
        let candidate = Candidate {
            host,
            near: near(host),
            weight: weight(context, policy, service, host, heard.as_ref()),
            up,
            sessions: own.then(|| context.endpoints.sessions(&service.id)),
            // Of this host it is known.
            claim: claim.filter(|_| !own),
        };
        match ready {
            Ok(()) => candidates.push(candidate),
            Err(reason) if own => why = reason,
            Err(_) => unready.push(candidate),
        }
    }
    let candidates = if candidates.is_empty() { unready } else { candidates };
    if candidates.is_empty() { Err(why.into()) } else { Ok(candidates) }
}

/// What another host says of its endpoint of a service: over the connection to it, or else in its record, which claims a load as
/// well. What it said over a connection before it fell silent is worth nothing.
fn heard(context: &Context, host: &HostName, service: &ServiceId) -> (Option<Standing>, Option<Claim>) {
    if context.first.is_up(host) && context.endpoints.has_heard(host) {
        return (context.endpoints.heard(host, service), None);
    }
    let heard = context.control.hearsay.of(host, service, Instant::now());
    let claim = heard.as_ref().map(|heard| Claim { sessions: heard.standing.sessions, age: heard.age });
    (heard.map(|heard| heard.standing), claim)
}

/// The share of an endpoint: by its workload's own word, where the graph lets that say so, and its host can be heard; else by
/// the graph.
fn weight(
    context: &Context,
    policy: &Policy,
    service: &ServiceEntry,
    host: &HostName,
    heard: Option<&Standing>,
) -> u32 {
    let said = match *host == context.host {
        true => context.endpoints.own_weight(&service.id),
        false => heard.and_then(|heard| heard.weight),
    };
    let may = || policy.may_change(&policy.workload_entry(service.by).id, Change::Weight);
    let said = said.filter(|_| may()).map(|weight| weight.min(WEIGHT_MAX));
    said.or_else(|| service.balance.weights.get(host).copied()).unwrap_or(1)
}

/// The endpoint is there and says that it takes no new sessions: for the time being, and by itself. The limits of the edge,
/// the caller and its tenant were asked before any endpoint was, so one that is reached at an endpoint is its service's
/// there.
fn has_declined(reason: Reason) -> bool {
    matches!(reason, Reason::EndpointUnhealthy | Reason::Draining | Reason::Sessions | Reason::OpenRate)
}

/// The failure is of one endpoint or its host, so another may do better.
fn is_of_endpoint(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::HostUnreachable
            | Reason::PeerLost
            | Reason::EndpointRefused
            | Reason::EndpointTimeout
            | Reason::EndpointUnreachable
            | Reason::WrongListener
            | Reason::NoInterface
            | Reason::NotServedHere
            | Reason::AgentFull
            | Reason::Shutdown
            | Reason::Protocol
    )
}
