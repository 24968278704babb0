//! `ripstop peers` and `ripstop ping`.

use super::{
    Exit, args,
    output::{self, Output, Tone},
    shown::{loss, seconds},
    socket::{self, Said},
};
use crate::admin::{Client, ClientError, Pong};
use comfy_table::Cell;
use ripstop_config::HostName;
use ripstop_transport::{PeerState, PeerStatus};
use serde::Serialize;
use std::{
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

/// Shows the other hosts, as every agent that answers sees them.
pub(super) fn run(peers: &args::Peers, output: &Output) -> anyhow::Result<Exit> {
    let all = socket::each(&peers.socket, |status| status.peers)?;
    output.show_list("peers", &all, || describe(&all, output))?;
    Ok(Exit::Ok)
}

fn describe(peers: &[Said<PeerStatus>], output: &Output) -> String {
    if peers.is_empty() {
        return "no other hosts\n".into();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    output.table_of(&["PEER", "STATE", "FOR", "PATH", "RTT", "SENT", "LOSS", "MTU", "CIPHER"], peers, |peer| {
        let up = peer.state == PeerState::Up;
        let shown = |value: Option<String>| Cell::new(value.unwrap_or_else(|| "-".into()));
        vec![
            Cell::new(&peer.host),
            output.cell(&state(&peer.state), if up { Tone::Good } else { Tone::Bad }),
            Cell::new(seconds((now - peer.since).max(0.0))),
            shown(peer.address.map(|address| address.to_string())),
            shown(peer.rtt.map(seconds)),
            Cell::new(peer.sent_packets),
            shown(up.then(|| format!("{:.2} %", loss(peer.sent_packets, peer.lost_packets)))),
            shown(peer.mtu.map(|mtu| mtu.to_string())),
            shown(peer.cipher.clone()),
        ]
    })
}

/// How a host can be reached, in words.
pub(super) fn state(state: &PeerState) -> String {
    match state {
        PeerState::Up => "up".into(),
        PeerState::Silent => "silent".into(),
        PeerState::Connecting => "connecting".into(),
        PeerState::Down { reason } => format!("down: {reason}"),
    }
}

/// What came of some pings.
#[derive(Serialize)]
struct Pinged {
    host: HostName,
    answers: Vec<Answer>,
    lost: usize,
    /// Round trips in seconds; `None` without an answer.
    fastest: Option<f64>,
    median: Option<f64>,
    slowest: Option<f64>,
}

/// What came of one.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Pong(Pong),
    None { error: String },
}

/// Asks another host's agent some times. Exits with 1 when one question had no answer.
pub(super) fn ping(ping: &args::Ping, output: &Output) -> anyhow::Result<Exit> {
    let client = socket::one(&ping.socket)?;
    let mut answers = Vec::new();
    for number in 0..ping.count {
        if number > 0 {
            thread::sleep(ping.interval.duration());
        }
        let answer = ask(&client, &ping.peer)?;
        if !output.is_json() {
            output::print(&format!("{}\n", told(&ping.peer, &answer)))?;
        }
        answers.push(answer);
    }
    let pinged = summary(&ping.peer, answers);
    output.show(&pinged, || summed(&pinged))?;
    Ok(if pinged.lost == 0 { Exit::Ok } else { Exit::Failed })
}

fn ask(client: &Client, peer: &HostName) -> Result<Answer, ClientError> {
    match client.ping(peer) {
        Ok(pong) => Ok(Answer::Pong(pong)),
        Err(ClientError::Refused(error)) => Ok(Answer::None { error }),
        Err(error) => Err(error),
    }
}

fn told(peer: &HostName, answer: &Answer) -> String {
    match answer {
        Answer::Pong(pong) => {
            let clock = pong.clock_ahead.map(|ahead| format!(", clock {:+.1} ms", ahead * 1e3)).unwrap_or_default();
            format!("{peer}: {:.2} ms{clock}", pong.rtt * 1e3)
        }
        Answer::None { error } => format!("{peer}: no answer: {error}"),
    }
}

fn summary(host: &HostName, answers: Vec<Answer>) -> Pinged {
    let times = answers.iter().filter_map(|answer| match answer {
        Answer::Pong(pong) => Some(pong.rtt),
        Answer::None { .. } => None,
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    let (fastest, median, slowest) = (times.first(), times.get(times.len() / 2), times.last());
    Pinged {
        host: host.clone(),
        lost: answers.len() - times.len(),
        fastest: fastest.copied(),
        median: median.copied(),
        slowest: slowest.copied(),
        answers,
    }
}

fn summed(pinged: &Pinged) -> String {
    let asked = pinged.answers.len();
    let answered = asked - pinged.lost;
    let times = match (pinged.fastest, pinged.median, pinged.slowest) {
        (Some(fastest), Some(median), Some(slowest)) => {
            format!(", {:.2} / {:.2} / {:.2} ms (fastest, median, slowest)", fastest * 1e3, median * 1e3, slowest * 1e3)
        }
        _ => String::new(),
    };
    format!("{answered} of {asked} answered{times}\n")
}
