//! Records, metrics, liveness and status, as their consumers see them.

use crate::{
    lab::{Lab, ripstop, wait_for},
    servers::echo,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Command, Stdio},
};

/// A lab in which there have been allowed and denied sessions, queries and drops.
fn used() -> (Lab, crate::lab::Listening) {
    let lab = Lab::shop();
    let server = lab.workload("api").serve(8080, echo);
    for _ in 0..5 {
        let mut stream = lab.workload("web").connect(lab.service("shop/api", 8080)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    lab.workload("other").connect(lab.service("shop/api", 8080)).expect_err("denied");
    lab.workload("web").ok(&["dig", "+short", "api.shop.lab.test"]);
    lab.agent("alpha").wait_records(6, |_| true);
    lab.agent("beta").wait_records(5, |_| true);
    (lab, server)
}

#[test]
fn every_session_has_exactly_one_record_on_each_side() {
    let (lab, _server) = used();
    let sessions = |host: &str| -> Vec<String> {
        let allowed = lab.agent(host).records().into_iter().filter(|record| record["verdict"] == "allow");
        allowed.map(|record| record["session"].as_str().unwrap().to_owned()).collect()
    };
    let (alpha, beta) = (sessions("alpha"), sessions("beta"));
    assert_eq!((alpha.len(), beta.len()), (5, 5));
    let distinct = |ids: &[String]| ids.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(distinct(&alpha).len(), 5, "ids are not used twice: {alpha:?}");
    assert_eq!(distinct(&alpha), distinct(&beta), "both sides name a session alike");

    let record = lab.agent("alpha").records().into_iter().find(|record| record["verdict"] == "allow").unwrap();
    let expect = |key: &str, value: Value| assert_eq!(record[key], value, "{key} of {record}");
    expect("side", "caller".into());
    expect("caller", "shop/web".into());
    expect("caller_host", "alpha".into());
    expect("service", "shop/api".into());
    expect("endpoint_host", "beta".into());
    expect("port", 8080.into());
    expect("protocol", "tcp".into());
    expect("reason", "closed".into());
    expect("bytes_up", 5.into());
    expect("bytes_down", 5.into());
    let rule = record["rule"].as_str().unwrap();
    let text = fs::read_to_string(lab.agent("alpha").graph_file()).unwrap();
    let line = rule.rsplit(':').next().unwrap().parse::<usize>().unwrap();
    assert!(
        rule.contains("graph.yaml") && text.lines().nth(line - 1).unwrap().contains("from: web, to: api"),
        "{rule}"
    );
    assert!(record["cipher"].as_str().unwrap().contains("AES_128_GCM"), "{record}");
    assert!(record["connect_s"].as_f64() > Some(0.0) && record["duration_s"].as_f64() > Some(0.0), "{record}");
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let (lab, _server) = used();
    for host in ["alpha", "beta"] {
        let text = lab.agent(host).metrics();
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is in Debian's package prometheus");
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{host}: {}\n{text}", String::from_utf8_lossy(&said));
        let shown = |line: &&str| ["\"198.1", "\"192.0.2.", "\"fd"].iter().any(|address| line.contains(address));
        let bad: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).filter(shown).collect();
        assert!(bad.is_empty(), "an address is no label: {bad:?}");
    }
    let labels =
        [("tenant", "shop"), ("caller", "shop/web"), ("service", "shop/api"), ("side", "caller"), ("verdict", "allow")];
    assert_eq!(lab.agent("alpha").metric("ripstop_sessions_total", &labels), 5.0);
    let bytes = |direction| {
        lab.agent("beta").metric("ripstop_session_bytes_total", &[("side", "server"), ("direction", direction)])
    };
    assert_eq!((bytes("up"), bytes("down")), (25.0, 25.0));
}

#[test]
fn prometheus_scrapes_two_agents() {
    let (lab, _server) = used();
    let config = lab.file("prometheus.yml");
    let targets = ["alpha", "beta"].map(|host| format!("'{}:7478'", lab.host_address(host))).join(", ");
    let text = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n\
         - job_name: ripstop\n  static_configs: [{{ targets: [{targets}] }}]\n"
    );
    fs::write(&config, text).unwrap();
    let line = [
        "prometheus",
        &format!("--config.file={}", config.display()),
        &format!("--storage.tsdb.path={}", lab.path("tsdb")),
        "--web.listen-address=192.0.2.254:9090",
    ];
    let _prometheus = lab.wire().spawn(&lab.file("prometheus.log"), &line).listening(9090);
    let query = |text: &str| -> Vec<f64> {
        let to = SocketAddr::from(([192, 0, 2, 254], 9090));
        let mut stream = lab.wire().inside(|| TcpStream::connect(to)).unwrap();
        write!(stream, "GET /api/v1/query?query={text} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let results = body["data"]["result"].as_array().cloned().unwrap_or_default();
        results.iter().filter_map(|one| one["value"][1].as_str()?.parse().ok()).collect()
    };
    wait_for("both agents to be scraped", || query("up") == [1.0, 1.0]);
    wait_for("the sessions of both", || query("sum(ripstop_sessions_total{verdict=\"allow\"})") == [10.0]);
    assert_eq!(query("count(ripstop_build_info)"), [2.0]);
}

#[test]
fn liveness_readiness_and_status() {
    let (lab, _server) = used();
    let alpha = lab.agent("alpha");
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(alpha.http(path).unwrap().0, 200, "{path}");
    }
    assert_eq!(alpha.http("/nothing").unwrap().0, 404);
    let json: Value = serde_json::from_str(&lab.host("alpha").ok(&[ripstop(), "status", "-o", "json"])).unwrap();
    assert_eq!((&json["host"], &json["fabric"]), (&"alpha".into(), &"lab.test".into()), "{json:#}");
    assert_eq!(json["peers"][0]["host"], "beta", "{json:#}");
    assert_eq!(json["policy"]["digest"], lab.policy().digest().to_string(), "{json:#}");
    assert_eq!(json["workloads"].as_array().unwrap().len(), 2, "web and other: {json:#}");
    let text = lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(text.contains("beta") && text.contains("shop/web"), "{text}");
}

#[test]
fn explain_asks_the_running_agent() {
    let lab = Lab::shop();
    let text = lab.host("alpha").ok(&[ripstop(), "explain", "web", "api:8080"]);
    assert!(text.contains("graph.yaml:") && text.contains("beta"), "{text}");
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "explain", "shop/other", "api.shop.lab.test:8080"]);
    assert_eq!(code, 3, "denied: {said}");
    assert!(said.contains("{ from: other, to: api }"), "the line that would allow it: {said}");
    lab.agent("alpha").kill();
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "status"]);
    assert_eq!(code, 4, "unreachable: {said}");
}
