//! `ripstop workloads`.

use super::{
    Exit, args,
    output::{self, Output, Tone},
    socket,
};
use crate::admin::{WorkloadState, WorkloadStatus};
use comfy_table::Cell;

/// Shows the workloads of every agent that answers.
pub(super) fn run(workloads: &args::Workloads, output: &Output) -> anyhow::Result<Exit> {
    let found = socket::answering(&workloads.socket)?;
    let all: Vec<_> = found.into_iter().flat_map(|one| one.status.workloads).collect();
    show(&all, output)?;
    Ok(Exit::Ok)
}

/// Shows some workloads.
pub(super) fn show(workloads: &[WorkloadStatus], output: &Output) -> anyhow::Result<()> {
    output.show_list("workloads", workloads, || describe(workloads, output))
}

fn describe(workloads: &[WorkloadStatus], output: &Output) -> String {
    if workloads.is_empty() {
        return "no workloads on this host\n".into();
    }
    let mut table = output.table(&["WORKLOAD", "STATE", "SINCE", "INTERFACE", "HOW", "WHERE", "SESSIONS"]);
    for workload in workloads {
        let tone = match workload.state {
            WorkloadState::Attached => Tone::Good,
            WorkloadState::Waiting(_) => Tone::Bad,
        };
        table.add_row(vec![
            Cell::new(&workload.id),
            output.cell(&workload.state.to_string(), tone),
            Cell::new(workload.since.as_deref().unwrap_or("-")),
            Cell::new(&workload.link),
            Cell::new(workload.how()),
            Cell::new(&workload.place),
            Cell::new(workload.sessions),
        ]);
    }
    format!("{}{}", output::lines(&table), said(workloads))
}

/// What workloads say of themselves, a line each.
pub(super) fn said(workloads: &[WorkloadStatus]) -> String {
    let talking = workloads.iter().filter(|workload| !workload.says.is_empty());
    let who = |one: &WorkloadStatus| one.replica.as_ref().map(|replica| format!(" ({replica})")).unwrap_or_default();
    talking.map(|one| format!("{}{} says: {}\n", one.id, who(one), one.says.join("; "))).collect()
}
