//! What stands for traces and their export in a program that was built without them: types that have no value, and so take no
//! room and no code. The settings were refused if they ask for more.

use super::SessionRecord;
use ripstop_config::{FabricName, agent::AgentConfig};
use std::sync::Arc;

/// The place of a session in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traced {}

/// Says which sessions are traced.
#[derive(Debug)]
pub enum Tracer {}

/// The way to a collector.
#[derive(Debug, Clone)]
pub enum Export {}

impl Tracer {
    /// See the module that is built with the feature.
    #[must_use]
    pub fn begin(&self) -> Option<Traced> {
        match *self {}
    }

    /// See the module that is built with the feature.
    #[must_use]
    pub fn join(&self, _: Option<[u8; 24]>) -> Option<Traced> {
        match *self {}
    }

    /// See the module that is built with the feature.
    #[must_use]
    pub fn context(&self, _: Option<Traced>) -> [u8; 24] {
        match *self {}
    }
}

impl Export {
    /// None.
    ///
    /// # Errors
    /// None.
    pub fn start(_: &AgentConfig, _: &FabricName) -> anyhow::Result<Option<Self>> {
        Ok(None)
    }

    /// See the module that is built with the feature.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        match *self {}
    }

    pub(crate) fn offer(&self, _: &Arc<SessionRecord>) {
        match *self {}
    }

    pub(crate) fn finish(&self) {
        match *self {}
    }
}
