//! `ripstop workloads`.

use super::{
    Exit, args,
    output::{Output, Tone},
    shown::to_second,
    socket::{self, Said},
};
use crate::admin::{WorkloadState, WorkloadStatus};
use comfy_table::Cell;

/// Shows the workloads of every agent that answers.
pub(super) fn run(workloads: &args::Workloads, output: &Output) -> anyhow::Result<Exit> {
    show(&socket::each(&workloads.socket, |status| status.workloads)?, output)?;
    Ok(Exit::Ok)
}

/// Shows some workloads.
pub(super) fn show(workloads: &[Said<WorkloadStatus>], output: &Output) -> anyhow::Result<()> {
    output.show_list("workloads", workloads, || describe(workloads, output))
}

fn describe(workloads: &[Said<WorkloadStatus>], output: &Output) -> String {
    if workloads.is_empty() {
        return "no workloads on this host\n".into();
    }
    let head = ["WORKLOAD", "STATE", "SINCE", "INTERFACE", "HOW", "WHERE", "SESSIONS"];
    let table = output.table_of(&head, workloads, |workload| {
        let tone = match workload.state {
            WorkloadState::Attached => Tone::Good,
            WorkloadState::Waiting(_) => Tone::Bad,
        };
        vec![
            Cell::new(&workload.id),
            output.cell(&workload.state.to_string(), tone),
            Cell::new(workload.since.as_deref().map_or("-".into(), to_second)),
            Cell::new(&workload.link),
            Cell::new(workload.how()),
            Cell::new(&workload.place),
            Cell::new(workload.sessions),
        ]
    });
    table + &said(workloads.iter().map(|one| &one.value))
}

/// What workloads say of themselves, a line each.
pub(super) fn said<'w>(workloads: impl Iterator<Item = &'w WorkloadStatus>) -> String {
    let talking = workloads.filter(|workload| !workload.says.is_empty());
    let who = |one: &WorkloadStatus| one.replica.as_ref().map(|replica| format!(" ({replica})")).unwrap_or_default();
    talking.map(|one| format!("{}{} says: {}\n", one.id, who(one), one.says.join("; "))).collect()
}
