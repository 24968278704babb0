//! The container image: made of the static binary without a registry, and two agents run from it as README says.
//!
//! They need the static binary (`RIPSTOP_LAB_BINARY`), as `tests/run.sh` has it.

use crate::{
    lab::{Lab, ripstop, within},
    podman::Podman,
    servers::nginx,
};
use serde_json::Value;
use std::{fs, path::Path, process::Command, time::Duration};

/// An agent may take so long from its container's start to its readiness, as the image's health check sees it.
const HEALTHY: Duration = Duration::from_secs(20);
/// Bytes of the image at most, also of a binary that is not optimised. It is that, and nothing else.
const IMAGE_MAX: u64 = 32 << 20;

/// The command by which README runs the image.
fn readme_line() -> Vec<String> {
    let readme = file("README.md");
    let from = readme.find("podman run").expect("README says how to run the image");
    let whole = readme[from..].split("\n```").next().unwrap().replace("\\\n", " ");
    let first = whole.lines().next().unwrap();
    first.split(" # ").next().unwrap().split_whitespace().skip(2).map(str::to_owned).collect()
}

fn build(archive: &str) {
    let output = Command::new("packaging/image/build.sh")
        .args([ripstop(), archive])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    eprintln!("{}", said.trim());
    assert!(fs::metadata(archive).unwrap().len() < IMAGE_MAX, "{said}");
}

/// Puts the agent's settings where README has them, and starts it; `/var/lib` is not the machine's own.
fn start(lab: &Lab, podman: &Podman<'_>, host: &str, line: &[String], archive: &str) {
    let home = lab.path(host);
    podman.place().sh(&format!("mkdir -p /etc/ripstop /run/ripstop; cp -a {home}/. /etc/ripstop/"));
    podman.run(&["load", "--quiet", "--input", archive]);
    let state = format!("{home}:");
    let line: Vec<_> = line.iter().map(|word| word.replace("/var/lib/ripstop:", &state)).collect();
    podman.run_line(&line.iter().map(String::as_str).collect::<Vec<_>>());
}

fn is_healthy(podman: &Podman<'_>) -> bool {
    podman.try_run(&["healthcheck", "run", "ripstop"]).status.success()
}

#[test]
fn two_agents_run_from_the_image_with_what_the_readme_gives_them() {
    let lab = Lab::of(&["alpha", "beta"]).without_agent("alpha").without_agent("beta").start();
    let archive = lab.path("ripstop.tar");
    build(&archive);
    let line = readme_line();
    let named: Vec<_> = line.iter().map(String::as_str).collect();
    assert!(named.windows(2).any(|pair| pair == ["--cap-drop", "all"]) && named.contains(&"--read-only"), "{named:?}");
    let hosts = ["alpha", "beta"];
    let podmen = hosts.map(|host| Podman::on(&lab, host));
    let before = hosts.map(|host| lab.snapshot(host));
    for (host, podman) in hosts.iter().zip(&podmen) {
        start(&lab, podman, host, &line, &archive);
    }
    for podman in &podmen {
        let took = within(HEALTHY, "the agent to be healthy", || is_healthy(podman));
        eprintln!("healthy after {} ms", took.as_millis());
    }
    lab.agent("alpha").wait_up(&["beta"]);

    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let call = ["curl", "-sS", "-m", "10", "http://api.shop.lab.test:8080/"];
    assert_eq!(lab.workload("web").ok(&call), "hello from nginx\n");
    lab.workload("other").fails(&call);
    what_it_has(&podmen[0]);

    for (podman, (host, before)) in podmen.iter().zip(hosts.iter().zip(&before)) {
        podman.run(&["stop", "--time", "15", "ripstop"]);
        let code = podman.run(&["inspect", "--format", "{{.State.ExitCode}}", "ripstop"]);
        assert_eq!(code.trim(), "0", "{}", podman.run(&["logs", "ripstop"]));
        assert_eq!(lab.snapshot(host), *before, "{host}");
    }
}

