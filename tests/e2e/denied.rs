//! What is refused looks refused, at once, and is accounted for.

use crate::{
    lab::{Lab, Place},
    servers::echo,
};
use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// At once: long before any timeout of an application, with room for a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

fn refused_at_once(place: &Place, to: SocketAddr) {
    let start = Instant::now();
    let error = place.connect(to).expect_err("must be refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    assert!(start.elapsed() < AT_ONCE, "{to}: took {:?}", start.elapsed());
}

#[test]
fn a_call_without_an_edge_is_refused_at_once_and_recorded() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let other = lab.workload("other");
    for to in [lab.service("shop/api", 8080), lab.service_v6("shop/api", 8080)] {
        refused_at_once(&other, to);
    }
    let records = lab.agent("alpha").wait_records(2, |record| record["caller"] == "shop/other");
    for record in records {
        assert_eq!(record["verdict"], "deny", "{record}");
        assert_eq!(record["reason"], "no_edge", "{record}");
        assert_eq!((&record["bytes_up"], &record["bytes_down"]), (&0.into(), &0.into()), "{record}");
    }
    let labels = [("caller", "shop/other"), ("verdict", "deny"), ("reason", "no_edge")];
    lab.agent("alpha").wait_metric("ripstop_sessions_total", &labels, 2.0);
    assert!(lab.agent("beta").records().is_empty(), "a denied call must not reach the other host");
}

#[test]
fn curl_says_refused() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let url = format!("http://{}/", lab.service("shop/api", 8080));
    let (code, said) = lab.workload("other").fails(&["curl", "-sS", "-m", "5", &url]);
    assert_eq!(code, 7, "{said}");
    let (code, said) = lab.workload("other").fails(&["curl", "-sS", "-m", "5", "http://api.shop.lab.test:8080/"]);
    assert_eq!(code, 6, "the name does not exist for it: {said}");
}

#[test]
fn ports_and_addresses_of_nothing_are_refused() {
    let lab = Lab::shop();
    let web = lab.workload("web");
    refused_at_once(&web, lab.service("shop/api", 9999));
    let nowhere = SocketAddr::from(([198, 18, 255, 77], 80));
    refused_at_once(&web, nowhere);
    let alpha = lab.agent("alpha");
    alpha.record(|record| record["reason"] == "no_port");
    let record = alpha.record(|record| record["reason"] == "no_service");
    assert!(record["destination"].as_str().unwrap().contains("198.18.255.77"), "{record}");
}

#[test]
fn another_workload_s_address_is_not_a_way_in() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let api = lab.policy().workload(&"shop/api".parse().unwrap()).unwrap();
    let direct = SocketAddr::from((lab.policy().workload_entry(api).v4, 8080));
    let error = lab.workload("web").connect(direct).expect_err("workloads are reached as services only");
    assert_ne!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[test]
fn a_service_that_is_down_looks_down() {
    let lab = Lab::shop();
    refused_at_once(&lab.workload("web"), lab.service("shop/api", 8080));
    for host in ["alpha", "beta"] {
        let record = lab.agent(host).record(|record| record["caller"] == "shop/web");
        assert_eq!(record["reason"], "endpoint_refused", "{record}");
    }
}

#[test]
fn a_host_that_is_gone_is_said_to_be_gone() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    lab.agent("beta").kill();
    crate::lab::within(Duration::from_secs(4), "alpha to notice", || !lab.agent("alpha").is_up(&["beta"]));
    let start = Instant::now();
    let error = lab.workload("web").connect(lab.service("shop/api", 8080)).expect_err("nobody serves it");
    assert!(start.elapsed() < Duration::from_secs(11), "took {:?}: {error}", start.elapsed());
    let record = lab.agent("alpha").record(|record| record["caller"] == "shop/web");
    assert_eq!(record["reason"], "host_unreachable", "{record}");
}

#[test]
fn udp_to_a_service_is_refused_by_icmp_and_counted() {
    let lab = Lab::of(&["alpha", "beta"]).graph(&crate::lab::SHOP.replace("80/tcp]", "80/tcp, 53/udp]")).start();
    let answer = |workload: &str, port| {
        let to = lab.service("shop/api", port);
        lab.workload(workload).inside(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"hello").unwrap();
            socket.recv(&mut [0; 16]).expect_err("nothing answers")
        })
    };
    for (workload, port, reason) in [("web", 8080, "no_port"), ("other", 53, "no_edge")] {
        let error = answer(workload, port);
        assert!(
            !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{reason}: must be told at once: {error}"
        );
        lab.agent("alpha").wait_metric("ripstop_packets_dropped_total", &[("reason", reason)], 1.0);
    }
}

#[test]
fn an_isolated_workload_reaches_nothing_outside() {
    let graph = crate::lab::SHOP.replace(
        "other: { on: [alpha], run: { netns: other } }",
        "other: { on: [alpha], run: { netns: other }, isolated: true }",
    );
    let lab = Lab::of(&["alpha", "beta"]).graph(&graph).start();
    let outside = SocketAddr::from(([203, 0, 113, 9], 80));
    let start = Instant::now();
    assert!(lab.workload("other").connect(outside).is_err());
    assert!(start.elapsed() < AT_ONCE, "took {:?}", start.elapsed());
    let error = lab.workload("web").connect(outside).expect_err("not routed");
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "the fabric takes only its own ranges: {error}");
}
