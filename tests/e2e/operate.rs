//! The commands that look at an agent, on two hosts with real traffic.

use crate::{
    lab::{Lab, Place, ripstop, wait_for},
    servers::echo,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    time::Duration,
};

/// Stands in a key, a token and a log; see [`a_bug_report`].
const CANARY: &str = "CANARYCANARY";

fn json(place: &Place, line: &[&str]) -> Value {
    let said = place.ok(&[&[ripstop()][..], line, &["-o", "json"]].concat());
    let value: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{line:?}: {error}: {said}"));
    assert_eq!(value["schema"], 1, "{line:?}: {said}");
    value
}

fn say(place: &Place, line: &[&str]) -> String {
    place.ok(&[&[ripstop()][..], line].concat())
}

fn call(lab: &Lab) {
    let mut stream = lab.workload("web").connect(lab.service("shop/api", 8080)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

/// One lab for all of them, as each takes a moment only.
#[test]
fn an_operator_sees_what_happens() {
    let lab = Lab::shop();
    let alpha = lab.host("alpha");
    let _server = lab.workload("api").serve(8080, echo);
    checks(&lab, &alpha);
    records(&lab, &alpha);
    services_and_peers(&alpha);
    names(&lab, &alpha);
    top(&lab, &alpha);
    a_bug_report(&lab, &alpha);
    a_host_is_gone(&lab, &alpha);
}

fn finding(checked: &Value, what: &str) -> Value {
    let all = checked["findings"].as_array().unwrap();
    all.iter().find(|one| one["what"] == what).unwrap_or_else(|| panic!("no {what} in {checked:#}")).clone()
}

fn checks(lab: &Lab, alpha: &Place) {
    let config = lab.agent("alpha").config();
    let checked = json(alpha, &["check", "--config", &config]);
    assert_eq!(checked["bad"], 0, "{checked:#}");
    for (what, part) in [
        ("tun", "/dev/net/tun opens"),
        ("QUIC port", "the agent has it"),
        ("life", "left of"),
        ("shop/web", "attached"),
        ("beta", "% lost"),
        ("graph", "1 edges"),
    ] {
        let found = finding(&checked, what);
        assert!(found["says"].as_str().unwrap().contains(part), "{found}");
    }
    let says = finding(&checked, "beta")["says"].as_str().unwrap().to_owned();
    let ahead: f64 = says.rsplit(' ').nth(1).unwrap().parse().unwrap();
    assert!(ahead.abs() < 2.0, "one machine has one clock: {says}");
    let text = say(alpha, &["check", "--config", &config]);
    assert!(text.starts_with("host\n") && text.contains("\npeers\n  ✓ beta ") && text.contains(", 0 bad\n"), "{text}");
}

fn records(lab: &Lab, alpha: &Place) {
    let log = lab.file("observe.log");
    let follow = alpha.spawn(&log, &[ripstop(), "observe", "-f", "-o", "json", "--from", "web"]);
    // A record from before the command has its agent's answer would be shown as well, but it should see one come.
    std::thread::sleep(Duration::from_millis(300));
    call(lab);
    lab.workload("other").connect(lab.service("shop/api", 8080)).expect_err("denied");
    wait_for("the session to be shown", || follow.log().contains("shop/web"));
    let followed: Vec<Value> = follow.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    follow.signal(Signal::SIGTERM);
    assert_eq!(followed.len(), 1, "only web's: {followed:?}");
    let expected = lab.agent("alpha").record(|record| record["caller"] == "shop/web");
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(followed[0][key], *value, "{key}, as in the log");
    }
    let denied = say(alpha, &["observe", "--verdict", "deny", "--since", "1m", "--tenant", "shop"]);
    let lines: Vec<_> = denied.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("ENDED"), "{denied}");
    for part in ["deny", "shop/other", "shop/api:8080/tcp", "no_edge"] {
        assert!(lines[1].contains(part), "{part}: {denied}");
    }
    let none = say(alpha, &["observe", "-o", "json", "--reason", "idle"]);
    assert_eq!(none, "");
    let status = say(alpha, &["status"]);
    assert!(status.contains("denied       1 no_edge since the start") && status.contains(" left\n"), "{status}");
}

fn services_and_peers(alpha: &Place) {
    let services = json(alpha, &["services"]);
    let api = &services["services"][0];
    assert_eq!((&api["name"], &api["callers"][0]), (&"api.shop.lab.test".into(), &"shop/web".into()), "{api}");
    assert_eq!(api["endpoints"][0]["state"], "ready");
    assert!(say(alpha, &["services"]).contains("1/1 ready"));
    let peers = json(alpha, &["peers"]);
    let beta = &peers["peers"][0];
    assert!(beta["state"] == "up" && beta["rtt"].as_f64() > Some(0.0) && beta["mtu"].as_u64() >= Some(1_200), "{beta}");
    let table = say(alpha, &["peers"]);
    assert!(table.contains("192.0.2.") && table.contains(" %") && table.contains("TLS_AES"), "{table}");
    let pinged = json(alpha, &["ping", "beta", "--count", "3", "--interval", "10ms"]);
    assert_eq!((&pinged["lost"], pinged["answers"].as_array().unwrap().len()), (&0.into(), 3), "{pinged}");
    assert!(pinged["slowest"].as_f64() > Some(0.0) && pinged["answers"][0]["clock_ahead"].is_number(), "{pinged}");
    assert!(say(alpha, &["ping", "beta", "-c", "1"]).contains("1 of 1 answered"));
}