/// The kernel's word for what the container may do, and the image's labels.
fn what_it_has(podman: &Podman<'_>) {
    let pid = podman.run(&["inspect", "--format", "{{.State.Pid}}", "ripstop"]);
    let status = podman.place().ok(&["cat", &format!("/proc/{}/status", pid.trim())]);
    let value = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
    // CAP_NET_ADMIN is left of what the container had: that and CAP_SYS_ADMIN.
    assert_eq!(value("CapEff:"), "0000000000001000");
    assert_eq!(value("CapBnd:"), "0000000000201000");
    let root = podman.place().ok(&["cat", &format!("/proc/{}/mountinfo", pid.trim())]);
    let root = root.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().starts_with("ro"), "{root}");
    let labels = podman.run(&["image", "inspect", "--format", "{{json .Labels}}", "localhost/ripstop"]);
    for label in ["title", "version", "revision", "licenses", "source"] {
        assert!(labels.contains(&format!("org.opencontainers.image.{label}")), "{labels}");
    }
    let layers = podman.run(&["image", "inspect", "--format", "{{len .RootFS.Layers}}", "localhost/ripstop"]);
    assert_eq!(layers.trim(), "1");
}

/// A place below this repository.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What `docker compose` makes of a service of packaging/compose/compose.yaml, as podman's arguments. A key that is not known
/// here fails, as it would be left out.
fn service_line(service: &Value) -> Vec<String> {
    let said = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.replace("${ENGINE:-/var/run/docker.sock}", "/run/podman/podman.sock").replace("./", "/run/compose/")
    };
    let each = |option: &str, values: &Value| {
        let values = values.as_array().unwrap().iter();
        values.flat_map(|value| [format!("--{option}"), said(value)]).collect::<Vec<_>>()
    };
    let (mut line, mut program) = (vec!["--detach".to_owned(), "--pull=never".into()], Vec::new());
    for (key, value) in service.as_object().unwrap() {
        match key.as_str() {
            "image" => program.insert(0, said(value)),
            "command" => program.extend(value.as_array().unwrap().iter().map(said)),
            "container_name" => line.push(format!("--name={}", said(value))),
            "network_mode" => line.push(format!("--network={}", said(value))),
            "pid" => line.push(format!("--pid={}", said(value))),
            "read_only" => line.push(format!("--read-only={}", said(value))),
            "cap_add" => line.extend(each("cap-add", value)),
            "cap_drop" => line.extend(each("cap-drop", value)),
            "devices" => line.extend(each("device", value)),
            "volumes" => line.extend(each("volume", value)),
            // It is of a machine's start.
            "restart" => {}
            other => panic!("{other}"),
        }
    }
    line.extend(program);
    line
}

/// The graph of the test's lab is nobody's; that of the Compose file is.
#[test]
fn the_containers_of_the_compose_file_know_each_other_by_name() {
    let lab = Lab::of(&["alpha"]).graph("\ntenants:\n  none: {}\n").without_agent("alpha").start();
    let archive = lab.path("ripstop.tar");
    build(&archive);
    let mut podman = Podman::on(&lab, "alpha");
    podman.serve();
    podman.run(&["load", "--quiet", "--input", &archive]);
    podman.place().sh("tar -C /run/pods/root -cf /run/pods/busybox.tar .");
    podman.run(&["import", "--quiet", "/run/pods/busybox.tar", "docker.io/library/busybox:1.36"]);
    let from = format!("{}/packaging/compose", env!("CARGO_MANIFEST_DIR"));
    let script = format!(
        "mkdir -p /run/compose /run/ripstop; cd /run/compose; cp {from}/* .; ripstop() {{ {} \"$@\"; }}
         ripstop ca init --fabric fabric.example --dir ca; ripstop ca issue host local --dir ca --out fabric
         cp agent.yaml graph.yaml fabric/",
        ripstop()
    );
    podman.place().sh(&script);
    let compose: Value = serde_saphyr::from_str(&file("packaging/compose/compose.yaml")).unwrap();
    for service in compose["services"].as_object().unwrap().values() {
        let line = service_line(service);
        podman.run_line(&line.iter().map(String::as_str).collect::<Vec<_>>());
    }
    within(HEALTHY, "web to have its answer", || podman.run(&["logs", "web"]).contains("hello from api"));
}
