//! What is counted of workloads' requests to their own API.

use super::{VOICE, with, workload_labels};
use metrics::{Label, counter};
use ripstop_config::{WorkloadId, graph::Change};

/// What a workload asks of its own API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoiceRequest {
    /// Who it is.
    Whoami,
    /// What it may call.
    Services,
    /// To change something.
    Change(Change),
    /// What there is not.
    Other,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoiceResult {
    /// It was told, or done.
    Answered,
    /// The graph does not let it.
    Denied,
    /// It was not what it should be.
    Refused,
}

impl VoiceRequest {
    /// A workload of the graph asked this.
    pub fn count(self, workload: &WorkloadId, result: VoiceResult) {
        let labels = with(&workload_labels(workload), Label::from_static_parts("request", self.as_str()));
        counter!(VOICE, with(&labels, Label::from_static_parts("result", result.as_str()))).increment(1);
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Whoami => "whoami",
            Self::Services => "services",
            Self::Change(change) => change.as_str(),
            Self::Other => "other",
        }
    }
}

impl VoiceResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Denied => "denied",
            Self::Refused => "refused",
        }
    }
}
