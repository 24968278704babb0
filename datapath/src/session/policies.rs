//! Which signed policies other hosts have, as they say themselves; and the wait for one that a session's header names.
//!
//! 1. The data thread hears it, in reports and in headers; the control thread gets what is newer (`fabric/carrier`).
//! 2. A session that was allowed by a newer policy than this host's waits for that one, for a bounded time, and is then
//!    decided by what is in force. So an edge that its caller already has works at once, and one that the caller's host
//!    only claims gets it nothing but a wait.

use super::context::Context;
use ripstop_config::{HostName, PolicyVersion};
use ripstop_policy::{BundleId, StageId};
use ripstop_transport::IncomingSession;
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Longest wait for a newer policy: a round trip and a large graph's compiling. Whoever has another endpoint to try does
/// so after a second.
const NEWER_WAIT: Duration = Duration::from_secs(2);
/// Sessions that wait so at once; more are decided by what is in force.
const WAITING_MAX: usize = 1_024;
/// Hosts of which something is kept: all that can be connected.
const HOSTS_MAX: usize = 4_096;

/// What other hosts say of their policies. Shared by two threads; locked for moments.
#[derive(Debug, Default)]
pub struct Policies {
    state: Mutex<State>,
    news: Notify,
    stage_news: Notify,
}

#[derive(Debug, Default)]
struct State {
    heard: BTreeMap<HostName, BundleId>,
    stages: BTreeMap<HostName, StageId>,
    /// Hosts that did not have what they said.
    resting: BTreeSet<HostName>,
}

impl Policies {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host says which policy it has.
    pub fn hear(&self, host: &HostName, id: BundleId) {
        let mut state = self.state();
        if state.heard.get(host) == Some(&id) || !state.has_room(host) {
            return;
        }
        state.heard.insert(host.clone(), id);
        drop(state);
        self.news.notify_one();
    }

    /// A host says which policy it has on stage.
    pub fn hear_stage(&self, host: &HostName, id: StageId) {
        let mut state = self.state();
        let has_room = state.stages.len() < HOSTS_MAX || state.stages.contains_key(host);
        let before = state.stages.get(host).copied().unwrap_or_default();
        if before == id || !has_room {
            return;
        }
        state.stages.insert(host.clone(), id);
        drop(state);
        self.stage_news.notify_one();
    }

    /// Resolves when a host said that it has another one on stage.
    pub async fn stage_news(&self) {
        self.stage_news.notified().await;
    }

    /// Which one each host said last.
    #[must_use]
    pub fn stages(&self) -> BTreeMap<HostName, StageId> {
        self.state().stages.clone()
    }

    /// A host names a version in a session's header: it has that one at least.
    pub fn named(&self, host: &HostName, version: PolicyVersion) {
        let known = self.state().heard.get(host).is_some_and(|id| id.version >= version);
        if !known {
            self.hear(host, BundleId { version, digest: [0; 8] });
        }
    }

    /// Resolves when something was heard.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What each host said last.
    #[must_use]
    pub fn heard(&self) -> BTreeMap<HostName, BundleId> {
        self.state().heard.clone()
    }

    /// Forgets hosts that are not to be believed any more, and says which ones did not have what they said.
    pub fn keep(&self, is_believed: impl Fn(&HostName) -> bool, resting: BTreeSet<HostName>) {
        let mut state = self.state();
        state.heard.retain(|host, _| is_believed(host));
        state.stages.retain(|host, _| is_believed(host));
        state.resting = resting;
    }

    fn is_resting(&self, host: &HostName) -> bool {
        self.state().resting.contains(host)
    }
}

impl State {
    fn has_room(&self, host: &HostName) -> bool {
        self.heard.len() < HOSTS_MAX || self.heard.contains_key(host)
    }
}

/// Sessions that wait for a newer policy.
#[derive(Debug, Default)]
pub struct Waiting {
    count: Cell<usize>,
    pub(super) enforced: Notify,
}

/// One of them.
struct Place<'w>(&'w Waiting);

impl<'w> Place<'w> {
    fn take(waiting: &'w Waiting) -> Option<Self> {
        let count = waiting.count.get();
        (count < WAITING_MAX).then(|| {
            waiting.count.set(count + 1);
            Self(waiting)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
    }
}

/// Waits until the policy that a session was allowed by, or a newer one, is in force here; at most [`NEWER_WAIT`], and only
/// where that is of use.
pub async fn catch_up(context: &Context, incoming: &IncomingSession) {
    let (peer, named) = (&incoming.peer, incoming.header.version);
    let Some(policies) = &context.control.policies else { return };
    if named <= context.policy().version() {
        return;
    }
    policies.named(peer, named);
    let Some(_place) = Place::take(&context.waiting).filter(|_| !policies.is_resting(peer)) else { return };
    let in_force = async {
        loop {
            let enforced = context.waiting.enforced.notified();
            if named <= context.policy().version() {
                return;
            }
            enforced.await;
        }
    };
    tokio::select! {
        () = in_force => {}
        () = tokio::time::sleep(NEWER_WAIT) => tracing::debug!(%peer, %named, "a newer policy did not come in time"),
        () = incoming.gone() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(version: &str, digest: u8) -> BundleId {
        BundleId { version: version.parse().unwrap(), digest: [digest; 8] }
    }

    #[test]
    fn what_a_host_says_itself_counts_more_than_what_its_sessions_name() {
        let (policies, beta) = (Policies::default(), HostName::new("beta").unwrap());
        policies.named(&beta, "1.3".parse().unwrap());
        assert_eq!(policies.heard()[&beta], id("1.3", 0));
        policies.hear(&beta, id("1.3", 9));
        policies.named(&beta, "1.3".parse().unwrap());
        policies.named(&beta, "1.2".parse().unwrap());
        assert_eq!(policies.heard()[&beta], id("1.3", 9), "an older session names an older one");
        policies.hear(&beta, id("1.1", 1));
        assert_eq!(policies.heard()[&beta], id("1.1", 1), "it lost its state");
        policies.keep(|_| true, [beta.clone()].into());
        assert!(policies.is_resting(&beta));
        policies.keep(|_| false, BTreeSet::new());
        assert!(policies.heard().is_empty() && !policies.is_resting(&beta));
    }

    #[tokio::test]
    async fn only_news_wake() {
        let (policies, beta) = (Policies::default(), HostName::new("beta").unwrap());
        let woken = async || tokio::time::timeout(Duration::from_millis(1), policies.news()).await.is_ok();
        policies.hear(&beta, id("1.1", 1));
        assert!(woken().await);
        policies.hear(&beta, id("1.1", 1));
        assert!(!woken().await);
    }

    #[test]
    fn hosts_and_waits_are_bounded() {
        let policies = Policies::default();
        for number in 0..HOSTS_MAX + 9 {
            policies.hear(&HostName::new(&format!("h{number}")).unwrap(), id("1.1", 1));
        }
        assert_eq!(policies.heard().len(), HOSTS_MAX);
        let waiting = Waiting::default();
        let mut places: Vec<_> = (0..WAITING_MAX).filter_map(|_| Place::take(&waiting)).collect();
        assert!(places.len() == WAITING_MAX && Place::take(&waiting).is_none());
        places.pop();
        assert!(Place::take(&waiting).is_some());
    }
}
