//! Every metric of the agent, in one file.
//!
//! Names start with `ripstop_` and end in their base unit. Label values come from the graph (tenants, workloads,
//! services, hosts) or from closed enums; an address, an id or a text that a peer sent is never one. Where a name is not
//! in the graph (an unknown caller, a service that does not exist), or one too many, the label is `other`.
//!
//! Without [`install`] every instrument does nothing: an agent with `metrics: off` keeps none.

mod dns;
mod drops;
mod hearsay;
mod parts;
mod voice;

use super::{cardinality, gathered::Gathered};
pub use dns::{DnsCounters, DnsSource};
pub use drops::{DropCounters, HandedOnCounter};
pub use hearsay::{host_record_refused, host_records};
use metrics::{Gauge, Histogram, Label, SharedString, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
pub use parts::{captures, carrier, door};
use ripstop_config::{HostName, Reason, ServiceId, WorkloadId};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
pub use voice::{VoiceRequest, VoiceResult};

const SESSIONS: &str = "ripstop_sessions_total";
const STAGED: &str = "ripstop_staged_attempts_total";
const SESSIONS_CLOSED: &str = "ripstop_sessions_closed_total";
const SESSIONS_OPEN: &str = "ripstop_sessions_open";
const SESSION_BYTES: &str = "ripstop_session_bytes_total";
const THROTTLED: &str = "ripstop_session_throttled_bytes_total";
const THROTTLE: &str = "ripstop_session_throttle_seconds";
const BURST: &str = "ripstop_session_burst_bytes";
const PREDECESSOR: &str = "ripstop_predecessor_sessions_open";
const CONNECT: &str = "ripstop_session_connect_seconds";
const DURATION: &str = "ripstop_session_duration_seconds";
const DROPPED: &str = "ripstop_packets_dropped_total";
const HANDED_ON: &str = "ripstop_packets_handed_on_total";
const DNS: &str = "ripstop_dns_queries_total";
const VOICE: &str = "ripstop_workload_requests_total";
const POLICY_LOADS: &str = "ripstop_policy_loads_total";
const POLICY_OK: &str = "ripstop_policy_last_load_successful";
const POLICY_TIME: &str = "ripstop_policy_loaded_timestamp_seconds";
const POLICY_DIGEST: &str = "ripstop_policy_digest";
const BUNDLES_REFUSED: &str = "ripstop_policy_bundles_refused_total";
const CARRIER: &str = "ripstop_carrier_up";
const CARRIER_ANSWER: &str = "ripstop_carrier_last_answer_timestamp_seconds";
const HOST_RECORDS: &str = "ripstop_host_records";
const HOST_RECORDS_REFUSED: &str = "ripstop_host_records_refused_total";
const PEERS: &str = "ripstop_peers";
const PEER_UP: &str = "ripstop_peer_up";
const PEER_RTT: &str = "ripstop_peer_rtt_seconds";
const WORKLOADS: &str = "ripstop_workloads";
const ENDPOINT_HEALTHY: &str = "ripstop_endpoint_healthy";
const ENDPOINT_DRAINING: &str = "ripstop_endpoint_draining";
const CERTIFICATE: &str = "ripstop_certificate_expiry_timestamp_seconds";
const DOOR: &str = "ripstop_door_up";
const CAPTURES: &str = "ripstop_captures";
const RENEWALS: &str = "ripstop_certificate_renewals_total";
const ENROLMENTS: &str = "ripstop_enrolment_requests_total";
const RECORDS: &str = "ripstop_session_records_total";
const RECORD_ERRORS: &str = "ripstop_session_record_write_errors_total";
const RECORDS_UNWRITTEN: &str = "ripstop_session_records_unwritten";
const OTLP: &str = "ripstop_otlp_items_total";
pub(super) const MEMORY: &str = "ripstop_process_resident_memory_bytes";
pub(super) const FILES: &str = "ripstop_process_open_fds";
const BUILD: &str = "ripstop_build_info";

/// The label for what is not in the graph.
const OTHER: &str = "other";
/// The `reason` of a session that was allowed.
const NO_REASON: &str = "none";

pub(super) const COUNTERS: &[(&str, Unit, &str)] = &[
    (SESSIONS, Unit::Count, "Sessions by verdict, and the reason of a deny"),
    (SESSIONS_CLOSED, Unit::Count, "Allowed sessions that ended, by reason"),
    (SESSION_BYTES, Unit::Bytes, "Payload carried; up is from the caller to the service"),
    (THROTTLED, Unit::Bytes, "Payload that had to wait for a rate limit, or was dropped for one"),
    (STAGED, Unit::Count, "Attempts that the staged policy would decide otherwise, by what it would say"),
    (DROPPED, Unit::Count, "Packets of a workload that were dropped, by reason"),
    (HANDED_ON, Unit::Count, "Packets that came to another data thread than their flow's, and were handed on"),
    (DNS, Unit::Count, "DNS queries of a workload by who answered and by response code"),
    (VOICE, Unit::Count, "Requests of a workload to its own API at the resolver's address, by what came of them"),
    (POLICY_LOADS, Unit::Count, "Times the graph was loaded or reloaded, by result"),
    (
        BUNDLES_REFUSED,
        Unit::Count,
        "Offers of a policy that operators did not sign, or that is older than the one in force",
    ),
    (HOST_RECORDS_REFUSED, Unit::Count, "Records of hosts that were handed on and not believed, by reason"),
    (RENEWALS, Unit::Count, "Attempts to renew this host's certificate, by result"),
    (
        ENROLMENTS,
        Unit::Count,
        "Requests of hosts to join or to renew, of which this host's authority decided, by result",
    ),
    (RECORDS, Unit::Count, "Session records by what became of them"),
    (OTLP, Unit::Count, "Spans and records for the OpenTelemetry collector, by what became of them"),
    (RECORD_ERRORS, Unit::Count, "Failed tries to write session records; a failed try is repeated"),
];

pub(super) const GAUGES: &[(&str, Unit, &str)] = &[
    (SESSIONS_OPEN, Unit::Count, "Sessions that are open"),
    (PREDECESSOR, Unit::Count, "Sessions that are left of the agent that this one took over from"),
    (BURST, Unit::Bytes, "What the tightest rate limit of the newest session lets pass at once; 0 without a limit"),
    (POLICY_OK, Unit::Count, "1 when the last load of the graph succeeded, 0 when an older policy is kept"),
    (POLICY_TIME, Unit::Seconds, "When the policy in force was loaded"),
    (POLICY_DIGEST, Unit::Count, "The first 48 bits of the digest of the policy in force; equal on hosts that agree"),
    (CARRIER, Unit::Count, "1 while the etcd that carries policies answers"),
    (CARRIER_ANSWER, Unit::Seconds, "When that etcd answered last"),
    (HOST_RECORDS, Unit::Count, "Records of hosts that are believed, this host's own among them"),
    (PEERS, Unit::Count, "Other hosts by the state of the connection to them"),
    (PEER_UP, Unit::Count, "1 when the connection to that host is up"),
    (PEER_RTT, Unit::Seconds, "Smoothed round trip time to that host"),
    (WORKLOADS, Unit::Count, "Interfaces of this host's workloads by state, one for each pod or container"),
    (ENDPOINT_HEALTHY, Unit::Count, "1 when this host's endpoint of the service passes its health check"),
    (ENDPOINT_DRAINING, Unit::Count, "1 when this host's endpoint of the service is being drained"),
    (CERTIFICATE, Unit::Seconds, "When this host's certificate expires"),
    (DOOR, Unit::Count, "1 while the process that enters namespaces for the agent is there"),
    (CAPTURES, Unit::Count, "Captures that run: packets of workloads are copied for an operator"),
    (RECORDS_UNWRITTEN, Unit::Count, "Session records waiting to be written"),
    (MEMORY, Unit::Bytes, "Resident memory of the agent"),
    (FILES, Unit::Count, "Open file descriptors of the agent"),
    (BUILD, Unit::Count, "The version of the agent; always 1"),
];

pub(super) const HISTOGRAMS: &[(&str, &str, &[f64])] = &[
    (THROTTLE, "Waits for a rate limit; the sum is the time that sessions were held back", LATENCIES),
    (CONNECT, "Time from the first packet of a session to the endpoint's answer", LATENCIES),
    (DURATION, "Length of sessions", LENGTHS),
];

/// 100 µs is a call within one host, 10 s the wait for a verdict (DESIGN section 12). Seconds.
const LATENCIES: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// From one request to a connection pool's day. Seconds.
const LENGTHS: &[f64] = &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0];

