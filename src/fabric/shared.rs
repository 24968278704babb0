//! What the control thread and the admin API know of the running agent.

use super::{
    data::{Command, DataHandle, Inspection},
    load,
};
use crate::{
    admin::{AgentView, LiveSession, PolicyStatus, Resolver, Standing, Status, WorkloadState, WorkloadStatus, names},
    telemetry::instruments,
};
use ripstop_config::{AgentConfig, HostName, WorkloadId};
use ripstop_policy::Policy;
use ripstop_transport::PeerState;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::Notify;

/// How long a graph's file may be away while it is replaced: so many looks, with so long a pause.
const REPLACED_LOOKS: u32 = 10;
const REPLACED_PAUSE: Duration = Duration::from_millis(50);

/// The running agent, as its threads other than the data thread see it.
pub(super) struct Shared {
    config: AgentConfig,
    started: OffsetDateTime,
    expires: SystemTime,
    data: DataHandle,
    loaded: Mutex<Loaded>,
    /// Held while a graph is read and compiled, which may take long: apart from `loaded`, so that nobody else waits.
    reloading: Mutex<()>,
    workloads: Mutex<BTreeMap<WorkloadId, WorkloadStatus>>,
    /// Hosts of which metrics tell.
    told: Mutex<BTreeSet<HostName>>,
    /// The policy changed: attachments may have to follow.
    pub(super) changed: Notify,
}

/// The policy in force, and what became of the last attempt to change it.
struct Loaded {
    policy: Arc<Policy>,
    at: OffsetDateTime,
    error: Option<String>,
    /// The text that was last read, good or bad, so that a touched file is not read as a change.
    text: Option<String>,
}

impl Shared {
    /// `text` is what the policy was compiled from.
    pub(super) fn new(
        config: AgentConfig,
        policy: Arc<Policy>,
        text: String,
        expires: SystemTime,
        data: DataHandle,
    ) -> Arc<Self> {
        instruments::policy_loaded(true, *policy.digest().as_bytes());
        let now = OffsetDateTime::now_utc();
        Arc::new(Self {
            config,
            started: now,
            expires,
            data,
            loaded: Mutex::new(Loaded { policy, at: now, error: None, text: Some(text) }),
            reloading: Mutex::default(),
            workloads: Mutex::default(),
            told: Mutex::default(),
            changed: Notify::new(),
        })
    }

    pub(super) fn graph_file(&self) -> &Path {
        &self.config.graph
    }

    pub(super) fn host(&self) -> &HostName {
        &self.config.host
    }

    pub(super) fn data(&self) -> &DataHandle {
        &self.data
    }

