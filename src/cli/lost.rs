//! Whether a policy that was published is what came of it: another operator may have published one at the same moment, made to
//! replace the same policy, and of the two every host keeps one.

use crate::admin::Client;
use ripstop_config::PolicyVersion;
use ripstop_policy::BundleId;
use std::time::{Duration, Instant};

/// Policies that are followed back at most: as many as an agent keeps.
const BACK_MAX: usize = crate::bundles::store::KEPT_MAX;

/// How long the policy that won may take to come here from the host that has it.
const COMES_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What became of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is in force, or one that was made from it.
    Kept,
    /// This one is in force, which was made without it.
    Lost(BundleId),
}

/// What became of a policy where an agent is.
///
/// # Errors
/// Whatever keeps the agent from saying.
pub(super) fn fate(client: &Client, id: BundleId) -> anyhow::Result<Fate> {
    let Some(running) = client.status()?.policy.signed.filter(|running| *running != id) else { return Ok(Fate::Kept) };
    let before = |version: PolicyVersion| client.running(Some(version)).ok()?.content?.before;
    Ok(follow_back(id, running, |later| before(later.version)))
}

/// Follows each policy back to the one that it was made to replace. Where that cannot be told any more, it counts as lost:
/// somebody has to look.
fn follow_back(id: BundleId, running: BundleId, mut before: impl FnMut(BundleId) -> Option<BundleId>) -> Fate {
    let mut at = running;
    for _ in 0..BACK_MAX {
        match before(at) {
            Some(earlier) if earlier == id => return Fate::Kept,
            Some(earlier) if earlier.version > id.version => at = earlier,
            Some(_) | None => return Fate::Lost(running),
        }
    }
    Fate::Lost(running)
}

/// What to tell the operator whose policy is lost.
pub(super) fn explained(client: &Client, id: BundleId, to: BundleId) -> String {
    let signers = signers(client, to);
    let who = if signers.is_empty() { "somebody".into() } else { signers.join(" and ") };
    format!(
        "policy {id} is not in force: {who} applied {to} meanwhile, which was made without it. Your file still has what you \
         changed. `ripstop history --graph {version}` prints the graph that runs: bring what they changed into your file, see with \
         `ripstop graph diff FILE` that only yours is left, and apply it again",
        version = to.version
    )
}

/// Who signed it, once this host has it too: it may only be known from another one so far.
fn signers(client: &Client, id: BundleId) -> Vec<String> {
    let start = Instant::now();
    loop {
        let history = client.history().unwrap_or_default();
        let found = history.into_iter().find(|kept| kept.id == id);
        if found.is_some() || start.elapsed() >= COMES_WITHIN {
            return found.into_iter().flat_map(|kept| kept.signers).map(|name| name.to_string()).collect();
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(counter: u64, digest: u8) -> BundleId {
        BundleId { version: PolicyVersion { epoch: 1, counter }, digest: [digest; 8] }
    }

    #[test]
    fn what_was_built_upon_is_kept_and_what_was_passed_by_is_lost() {
        // 1.2 and 1.2' replace 1.1; 1.3 to 1.5 were made from 1.2'.
        let before = |later: BundleId| match later.version.counter {
            2 => Some(id(1, 1)),
            3 => Some(id(2, 9)),
            4 | 5 => Some(id(later.version.counter - 1, 1)),
            _ => None,
        };
        assert_eq!(follow_back(id(2, 9), id(5, 1), before), Fate::Kept);
        assert_eq!(follow_back(id(3, 1), id(5, 1), before), Fate::Kept);
        assert_eq!(follow_back(id(2, 5), id(5, 1), before), Fate::Lost(id(5, 1)));
        assert_eq!(follow_back(id(2, 5), id(2, 9), before), Fate::Lost(id(2, 9)));
        assert_eq!(follow_back(id(2, 9), id(9, 1), before), Fate::Lost(id(9, 1)), "it cannot be told");
        let for_ever = |later: BundleId| Some(id(later.version.counter + 1, 1));
        assert_eq!(follow_back(id(2, 9), id(3, 1), for_ever), Fate::Lost(id(3, 1)), "a loop ends");
    }
}
