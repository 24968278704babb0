//! The sessions: open ones, and those that have ended, the newest first.

use super::{
    super::{asked::Asked, facts::Facts},
    empty, pill,
};
use crate::{
    admin::LiveSession,
    shown::{bytes, clock, seconds},
};
use maud::{Markup, html};
use ripstop_telemetry::{SessionRecord, Side, edges};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

const COLUMNS: [(&str, &str); 8] = [
    ("Time (UTC)", ""),
    ("Verdict", ""),
    ("Caller", ""),
    ("Service", ""),
    ("Endpoint", ""),
    ("There", "number"),
    ("Back", "number"),
    ("Lasted", "number"),
];

pub(super) fn table(facts: &Facts, asked: &Asked) -> Markup {
    let more = facts.open_left_out + facts.ended_left_out;
    html! {
        section id="sessions" data-live aria-labelledby="sessions-title" {
            header {
                h2 id="sessions-title" { "Sessions" }
                p class="hint" { (facts.open.len() + facts.open_left_out) " open, then the newest that have ended; the time of one leads to why it went so" }
            }
            @if facts.open.is_empty() && facts.ended.is_empty() {
                (empty("No sessions.", if asked.is_filtered() { "None that the agent keeps fits the filter." } else { "Nothing was called since the agent started." }))
            } @else {
                div class="scroll" tabindex="0" role="region" aria-label="Sessions" {
                    table {
                        thead { tr { @for (title, class) in COLUMNS { th scope="col" class=(class) { (title) } } } }
                        tbody {
                            @for one in &facts.open { (open(facts, one, asked)) }
                            @for one in &facts.ended { (ended(one, asked)) }
                        }
                    }
                }
            }
            @if more > 0 { p class="more" { "and " (more) " more; the filter, or the command above, finds them" } }
        }
    }
}

fn open(facts: &Facts, one: &LiveSession, asked: &Asked) -> Markup {
    let lasted = facts.since(&one.started).map_or_else(String::new, |since| seconds(since.max(0.0)));
    let started = OffsetDateTime::parse(&one.started, &Rfc3339).map_or_else(|_| one.started.clone(), to_second);
    let endpoint = match one.side {
        Side::Caller => &one.peer,
        Side::Server => &facts.status.host,
    };
    let target = html! { (one.service) ":" (one.port) };
    let state = if one.waited_s > 0.0 { pill("limited", "open, limited") } else { pill("open", "open") };
    let cells = Cells {
        time: started,
        state,
        target,
        endpoint: endpoint.to_string(),
        up: one.bytes_up,
        down: one.bytes_down,
        lasted,
    };
    row(&one.session, one.side, &one.caller.to_string(), &cells, asked)
}

fn ended(one: &SessionRecord, asked: &Asked) -> Markup {
    let denied = one.verdict == "deny";
    let state = match (denied, edges::was_limited(one)) {
        (true, _) => pill("denied", one.reason.as_str()),
        (false, true) => pill("limited", "limited"),
        (false, false) => pill("used", "allowed"),
    };
    let name = one.service.as_ref().map_or_else(|| one.destination.clone(), ToString::to_string);
    let cells = Cells {
        time: to_second(one.start + Duration::seconds_f64(one.duration_s)),
        state,
        target: html! { (name) ":" (one.port) span class="faint" { "/" (one.protocol) } },
        endpoint: one.endpoint_host.as_ref().map_or_else(|| "–".into(), ToString::to_string),
        up: one.bytes_up,
        down: one.bytes_down,
        lasted: seconds(one.duration_s),
    };
    row(&one.session, one.side, &one.caller.to_string(), &cells, asked)
}

struct Cells {
    time: String,
    state: Markup,
    target: Markup,
    endpoint: String,
    up: u64,
    down: u64,
    lasted: String,
}

fn row(session: &str, side: Side, caller: &str, cells: &Cells, asked: &Asked) -> Markup {
    let chosen = asked.session == session && (asked.side.is_empty() || asked.side == side.as_str());
    let choose = |asked: &mut Asked| {
        session.clone_into(&mut asked.session);
        side.as_str().clone_into(&mut asked.side);
    };
    let address = format!("{}#why", asked.with(choose));
    html! {
        tr aria-current=[chosen.then_some("true")] {
            td { a href=(address) aria-label=(format!("Why: {caller} at {}", cells.time)) { (cells.time) } }
            td { (cells.state) }
            td { (caller) }
            td { (cells.target) }
            td { (cells.endpoint) }
            td class="number" { (bytes(cells.up as f64)) }
            td class="number" { (bytes(cells.down as f64)) }
            td class="number" { (cells.lasted) }
        }
    }
}

/// A time of day, without the parts of a second.
pub(super) fn to_second(at: OffsetDateTime) -> String {
    clock(at).chars().take(8).collect()
}
