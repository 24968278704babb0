//! A stand-in for a collector, for tests: it reads requests of OTLP over HTTP and decodes them with OTLP's own types. The lab's
//! tests include this file as well.

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    trace::v1::Span,
};
use prost::Message;
use std::io::{BufRead, BufReader, Read};

/// A whole request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Its first line and its headers, in lower case.
    pub(crate) head: String,
    body: Vec<u8>,
}

/// What a batch has: the attributes of the resource, then the items.
type Batch<T> = (Vec<KeyValue>, Vec<T>);

/// A collector that has taken everything.
pub(crate) const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";

/// The next request of a connection; none where that has ended.
pub(crate) fn next(from: &mut BufReader<impl Read>) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    Some(Request { head, body })
}

impl Request {
    pub(crate) fn is_of(&self, path: &str) -> bool {
        self.head.starts_with(&format!("post {path} http/1.1\r\n"))
    }

    pub(crate) fn spans(&self) -> Batch<Span> {
        let request = ExportTraceServiceRequest::decode(&self.body[..]).expect("spans");
        let [of_resource] = &request.resource_spans[..] else { panic!("one resource: {request:?}") };
        let spans = of_resource.scope_spans.iter().flat_map(|scope| scope.spans.clone()).collect();
        (of_resource.resource.clone().expect("a resource").attributes, spans)
    }

    pub(crate) fn logs(&self) -> Batch<LogRecord> {
        let request = ExportLogsServiceRequest::decode(&self.body[..]).expect("log records");
        let [of_resource] = &request.resource_logs[..] else { panic!("one resource: {request:?}") };
        let logs = of_resource.scope_logs.iter().flat_map(|scope| scope.log_records.clone()).collect();
        (of_resource.resource.clone().expect("a resource").attributes, logs)
    }
}

/// An attribute as text; empty where there is none.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let mut found = attributes.iter().filter(|attribute| attribute.key == key);
    let value = found.next().and_then(|attribute| attribute.value.clone()?.value);
    assert!(found.next().is_none(), "{key} is there twice: {attributes:?}");
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        None => String::new(),
        other => panic!("{key} is {other:?}"),
    }
}

/// An id as people write it.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
