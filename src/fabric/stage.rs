//! A policy that is tried beside the one in force.

use super::{data::Command, shared::Shared};
use crate::{admin::AgentView as _, session::observe::Candidate};
use ripstop_config::Graph;
use std::sync::Arc;

impl Shared {
    /// Stages a graph, by its file's name and text, in place of one that is; or none. Its names have the addresses that they
    /// have in the policy in force, as they will when it is applied.
    ///
    /// # Errors
    /// The mistakes of the graph, as text; what was staged stays.
    pub(super) fn try_stage(&self, graph: Option<(String, String)>) -> Result<(), String> {
        let candidate = graph.map(|(file, text)| self.candidate(file, text)).transpose()?;
        match &candidate {
            Some(candidate) => tracing::info!(file = candidate.file, "a policy is staged"),
            None => tracing::info!("no policy is staged"),
        }
        self.data().send(Command::Stage(candidate))
    }

    fn candidate(&self, file: String, graph: String) -> Result<Candidate, String> {
        let parsed = Graph::parse(&file, &graph).map_err(|mistakes| mistakes.to_string())?;
        let running = self.policy();
        if parsed.fabric != *running.fabric() {
            return Err(format!("the graph is of the fabric {}, and this one is {}", parsed.fabric, running.fabric()));
        }
        let policy = ripstop_policy::compile_after(parsed, &running.addresses()).map_err(|error| error.to_string())?;
        Ok(Candidate { file, graph, policy: Arc::new(policy) })
    }
}
