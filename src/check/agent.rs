//! The running agent, and the other hosts as it reaches them.

use super::{Finding, Group};
use crate::{
    admin::{Client, ClientError, Status, WorkloadState},
    shown,
};
use ripstop_transport::{PeerState, PeerStatus};
use std::time::{SystemTime, UNIX_EPOCH};

/// Part of the packets that may be lost before it is told: streams suffer from here on.
const LOSS_MAX: f64 = 0.02;
/// Packets below which a part says nothing.
const LOSS_PACKETS: u64 = 1_000;
/// Seconds by which clocks may differ before it is told. Certificates are made an hour early, so that much more still works.
const CLOCK_MAX: f64 = 30.0;
/// Seconds after which a host that is being connected to is one that does not answer: it takes a few round trips.
const CONNECTING_MAX: f64 = 5.0;
/// Other hosts that are asked at most: each that does not answer takes seconds.
const PINGED_MAX: usize = 32;

pub(super) fn findings(client: &Client, status: Result<&Status, &ClientError>, configured: bool) -> Vec<Finding> {
    let what = "agent";
    let status = match status {
        Ok(status) => status,
        Err(ClientError::Unreachable(..)) if !configured => return Vec::new(),
        Err(ClientError::Refused(why)) => {
            let remedy = "it answers, and does not serve: do what it says, or see `journalctl -u ripstop`";
            return vec![Finding::bad(Group::Agent, what, why, remedy)];
        }
        Err(error) => {
            let says = anyhow::anyhow!("{error}").to_string();
            let remedy = "`systemctl start ripstop`; `journalctl -u ripstop` says why it stopped";
            return vec![Finding::doubtful(Group::Agent, what, says, remedy)];
        }
    };
    let mut findings = vec![Finding::good(
        Group::Agent,
        what,
        format!("ripstop {} on {}, since {}", status.version, status.host, shown::to_second(&status.started)),
    )];
    findings.push(policy(status));
    findings.extend(status.certificate_warning.as_ref().map(|warning| {
        Finding::doubtful(
            Group::Agent,
            "certificate",
            warning,
            "see that the authority's host is up, or SPIRE's agent here, and this machine's clock",
        )
    }));
    findings.extend(status.identity.away.as_ref().map(|why| {
        let remedy = "`systemctl status spire-agent`; sessions go on, and new ones until the certificate expires";
        Finding::doubtful(Group::Agent, "identity", why, remedy)
    }));
    findings.extend(shown::clocks_apart(&status.clocks_apart).map(|apart| {
        let remedy = "set the clock that is wrong (`timedatectl`, `chronyc tracking`) by a server of time, on all hosts the same";
        Finding::doubtful(Group::Clock, "other hosts", apart, remedy)
    }));
    findings.extend(status.workloads.iter().map(|workload| match &workload.state {
        WorkloadState::Attached => Finding::good(Group::Agent, &workload.id.to_string(), "attached"),
        WorkloadState::Waiting(why) => Finding::doubtful(
            Group::Agent,
            &workload.id.to_string(),
            format!("waits: {why}"),
            "start what it is for, or mend its `run:` in the graph",
        ),
    }));
    findings.extend(status.peers.iter().enumerate().map(|(number, one)| peer(client, one, number < PINGED_MAX)));
    findings
}

fn policy(status: &Status) -> Finding {
    let policy = &status.policy;
    if let Some(error) = &policy.last_error {
        let says = format!("the last one was refused: {}", error.trim_end());
        return Finding::doubtful(Group::Agent, "policy", says, "mend it, and `ripstop apply` or save it again");
    }
    if policy.file.is_empty() && policy.signed.is_none() {
        let remedy = "`ripstop apply GRAPH` makes the first; a host that has one hands it on when connected";
        return Finding::doubtful(Group::Agent, "policy", "none yet, so everything is denied", remedy);
    }
    Finding::good(Group::Agent, "policy", format!("{} of {}, {} edges", policy.digest, policy.file, policy.edges))
}

fn peer(client: &Client, peer: &PeerStatus, asked: bool) -> Finding {
    let name = peer.host.to_string();
    let at = peer.address.map_or_else(|| "no address".into(), |address| address.to_string());
    let reach = format!(
        "see that an agent runs there (`systemctl status ripstop`), and that firewalls let UDP to {at} and its answers pass"
    );
    match &peer.state {
        PeerState::Up if asked => match client.ping(&peer.host) {
            Ok(pong) => judged(peer, &name, &at, pong.clock_ahead),
            Err(error) => Finding::bad(Group::Peers, &name, format!("connected, but silent: {error}"), reach),
        },
        PeerState::Up => judged(peer, &name, &at, None),
        PeerState::Connecting if waited(peer) > CONNECTING_MAX => {
            Finding::bad(Group::Peers, &name, format!("{at} has not answered for {:.0} s", waited(peer)), reach)
        }
        PeerState::Connecting => {
            Finding::doubtful(Group::Peers, &name, format!("{at} is being connected to"), "look again in some seconds")
        }
        PeerState::Silent => Finding::bad(Group::Peers, &name, format!("{at} is not heard any more"), reach),
        PeerState::Down { reason } => Finding::bad(Group::Peers, &name, format!("{at}: {reason}"), reach),
    }
}

/// For how many seconds it has been as it is.
fn waited(peer: &PeerStatus) -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64() - peer.since)
}

/// One that answers.
fn judged(peer: &PeerStatus, name: &str, at: &str, clock_ahead: Option<f64>) -> Finding {
    let lost = peer.lost_packets as f64 / (peer.sent_packets.max(1)) as f64;
    let rtt = peer.rtt.map(|rtt| format!(", {:.1} ms", rtt * 1e3)).unwrap_or_default();
    let mtu = peer.mtu.map(|mtu| format!(", {mtu} bytes a packet")).unwrap_or_default();
    let clock = clock_ahead.map(|ahead| format!(", clock {ahead:+.1} s")).unwrap_or_default();
    let says = format!("{at}{rtt}, {:.2} % lost{mtu}{clock}", lost * 100.0);
    if clock_ahead.is_some_and(|ahead| ahead.abs() > CLOCK_MAX) {
        return Finding::doubtful(Group::Peers, name, says, format!("set the clock of {name} or of this host"));
    }
    if lost > LOSS_MAX && peer.sent_packets > LOSS_PACKETS {
        return Finding::doubtful(Group::Peers, name, says, "look for a full link on the way, with `mtr -u` for one");
    }
    Finding::good(Group::Peers, name, says)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    fn peer(lost_packets: u64) -> PeerStatus {
        PeerStatus {
            host: "beta".parse().unwrap(),
            address: Some("192.0.2.11:7477".parse().unwrap()),
            state: PeerState::Up,
            rtt: Some(0.002),
            sent_packets: 10_000,
            lost_packets,
            mtu: Some(1_452),
            cipher: None,
            since: 0.0,
        }
    }

    #[test]
    fn loss_and_clocks_are_judged() {
        let good = judged(&peer(10), "beta", "192.0.2.11:7477", Some(0.01));
        assert_eq!(good.says, "192.0.2.11:7477, 2.0 ms, 0.10 % lost, 1452 bytes a packet, clock +0.0 s");
        assert_eq!(good.state, State::Good);
        assert_eq!(judged(&peer(500), "beta", "", None).state, State::Doubtful);
        assert_eq!(judged(&peer(0), "beta", "", Some(-31.0)).state, State::Doubtful);
    }
}
