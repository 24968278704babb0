//! `ping` and `traceroute` tell the truth about services.

use crate::{
    lab::{Lab, Place, wait_for},
    servers::echo,
};
use std::{net::SocketAddr, time::Instant};

/// `web` may call `api` and `near`; `other` may call nothing.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      other: { on: [alpha], run: { netns: other } }
      near: { on: [alpha], run: { netns: near } }
      api: { on: [beta, gamma], run: { netns: api } }
    services:
      api: { by: api, ports: [8080/tcp, 8080/udp] }
      near: { by: near, port: 53/udp }
    allow:
      - { from: web, to: api }
      - { from: web, to: near }
";

fn lab() -> Lab {
    Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).start()
}

/// Replies to so many requests, 50 ms apart, and the round-trip times in milliseconds.
fn ping(from: &Place, to: SocketAddr, count: &str, size: &str) -> (usize, Vec<f64>, String) {
    let to = to.ip().to_string();
    let output = from.run(&["ping", "-n", "-c", count, "-i", "0.05", "-W", "1", "-s", size, &to]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let times: Vec<f64> =
        said.split(" time=").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect();
    (times.len(), times, said)
}

#[test]
fn every_request_of_a_caller_with_an_edge_is_answered_after_a_round_trip() {
    let lab = lab();
    let web = lab.workload("web");
    for service in ["shop/api", "shop/near"] {
        for to in [lab.service(service, 1), lab.service_v6(service, 1)] {
            for size in ["0", "56", "1400", "9000", "60000"] {
                let (replies, _, said) = ping(&web, to, "5", size);
                assert_eq!(replies, if size == "0" { 0 } else { 5 }, "{said}");
                assert!(said.contains("5 received, 0% packet loss"), "{said}");
            }
        }
    }
    let by_name = web.ok(&["ping", "-n", "-c", "1", "-W", "2", "api.shop.lab.test"]);
    assert!(by_name.contains("1 received"), "{by_name}");
    let lost = lab.agent("alpha").metric("ripstop_packets_dropped_total", &[("workload", "shop/web")]);
    assert!(lost < 1.0, "nothing was dropped: {lost}");
}

#[test]
fn the_time_is_that_of_the_path() {
    let lab = Lab::of(&["alpha", "beta", "gamma"]).graph(GRAPH).through_relay().start();
    let web = lab.workload("web");
    let (_, near, said) = ping(&web, lab.service("shop/near", 1), "5", "56");
    lab.relay().delay_ms(40);
    let (_, far, said_far) = ping(&web, lab.service("shop/api", 1), "5", "56");
    let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(least(&near) < 20.0, "on the same host: {said}");
    assert!((80.0..200.0).contains(&least(&far)), "40 ms there and 40 ms back: {said_far}");
}

#[test]
fn who_may_not_call_is_told_so_and_nothing_answers_for_workloads() {
    let lab = lab();
    let other = lab.workload("other");
    for to in [lab.service("shop/api", 1), lab.service_v6("shop/api", 1)] {
        let (replies, _, said) = ping(&other, to, "2", "56");
        assert_eq!(replies, 0, "{said}");
        let word = if to.is_ipv4() { "Packet filtered" } else { "Administratively prohibited" };
        assert!(said.contains(word), "{said}");
    }
    let nowhere = SocketAddr::from(([198, 18, 255, 77], 1));
    let (replies, _, said) = ping(&lab.workload("web"), nowhere, "1", "56");
    assert!(replies == 0 && said.contains("Packet filtered"), "{said}");
    let index = lab.policy().workload(&"shop/near".parse().unwrap()).unwrap();
    let workload = SocketAddr::from((lab.policy().workload_entry(index).v4, 1));
    let (replies, _, said) = ping(&lab.workload("web"), workload, "2", "56");
    assert!(replies == 0 && said.contains("100% packet loss"), "{said}");
    let alpha = lab.agent("alpha");
    for (reason, count) in [("no_edge", 4.0), ("no_service", 1.0), ("icmp_ignored", 2.0)] {
        alpha.wait_metric("ripstop_packets_dropped_total", &[("reason", reason)], count);
    }
}

#[test]
fn another_endpoint_answers_for_one_that_is_gone_and_none_for_all() {
    let lab = lab();
    let web = lab.workload("web");
    let to = lab.service("shop/api", 1);
    lab.agent("beta").kill();
    let (replies, _, said) = ping(&web, to, "20", "56");
    assert!(replies >= 15, "gamma answers while the death of beta is noticed: {said}");
    lab.agent("gamma").kill();
    wait_for("alpha to notice", || !lab.agent("alpha").is_up(&["gamma"]));
    let (replies, _, said) = ping(&web, to, "3", "56");
    assert_eq!(replies, 0, "{said}");
    let labels = [("workload", "shop/web"), ("reason", "echo_unanswered")];
    lab.agent("alpha").wait_metric("ripstop_packets_dropped_total", &labels, 3.0);
}

#[test]
fn a_flood_is_bounded_and_counted() {
    let lab = lab();
    let web = lab.workload("web");
    let to = lab.service("shop/api", 1).ip().to_string();
    // It says that it was not answered so often, which is what happened: more than the limit lets through in that time.
    web.fails(&["ping", "-n", "-q", "-f", "-l", "2000", "-c", "20000", "-w", "3", &to]);
    lab.agent("alpha").wait_metric("ripstop_packets_dropped_total", &[("reason", "echo_flood")], 500.0);
    // What is left of the flood in the interface's queue still counts.
    wait_for("an answer", || ping(&web, lab.service("shop/api", 1), "1", "56").0 == 1);
    assert_eq!(ping(&web, lab.service("shop/api", 1), "3", "56").0, 3, "and then it is answered again");
}

#[test]
fn traceroute_shows_one_hop() {
    let lab = lab();
    let _server = lab.workload_on("beta", "api").serve(8080, echo);
    let _other = lab.workload_on("gamma", "api").serve(8080, echo);
    let web = lab.workload("web");
    for to in [lab.service("shop/api", 8080), lab.service_v6("shop/api", 8080)] {
        let address = to.ip().to_string();
        for probe in [&["-U"][..], &["-I"], &["-T", "-p", "8080"], &[]] {
            let start = Instant::now();
            let said = web.ok(&[&["traceroute", "-n", "-q", "1", "-w", "2"], probe, &[&address]].concat());
            let hops: Vec<_> = said.lines().skip(1).collect();
            assert!(hops.len() == 1 && hops[0].contains(&address), "{probe:?}: {said}");
            assert!(!said.contains('!'), "{probe:?}: {said}");
            assert!(start.elapsed().as_secs() < 3, "{probe:?}: {said}");
        }
    }
}
