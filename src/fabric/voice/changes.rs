//! What a workload wants to be so.

use super::Asked;
use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::Response,
};
use ripstop_config::{HostName, ZoneName, graph::Change};
use ripstop_datapath::session::voice::{Prefer, VoiceError, Wish};
use ripstop_telemetry::instruments::VoiceRequest;
use serde::{Deserialize, de::DeserializeOwned};

const JSON: &str = "application/json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfService {
    service: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    service: Option<String>,
    weight: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Path {
    service: Option<String>,
    zone: Option<ZoneName>,
    host: Option<HostName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    service: Option<String>,
    port: u16,
}

type Meant = Result<(Option<String>, Wish), String>;

pub(super) async fn drain(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read(&headers, &body).map(|OfService { service }| (service, Wish::Drain(true)));
    change(&asked, Change::Drain, said).await
}

pub(super) async fn undrain(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read_back(&headers, &body).map(|OfService { service }| (service, Wish::Drain(false)));
    change(&asked, Change::Drain, said).await
}

pub(super) async fn weight(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read(&headers, &body).map(|Weight { service, weight }| (service, Wish::Weight(Some(weight))));
    change(&asked, Change::Weight, said).await
}

pub(super) async fn no_weight(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read_back(&headers, &body).map(|OfService { service }| (service, Wish::Weight(None)));
    change(&asked, Change::Weight, said).await
}

pub(super) async fn path(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read(&headers, &body).and_then(|Path { service, zone, host }| {
        let prefer = match (zone, host) {
            (Some(zone), None) => Prefer::Zone(zone),
            (None, Some(host)) => Prefer::Host(host),
            (Some(_), Some(_)) | (None, None) => return Err("say `zone` or `host`".into()),
        };
        Ok((service, Wish::Path(Some(prefer))))
    });
    change(&asked, Change::Path, said).await
}

pub(super) async fn no_path(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read_back(&headers, &body).map(|OfService { service }| (service, Wish::Path(None)));
    change(&asked, Change::Path, said).await
}

pub(super) async fn instance(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read(&headers, &body).map(|Instance { service, port }| (service, Wish::Instance(port)));
    change(&asked, Change::Instances, said).await
}

pub(super) async fn no_instance(State(asked): State<Asked>, headers: HeaderMap, body: Bytes) -> Response {
    let said = read(&headers, &body).map(|Instance { service, port }| (service, Wish::NoInstance(port)));
    change(&asked, Change::Instances, said).await
}

/// Nothing at all is an empty object; what is not said to be JSON is nothing.
fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, String> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // A parameter such as the character set may follow (RFC 9110 section 8.3.1).
    let is_json = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON));
    if !is_json {
        return Err(format!("a change is JSON: send `Content-Type: {JSON}`"));
    }
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| format!("the body is not what it should be: {error}"))
}

/// The same of a request that no page can send unasked, whatever its body: nothing needs no kind.
fn read_back<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, String> {
    if body.is_empty() {
        return serde_json::from_str("{}").map_err(|error| error.to_string());
    }
    read(headers, body)
}

async fn change(asked: &Asked, change: Change, said: Meant) -> Response {
    let what = VoiceRequest::Change(change);
    let (service, wish) = match said {
        Ok(said) => said,
        Err(why) => return asked.refuse(what, StatusCode::BAD_REQUEST, &why),
    };
    if asked.pace.changes.check().is_err() {
        return asked.refuse(what, StatusCode::TOO_MANY_REQUESTS, "this workload changes too much; wait a second");
    }
    let who = &asked.who;
    match asked.shared.data().voice(who.clone(), service.clone(), wish.clone()).await {
        Ok(Ok(standings)) => {
            tracing::info!(%who, service, said = ?wish, "a workload changed what it is here");
            asked.answer(what, standings)
        }
        Ok(Err(error)) => asked.refuse(what, status(&error), &error.to_string()),
        Err(why) => asked.refuse(what, StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

fn status(error: &VoiceError) -> StatusCode {
    match error {
        VoiceError::NotLet { .. } => StatusCode::FORBIDDEN,
        VoiceError::NotServed(_) | VoiceError::ServesNothing | VoiceError::NotCalled(_) | VoiceError::Unknown(_) => {
            StatusCode::NOT_FOUND
        }
        VoiceError::Which | VoiceError::NotOnePort(_) | VoiceError::Full => StatusCode::CONFLICT,
        VoiceError::Weight | VoiceError::Port => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())])
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_it_panic(
            kind in r"(application/json)?(; ?[a-z=]*)?", body in r#"[{}\[\]":,\\a-z0-9é ]{0,60}"#, cut in 0_usize..60,
        ) {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
            let mut body = body.into_bytes();
            // In the middle of a character as well.
            body.truncate(cut);
            let _ = (read::<OfService>(&headers, &body), read_back::<Weight>(&headers, &body));
            let _ = (read::<Path>(&headers, &body), read::<Instance>(&headers, &body));
        }
    }

    #[test]
    fn a_change_is_json_and_of_known_fields() {
        let service = |kind, body: &str| read::<OfService>(&headers(kind), body.as_bytes()).map(|said| said.service);
        assert_eq!(service(JSON, ""), Ok(None));
        assert_eq!(service("Application/JSON; charset=utf-8", r#"{"service":"api"}"#), Ok(Some("api".into())));
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert!(service(kind, "{}").unwrap_err().contains("Content-Type"), "{kind}");
        }
        assert!(read::<OfService>(&HeaderMap::new(), b"{}").is_err());
        for body in [r#"{"servise":"api"}"#, "[]", "{", r#"{"service":7}"#] {
            assert!(service(JSON, body).unwrap_err().contains("not what it should be"), "{body}");
        }
        for port in ["-1", "65536", "8081.5", "\"8081\""] {
            let body = format!(r#"{{"port":{port}}}"#);
            assert!(read::<Instance>(&headers(JSON), body.as_bytes()).is_err(), "{body}");
        }
    }
}
