//! Mistakes: each a clear error with what to do, a code that is not zero, and nothing half set up.

use crate::lab::{AGENT_WAIT, Agent, FABRIC, Lab, ripstop};
use std::{fs, net::UdpSocket, os::unix::fs::PermissionsExt, process::Command};

/// Alpha without its agent.
fn alone() -> Lab {
    Lab::of(&["alpha", "beta"]).without_agent("alpha").without_agent("beta").start()
}

fn edit(path: &std::path::Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Starts alpha's agent, which must end by itself with code 1 and say all of `says`, leaving the host as it was.
fn must_refuse(lab: &Lab, says: &[&str]) {
    let before = lab.snapshot("alpha");
    let config = lab.agent("alpha").config();
    let (code, said) = lab.host("alpha").fails(&[
        "timeout",
        &AGENT_WAIT.as_secs().to_string(),
        ripstop(),
        "agent",
        "--config",
        &config,
    ]);
    assert_eq!(code, 1, "{said}");
    for part in says {
        assert!(said.to_lowercase().contains(&part.to_lowercase()), "should say `{part}`:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(lab.snapshot("alpha"), before, "nothing is half set up");
}

fn file(agent: &Agent, name: &str) -> std::path::PathBuf {
    agent.directory().join(name)
}

#[test]
fn settings_with_mistakes() {
    let lab = alone();
    edit(&file(lab.agent("alpha"), "agent.yaml"), "host: alpha", "host: alpha\ngraf: x.yaml");
    must_refuse(&lab, &["agent.yaml:2", "graf", "graph"]);
}

#[test]
fn a_graph_with_mistakes_is_shown_with_all_of_them() {
    let lab = alone();
    let graph = lab.agent("alpha").graph_file();
    edit(&graph, "to: api }", "to: apo }");
    edit(&graph, "on: [beta]", "on: [betta]");
    edit(&graph, "services:", "servces:");
    must_refuse(&lab, &["graph.yaml", "betta", "servces"]);
}

#[test]
fn duplicate_names() {
    let lab = alone();
    edit(&lab.agent("alpha").graph_file(), "      other:", "      web:");
    must_refuse(&lab, &["web", "graph.yaml"]);
}

#[test]
fn a_host_that_is_not_in_the_graph() {
    let lab = alone();
    edit(&file(lab.agent("alpha"), "graph.yaml"), "  alpha: { address", "  delta: { address");
    edit(&file(lab.agent("alpha"), "graph.yaml"), "on: [alpha]", "on: [delta]");
    must_refuse(&lab, &["alpha"]);
}

#[test]
fn a_certificate_for_another_fabric() {
    let lab = alone();
    let (ca, home) = (lab.path("other-ca"), lab.agent("alpha").directory().display().to_string());
    for name in ["host.pem", "host.key", "ca.pem"] {
        fs::remove_file(file(lab.agent("alpha"), name)).unwrap();
    }
    for line in [
        &["ca", "init", "--fabric", "elsewhere.test", "--dir", &ca][..],
        &["ca", "issue", "host", "alpha", "--dir", &ca, "--out", &home],
    ] {
        assert!(Command::new(ripstop()).args(line).output().unwrap().status.success());
    }
    must_refuse(&lab, &["elsewhere.test", FABRIC]);
}

#[test]
fn a_certificate_of_another_host() {
    let lab = alone();
    for name in ["host.pem", "host.key"] {
        fs::copy(file(lab.agent("beta"), name), file(lab.agent("alpha"), name)).unwrap();
    }
    must_refuse(&lab, &["beta", "alpha"]);
}

#[test]
fn a_key_that_others_may_read() {
    let lab = alone();
    fs::set_permissions(file(lab.agent("alpha"), "host.key"), fs::Permissions::from_mode(0o644)).unwrap();
    must_refuse(&lab, &["host.key", "chmod 600"]);
}

#[test]
fn a_key_of_another_certificate() {
    let lab = alone();
    fs::copy(file(lab.agent("beta"), "host.key"), file(lab.agent("alpha"), "host.key")).unwrap();
    must_refuse(&lab, &["not the key"]);
}

#[test]
fn missing_files() {
    let lab = alone();
    fs::remove_file(file(lab.agent("alpha"), "host.pem")).unwrap();
    must_refuse(&lab, &["host.pem"]);
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "agent", "--config", "/nonexistent/agent.yaml"]);
    assert_eq!(code, 1);
    assert!(said.contains("/nonexistent/agent.yaml") && said.contains("--config"), "{said}");
}

#[test]
fn a_port_in_use() {
    let lab = alone();
    let _taken = lab.host("alpha").inside(|| UdpSocket::bind("[::]:7477").unwrap());
    must_refuse(&lab, &["7477", "in use"]);
}

#[test]
fn a_metrics_port_in_use() {
    let lab = alone();
    let _taken = lab.host("alpha").serve(7478, drop);
    must_refuse(&lab, &["7478", "in use"]);
}

#[test]
fn no_tun_device() {
    let lab = alone();
    let config = lab.agent("alpha").config();
    let script = format!("mount -t tmpfs none /dev/net; exec {} agent --config {config}", ripstop());
    let before = lab.snapshot("alpha");
    let (code, said) = lab.host("alpha").fails(&["timeout", "20", "unshare", "--mount", "sh", "-c", &script]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("/dev/net/tun") && said.contains("modprobe tun"), "{said}");
    assert_eq!(lab.snapshot("alpha"), before);
}

#[test]
fn no_root() {
    let lab = alone();
    let copy = lab.file("ripstop");
    fs::copy(ripstop(), &copy).unwrap();
    let home = lab.agent("alpha").directory().display().to_string();
    lab.host("alpha").sh(&format!("chown -R 64999:64999 {home}"));
    let before = lab.snapshot("alpha");
    let drop =
        ["setpriv", "--reuid=64999", "--regid=64999", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    let (code, said) = lab.host("alpha").fails(
        &[
            &["timeout", "20"],
            &drop[..],
            &[&copy.display().to_string(), "agent", "--config", &lab.agent("alpha").config()],
        ]
        .concat(),
    );
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("root") && said.contains("CAP_NET_ADMIN"), "{said}");
    assert_eq!(lab.snapshot("alpha"), before);
}

#[test]
fn a_second_agent_on_the_same_host() {
    let lab = Lab::shop();
    let config = lab.file("alpha/second.yaml");
    let text = fs::read_to_string(file(lab.agent("alpha"), "agent.yaml")).unwrap();
    fs::write(&config, format!("{}listen: '[::]:7500'\n", text.replace("0.0.0.0:7478", "off"))).unwrap();
    let before = lab.snapshot("alpha");
    let (code, said) =
        lab.host("alpha").fails(&["timeout", "20", ripstop(), "agent", "--config", &config.display().to_string()]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("/run/ripstop"), "{said}");
    assert_eq!(lab.snapshot("alpha"), before, "the first one's interfaces stay");
    assert!(lab.agent("alpha").is_running());
}
