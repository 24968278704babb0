//! What a workload is told of itself.

use super::Asked;
use crate::admin::AgentView as _;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use ripstop_config::{
    Identity, Port, ServiceId, WorkloadId,
    graph::{Change, Limits},
};
use ripstop_datapath::interface::Replica;
use ripstop_datapath::session::voice::Standings;
use ripstop_policy::{Policy, ServiceIx, Verdict, WorkloadIx};
use ripstop_telemetry::instruments::VoiceRequest;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

/// Services in one answer, some 300 bytes each.
const SERVICES_MAX: usize = 500;

#[derive(Serialize)]
struct Whoami {
    workload: WorkloadId,
    /// Which of several it is on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<Replica>,
    identity: String,
    host: String,
    fabric: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    policy: String,
    may: BTreeSet<Change>,
    limit: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    standings: Standings,
}

pub(super) async fn whoami(State(asked): State<Asked>) -> Response {
    let what = VoiceRequest::Whoami;
    match describe(&asked).await {
        Ok(whoami) => asked.answer(what, whoami),
        Err(why) => asked.refuse(what, StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn describe(asked: &Asked) -> Result<Whoami, String> {
    let (shared, workload) = (&asked.shared, &asked.who.workload);
    let standings = shared.data().standings(asked.who.clone()).await?;
    let policy = shared.policy();
    let ix = policy.workload(workload).ok_or(NOT_IN_FORCE)?;
    let entry = policy.workload_entry(ix);
    Ok(Whoami {
        identity: Identity::workload(policy.fabric().clone(), workload.clone()).to_string(),
        workload: workload.clone(),
        replica: asked.who.replica.clone(),
        host: shared.host().to_string(),
        fabric: policy.fabric().to_string(),
        v4: entry.v4,
        v6: entry.v6,
        policy: policy.digest().to_string(),
        may: policy.graph().workloads.get(workload).map(|workload| workload.may.clone()).unwrap_or_default(),
        limit: written(&entry.limits),
        standings,
    })
}

const NOT_IN_FORCE: &str = "this workload is not in the policy any more";

/// As the graph writes them.
fn written(limits: &Limits) -> BTreeMap<&'static str, String> {
    let parts = [
        ("session", limits.session.map(|rate| rate.to_string())),
        ("rate", limits.rate.map(|rate| rate.to_string())),
        ("sessions", limits.sessions.map(|count| count.to_string())),
        ("open", limits.open.map(|rate| rate.to_string())),
    ];
    parts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

#[derive(Deserialize)]
pub(super) struct Page {
    after: Option<ServiceId>,
}

#[derive(Serialize)]
struct Services {
    services: Vec<Callable>,
    /// The `after` of the next request, when there are more.
    more: Option<ServiceId>,
}

#[derive(Serialize)]
struct Callable {
    service: ServiceId,
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    ports: Vec<CallablePort>,
}

#[derive(Serialize)]
struct CallablePort {
    port: Port,
    /// What it may do on the edge that allows it.
    limit: BTreeMap<&'static str, String>,
}

pub(super) async fn services(State(asked): State<Asked>, Query(page): Query<Page>) -> Response {
    let (what, policy) = (VoiceRequest::Services, asked.shared.policy());
    let Some(caller) = policy.workload(&asked.who.workload) else {
        return asked.refuse(what, StatusCode::SERVICE_UNAVAILABLE, NOT_IN_FORCE);
    };
    let visible = policy.visible_services(caller);
    let mut left = visible.filter(|ix| page.after.as_ref().is_none_or(|after| policy.service_entry(*ix).id > *after));
    let services: Vec<_> = left.by_ref().take(SERVICES_MAX).map(|ix| callable(&policy, caller, ix)).collect();
    let more = left.next().and_then(|_| services.last().map(|last| last.service.clone()));
    asked.answer(what, Services { services, more })
}

fn callable(policy: &Policy, caller: WorkloadIx, service: ServiceIx) -> Callable {
    let entry = policy.service_entry(service);
    let allowed = entry.ports.iter().filter_map(|port| match policy.decide(caller, service, *port) {
        Verdict::Allow(permit) => Some(CallablePort { port: *port, limit: written(&permit.limits) }),
        Verdict::Deny(_) => None,
    });
    let (service, name) = (entry.id.clone(), entry.id.dns_name(policy.fabric()));
    Callable { service, name, v4: entry.v4, v6: entry.v6, ports: allowed.collect() }
}
