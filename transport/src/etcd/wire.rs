//! The gateway's JSON: bytes are base64 (RFC 4648 section 4), numbers of 64 bits are text, and what is zero is left out.

use super::{Entry, EtcdError};
use crate::control::printable;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Text(pub(super) Vec<u8>);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A number, as text or not.
fn number<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display> + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number<T> {
        Text(String),
        Number(T),
    }
    match Number::deserialize(from)? {
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Number::Number(number) => Ok(number),
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Login<'s> {
    pub(super) name: &'s str,
    pub(super) password: &'s str,
}

#[derive(Deserialize)]
pub(super) struct LoggedIn {
    pub(super) token: String,
}

#[derive(Debug, Serialize)]
pub(super) struct RangeAsk {
    pub(super) key: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Text>,
    pub(super) limit: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sort_order: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sort_target: Option<&'static str>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct KeyValue {
    key: Text,
    #[serde(default)]
    pub(super) value: Text,
}

impl KeyValue {
    pub(super) fn entry(self) -> Option<Entry> {
        Some(Entry { key: String::from_utf8(self.key.0).ok()?, value: self.value.0 })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Ranged {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Debug, Serialize)]
pub(super) struct Put {
    pub(super) key: Text,
    pub(super) value: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<String>,
}

/// An answer of which only is asked that it is none of an error.
#[derive(Debug, Deserialize)]
pub(super) struct Done {}

#[derive(Debug, Serialize)]
pub(super) struct Compare {
    pub(super) key: Text,
    pub(super) target: &'static str,
    pub(super) result: &'static str,
    pub(super) create_revision: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Operation {
    pub(super) request_put: Put,
}

#[derive(Debug, Serialize)]
pub(super) struct TransactionAsk {
    pub(super) compare: [Compare; 1],
    pub(super) success: [Operation; 1],
}

#[derive(Debug, Deserialize)]
pub(super) struct Created {
    #[serde(default)]
    pub(super) succeeded: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct DeleteAsk {
    pub(super) key: Text,
    pub(super) range_end: Text,
}

#[derive(Debug, Deserialize)]
pub(super) struct Deleted {
    #[serde(default, deserialize_with = "number")]
    pub(super) deleted: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct GrantAsk {
    #[serde(rename = "TTL")]
    pub(super) ttl: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Granted {
    #[serde(rename = "ID")]
    pub(super) id: String,
}

#[derive(Debug, Serialize)]
pub(super) struct LeaseAsk<'l> {
    #[serde(rename = "ID")]
    pub(super) id: &'l str,
}

#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub(super) ttl: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchAsk {
    pub(super) create_request: WatchCreate,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchCreate {
    pub(super) key: Text,
    pub(super) range_end: Text,
    pub(super) start_revision: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Watched {
    #[serde(default)]
    pub(super) created: bool,
    #[serde(default)]
    pub(super) canceled: bool,
    #[serde(default)]
    pub(super) events: Vec<serde::de::IgnoredAny>,
}

/// One message of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    result: Option<T>,
    #[serde(default)]
    error: Failure,
}

/// What is said instead of an answer; within a stream it has another form than alone.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    http_code: u16,
}

impl<T> Streamed<T> {
    pub(super) fn into_result(self) -> Result<T, EtcdError> {
        self.result.ok_or_else(|| {
            let status = self.error.http_code;
            EtcdError::Refused { status, message: self.error.text() }
        })
    }
}

impl Failure {
    /// Not all that stands before the gateway speaks JSON.
    pub(super) fn of(said: &[u8]) -> Self {
        let plain = || Self { message: String::from_utf8_lossy(said).trim().to_owned(), ..Self::default() };
        serde_json::from_slice(said).unwrap_or_else(|_| plain())
    }

    /// Fit for a log.
    pub(super) fn text(&self) -> String {
        /// Of what it says so much is shown.
        const SHOWN_MAX: usize = 200;
        let said =
            if self.message.is_empty() { self.error.as_deref().unwrap_or("no reason given") } else { &self.message };
        printable(crate::codec::clip(said, SHOWN_MAX).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_an_etcd_are_understood() {
        let ranged: Ranged = serde_json::from_str(
            r#"{"header":{"cluster_id":"1","revision":"7","raft_term":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","value":"YmFy"},{"key":"/w=="}],"count":"2"}"#,
        )
        .unwrap();
        assert_eq!(ranged.header.revision, 7);
        let entries: Vec<_> = ranged.kvs.into_iter().filter_map(KeyValue::entry).collect();
        assert_eq!(entries, [Entry { key: "foo".into(), value: b"bar".to_vec() }], "the other key is no text");
        let empty: Ranged = serde_json::from_str(r#"{"header":{"revision":"1"}}"#).unwrap();
        assert!(empty.kvs.is_empty());
        let kept: Streamed<Kept> = serde_json::from_str(r#"{"result":{"header":{},"ID":"9","TTL":"10"}}"#).unwrap();
        assert_eq!(kept.into_result().unwrap().ttl, 10);
        let gone: Streamed<Kept> = serde_json::from_str(r#"{"result":{"header":{},"ID":"9"}}"#).unwrap();
        assert_eq!(gone.into_result().unwrap().ttl, 0);
        let watched: Streamed<Watched> =
            serde_json::from_str(r#"{"result":{"header":{},"events":[{"kv":{"key":"Zm9v"}}]}}"#).unwrap();
        assert_eq!(watched.into_result().unwrap().events.len(), 1);
    }

    #[test]
    fn what_it_refuses_is_shown_and_fits_a_log() {
        let failed: Streamed<Kept> =
            serde_json::from_str(r#"{"error":{"grpc_code":7,"http_code":403,"message":"no\u001b[2J"}}"#).unwrap();
        let text = failed.into_result().unwrap_err().to_string();
        assert_eq!(text, "it refuses (403): no\u{fffd}[2J");
        let alone: Failure = serde_json::from_str(r#"{"error":"etcdserver: x","code":9}"#).unwrap();
        assert_eq!(alone.text(), "etcdserver: x");
        assert_eq!(Failure::of(b"CommonName is ignored\n").text(), "CommonName is ignored");
        let long: Failure = serde_json::from_value(serde_json::json!({ "message": "é".repeat(1_000) })).unwrap();
        assert_eq!(long.text().len(), 200);
    }

    #[test]
    fn requests_have_the_gateway_s_form() {
        let put = Put { key: "a".into(), value: "b".into(), lease: Some("7".into()) };
        assert_eq!(serde_json::to_string(&put).unwrap(), r#"{"key":"YQ==","value":"Yg==","lease":"7"}"#);
        let ask = RangeAsk { key: "a".into(), range_end: None, limit: 1, sort_order: None, sort_target: None };
        assert_eq!(serde_json::to_string(&ask).unwrap(), r#"{"key":"YQ==","limit":1}"#);
        assert_eq!(super::super::after("/a/"), b"/a0");
    }
}
