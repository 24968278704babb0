//! What the control thread and the admin API know of the running agent.

mod view;

use super::{
    by_hand::{ByHand, Hand},
    capture::Captures,
    carrier::{Carried, Clocks, Said},
    certificate::Certificate,
    containers::Containers,
    data::{DataHandle, Inspection},
    door::Doorkeeper,
    forward::Forward,
    load::{self, Source, Start},
    members, neighbours, places,
    plan::Sources,
    signed::{Refusal, Signed},
    source,
    upgrade::Upgrades,
};
use crate::{
    admin::{AgentView, HostPolicy, PolicyStatus, WorkloadState, WorkloadStatus},
    authority::Authority,
    pods::Pods,
};
use bytes::Bytes;
use ripstop_config::{AgentConfig, HostName, WorkloadId};
use ripstop_datapath::interface::InterfaceId;
use ripstop_datapath::session::hearsay::Hearsay;
use ripstop_policy::{Bundle, BundleId, Policy};
use ripstop_telemetry::{Recent, RecordLog, instruments};
use ripstop_transport::PeerState;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{Notify, watch};

/// How long a graph's file may be away while it is replaced: so many looks, with so long a pause.
const REPLACED_LOOKS: u32 = 10;
const REPLACED_PAUSE: Duration = Duration::from_millis(50);
/// Said to who asks an agent with `graph:` for signed policies.
pub(super) const FROM_A_FILE: &str = "this agent has its graph from a file (`graph:` in its settings); edit that, or give it `trust:` in \
                           its place, with the operators whose signature makes a policy";

/// The running agent, as its threads other than the data thread see it.
pub(super) struct Shared {
    config: AgentConfig,
    source: Source,
    started: OffsetDateTime,
    certificate: Certificate,
    authority: Option<Arc<Authority>>,
    data: DataHandle,
    /// DNS forwarding; it is told the fabric's ranges.
    forward: Forward,
    recent: Arc<Recent>,
    loaded: Mutex<Loaded>,
    /// Held while a graph is read and compiled, or a bundle taken, which may take long: apart from `loaded`, so that nobody else waits.
    reloading: Mutex<()>,
    workloads: Mutex<BTreeMap<InterfaceId, WorkloadStatus>>,
    /// The etcd by which policies come.
    pub(super) carried: Carried,
    /// What hosts say of themselves by other hosts.
    pub(super) hearsay: Arc<Hearsay>,
    /// Whose clocks are too far from this one's for that.
    pub(super) clocks: Arc<Clocks>,
    /// What this one says so, signed; nothing at first.
    pub(super) own_record: watch::Sender<Bytes>,
    /// Held while it is said whom to connect to, so that what is said last is of the newest policy.
    connecting: Mutex<()>,
    /// Hosts of which metrics tell.
    told: Mutex<BTreeSet<HostName>>,
    /// The policy changed, or a container: attachments may have to follow.
    pub(super) changed: Arc<Notify>,
    /// The containers of this host.
    pub(super) containers: Arc<Containers>,
    /// What was said of workloads by hand.
    pub(super) by_hand: ByHand,
    /// The pods of this host.
    pub(super) pods: Arc<Pods>,
    /// Who enters namespaces.
    pub(super) door: Arc<Doorkeeper>,
    /// The agents before and after this one.
    pub(super) upgrades: Upgrades,
    /// Whose packets are captured here.
    pub(super) captures: Arc<Captures>,
}

