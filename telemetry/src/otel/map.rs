//! What a session record is to OpenTelemetry: a span, and a log record. Pure.
//!
//! Attributes with names of the semantic conventions say what these know of; besides, every field of the record is there as
//! `ripstop.FIELD`, as `docs/json.md` has it.

use super::{
    super::{SessionRecord, Side},
    trace::SpanId,
};
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, SpanFlags, Status,
        span::{Event, SpanKind},
        status::StatusCode,
    },
};
use ripstop_config::{FabricName, HostName, Identity, Reason};
use serde_json::Value;
use std::net::IpAddr;

/// What the resource and the scope are called.
const NAME: &str = "ripstop";
/// The name of every log record's event.
const EVENT: &str = "ripstop.session";
/// Fields that stand elsewhere in a span and in a log record.
const ELSEWHERE: [&str; 4] = ["start", "trace_id", "span_id", "parent_span_id"];
/// Sampled (W3C Trace Context, section 3.2.2.5).
const SAMPLED: u32 = 1;

/// Who says all of it.
pub(super) struct Origin {
    fabric: FabricName,
    resource: Resource,
}

impl Origin {
    /// The agent of a host.
    pub(super) fn new(host: &HostName, fabric: &FabricName) -> Self {
        let identity = Identity::host(fabric.clone(), host.clone());
        let attributes = vec![
            text("service.name", NAME),
            text("service.namespace", fabric.as_str()),
            text("service.instance.id", identity.to_string()),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("host.name", host.as_str()),
            text("ripstop.fabric", fabric.as_str()),
        ];
        Self { fabric: fabric.clone(), resource: Resource { attributes, ..Resource::default() } }
    }

    /// Spans of the records that have one; none where none has.
    pub(super) fn spans<'r>(
        &self,
        records: impl Iterator<Item = &'r SessionRecord>,
    ) -> Option<ExportTraceServiceRequest> {
        let spans: Vec<_> = records.filter_map(|record| self.span(record)).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
        let whole = ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() };
        let any = !whole.scope_spans[0].spans.is_empty();
        any.then(|| ExportTraceServiceRequest { resource_spans: vec![whole] })
    }

    /// Log records, one for each.
    pub(super) fn logs<'r>(&self, records: impl Iterator<Item = &'r SessionRecord>) -> ExportLogsServiceRequest {
        let log_records = records.map(|record| self.log(record)).collect();
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
        let whole = ResourceLogs { resource: Some(self.resource.clone()), scope_logs, ..ResourceLogs::default() };
        ExportLogsServiceRequest { resource_logs: vec![whole] }
    }

    fn span(&self, record: &SessionRecord) -> Option<Span> {
        let traced = record.trace?;
        let parent = traced.parent_span_id.map(SpanId::bytes);
        let start = nanos(record.start.unix_timestamp_nanos());
        // A parent is known to be at another host, and known not to be where there is none.
        let remote = SpanFlags::ContextHasIsRemoteMask as u32
            | parent.as_ref().map_or(0, |_| SpanFlags::ContextIsRemoteMask as u32);
        Some(Span {
            trace_id: traced.trace_id.bytes(),
            span_id: traced.span_id.bytes(),
            parent_span_id: parent.unwrap_or_default(),
            flags: SAMPLED | remote,
            name: name(record),
            kind: match record.side {
                Side::Caller => SpanKind::Client,
                Side::Server => SpanKind::Server,
            } as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: after(start, record.duration_s),
            attributes: self.attributes(record),
            events: events(record, start),
            status: failure(record).map(|message| Status { message, code: StatusCode::Error as i32 }),
            ..Span::default()
        })
    }

    fn log(&self, record: &SessionRecord) -> LogRecord {
        let end = after(nanos(record.start.unix_timestamp_nanos()), record.duration_s);
        let severity = if failure(record).is_some() { SeverityNumber::Warn } else { SeverityNumber::Info };
        let severity_text = if severity == SeverityNumber::Warn { "WARN" } else { "INFO" };
        let said = format!("{} {} ({})", name(record), record.verdict, record.reason.describe());
        LogRecord {
            time_unix_nano: end,
            observed_time_unix_nano: end,
            severity_number: severity as i32,
            severity_text: severity_text.into(),
            body: Some(value(said)),
            attributes: self.attributes(record),
            flags: record.trace.map_or(0, |_| SAMPLED),
            trace_id: record.trace.map(|traced| traced.trace_id.bytes()).unwrap_or_default(),
            span_id: record.trace.map(|traced| traced.span_id.bytes()).unwrap_or_default(),
            event_name: EVENT.into(),
            ..LogRecord::default()
        }
    }

    fn attributes(&self, record: &SessionRecord) -> Vec<KeyValue> {
        let SessionRecord { service, destination, .. } = record;
        let address = destination.parse::<IpAddr>().ok();
        let named = service.as_ref().map(|service| service.dns_name(&self.fabric));
        let mut attributes = vec![
            text("server.address", named.unwrap_or_else(|| destination.clone())),
            number("server.port", record.port.into()),
            text("network.transport", record.protocol.as_str()),
            text("ripstop.tenant", record.caller.tenant.as_str()),
        ];
        if let Some(address) = address {
            attributes.push(text("network.type", if address.is_ipv6() { "ipv6" } else { "ipv4" }));
            attributes.push(text("network.peer.address", destination.as_str()));
            attributes.push(number("network.peer.port", record.port.into()));
        }
        if let (Side::Caller, Some(service)) = (record.side, service) {
            attributes.push(text("peer.service", service.to_string()));
        }
        if failure(record).is_some() {
            attributes.push(text("error.type", record.reason.as_str()));
        }
        attributes.extend(fields(record));
        attributes
    }
}

