//! What the admin API asks of the running agent.

use super::{FROM_A_FILE, Shared, rfc3339};
use crate::{
    admin::{
        AgentView, Attempt, CapturedOn, Capturing, HostPolicy, HostStage, Kept, LiveSession, Pong, Reach, Resolved,
        Resolver, Running, Staged, Standing, Status, TakeAll, names,
    },
    authority::Authority,
    fabric::{
        asks,
        by_hand::{self, Hand},
        capture,
        carrier::{self, Said},
    },
    pods::Pods,
};
use ripstop_config::{HostName, PolicyVersion, WorkloadId};
use ripstop_datapath::capture::Asked;
use ripstop_policy::{BundleId, Policy, StageId};
use ripstop_telemetry::Recent;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::runtime::Handle;

/// How long hosts that are being connected are waited for before those that are there are asked.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether they are.
const CONNECT_LOOK: Duration = Duration::from_millis(50);

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
            identity: self.certificate.identity(),
            certificate_expires: rfc3339(self.certificate.expires().into()),
            waiting_for: self.door.waiting_for(),
            door_warning: self.door.warning(),
            captures: self.captures.status(),
            certificate_warning: self.certificate.warning(SystemTime::now()),
            authority: self.config.authority.as_ref().map(|authority| authority.directory.clone()),
            resolver: Resolver { v4, v6 },
            policy: self.policy_status(),
            carrier: self.carried.status(),
            peers: self.data.transport().peers(),
            peer_policies: self.peer_policies(),
            records: self.record_ages(),
            clocks_apart: self.clocks.apart(Instant::now()),
            workloads: self.workload_statuses(&inspection),
            services: inspection.services,
            sessions_open: self.data.stats().sessions(),
            data_threads: self.data.described(&inspection.per_thread),
            tally: self.recent.tally(),
            predecessor: self.upgrades.predecessor(),
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

    fn attach(&self, workload: &str, pid: Option<u32>, netns: Option<&str>) -> Result<WorkloadId, String> {
        let id = self.by_hand(workload, by_hand::hand(pid, netns, &self.door.doorway)?)?;
        tracing::info!(workload = %id, pid, netns, "attach, by hand");
        Ok(id)
    }

    fn detach(&self, workload: &str) -> Result<WorkloadId, String> {
        let id = self.by_hand(workload, Some(Hand::Detached))?;
        tracing::info!(workload = %id, "detach, by hand");
        Ok(id)
    }

    fn sessions(&self) -> Vec<LiveSession> {
        self.data.inspect(true).sessions
    }

    fn attempts(&self, within: Option<Duration>) -> Result<Vec<Attempt>, String> {
        self.data.attempts(within)
    }

    fn stage(&self, graph: Option<(String, String)>) -> Result<(), String> {
        self.try_stage(graph)
    }

    fn staged(&self) -> Result<Option<Staged>, String> {
        self.data.staged()
    }

    fn stage_signed(&self, bundle: &[u8]) -> Result<StageId, String> {
        self.take_stage(bundle)
    }

    fn staged_elsewhere(&self) -> Result<Vec<HostStage>, String> {
        let deadline = Instant::now() + CONNECT_MAX;
        loop {
            // By a connection to each, as it is them who are asked.
            let hosts = self.hosts_by(&Said::Nothing)?;
            if Instant::now() >= deadline || hosts.iter().all(|host| host.reach != Reach::Connecting) {
                return Ok(Handle::current().block_on(carrier::ask_all(self.data.transport(), hosts)));
            }
            std::thread::sleep(CONNECT_LOOK);
        }
    }

    fn running(&self, version: Option<PolicyVersion>) -> Result<Running, String> {
        self.signed().ok_or(FROM_A_FILE)?.running(version)
    }

    fn offer(&self, bundle: &[u8]) -> Result<BundleId, String> {
        self.take(bundle).map_err(|why| why.to_string())
    }

    fn history(&self) -> Result<Vec<Kept>, String> {
        self.signed().ok_or(FROM_A_FILE)?.history()
    }

    fn hosts(&self) -> Result<Vec<HostPolicy>, String> {
        self.hosts_by(&self.carried.ask(Instant::now()))
    }

    fn records(&self) -> Arc<Recent> {
        Arc::clone(&self.recent)
    }

    fn ping(&self, host: &HostName) -> Result<Pong, String> {
        if host == self.host() {
            return Err(format!("{host} is this host; name another one"));
        }
        // Without a policy no host is known, and none is connected.
        names::host(&self.policy(), host.as_str()).map_err(|error| error.to_string())?;
        asks::ping(self.data.transport(), host)
    }

    fn resolve(&self, workload: &WorkloadId, name: &str, kind: &str) -> Result<Resolved, String> {
        asks::resolve(&self.policy(), &self.forward.queries, workload, name, kind)
    }

    fn capture(&self, uid: u32, asked: &Asked) -> Result<Capturing, String> {
        capture::begin_all(self, uid, asked)
    }

    fn captured(&self, all: &TakeAll) -> Vec<CapturedOn> {
        capture::take_all(self, all)
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        self.authority.clone()
    }

    fn pods(&self) -> Option<Arc<Pods>> {
        Some(Arc::clone(&self.pods))
    }

    /// As the graph says; a port alone where it does not.
    fn enrolment_address(&self) -> String {
        let address = self.address_of(&self.config.host);
        address.map_or_else(|| format!("HOST:{}", self.config.listen.port()), |address| address.to_string())
    }
}
