//! What a service manager hears of this agent, by sd_notify(3): that it serves, that it is alive, that it stops. Where there is
//! no manager nothing is said.

use super::shared::Shared;
use crate::admin::AgentView as _;
use sd_notify::NotifyState;
use std::{sync::Arc, time::Duration};
use tokio::task::AbortHandle;

/// Signs of life in the time after which the manager takes the agent for dead: one that comes late is no reason to end it.
const SIGNS: u32 = 3;

/// The time after which the manager of this process takes it for dead, where it looks (`WatchdogSec=` of a unit).
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|within| !within.is_zero())
}

/// The agent serves: its sockets are there, and the interfaces of its workloads.
pub(super) fn serves(shared: &Shared) {
    let policy = shared.policy();
    let status = format!("host {} of {}, policy {}", shared.config().host, policy.fabric(), policy.version());
    say(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// It cannot serve yet, and says why: a manager that waits for that waits for so long more from now on.
#[cfg(feature = "spire")]
pub(super) fn waits(why: &str, longer: Duration) {
    let longer = u32::try_from(longer.as_micros()).unwrap_or(u32::MAX);
    say(&[NotifyState::Status(why), NotifyState::ExtendTimeoutUsec(longer)]);
}

/// It was told to stop, and is at it.
pub(super) fn stops() {
    say(&[NotifyState::Stopping]);
}

/// Says time and again that the agent is alive, for as long as both its threads are, until the task is aborted. Of one that
/// hangs nothing is heard, and the manager starts another.
pub(super) fn lives(shared: &Arc<Shared>) -> Option<AbortHandle> {
    let pause = shared.upgrades.watchdog()? / SIGNS;
    let shared = Arc::clone(shared);
    let signs = async move {
        // It resolves when the data thread has come to it.
        while shared.data().is_alive().await {
            // The manager takes what is said at once, unless it hangs itself: nobody is to wait for that.
            let _ = tokio::task::spawn_blocking(|| say(&[NotifyState::Watchdog])).await;
            tokio::time::sleep(pause).await;
        }
    };
    Some(tokio::spawn(signs).abort_handle())
}

fn say(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "failed to tell the service manager how this agent is");
    }
}
