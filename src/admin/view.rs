//! What the agent shows of itself.

use super::{
    Attempt, CapturedOn, Capturing, CarrierStatus, HostPolicy, HostStage, Kept, Pong, Resolved, Running, Staged,
    TakeAll,
};
use crate::{authority::Authority, pods::Pods};
use ripstop_config::{FabricName, HostName, PolicyVersion, ServiceId, WorkloadId};
use ripstop_datapath::capture::Asked;
use ripstop_datapath::interface::Replica;
use ripstop_datapath::session::endpoints::{Standing, State};
use ripstop_policy::{BundleId, Policy, StageId};
use ripstop_telemetry::{Recent, Side, Tally};
use ripstop_transport::PeerStatus;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// The running agent, as the admin API asks it. Called from the admin thread, never from one that carries sessions.
pub trait AgentView: Send + Sync + 'static {
    /// How the agent is.
    fn status(&self) -> Status;
    /// The policy in force.
    fn policy(&self) -> Arc<Policy>;
    /// Reads the graph again and puts it in force. May block.
    ///
    /// # Errors
    /// The mistakes, as text; the policy in force stays.
    fn reload(&self) -> Result<(), String>;
    /// Has the endpoint of a service of this host, or all of them, take no new sessions (`draining`), or take them again;
    /// returns how those are. Open sessions go on. May block.
    ///
    /// # Errors
    /// What is wrong with the service, as text; nothing has changed.
    fn drain(&self, service: Option<&str>, draining: bool) -> Result<Vec<Standing>, String>;
    /// Has a workload of this host attached to the namespace of a process or to a named one, whatever the graph says; with
    /// neither, as the graph says again. Returns which it is.
    ///
    /// # Errors
    /// What is wrong with the workload or the namespace, as text; nothing has changed.
    fn attach(&self, workload: &str, pid: Option<u32>, netns: Option<&str>) -> Result<WorkloadId, String>;
    /// Takes a workload's interface away until it is attached again. Returns which it is.
    ///
    /// # Errors
    /// As [`AgentView::attach`].
    fn detach(&self, workload: &str) -> Result<WorkloadId, String>;
    /// The open sessions.
    fn sessions(&self) -> Vec<LiveSession>;
    /// What workloads of this host asked for and were denied, last seen within so long. May block.
    ///
    /// # Errors
    /// That the agent is too busy, as text.
    fn attempts(&self, within: Option<Duration>) -> Result<Vec<Attempt>, String>;
    /// Tries a graph, by its file's name and text, beside the policy in force; or none. May block.
    ///
    /// # Errors
    /// The mistakes, as text; what was tried before stays.
    fn stage(&self, graph: Option<(String, String)>) -> Result<(), String>;
    /// What the graph that is tried would change, if there is one. May block.
    ///
    /// # Errors
    /// As [`AgentView::attempts`].
    fn staged(&self) -> Result<Option<Staged>, String>;
    /// Tries what an operator signed for that, on this host and on all. May block.
    ///
    /// # Errors
    /// Why it is refused, as text; what was tried before stays.
    fn stage_signed(&self, bundle: &[u8]) -> Result<StageId, String>;
    /// What it would change on the other hosts of the graph, which are connected to and asked. Blocks, on a runtime's thread
    /// that may.
    ///
    /// # Errors
    /// Why nobody can be asked, as text.
    fn staged_elsewhere(&self) -> Result<Vec<HostStage>, String>;
    /// The signed policy in force, or the kept one of a version. May block.
    ///
    /// # Errors
    /// Why there is none, as text.
    fn running(&self, version: Option<PolicyVersion>) -> Result<Running, String>;
    /// Takes a bundle for the policy: verified, kept and in force when this returns. May block.
    ///
    /// # Errors
    /// Why it is refused, as text; the policy in force stays.
    fn offer(&self, bundle: &[u8]) -> Result<BundleId, String>;
    /// The signed policies that are kept, newest first. May block.
    ///
    /// # Errors
    /// Why they cannot be read, as text.
    fn history(&self) -> Result<Vec<Kept>, String>;
    /// Which policy each other host of the graph runs. They are connected to, to be asked, for some seconds from each call.
    ///
    /// # Errors
    /// Why this agent has no signed policy, as text.
    fn hosts(&self) -> Result<Vec<HostPolicy>, String>;
    /// The newest session records.
    fn records(&self) -> Arc<Recent>;
    /// Asks another host's agent for a sign of life, over the connection that sessions take. Blocks, on a runtime's thread
    /// that may.
    ///
    /// # Errors
    /// Why there is no answer, as text.
    fn ping(&self, host: &HostName) -> Result<Pong, String>;
    /// What the resolver tells a workload of the policy; other servers are asked as for the workload. May block.
    ///
    /// # Errors
    /// What is wrong with the question, or why there is no answer, as text.
    fn resolve(&self, workload: &WorkloadId, name: &str, kind: &str) -> Result<Resolved, String>;
    /// Begins a capture here and on the other hosts of the sessions, for a user of the host. Blocks, on a runtime's thread that
    /// may.
    ///
    /// # Errors
    /// Why there is none, as text.
    fn capture(&self, uid: u32, asked: &Asked) -> Result<Capturing, String>;
    /// What captures have since they were asked last. Blocks, on a runtime's thread that may.
    fn captured(&self, all: &TakeAll) -> Vec<CapturedOn>;
    /// The fabric's authority, if this host holds it.
    fn authority(&self) -> Option<Arc<Authority>> {
        None
    }
    /// The pods of this host, if the agent keeps them.
    fn pods(&self) -> Option<Arc<Pods>> {
        None
    }
    /// Where hosts that join find this one, `IP:PORT`.
    fn enrolment_address(&self) -> String {
        String::new()
    }
}

