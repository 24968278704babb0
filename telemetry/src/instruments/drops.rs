//! What is counted of packets that were dropped.

use super::{DROPPED, reason_label, with, workload_labels};
use metrics::{Counter, Label, counter};
use ripstop_config::{Reason, WorkloadId};
use std::sync::OnceLock;

/// One slot for each code up to the highest; [`Reason::ALL`] is in order of code.
const DROP_SLOTS: usize = Reason::ALL[Reason::ALL.len() - 1] as usize + 1;

/// The drop counters of one workload: a closed array, each looked up at its first use.
pub struct DropCounters {
    labels: Vec<Label>,
    slots: Box<[OnceLock<Counter>]>,
}

impl DropCounters {
    /// The counters of a workload of the graph.
    #[must_use]
    pub fn new(workload: &WorkloadId) -> Self {
        let slots = (0..DROP_SLOTS).map(|_| OnceLock::new()).collect();
        Self { labels: workload_labels(workload), slots }
    }

    /// One packet was dropped.
    pub fn count(&self, reason: Reason) {
        let Some(slot) = self.slots.get(usize::from(reason.code())) else { return };
        slot.get_or_init(|| drop_counter(&self.labels, reason)).increment(1);
    }
}

impl std::fmt::Debug for DropCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DropCounters").field("labels", &self.labels).finish_non_exhaustive()
    }
}

fn drop_counter(labels: &[Label], reason: Reason) -> Counter {
    counter!(DROPPED, with(labels, reason_label(reason)))
}
