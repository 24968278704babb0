//! What is counted of DNS.

use super::{DNS, with, workload_labels};
use crate::gathered::Gathered;
use metrics::{Label, counter};
use ripstop_config::WorkloadId;
use ripstop_dns::Rcode;
use std::cell::OnceCell;

/// Who answered a DNS query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsSource {
    /// The fabric's own names.
    Fabric,
    /// A server outside, or its cached answer.
    Upstream,
}

impl DnsSource {
    pub(crate) const ALL: [Self; 2] = [Self::Fabric, Self::Upstream];

    fn as_str(self) -> &'static str {
        match self {
            Self::Fabric => "fabric",
            Self::Upstream => "upstream",
        }
    }
}

/// The counters of one workload's DNS queries: a closed array, each looked up at its first use.
pub struct DnsCounters {
    labels: Vec<Label>,
    slots: [[OnceCell<Gathered>; Rcode::ALL.len()]; DnsSource::ALL.len()],
}

impl DnsCounters {
    /// The counters of a workload of the graph.
    #[must_use]
    pub fn new(workload: &WorkloadId) -> Self {
        Self { labels: workload_labels(workload), slots: Default::default() }
    }

    /// A query was answered.
    pub fn count(&self, rcode: Rcode, source: DnsSource) {
        self.slots[source as usize][rcode as usize].get_or_init(|| self.counter(rcode, source)).add(1);
    }

    fn counter(&self, rcode: Rcode, source: DnsSource) -> Gathered {
        let labels = with(&self.labels, Label::from_static_parts("source", source.as_str()));
        Gathered::new(counter!(DNS, with(&labels, Label::from_static_parts("rcode", rcode.as_str()))))
    }
}

impl std::fmt::Debug for DnsCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsCounters").field("labels", &self.labels).finish_non_exhaustive()
    }
}
