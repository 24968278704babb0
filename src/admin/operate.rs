//! The admin API for those who operate an agent: records as they come, services, and questions that the agent asks.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/records?after=&wait=&last=&from=&to=&tenant=&verdict=&reason=&since=` | [`Records`]: the newest session records that fit; with `after` those from that number on, for which `wait` seconds are waited |
//! | `GET /v1/services` | the services that this host serves or calls, [`ServiceView`] each |
//! | `POST /v1/ping?host=` | [`Pong`], after a round trip to that host's agent |
//! | `GET /v1/dns?workload=&name=&type=` | [`Resolved`]: what that workload's resolver says |

use super::{
    EndpointStatus, names,
    server::{View, answer, refuse},
};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ripstop_config::{HostName, Reason, ServiceId, WorkloadId};
use ripstop_dns::Looked;
use ripstop_policy::Policy;
use ripstop_telemetry::Filter;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use time::OffsetDateTime;

/// The longest that an answer waits for a record: well below the client's patience.
pub const RECORDS_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the first record waits for others, so that a busy host is not asked once for each.
const GATHER: Duration = Duration::from_millis(50);

/// Session records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Records {
    /// The `after` of the next request.
    pub next: u64,
    /// Records since `after` that are not kept any more: the agent keeps [`ripstop_telemetry::recent::RECENT_MAX`].
    pub missed: u64,
    /// Those that fit, oldest first, as they are written to the log.
    pub records: Vec<serde_json::Value>,
}

/// Which records; see the table above.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordsQuery {
    /// From this number on.
    pub after: Option<u64>,
    /// How many seconds to wait for one, [`RECORDS_WAIT_MAX`] at most.
    pub wait: Option<u64>,
    /// The newest so many of those that fit.
    pub last: Option<usize>,
    /// As in [`Filter`], and the fields below.
    pub from: Option<String>,
    #[expect(missing_docs, reason = "above")]
    pub to: Option<String>,
    #[expect(missing_docs, reason = "above")]
    pub replica: Option<String>,
    #[expect(missing_docs, reason = "above")]
    pub tenant: Option<String>,
    #[expect(missing_docs, reason = "above")]
    pub verdict: Option<String>,
    #[expect(missing_docs, reason = "above")]
    pub reason: Option<String>,
    /// Seconds since 1970.
    pub since: Option<i64>,
}

impl RecordsQuery {
    fn filter(&self) -> Result<Filter, String> {
        let reason = self.reason.as_ref().map(|reason| reason.parse::<Reason>());
        let since = self.since.map(OffsetDateTime::from_unix_timestamp);
        Ok(Filter {
            from: self.from.clone(),
            to: self.to.clone(),
            replica: self.replica.clone(),
            tenant: self.tenant.clone(),
            verdict: self.verdict.clone(),
            reason: reason.transpose().map_err(|error| error.to_string())?,
            since: since.transpose().map_err(|error| error.to_string())?,
        })
    }
}

/// A service, as this host sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Which.
    pub id: ServiceId,
    /// Its name in DNS.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its ports, such as `8080/tcp`.
    pub ports: Vec<String>,
    /// The workload that serves it.
    pub by: WorkloadId,
    /// The workloads that may call it, on whichever host.
    pub callers: Vec<WorkloadId>,
    /// One for each host that serves it.
    pub endpoints: Vec<EndpointStatus>,
}

/// What a round trip to another host's agent brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// The host.
    pub host: HostName,
    /// From the question to the answer, seconds; both agents' own time is in it.
    pub rtt: f64,
    /// By how much its clock is ahead of this host's, seconds, as exact as half the round trip; `None` when its version does
    /// not say.
    pub clock_ahead: Option<f64>,
}

/// What a workload's resolver says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Who asked.
    pub workload: WorkloadId,
    /// For what.
    pub name: String,
    /// `fabric`, or `upstream` when another server answered.
    pub source: String,
    /// The answer.
    #[serde(flatten)]
    pub looked: Looked,
}

pub(super) fn router() -> Router<View> {
    Router::new()
        .route("/v1/records", get(records))
        .route("/v1/services", get(services))
        .route("/v1/ping", post(ping))
        .route("/v1/dns", get(dns))
}

async fn records(State(view): State<View>, Query(query): Query<RecordsQuery>) -> Response {
    let filter = match query.filter() {
        Ok(filter) => filter,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, &why),
    };
    let recent = view.records();
    if let (Some(after), Some(wait)) = (query.after, query.wait) {
        let wait = Duration::from_secs(wait).min(RECORDS_WAIT_MAX);
        if tokio::time::timeout(wait, recent.wait_for(after)).await.is_ok() {
            tokio::time::sleep(GATHER).await;
        }
    }
    let page = recent.since(query.after, |record| filter.fits(record));
    let skip = query.last.map_or(0, |last| page.records.len().saturating_sub(last));
    // A record has string keys only, which is all that could fail.
    let records = page.records.iter().skip(skip).filter_map(|record| serde_json::to_value(&**record).ok());
    Json(Records { next: page.next, missed: page.missed, records: records.collect() }).into_response()
}

async fn services(State(view): State<View>) -> Json<Vec<ServiceView>> {
    let (policy, status) = (view.policy(), view.status());
    let endpoints: BTreeMap<_, _> = status.services.into_iter().map(|one| (one.id, one.endpoints)).collect();
    Json(describe(&policy, endpoints))
}

fn describe(policy: &Policy, endpoints: BTreeMap<ServiceId, Vec<EndpointStatus>>) -> Vec<ServiceView> {
    let mut callers: BTreeMap<&ServiceId, BTreeSet<&WorkloadId>> = BTreeMap::new();
    for edge in &policy.graph().edges {
        callers.entry(&edge.to).or_default().insert(&edge.from);
    }
    let described = endpoints.into_iter().filter_map(|(id, endpoints)| {
        // The policy may be another one than a moment ago.
        let entry = policy.service_entry(policy.service(&id)?);
        Some(ServiceView {
            name: id.dns_name(policy.fabric()),
            v4: entry.v4,
            v6: entry.v6,
            ports: entry.ports.iter().map(ToString::to_string).collect(),
            by: policy.workload_entry(entry.by).id.clone(),
            callers: callers.get(&id).into_iter().flatten().copied().cloned().collect(),
            endpoints,
            id,
        })
    });
    described.collect()
}

#[derive(Deserialize)]
struct PingQuery {
    host: HostName,
}

async fn ping(State(view): State<View>, Query(query): Query<PingQuery>) -> Response {
    answer(move || view.ping(&query.host)).await
}

#[derive(Deserialize)]
struct DnsQuery {
    workload: String,
    name: String,
    r#type: String,
}

async fn dns(State(view): State<View>, Query(query): Query<DnsQuery>) -> Response {
    answer(move || {
        let policy = view.policy();
        let workload = names::workload(&policy, &query.workload).map_err(|error| error.to_string())?;
        let name = searched(&policy, &workload, &query.name);
        view.resolve(&workload, &name, &query.r#type)
    })
    .await
}

/// A name of one label is looked for in the workload's own tenant, as `search` in its `resolv.conf` has it.
fn searched(policy: &Policy, workload: &WorkloadId, name: &str) -> String {
    if name.contains('.') { name.into() } else { format!("{name}.{}.{}", workload.tenant, policy.fabric()) }
}
