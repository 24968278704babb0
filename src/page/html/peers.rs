//! The other hosts.

use super::{super::facts::Facts, age, empty, pill};
use crate::shown::{loss, seconds};
use maud::{Markup, html};
use ripstop_transport::{PeerState, PeerStatus};

/// Hosts shown: those that are not well come first.
const SHOWN_MAX: usize = 50;

const COLUMNS: [(&str, &str); 9] = [
    ("Host", ""),
    ("State", ""),
    ("For", "number"),
    ("Path", ""),
    ("Round trip", "number"),
    ("Loss", "number"),
    ("MTU", "number"),
    ("Cipher", ""),
    ("Policy", ""),
];

pub(super) fn table(facts: &Facts) -> Markup {
    let mut peers: Vec<&PeerStatus> = facts.status.peers.iter().collect();
    peers.sort_by_key(|peer| (peer.state == PeerState::Up, peer.host.clone()));
    let more = peers.len().saturating_sub(SHOWN_MAX);
    html! {
        section id="peers" data-live aria-labelledby="peers-title" {
            header {
                h2 id="peers-title" { "Hosts" }
                p class="hint" { "the others, as " (facts.status.host) " sees them" }
            }
            @if peers.is_empty() {
                (empty("No other hosts.", "This host is alone in the graph, or calls no other."))
            } @else {
                div class="scroll" tabindex="0" role="region" aria-label="Hosts" {
                    table {
                        thead { tr { @for (title, class) in COLUMNS { th scope="col" class=(class) { (title) } } } }
                        tbody { @for peer in peers.iter().take(SHOWN_MAX) { (row(facts, peer)) } }
                    }
                }
            }
            @if more > 0 { p class="more" { "and " (more) " more that are connected: " code { "ripstop peers" } } }
        }
    }
}

fn row(facts: &Facts, peer: &PeerStatus) -> Markup {
    let up = peer.state == PeerState::Up;
    let (class, word, why) = match &peer.state {
        PeerState::Up => ("used", "connected", ""),
        PeerState::Silent => ("limited", "silent", ""),
        PeerState::Connecting => ("limited", "connecting", ""),
        PeerState::Down { reason } => ("denied", "down", reason.as_str()),
    };
    let now = facts.now.unix_timestamp_nanos() as f64 / 1e9;
    let shown = |value: Option<String>| value.unwrap_or_else(|| "–".into());
    html! {
        tr {
            td { strong { (peer.host) } }
            td { (pill(class, word)) @if !why.is_empty() { " " span class="faint" { (why) } } }
            td class="number" { (age(now - peer.since)) }
            td { (shown(peer.address.map(|address| address.to_string()))) }
            td class="number" { (shown(peer.rtt.map(seconds))) }
            td class="number" { (shown(up.then(|| format!("{:.2} %", loss(peer.sent_packets, peer.lost_packets))))) }
            td class="number" { (shown(peer.mtu.map(|mtu| mtu.to_string()))) }
            td { (shown(peer.cipher.clone())) }
            td { (shown(facts.status.peer_policies.get(&peer.host).map(|id| id.version.to_string()))) }
        }
    }
}
