//! The containers of this host, as podman or Docker tells of them over its API socket.
//!
//! 1. Once a workload is one, the socket is looked for; without it those workloads wait, and say so.
//! 2. The stream of events is opened first, then every running container that is wanted is looked at, so that none is
//!    missed in between.
//! 3. Each event of a start or an end has all of them looked at again, and so has a change of the policy.
//! 4. When the stream ends it is opened again, every second if need be. What was found stays true as long as its process
//!    lives: an engine that is restarted leaves its containers running.
//!
//! A container is known by its first process and when that was started, so that a number that is given to another process
//! later is not taken for it.

use super::{
    plan::{self, Waiting},
    process::Process,
};
use crate::pods::REPLICAS_MAX;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Response, body::Bytes, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use ripstop_config::graph::Container;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{net::UnixStream, sync::Notify};

/// Where the engines have their sockets (podman.socket(5), dockerd(8)).
const SOCKETS: [&str; 3] = ["/run/podman/podman.sock", "/run/docker.sock", "/var/run/docker.sock"];
/// The version of the API that is spoken: Docker's of 2019, which podman speaks as well.
const API: &str = "/v1.40";
/// Bytes of an answer: a thousand containers are some 4 MB.
const ANSWER_BYTES: usize = 32 << 20;
/// Bytes of one event at most; more without an end of line means that it is something else.
const EVENT_BYTES: usize = 1 << 20;
/// How long an engine may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The pause before the socket is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Events that come together, as at a start, are taken together.
const TOGETHER: Duration = Duration::from_millis(20);

/// Containers of one name or label that are looked at: as many as a workload has pods at most.
const FITTING_MAX: usize = REPLICAS_MAX;

/// What is known of the containers of one name or label: of each, by its id, the first process, or why there is none. The
/// error says why nothing is known of any, or none is there.
pub(super) type Found = Result<BTreeMap<String, Result<Process, Waiting>>, Waiting>;

/// What is known of all that are wanted.
#[derive(Default)]
pub(super) struct Containers {
    found: Mutex<BTreeMap<Container, Found>>,
    wanted: Mutex<BTreeSet<Container>>,
    rewanted: Notify,
}

impl Containers {
    /// What is known of the containers of a name or label.
    pub(super) fn find(&self, container: &Container) -> Found {
        let waiting = || Err(failed("the container engine has not been asked yet"));
        self.found().get(container).cloned().unwrap_or_else(waiting)
    }

