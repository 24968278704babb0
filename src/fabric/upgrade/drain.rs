//! An agent that has handed over ends what it has.

use super::{
    Draining, left,
    message::{First, Next, hear, say},
};
use crate::fabric::{Signals, data::Data, load, members, shared::Shared};
use anyhow::Context as _;
use ripstop_datapath::handover::Channel;
use ripstop_policy::Policy;
use ripstop_telemetry::RecordLog;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the sessions that are left are counted, and told.
const LOOK: Duration = Duration::from_millis(250);
/// How long connections may stay open without a session: other hosts close those that another one has replaced within some
/// seconds, and one that another has not replaced yet may still bring a session.
const UNUSED_MAX: Duration = Duration::from_secs(15);

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Nothing is left.
    Drained,
    /// The time for it.
    Deadline,
    /// The agent that took over has ended, or stops.
    Alone,
    /// This one was told to stop.
    Told,
}

/// Waits until all sessions have ended, or the time for that is over; ends the others, and writes the last records. What is in
/// the kernel is the next agent's.
pub(in crate::fabric) async fn drain(
    shared: &Arc<Shared>,
    draining: Draining,
    mut signals: Signals,
    data: Data,
    records: &RecordLog,
) -> anyhow::Result<()> {
    let Draining { control, most } = draining;
    let over = tokio::select! {
        over = ended(shared, &control) => over,
        over = follow(shared, &control) => over,
        () = tokio::time::sleep(most) => Over::Deadline,
        _ = signals.terminate.recv() => Over::Told,
        _ = signals.interrupt.recv() => Over::Told,
    };
    let left = shared.data().stats().sessions();
    match over {
        Over::Drained => tracing::info!("all sessions have ended"),
        Over::Deadline => tracing::warn!(left, "the time for open sessions is over"),
        Over::Alone => tracing::warn!(left, "the agent that took over is gone"),
        Over::Told => tracing::info!(left, "told to stop"),
    }
    data.stop().await;
    records.finish(crate::fabric::RECORDS_MAX).context("failed to write the last session records")
}

/// Until no session is left, be it of an agent before this one, and no connection that could bring one.
async fn ended(shared: &Shared, control: &Channel) -> Over {
    let mut used = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let sessions = left(shared);
        if sessions > 0 || shared.upgrades.predecessor().is_some() {
            used = Instant::now();
        } else if shared.data().connections() == 0 || used.elapsed() >= UNUSED_MAX {
            return Over::Drained;
        }
        // When it cannot be told, the next message is not heard either.
        let _ = say(control, &First::Left { sessions }, &[]).await;
    }
}

/// Follows the next agent to other policies, as open sessions are to be decided again, until that one is gone.
async fn follow(shared: &Arc<Shared>, control: &Channel) -> Over {
    while let Ok(Some((said, _))) = hear::<Next>(control).await {
        match said {
            Next::PolicyChanged {} => {
                let following = Arc::clone(shared);
                let followed = tokio::task::spawn_blocking(move || take_policy(&following)).await;
                // Sessions that nobody can decide on must not go on.
                if let Err(error) = followed.map_err(anyhow::Error::from).flatten() {
                    tracing::error!("failed to follow the new policy: {error:#}");
                    return Over::Told;
                }
                // One before this one follows, too.
                shared.upgrades.policy_changed();
            }
            Next::Failed { why } => tracing::error!("the agent that took over fails: {why}"),
            Next::Prepared { .. } | Next::Running {} => {}
        }
    }
    Over::Alone
}

fn take_policy(shared: &Shared) -> anyhow::Result<()> {
    let policy = match (shared.graph_file(), shared.signed()) {
        (Some(file), _) => {
            let fabric = crate::admin::AgentView::policy(shared).fabric().clone();
            load::compile(shared.config(), file, &fabric, &load::read(file)?)?
        }
        (None, Some(signed)) => signed.newest().map_err(anyhow::Error::msg)?.compile()?,
        (None, None) => Policy::empty(crate::admin::AgentView::policy(shared).fabric().clone())?,
    };
    let policy = Arc::new(policy);
    shared.data().enforce(&policy).map_err(anyhow::Error::msg)?;
    shared.data().revoke(&members::shut_out(&policy));
    shared.data().retain_hosts(&policy.graph().hosts.keys().cloned().collect());
    tracing::info!(digest = %policy.digest(), "policy in force for the sessions that are left");
    Ok(())
}
