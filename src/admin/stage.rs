//! Requests about what was denied, and about a policy that is staged.

use super::server::{View, answer};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    response::Response,
    routing::{get, put},
};
use ripstop_config::graph::GRAPH_MAX;
use ripstop_policy::bundle::BUNDLE_MAX;
use serde::Deserialize;
use std::time::Duration;

pub(super) fn router() -> Router<View> {
    let stage = get(staged).put(stage).delete(discard).layer(DefaultBodyLimit::max(GRAPH_MAX));
    let bundle = put(stage_signed).layer(DefaultBodyLimit::max(BUNDLE_MAX));
    Router::new()
        .route("/v1/attempts", get(attempts))
        .route("/v1/stage", stage)
        .route("/v1/stage/bundle", bundle)
        .route("/v1/stage/hosts", get(elsewhere))
}

#[derive(Deserialize)]
struct AttemptsQuery {
    /// Only those last seen within so many seconds.
    seconds: Option<u64>,
}

async fn attempts(State(view): State<View>, Query(query): Query<AttemptsQuery>) -> Response {
    answer(move || view.attempts(query.seconds.map(Duration::from_secs))).await
}

async fn staged(State(view): State<View>) -> Response {
    answer(move || view.staged()).await
}

#[derive(Deserialize)]
struct StageQuery {
    file: String,
}

async fn stage(State(view): State<View>, Query(query): Query<StageQuery>, graph: String) -> Response {
    answer(move || view.stage(Some((query.file, graph)))).await
}

async fn stage_signed(State(view): State<View>, bundle: Bytes) -> Response {
    answer(move || view.stage_signed(&bundle)).await
}

async fn elsewhere(State(view): State<View>) -> Response {
    answer(move || view.staged_elsewhere()).await
}

async fn discard(State(view): State<View>) -> Response {
    answer(move || view.stage(None)).await
}