    /// Those that are wanted from now on.
    pub(super) fn want(&self, wanted: BTreeSet<Container>) {
        let mut before = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *before != wanted {
            *before = wanted;
            self.rewanted.notify_one();
        }
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<Container, Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> BTreeSet<Container> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the engine for ever; tells of every change.
    pub(super) async fn follow(self: Arc<Self>, changed: Arc<Notify>) {
        loop {
            while self.wanted().is_empty() {
                self.rewanted.notified().await;
            }
            let broken = match socket() {
                Some(socket) => self.follow_engine(&socket, &changed).await.err(),
                None => Some(format!("no container engine: none of {} is there", SOCKETS.join(", "))),
            };
            if let Some(why) = broken {
                // Containers outlive their engine: what is known of their processes is still true while those live.
                let known = self.found().clone();
                self.publish(&changed, |container| match known.get(container) {
                    Some(Ok(processes)) => Ok(processes.clone()),
                    Some(Err(_)) | None => Err(failed(&why)),
                });
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Until the stream of events ends, or nobody wants a container any more.
    async fn follow_engine(&self, socket: &Path, changed: &Notify) -> Result<(), String> {
        let path = format!(r#"{API}/events?filters={}"#, encode(r#"{"type":["container"]}"#));
        let mut events = get(socket, &path).await?.into_body();
        let mut pending = Vec::new();
        loop {
            let running = list(socket).await?;
            let wanted = self.wanted();
            if wanted.is_empty() {
                return Ok(());
            }
            let mut found = BTreeMap::new();
            for container in wanted {
                let processes = look(socket, &running, &container).await?;
                found.insert(container, processes);
            }
            self.publish(changed, |container| {
                found.remove(container).unwrap_or_else(|| Err(failed("not asked for yet")))
            });
            loop {
                let event = tokio::select! {
                    () = self.rewanted.notified() => break,
                    event = events.frame() => event,
                };
                let Some(frame) = event else { return Ok(()) };
                let frame = frame.map_err(|error| format!("{} broke off: {error}", socket.display()))?;
                if takes_event(&mut pending, frame.data_ref().map_or(&[][..], |data| data)) {
                    tokio::time::sleep(TOGETHER).await;
                    break;
                }
            }
        }
    }

    fn publish(&self, changed: &Notify, mut each: impl FnMut(&Container) -> Found) {
        let next: BTreeMap<_, _> = self.wanted().into_iter().map(|one| (one.clone(), each(&one))).collect();
        let mut found = self.found();
        if *found != next {
            *found = next;
            changed.notify_one();
        }
    }
}

fn socket() -> Option<PathBuf> {
    SOCKETS.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Adds to the events that are read by now; whether one of them is of a container that starts or ends. One JSON object a
/// line.
fn takes_event(pending: &mut Vec<u8>, data: &[u8]) -> bool {
    pending.extend_from_slice(data);
    let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else {
        if pending.len() > EVENT_BYTES {
            pending.clear();
        }
        return false;
    };
    let lines: Vec<u8> = pending.drain(..=end).collect();
    let matters = |line: &[u8]| {
        let event: Event = serde_json::from_slice(line).unwrap_or_default();
        let action = event.action.or(event.status).unwrap_or_default();
        ["start", "died", "die", "stop", "kill", "restart", "remove", "destroy", "rename"].contains(&action.as_str())
    };
    lines.split(|byte| *byte == b'\n').any(matters)
}

#[derive(Default, Deserialize)]
struct Event {
    #[serde(rename = "Action")]
    action: Option<String>,
    status: Option<String>,
}

/// A container of the list of those that run.
#[derive(Deserialize)]
struct Running {
    #[serde(rename = "Id")]
    id: String,
    /// With a slash before each.
    #[serde(rename = "Names", default)]
    names: Vec<String>,
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Running {
    fn is(&self, container: &Container) -> bool {
        match container {
            Container::Name(name) => self.names.iter().any(|one| one.trim_start_matches('/') == name),
            Container::Label(key, value) => self.labels.as_ref().is_some_and(|all| all.get(key) == Some(value)),
        }
    }
}

async fn list(socket: &Path) -> Result<Vec<Running>, String> {
    let answer = get(socket, &format!("{API}/containers/json")).await?;
    body(socket, answer).await
}

#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "State")]
    state: State,
}

#[derive(Deserialize)]
struct State {
    #[serde(rename = "Running", default)]
    running: bool,
    #[serde(rename = "Pid", default)]
    pid: u32,
}

/// The first processes of the containers that fit; fails when the engine does.
async fn look(socket: &Path, running: &[Running], container: &Container) -> Result<Found, String> {
    let mut fitting: Vec<_> = running.iter().filter(|one| one.is(container)).map(|one| one.id.as_str()).collect();
    if fitting.is_empty() {
        return Ok(Err(Waiting { why: format!("no container with the {container} runs"), gone: true }));
    }
    if fitting.len() > FITTING_MAX {
        tracing::warn!(%container, count = fitting.len(), most = FITTING_MAX, "more containers than a workload may be here");
        // The same ones each time.
        fitting.sort_unstable();
        fitting.truncate(FITTING_MAX);
    }
    let mut found = BTreeMap::new();
    for id in fitting {
        found.insert(id.to_owned(), first_process(socket, id).await?);
    }
    Ok(Ok(found))
}

/// The first process of a container; fails when the engine does.
async fn first_process(socket: &Path, id: &str) -> Result<Result<Process, Waiting>, String> {
    let gone = |why: String| Ok(Err(Waiting { why, gone: true }));
    let name = short(id);
    let Some(first) = inspect(socket, id).await? else { return gone(format!("container {name} has ended")) };
    let process = match Process::of(first) {
        Ok(process) => process,
        Err(error) => return Ok(Err(plan::waiting(&error, &format!("the first process of container {name}")))),
    };
    // The number may have become another's before its start was read; then the engine names another one, or none.
    if inspect(socket, id).await? != Some(first) {
        return gone(format!("container {name} was restarted just now"));
    }
    Ok(Ok(process))
}

fn failed(why: &str) -> Waiting {
    Waiting { why: why.to_owned(), gone: false }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The first process of a container, if it runs.
async fn inspect(socket: &Path, id: &str) -> Result<Option<u32>, String> {
    let answer = get(socket, &format!("{API}/containers/{}/json", encode(id))).await?;
    let inspected: Inspected = body(socket, answer).await?;
    let State { running, pid } = inspected.state;
    Ok(Some(pid).filter(|pid| running && *pid > 0))
}

/// Sends a request; its answer's body may be endless.
async fn get(socket: &Path, path: &str) -> Result<Response<Incoming>, String> {
    let shown = socket.display();
    let asking = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| format!("{shown} does not answer: {error}"))?;
        let broken = |error: hyper::Error| format!("{shown} did not answer: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with its answer.
        tokio::spawn(connection);
        let request = Request::builder().uri(path).header("host", "d").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| format!("{path} cannot be asked for: {error}"))?;
        sender.send_request(request).await.map_err(broken)
    };
    let answer = tokio::time::timeout(ANSWER_MAX, asking).await;
    let answer = answer.map_err(|_| format!("{shown} did not answer within {} s", ANSWER_MAX.as_secs()))??;
    if !answer.status().is_success() {
        return Err(format!("{shown} said {} to {path}", answer.status()));
    }
    Ok(answer)
}

async fn body<T: for<'d> Deserialize<'d>>(socket: &Path, answer: Response<Incoming>) -> Result<T, String> {
    let read = Limited::new(answer.into_body(), ANSWER_BYTES).collect();
    let read = tokio::time::timeout(ANSWER_MAX, read).await.map_err(|_| "too slow".into()).and_then(|read| read);
    let parsed = read
        .map_err(|error| error.to_string())
        .and_then(|body| serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string()));
    parsed.map_err(|error| format!("{} did not answer as podman and Docker do: {error}", socket.display()))
}

/// Percent-encoding of what is put into a path or query (RFC 3986 section 2.1).
fn encode(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_starts_and_ends_matter_and_lines_may_come_in_pieces() {
        let mut pending = Vec::new();
        assert!(!takes_event(&mut pending, br#"{"Type":"container","Action":"exec_start"}"#));
        assert!(!takes_event(&mut pending, b"\n{\"status\":\"st"));
        assert!(takes_event(&mut pending, b"art\"}\n"));
        assert!(takes_event(&mut pending, b"{\"Action\":\"die\"}\n{\"Act"));
        assert!(pending.starts_with(b"{\"Act"));
        assert!(!takes_event(&mut pending, b"\n"), "what is no JSON is no event");
    }

    #[test]
    fn a_container_is_found_by_its_name_or_a_label() {
        let text = r#"[{"Id":"a1","Names":["/db"],"Labels":{"app":"db"}},{"Id":"b2","Names":["/web"],"Labels":null}]"#;
        let running: Vec<Running> = serde_json::from_str(text).unwrap();
        let found = |container: Container| -> Vec<_> {
            running.iter().filter(|one| one.is(&container)).map(|one| one.id.as_str()).collect()
        };
        assert_eq!(found(Container::Name("web".into())), ["b2"]);
        assert_eq!(found(Container::Name("we".into())), [""; 0]);
        assert_eq!(found(Container::Label("app".into(), "db".into())), ["a1"]);
        assert_eq!(found(Container::Label("app".into(), String::new())), [""; 0]);
    }
}
