//! Requests for packets of workloads. They read plaintext: they are for those who may change things, whatever is read by them.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/capture?what=&from=&seconds=&bytes=&snap=` | a capture of the calls to a service, or of a session, begins here and on the other hosts: [`Capturing`] |
//! | `POST /v1/capture/take` with [`TakeAll`] | what these captures have since they were asked last, [`CapturedOn`] each |

use super::{
    names,
    rights::Asker,
    server::{View, answer},
};
use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Query, State},
    response::Response,
    routing::post,
};
use ripstop_config::{HostName, InterfaceId, WorkloadId};
use ripstop_datapath::capture::{Asked, Begun, Target};
use ripstop_policy::Policy;
use serde::{Deserialize, Serialize};

/// A capture that is wished for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CaptureQuery {
    /// A service, or a session's id.
    pub what: String,
    /// Only what this workload calls.
    pub from: Option<String>,
    /// As in [`Asked`]; so the rest.
    pub seconds: u64,
    #[expect(missing_docs, reason = "above")]
    pub bytes: u64,
    #[expect(missing_docs, reason = "above")]
    pub snap: u32,
}

/// A capture that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capturing {
    /// Of what, for people.
    pub target: String,
    /// Where, and where not.
    pub hosts: Vec<CapturingOn>,
}

/// A host that takes part in it, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturingOn {
    /// The host.
    pub host: HostName,
    /// By which number it knows the capture.
    pub id: Option<u64>,
    /// Whose packets are seen there.
    pub workloads: Vec<WorkloadId>,
    /// By which interfaces; none where its version, or the agent's that was asked, tells no replicas apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<InterfaceId>>,
    /// What is not seen there, and why, for people.
    pub gaps: Vec<String>,
    /// Why it does not take part.
    pub error: Option<String>,
}

impl CapturingOn {
    /// A host that takes part.
    #[must_use]
    pub fn begun(host: HostName, begun: Begun) -> Self {
        let Begun { id, workloads, interfaces, gaps, .. } = begun;
        Self { host, id: Some(id), workloads, interfaces, gaps, error: None }
    }

    /// A host that does not.
    #[must_use]
    pub fn failed(host: HostName, why: String) -> Self {
        Self { host, id: None, workloads: Vec::new(), interfaces: None, gaps: Vec::new(), error: Some(why) }
    }
}

/// Which captures are asked for packets: hosts, and by which number they know them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeAll {
    /// The captures.
    pub captures: Vec<(HostName, u64)>,
    /// They are to end.
    pub end: bool,
    /// Hosts of which replicas are to be told apart: those that name interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_replica: Vec<HostName>,
}

/// What a host has captured since it was asked last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedOn {
    /// The host.
    pub host: HostName,
    /// A [`Part`](ripstop_datapath::capture::Part), in base64.
    pub part: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
}

pub(super) fn router() -> Router<View> {
    Router::new().route("/v1/capture", post(begin)).route("/v1/capture/take", post(take))
}

async fn begin(
    State(view): State<View>,
    Extension(Asker(uid)): Extension<Asker>,
    Query(query): Query<CaptureQuery>,
) -> Response {
    answer(move || {
        let asked = asked(&view.policy(), query)?;
        view.capture(uid, &asked)
    })
    .await
}

fn asked(policy: &Policy, query: CaptureQuery) -> Result<Asked, String> {
    let CaptureQuery { what, from, seconds, bytes, snap } = query;
    let from = from.as_deref().map(|from| names::workload(policy, from)).transpose();
    let from = from.map_err(|error| error.to_string())?;
    let target = match Target::session(&what) {
        Some(session) => session,
        None => Target::Service(names::service(policy, &what, from.as_ref()).map_err(|error| error.to_string())?),
    };
    let asked = Asked { target, from, seconds, bytes, snap };
    asked.check()?;
    Ok(asked)
}

async fn take(State(view): State<View>, body: Bytes) -> Response {
    answer(move || {
        let all = serde_json::from_slice(&body).map_err(|error| format!("the request is not as it should be: {error}"));
        all.map(|all| view.captured(&all))
    })
    .await
}
