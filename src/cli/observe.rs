//! `ripstop observe`: session records, those that the agent keeps and those to come.

use super::{
    Exit, args,
    output::{self, Output},
    shown::{bytes, clock, seconds},
    socket,
};
use crate::admin::{Client, ClientError, Records, RecordsQuery, operate::RECORDS_WAIT_MAX};
use ripstop_config::{Reason, Replica};
use ripstop_telemetry::recent::RECENT_MAX;
use serde::Deserialize;
use serde_json::Value;
use std::{io::Write, sync::mpsc, thread};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Records shown unless told otherwise.
const SHOWN: usize = 20;
/// Pages of several agents that wait to be printed: a terminal that stands still holds the agents' records back, not memory.
const PAGES_WAITING: usize = 8;

/// The parts of a record that a line for people shows.
#[derive(Deserialize)]
struct Line {
    start: String,
    duration_s: f64,
    caller: String,
    caller_replica: Option<Replica>,
    service: Option<String>,
    destination: String,
    port: u16,
    protocol: String,
    verdict: String,
    reason: String,
    rule: Option<String>,
    detail: Option<String>,
    endpoint_host: Option<String>,
    endpoint_replica: Option<Replica>,
    bytes_up: u64,
    bytes_down: u64,
}

/// Shows the records of every agent that answers.
pub(super) fn run(observe: &args::Observe, output: &Output) -> anyhow::Result<Exit> {
    let clients = socket::clients(&observe.socket);
    let query = RecordsQuery {
        last: observe.last.or_else(|| observe.since.is_none().then_some(SHOWN)),
        from: observe.from.clone(),
        to: observe.to.clone(),
        replica: observe.replica.clone(),
        tenant: observe.tenant.clone(),
        verdict: observe.verdict.map(|verdict| verdict.as_str().to_owned()),
        reason: observe.reason.map(|reason| reason.to_string()),
        since: observe.since.map(|since| since.0),
        ..RecordsQuery::default()
    };
    let pages: Vec<_> = clients.iter().map(|client| client.records(&query)).collect::<Result<_, _>>()?;
    if !output.is_json() {
        output::print(&head())?;
    }
    let mut records: Vec<&Value> = pages.iter().flat_map(|page| &page.records).collect();
    records.sort_by_key(|record| ended(record));
    if records.is_empty() && !output.is_json() && !observe.follow {
        output::complain(&format!("none of the last {RECENT_MAX} sessions that the agent keeps fits\n"));
    }
    let skip = query.last.map_or(0, |last| records.len().saturating_sub(last));
    if !print_all(records.into_iter().skip(skip), output)? || !observe.follow {
        return Ok(Exit::Ok);
    }
    let from = clients.into_iter().zip(pages.iter().map(|page| page.next)).collect();
    follow(from, &query, output)
}

/// Each agent is asked on a thread of its own; they end with the process.
fn follow(agents: Vec<(Client, u64)>, query: &RecordsQuery, output: &Output) -> anyhow::Result<Exit> {
    let (sender, pages) = mpsc::sync_channel(PAGES_WAITING);
    for (client, next) in agents {
        let (sender, query) = (sender.clone(), query.clone());
        thread::spawn(move || tail(&client, next, query, &sender));
    }
    drop(sender);
    for page in pages {
        let page = page?;
        if page.missed > 0 {
            let mut stderr = std::io::stderr().lock();
            // There is nowhere left to say that this failed.
            let _ = writeln!(stderr, "{} records came too fast and are not shown", page.missed);
        }
        if !print_all(page.records.iter(), output)? {
            break;
        }
    }
    Ok(Exit::Ok)
}

fn tail(client: &Client, next: u64, query: RecordsQuery, pages: &mpsc::SyncSender<Result<Records, ClientError>>) {
    let mut query = RecordsQuery { after: Some(next), wait: Some(RECORDS_WAIT_MAX.as_secs()), last: None, ..query };
    loop {
        let page = client.records(&query);
        let failed = page.is_err();
        query.after = page.as_ref().map_or(query.after, |page| Some(page.next));
        if pages.send(page).is_err() || failed {
            return;
        }
    }
}

