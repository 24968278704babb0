//! The interface is the identity (DESIGN section 3, invariant 1): no two workloads may share one on a host.

use super::Workloads;
use crate::{
    HostName, WorkloadId,
    graph::{Run, User},
    yaml::{Mark, Report},
};
use std::collections::{HashMap, hash_map};

/// Finds workloads that could not be told from each other on a host.
pub(super) fn check(workloads: &Workloads, report: &mut Report<'_>) {
    let mut seen: HashMap<(&HostName, String), (&WorkloadId, Mark)> = HashMap::new();
    let mut in_order: Vec<_> = workloads.iter().collect();
    in_order.sort_by_key(|(_, workload)| (workload.mark.line, workload.mark.column));
    for (id, workload) in in_order {
        for host in &workload.value.on {
            match seen.entry((host, describe(&workload.value.run))) {
                hash_map::Entry::Vacant(free) => {
                    free.insert((id, workload.mark));
                }
                hash_map::Entry::Occupied(taken) => {
                    let (other, mark) = taken.get();
                    let how = &taken.key().1;
                    let message = format!("`{id}` and `{other}` (line {}) have the same {how} on `{host}`", mark.line);
                    let hint = "callers are known by it: give each workload its own";
                    report.hinted(workload.mark, message, hint);
                    break;
                }
            }
        }
    }
}

fn describe(run: &Run) -> String {
    match run {
        Run::Netns(name) => format!("network namespace `{name}`"),
        Run::User(User::Name(name)) => format!("user `{name}`"),
        Run::User(User::Id(id)) => format!("user {id}"),
        Run::Cgroup(path) => format!("cgroup `{path}`"),
        Run::Container(container) => format!("container `{container}`"),
        Run::Pod(pod) => format!("pod `{pod}`"),
        Run::Host => "`run: host`".into(),
    }
}
