//! The workload's own voice, on the control thread: an HTTP API at the resolver's address that knows who asks.
//!
//! | request | body | what |
//! |---|---|---|
//! | `GET /v1/whoami` | | who it is, what it may change, and how its endpoints here are |
//! | `GET /v1/services?after=` | | what it may call, by name, address and port, with the edge's limits |
//! | `POST`, `DELETE /v1/drain` | `{ service }` | its endpoints take no new sessions, or take them again |
//! | `PUT`, `DELETE /v1/weight` | `{ service, weight }` | their share |
//! | `PUT`, `DELETE /v1/path` | `{ service, zone }` or `{ service, host }` | where its calls are led first |
//! | `POST`, `DELETE /v1/instances` | `{ service, port }` | an instance of its endpoint listens at that port |
//!
//! 1. A connection comes from the workload's interface, which says who asks; nothing in the request does.
//! 2. Without `service` a change is of all that the workload serves here, or calls.
//! 3. What the graph does not let it change is 403, with the line that would. Each change is logged and counted.
//! 4. A page in a browser of the workload is not the workload: what names an `Origin` is refused, and a change has to be JSON,
//!    which a page cannot send elsewhere without asking first (Fetch standard, CORS-safelisted request-header).

mod answers;
mod changes;

use super::shared::Shared;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header::ORIGIN},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};
use ripstop_datapath::interface::InterfaceId;
use ripstop_datapath::session::context::VoiceCall;
use ripstop_telemetry::{
    instruments::{VoiceRequest, VoiceResult},
    web,
};
use serde::Serialize;
use std::{collections::HashMap, num::NonZeroU32, sync::Arc};
use tokio::sync::{Semaphore, mpsc};

/// Connections that wait to be taken up; the thread does so at once.
pub(super) const CALLS_WAITING: usize = 64;
/// Connections of all workloads together, some 40 KB each; the interface bounds those of one.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of a request's body: a few words.
const BODY_BYTES: usize = 4 * 1024;
/// Requests by one interface that are answered in a second, and at once: one that asks without pause must not keep the thread
/// from what it does for others. Those beyond wait.
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
const REQUESTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(40).expect("not zero");
/// Changes by one interface that are taken in a second, and at once: each is a line of the log, and is told to other hosts.
const CHANGES_PER_SECOND: NonZeroU32 = NonZeroU32::new(1).expect("not zero");
const CHANGES_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
/// Interfaces whose pace is remembered; a host has far fewer at once.
const PACES_MAX: usize = 4_096;

/// How often a workload asks, and changes something.
struct Pace {
    requests: DefaultDirectRateLimiter,
    changes: DefaultDirectRateLimiter,
}

impl Pace {
    fn new() -> Self {
        let quota = |per_second, at_once| Quota::per_second(per_second).allow_burst(at_once);
        Self {
            requests: DefaultDirectRateLimiter::direct(quota(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)),
            changes: DefaultDirectRateLimiter::direct(quota(CHANGES_PER_SECOND, CHANGES_AT_ONCE)),
        }
    }

    /// Resolves when one more request may be answered.
    async fn request(&self) {
        while let Err(early) = self.requests.check() {
            tokio::time::sleep(early.wait_time_from(DefaultClock::default().now())).await;
        }
    }
}

/// Who asks whom.
#[derive(Clone)]
struct Asked {
    shared: Arc<Shared>,
    who: InterfaceId,
    pace: Arc<Pace>,
}

/// Takes up the connections of this host's workloads, for as long as it runs.
pub(super) async fn listen(shared: Arc<Shared>, mut calls: mpsc::Receiver<VoiceCall>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut paces: HashMap<InterfaceId, Arc<Pace>> = HashMap::new();
    while let Some(VoiceCall { interface: who, stream }) = calls.recv().await {
        // Dropped, the connection is ended.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        if paces.len() >= PACES_MAX {
            paces.retain(|_, pace| Arc::strong_count(pace) > 1);
        }
        let pace = Arc::clone(paces.entry(who.clone()).or_insert_with(|| Arc::new(Pace::new())));
        let router = router(Asked { shared: Arc::clone(&shared), who, pace });
        tokio::spawn(async move {
            web::serve_one(stream, router).await;
            drop(place);
        });
    }
}

fn router(asked: Asked) -> Router {
    let nothing = async |State(asked): State<Asked>| {
        asked.refuse(VoiceRequest::Other, StatusCode::NOT_FOUND, "no such request; GET /v1/whoami is one")
    };
    Router::new()
        .route("/v1/whoami", get(answers::whoami))
        .route("/v1/services", get(answers::services))
        .route("/v1/drain", post(changes::drain).delete(changes::undrain))
        .route("/v1/weight", put(changes::weight).delete(changes::no_weight))
        .route("/v1/path", put(changes::path).delete(changes::no_path))
        .route("/v1/instances", post(changes::instance).delete(changes::no_instance))
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(asked.clone(), admit))
        .with_state(asked)
}

/// Before all requests: not from a page, and not faster than the workload's pace.
async fn admit(State(asked): State<Asked>, request: Request, next: Next) -> Response {
    asked.pace.request().await;
    if request.headers().contains_key(ORIGIN) {
        return asked.refuse(VoiceRequest::Other, StatusCode::FORBIDDEN, "this is not for pages in a browser");
    }
    next.run(request).await
}

impl Asked {
    fn answer<T: Serialize>(&self, what: VoiceRequest, answer: T) -> Response {
        what.count(&self.who.workload, VoiceResult::Answered);
        Json(answer).into_response()
    }

    fn refuse(&self, what: VoiceRequest, status: StatusCode, why: &str) -> Response {
        let denied = status == StatusCode::FORBIDDEN;
        what.count(&self.who.workload, if denied { VoiceResult::Denied } else { VoiceResult::Refused });
        (status, Json(serde_json::json!({ "error": why }))).into_response()
    }
}
