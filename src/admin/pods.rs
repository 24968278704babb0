//! The admin API for the CNI plugin, which tells of pods.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/pods` | the pods that are announced, [`Announcement`](crate::pods::Announcement) each |
//! | `PUT /v1/pods` of one | [`Announced`](crate::pods::Announced) |
//! | `POST /v1/pods/retract` of a [`Sandbox`] | whether it was known |
//! | `POST /v1/pods/keep` of [`Left`] | how many are forgotten |

use super::server::{View, answer};
use crate::pods::{Pods, Sandbox};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    response::Response,
    routing::{get, post},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// The attachments of a network that a runtime knows of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The network's name.
    pub network: String,
    /// What is left.
    pub sandboxes: Vec<Sandbox>,
}

/// Bytes of a list of attachments: as many as pods are kept, with some 250 bytes each.
const LEFT_BYTES: usize = 1 << 20;
const NONE: &str = "this agent keeps no pods";

pub(super) fn router() -> Router<View> {
    Router::new()
        .route("/v1/pods", get(all).put(announce))
        .route("/v1/pods/retract", post(retract))
        .route("/v1/pods/keep", post(keep).layer(DefaultBodyLimit::max(LEFT_BYTES)))
}

fn pods(view: &View) -> Result<Arc<Pods>, String> {
    view.pods().ok_or_else(|| NONE.to_owned())
}

async fn all(State(view): State<View>) -> Response {
    answer(move || Ok(pods(&view)?.all())).await
}

async fn announce(State(view): State<View>, body: Bytes) -> Response {
    answer(move || pods(&view)?.announce(&view.policy(), &view.status().host, read(&body)?)).await
}

async fn retract(State(view): State<View>, body: Bytes) -> Response {
    answer(move || pods(&view)?.retract(&read(&body)?)).await
}

async fn keep(State(view): State<View>, body: Bytes) -> Response {
    answer(move || {
        let left: Left = read(&body)?;
        pods(&view)?.keep_only(&left.network, &left.sandboxes)
    })
    .await
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the request is not as it should be: {error}"))
}
