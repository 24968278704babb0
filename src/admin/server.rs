//! The agent's end of the admin API.

use super::{AgentView, Explained, LiveSession, Rights, Status, capture, enrol, guard, names, operate, pods, stage};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nix::unistd::geteuid;
use ripstop_config::{PolicyVersion, WorkloadId};
use ripstop_policy::{Policy, bundle::BUNDLE_MAX};
use ripstop_telemetry::web;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::net::{UnixListener, UnixStream};

/// Open sessions shown at once: some 4 MB of JSON; whoever needs all of them reads the session records.
const SESSIONS_SHOWN_MAX: usize = 10_000;
/// Connections that wait to be taken, as the runtime has it; the system may grant less (net.core.somaxconn).
const BACKLOG: i32 = 1_024;

pub(super) type View = Arc<dyn AgentView>;

/// Why the admin socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// An agent answers on it.
    #[error("another agent answers on {}; stop it, or choose another directory with `run:`", .0.display())]
    InUse(PathBuf),
    /// Others may write to its directory.
    #[error("{} can be written by other users, who could take the admin socket's place; `chmod go-w` it or choose another directory with `run:`", .0.display())]
    Directory(PathBuf),
    /// Something that is not a socket is in its place.
    #[error("{} is not a socket; move it away, or choose another directory with `run:`", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot make the admin socket {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// The admin socket, not served yet. Removed from the directory when it is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    rights: Rights,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf, Arc<AtomicBool>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.1.load(Ordering::Relaxed) {
            // Nothing is lost when it is gone already.
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl AdminSocket {
    /// Makes the socket, in a directory that is made where it is missing: with modes 0600 and 0700 as long as only root and
    /// the agent's user have rights, else open to be asked by all. A socket on which nobody answers is taken away first.
    /// Within a tokio runtime.
    ///
    /// # Errors
    /// [`AdminError`] when it cannot be had.
    pub fn bind(socket: &Path, rights: Rights) -> Result<Self, AdminError> {
        let failed = |error| AdminError::Io(socket.into(), error);
        let (mode, of_directory) = rights.modes();
        check_directory(socket, of_directory)?;
        remove_stale(socket)?;
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let file = SocketFile(socket.into(), Arc::default());
        fs::set_permissions(socket, Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Self { listener, rights, file })
    }

    /// The socket of another agent of this host, which will listen to it no more. Its file stays that one's until this agent
    /// [owns](AdminSocket::own) it.
    ///
    /// # Errors
    /// [`AdminError::Io`] when it is no such socket.
    pub fn inherit(descriptor: OwnedFd, socket: &Path, rights: Rights) -> Result<Self, AdminError> {
        let listener =
            UnixListener::from_std(descriptor.into()).map_err(|error| AdminError::Io(socket.into(), error))?;
        Ok(Self { listener, rights, file: SocketFile(socket.into(), Arc::new(AtomicBool::new(true))) })
    }

    /// This agent alone listens, with the modes that its settings want, and who connects is told that it is this process.
    ///
    /// # Errors
    /// [`AdminError`]; it is listened to all the same.
    pub fn own(&self) -> Result<(), AdminError> {
        let socket = &self.file.0;
        let failed = |error| AdminError::Io(socket.clone(), error);
        self.file.1.store(false, Ordering::Relaxed);
        // The kernel tells of the process that listened last (`SO_PEERCRED`, unix(7)).
        rustix::net::listen(&self.listener, BACKLOG).map_err(|error| failed(error.into()))?;
        let (mode, of_directory) = self.rights.modes();
        check_directory(socket, of_directory)?;
        fs::set_permissions(socket, Permissions::from_mode(mode)).map_err(failed)
    }

    /// The socket, for another agent of this host; and what is set while that one has its file, so that this one leaves it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn descriptor(&self) -> io::Result<(OwnedFd, Arc<AtomicBool>)> {
        Ok((self.listener.as_fd().try_clone_to_owned()?, Arc::clone(&self.file.1)))
    }

    /// Answers every request with why the agent serves nothing yet, until it is dropped. Who may not ask is told nothing of it.
    #[cfg(feature = "spire")]
    pub async fn refuse_all(self, why: tokio::sync::watch::Receiver<String>) {
        let says = move || std::future::ready(refuse(StatusCode::SERVICE_UNAVAILABLE, &why.borrow()));
        let whole = Router::new().fallback(says).layer(middleware::from_fn(guard::guard));
        let rights = self.rights;
        let admit = |stream: &UnixStream| rights.admit(&whole, stream.peer_cred().ok()?.uid());
        web::serve_unix(self.listener, admit).await;
    }

    /// Answers requests until it is dropped; `more` are requests that are none of the API.
    pub async fn serve(self, view: View, more: Router) {
        let whole = router(view).merge(more).layer(middleware::from_fn(guard::guard));
        let rights = self.rights;
        let admit = |stream: &UnixStream| rights.admit(&whole, stream.peer_cred().ok()?.uid());
        web::serve_unix(self.listener, admit).await;
    }
}