/// Prints records; `false` when nobody reads them any more.
fn print_all<'r>(records: impl Iterator<Item = &'r Value>, output: &Output) -> anyhow::Result<bool> {
    let mut text = String::new();
    for record in records {
        text.push_str(&if output.is_json() { output::line(record)? } else { line(record) });
    }
    output::print_while_read(&text)
}

fn head() -> String {
    columns(["ENDED", "VERDICT", "CALLER", "SERVICE", "REASON", "UP", "DOWN", "LASTED", "WHY"])
}

fn columns([ended, verdict, caller, service, reason, up, down, lasted, why]: [&str; 9]) -> String {
    let line = format!(
        "{ended:<12}  {verdict:<7}  {caller:<20}  {service:<26}  {reason:<18}  {up:>8}  {down:>8}  {lasted:>8}  {why}"
    );
    format!("{}\n", line.trim_end())
}

fn line(record: &Value) -> String {
    let Ok(one) = Line::deserialize(record) else {
        return format!("a record of another version of ripstop: {record}\n");
    };
    let target = one.service.as_deref().unwrap_or(&one.destination);
    let service = format!("{target}:{}/{}", one.port, one.protocol);
    let described = one.reason.parse::<Reason>().map_or("", Reason::describe);
    let which = |replica: &Option<Replica>| replica.as_ref().map(|one| format!(" ({one})")).unwrap_or_default();
    let rule = one.rule.map(|rule| match one.endpoint_host {
        Some(host) => format!("{rule}, on {host}{}", which(&one.endpoint_replica)),
        None => rule,
    });
    columns([
        &ended(record).map_or_else(|| one.start.clone(), clock),
        &one.verdict,
        &format!("{}{}", one.caller, which(&one.caller_replica)),
        &service,
        &one.reason,
        &bytes(one.bytes_up as f64),
        &bytes(one.bytes_down as f64),
        &seconds(one.duration_s),
        one.detail.as_deref().or(rule.as_deref()).unwrap_or(described),
    ])
}

/// When a session ended.
fn ended(record: &Value) -> Option<OffsetDateTime> {
    let start = OffsetDateTime::parse(record["start"].as_str()?, &Rfc3339).ok()?;
    start.checked_add(time::Duration::checked_seconds_f64(record["duration_s"].as_f64()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_who_what_and_why() {
        let mut record = json!({
            "start": "2026-01-31T12:00:00.5Z", "duration_s": 1.25, "caller": "shop/web", "service": "shop/api",
            "destination": "198.18.0.2", "port": 8080, "protocol": "tcp", "verdict": "allow", "reason": "closed",
            "rule": "shop.yaml:14", "detail": null, "endpoint_host": "beta", "bytes_up": 5, "bytes_down": 2_500_000,
        });
        let shown = line(&record);
        let words: Vec<_> = shown.split_whitespace().collect();
        let expected = "12:00:01.750 allow shop/web shop/api:8080/tcp closed 5B 2.5MB 1.25s shop.yaml:14, on beta";
        assert_eq!(words.join(" "), expected);
        record["caller_replica"] = "one".into();
        record["endpoint_replica"] = "4f2a9c81d2aa77e01c".into();
        assert!(line(&record).contains(" shop/web (one) ") && line(&record).ends_with("on beta (4f2a9c81d2aa)\n"));
        record["rule"] = Value::Null;
        record["reason"] = "no_edge".into();
        assert!(line(&record).ends_with("no `allow` edge in the graph permits it\n"), "{}", line(&record));
        record["service"] = Value::Null;
        assert!(line(&record).contains(" 198.18.0.2:8080/tcp "));
        assert!(line(&json!({ "new": 1 })).contains("another version"));
    }
}
