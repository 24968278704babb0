use super::*;
use crate::{
    otel::{
        Tracer,
        stand_in::{attribute, hex},
    },
    record::record,
};
use ripstop_config::units::Share;
use time::OffsetDateTime;

fn origin() -> Origin {
    Origin::new(&"alpha".parse().unwrap(), &"shop.example".parse().unwrap())
}

/// A session of an hour ago, as each of its hosts records it.
fn both() -> [SessionRecord; 2] {
    let tracer = Tracer::new(Share::ALL);
    let here = tracer.begin();
    let there = tracer.join(Some(tracer.context(here)));
    let start = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    let caller = SessionRecord { start, duration_s: 1.5, trace: here, ..record(7) };
    let server = SessionRecord { side: Side::Server, destination: "shop/api".into(), trace: there, ..caller.clone() };
    [caller, server]
}

#[test]
fn both_sides_are_spans_of_one_trace_and_one_is_the_others_child() {
    let records = both();
    let request = origin().spans(records.iter()).unwrap();
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    let of_resource = |key| attribute(&resource.attributes, key);
    assert_eq!(of_resource("service.name"), "ripstop");
    assert_eq!(of_resource("service.instance.id"), "spiffe://shop.example/host/alpha");
    assert_eq!((of_resource("host.name"), of_resource("ripstop.fabric")), ("alpha".into(), "shop.example".into()));

    let [caller, server] = &request.resource_spans[0].scope_spans[0].spans[..] else { panic!("two spans") };
    assert_eq!((caller.trace_id.len(), caller.span_id.len(), caller.parent_span_id.len()), (16, 8, 0));
    assert_eq!((&server.trace_id, &server.parent_span_id), (&caller.trace_id, &caller.span_id));
    assert_ne!(server.span_id, caller.span_id);
    assert_eq!((caller.kind, server.kind), (SpanKind::Client as i32, SpanKind::Server as i32));
    assert_eq!((caller.flags, server.flags), (0x101, 0x301), "sampled, and whether the parent is at another host");
    assert_eq!(caller.name, "shop/web -> shop/api");
    assert_eq!(caller.start_time_unix_nano, 1_800_000_000_000_000_000);
    assert_eq!(caller.end_time_unix_nano, 1_800_000_001_500_000_000);
    assert_eq!(caller.events[0].name, "ripstop.connected");
    assert_eq!(caller.events[0].time_unix_nano, 1_800_000_000_001_000_000);
    assert_eq!((&caller.status, &server.status), (&None, &None), "an ordinary end is no error");
}

#[test]
fn attributes_are_those_of_the_conventions_and_every_field_of_the_record() {
    let [caller, server] = both();
    let span = origin().span(&caller).unwrap();
    for (key, value) in [
        ("server.address", "api.shop.shop.example"),
        ("server.port", "8080"),
        ("network.transport", "tcp"),
        ("network.type", "ipv4"),
        ("network.peer.address", "198.18.0.2"),
        ("peer.service", "shop/api"),
        ("error.type", ""),
        ("ripstop.tenant", "shop"),
        ("ripstop.verdict", "allow"),
        ("ripstop.reason", "closed"),
        ("ripstop.rule", "shop.yaml:14"),
        ("ripstop.bytes_up", "7"),
        ("ripstop.duration_s", "1.5"),
        ("ripstop.trace_id", ""),
    ] {
        assert_eq!(attribute(&span.attributes, key), value, "{key}");
    }
    let there = origin().span(&server).unwrap();
    assert_eq!(attribute(&there.attributes, "network.peer.address"), "", "the caller's host dialled it");
    assert_eq!(attribute(&there.attributes, "server.address"), "api.shop.shop.example");

    let json = serde_json::to_value(&caller).unwrap();
    for (field, value) in json.as_object().unwrap() {
        let there = !attribute(&span.attributes, &format!("ripstop.{field}")).is_empty();
        assert_eq!(there, !value.is_null() && !ELSEWHERE.contains(&field.as_str()), "{field}");
    }
}

#[test]
fn a_denial_is_an_error_and_says_why() {
    let [caller, _] = both();
    let detail = Some("no way".to_owned());
    let denied = SessionRecord { verdict: "deny", reason: Reason::NoEdge, detail, connect_s: None, ..caller };
    let span = origin().span(&denied).unwrap();
    let status = span.status.unwrap();
    assert_eq!(status.code, StatusCode::Error as i32);
    assert_eq!(status.message, "no `allow` edge in the graph permits it: no way");
    assert_eq!(attribute(&span.attributes, "error.type"), "no_edge");
    assert!(span.events.is_empty());
    let nowhere = SessionRecord { service: None, ..denied.clone() };
    assert_eq!(name(&nowhere), "shop/web -> no service");
    assert_eq!(attribute(&origin().attributes(&nowhere), "server.address"), "198.18.0.2");
    assert_eq!(origin().log(&denied).severity_number, SeverityNumber::Warn as i32);
}

#[test]
fn log_records_are_of_every_session_and_joined_to_the_spans_of_those_that_have_one() {
    let [traced, _] = both();
    let untraced = SessionRecord { trace: None, ..traced.clone() };
    let request = origin().logs([&traced, &untraced].into_iter());
    let [first, second] = &request.resource_logs[0].scope_logs[0].log_records[..] else { panic!("two records") };
    let place = traced.trace.unwrap();
    assert_eq!((hex(&first.trace_id), hex(&first.span_id)), (place.trace_id.to_string(), place.span_id.to_string()));
    assert_eq!((first.flags, second.flags), (1, 0));
    assert!(second.trace_id.is_empty() && second.span_id.is_empty());
    assert_eq!((first.event_name.as_str(), first.time_unix_nano), ("ripstop.session", 1_800_000_001_500_000_000));
    assert_eq!(attribute(&first.attributes, "ripstop.session"), traced.session);
    assert_eq!(origin().spans([&untraced].into_iter()), None, "nothing to send");
}

#[test]
fn a_record_shows_its_place_in_the_trace() {
    let [caller, server] = both();
    let (place, there) = (caller.trace.unwrap(), serde_json::to_value(server).unwrap());
    assert_eq!(there["trace_id"], place.trace_id.to_string());
    assert_eq!(there["parent_span_id"], place.span_id.to_string());
    let none = serde_json::to_value(record(1)).unwrap();
    assert!(none.get("trace_id").is_none() && none.get("span_id").is_none(), "{none}");
}
