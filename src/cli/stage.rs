//! `ripstop apply --stage` and `ripstop stage`: a graph that is tried on live traffic before it is in force.

use super::{
    Exit, apply, args,
    args::{
        Signing,
        learn::{Commit, Stage, StageCommand},
        policy::DEFAULT_KEY,
    },
    files,
    output::{self, Output, Tone},
    socket,
};
use crate::{
    admin::{Attempt, Client, HostStage, Reach, Staged},
    bundles::publish::{publish, seal_stage},
};
use anyhow::{Context as _, bail};
use comfy_table::Cell;
use ripstop_config::HostName;
use serde::Serialize;

/// Who answered, and what a staged policy would change there, together.
#[derive(Serialize)]
struct Everywhere {
    #[serde(flatten)]
    staged: Staged,
    /// The hosts that are counted, the one that was asked first.
    hosts: Vec<HostName>,
    /// The hosts that are not, and why.
    missing: Vec<Missing>,
}

#[derive(Serialize)]
struct Missing {
    host: HostName,
    why: &'static str,
}

/// Stages a graph: on all hosts where an operator's key is at hand, else on the one that is asked.
pub(super) fn put(apply: &args::Apply) -> anyhow::Result<Exit> {
    // Mistakes are shown before anybody is asked.
    files::policy(&apply.file)?;
    let client = socket::one(&apply.signing.socket)?;
    let graph = (apply.file.display().to_string(), crate::files::read(&apply.file)?);
    if !has_key(&apply.signing) || client.status()?.policy.signed.is_none() {
        client.stage(&graph.0, graph.1)?;
        output::print(&format!(
            "staged on {} alone, and not in force; with --key an operator has it tried on all hosts\n{STATUS}",
            client.status()?.host
        ))?;
        return Ok(Exit::Ok);
    }
    publish_stage(&client, &apply.signing, Some(graph))?;
    output::print(&format!("staged, on its way to all hosts, and not in force\n{STATUS}"))?;
    Ok(Exit::Ok)
}

const STATUS: &str = "`ripstop stage status` says what it would change\n";

/// Whether there is a key to sign with: the usual one need not be there, as the host that is asked needs none.
fn has_key(signing: &Signing) -> bool {
    signing.keys.iter().any(|key| key.as_os_str() != DEFAULT_KEY || key.exists())
}

fn publish_stage(client: &Client, signing: &Signing, graph: Option<(String, String)>) -> anyhow::Result<()> {
    let keys = apply::load(&signing.keys)?;
    let envelope = seal_stage(&client.running(None)?, graph, &keys)?;
    client.stage_signed(envelope.encode())?;
    Ok(())
}

pub(super) fn run(command: &StageCommand, output: &Output) -> anyhow::Result<Exit> {
    match command {
        StageCommand::Status(Stage { socket }) => status(&socket::one(socket)?, output),
        StageCommand::Commit(commit) => self::commit(commit, output),
        StageCommand::Discard(discard) => self::discard(discard),
    }
}

fn discard(discard: &Commit) -> anyhow::Result<Exit> {
    let client = socket::one(&discard.signing.socket)?;
    let everywhere = client.staged()?.is_some_and(|staged| !staged.stage.is_none());
    if everywhere && has_key(&discard.signing) {
        publish_stage(&client, &discard.signing, None)?;
        output::print("nothing is staged any more, on any host\n")?;
        return Ok(Exit::Ok);
    }
    client.discard_stage()?;
    let host = client.status()?.host;
    let rest = if everywhere { "; with --key on the others, too" } else { "" };
    output::print(&format!("nothing is staged on {host}{rest}\n"))?;
    Ok(Exit::Ok)
}

fn status(client: &Client, output: &Output) -> anyhow::Result<Exit> {
    let Some(here) = client.staged()? else {
        output.show(&None::<Everywhere>, || "nothing is staged\n".into())?;
        return Ok(Exit::Ok);
    };
    // On this host alone: there is nobody to ask.
    let others = if here.stage.is_none() { Vec::new() } else { client.staged_elsewhere()? };
    let all = together(client.status()?.host, here, others);
    output.show(&all, || describe(&all, output))?;
    Ok(Exit::Ok)
}

/// Attempts are counted at their callers' hosts, and sessions there, so that those of all hosts can be added up.
fn together(asked: HostName, here: Staged, others: Vec<HostStage>) -> Everywhere {
    let mut all = Everywhere { staged: here, hosts: vec![asked], missing: Vec::new() };
    for HostStage { host, reach, answered, staged } in others {
        match staged.filter(|one| one.stage == all.staged.stage) {
            Some(theirs) => {
                all.hosts.push(host);
                all.staged.would_cut += theirs.would_cut;
                all.staged.left_out += theirs.left_out;
                add(&mut all.staged.would_allow, theirs.would_allow);
                add(&mut all.staged.would_deny, theirs.would_deny);
            }
            None => {
                let why = match (reach, answered) {
                    (_, true) => "it does not have this one on stage",
                    (Reach::Up, false) => "it did not answer",
                    (Reach::Carried | Reach::Connecting | Reach::Down, false) => "it is not reachable",
                    (Reach::Unknown, false) => "the graph has no address of it, and it has not called",
                };
                all.missing.push(Missing { host, why });
            }
        }
    }
    all
}