/// Makes the process keep metrics, and returns what renders them. Once per process. The caller has
/// [`super::http::upkeep`] run, or samples of histograms pile up between scrapes.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(BuildError::from)?;
    describe();
    Ok(handle)
}

pub(crate) fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let builder = HISTOGRAMS.iter().try_fold(PrometheusBuilder::new(), |builder, (name, _, buckets)| {
        builder.set_buckets_for_metric(Matcher::Full((*name).into()), buckets)
    })?;
    Ok(builder.build_recorder())
}

pub(crate) fn describe() {
    for (name, unit, help) in COUNTERS {
        metrics::describe_counter!(*name, *unit, *help);
    }
    for (name, unit, help) in GAUGES {
        metrics::describe_gauge!(*name, *unit, *help);
    }
    for (name, help, _) in HISTOGRAMS {
        metrics::describe_histogram!(*name, Unit::Seconds, *help);
    }
}

/// Which end of a session this host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The host of the calling workload.
    Caller,
    /// The host of the endpoint.
    Server,
}

impl Side {
    /// The label: `caller` or `server`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Server => "server",
        }
    }
}

/// The instruments of one caller, service and side, looked up once, as one thread counts by them. A session's bytes are in the
/// metrics when it has ended, and a moment after they were counted.
pub struct EdgeInstruments {
    labels: Vec<Label>,
    open: Gauge,
    bytes_up: Gathered,
    bytes_down: Gathered,
    throttled_up: Gathered,
    throttled_down: Gathered,
    throttle: Histogram,
    burst: Gauge,
    connect: Histogram,
    duration: Histogram,
}