fn names(lab: &Lab, alpha: &Place) {
    let v4 = lab.service("shop/api", 1).ip().to_string();
    let seen = json(alpha, &["dns", "query", "api", "--as", "web"]);
    assert_eq!((&seen["answers"][0]["data"], &seen["source"]), (&v4.into(), &"fabric".into()), "{seen}");
    let (code, said) = alpha.fails(&[ripstop(), "dns", "query", "api.shop.lab.test", "AAAA", "--as", "other"]);
    assert!(code == 3 && said.contains("NXDomain") && said.contains("no allow edge"), "{code}: {said}");
    let (code, said) = alpha.fails(&[ripstop(), "dns", "query", "example.com", "--as", "web"]);
    assert!(code == 1 && said.contains("answered by another server"), "nobody is there to ask: {code}: {said}");
}

fn top(lab: &Lab, alpha: &Place) {
    let mut stream = lab.workload("web").connect(lab.service("shop/api", 8080)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let calls = std::thread::scope(|scope| {
        let shown = scope.spawn(|| json(alpha, &["top", "--interval", "500ms"]));
        while !shown.is_finished() {
            call(lab);
            stream.write_all(&[7; 10_000]).unwrap();
            stream.read_exact(&mut [0; 10_000]).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        shown.join().unwrap()
    });
    let web = &calls["calls"][0];
    assert_eq!(
        (&web["caller"], &web["service"], &web["side"]),
        (&"shop/web".into(), &"shop/api".into(), &"caller".into())
    );
    let [sessions, up, ended] = ["sessions", "up", "ended"].map(|field| web[field].as_f64().unwrap());
    assert!(sessions >= 1.0 && up > 10_000.0 && ended > 1.0, "10 kB and a session every few milliseconds: {web}");
    // On a terminal it takes the screen, sorts by another column when told to, and gives the screen back.
    let keys =
        format!("(sleep 0.8; printf s; sleep 0.5; printf q) | timeout 10 script -qec '{} top' /dev/null", ripstop());
    let screen = alpha.sh(&keys);
    for part in ["\u{1b}[?1049h", "ripstop top: alpha", "by sessions", "shop/web", "\u{1b}[?1049l"] {
        assert!(screen.contains(part), "{part:?} is not in {screen:?}");
    }
}

fn a_bug_report(lab: &Lab, alpha: &Place) {
    let agent = lab.agent("alpha");
    let key = fs::read_to_string(agent.directory().join("host.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let log = lab.file("some.log");
    let pasted = format!(
        "first\nrsj1_{CANARY}\n-----BEGIN PRIVATE KEY-----\n{CANARY}\n{secret}\n-----END PRIVATE KEY-----\nlast\n"
    );
    fs::write(&log, pasted).unwrap();
    let (config, out, log) = (agent.config(), lab.path("report.tar.gz"), log.display().to_string());
    let made = json(alpha, &["bugreport", "--config", &config, "--out", &out, "--log", &log]);
    assert_eq!(made["missing"].as_array().map(Vec::len), Some(0), "{made}");
    assert_eq!(alpha.sh(&format!("stat -c %a {out}")), "600\n");
    let text = alpha.sh(&format!("tar -xOzf {out}"));
    for part in ["host: alpha", "shop/web", "ripstop_sessions_total{", "\"remedy\"", "first\n", "last\n", "\"verdict\""]
    {
        assert!(text.contains(part), "{part} is not in the report");
    }
    assert!(!text.contains(CANARY) && !text.contains(secret), "a secret is in the report");
    let (code, said) = alpha.fails(&[ripstop(), "bugreport", "--config", &config, "--out", &out]);
    assert!(code == 1 && said.contains("--out"), "nothing is overwritten: {said}");
}

fn a_host_is_gone(lab: &Lab, alpha: &Place) {
    lab.agent("beta").kill();
    let config = lab.agent("alpha").config();
    let check = || alpha.run(&[ripstop(), "check", "--config", &config]);
    wait_for("beta to be missed", || check().status.code() == Some(1));
    let (code, said) = alpha.fails(&[ripstop(), "check", "--config", &config]);
    assert!(code == 1 && said.contains("× beta") && said.contains("firewalls let UDP to 192.0.2."), "{code}: {said}");
    let (code, said) = alpha.fails(&[ripstop(), "ping", "beta", "-c", "1"]);
    assert!(code == 1 && said.contains("0 of 1 answered"), "{code}: {said}");
    lab.agent("alpha").kill();
    let (code, said) = alpha.fails(&[ripstop(), "observe"]);
    assert!(code == 4 && said.contains("no agent answers"), "{said}");
    let said = String::from_utf8_lossy(&check().stdout).into_owned();
    assert!(said.contains("‼ agent") && said.contains("7478/tcp is free"), "{said}");
}