/// A capture that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// The host whose operator asked for it.
    pub by: HostName,
    /// Of this host's own users which one.
    pub uid: Option<u32>,
    /// The service, or the session.
    pub target: String,
    /// When it began.
    pub since: String,
}

/// How an agent is. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its host.
    pub host: HostName,
    /// The fabric.
    pub fabric: FabricName,
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// When it was started.
    pub started: String,
    /// The address of `/metrics`, unless off.
    pub metrics: Option<String>,
    /// Where its identity comes from.
    #[serde(default)]
    pub identity: IdentityStatus,
    /// When its certificate expires.
    pub certificate_expires: String,
    /// What is wrong with its certificate: that it is not renewed, or expires soon.
    #[serde(default)]
    pub certificate_warning: Option<String>,
    /// What it waits for before it is ready, as `/readyz` says it; empty when it is.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// What is wrong with the process that enters namespaces for it.
    #[serde(default)]
    pub door_warning: Option<String>,
    /// The captures of its workloads' packets that run.
    #[serde(default)]
    pub captures: Vec<CaptureStatus>,
    /// The directory of the fabric's authority, if this host holds it.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// Where workloads find the resolver, port 53.
    pub resolver: Resolver,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// The etcd by which policies come, if one carries them.
    #[serde(default)]
    pub carrier: Option<CarrierStatus>,
    /// The other hosts.
    pub peers: Vec<PeerStatus>,
    /// Which signed policies the connected ones run.
    #[serde(default)]
    pub peer_policies: BTreeMap<HostName, BundleId>,
    /// How long ago the records of hosts came that are believed, in seconds.
    #[serde(default)]
    pub records: BTreeMap<HostName, f64>,
    /// Hosts whose records are not believed for their clocks: seconds by which those are ahead of this host's.
    #[serde(default)]
    pub clocks_apart: BTreeMap<HostName, f64>,
    /// The workloads of this host.
    pub workloads: Vec<WorkloadStatus>,
    /// The services that this host serves, or that its workloads may call.
    pub services: Vec<ServiceStatus>,
    /// Open sessions, of both sides.
    pub sessions_open: u64,
    /// What each data thread has; empty where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_threads: Vec<DataThread>,
    /// What limits and the policy did since the start.
    #[serde(default)]
    pub tally: Tally,
    /// The agent that this one took over from, while it has sessions left.
    #[serde(default)]
    pub predecessor: Option<Predecessor>,
}

/// Where an agent's identity comes from, and which certificate it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// The certificate's file, or `SPIRE at unix:///PATH`.
    pub source: String,
    /// The certificate's serial number, hexadecimal.
    pub serial: String,
    /// Why SPIRE does not answer, if it does not.
    pub away: Option<String>,
}

/// An agent that has handed over, and ends the sessions that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its process id, as agents see it.
    pub pid: u32,
    /// The sessions that it has, of both sides.
    pub sessions: u64,
}

/// The resolver's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

/// The policy in force, and what became of the last reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its digest in hex: equal on hosts that agree.
    pub digest: String,
    /// The graph's file; of a signed policy the one that its operator signed.
    pub file: String,
    /// Which signed policy it is; `None` for a file, and while there is none.
    pub signed: Option<BundleId>,
    /// When it was loaded.
    pub loaded: String,
    /// Why the last reload was refused; `None` when it was not.
    pub last_error: Option<String>,
    /// How many workloads it has.
    pub workloads: usize,
    /// How many services it has.
    pub services: usize,
    /// How many `allow` edges it has.
    pub edges: usize,
}

/// The kind of a workload that was attached, or kept detached, by hand.
pub const BY_HAND: &str = "by hand";