/// What the running agent is put together from.
pub(super) struct Parts {
    pub(super) authority: Option<Arc<Authority>>,
    pub(super) forward: Forward,
    pub(super) door: Arc<Doorkeeper>,
    pub(super) upgrades: Upgrades,
    pub(super) hearsay: Arc<Hearsay>,
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
    pub(super) fn new(
        config: AgentConfig,
        start: Start,
        data: DataHandle,
        records: &RecordLog,
        parts: Parts,
    ) -> Arc<Self> {
        let Parts { authority, forward, door, upgrades, hearsay } = parts;
        let Start { source, policy, text, error } = start;
        instruments::policy_loaded(error.is_none(), *policy.digest().as_bytes());
        let now = OffsetDateTime::now_utc();
        let certificate_source = source::shown(&config);
        let changed: Arc<Notify> = Arc::default();
        let pods = Pods::open(&config.run, Arc::clone(&door.doorway), Arc::clone(&changed));
        Arc::new(Self {
            config,
            source,
            started: now,
            certificate: Certificate::of(&data.transport().identity(), certificate_source),
            authority,
            data,
            forward,
            recent: Arc::clone(records.recent()),
            loaded: Mutex::new(Loaded { policy, at: now, error, text }),
            reloading: Mutex::default(),
            workloads: Mutex::default(),
            carried: Carried::default(),
            hearsay,
            clocks: Arc::default(),
            own_record: watch::Sender::new(Bytes::new()),
            connecting: Mutex::default(),
            told: Mutex::default(),
            changed,
            containers: Arc::default(),
            by_hand: ByHand::default(),
            pods,
            door,
            upgrades,
            captures: Arc::default(),
        })
    }

    /// The graph's file, where the policy comes from one.
    pub(super) fn graph_file(&self) -> Option<&Path> {
        match &self.source {
            Source::File(file) => Some(file),
            Source::Signed(_) => None,
        }
    }

    /// The signed policy, where it is one.
    pub(super) fn signed(&self) -> Option<&Signed> {
        match &self.source {
            Source::File(_) => None,
            Source::Signed(signed) => Some(signed),
        }
    }

    /// The signed policy in force, if there is one.
    pub(super) fn bundle(&self) -> Option<Bundle> {
        self.signed().and_then(Signed::bundle)
    }

    /// Which one that is; the default while there is none.
    pub(super) fn bundle_id(&self) -> BundleId {
        self.bundle().map(|bundle| bundle.id()).unwrap_or_default()
    }

    pub(super) fn config(&self) -> &AgentConfig {
        &self.config
    }

    pub(super) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Where the policy says that a host is.
    pub(super) fn address_of(&self, host: &HostName) -> Option<SocketAddr> {
        self.policy().graph().hosts.get(host)?.address
    }

    pub(super) fn host(&self) -> &HostName {
        &self.config.host
    }

    /// Whether the host's `resolv.conf` is to name the fabric's resolver.
    pub(super) fn wants_resolv_conf(&self) -> bool {
        self.config.resolv_conf
    }

    /// Whether systemd-resolved is to ask the fabric's resolver.
    pub(super) fn wants_resolved(&self) -> bool {
        self.config.resolved
    }

    /// Which policy each other host runs. Where hosts say it by a carrier, none is connected to for that: there may be very many.
    fn hosts_by(&self, said: &Said) -> Result<Vec<HostPolicy>, String> {
        let signed = self.signed().ok_or(FROM_A_FILE)?;
        if matches!(said, Said::Nothing) && signed.watch(Instant::now()) {
            self.connect_peers();
        }
        Ok(signed.hosts(&self.policy(), &self.config.host, self.data.transport().peers(), said))
    }

    pub(super) fn data(&self) -> &DataHandle {
        &self.data
    }