fn check_directory(socket: &Path, mode: u32) -> Result<(), AdminError> {
    let failed = |error| AdminError::Io(socket.into(), error);
    let Some(directory) = socket.parent() else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let metadata = fs::metadata(directory).map_err(failed)?;
    let ours = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    if !ours || metadata.mode() & 0o022 != 0 {
        return Err(AdminError::Directory(directory.into()));
    }
    // More than it is open by now only as far as the settings want it: to pass, not to look around.
    let opened = metadata.mode() & 0o7777 | mode;
    fs::set_permissions(directory, Permissions::from_mode(opened)).map_err(failed)
}

fn remove_stale(socket: &Path) -> Result<(), AdminError> {
    let failed = |error| AdminError::Io(socket.into(), error);
    match fs::symlink_metadata(socket) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(AdminError::NotASocket(socket.into())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Err(AdminError::InUse(socket.into())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(socket).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn router(view: View) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/sessions", get(sessions))
        .route("/v1/explain", get(explain))
        .route("/v1/reload", post(reload))
        .route("/v1/drain", post(drain))
        .route("/v1/policy", get(running).put(offer).layer(DefaultBodyLimit::max(BUNDLE_MAX)))
        .route("/v1/policy/history", get(history))
        .route("/v1/policy/hosts", get(hosts))
        .route("/v1/attach", post(attach))
        .route("/v1/detach", post(detach))
        .merge(capture::router())
        .merge(enrol::router())
        .merge(stage::router())
        .merge(operate::router())
        .merge(pods::router())
        .fallback(async || refuse(StatusCode::NOT_FOUND, "no such request"))
        .layer(DefaultBodyLimit::max(web::BODY_BYTES))
        .with_state(view)
}

pub(super) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}

async fn status(State(view): State<View>) -> Json<Status> {
    Json(view.status())
}

async fn sessions(State(view): State<View>) -> Json<Vec<LiveSession>> {
    let mut sessions = view.sessions();
    sessions.truncate(SESSIONS_SHOWN_MAX);
    Json(sessions)
}

#[derive(Deserialize)]
struct ExplainQuery {
    who: String,
    service: String,
    port: Option<String>,
}

async fn explain(State(view): State<View>, Query(query): Query<ExplainQuery>) -> Response {
    let target = match query.port {
        Some(port) => format!("{}:{port}", query.service),
        None => query.service,
    };
    match explained(&view.policy(), &query.who, &target) {
        Ok(explained) => Json(explained).into_response(),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

/// What a policy says about a call, for the API and for the command line on files.
///
/// # Errors
/// [`names::LookupError`] when caller or service is not in the graph.
pub fn explained(policy: &Policy, who: &str, target: &str) -> Result<Explained, names::LookupError> {
    let call = names::call(policy, who, target)?;
    let explanation = ripstop_policy::explain(policy, &call.who, &call.service, call.port);
    let allowed = explanation.allowed();
    // It has string keys only, which is all that could fail.
    let mut chain = serde_json::to_value(&explanation).unwrap_or_default();
    if let Some(fields) = chain.as_object_mut() {
        fields.insert("allowed".into(), allowed.into());
    }
    Ok(Explained { allowed, text: explanation.to_string(), chain })
}

async fn reload(State(view): State<View>) -> Response {
    answer(move || view.reload().map(|()| serde_json::json!({}))).await
}

#[derive(Deserialize)]
struct DrainQuery {
    service: Option<String>,
    undo: Option<bool>,
}

async fn drain(State(view): State<View>, Query(query): Query<DrainQuery>) -> Response {
    let draining = !query.undo.unwrap_or(false);
    answer(move || view.drain(query.service.as_deref(), draining)).await
}

#[derive(Deserialize)]
struct RunningQuery {
    version: Option<PolicyVersion>,
}

async fn running(State(view): State<View>, Query(query): Query<RunningQuery>) -> Response {
    answer(move || view.running(query.version)).await
}

async fn offer(State(view): State<View>, bundle: Bytes) -> Response {
    answer(move || view.offer(&bundle)).await
}

async fn history(State(view): State<View>) -> Response {
    answer(move || view.history()).await
}

async fn hosts(State(view): State<View>) -> Response {
    answer(move || view.hosts()).await
}

/// Does what may block, and answers with what came of it.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Json(done).into_response(),
        Ok(Err(why)) => refuse(StatusCode::CONFLICT, &why),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the request broke off; see the agent's log"),
    }
}

#[derive(Deserialize)]
struct AttachQuery {
    workload: String,
    pid: Option<u32>,
    netns: Option<String>,
}

async fn attach(State(view): State<View>, Query(query): Query<AttachQuery>) -> Response {
    done(view.attach(&query.workload, query.pid, query.netns.as_deref()))
}

#[derive(Deserialize)]
struct DetachQuery {
    workload: String,
}

async fn detach(State(view): State<View>, Query(query): Query<DetachQuery>) -> Response {
    done(view.detach(&query.workload))
}

fn done(outcome: Result<WorkloadId, String>) -> Response {
    match outcome {
        Ok(workload) => Json(workload).into_response(),
        Err(why) => refuse(StatusCode::CONFLICT, &why),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
pub(crate) mod tests;
