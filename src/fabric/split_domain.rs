//! systemd-resolved, if it is wanted, asks the fabric's resolver for the fabric's names: by the interface of the workload that is
//! the host itself, each time that this is another, and again while that fails.

use super::shared::Shared;
use crate::admin::AgentView as _;
use ripstop_kernel::resolved;
use std::time::{Duration, Instant};

/// Pause before it is told again after a failure: it may be started later.
const AGAIN: Duration = Duration::from_secs(5);

/// What it was told.
#[derive(Default)]
pub(super) struct SplitDomain {
    /// Of which interface, since when.
    told: Option<(String, String)>,
    /// When to try again, and why.
    failed: Option<(Instant, String)>,
}

impl SplitDomain {
    /// Tells it, where that is wanted and not done: `interface` has a name, and since when it is there.
    pub(super) async fn keep(&mut self, shared: &Shared, interface: Option<(&str, &str)>) {
        let now = Instant::now();
        if !shared.wants_resolved() || self.failed.as_ref().is_some_and(|(again, _)| now < *again) {
            return;
        }
        let Some((link, since)) = interface else {
            return self.fails(now, "no workload of this host is `run: host`, as which it would ask".into());
        };
        if self.told.as_ref().is_some_and(|told| (told.0.as_str(), told.1.as_str()) == (link, since)) {
            return;
        }
        let (policy, name) = (shared.policy(), link.to_owned());
        let telling = move || resolved::split(&name, policy.resolver().0, policy.fabric().as_str());
        match tokio::task::spawn_blocking(telling).await {
            Ok(Ok(())) => {
                tracing::info!(link, "systemd-resolved asks for the fabric's names");
                (self.told, self.failed) = (Some((link.to_owned(), since.to_owned())), None);
            }
            Ok(Err(error)) => self.fails(now, format!("{:#}", anyhow::Error::new(error))),
            Err(_) => self.fails(now, "telling it broke off".into()),
        }
    }

    /// Names of the fabric do not resolve behind it, which is no reason to serve nobody. What is no news is not logged.
    fn fails(&mut self, now: Instant, why: String) {
        let is_news = self.failed.as_ref().is_none_or(|(_, before)| *before != why);
        if is_news {
            tracing::error!(why, "`dns.resolved` is not done yet");
        }
        self.failed = Some((now + AGAIN, why));
    }
}