    pub(super) fn workloads(&self) -> MutexGuard<'_, BTreeMap<InterfaceId, WorkloadStatus>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where workloads are that the graph alone does not find.
    pub(super) fn sources(&self) -> Sources<'_> {
        Sources {
            containers: &self.containers,
            by_hand: &self.by_hand,
            pods: &self.pods,
            doorway: &self.door.doorway,
            queues: self.config.data_threads,
        }
    }

    /// Says something of a workload of this host by hand, and has it done.
    fn by_hand(&self, workload: &str, hand: Option<Hand>) -> Result<WorkloadId, String> {
        let policy = self.policy();
        let of_host = policy.workloads_on(self.host()).map(|ix| policy.workload_entry(ix));
        let mut fitting =
            of_host.filter(|entry| entry.id.to_string() == workload || entry.id.name.as_str() == workload);
        let entry = match (fitting.next(), fitting.next()) {
            (Some(entry), None) => entry,
            (Some(one), Some(other)) => {
                return Err(format!("`{workload}` may be {} or {}; write TENANT/NAME", one.id, other.id));
            }
            (None, _) => {
                return Err(format!(
                    "the graph places no workload `{workload}` on {}: only its hosts may speak for it",
                    self.host()
                ));
            }
        };
        let placed = matches!(hand, Some(Hand::Process(_) | Hand::Netns(_)));
        if placed && !entry.run.has_namespace() {
            return Err(format!(
                "{} is `run: {}` in the graph: only workloads with a namespace can be attached to one by hand",
                entry.id, entry.run
            ));
        }
        self.by_hand.set(entry.id.clone(), hand);
        self.changed.notify_one();
        Ok(entry.id.clone())
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a notice from the file's directory: reads the graph again if its text is another. A file that is gone may be
    /// about to be replaced, and is waited for before that is a failure.
    pub(super) async fn reload_if_changed(&self) {
        let Some(file) = self.graph_file() else { return };
        for _ in 0..REPLACED_LOOKS {
            if file.exists() {
                break;
            }
            tokio::time::sleep(REPLACED_PAUSE).await;
        }
        let text = load::read(file).ok();
        if text.is_none() || self.loaded().text != text {
            self.reload_now();
        }
    }

    /// Reads the graph again, or the operators; a bad one is logged, counted and shown by `status`, and changes nothing.
    pub(super) fn reload_now(&self) {
        if let Err(error) = self.try_reload() {
            tracing::error!("the policy in force stays, as what was read is refused: {error}");
        }
    }

    fn try_reload(&self) -> Result<(), String> {
        let _reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        self.upgrades.may_change()?;
        let file = match &self.source {
            Source::File(file) => file,
            Source::Signed(signed) => return signed.reload_trust().map_err(|error| format!("{error:#}")),
        };
        let read = load::read(file);
        let text = read.as_ref().ok().cloned();
        let fabric = self.policy().fabric().clone();
        let outcome = read
            .and_then(|text| load::compile(&self.config, file, &fabric, &text))
            .map_err(|error| format!("{error:#}"))
            .and_then(|policy| self.put_in_force(policy));
        self.loaded().text = text;
        self.settle(outcome)
    }

    /// Takes a bundle from whoever has one: verified, kept on disk, and in force when this returns. The one that is in force
    /// is taken as well.
    pub(super) fn take(&self, bytes: &[u8]) -> Result<BundleId, Refusal> {
        let signed = self.signed().ok_or_else(|| Refusal::Other(FROM_A_FILE.into()))?;
        let _reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        self.upgrades.may_change()?;
        let Some(bundle) = signed.check(bytes)? else { return Ok(self.bundle_id()) };
        let id = bundle.id();
        let compiled = bundle.compile().map_err(|error| error.to_string());
        let outcome = compiled.and_then(|policy| {
            signed.keep(&bundle)?;
            let policy = self.put_in_force(policy)?;
            signed.in_force(bundle);
            Ok(policy)
        });
        self.settle(outcome)?;
        self.end_stage();
        Ok(id)
    }

    /// Notes what came of an attempt to change the policy.
    fn settle(&self, outcome: Result<Arc<Policy>, String>) -> Result<(), String> {
        let mut loaded = self.loaded();
        match outcome {
            Ok(policy) => {
                tracing::info!(digest = %policy.digest(), version = %policy.version(), "policy in force");
                *loaded = Loaded { policy, at: OffsetDateTime::now_utc(), error: None, text: loaded.text.take() };
                instruments::policy_loaded(true, *loaded.policy.digest().as_bytes());
                self.forward.ranges.send_if_modified(|ranges| {
                    let before = std::mem::replace(ranges, loaded.policy.graph().ranges);
                    before != *ranges
                });
                drop(loaded);
                self.connect_peers();
                self.changed.notify_one();
                self.upgrades.policy_changed();
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
        self.data.enforce(&policy)?;
        Ok(policy)
    }

    /// Lets only hosts of the graph connect, and keeps connections to those whose services this host's workloads may call;
    /// where the policy is signed, also to those by which it spreads. A host that has no policy yet takes one from any host
    /// of the fabric. One of which the graph does not say where it is, is dialled where its record does.
    pub(super) fn connect_peers(&self) {
        let _connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = self.policy();
        let hosts = &policy.graph().hosts;
        if self.signed().is_some() && policy.id().is_unsigned() {
            return;
        }
        let called = self.called(&policy);
        let spread: Vec<&HostName> = match self.signed() {
            Some(signed) if signed.is_watched() => hosts.keys().collect(),
            Some(_) if !self.config.carrier.in_band => Vec::new(),
            Some(_) => {
                let dialled = hosts.iter().filter(|(_, host)| host.address.is_some()).map(|(name, _)| name);
                neighbours::of(&self.config.host, dialled)
            }
            None => Vec::new(),
        };
        let said = places::by_records(&self.hearsay, &policy, Instant::now());
        let place = |host: &HostName| hosts.get(host)?.address.or_else(|| said.get(host)?.first().copied());
        let peers: BTreeMap<HostName, SocketAddr> = called
            .chain(spread)
            .filter(|host| **host != self.config.host && !policy.revoked().hosts.contains(*host))
            .filter_map(|host| Some((host.clone(), place(host)?)))
            .collect();
        self.data.revoke(&members::shut_out(&policy));
        self.data.retain_hosts(&hosts.keys().cloned().collect());
        self.data.set_peers(&peers);
    }

    /// The hosts of services that workloads of this host may call, some more than once.
    pub(super) fn called<'p>(&self, policy: &'p Policy) -> impl Iterator<Item = &'p HostName> {
        let callers = policy.workloads_on(&self.config.host);
        let services = callers.flat_map(|caller| policy.visible_services(caller));
        services.flat_map(|service| policy.service_entry(service).hosts.iter())
    }

    /// Once nobody asks for them any more, hosts are connected to no more for that alone.
    pub(super) fn stop_watching_hosts(&self, now: Instant) {
        if self.signed().is_some_and(|signed| signed.unwatch(now)) {
            self.connect_peers();
        }
    }

    fn policy_status(&self) -> PolicyStatus {
        let loaded = self.loaded();
        let graph = loaded.policy.graph();
        let id = loaded.policy.id();
        let file = match &self.source {
            Source::File(file) => file.display().to_string(),
            Source::Signed(signed) => signed.bundle().map(|bundle| bundle.content().file.clone()).unwrap_or_default(),
        };
        PolicyStatus {
            digest: loaded.policy.digest().to_string(),
            file,
            signed: (!id.is_unsigned()).then_some(id),
            loaded: rfc3339(loaded.at),
            last_error: loaded.error.clone(),
            workloads: graph.workloads.len(),
            services: graph.services.len(),
            edges: graph.edges.len(),
        }
    }

    /// Which signed policies connected hosts say they have.
    fn peer_policies(&self) -> BTreeMap<HostName, BundleId> {
        let heard = self.signed().map(|signed| signed.policies.heard()).unwrap_or_default();
        heard.into_iter().filter(|(_, id)| !id.is_unsigned()).collect()
    }

    fn record_ages(&self) -> BTreeMap<HostName, f64> {
        let ages = self.hearsay.ages(Instant::now());
        ages.into_iter().map(|(host, age)| (host, age.as_secs_f64())).collect()
    }

    fn workload_statuses(&self, inspection: &Inspection) -> Vec<WorkloadStatus> {
        let described = |(id, status): (&InterfaceId, &WorkloadStatus)| WorkloadStatus {
            says: inspection.says.get(id).cloned().unwrap_or_default(),
            sessions: inspection.per_interface.get(id).copied().unwrap_or(0),
            ..status.clone()
        };
        self.workloads().iter().map(described).collect()
    }

    /// Tells Prometheus how many interfaces of workloads are attached and how the peers are.
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

pub(super) fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}