fn add(to: &mut Vec<Attempt>, more: Vec<Attempt>) {
    for attempt in more {
        let what = |one: &Attempt| (one.caller.clone(), one.service.clone(), one.port);
        match to.iter_mut().find(|one| what(one) == what(&attempt)) {
            Some(same) => {
                same.count = same.count.saturating_add(attempt.count);
                // RFC 3339 in UTC, to the second: as texts they are in the order of time.
                same.first = same.first.clone().min(attempt.first);
                same.last = same.last.clone().max(attempt.last);
            }
            None => to.push(attempt),
        }
    }
}

fn describe(all: &Everywhere, output: &Output) -> String {
    let Staged { file, since, would_allow, would_deny, would_cut, left_out, .. } = &all.staged;
    let names: Vec<_> = all.hosts.iter().map(ToString::to_string).collect();
    let noun = if *would_cut == 1 { "session" } else { "sessions" };
    let mut text = format!("{file}, staged since {since}, on {}\n", names.join(", "));
    for Missing { host, why } in &all.missing {
        text.push_str(&format!("not counted: {host}, as {why}\n"));
    }
    text.push_str(&format!("it would cut {would_cut} open {noun}\n"));
    if would_allow.is_empty() && would_deny.is_empty() {
        return format!("{text}nothing was asked for since that it decides otherwise\n");
    }
    let mut table = output.table(&["CHANGE", "WHAT", "COUNT", "LAST"]);
    for (change, tone, attempts) in [("would-deny", Tone::Bad, would_deny), ("would-allow", Tone::Good, would_allow)] {
        for attempt in attempts {
            let (count, last) = (Cell::new(attempt.count), Cell::new(&attempt.last));
            table.add_row(vec![output.cell(change, tone), Cell::new(call(attempt)), count, last]);
        }
    }
    text.push_str(&output::lines(&table));
    if *left_out > 0 {
        text.push_str(&format!("and {left_out} more on other hosts, each seen less often\n"));
    }
    text
}

/// `shop/web -> shop/db:5432/tcp`, or without the port where a name was asked for.
pub(super) fn call(attempt: &Attempt) -> String {
    let port = attempt.port.map_or_else(|| " by name".to_owned(), |port| format!(":{port}"));
    format!("{} -> {}{port}", attempt.caller, attempt.service)
}

/// Signs what is staged, as the newest policy: every host forgets then that it was staged.
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
    // Where it was on stage here alone, nothing else takes it from there.
    client.discard_stage()?;
    apply::follow(&client, id, commit.signing.wait.duration(), output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(caller: &str, count: u64, first: &str, last: &str) -> Attempt {
        Attempt {
            caller: caller.parse().unwrap(),
            service: "shop/api".parse().unwrap(),
            port: "8080/tcp".parse().ok(),
            count,
            first: first.into(),
            last: last.into(),
        }
    }

    fn staged(number: u64, would_allow: Vec<Attempt>, would_cut: usize) -> Staged {
        let stage = ripstop_policy::StageId { number, ..Default::default() };
        let (file, graph, since) = ("g.yaml".to_owned(), String::new(), "2026-11-26T00:00:00Z".to_owned());
        Staged { file, graph, stage, since, would_allow, would_deny: Vec::new(), would_cut, left_out: 0 }
    }

    #[test]
    fn what_hosts_say_is_added_up_and_who_says_nothing_is_named() {
        let here = staged(2, vec![attempt("shop/web", 2, "2026-11-26T10:00:00Z", "2026-11-26T11:00:00Z")], 1);
        let theirs = vec![
            attempt("shop/web", 3, "2026-11-26T09:00:00Z", "2026-11-26T10:30:00Z"),
            attempt("shop/job", 1, "2026-11-26T09:00:00Z", "2026-11-26T09:00:00Z"),
        ];
        let other = |name: &str, reach, answered, staged| HostStage {
            host: HostName::new(name).unwrap(),
            reach,
            answered,
            staged,
        };
        let others = vec![
            other("beta", Reach::Up, true, Some(staged(2, theirs, 4))),
            other("delta", Reach::Down, false, None),
            other("gamma", Reach::Up, true, Some(staged(1, Vec::new(), 7))),
        ];
        let all = together(HostName::new("alpha").unwrap(), here, others);
        let names: Vec<_> = all.hosts.iter().map(HostName::as_str).collect();
        assert_eq!((names, all.staged.would_cut), (vec!["alpha", "beta"], 5));
        let web = attempt("shop/web", 5, "2026-11-26T09:00:00Z", "2026-11-26T11:00:00Z");
        assert_eq!(all.staged.would_allow[0], web);
        assert_eq!(all.staged.would_allow.len(), 2);
        let missing: Vec<_> = all.missing.iter().map(|one| (one.host.as_str(), one.why)).collect();
        assert_eq!(missing, [("delta", "it is not reachable"), ("gamma", "it does not have this one on stage")]);
    }
}