impl EdgeInstruments {
    /// The instruments of sessions from a caller to a service, both of the graph.
    #[must_use]
    pub fn new(caller: &WorkloadId, service: &ServiceId, side: Side) -> Self {
        let labels = edge_labels(Some(caller), Some(service), side);
        let way = |name, direction| {
            Gathered::new(counter!(name, with(&labels, Label::from_static_parts("direction", direction))))
        };
        Self {
            open: gauge!(SESSIONS_OPEN, labels.clone()),
            bytes_up: way(SESSION_BYTES, "up"),
            bytes_down: way(SESSION_BYTES, "down"),
            throttled_up: way(THROTTLED, "up"),
            throttled_down: way(THROTTLED, "down"),
            throttle: histogram!(THROTTLE, labels.clone()),
            burst: gauge!(BURST, labels.clone()),
            connect: histogram!(CONNECT, labels.clone()),
            duration: histogram!(DURATION, labels.clone()),
            labels,
        }
    }

    /// A session was allowed and is open. Its verdict is counted by [`verdict`].
    pub fn opened(&self) {
        self.open.increment(1.0);
    }

    /// A session that was [`opened`](Self::opened) has ended.
    pub fn closed(&self, reason: Reason, lasted: Duration) {
        for bytes in [&self.bytes_up, &self.bytes_down, &self.throttled_up, &self.throttled_down] {
            bytes.hand_on();
        }
        self.open.decrement(1.0);
        self.duration.record(lasted.as_secs_f64());
        counter!(SESSIONS_CLOSED, with(&self.labels, reason_label(reason))).increment(1);
    }

    /// Payload bytes went from the caller to the service.
    pub fn bytes_up(&self, bytes: u64) {
        self.bytes_up.add(bytes);
    }

    /// Payload bytes went from the service to the caller.
    pub fn bytes_down(&self, bytes: u64) {
        self.bytes_down.add(bytes);
    }

