//! The services that matter to this host, for people.

use crate::admin::{EndpointState, EndpointStatus, ServiceStatus};
use ripstop_config::{HostName, ServiceId};
use ripstop_datapath::session::{
    context::Context,
    endpoints::{self, State},
};
use ripstop_policy::ServiceEntry;
use std::{collections::BTreeMap, time::Instant};

/// Services shown at once: more is no help to a person, and `status` stays an answer of a few MB.
const SHOWN_MAX: usize = 10_000;

/// The services that this host serves or that its workloads may call, in order of name.
pub(super) fn describe(context: &Context) -> Vec<ServiceStatus> {
    let policy = context.policy();
    let called = policy.workloads_on(&context.host).flat_map(|caller| policy.visible_services(caller));
    let called = called.map(|service| policy.service_entry(service));
    let all: BTreeMap<&ServiceId, &ServiceEntry> =
        endpoints::served(&policy, &context.host).chain(called).map(|entry| (&entry.id, entry)).collect();
    let described = all.into_values().take(SHOWN_MAX).map(|entry| ServiceStatus {
        id: entry.id.clone(),
        endpoints: entry.hosts.iter().map(|host| endpoint(context, &entry.id, host)).collect(),
    });
    described.collect()
}

fn endpoint(context: &Context, service: &ServiceId, host: &HostName) -> EndpointStatus {
    let (own, now) = (*host == context.host, Instant::now());
    let (known, up) = (context.balancer.known(service, host, now), own || context.first.is_up(host));
    let told = match (own, up) {
        (true, _) => context.endpoints.own_standing(service),
        (false, true) => context.endpoints.heard(host, service),
        (false, false) => None,
    };
    let recorded = (!up || !own && !context.endpoints.has_heard(host))
        .then(|| context.control.hearsay.of(host, service, now))
        .flatten();
    let state = match (&told, recorded.as_ref().map(|recorded| recorded.standing.state)) {
        (Some(told), _) => EndpointState::from(told.state),
        (None, Some(state)) if up || state != State::Ready => EndpointState::from(state),
        (None, _) if up => EndpointState::Unknown,
        (None, _) => EndpointState::Unreachable,
    };
    let age = recorded.as_ref().map(|recorded| recorded.age.as_secs_f64());
    let told = told.or_else(|| recorded.map(|recorded| recorded.standing));
    EndpointStatus {
        host: host.clone(),
        state: if state == EndpointState::Ready && known.ejected { EndpointState::Ejected } else { state },
        weight: told.as_ref().and_then(|told| told.weight),
        sessions: told.map(|told| told.sessions),
        latency: (!known.latency.is_zero()).then_some(known.latency.as_secs_f64()),
        record_age: age,
    }
}
