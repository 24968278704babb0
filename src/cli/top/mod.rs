//! `ripstop top`: who calls what and how much, live.
//!
//! 1. Each agent is asked for its open sessions and for the records since the last look.
//! 2. What each session has grown by since then makes the rates ([`Rates`]); the first look only says how far each one is.
//! 3. On a terminal the table takes the screen until `q` ([`screen`]); elsewhere it is printed once, or `--count` times.

mod rows;
mod screen;

use super::{
    Exit, args,
    args::Sort,
    output::{self, Output},
    shown::bytes,
    socket,
};
use crate::admin::{
    Client, RecordsQuery,
    rates::{Ended, Rates},
};
use comfy_table::Cell;
use rows::Row;
use screen::{Screen, Wish};
use serde::Deserialize;
use std::{
    io::{self, IsTerminal},
    thread,
    time::{Duration, Instant},
};

/// An agent that is looked at.
struct Looked {
    client: Client,
    host: String,
    rates: Rates,
    /// The number of the next record.
    next: Option<u64>,
}

/// Shows the calls through every agent that answers.
pub(super) fn run(top: &args::Top, output: &Output) -> anyhow::Result<Exit> {
    let mut agents = Vec::new();
    for client in socket::clients(&top.socket) {
        let host = client.status()?.host.to_string();
        agents.push(Looked { client, host, rates: Rates::default(), next: None });
    }
    let mut last = Instant::now();
    look(&mut agents, 1.0)?;
    let live = io::stdout().is_terminal() && io::stdin().is_terminal() && !output.is_json() && top.count.is_none();
    if live {
        return watch(top, &mut agents, last, output);
    }
    for _ in 0..top.count.unwrap_or(1) {
        thread::sleep(top.interval.duration());
        let rows = sorted(&mut agents, &mut last, top.sort)?;
        output.show_list("calls", &rows, || table(&rows, output))?;
    }
    Ok(Exit::Ok)
}

fn watch(top: &args::Top, agents: &mut [Looked], mut last: Instant, output: &Output) -> anyhow::Result<Exit> {
    let (screen, mut by, mut wait) = (Screen::take()?, top.sort, Duration::from_millis(200));
    let mut rows = Vec::new();
    loop {
        match screen.wish(wait.saturating_sub(last.elapsed()))? {
            Some(Wish::Quit) => return Ok(Exit::Ok),
            Some(Wish::Sort) => {
                by = following(by);
                rows::sort(&mut rows, by);
            }
            None => rows = sorted(agents, &mut last, by)?,
        }
        wait = top.interval.duration();
        screen.draw(&page(&rows, agents, by, output))?;
    }
}

fn following(by: Sort) -> Sort {
    match by {
        Sort::Rate => Sort::Sessions,
        Sort::Sessions => Sort::Denied,
        Sort::Denied => Sort::Name,
        Sort::Name => Sort::Rate,
    }
}

fn sorted(agents: &mut [Looked], last: &mut Instant, by: Sort) -> anyhow::Result<Vec<Row>> {
    // A look in no time at all would make every rate infinite.
    let since = std::mem::replace(last, Instant::now()).elapsed().max(Duration::from_millis(1));
    let mut rows = look(agents, since.as_secs_f64())?;
    rows::sort(&mut rows, by);
    Ok(rows)
}

fn look(agents: &mut [Looked], seconds: f64) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for agent in agents {
        let live = agent.client.sessions()?;
        // Behind the sessions, so that what ends in between is in one of them at least.
        let last = agent.next.is_none().then_some(0);
        let page = agent.client.records(&RecordsQuery { after: agent.next, last, ..RecordsQuery::default() })?;
        agent.next = Some(page.next);
        let ended: Vec<Ended> = page.records.iter().filter_map(|record| Ended::deserialize(record).ok()).collect();
        rows.extend(rows::look(&mut agent.rates, &live, &ended, seconds));
    }
    Ok(rows)
}

fn page(rows: &[Row], agents: &[Looked], by: Sort, output: &Output) -> String {
    let hosts = agents.iter().map(|agent| agent.host.as_str()).collect::<Vec<_>>().join(", ");
    let sum = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>();
    let by = match by {
        Sort::Rate => "rate",
        Sort::Sessions => "sessions",
        Sort::Denied => "denied",
        Sort::Name => "name",
    };
    format!(
        "ripstop top: {hosts}   {} sessions, {}/s up, {}/s down, {:.0} denied/s   by {by} (s), quit (q)\n\n{}",
        rows.iter().map(|row| row.sessions).sum::<u64>(),
        bytes(sum(|row| row.up)),
        bytes(sum(|row| row.down)),
        sum(|row| row.denied),
        table(rows, output),
    )
}

fn table(rows: &[Row], output: &Output) -> String {
    if rows.is_empty() {
        return "no sessions\n".into();
    }
    let mut table = output.table(&["CALLER", "SERVICE", "END", "SESSIONS", "UP/s", "DOWN/s", "ENDED/s", "DENIED/s"]);
    for row in rows {
        table.add_row(vec![
            Cell::new(&row.caller),
            Cell::new(&row.service),
            Cell::new(row.side),
            Cell::new(row.sessions),
            Cell::new(bytes(row.up)),
            Cell::new(bytes(row.down)),
            Cell::new(format!("{:.1}", row.ended)),
            Cell::new(format!("{:.1}", row.denied)),
        ]);
    }
    output::lines(&table)
}