    pub(super) fn workloads(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, WorkloadStatus>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a notice from the file's directory: reads the graph again if its text is another. A file that is gone may be
    /// about to be replaced, and is waited for before that is a failure.
    pub(super) async fn reload_if_changed(&self) {
        for _ in 0..REPLACED_LOOKS {
            if self.config.graph.exists() {
                break;
            }
            tokio::time::sleep(REPLACED_PAUSE).await;
        }
        let text = load::read(&self.config).ok();
        if text.is_none() || self.loaded().text != text {
            self.reload_now();
        }
    }

    /// Reads the graph again; a bad one is logged, counted and shown by `status`, and changes nothing.
    pub(super) fn reload_now(&self) {
        if let Err(error) = self.try_reload() {
            tracing::error!("the policy in force stays, as the new graph was refused: {error}");
        }
    }

    fn try_reload(&self) -> Result<(), String> {
        let _reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let read = load::read(&self.config);
        let text = read.as_ref().ok().cloned();
        let fabric = self.policy().fabric().clone();
        let outcome = read
            .and_then(|text| load::compile(&self.config, &fabric, &text))
            .map_err(|error| format!("{error:#}"))
            .and_then(|policy| self.put_in_force(policy));
        let mut loaded = self.loaded();
        loaded.text = text;
        match outcome {
            Ok(policy) => {
                tracing::info!(digest = %policy.digest(), "policy in force");
                *loaded = Loaded { policy, at: OffsetDateTime::now_utc(), error: None, text: loaded.text.take() };
                instruments::policy_loaded(true, *loaded.policy.digest().as_bytes());
                drop(loaded);
                self.connect_peers();
                self.changed.notify_one();
                Ok(())
            }
            Err(error) => {
                instruments::policy_loaded(false, *loaded.policy.digest().as_bytes());
                loaded.error = Some(error.clone());
                Err(error)
            }
        }
    }

    fn put_in_force(&self, policy: Policy) -> Result<Arc<Policy>, String> {
        let policy = Arc::new(policy);
        self.data.send(Command::Enforce(Arc::clone(&policy)))?;
        Ok(policy)
    }

    /// Lets only hosts of the graph connect, and keeps connections to those whose services this host's workloads may call.
    pub(super) fn connect_peers(&self) {
        let policy = self.policy();
        let hosts = policy
            .workloads_on(&self.config.host)
            .flat_map(|caller| policy.visible_services(caller))
            .flat_map(|service| policy.service_entry(service).hosts.iter());
        let peers: BTreeMap<HostName, SocketAddr> = hosts
            .filter(|host| **host != self.config.host)
            .filter_map(|host| Some((host.clone(), policy.graph().hosts.get(host)?.address?)))
            .collect();
        self.data.transport().retain_hosts(&policy.graph().hosts.keys().cloned().collect());
        self.data.transport().set_peers(peers);
    }

    fn policy_status(&self) -> PolicyStatus {
        let loaded = self.loaded();
        let graph = loaded.policy.graph();
        PolicyStatus {
            digest: loaded.policy.digest().to_string(),
            file: self.config.graph.display().to_string(),
            loaded: rfc3339(loaded.at),
            last_error: loaded.error.clone(),
            workloads: graph.workloads.len(),
            services: graph.services.len(),
            edges: graph.edges.len(),
        }
    }

    fn workload_statuses(&self, inspection: &Inspection) -> Vec<WorkloadStatus> {
        let mut statuses: Vec<_> = self.workloads().values().cloned().collect();
        for status in &mut statuses {
            status.sessions = inspection.per_workload.get(&status.id).copied().unwrap_or(0);
        }
        statuses
    }

    /// Tells Prometheus how many workloads are attached and how the peers are.
    pub(super) fn publish(&self) {
        let workloads = self.workloads();
        let attached = workloads.values().filter(|workload| workload.state == WorkloadState::Attached).count();
        instruments::workloads(attached, workloads.len() - attached);
        drop(workloads);
        let (mut up, mut connecting, mut down) = (0, 0, 0);
        let peers = self.data.transport().peers();
        let names = peers.iter().map(|peer| peer.host.clone()).collect();
        let before = std::mem::replace(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner), names);
        before.iter().filter(|host| peers.iter().all(|peer| peer.host != **host)).for_each(|host| {
            instruments::peer(host, false, None);
        });
        for peer in peers {
            match peer.state {
                PeerState::Up => up += 1,
                PeerState::Connecting => connecting += 1,
                PeerState::Silent | PeerState::Down { .. } => down += 1,
            }
            let rtt = peer.rtt.map(Duration::from_secs_f64);
            instruments::peer(&peer.host, peer.state == PeerState::Up, rtt);
        }
        instruments::peers(up, connecting, down);
    }
}

impl AgentView for Shared {
    fn status(&self) -> Status {
        let inspection = self.data.inspect(false);
        let (v4, v6) = self.policy().resolver();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            host: self.config.host.clone(),
            fabric: self.policy().fabric().clone(),
            pid: std::process::id(),
            started: rfc3339(self.started),
            metrics: self.config.metrics.map(|address| address.to_string()),
            certificate_expires: rfc3339(self.expires.into()),
            resolver: Resolver { v4, v6 },
            policy: self.policy_status(),
            peers: self.data.transport().peers(),
            workloads: self.workload_statuses(&inspection),
            services: inspection.services,
            sessions_open: self.data.stats().sessions(),
        }
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.loaded().policy)
    }

    fn reload(&self) -> Result<(), String> {
        self.try_reload()
    }

    fn drain(&self, service: Option<&str>, draining: bool) -> Result<Vec<Standing>, String> {
        let named = service.map(|text| names::service(&self.policy(), text, None)).transpose();
        let service = named.map_err(|error| error.to_string())?;
        let standings = self.data.drain(service.clone(), draining)?;
        match &service {
            Some(service) => tracing::info!(%service, draining, "drain"),
            None => tracing::info!(draining, "drain of all services of this host"),
        }
        Ok(standings.into_iter().filter(|one| service.as_ref().is_none_or(|named| one.service == *named)).collect())
    }

    fn sessions(&self) -> Vec<LiveSession> {
        self.data.inspect(true).sessions
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}