/// The caller and what it called: few and of the graph, as a span's name should be. What a peer says in their place is
/// bounded by what names are.
fn name(record: &SessionRecord) -> String {
    match &record.service {
        Some(service) => format!("{} -> {service}", record.caller),
        None => format!("{} -> no service", record.caller),
    }
}

/// What happened on the way: only the endpoint's answer, of which the record has the time.
fn events(record: &SessionRecord, start: u64) -> Vec<Event> {
    let connected = record.connect_s.map(|took| Event {
        time_unix_nano: after(start, took),
        name: "ripstop.connected".into(),
        attributes: vec![number("ripstop.attempts", record.attempts.into())],
        ..Event::default()
    });
    connected.into_iter().collect()
}

/// Why the session is an error, for people; none if it is not: it ended as sessions end, whoever ended it.
fn failure(record: &SessionRecord) -> Option<String> {
    let ordinary = matches!(
        record.reason,
        Reason::Closed | Reason::CallerReset | Reason::CallerGone | Reason::Idle | Reason::Shutdown
    );
    (!ordinary).then(|| match &record.detail {
        Some(detail) => format!("{}: {detail}", record.reason.describe()),
        None => record.reason.describe().to_owned(),
    })
}

/// Every field of the record that has a value and no other place.
fn fields(record: &SessionRecord) -> Vec<KeyValue> {
    let Ok(Value::Object(fields)) = serde_json::to_value(record) else {
        // Every field is a number, a text or nothing.
        return Vec::new();
    };
    let here = fields.into_iter().filter(|(field, _)| !ELSEWHERE.contains(&field.as_str()));
    here.filter_map(|(field, value)| {
        let value = match value {
            Value::String(text) => any_value::Value::StringValue(text),
            Value::Bool(so) => any_value::Value::BoolValue(so),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => any_value::Value::IntValue(whole),
                None => any_value::Value::DoubleValue(number.as_f64()?),
            },
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some(pair(format!("ripstop.{field}"), value))
    })
    .collect()
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key.into(), any_value::Value::StringValue(value.into()))
}

fn number(key: &str, value: i64) -> KeyValue {
    pair(key.into(), any_value::Value::IntValue(value))
}

fn pair(key: String, value: any_value::Value) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn value(text: String) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(text)) }
}

/// Nanoseconds since 1970; a clock before that, or beyond 2554, is 0.
fn nanos(since: i128) -> u64 {
    u64::try_from(since).unwrap_or(0)
}

fn after(start: u64, seconds: f64) -> u64 {
    // Of microseconds, which are all that the record has; a session of years still fits.
    start.saturating_add((seconds * 1e6).round() as u64 * 1_000)
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