    /// Payload bytes from the caller had to wait for a rate limit, or were dropped for one.
    pub fn throttled_up(&self, bytes: u64) {
        self.throttled_up.add(bytes);
    }

    /// Payload bytes from the service had to wait for a rate limit, or were dropped for one.
    pub fn throttled_down(&self, bytes: u64) {
        self.throttled_down.add(bytes);
    }

    /// A session's rate limits, or its tightest, let so much pass at once after a pause; 0 without one.
    pub fn burst(&self, bytes: u64) {
        self.burst.set(bytes as f64);
    }

    /// A session was held back by a rate limit for so long.
    pub fn throttled(&self, waited: Duration) {
        self.throttle.record(waited.as_secs_f64());
    }

    /// The endpoint answered so long after the session's first packet.
    pub fn connected(&self, took: Duration) {
        self.connect.record(took.as_secs_f64());
    }
}

impl std::fmt::Debug for EdgeInstruments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeInstruments").field("labels", &self.labels).finish_non_exhaustive()
    }
}

/// Counts the verdict on a new session: allow when it was opened (no reason) or failed for another reason than a denial,
/// such as an endpoint that refused; deny otherwise. Give `None` for a caller or service
/// that is not in the policy: a peer may name anything, and it is counted as `other`.
pub fn verdict(caller: Option<&WorkloadId>, service: Option<&ServiceId>, side: Side, reason: Option<Reason>) {
    let mut labels = edge_labels(caller, service, side);
    labels.push(Label::from_static_parts(
        "verdict",
        if reason.is_some_and(Reason::is_denial) { "deny" } else { "allow" },
    ));
    labels.push(Label::from_static_parts("reason", reason.map_or(NO_REASON, Reason::as_str)));
    counter!(SESSIONS, labels).increment(1);
}

/// Counts an attempt that the staged policy decides otherwise: `would_allow` or `would_deny`.
pub fn staged(caller: &WorkloadId, service: &ServiceId, verdict: &'static str) {
    let mut labels = edge_labels(Some(caller), Some(service), Side::Caller);
    labels.push(Label::from_static_parts("verdict", verdict));
    counter!(STAGED, labels).increment(1);
}

fn edge_labels(caller: Option<&WorkloadId>, service: Option<&ServiceId>, side: Side) -> Vec<Label> {
    let (caller, service) = if cardinality::has_place(caller, service) { (caller, service) } else { (None, None) };
    let tenant = caller.map_or(OTHER.to_owned(), |caller| caller.tenant.to_string());
    vec![
        Label::new("tenant", shared(&tenant)),
        Label::new("caller", shared(&caller.map_or(OTHER.to_owned(), ToString::to_string))),
        Label::new("service", shared(&service.map_or(OTHER.to_owned(), ToString::to_string))),
        Label::from_static_parts("side", side.as_str()),
    ]
}

fn shared(text: &str) -> SharedString {
    SharedString::from_shared(Arc::from(text))
}

fn reason_label(reason: Reason) -> Label {
    Label::from_static_parts("reason", reason.as_str())
}

fn with(labels: &[Label], one: Label) -> Vec<Label> {
    labels.iter().cloned().chain([one]).collect()
}

fn workload_labels(workload: &WorkloadId) -> Vec<Label> {
    vec![Label::new("tenant", shared(workload.tenant.as_str())), Label::new("workload", shared(&workload.to_string()))]
}

/// The graph was loaded (`ok`), or was refused and the policy with this digest stays in force.
pub fn policy_loaded(ok: bool, digest: [u8; 8]) {
    // Both series exist from the first load on, so that an increase of the failures is seen.
    counter!(POLICY_LOADS, "result" => "ok").increment(u64::from(ok));
    counter!(POLICY_LOADS, "result" => "failed").increment(u64::from(!ok));
    gauge!(POLICY_OK).set(f64::from(u8::from(ok)));
    if ok {
        gauge!(POLICY_TIME).set(seconds_since_epoch(SystemTime::now()));
        gauge!(POLICY_DIGEST).set(digest_number(digest));
    }
}

/// Bytes that were offered for a policy are none that operators signed, or an old one.
pub fn bundle_refused() {
    counter!(BUNDLES_REFUSED).increment(1);
}

