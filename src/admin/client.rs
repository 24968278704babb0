//! The command line's end of the admin API. Blocks; may be called from within a tokio runtime or without one.

use super::{
    Attempt, CaptureQuery, CapturedOn, Capturing, Explained, HostPolicy, HostStage, Kept, LiveSession, NewToken,
    PageLink, Pong, Records, RecordsQuery, Resolved, Running, ServiceView, Staged, Standing, Status, TakeAll,
    TokenStatus, pods::Left,
};
use crate::{
    authority::{HostPattern, Issued},
    pods::{Announced, Announcement, Sandbox},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use ripstop_config::{HostName, PolicyVersion, WorkloadId};
use ripstop_policy::{BundleId, StageId};
use ripstop_transport::enrol::TokenId;
use serde::de::DeserializeOwned;
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

/// Longest wait for an answer: a reload compiles a graph of any size.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer: ten thousand sessions are some 4 MB.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why the agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no agent answers on {}; is it running? (`ripstop agent --config FILE`; another socket: `--socket`)", .0.display())]
    Unreachable(PathBuf, #[source] io::Error),
    /// The socket is root's.
    #[error("{} is for root, and for those whom `admin:` of the agent's settings names; try with sudo", .0.display())]
    Permission(PathBuf),
    /// The connection broke, or took too long.
    #[error("the agent on {} took the request but did not answer", .0.display())]
    Broken(PathBuf, #[source] Box<dyn Error + Send + Sync>),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It answered something else: another version.
    #[error("the agent's answer does not fit this version of ripstop ({})", env!("CARGO_PKG_VERSION"))]
    Answer(#[from] serde_json::Error),
}

impl ClientError {
    /// Whether there was no agent to ask.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(..) | Self::Permission(_) | Self::Broken(..) => true,
            Self::Refused(_) | Self::Answer(_) => false,
        }
    }
}

/// Asks the agent behind one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

struct Reply {
    ok: bool,
    body: Bytes,
    /// The agent's process id as this process sees it; `None` when it is in a namespace that this one cannot see.
    pid: Option<i32>,
}

impl Client {
    /// A client of the agent behind this socket. Connects at each request.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// How the agent is.
    ///
    /// # Errors
    /// [`ClientError`], as for all requests.
    pub fn status(&self) -> Result<Status, ClientError> {
        Ok(self.status_and_pid()?.0)
    }

    /// How the agent is, and its process id as the kernel shows it here.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status_and_pid(&self) -> Result<(Status, Option<i32>), ClientError> {
        let reply = self.ask(Method::GET, "/v1/status")?;
        Ok((parse(&reply)?, reply.pid))
    }

    /// The open sessions, 10 000 at most.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn sessions(&self) -> Result<Vec<LiveSession>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/sessions")?)
    }

    /// Session records.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a reason that there is not.
    pub fn records(&self, query: &RecordsQuery) -> Result<Records, ClientError> {
        // Flat and of numbers and texts, so that nothing is lost.
        let fields = serde_json::to_value(query)?;
        let set = fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let pairs = set.map(|(key, value)| match value.as_str() {
            Some(text) => format!("{key}={}", encode(text)),
            None => format!("{key}={value}"),
        });
        parse(&self.ask(Method::GET, &format!("/v1/records?{}", pairs.collect::<Vec<_>>().join("&")))?)
    }

    /// The services that the agent's host serves or calls.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn services(&self) -> Result<Vec<ServiceView>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/services")?)
    }

    /// Has another host's agent asked for a sign of life.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it does not answer.
    pub fn ping(&self, host: &HostName) -> Result<Pong, ClientError> {
        parse(&self.ask(Method::POST, &format!("/v1/ping?host={host}"))?)
    }

    /// What the resolver tells a workload.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there is no such workload, name or type.
    pub fn dns(&self, workload: &str, name: &str, kind: &str) -> Result<Resolved, ClientError> {
        let [workload, name, kind] = [workload, name, kind].map(encode);
        parse(&self.ask(Method::GET, &format!("/v1/dns?workload={workload}&name={name}&type={kind}"))?)
    }

    /// A link by which a browser sees the page.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the agent serves it on its admin socket alone.
    pub fn page(&self) -> Result<PageLink, ClientError> {
        parse(&self.ask(Method::POST, "/v1/page")?)
    }

    /// Begins a capture.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the host's settings do not let its operators, or there is nothing to be seen.
    pub fn capture(&self, query: &CaptureQuery) -> Result<Capturing, ClientError> {
        let CaptureQuery { what, from, seconds, bytes, snap } = query;
        let from = from.as_deref().map(|from| format!("&from={}", encode(from))).unwrap_or_default();
        let path = format!("/v1/capture?what={}{from}&seconds={seconds}&bytes={bytes}&snap={snap}", encode(what));
        parse(&self.ask(Method::POST, &path)?)
    }

    /// What captures have since they were asked last.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn captured(&self, all: &TakeAll) -> Result<Vec<CapturedOn>, ClientError> {
        parse(&self.send(Method::POST, "/v1/capture/take", serde_json::to_vec(all)?.into())?)
    }

    /// Has the graph read again.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the mistakes; the policy in force stays.
    pub fn reload(&self) -> Result<(), ClientError> {
        parse::<serde_json::Value>(&self.ask(Method::POST, "/v1/reload")?).map(drop)
    }

    /// Has the endpoint of a service on the agent's host, or all of them, take no new sessions, or with `undo` take them
    /// again; returns how those are.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the host does not serve it.
    pub fn drain(&self, service: Option<&str>, undo: bool) -> Result<Vec<Standing>, ClientError> {
        let service = service.map(|service| format!("&service={}", encode(service))).unwrap_or_default();
        parse(&self.ask(Method::POST, &format!("/v1/drain?undo={undo}{service}"))?)
    }

    /// What workloads of the agent's host asked for and were denied, last seen within so long.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn attempts(&self, within: Option<Duration>) -> Result<Vec<Attempt>, ClientError> {
        let within = within.map(|within| format!("?seconds={}", within.as_secs())).unwrap_or_default();
        parse(&self.ask(Method::GET, &format!("/v1/attempts{within}"))?)
    }

    /// Has a graph tried beside the policy in force, in place of one that is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with its mistakes.
    pub fn stage(&self, file: &str, graph: String) -> Result<(), ClientError> {
        parse(&self.send(Method::PUT, &format!("/v1/stage?file={}", encode(file)), graph.into())?)
    }

    /// Has a bundle that an operator signed for that tried on all hosts.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the reason; what was tried stays.
    pub fn stage_signed(&self, bundle: Vec<u8>) -> Result<StageId, ClientError> {
        parse(&self.send(Method::PUT, "/v1/stage/bundle", bundle.into())?)
    }

    /// What it would change on the other hosts.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn staged_elsewhere(&self) -> Result<Vec<HostStage>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/stage/hosts")?)
    }

    /// What the graph that is tried would change; `None` when there is none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn staged(&self) -> Result<Option<Staged>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/stage")?)
    }

    /// Has no graph tried any more.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn discard_stage(&self) -> Result<(), ClientError> {
        parse(&self.ask(Method::DELETE, "/v1/stage")?)
    }

    /// The signed policy that the agent runs, or a kept one.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it has none of that version, or its graph from a file.
    pub fn running(&self, version: Option<PolicyVersion>) -> Result<Running, ClientError> {
        let version = version.map(|version| format!("?version={version}")).unwrap_or_default();
        parse(&self.ask(Method::GET, &format!("/v1/policy{version}"))?)
    }

    /// Hands over a bundle; the agent has it in force when this returns.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the reason; the policy in force stays.
    pub fn offer(&self, bundle: Vec<u8>) -> Result<BundleId, ClientError> {
        parse(&self.send(Method::PUT, "/v1/policy", bundle.into())?)
    }

    /// The signed policies that the agent keeps, newest first.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it has its graph from a file.
    pub fn history(&self) -> Result<Vec<Kept>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/policy/history")?)
    }

    /// Which policy each other host runs.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the agent has its graph from a file.
    pub fn hosts(&self) -> Result<Vec<HostPolicy>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/policy/hosts")?)
    }

    /// Has a workload of the agent's host attached to the namespace of a process or to a named one; with neither, as the graph
    /// says. Returns which it is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the host has no such workload, or there is no such namespace.
    pub fn attach(&self, workload: &str, pid: Option<u32>, netns: Option<&str>) -> Result<WorkloadId, ClientError> {
        let pid = pid.map(|pid| format!("&pid={pid}")).unwrap_or_default();
        let netns = netns.map(|netns| format!("&netns={}", encode(netns))).unwrap_or_default();
        parse(&self.ask(Method::POST, &format!("/v1/attach?workload={}{pid}{netns}", encode(workload)))?)
    }

    /// Takes a workload's interface away until it is attached again. Returns which it is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the host has no such workload.
    pub fn detach(&self, workload: &str) -> Result<WorkloadId, ClientError> {
        parse(&self.ask(Method::POST, &format!("/v1/detach?workload={}", encode(workload)))?)
    }

    /// Says that a pod has a namespace; a workload's is attached a moment later.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when what is said makes no sense, or there is no such namespace.
    pub fn announce_pod(&self, announced: &Announcement) -> Result<Announced, ClientError> {
        parse(&self.send(Method::PUT, "/v1/pods", serde_json::to_vec(announced)?.into())?)
    }

    /// Says that a pod is gone; `false` when it was not known.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn retract_pod(&self, sandbox: &Sandbox) -> Result<bool, ClientError> {
        parse(&self.send(Method::POST, "/v1/pods/retract", serde_json::to_vec(sandbox)?.into())?)
    }

    /// Says which pods of a network are left; returns how many others are forgotten.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn keep_pods(&self, left: &Left) -> Result<usize, ClientError> {
        parse(&self.send(Method::POST, "/v1/pods/keep", serde_json::to_vec(left)?.into())?)
    }

    /// The pods that are announced.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn pods(&self) -> Result<Vec<Announcement>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/pods")?)
    }

    /// Makes a token for hosts that fit a pattern, good for a time of whole seconds.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the host does not hold the authority, among others.
    pub fn create_token(&self, hosts: &HostPattern, lifetime: Duration) -> Result<NewToken, ClientError> {
        let path = format!("/v1/tokens?hosts={}&seconds={}", encode(&hosts.to_string()), lifetime.as_secs());
        parse(&self.ask(Method::POST, &path)?)
    }

    /// The tokens that were given out.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the host does not hold the authority.
    pub fn tokens(&self) -> Result<Vec<TokenStatus>, ClientError> {
        parse(&self.ask(Method::GET, "/v1/tokens")?)
    }

    /// Makes a token good for nothing; `false` if there is none.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the host does not hold the authority.
    pub fn revoke_token(&self, id: TokenId) -> Result<bool, ClientError> {
        parse(&self.ask(Method::POST, &format!("/v1/tokens/revoke?id={id}"))?)
    }

    /// The certificates of a host that can be valid or renewed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the agent's host does not hold the authority.
    pub fn certificates(&self, host: &HostName) -> Result<Vec<Issued>, ClientError> {
        parse(&self.ask(Method::GET, &format!("/v1/certificates?host={host}"))?)
    }

    /// What the policy in force says about a call; `target` is `SERVICE[:PORT]`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when caller or service is not in the graph.
    pub fn explain(&self, who: &str, target: &str) -> Result<Explained, ClientError> {
        let path = format!("/v1/explain?who={}&service={}", encode(who), encode(target));
        parse(&self.ask(Method::GET, &path)?)
    }

    fn ask(&self, method: Method, path: &str) -> Result<Reply, ClientError> {
        self.send(method, path, Bytes::new())
    }

    /// On a thread of its own, since a runtime cannot be entered from within another.
    fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Reply, ClientError> {
        let asking = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| self.broken(error))?;
            let exchange = async { tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body)).await };
            let answer = runtime.block_on(exchange);
            answer.map_err(|late| self.broken(late))?
        };
        std::thread::scope(|scope| match scope.spawn(asking).join() {
            Ok(reply) => reply,
            Err(_) => Err(self.broken("the request broke off")),
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Reply, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "agent");
        let request = request.body(Full::new(body)).map_err(|error| self.broken(error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let ok = answer.status().is_success();
        let body =
            Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|error| self.broken(error))?;
        driver.abort();
        Ok(Reply { ok, body: body.to_bytes(), pid })
    }

    fn unreachable(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Permission(self.socket.clone()),
            _ => ClientError::Unreachable(self.socket.clone(), error),
        }
    }

    fn broken(&self, error: impl Into<Box<dyn Error + Send + Sync>>) -> ClientError {
        ClientError::Broken(self.socket.clone(), error.into())
    }
}

fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, ClientError> {
    if reply.ok {
        return Ok(serde_json::from_slice(&reply.body)?);
    }
    let answer: serde_json::Value = serde_json::from_slice(&reply.body)?;
    let message = answer.get("error").and_then(serde_json::Value::as_str);
    Err(ClientError::Refused(message.unwrap_or("the agent refused without saying why").into()))
}

/// Percent-encoding of a query's value (RFC 3986 section 2.1).
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("shop/web"), "shop/web");
        assert_eq!(encode("a b&c=%é:1"), "a%20b%26c%3D%25%C3%A9%3A1");
    }

    #[test]
    fn no_agent_is_told_apart() {
        let error = Client::new(Path::new("/nonexistent/agent.sock")).status().unwrap_err();
        assert!(error.is_unreachable());
        assert!(error.to_string().contains("/nonexistent/agent.sock"), "{error}");
    }
}
