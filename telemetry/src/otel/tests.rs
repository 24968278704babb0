//! What is sent, to a stand-in for a collector on loopback: one that works, and ones that do not.

use super::{
    map::Origin,
    stand_in::{Request, TAKEN, hex, next},
    worker::{BATCH_MAX, Pace},
    *,
};
use crate::{instruments::recorder, record::record};
use std::{
    fs,
    io::{BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::mpsc::Receiver,
    time::Instant,
};

/// Fast enough for a test, and slow enough that records which are handed in together are sent together.
const PACE: Pace = Pace {
    gather: Duration::from_millis(100),
    first: Duration::from_millis(10),
    most: Duration::from_millis(40),
    give_up: Duration::from_secs(20),
};
/// Requests that wait to be looked at; no test has so many.
const REQUESTS_MAX: usize = 64;
/// Far longer than anything takes.
const LONG: Duration = Duration::from_secs(20);

/// Answers the requests in their order with what `answer` says; nothing is no answer, and an end of the connection is `None`.
fn collector(answer: impl Fn(usize) -> Option<Vec<u8>> + Send + 'static) -> (SocketAddr, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (said, heard) = std_mpsc::sync_channel(REQUESTS_MAX);
    thread::spawn(move || {
        let mut number = 0;
        for stream in listener.incoming().map_while(Result::ok) {
            let mut from = BufReader::new(stream.try_clone().unwrap());
            while let Some(request) = next(&mut from) {
                let answer = answer(number);
                number += 1;
                // First: whoever has the answer may ask at once what was heard.
                if said.send(request).is_err() || answer.is_none_or(|bytes| (&stream).write_all(&bytes).is_err()) {
                    break;
                }
            }
        }
    });
    (address, heard)
}

fn settings(endpoint: SocketAddr, headers: Option<PathBuf>) -> Otel {
    let timeout = Duration::from_secs(5);
    Otel { endpoint, path: "/otlp".into(), tls: None, headers, sample: Share::ALL, records: true, timeout }
}

fn start(settings: &Otel, pace: Pace) -> Export {
    let origin = Origin::new(&"alpha".parse().unwrap(), &"shop.example".parse().unwrap());
    Export::start_with(settings, origin, pace).unwrap()
}

fn traced(export: &Export, number: u64) -> Arc<SessionRecord> {
    Arc::new(SessionRecord { trace: export.tracer().begin(), ..record(number) })
}

#[test]
fn spans_and_records_arrive_in_batches_with_the_headers_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headers");
    fs::write(&file, "authorization: Bearer CANARY\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let (address, heard) = collector(|_| Some(TAKEN.into()));
    let export = start(&settings(address, Some(file.clone())), PACE);
    let first = traced(&export, 1);
    export.offer(&first);
    export.offer(&Arc::new(record(2)));

    let spans = heard.recv_timeout(LONG).unwrap();
    assert!(spans.is_of("/otlp/v1/traces"), "{}", spans.head);
    for line in ["content-type: application/x-protobuf", "authorization: bearer canary", "user-agent: ripstop/"] {
        assert!(spans.head.contains(&format!("\r\n{line}")), "{line}: {}", spans.head);
    }
    let (_, spans) = spans.spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(hex(&spans[0].trace_id), first.trace.unwrap().trace_id.to_string());
    let logs = heard.recv_timeout(LONG).unwrap();
    assert!(logs.is_of("/otlp/v1/logs"), "{}", logs.head);
    assert_eq!(logs.logs().1.len(), 2, "the one without a span as well");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Export::start_with(
        &settings(address, Some(file)),
        Origin::new(&"a".parse().unwrap(), &"b.c".parse().unwrap()),
        PACE,
    );
    assert!(format!("{:#}", error.unwrap_err()).contains("644"), "others can read it");
}

#[test]
fn what_a_collector_does_not_take_is_sent_again_and_arrives_once_it_does() {
    let (address, heard) = collector(|number| match number {
        0 => Some(b"HTTP/1.1 503 No\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n".into()),
        1 => None,
        2 => Some(b"HTTP/1.1 429 No\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n".into()),
        3 => Some(b"this is not HTTP\r\n\r\n".into()),
        _ => Some(TAKEN.into()),
    });
    let export = start(&settings(address, None), PACE);
    export.offer(&traced(&export, 1));
    for number in 0..5 {
        let request = heard.recv_timeout(LONG).unwrap();
        assert!(request.is_of("/otlp/v1/traces"), "request {number}: {}", request.head);
    }
    assert!(heard.recv_timeout(LONG).unwrap().is_of("/otlp/v1/logs"));
    assert!(heard.recv_timeout(PACE.gather * 3).is_err(), "what was taken is not sent again");
}

#[test]
fn what_a_collector_refuses_or_redirects_is_lost_and_the_next_batch_goes_on() {
    let (address, heard) = collector(|number| match number {
        0 => Some(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".into()),
        1 => Some(b"HTTP/1.1 307 There\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".into()),
        _ => Some(TAKEN.into()),
    });
    let export = start(&settings(address, None), PACE);
    export.offer(&traced(&export, 1));
    let paths: Vec<_> = (0..2).map(|_| heard.recv_timeout(LONG).unwrap().head).collect();
    assert!(paths[0].contains("/v1/traces") && paths[1].contains("/v1/logs"), "each is sent once: {paths:?}");
    export.offer(&traced(&export, 2));
    assert_eq!(heard.recv_timeout(LONG).unwrap().spans().1.len(), 1);
}

#[test]
fn an_answer_without_end_is_not_read() {
    let endless = || {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
        answer.resize(1 << 20, b'x');
        answer
    };
    let (address, heard) = collector(move |_| Some(endless()));
    let export = start(&settings(address, None), PACE);
    export.offer(&traced(&export, 1));
    let start = Instant::now();
    let paths: Vec<_> = (0..2).map(|_| heard.recv_timeout(LONG).unwrap().head).collect();
    assert!(paths[0].contains("/v1/traces") && paths[1].contains("/v1/logs"), "it took them: {paths:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "not the wait for an answer");
}

#[test]
fn a_collector_that_says_nothing_costs_whoever_hands_in_nothing_and_the_stop_a_bounded_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let export = start(&settings(listener.local_addr().unwrap(), None), PACE);
    let recorder = recorder().unwrap();
    let (start, all) = (Instant::now(), 2 * (QUEUE_MAX + BATCH_MAX));
    metrics::with_local_recorder(&recorder, || {
        (0..all).for_each(|number| export.offer(&traced(&export, number as u64)));
    });
    assert!(start.elapsed() < Duration::from_secs(2), "handing in {all} took {:?}", start.elapsed());
    let text = recorder.handle().render();
    for signal in ["traces", "logs"] {
        let line = format!("ripstop_otlp_items_total{{signal=\"{signal}\",result=\"lost\"}} ");
        let lost = text.lines().find_map(|found| found.strip_prefix(&line)).unwrap_or_else(|| panic!("{text}"));
        let lost: usize = lost.parse().unwrap();
        assert!(lost >= all - QUEUE_MAX - BATCH_MAX && lost <= all - QUEUE_MAX, "{lost} {signal} of {all}");
    }
    let start = Instant::now();
    export.finish();
    assert!(start.elapsed() < FLUSH_MAX + Duration::from_secs(1), "the stop took {:?}", start.elapsed());
}

#[test]
fn what_waits_when_the_agent_stops_is_sent_at_once() {
    let (address, heard) = collector(|_| Some(TAKEN.into()));
    let export = start(&settings(address, None), Pace { gather: Duration::from_secs(60), ..PACE });
    let all = BATCH_MAX + 10;
    (0..all).for_each(|number| export.offer(&traced(&export, number as u64)));
    let start = Instant::now();
    export.finish();
    assert!(start.elapsed() < FLUSH_MAX, "the stop took {:?}", start.elapsed());
    let requests: Vec<_> = heard.try_iter().collect();
    let spans: usize = requests.iter().filter(|one| one.is_of("/otlp/v1/traces")).map(|one| one.spans().1.len()).sum();
    let logs: usize = requests.iter().filter(|one| one.is_of("/otlp/v1/logs")).map(|one| one.logs().1.len()).sum();
    assert_eq!((spans, logs, requests.len()), (all, all, 4));
}

#[test]
fn nobody_at_the_address_keeps_no_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let export = start(&settings(address, None), PACE);
    export.offer(&traced(&export, 1));
    let start = Instant::now();
    export.finish();
    assert!(start.elapsed() < FLUSH_MAX, "the stop took {:?}", start.elapsed());
}
