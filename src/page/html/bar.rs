//! Above and below: what it is, what is wrong, and the figures.

use super::{super::facts::Facts, age, counted, prose};
use crate::shown::bytes;
use maud::{Markup, html};
use ripstop_transport::PeerState;

pub(super) fn top(facts: &Facts) -> Markup {
    html! {
        header class="top" {
            a class="brand" href="/" { img src="/icon.svg" alt="" width="22" height="22"; "Ripstop" }
            h1 { strong { (facts.status.host) } " in " (facts.status.fabric) }
            p class="live" id="live" hidden { "Live" }
        }
    }
}

pub(super) fn warnings(facts: &Facts) -> Markup {
    let status = &facts.status;
    let refused = status
        .policy
        .last_error
        .as_ref()
        .map(|error| format!("The policy in force stays, as the last one was refused: {error}"));
    let mistake = facts.mistake.as_ref().map(|mistake| format!("The filter is ignored: {mistake}"));
    let all = [mistake, refused, status.certificate_warning.clone(), status.door_warning.clone()];
    html! {
        div id="warnings" data-live role="status" {
            @for warning in all.iter().flatten() { p class="warning" { (prose(warning)) } }
        }
    }
}

struct Figure {
    title: &'static str,
    value: String,
    note: String,
    class: &'static str,
}

pub(super) fn figures(facts: &Facts) -> Markup {
    html! {
        dl class="figures" id="figures" data-live {
            @for figure in all(facts) {
                div class=(figure.class) { dt { (figure.title) } dd { (figure.value) } dd class="note" { (figure.note) } }
            }
        }
    }
}

fn hosts(facts: &Facts) -> Figure {
    let peers = &facts.status.peers;
    let up = peers.iter().filter(|peer| peer.state == PeerState::Up).count();
    let (note, class) = match peers.len() - up {
        0 => ("all connected".into(), ""),
        away => (format!("{away} not connected"), "limited"),
    };
    Figure { title: "Hosts", value: format!("{} of {}", up + 1, peers.len() + 1), note, class }
}

fn all(facts: &Facts) -> [Figure; 6] {
    let (status, totals) = (&facts.status, &facts.totals);
    let refused: u64 = status.tally.denied.values().sum();
    let left = facts.since(&status.certificate_expires).map_or(0.0, |since| -since);
    let policy = match status.policy.signed {
        Some(id) => id.version.to_string(),
        None if status.policy.file.is_empty() => "none".into(),
        None => status.policy.digest.chars().take(8).collect(),
    };
    let in_force =
        facts.since(&status.policy.loaded).map_or_else(String::new, |since| format!("in force for {}", age(since)));
    [
        hosts(facts),
        Figure {
            title: "Open sessions",
            value: status.sessions_open.to_string(),
            note: format!("{} here", counted(status.workloads.len(), "workload")),
            class: "",
        },
        Figure {
            title: "Carried",
            value: format!("{}/s", bytes(totals.up + totals.down)),
            note: format!("↑ {}/s  ↓ {}/s", bytes(totals.up), bytes(totals.down)),
            class: "",
        },
        Figure {
            title: "Denied",
            value: format!("{:.0}/s", totals.denied),
            note: format!("{refused} since the start"),
            class: if totals.denied >= 0.5 { "denied" } else { "" },
        },
        Figure {
            title: "Policy",
            value: policy,
            note: in_force,
            class: if status.policy.last_error.is_some() { "limited" } else { "" },
        },
        Figure {
            title: "Certificate",
            value: if left > 0.0 { age(left) } else { "expired".into() },
            note: if left > 0.0 { "left".into() } else { String::new() },
            class: if left <= 0.0 {
                "denied"
            } else if status.certificate_warning.is_some() {
                "limited"
            } else {
                ""
            },
        },
    ]
}

pub(super) fn foot(facts: &Facts) -> Markup {
    let up = facts.since(&facts.status.started).map_or_else(String::new, |since| format!(", up for {}", age(since)));
    html! {
        footer class="foot" {
            "Ripstop " (facts.status.version) " on " (facts.status.host) (up) ". This page shows and changes nothing; counts are of this host since its agent started."
        }
    }
}
