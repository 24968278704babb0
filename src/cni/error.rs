//! Errors as a runtime reads them (CNI specification, "Error").

use crate::admin::ClientError;
use serde_json::{Value, json};
use std::{error::Error, fmt::Display};

/// What went wrong, by the codes of the specification; those from 100 on are the plugin's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The version of the configuration is not one that is understood.
    Version = 1,
    /// The environment lacks something, or has something in it that makes no sense.
    Environment = 4,
    /// Input or output.
    Io = 5,
    /// The configuration is not JSON of its form.
    Decode = 6,
    /// The configuration says what cannot be.
    Config = 7,
    /// It may work later.
    Later = 11,
    /// The agent is there and cannot attach anything by now.
    Unavailable = 50,
    /// There is no agent: pods that are attached may be cut off too.
    Limited = 51,
    /// The graph has no such workload on this host.
    Unknown = 100,
    /// The pod is not attached as it was.
    Detached = 101,
}

/// What went wrong, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CniError {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) details: String,
}

impl CniError {
    pub(super) fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    pub(super) fn io(message: &str, error: &impl Display) -> Self {
        Self::new(Code::Io, message, error.to_string())
    }

    /// The agent was asked and did not do it.
    pub(super) fn agent(code: Code, error: &ClientError) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(code, "the agent of this host does not do it", format!("{error}{cause}"))
    }

    pub(super) fn shown(&self, version: &str) -> Value {
        let Self { code, message, details } = self;
        json!({ "cniVersion": version, "code": *code as u32, "msg": message, "details": details })
    }
}
