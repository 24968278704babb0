//! What `decide` says.

use crate::EdgeIx;
use ripstop_config::{Reason, graph::Limits};

/// Allow or deny, with the rule that decided or the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// An edge allows it.
    Allow(Permit),
    /// Nothing allows it.
    Deny(Reason),
}

/// Leave for one session, which the steps that open it ask for. Only [`Policy::decide`](crate::Policy::decide) makes
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permit {
    /// The edge that allows it.
    pub edge: EdgeIx,
    /// What the edge allows at most.
    pub limits: Limits,
}

impl Permit {
    pub(crate) fn new(edge: EdgeIx, limits: Limits) -> Self {
        Self { edge, limits }
    }
}
