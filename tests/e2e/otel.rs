//! Spans and session records by OTLP: real agents, nginx and curl; what takes them is a stand-in, which decodes them with OTLP's own
//! types. One is on its agent's host, by plain HTTP, and comes late; the other is beyond it, by TLS.

#[path = "../../telemetry/src/otel/stand_in.rs"]
mod stand_in;

use crate::{
    lab::{Lab, Listening, Place, ripstop, wait_for},
    servers::{echo, nginx},
};
use opentelemetry_proto::tonic::{logs::v1::LogRecord, trace::v1::Span};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use serde_json::Value;
use stand_in::{Request, TAKEN, attribute, hex, next};
use std::{
    fs,
    io::{BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

const PORT: u16 = 4318;
/// `other` may call nothing.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      other: { on: [alpha], run: { netns: other } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 8080 }
      back: { by: web, port: 9000 }
    allow:
      - { from: web, to: api }
      - { from: api, to: back }
";
const ALPHA: &str = "otel: { endpoint: 'http://127.0.0.1:4318/otlp', headers-file: headers }\n";
/// It samples nothing by itself.
const BETA: &str =
    "otel: { endpoint: 'https://192.0.2.254', ca: ../collector/ca.pem, name: collector.lab.test, sample: 0 }\n";
/// What only the collector is to see.
const SECRET: &str = "CANARY-of-the-headers";

/// What a collector has been sent.
#[derive(Default, Clone)]
struct Heard(Arc<Mutex<Vec<Request>>>);

impl Heard {
    fn take(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = next(&mut stream) {
            self.0.lock().unwrap().push(request);
            if stream.get_mut().write_all(TAKEN.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn of(&self, path: &str) -> Vec<Request> {
        self.0.lock().unwrap().iter().filter(|request| request.is_of(path)).cloned().collect()
    }

    /// The span of a session; waits for it.
    fn span(&self, base: &str, session: &Value) -> Span {
        let path = format!("{base}/v1/traces");
        let find = || {
            let spans = self.of(&path).into_iter().flat_map(|request| request.spans().1);
            spans.filter(|span| attribute(&span.attributes, "ripstop.session") == *session).collect::<Vec<_>>()
        };
        wait_for("a span to arrive", || !find().is_empty());
        let [span] = &find()[..] else { panic!("one span for each side of a session") };
        span.clone()
    }

    /// Its log record; waits for it.
    fn log(&self, base: &str, session: &Value) -> LogRecord {
        let path = format!("{base}/v1/logs");
        let find = || {
            let mut logs = self.of(&path).into_iter().flat_map(|request| request.logs().1);
            logs.find(|log| attribute(&log.attributes, "ripstop.session") == *session)
        };
        wait_for("a log record to arrive", || find().is_some());
        find().unwrap()
    }
}

/// A certificate for the collector, by an authority of its own.
fn tls(directory: &Path) -> Arc<ServerConfig> {
    fs::create_dir_all(directory).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["collector.lab.test".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Arc::new(config.with_single_cert(vec![leaf.der().clone()], key).unwrap())
}

fn plain(place: &Place, heard: &Heard) -> Listening {
    let heard = heard.clone();
    place.serve(PORT, move |stream| heard.take(stream))
}

fn encrypted(place: &Place, heard: &Heard, config: &Arc<ServerConfig>) -> Listening {
    let (heard, config) = (heard.clone(), Arc::clone(config));
    place.serve(PORT, move |stream: TcpStream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        heard.take(StreamOwned::new(connection, stream));
    })
}

/// Both agents run; beta's collector does, too.
fn start(heard: &Heard) -> (Lab, Listening) {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).settings("alpha", ALPHA).settings("beta", BETA);
    let lab = lab.without_agent("alpha").without_agent("beta").start();
    let headers = lab.file("alpha/headers");
    fs::write(&headers, format!("x-token: {SECRET}\n")).unwrap();
    fs::set_permissions(&headers, fs::Permissions::from_mode(0o600)).unwrap();
    let config = tls(&lab.file("collector"));
    let listening = encrypted(&lab.wire(), heard, &config);
    for host in ["alpha", "beta"] {
        lab.agent(host).launch();
    }
    for host in ["alpha", "beta"] {
        lab.agent(host).wait_ready();
        lab.agent(host).wait_connected(&["alpha", "beta"]);
    }
    (lab, listening)
}

#[test]
fn both_sides_of_a_session_come_out_in_one_trace_and_a_collector_that_is_away_costs_nothing() {
    let (at_alpha, at_beta) = (Heard::default(), Heard::default());
    let (lab, _at_beta) = start(&at_beta);
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let _back = lab.workload("web").serve(9000, echo);
    let web = lab.workload("web");
    assert_eq!(web.ok(&["curl", "-sS", "-m", "5", "http://api.shop.lab.test:8080/who"]), "beta\n");
    lab.workload("other").connect(lab.service("shop/api", 8080)).expect_err("denied");
    let mut back = lab.workload("api").connect(lab.service("shop/back", 9000)).unwrap();
    back.write_all(b"ping").unwrap();
    back.read_exact(&mut [0; 4]).unwrap();
    drop(back);
    wait_for("alpha to miss its collector", || lab.agent("alpha").log().contains("does not take spans"));

    // What was not taken waits for it.
    let late = plain(&lab.host("alpha"), &at_alpha);
    let record = |host: &str, side: &str, service: &str| {
        lab.agent(host)
            .record(|record| record["side"] == side && record["service"] == service && record["verdict"] == "allow")
    };
    one_trace(
        &lab,
        [&at_alpha, &at_beta],
        &record("alpha", "caller", "shop/api"),
        &record("beta", "server", "shop/api"),
    );
    observed(&lab, &record("alpha", "caller", "shop/api"));
    denied(&at_alpha, &lab.agent("alpha").record(|record| record["verdict"] == "deny"));
    not_sampled([&at_alpha, &at_beta], &record("beta", "caller", "shop/back"), &record("alpha", "server", "shop/back"));

    // Of a session that ends with its agent, the span does not.
    let open = web.connect(lab.service("shop/api", 8080)).unwrap();
    wait_for("the session to be open", || lab.agent("alpha").status()["sessions_open"] == 1);
    assert_eq!(lab.agent("alpha").stop(), 0);
    let last = lab.agent("alpha").record(|record| record["reason"] == "shutdown");
    at_alpha.span("/otlp", &last["session"]);
    drop((open, late));

    let sent = at_alpha.0.lock().unwrap();
    assert!(sent.iter().all(|request| request.head.contains(&format!("x-token: {}", SECRET.to_lowercase()))));
    for host in ["alpha", "beta"] {
        assert!(!lab.agent(host).log().contains("CANARY"), "a secret in the log of {host}");
    }
}

/// The span at beta is a child of that at alpha, and both hosts' records say so, on disk and as they were sent.
fn one_trace(lab: &Lab, [at_alpha, at_beta]: [&Heard; 2], here: &Value, there: &Value) {
    assert_eq!(here["session"], there["session"]);
    let (client, server) = (at_alpha.span("/otlp", &here["session"]), at_beta.span("", &there["session"]));
    assert_eq!(server.trace_id, client.trace_id);
    assert_eq!(server.parent_span_id, client.span_id);
    assert!(client.parent_span_id.is_empty());
    assert_eq!((client.kind, server.kind), (3, 2), "CLIENT and SERVER");
    for (span, record) in [(&client, here), (&server, there)] {
        assert_eq!(hex(&span.trace_id), record["trace_id"]);
        assert_eq!(hex(&span.span_id), record["span_id"]);
        assert_eq!(attribute(&span.attributes, "ripstop.rule"), record["rule"].as_str().unwrap());
        assert_eq!(attribute(&span.attributes, "server.address"), "api.shop.lab.test");
        assert_eq!(attribute(&span.attributes, "ripstop.bytes_down"), record["bytes_down"].to_string());
        assert!(span.status.is_none() && span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
    }
    assert_eq!(there["parent_span_id"], here["span_id"]);
    let (log, other) = (at_alpha.log("/otlp", &here["session"]), at_beta.log("", &there["session"]));
    assert_eq!((&log.trace_id, &log.span_id), (&client.trace_id, &client.span_id));
    assert_eq!((&other.trace_id, &other.span_id), (&server.trace_id, &server.span_id));
    let resource = at_alpha.of("/otlp/v1/traces")[0].spans().0;
    assert_eq!(attribute(&resource, "service.instance.id"), "spiffe://lab.test/host/alpha");
    let sent = |signal| lab.agent("beta").metric("ripstop_otlp_items_total", &[("signal", signal), ("result", "sent")]);
    assert!(sent("traces") >= 1.0 && sent("logs") >= 1.0);
}

fn observed(lab: &Lab, record: &Value) {
    let said = lab.host("alpha").ok(&[ripstop(), "observe", "-o", "json", "--from", "web"]);
    let mut lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found = lines.find(|line| line["session"] == record["session"]).unwrap();
    assert_eq!(found["trace_id"], record["trace_id"]);
}

fn denied(at_alpha: &Heard, record: &Value) {
    let span = at_alpha.span("/otlp", &record["session"]);
    assert_eq!(hex(&span.trace_id), record["trace_id"]);
    assert_eq!(attribute(&span.attributes, "error.type"), "no_edge");
    assert_eq!(span.status.map(|status| status.code), Some(2), "ERROR");
}

/// The caller's host does not sample it, so neither does the other one, which would. Both tell of it all the same.
fn not_sampled([at_alpha, at_beta]: [&Heard; 2], here: &Value, there: &Value) {
    assert_eq!(here["session"], there["session"]);
    for (heard, base, record) in [(at_beta, "", here), (at_alpha, "/otlp", there)] {
        assert!(record.get("trace_id").is_none(), "{record}");
        assert!(heard.log(base, &record["session"]).trace_id.is_empty());
        let spans = heard.of(&format!("{base}/v1/traces")).into_iter().flat_map(|request| request.spans().1);
        assert!(spans.into_iter().all(|span| attribute(&span.attributes, "ripstop.session") != record["session"]));
    }
}
