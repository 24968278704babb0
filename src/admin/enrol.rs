//! The admin API of the authority: tokens, and what was issued.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/tokens?hosts=&seconds=` | [`NewToken`] |
//! | `GET /v1/tokens` | the tokens, [`TokenStatus`] each |
//! | `POST /v1/tokens/revoke?id=` | whether there was one |
//! | `GET /v1/certificates?host=` | those of a host that can be valid or renewed, [`crate::authority::Issued`] each |
//!
//! On a host that does not hold the authority they are refused.

use super::server::{View, refuse};
use crate::authority::{Authority, HostPattern, Kept, seconds};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ripstop_config::HostName;
use ripstop_transport::enrol::TokenId;
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

/// A token that was just made. Its `Debug` shows nothing of the secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// By which it is listed and revoked.
    pub id: TokenId,
    /// The token itself, for the host that is to join; wiped from memory when dropped.
    pub token: Zeroizing<String>,
    /// Where that host finds the authority, `IP:PORT`.
    pub authority: String,
}

impl NewToken {
    /// What to run on the host that is to join.
    #[must_use]
    pub fn command(&self) -> String {
        format!("ripstop join {} --token {}", self.authority, *self.token)
    }
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A token that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its name.
    pub id: TokenId,
    /// Whom it is for.
    pub hosts: String,
    /// `good`, `expired`, or `used by HOST`.
    pub state: String,
    /// When it expires, RFC 3339.
    pub expires: String,
}

impl TokenStatus {
    fn of(token: &Kept, now: u64) -> Self {
        let state = match &token.used {
            Some(host) => format!("used by {host}"),
            None if now >= token.expires => "expired".into(),
            None => "good".into(),
        };
        let expires = i64::try_from(token.expires).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
        let expires = expires.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
        Self { id: token.id, hosts: token.hosts.to_string(), state, expires }
    }
}

pub(super) fn router() -> Router<View> {
    Router::new()
        .route("/v1/tokens", get(tokens).post(create))
        .route("/v1/tokens/revoke", post(revoke))
        .route("/v1/certificates", get(certificates))
}

/// Has something done by the authority on a thread that may block.
async fn by_authority<T, E, F>(view: View, what: F) -> Response
where
    T: Serialize + Send + 'static,
    E: Display,
    F: FnOnce(&Authority, &View) -> Result<T, E> + Send + 'static,
{
    let Some(authority) = view.authority() else {
        let message =
            "this host does not hold the fabric's authority; ask on the one that does (`authority:` in its agent.yaml)";
        return refuse(StatusCode::CONFLICT, message);
    };
    let done = tokio::task::spawn_blocking(move || what(&authority, &view).map_err(|error| error.to_string()));
    match done.await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(why)) => refuse(StatusCode::CONFLICT, &why),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "it broke off; see the agent's log"),
    }
}

#[derive(Deserialize)]
struct CreateQuery {
    hosts: HostPattern,
    seconds: u64,
}

async fn create(State(view): State<View>, Query(query): Query<CreateQuery>) -> Response {
    by_authority(view, move |authority, view| {
        let token = authority.create_token(query.hosts, Duration::from_secs(query.seconds))?;
        let authority = view.enrolment_address();
        Ok::<_, crate::authority::CreateError>(NewToken { id: token.id, token: token.reveal(), authority })
    })
    .await
}

async fn tokens(State(view): State<View>) -> Response {
    by_authority(view, |authority, _| {
        let now = seconds(SystemTime::now());
        let tokens: Vec<_> = authority.tokens().iter().map(|token| TokenStatus::of(token, now)).collect();
        Ok::<_, String>(tokens)
    })
    .await
}

#[derive(Deserialize)]
struct RevokeQuery {
    id: TokenId,
}

async fn revoke(State(view): State<View>, Query(query): Query<RevokeQuery>) -> Response {
    by_authority(view, move |authority, _| authority.revoke_token(query.id)).await
}

#[derive(Deserialize)]
struct HostQuery {
    host: HostName,
}

async fn certificates(State(view): State<View>, Query(query): Query<HostQuery>) -> Response {
    by_authority(view, move |authority, _| Ok::<_, String>(authority.certificates(&query.host))).await
}
