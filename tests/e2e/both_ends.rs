//! Both ends decide: a calling host cannot talk the serving host into anything.

use crate::{
    lab::{Lab, SHOP},
    servers::echo,
};
use std::{io::ErrorKind, process::Command, time::Duration};

fn refused(lab: &Lab, workload: &str) {
    let error =
        lab.workload(workload).connect(lab.service("shop/api", 8080)).expect_err("the serving host must refuse");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn the_serving_host_decides_for_itself() {
    let without_edge = SHOP.replace("- { from: web, to: api }", "[]").replace("allow:\n      []", "allow: []");
    let lab = Lab::of(&["alpha", "beta"]).graph_of("beta", &without_edge).start();
    let _server = lab.workload("api").serve(8080, echo);
    refused(&lab, "web");
    let beta = lab.agent("beta").record(|record| record["caller"] == "shop/web");
    assert_eq!((&beta["verdict"], &beta["reason"]), (&"deny".into(), &"no_edge".into()), "{beta}");
    let alpha = lab.agent("alpha").record(|record| record["caller"] == "shop/web");
    assert_eq!((&alpha["verdict"], &alpha["reason"]), (&"deny".into(), &"no_edge".into()), "{alpha}");
    assert_eq!(alpha["session"], beta["session"], "the two records belong together");
}

#[test]
fn a_host_speaks_only_for_the_workloads_that_the_graph_places_on_it() {
    let forged = SHOP.replace(
        "other: { on: [alpha], run: { netns: other } }",
        "other: { on: [alpha], run: { netns: other } }\n      thief: { on: [alpha], run: { netns: thief } }",
    );
    let forged =
        forged.replace("- { from: web, to: api }", "- { from: web, to: api }\n      - { from: thief, to: api }");
    let honest = forged.replace("thief: { on: [alpha]", "thief: { on: [beta]");
    let lab = Lab::of(&["alpha", "beta"]).graph(&forged).graph_of("beta", &honest).start();
    let _server = lab.workload("api").serve(8080, echo);
    refused(&lab, "thief");
    let beta = lab.agent("beta").record(|record| record["caller"] == "shop/thief");
    assert_eq!((&beta["verdict"], &beta["reason"]), (&"deny".into(), &"host_not_entitled".into()), "{beta}");
    lab.agent("beta").wait_metric("ripstop_sessions_total", &[("reason", "host_not_entitled")], 1.0);
    lab.workload("web").connect(lab.service("shop/api", 8080)).expect("what both allow still works");
}

#[test]
fn a_host_of_another_fabric_is_no_peer() {
    let lab = Lab::of(&["alpha", "beta"]).without_agent("beta").start();
    // The same names, signed by another CA of the same fabric name.
    let ca = lab.path("other-ca");
    let home = lab.agent("beta").directory().display().to_string();
    for file in ["host.pem", "host.key", "ca.pem"] {
        let _ = std::fs::remove_file(format!("{home}/{file}"));
    }
    for line in [
        &["ca", "init", "--fabric", crate::lab::FABRIC, "--dir", &ca][..],
        &["ca", "issue", "host", "beta", "--dir", &ca, "--out", &home],
    ] {
        assert!(Command::new(crate::lab::ripstop()).args(line).output().unwrap().status.success());
    }
    lab.agent("beta").start();
    std::thread::sleep(Duration::from_secs(3));
    for (host, other) in [("alpha", "beta"), ("beta", "alpha")] {
        assert!(!lab.agent(host).is_up(&[other]), "{host} must not accept {other}");
    }
    let peers = lab.agent("alpha").status()["peers"].to_string();
    assert!(peers.contains("beta") && peers.contains("certificate"), "the caller's status says why: {peers}");
    let log = lab.agent("beta").log();
    assert!(log.contains("certificate"), "the log of the other says that it turned somebody away:\n{log}");
}
