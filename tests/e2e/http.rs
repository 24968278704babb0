//! nginx and curl through the fabric.

use crate::{
    lab::{Lab, wait_for},
    servers::{nginx, random_file, www},
};

const URL: &str = "http://api.shop.lab.test:8080";

#[test]
fn a_workload_calls_a_service_by_name() {
    let lab = Lab::shop();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let web = lab.workload("web");
    assert_eq!(web.ok(&["curl", "-sS", "-m", "5", URL]), "hello from nginx\n");
    for family in ["-4", "-6"] {
        assert_eq!(web.ok(&["curl", family, "-sS", "-m", "5", &format!("{URL}/who")]), "beta\n");
    }
    let code = web.ok(&["curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &format!("{URL}/missing")]);
    assert_eq!(code, "404", "the server's answers pass through, also when they are errors");
}

#[test]
fn bodies_of_every_size_arrive_whole() {
    let lab = Lab::shop();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let web = lab.workload("web");
    for (name, bytes) in [("one", 1), ("odd", 1_000_003), ("large", 200 << 20)] {
        let sum = random_file(&www(&lab, "beta").join(name), bytes);
        let got = web.sh(&format!("curl -sS -m 60 {URL}/{name} | sha256sum"));
        assert_eq!(got.split(' ').next(), Some(&*sum), "{name}: {bytes} bytes");
    }
}

#[test]
fn head_has_no_body_and_keep_alive_is_one_session() {
    let lab = Lab::shop();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let web = lab.workload("web");
    let head = web.ok(&["curl", "-sS", "-m", "5", "-I", URL]);
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("Content-Length: 17"), "{head}");
    lab.agent("alpha").record(|record| record["verdict"] == "allow");

    let pages = format!("{URL}/?[1-50]");
    let connects = web.ok(&["curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{num_connects}\n", &pages]);
    let opened: u32 = connects.lines().map(|line| line.parse::<u32>().unwrap()).sum();
    assert_eq!((connects.lines().count(), opened), (50, 1), "50 requests on one connection");
    let records = lab.agent("alpha").wait_records(2, |record| record["verdict"] == "allow");
    assert!(records[1]["bytes_down"].as_u64() >= Some(50 * 17), "{}", records[1]);
}

#[test]
fn a_hundred_requests_at_once() {
    let lab = Lab::shop();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    random_file(&www(&lab, "beta").join("page"), 100_000);
    let pages = format!("{URL}/page?[1-100]");
    let line = [
        "curl",
        "-sS",
        "-m",
        "30",
        "-Z",
        "--parallel-max",
        "100",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_download}\n",
    ];
    let output = lab.workload("web").ok(&[&line[..], &["-H", "Connection: close", &pages]].concat());
    let whole = output.lines().filter(|line| *line == "200 100000").count();
    assert_eq!(whole, 100, "{output}");
    for host in ["alpha", "beta"] {
        lab.agent(host).wait_records(100, |record| record["verdict"] == "allow");
    }
    let open = || lab.agent("alpha").status()["sessions_open"] == 0;
    wait_for("all sessions to be gone", open);
}
