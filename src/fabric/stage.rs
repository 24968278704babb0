//! A policy that is tried beside the one in force: on this host alone, or on all, where an operator signed it.

use super::shared::{FROM_A_FILE, Shared};
use crate::admin::AgentView as _;
use ripstop_config::Graph;
use ripstop_datapath::session::observe::Candidate;
use ripstop_policy::{Bundle, StageId, bundle::BUNDLE_MAX};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What operators staged last, also when that was to stage nothing any more: other hosts are given it. Forgotten at a restart,
/// and had again from another host.
#[derive(Debug, Default)]
pub(super) struct Stage(Mutex<Option<Bundle>>);

impl Stage {
    fn held(&self) -> MutexGuard<'_, Option<Bundle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which one that is; none when nothing was ever staged.
    pub(super) fn id(&self) -> StageId {
        self.held().as_ref().and_then(Bundle::stage_id).unwrap_or_default()
    }

    /// Its bytes, as they came.
    pub(super) fn bytes(&self) -> Option<Arc<[u8]>> {
        self.held().as_ref().map(|bundle| Arc::clone(bundle.bytes()))
    }
}

impl Shared {
    /// Stages a graph on this host alone, by its file's name and text, in place of one that is; or none. Its names have the
    /// addresses that they have in the policy in force, as they will when it is applied.
    ///
    /// # Errors
    /// The mistakes of the graph, as text; what was staged stays.
    pub(super) fn try_stage(&self, graph: Option<(String, String)>) -> Result<(), String> {
        let candidate = graph.map(|(file, text)| self.candidate(file, text)).transpose()?;
        self.put_on_stage(candidate, self.signed().map(|signed| signed.stage.id()).unwrap_or_default())
    }

    fn put_on_stage(&self, candidate: Option<Candidate>, id: StageId) -> Result<(), String> {
        match &candidate {
            Some(candidate) => tracing::info!(file = candidate.file, "a policy is staged"),
            None => tracing::info!("no policy is staged"),
        }
        self.data().stage(candidate, id)
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

    /// Whether a staged policy would take the place of what this host has on stage.
    pub(super) fn wants_stage(&self, id: StageId) -> bool {
        let own = self.signed().map(|signed| signed.stage.id()).unwrap_or_default();
        id > own && id.bundle.version > self.bundle_id().version
    }

    /// Stages what an operator signed, in place of what was staged before; one without a graph stages nothing.
    ///
    /// # Errors
    /// Why it is refused, as text; what was staged stays.
    pub(super) fn take_stage(&self, bytes: &[u8]) -> Result<StageId, String> {
        let signed = self.signed().ok_or(FROM_A_FILE)?;
        if bytes.len() > BUNDLE_MAX {
            return Err("it is larger than any policy may be".into());
        }
        let bundle = signed.open_staged(bytes)?;
        let id = bundle.stage_id().unwrap_or_default();
        if id == signed.stage.id() {
            return Ok(id);
        }
        self.fits_stage(id)?;
        let content = bundle.content();
        // Not while it is locked, as a large one takes a while.
        let candidate = match content.graph.is_empty() {
            true => None,
            false => {
                let policy = Arc::new(bundle.compile().map_err(|error| error.to_string())?);
                Some(Candidate { file: content.file.clone(), graph: content.graph.clone(), policy })
            }
        };
        let mut held = signed.stage.held();
        if held.as_ref().and_then(Bundle::stage_id).is_none_or(|own| id > own) {
            self.put_on_stage(candidate, id)?;
            *held = Some(bundle);
        }
        Ok(id)
    }

    /// Whether it comes after what is in force and what is on stage.
    fn fits_stage(&self, id: StageId) -> Result<(), String> {
        let in_force = self.bundle_id().version;
        if id.bundle.version <= in_force {
            return Err(format!("it was staged to follow a policy before {in_force}, which is in force"));
        }
        if !self.wants_stage(id) {
            let own = self.signed().map(|signed| signed.stage.id()).unwrap_or_default();
            return Err(format!(
                "another one was staged later, number {} for version {}",
                own.number, own.bundle.version
            ));
        }
        Ok(())
    }

    /// Another policy is in force: what was staged to follow an earlier one is over.
    pub(super) fn end_stage(&self) {
        let Some(signed) = self.signed() else { return };
        let (mut held, in_force) = (signed.stage.held(), self.bundle_id().version);
        if held.take_if(|bundle| bundle.version() <= in_force).is_some()
            && let Err(error) = self.put_on_stage(None, StageId::default())
        {
            tracing::error!(%error, "what is in force stays on stage");
        }
    }
}
