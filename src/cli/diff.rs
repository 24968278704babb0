//! `ripstop graph diff`.

use super::{
    Exit, args, files,
    output::{self, Output, Tone},
    socket, stage,
};
use crate::admin::{Attempt, Client, LiveSession};
use anyhow::{Context as _, bail};
use comfy_table::Cell;
use ripstop_config::{Graph, Port};
use ripstop_policy::{Addresses, Allowed, Diff, Names, Policy, Verdict, compile_after};
use serde::Serialize;
use std::{fmt::Write as _, path::Path, time::Duration};

/// How far back attempts are looked at.
const LOOKED_BACK: Duration = Duration::from_secs(3600);

/// What is shown.
#[derive(Serialize)]
struct Changes {
    #[serde(flatten)]
    diff: Diff,
    /// Open sessions of the agent's host that would be cut.
    cut: Vec<LiveSession>,
    /// What was denied to workloads of the agent's host in the last hour, and would be allowed.
    attempted: Vec<Attempt>,
}

/// Says what a graph would change.
pub(super) fn run(asked: &args::GraphDiff, output: &Output) -> anyhow::Result<Exit> {
    let changes = match &asked.against {
        Some(old) => {
            let old = files::policy(old)?;
            Changes {
                diff: ripstop_policy::diff(&old, &after(&asked.file, &old.addresses())?),
                cut: Vec::new(),
                attempted: Vec::new(),
            }
        }
        None => {
            let client = socket::one(&asked.socket)?;
            let old = running(&client)?;
            let new = after(&asked.file, &old.addresses())?;
            let open = client.sessions()?;
            let cut = open.into_iter().filter(|session| !allows(&new, session)).collect();
            let mut attempted = client.attempts(Some(LOOKED_BACK))?;
            attempted.retain(|attempt| would_allow(&new, attempt));
            Changes { diff: ripstop_policy::diff(&old, &new), cut, attempted }
        }
    };
    output.show(&changes, || describe(&changes, output))?;
    Ok(Exit::Ok)
}

/// The policy that `ripstop apply` would make of a graph.
fn after(file: &Path, carried: &Addresses) -> anyhow::Result<Policy> {
    let text = crate::files::read(file)?;
    let graph = Graph::parse(&file.display().to_string(), &text);
    let graph = graph.map_err(|mistakes| crate::files::mistakes_in(file, &mistakes))?;
    compile_after(graph, carried).with_context(|| format!("cannot compile {}", file.display()))
}

fn running(client: &Client) -> anyhow::Result<Policy> {
    let Some(content) = client.running(None)?.content else {
        bail!("the agent has no policy yet; name one with --against")
    };
    let graph = Graph::parse(&content.file, &content.graph).context("the policy that the agent runs cannot be read")?;
    Ok(compile_after(graph, &content.addresses)?)
}

/// As the agent will decide again, but for which endpoint serves it.
fn allows(policy: &Policy, session: &LiveSession) -> bool {
    let (Some(caller), Some(service)) = (policy.workload(&session.caller), policy.service(&session.service)) else {
        return false;
    };
    let ports = policy.service_entry(service).ports.iter();
    // A live session does not say its protocol: a number that both use is allowed if either is.
    let mut ports = ports.filter(|port: &&Port| port.number == session.port);
    ports.any(|port| matches!(policy.decide(caller, service, *port), Verdict::Allow(_)))
}

/// A name that was asked for is found where any port may be called.
fn would_allow(policy: &Policy, attempt: &Attempt) -> bool {
    let pair = policy.workload(&attempt.caller).zip(policy.service(&attempt.service));
    pair.is_some_and(|(caller, service)| match attempt.port {
        Some(port) => matches!(policy.decide(caller, service, port), Verdict::Allow(_)),
        None => policy.visible(caller, service),
    })
}

fn describe(changes: &Changes, output: &Output) -> String {
    let Changes { diff, cut, attempted } = changes;
    if diff.is_empty() && cut.is_empty() && attempted.is_empty() {
        return "nothing changes of what is allowed, or of names and addresses\n".into();
    }
    let mut table = output.table(&["CHANGE", "WHAT", "RULE"]);
    for (kind, names) in [("host", &diff.hosts), ("workload", &diff.workloads), ("service", &diff.services)] {
        let Names { added, removed } = names;
        for (sign, tone, names) in [("new", Tone::Good, added), ("gone", Tone::Bad, removed)] {
            for name in names {
                table.add_row(vec![output.cell(sign, tone), Cell::new(format!("{kind} {name}")), Cell::new("-")]);
            }
        }
    }
    for (change, tone, calls) in [
        ("allowed", Tone::Good, &diff.allowed),
        ("denied", Tone::Bad, &diff.denied),
        ("limits", Tone::Bad, &diff.limited),
    ] {
        for Allowed { call, rule } in calls {
            let what = format!("{} -> {}:{}", call.who, call.service, call.port);
            table.add_row(vec![output.cell(change, tone), Cell::new(what), Cell::new(rule)]);
        }
    }
    for moved in &diff.moved {
        let what = format!("{} from {} to {}", moved.name, moved.from, moved.to);
        table.add_row(vec![output.cell("moved", Tone::Bad), Cell::new(what), Cell::new("-")]);
    }
    let mut text = output::lines(&table);
    if !cut.is_empty() {
        let noun = if cut.len() == 1 { "session" } else { "sessions" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "\n{} open {noun} of this host would be cut:", cut.len());
        for session in cut {
            let LiveSession { caller, service, port, peer, started, .. } = session;
            let _ = writeln!(text, "  {caller} -> {service}:{port} with {peer}, since {started}");
        }
    }
    if !attempted.is_empty() {
        text.push_str("\nof what was denied to workloads of this host in the last hour, it would allow:\n");
        for attempt in attempted {
            let _ = writeln!(text, "  {}, {} times, last {}", stage::call(attempt), attempt.count, attempt.last);
        }
    }
    text
}
