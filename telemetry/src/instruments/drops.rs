//! What is counted of packets that were dropped, or handed on.

use super::{DROPPED, HANDED_ON, reason_label, with, workload_labels};
use crate::gathered::Gathered;
use metrics::{Label, counter};
use ripstop_config::{Reason, WorkloadId};
use std::cell::OnceCell;

/// One slot for each code up to the highest; [`Reason::ALL`] is in order of code.
const DROP_SLOTS: usize = Reason::ALL[Reason::ALL.len() - 1] as usize + 1;

/// The drop counters of one workload: a closed array, each looked up at its first use.
pub struct DropCounters {
    labels: Vec<Label>,
    slots: Box<[OnceCell<Gathered>]>,
}

impl DropCounters {
    /// The counters of a workload of the graph.
    #[must_use]
    pub fn new(workload: &WorkloadId) -> Self {
        let slots = (0..DROP_SLOTS).map(|_| OnceCell::new()).collect();
        Self { labels: workload_labels(workload), slots }
    }

    /// One packet was dropped.
    pub fn count(&self, reason: Reason) {
        let Some(slot) = self.slots.get(usize::from(reason.code())) else { return };
        slot.get_or_init(|| Gathered::new(counter!(DROPPED, with(&self.labels, reason_label(reason))))).add(1);
    }
}

impl std::fmt::Debug for DropCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DropCounters").field("labels", &self.labels).finish_non_exhaustive()
    }
}

/// Counts packets that came to another data thread than their flow's, and were handed on to that one.
#[derive(Default)]
pub struct HandedOnCounter(OnceCell<Gathered>);

impl HandedOnCounter {
    /// One more.
    pub fn count(&self) {
        self.0.get_or_init(|| Gathered::new(counter!(HANDED_ON))).add(1);
    }
}

impl std::fmt::Debug for HandedOnCounter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandedOnCounter").finish_non_exhaustive()
    }
}
