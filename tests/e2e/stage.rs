//! A policy from what is attempted: proposed, tried on live traffic, put in force.

use crate::{
    lab::{Lab, SHOP, ripstop, within},
    servers::echo,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

fn open(lab: &Lab, workload: &str) -> std::io::Result<TcpStream> {
    let mut stream = lab.workload(workload).connect(lab.service("shop/api", 8080))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])?;
    Ok(stream)
}

#[test]
fn what_is_denied_is_learnt_and_a_policy_is_tried_before_it_is_in_force() {
    let shop = SHOP.replace("    services:\n", "      job: { on: [beta], run: { netns: job } }\n    services:\n");
    let lab = Lab::of(&["alpha", "beta"]).graph(&shop).signed().start();
    let _server = lab.workload("api").serve(8080, echo);
    let alpha = |line: &[&str]| lab.host("alpha").ok(&[&[ripstop()], line].concat());
    what_is_tried_is_learnt(&lab);

    // Staged: nothing is decided otherwise, but everything is compared, on every host.
    let file = lab.path("next.yaml");
    let graph = fs::read_to_string(lab.file("graph.yaml")).unwrap();
    fs::write(&file, graph.replace("from: web, to: api }", NEXT)).unwrap();
    fs::write(lab.file("wrong.yaml"), graph.replace("from: web, to: api", "from: nobody, to: api")).unwrap();
    let key = lab.path("operator.key");
    assert!(alpha(&["apply", "--stage", &file]).contains("staged on alpha alone, and not in force"));
    assert!(alpha(&["stage", "status"]).contains(", on alpha\n"));
    assert!(alpha(&["apply", "--stage", "--key", &key, &file]).contains("on its way to all hosts, and not in force"));
    within(SOON, "it on both hosts", || alpha(&["stage", "status"]).contains(", on alpha, beta\n"));
    let mut session = open(&lab, "web").expect("it is not in force");
    open(&lab, "other").expect_err("nor does it allow anything");
    let (_, said) = lab.host("alpha").fails(&[ripstop(), "apply", "--stage", &lab.path("wrong.yaml")]);
    assert!(said.contains("nobody"), "{said}");
    open(&lab, "job").expect_err("nor on the other host");
    let status = alpha(&["stage", "status"]);
    for part in [
        "it would cut 1 open session\n",
        "would-allow  shop/job -> shop/api:8080/tcp    1 ",
        "would-deny   shop/web -> shop/api:8080/tcp    1 ",
        "would-allow  shop/other -> shop/api:8080/tcp  1 ",
    ] {
        assert!(status.contains(part), "`{part}` is not in:\n{status}");
    }
    for (caller, verdict) in [("shop/web", "would_deny"), ("shop/other", "would_allow")] {
        let labels = [("caller", caller), ("verdict", verdict)];
        lab.agent("alpha").wait_metric("ripstop_staged_attempts_total", &labels, 1.0);
    }
    who_does_not_answer_is_named_and_the_last_stage_counts(&lab, &file);
    let diff = alpha(&["graph", "diff", &file]);
    assert!(
        diff.contains("1 open session of this host would be cut")
            && diff.contains("in the last hour, it would allow:\n  shop/other -> shop/api"),
        "{diff}"
    );

    // In force, on both hosts at once.
    let line = ["stage", "commit", "--key", &key, "--note", "learnt"];
    let said = alpha(&line);
    assert!(said.contains("policy 1.2-") && said.contains("runs on 2 hosts"), "{said}");
    assert_eq!(session.read(&mut [0; 4]).expect_err("cut").kind(), ErrorKind::ConnectionReset);
    drop(open(&lab, "other").expect("allowed"));
    open(&lab, "web").expect_err("no more");
    assert_eq!(alpha(&["stage", "status"]), "nothing is staged\n");
    assert_eq!(lab.host("beta").ok(&[ripstop(), "stage", "status"]), "nothing is staged\n", "it is in force there");
    let learnt = alpha(&["learn"]);
    assert!(
        learnt.contains("from: web, to: api") && !learnt.contains("other"),
        "what is allowed is not proposed: {learnt}"
    );
    let (_, said) = lab.host("alpha").fails(&[ripstop(), "stage", "commit", "--key", &key]);
    assert!(said.contains("nothing is staged"), "{said}");
}

/// By name, by address, and what no edge could ever allow.
fn what_is_tried_is_learnt(lab: &Lab) {
    let alpha = |line: &[&str]| lab.host("alpha").ok(&[&[ripstop()], line].concat());
    assert!(alpha(&["learn"]).ends_with("# nothing\n"), "nothing was tried yet");

    lab.workload("other").fails(&["curl", "-sS", "-m", "5", "http://api.shop.lab.test:8080/"]);
    for _ in 0..3 {
        assert_eq!(open(lab, "other").expect_err("no edge").kind(), ErrorKind::ConnectionRefused);
    }
    lab.workload("other").connect(lab.service("shop/api", 9)).expect_err("no such port");
    lab.workload("other").connect(([198, 18, 255, 77], 80).into()).expect_err("no service");
    let learnt = alpha(&["learn"]);
    assert!(
        learnt.contains("\n  shop:\n    allow:\n      - { from: other, to: api, ports: [8080/tcp] } # "),
        "{learnt}"
    );
    let learnt: serde_json::Value = serde_json::from_str(&alpha(&["learn", "-o", "json"])).unwrap();
    let learnt = &learnt["attempts"];
    assert_eq!(learnt.as_array().map(Vec::len), Some(1), "{learnt}");
    assert!(learnt[0]["count"].as_u64().is_some_and(|count| count >= 4), "{learnt}");
}

/// Other edges in place of the one that there is.
const NEXT: &str = "from: other, to: api }\n      - { from: job, to: api }";
/// A report, a question and its answer, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

fn who_does_not_answer_is_named_and_the_last_stage_counts(lab: &Lab, file: &str) {
    let (key, alpha) = (lab.path("operator.key"), lab.host("alpha"));
    let status = || alpha.ok(&[ripstop(), "stage", "status"]);
    lab.agent("beta").signal(Signal::SIGSTOP);
    let said = status();
    lab.agent("beta").signal(Signal::SIGCONT);
    assert!(said.contains("not counted: beta, as it"), "{said}");
    // Discarded everywhere, and staged again from another host.
    let said = alpha.ok(&[ripstop(), "stage", "discard", "--key", &key]);
    assert!(said.contains("on any host"), "{said}");
    let beta = lab.host("beta");
    within(SOON, "nothing on beta", || beta.ok(&[ripstop(), "stage", "status"]) == "nothing is staged\n");
    beta.ok(&[ripstop(), "apply", "--stage", "--key", &key, file]);
    within(SOON, "it on both hosts again", || status().contains(", on alpha, beta\n"));
    let said = status();
    assert!(said.contains("nothing was asked for since"), "it is counted anew: {said}");
}
