//! The requests.

use super::{
    access::{self, Access, COOKIE, TICKET_LIFE, VISIT_LIFE},
    asked::Asked,
    facts::Facts,
    guard, html,
    pulse::Pulse,
};
use crate::admin::{AgentView, PageLink};
use axum::{
    Form, Json, Router,
    extract::{DefaultBodyLimit, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use maud::Markup;
use ripstop_telemetry::web;
use serde::Deserialize;
use std::{net::SocketAddr, sync::Arc, time::Instant};
use tokio::net::TcpListener;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");

/// Where a ticket is spent.
const ENTER: &str = "/enter";

/// The page of an agent.
pub struct Page {
    view: Arc<dyn AgentView>,
    pulse: Pulse,
    access: Access,
    /// Where it is served besides the admin socket.
    address: Option<SocketAddr>,
}

impl Page {
    /// The page of this agent, which is to be served at `address` as well.
    #[must_use]
    pub fn new(view: Arc<dyn AgentView>, address: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self { view, pulse: Pulse::default(), access: Access::default(), address })
    }

    /// What the admin socket answers besides the API: the page, and tickets for it.
    pub fn on_socket(self: &Arc<Self>) -> Router {
        let ticket = Router::new().route("/v1/page", post(ticket)).with_state(Arc::clone(self));
        let page = Router::new().route("/", get(show)).with_state(Arc::clone(self)).merge(parts());
        page.layer(middleware::from_fn(guard::guard)).merge(ticket)
    }

    /// Serves the page by TCP to who has a ticket. Runs until it is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        web::serve_tcp(listener, self.on_loopback()).await;
    }

    #[cfg(test)]
    pub(super) fn ticket(&self) -> Option<String> {
        self.access.ticket(Instant::now()).ok().map(|ticket| ticket.reveal().to_owned())
    }

    fn on_loopback(self: &Arc<Self>) -> Router {
        let page = Router::new().route("/", get(show)).with_state(Arc::clone(self));
        let page = page.layer(middleware::from_fn_with_state(Arc::clone(self), admit));
        let door = Router::new().route(ENTER, get(ask_to_enter).post(enter)).with_state(Arc::clone(self));
        let whole = page.merge(door).merge(parts()).fallback(async || StatusCode::NOT_FOUND);
        whole.layer(DefaultBodyLimit::max(web::BODY_BYTES)).layer(middleware::from_fn(guard::guard))
    }
}

/// What the page consists of besides what it says; it is the same for all, and no secret.
fn parts() -> Router {
    let part = |kind: &'static str, text: &'static str| get(async move || ([(header::CONTENT_TYPE, kind)], text));
    Router::new()
        .route("/page.css", part("text/css; charset=utf-8", STYLE))
        .route("/page.js", part("text/javascript; charset=utf-8", SCRIPT))
        .route("/icon.svg", part("image/svg+xml", ICON))
}

fn page(status: StatusCode, markup: Markup) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], markup.into_string()).into_response()
}

async fn show(State(own): State<Arc<Page>>, Query(asked): Query<Asked>) -> Response {
    let look = own.pulse.look(&own.view).await;
    let view = Arc::clone(&own.view);
    // The data thread is waited for, and a large graph takes a moment.
    let made = tokio::task::spawn_blocking(move || html::whole(&Facts::gather(&*view, &look, &asked), &asked));
    match made.await {
        Ok(markup) => page(StatusCode::OK, markup),
        Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made; see the agent's log\n").into_response()
        }
    }
}

/// Lets only browsers in that hold a secret.
async fn admit(State(own): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let now = Instant::now();
    if cookies.into_iter().any(|header| own.access.admits(header, now)) {
        return next.run(request).await;
    }
    page(StatusCode::UNAUTHORIZED, html::door::closed())
}

#[derive(Deserialize)]
struct Ticket {
    #[serde(default)]
    ticket: String,
}

/// Changes nothing: the ticket is spent by the form in the answer.
async fn ask_to_enter(Query(shown): Query<Ticket>) -> Response {
    page(StatusCode::OK, html::door::open(ENTER, &shown.ticket))
}

async fn enter(State(own): State<Arc<Page>>, Form(shown): Form<Ticket>) -> Response {
    let Some(cookie) = own.access.enter(&shown.ticket, Instant::now()) else {
        return page(StatusCode::UNAUTHORIZED, html::door::closed());
    };
    let age = VISIT_LIFE.as_secs();
    // Without a domain it is of the very name that was asked (RFC 6265 section 5.3).
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age}", cookie.reveal());
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

/// A link for who asked by the admin socket.
async fn ticket(State(own): State<Arc<Page>>) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, Json(serde_json::json!({ "error": why }))).into_response();
    let Some(address) = own.address else {
        let why = "this agent serves the page on its admin socket alone; write `page: 127.0.0.1:7479` into its settings, or forward \
                   the socket: ssh -L 7479:/run/ripstop/agent.sock HOST, and open http://localhost:7479/";
        return refuse(StatusCode::CONFLICT, why);
    };
    match own.access.ticket(Instant::now()).and_then(|ticket| Ok((ticket, access::name()?))) {
        Ok((ticket, name)) => {
            let url = format!("http://{name}:{}{ENTER}?ticket={}", address.port(), ticket.reveal());
            Json(PageLink { url, seconds: TICKET_LIFE.as_secs() }).into_response()
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
