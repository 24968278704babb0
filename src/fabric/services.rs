//! The services that matter to this host, for people.

use crate::{
    admin::{EndpointState, EndpointStatus, ServiceStatus},
    session::{context::Context, endpoints},
};
use ripstop_config::{HostName, ServiceId};
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
    let own = *host == context.host;
    let known = context.balancer.known(service, host, Instant::now());
    let told = match (own, context.transport.is_up(host)) {
        (true, _) => context.endpoints.own_standing(service),
        (false, true) => context.endpoints.heard(host, service),
        (false, false) => None,
    };
    let state = match &told {
        Some(told) => EndpointState::from(told.state),
        None if own || context.transport.is_up(host) => EndpointState::Unknown,
        None => EndpointState::Unreachable,
    };
    EndpointStatus {
        host: host.clone(),
        state: if state == EndpointState::Ready && known.ejected { EndpointState::Ejected } else { state },
        weight: told.as_ref().and_then(|told| told.weight),
        sessions: told.map(|told| told.sessions),
        latency: (!known.latency.is_zero()).then_some(known.latency.as_secs_f64()),
    }
}
