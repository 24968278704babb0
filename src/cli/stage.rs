//! `ripstop apply --stage` and `ripstop stage`: a graph that is tried on live traffic before it is in force.

use super::{
    Exit, apply, args,
    args::learn::{Commit, Stage, StageCommand},
    files,
    output::{self, Output, Tone},
    socket,
};
use crate::{
    admin::{Attempt, Client, Staged},
    bundles::publish::publish,
};
use anyhow::{Context as _, bail};
use comfy_table::Cell;

/// Stages a graph on the agent that is asked.
pub(super) fn put(apply: &args::Apply) -> anyhow::Result<Exit> {
    // Mistakes are shown before anybody is asked.
    files::policy(&apply.file)?;
    let client = socket::one(&apply.signing.socket)?;
    client.stage(&apply.file.display().to_string(), crate::files::read(&apply.file)?)?;
    output::print(&format!(
        "staged on {}, and not in force; `ripstop stage status` says what it would change for the workloads there\n",
        client.status()?.host
    ))?;
    Ok(Exit::Ok)
}

pub(super) fn run(command: &StageCommand, output: &Output) -> anyhow::Result<Exit> {
    match command {
        StageCommand::Status(Stage { socket }) => status(&socket::one(socket)?, output),
        StageCommand::Commit(commit) => self::commit(commit, output),
        StageCommand::Discard(Stage { socket }) => {
            socket::one(socket)?.discard_stage()?;
            output::print("nothing is staged\n")?;
            Ok(Exit::Ok)
        }
    }
}

fn status(client: &Client, output: &Output) -> anyhow::Result<Exit> {
    let staged = client.staged()?;
    output.show(&staged, || staged.as_ref().map_or("nothing is staged\n".into(), |staged| describe(staged, output)))?;
    Ok(Exit::Ok)
}

fn describe(staged: &Staged, output: &Output) -> String {
    let Staged { file, since, would_allow, would_deny, would_cut, .. } = staged;
    let noun = if *would_cut == 1 { "session" } else { "sessions" };
    let head = format!("{file}, staged since {since}; it would cut {would_cut} open {noun} of this host\n");
    if would_allow.is_empty() && would_deny.is_empty() {
        return format!("{head}nothing was asked for since that it decides otherwise\n");
    }
    let mut table = output.table(&["CHANGE", "WHAT", "COUNT", "LAST"]);
    for (change, tone, attempts) in [("would-deny", Tone::Bad, would_deny), ("would-allow", Tone::Good, would_allow)] {
        for attempt in attempts {
            let (count, last) = (Cell::new(attempt.count), Cell::new(&attempt.last));
            table.add_row(vec![output.cell(change, tone), Cell::new(call(attempt)), count, last]);
        }
    }
    format!("{head}{}", output::lines(&table))
}

/// `shop/web -> shop/db:5432/tcp`, or without the port where a name was asked for.
pub(super) fn call(attempt: &Attempt) -> String {
    let port = attempt.port.map_or_else(|| " by name".to_owned(), |port| format!(":{port}"));
    format!("{} -> {}{port}", attempt.caller, attempt.service)
}

/// Signs what is staged, as the newest policy, and forgets that it was staged.
fn commit(commit: &Commit, output: &Output) -> anyhow::Result<Exit> {
    let keys = apply::load(&commit.signing.keys)?;
    let client = socket::one(&commit.signing.socket)?;
    let Some(staged) = client.staged()? else { bail!("nothing is staged; `ripstop apply --stage GRAPH` does that") };
    let id = publish(&client, &keys, |content| {
        (content.file, content.graph) = (staged.file, staged.graph);
        content.note = commit.signing.note.clone().unwrap_or_default();
        Ok(())
    })
    .context("failed to put the staged graph in force; it stays staged")?;
    client.discard_stage()?;
    apply::follow(&client, id, commit.signing.wait.duration(), output)
}
