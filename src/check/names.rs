//! Who answers DNS on this host.

use super::{Finding, Group};
use crate::admin::Status;
use ripstop_dns::Upstreams;
use std::{fs, net::SocketAddr, path::Path};

const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(super) fn findings(status: Option<&Status>) -> Vec<Finding> {
    let link = fs::read_link(RESOLV_CONF).ok();
    match fs::read_to_string(RESOLV_CONF) {
        Ok(text) => look(&text, link.as_deref(), status),
        Err(error) => vec![Finding::doubtful(
            Group::Names,
            "resolv.conf",
            format!("{RESOLV_CONF} cannot be read ({error}), so names outside the fabric have no server"),
            "make it, or give servers with `dns: { upstream: [ADDRESS] }` in agent.yaml",
        )],
    }
}

fn look(text: &str, link: Option<&Path>, status: Option<&Status>) -> Vec<Finding> {
    let servers = Upstreams::from_resolv_conf(text);
    let first = servers.as_slice().first().map(SocketAddr::ip);
    let shared: Vec<_> = status
        .iter()
        .flat_map(|status| &status.workloads)
        .filter(|workload| ["user", "cgroup", "host"].contains(&workload.kind.as_str()))
        .map(|workload| workload.id.to_string())
        .collect();
    let ours = status.is_some_and(|status| first == Some(status.resolver.v4.into()));
    let mut findings = vec![match first {
        None => Finding::doubtful(
            Group::Names,
            "servers",
            format!("{RESOLV_CONF} names none, so names outside the fabric have no server"),
            "give some with `dns: { upstream: [ADDRESS] }` in agent.yaml",
        ),
        Some(_) => {
            let all = servers.as_slice().iter().map(|server| server.ip().to_string()).collect::<Vec<_>>().join(", ");
            let behind = link.map(|link| format!(", by {}", link.display())).unwrap_or_default();
            Finding::good(Group::Names, "servers", format!("{all}{behind}"))
        }
    }];
    if !shared.is_empty() && !ours {
        let why = if link.is_some() {
            "it is a link, so another program's"
        } else {
            "it does not name the fabric's resolver"
        };
        findings.push(Finding::doubtful(
            Group::Names,
            "fabric's names",
            format!("{} share {RESOLV_CONF}, and {why}", shared.join(", ")),
            "`dns: { resolv-conf: true }` in agent.yaml where it is a file; else start them with `ripstop exec`",
        ));
    } else if ours {
        findings.push(Finding::good(Group::Names, "fabric's names", "its resolver comes first"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{WorkloadStatus, server::tests::status},
        check::State,
    };

    fn states(findings: &[Finding]) -> Vec<(&str, State)> {
        findings.iter().map(|finding| (finding.what.as_str(), finding.state)).collect()
    }

    #[test]
    fn servers_are_needed() {
        assert_eq!(states(&look("nameserver 192.0.2.53\n", None, None)), [("servers", State::Good)]);
        assert_eq!(states(&look("search a.b\n", None, None)), [("servers", State::Doubtful)]);
    }

    #[test]
    fn users_need_the_fabrics_resolver_first() {
        let mut status = status();
        status.workloads.push(WorkloadStatus { kind: "user".into(), ..status.workloads[0].clone() });
        let own = format!("nameserver {}\nnameserver 192.0.2.53\n", status.resolver.v4);
        let good = [("servers", State::Good), ("fabric's names", State::Good)];
        assert_eq!(states(&look(&own, None, Some(&status))), good);
        let found =
            look("nameserver 127.0.0.53\n", Some(Path::new("/run/systemd/resolve/stub-resolv.conf")), Some(&status));
        assert_eq!(states(&found)[1].1, State::Doubtful);
        assert!(found[1].says.contains("a link"), "{found:?}");
    }
}
