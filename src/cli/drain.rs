//! `ripstop drain`.

use super::{
    Exit, args,
    output::{self, Output, Tone},
    socket,
};
use crate::admin::{Client, Standing, State};
use comfy_table::Cell;
use std::time::{Duration, Instant};

/// How often the sessions that are left are counted.
const LOOK: Duration = Duration::from_millis(200);

/// Drains endpoints of this host, or ends that.
pub(super) fn run(drain: &args::Drain, output: &Output) -> anyhow::Result<Exit> {
    let client = socket::one(&drain.socket)?;
    let mut standings = client.drain(drain.service.as_deref(), drain.undo)?;
    let mut exit = Exit::Ok;
    if let Some(most) = drain.wait {
        standings = wait(&client, standings, most.map(ripstop_config::Span::duration))?;
        if open(&standings) > 0 {
            exit = Exit::Failed;
        }
    }
    output.show_list("endpoints", &standings, || describe(&standings, output))?;
    Ok(exit)
}

/// Waits until none of the endpoints has a session, or `most` is over.
fn wait(client: &Client, mut standings: Vec<Standing>, most: Option<Duration>) -> anyhow::Result<Vec<Standing>> {
    let started = Instant::now();
    while open(&standings) > 0 && most.is_none_or(|most| started.elapsed() < most) {
        std::thread::sleep(LOOK);
        let status = client.status()?;
        for standing in &mut standings {
            let service = status.services.iter().find(|service| service.id == standing.service);
            let endpoint = service.and_then(|service| service.endpoints.iter().find(|one| one.host == status.host));
            // A service that is not of this host any more has had its sessions cut.
            standing.sessions = endpoint.and_then(|endpoint| endpoint.sessions).unwrap_or(0);
        }
    }
    Ok(standings)
}

fn open(standings: &[Standing]) -> u64 {
    standings.iter().map(|standing| u64::from(standing.sessions)).sum()
}

fn describe(standings: &[Standing], output: &Output) -> String {
    if standings.is_empty() {
        return "no services on this host\n".into();
    }
    let mut table = output.table(&["SERVICE", "STATE", "SESSIONS"]);
    for Standing { service, state, sessions, .. } in standings {
        let (tone, state) = match state {
            State::Ready => (Tone::Good, "ready"),
            State::Unhealthy => (Tone::Bad, "unhealthy"),
            State::Draining => (Tone::Bad, "draining"),
            State::Absent => (Tone::Bad, "absent"),
        };
        table.add_row(vec![Cell::new(service), output.cell(state, tone), Cell::new(sessions)]);
    }
    output::lines(&table)
}
