//! Endpoints that have as many sessions as the service may have on one host.

use crate::{lab::Lab, servers::echo};
use std::io::ErrorKind;

/// Every caller's first choice is gamma.
const GRAPH: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha, beta], run: { netns: web } }
      api: { on: [gamma, delta], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp, limit: { sessions: 1 }, balance: { sticky: true, weights: { gamma: 1000 } } }
    allow:
      - { from: web, to: api }
";

#[test]
fn a_full_endpoint_is_passed_over_while_another_has_room() {
    let lab = Lab::of(&["alpha", "beta", "gamma", "delta"]).graph(GRAPH).start();
    let _servers = ["gamma", "delta"].map(|host| lab.workload_on(host, "api").serve(8080, echo));
    let to = lab.service("shop/api", 8080);
    let first = lab.workload_on("alpha", "web").connect(to).expect("nobody has a session yet");
    let second = lab.workload_on("beta", "web").connect(to).expect("delta has room");
    let error = lab.workload_on("beta", "web").connect(to).expect_err("beta has one already");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    drop((first, second));
    for (host, endpoint, attempts) in [("alpha", "gamma", 1), ("beta", "delta", 2)] {
        let record = lab.agent(host).record(|record| record["verdict"] == "allow");
        assert!(record["endpoint"].as_str().unwrap().starts_with(endpoint), "{record}");
        assert_eq!(record["attempts"], attempts, "{record}");
    }
    assert_eq!(lab.agent("gamma").record(|record| record["verdict"] == "deny")["reason"], "sessions");
    assert_eq!(lab.agent("beta").record(|record| record["verdict"] == "deny")["attempts"], 0, "refused by beta itself");
}
