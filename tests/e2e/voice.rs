//! The workload's own voice: what it learns of itself at the resolver's address, and what it may change there.

use crate::{
    callers::{ask, calls},
    health::{state, wait_state},
    lab::{Lab, Place, ripstop, within},
    servers::Http,
    upgrade::upgrade,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web }, may: [path] }
      other: { on: [alpha], run: { netns: other } }
      api: { on: [beta, gamma], run: { netns: api }, may: [weight, drain, instances] }
      db: { on: [gamma], run: { netns: db } }
      tool: { on: [gamma], run: { user: 4242 }, may: [instances] }
    services:
      api: { by: api, port: 8080/tcp }
      db: { by: db, ports: [5432/tcp, 5433/tcp] }
      tool: { by: tool, port: 7000/tcp }
    allow:
      - { from: web, to: api, limit: { session: 50 mbit/s, sessions: 200 } }
      - { from: web, to: db, port: 5433/tcp }
      - { from: web, to: tool }
";

/// A report to the other hosts, on a busy machine.
const SOON: Duration = Duration::from_secs(3);
const V4: &str = "198.18.0.1";

/// One request with curl, as a workload would; the status and the answer.
fn request(place: &Place, at: &str, method: &str, path: &str, more: &[&str]) -> (u16, Value) {
    let url = format!("http://{at}{path}");
    let line = ["curl", "-sS", "-m", "10", "-g", "-w", "\n%{http_code}", "-X", method, &url];
    let said = place.ok(&[&line[..], more].concat());
    let (body, code) = said.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn get(place: &Place, path: &str) -> Value {
    let (code, said) = request(place, V4, "GET", path, &[]);
    assert_eq!(code, 200, "{path}: {said}");
    said
}

fn say(place: &Place, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    request(place, V4, method, path, &["-H", "Content-Type: application/json", "-d", &body])
}

fn says(place: &Place, method: &str, path: &str, body: &Value) -> Value {
    let (code, said) = say(place, method, path, body);
    assert_eq!(code, 200, "{method} {path} {body}: {said}");
    said
}

/// The error of a request that must fail so.
fn refused(place: &Place, method: &str, path: &str, body: &Value, code: u16) -> String {
    let (got, said) = say(place, method, path, body);
    assert_eq!(got, code, "{method} {path} {body}: {said}");
    said["error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_workload_says_what_the_graph_lets_it_and_other_hosts_follow() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start();
    let http = ["beta", "gamma", "second"].map(|name| Http::new(name, Duration::ZERO));
    let _servers = [
        lab.workload_on("beta", "api").serve(8080, http[0].handler()),
        lab.workload_on("gamma", "api").serve(8080, http[1].handler()),
    ];
    let (web, beta) = (lab.workload("web"), lab.workload_on("beta", "api"));
    ["beta", "gamma"].iter().for_each(|host| wait_state(&lab, "alpha", host, "ready"));

    it_learns_who_it_is_and_what_it_may_call(&lab);
    what_it_may_not_is_refused_and_counted(&lab);
    a_page_and_nonsense_are_refused(&lab);

    // A drain of the one that asks, and of no other; told to the others, and shown on its host.
    let to = lab.service("shop/api", 8080);
    let said = says(&beta, "POST", "/v1/drain", &json!({ "service": "api" }));
    assert_eq!((&said["serves"][0]["state"], &said["serves"][0]["drained"]), (&json!("draining"), &json!(true)));
    wait_state(&lab, "alpha", "beta", "draining");
    assert_eq!(calls(&web, to, 20).get("gamma"), Some(&20));
    assert_eq!(state(&lab, "gamma", "gamma"), "ready", "the other instance has not said so");
    assert!(lab.host("beta").ok(&[ripstop(), "workloads"]).contains("shop/api says: drains shop/api"));
    assert!(lab.agent("beta").log().contains("a workload changed what it is here"));
    says(&beta, "DELETE", "/v1/drain", &json!({}));
    wait_state(&lab, "alpha", "beta", "ready");

    // A share: none but where no other is left.
    says(&beta, "PUT", "/v1/weight", &json!({ "weight": 0 }));
    within(SOON, "the weight on alpha", || weight(&lab, "alpha", "beta") == json!(0));
    assert_eq!(calls(&web, to, 20).get("gamma"), Some(&20));
    assert!(lab.host("alpha").ok(&[ripstop(), "status"]).contains("ready, weight 0"));
    assert!(refused(&beta, "PUT", "/v1/weight", &json!({ "weight": 1001 }), 400).contains("0 to 1000"));
    let (code, _) = request(&beta, V4, "DELETE", "/v1/weight", &[]);
    assert_eq!(code, 200, "no page can send that unasked");
    within(SOON, "the graph's weight", || weight(&lab, "alpha", "beta").is_null());

    // A caller's own preference.
    says(&web, "PUT", "/v1/path", &json!({ "host": "beta" }));
    assert_eq!(calls(&web, to, 20).get("beta"), Some(&20));
    says(&web, "PUT", "/v1/path", &json!({ "host": "gamma", "service": "shop/api" }));
    assert_eq!(calls(&web, to, 20).get("gamma"), Some(&20), "what is said of one service stands above");
    assert!(refused(&web, "PUT", "/v1/path", &json!({ "zone": "mars" }), 404).contains("no zone `mars`"));
    let said = says(&web, "DELETE", "/v1/path", &json!({ "service": "api" }));
    assert_eq!(said["paths"], json!([{ "service": null, "host": "beta" }]));

    instances_take_turns(&lab, &http[2]);
    the_next_agent_of_a_host_knows_it(&lab);
    what_is_not_let_any_more_is_forgotten(&lab, &beta);
}

fn weight(lab: &Lab, seen_by: &str, endpoint: &str) -> Value {
    let status = lab.agent(seen_by).status();
    let service = status["services"].as_array().unwrap().iter().find(|one| one["id"] == "shop/api").cloned().unwrap();
    let endpoints = service["endpoints"].as_array().unwrap().clone();
    endpoints.into_iter().find(|one| one["host"] == endpoint).unwrap()["weight"].clone()
}

fn it_learns_who_it_is_and_what_it_may_call(lab: &Lab) {
    let (web, other) = (lab.workload("web"), lab.workload("other"));
    let said = get(&web, "/v1/whoami");
    let expected = json!({
        "workload": "shop/web", "identity": "spiffe://lab.test/shop/web", "host": "alpha", "fabric": "lab.test",
        "may": ["path"], "serves": [], "paths": [], "limit": {}
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(said[key], *value, "{key} of {said}");
    }
    assert_eq!(said["policy"], json!(lab.agent("alpha").digest()));
    let v6 = format!("[{}]", lab.policy().resolver().1);
    let (code, by_v6) = request(&other, &v6, "GET", "/v1/whoami", &[]);
    assert_eq!((code, &by_v6["workload"]), (200, &json!("shop/other")), "{by_v6}");

    let said = get(&web, "/v1/services");
    let names: Vec<_> = said["services"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["api.shop.lab.test", "db.shop.lab.test", "tool.shop.lab.test"]);
    let limit = json!({ "session": "50 mbit/s", "sessions": "200" });
    assert_eq!(said["services"][0]["ports"], json!([{ "port": "8080/tcp", "limit": limit }]));
    assert_eq!(said["services"][1]["ports"], json!([{ "port": "5433/tcp", "limit": {} }]), "only what it may");
    assert_eq!(said["services"][0]["v4"], json!(lab.service("shop/api", 1).ip().to_string()));
    let rest = get(&web, "/v1/services?after=shop/api");
    assert_eq!(rest["services"].as_array().map(Vec::len), Some(2));
    assert_eq!(get(&other, "/v1/services"), json!({ "services": [], "more": null }), "nothing of what is not its own");
}

fn what_it_may_not_is_refused_and_counted(lab: &Lab) {
    let (web, other, beta) = (lab.workload("web"), lab.workload("other"), lab.workload_on("beta", "api"));
    let why = refused(&other, "POST", "/v1/drain", &json!({ "service": "api" }), 403);
    assert!(why.contains("under tenants.shop.workloads.other, `may: [drain]` would"), "{why}");
    let why = refused(&web, "PUT", "/v1/weight", &json!({ "weight": 1 }), 403);
    assert!(why.contains("`may: [weight, path]` would"), "{why}");
    // Another's service is to it what there is not.
    let tell = |service: &str| refused(&beta, "POST", "/v1/drain", &json!({ "service": service }), 404);
    assert_eq!(tell("shop/db").replace("shop/db", "X"), tell("shop/none").replace("shop/none", "X"));
    let why = refused(&web, "PUT", "/v1/path", &json!({ "host": "beta", "service": "none" }), 404);
    assert_eq!(why, "this workload may call no `none`");
    let labels = [("workload", "shop/other"), ("request", "drain"), ("result", "denied")];
    lab.agent("alpha").wait_metric("ripstop_workload_requests_total", &labels, 1.0);
    assert_eq!(state(lab, "alpha", "beta"), "ready");
}

fn a_page_and_nonsense_are_refused(lab: &Lab) {
    let (beta, other) = (lab.workload_on("beta", "api"), lab.workload("other"));
    let drain = |more: &[&str]| request(&beta, V4, "POST", "/v1/drain", more).0;
    assert_eq!(drain(&["-d", "{}", "-H", "Content-Type: text/plain"]), 400);
    assert_eq!(drain(&["-d", "{}", "-H", "Content-Type: application/json", "-H", "Origin: http://evil.test"]), 403);
    let long = format!("{{\"service\":\"{}\"}}", "x".repeat(5_000));
    assert_eq!(drain(&["-d", &long, "-H", "Content-Type: application/json"]), 413);
    assert_eq!(request(&beta, V4, "POST", "/v1/whoami", &[]).0, 405);
    assert_eq!(request(&beta, V4, "GET", "/v2", &[]).0, 404);
    assert_eq!(state(lab, "alpha", "beta"), "ready");
    // Connections that say nothing: so many, and they end; nobody else is concerned.
    let idle = (0..8).map(|_| other.connect((V4.parse::<std::net::IpAddr>().unwrap(), 80).into()).expect("it answers"));
    let mut idle: Vec<TcpStream> = idle.collect();
    other.connect((V4.parse::<std::net::IpAddr>().unwrap(), 80).into()).expect_err("no ninth");
    get(&lab.workload("web"), "/v1/whoami");
    idle[0].set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    idle[1].write_all(b"nonsense\r\n\r\n").unwrap();
    let mut answer = String::new();
    idle[1].read_to_string(&mut answer).expect("an answer, and an end");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(idle[0].read(&mut [0; 64]).expect("the end, within the time for a request's head"), 0);
}

fn instances_take_turns(lab: &Lab, second: &Http) {
    let (web, beta, to) = (lab.workload("web"), lab.workload_on("beta", "api"), lab.service("shop/api", 8080));
    let server = beta.serve(8081, second.handler());
    says(&beta, "POST", "/v1/instances", &json!({ "port": 8080 }));
    let said = says(&beta, "POST", "/v1/instances", &json!({ "port": 8081, "service": "api" }));
    assert_eq!(said["serves"][0]["instances"], json!([8080, 8081]));
    // web prefers beta.
    let shares = calls(&web, to, 20);
    assert_eq!((shares.get("beta"), shares.get("second")), (Some(&10), Some(&10)), "{shares:?}");
    drop(server);
    assert_eq!(calls(&web, to, 10).get("beta"), Some(&10), "an instance that has ended costs nobody a session");
    says(&beta, "DELETE", "/v1/instances", &json!({ "port": 8081 }));
    let why = refused(&beta, "POST", "/v1/instances", &json!({ "port": 0 }), 400);
    assert!(why.contains("1 to 65535"), "{why}");

    // On a shared host an instance is the workload's own program, whoever says that there is one.
    let tool = lab.workload_on("gamma", "tool");
    let rogue = ["python3", "-m", "http.server", "7001", "--bind", "127.0.0.1"];
    let _rogue = lab.host("gamma").spawn(&lab.file("rogue.log"), &rogue).listening(7001);
    says(&tool, "POST", "/v1/instances", &json!({ "port": 7001 }));
    let to = lab.service("shop/tool", 7000);
    web.inside(|| ask(to)).expect_err("it is root's");
    let record = lab.agent("alpha").record(|record| record["service"] == "shop/tool");
    assert_eq!(record["reason"], "wrong_listener", "{record}");
}

fn the_next_agent_of_a_host_knows_it(lab: &Lab) {
    says(&lab.workload_on("beta", "api"), "PUT", "/v1/weight", &json!({ "weight": 3 }));
    let said = |host: &str| -> Vec<String> {
        let shown = lab.host(host).ok(&[ripstop(), "workloads"]);
        shown.lines().filter(|line| line.contains(" says: ")).map(str::to_owned).collect()
    };
    let before = ["alpha", "beta"].map(said);
    assert!(before[0][0].contains("prefers host beta"), "{before:?}");
    assert!(before[1][0].contains("weight 3 for shop/api; shop/api at port 8080"), "{before:?}");
    for host in ["alpha", "beta"] {
        upgrade(lab, host, &[]);
    }
    within(SOON, "it to be said again", || ["alpha", "beta"].map(said) == before);
    within(SOON, "the weight on alpha", || weight(lab, "alpha", "beta") == json!(3));
}

fn what_is_not_let_any_more_is_forgotten(lab: &Lab, beta: &Place) {
    says(beta, "POST", "/v1/drain", &json!({}));
    says(beta, "PUT", "/v1/weight", &json!({ "weight": 7 }));
    wait_state(lab, "alpha", "beta", "draining");
    lab.edit_graph(|graph| graph.replace("may: [weight, drain, instances]", "may: [weight]"));
    wait_state(lab, "alpha", "beta", "ready");
    assert_eq!(weight(lab, "alpha", "beta"), json!(7), "what it still may holds");
    // Whoever has its interface next has said nothing.
    lab.host("beta").ok(&[ripstop(), "detach", "api"]);
    wait_state(lab, "alpha", "beta", "absent");
    lab.host("beta").ok(&[ripstop(), "attach", "api"]);
    thread::sleep(Duration::from_millis(50));
    wait_state(lab, "alpha", "beta", "ready");
    within(SOON, "the graph's weight", || weight(lab, "alpha", "beta").is_null());
}