/// 48 bits fit a double exactly (IEEE 754: 53 bits of significand).
fn digest_number(digest: [u8; 8]) -> f64 {
    digest.iter().take(6).fold(0.0, |sum, byte| sum * 256.0 + f64::from(*byte))
}

/// So many sessions are left of the agent that this one took over from.
pub fn predecessor_sessions(left: u64) {
    gauge!(PREDECESSOR).set(float(usize::try_from(left).unwrap_or(usize::MAX)));
}

/// How many other hosts are in which state.
pub fn peers(up: usize, connecting: usize, down: usize) {
    for (state, count) in [("up", up), ("connecting", connecting), ("down", down)] {
        gauge!(PEERS, "state" => state).set(float(count));
    }
}

/// The state of one other host of the graph; `rtt` while there is one.
pub fn peer(host: &HostName, up: bool, rtt: Option<Duration>) {
    let label = vec![Label::new("host", shared(host.as_str()))];
    gauge!(PEER_UP, label.clone()).set(f64::from(u8::from(up)));
    gauge!(PEER_RTT, label).set(rtt.map_or(f64::NAN, |rtt| rtt.as_secs_f64()));
}

/// How many workloads of this host have their interface, and how many wait for it.
pub fn workloads(attached: usize, waiting: usize) {
    gauge!(WORKLOADS, "state" => "attached").set(float(attached));
    gauge!(WORKLOADS, "state" => "waiting").set(float(waiting));
}

/// What the health check of this host's endpoint of a service of the graph says; `None` when it is not checked any more.
pub fn endpoint_healthy(service: &ServiceId, healthy: Option<bool>) {
    gauge!(ENDPOINT_HEALTHY, service_labels(service)).set(flag(healthy));
}

/// Whether this host's endpoint of a service of the graph is being drained; `None` when it is not of this host any more.
pub fn endpoint_draining(service: &ServiceId, draining: Option<bool>) {
    gauge!(ENDPOINT_DRAINING, service_labels(service)).set(flag(draining));
}

fn service_labels(service: &ServiceId) -> Vec<Label> {
    let tenant = Label::new("tenant", shared(service.tenant.as_str()));
    vec![tenant, Label::new("service", shared(&service.to_string()))]
}

/// Not a number, for what is not known: no alert compares with it.
fn flag(so: Option<bool>) -> f64 {
    so.map_or(f64::NAN, |so| f64::from(u8::from(so)))
}

/// When this host's certificate expires.
pub fn certificate_expires(at: SystemTime) {
    gauge!(CERTIFICATE).set(seconds_since_epoch(at));
}

/// This host's certificate was renewed, or an attempt at that failed.
pub fn certificate_renewed(renewed: bool) {
    counter!(RENEWALS, "result" => if renewed { "renewed" } else { "failed" }).increment(1);
}

/// A host asked this one's authority to join or to renew: `joined`, `renewed` or `refused`.
pub fn enrolment(result: &'static str) {
    counter!(ENROLMENTS, "result" => result).increment(1);
}

/// Session records were written out.
pub fn records_written(count: u64) {
    counter!(RECORDS, "result" => "written").increment(count);
}

/// Session records had nobody left to read them.
pub fn records_lost(count: u64) {
    counter!(RECORDS, "result" => "lost").increment(count);
}

/// A try to write session records failed.
pub fn record_write_failed() {
    counter!(RECORD_ERRORS).increment(1);
}

/// So many session records wait for the writer.
pub fn records_unwritten(count: usize) {
    gauge!(RECORDS_UNWRITTEN).set(float(count));
}

/// Spans (`traces`) or records (`logs`) were `sent` to the collector, `rejected` by it, or `lost`.
#[cfg(any(feature = "otel", test))]
pub fn otlp(signal: &'static str, result: &'static str, count: u64) {
    counter!(OTLP, "signal" => signal, "result" => result).increment(count);
}

/// Says which version this is.
pub fn build_info() {
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

pub(super) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn seconds_since_epoch(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
#[path = "instruments_tests.rs"]
pub(super) mod tests;