/// A workload of this host, or one of its replicas here: one for each interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Which.
    pub id: WorkloadId,
    /// Which of several pods or containers that are the workload here, by its runtime's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
    /// Its interface's name.
    pub link: String,
    /// `netns`, `user`, `cgroup`, `container`, `pod`, `host` or `by hand`.
    pub kind: String,
    /// The namespace's path, the user's numeric id, or the control group's path.
    pub place: String,
    /// Its interface's IPv4 address.
    pub v4: Ipv4Addr,
    /// Its interface's IPv6 address.
    pub v6: Ipv6Addr,
    /// Its open sessions.
    pub sessions: u64,
    /// What it said of itself at the resolver's address, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub says: Vec<String>,
    /// Since when it has its interface.
    #[serde(default)]
    pub since: Option<String>,
    /// Whether it has its interface.
    pub state: WorkloadState,
}

impl WorkloadStatus {
    /// What it is, for people: `netns`, or `pod 4f2a9c81d2aa`.
    #[must_use]
    pub fn how(&self) -> String {
        self.replica.as_ref().map_or_else(|| self.kind.clone(), |replica| format!("{} {replica}", self.kind))
    }
}

/// Whether a workload has its interface. As text: `attached`, or `waiting: WHY`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum WorkloadState {
    /// It has.
    Attached,
    /// It has not yet, and why.
    Waiting(String),
}

impl std::fmt::Display for WorkloadState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Attached => f.write_str("attached"),
            Self::Waiting(why) => write!(f, "waiting: {why}"),
        }
    }
}

impl From<WorkloadState> for String {
    fn from(state: WorkloadState) -> Self {
        state.to_string()
    }
}

impl From<String> for WorkloadState {
    fn from(text: String) -> Self {
        if text == "attached" {
            return Self::Attached;
        }
        Self::Waiting(text.strip_prefix("waiting: ").unwrap_or(&text).into())
    }
}

/// A service and its endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Which.
    pub id: ServiceId,
    /// One for each host that serves it.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint, as this host sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Its host.
    pub host: HostName,
    /// Whether it takes new sessions.
    pub state: EndpointState,
    /// Its open sessions, as its host counts them; `None` when that is not known.
    pub sessions: Option<u32>,
    /// How long it has lately taken to accept a session of this host's workloads and to give its first answer, in seconds;
    /// `None` when nobody has asked it lately.
    pub latency: Option<f64>,
    /// Its share by its workload's own word; `None` where the graph's holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// How long ago its host's record came here, in seconds, where that says how it is; `None` where its host itself does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_age: Option<f64>,
}

/// Whether an endpoint takes new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// It does.
    Ready,
    /// It fails its health check.
    Unhealthy,
    /// It is being drained.
    Draining,
    /// Its workload has no interface.
    Absent,
    /// It failed when it was called, and is left alone for a while.
    Ejected,
    /// There is no connection to its host.
    Unreachable,
    /// Its host has not said yet.
    Unknown,
}

impl EndpointState {
    /// As text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Absent => "absent",
            Self::Ejected => "ejected",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

impl From<State> for EndpointState {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::Ready,
            State::Unhealthy => Self::Unhealthy,
            State::Draining => Self::Draining,
            State::Absent => Self::Absent,
        }
    }
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveSession {
    /// Its id in hex; the same on both hosts.
    pub session: String,
    /// Which end this host is.
    pub side: Side,
    /// When its first packet was seen.
    pub started: String,
    /// The calling workload.
    pub caller: WorkloadId,
    /// Of several pods or containers of this host that are the caller, which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_replica: Option<Replica>,
    /// Of several that are the endpoint, which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_replica: Option<Replica>,
    /// The service.
    pub service: ServiceId,
    /// The port that was called.
    pub port: u16,
    /// The host at the other end.
    pub peer: HostName,
    /// Payload bytes from the caller to the service so far.
    pub bytes_up: u64,
    /// Payload bytes from the service to the caller so far.
    pub bytes_down: u64,
    /// Seconds for which rate limits have held it back so far.
    #[serde(default)]
    pub waited_s: f64,
}

/// Where a browser finds the page, for who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageLink {
    /// With a secret in it that is good once.
    pub url: String,
    /// For how many seconds.
    pub seconds: u64,
}

/// What the policy says about a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The whole chain, for people.
    pub text: String,
    /// The whole chain, for programs.
    pub chain: serde_json::Value,
}

/// What a data thread has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataThread {
    /// The UDP port at which it takes QUIC.
    pub port: u16,
    /// Its open sessions, of both sides.
    pub sessions: u64,
    /// Hosts that it is connected with.
    pub hosts: usize,
    /// Connected hosts that have a thread of its number which is not reached: their sessions take the first thread's connection.
    pub unreached: Vec<HostName>,
}
