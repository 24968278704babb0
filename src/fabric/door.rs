//! The agent's door, and what is done when it ends before the agent.
//!
//! The agent cannot start another itself: it has given up the right to. Where a service manager starts doors, it asks for
//! another one until it has it. Else it goes on without, since what it carries needs none: devices and sockets are open. To
//! end would cut every session on the host, from which nobody gains. What it cannot do any more is to attach and to remove,
//! so that it is not ready, says so everywhere, and an operator restarts it when that suits. A workload that the policy takes
//! away meanwhile is cut off all the same, as its device is closed.

use anyhow::Context as _;
use ripstop_kernel::{Door, Doorway};
use ripstop_telemetry::{Readiness, instruments};
use std::{
    io,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::sync::mpsc;

/// Pause before another door is asked for.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that wait to be told; each comes after a pause, or at an end.
const CHANGES_WAITING: usize = 8;

const ENDED: &str = "the door, the process that enters namespaces for the agent, has ended: sessions go on, but workloads \
                     with a namespace are neither attached nor removed; restart the agent";

/// A door that is open.
#[derive(Debug)]
pub struct Opened {
    door: Door,
    /// The process, where the agent has started it itself.
    process: Option<Child>,
}

impl Opened {
    /// Starts the door. Before there are other threads, and before rights are dropped.
    ///
    /// # Errors
    /// When it does not start, or does not open.
    pub fn start() -> anyhow::Result<Self> {
        let (door, process) = Door::start().context("failed to start the door, the process that enters namespaces")?;
        Ok(Self { door, process: Some(process) })
    }

    /// One that a service manager has started.
    #[must_use]
    pub fn by_other(door: Door) -> Self {
        Self { door, process: None }
    }
}

/// The agent's door while the agent runs.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    pub(super) doorway: Arc<Doorway>,
    readiness: Readiness,
    ended: AtomicBool,
}

impl Doorkeeper {
    /// Watches the door, within a runtime; `readiness` is told when it ends.
    ///
    /// # Errors
    /// When there is no thread left for that.
    pub(super) fn watch(opened: Opened, readiness: Readiness) -> anyhow::Result<Arc<Self>> {
        let Opened { door, process } = opened;
        let doorway = Arc::new(Doorway::Process(door));
        let keeper = Arc::new(Self {
            doorway: Arc::clone(&doorway),
            readiness: readiness.clone(),
            ended: AtomicBool::new(false),
        });
        let (tell, told) = mpsc::channel(CHANGES_WAITING);
        let follow = move || follow(&doorway, process, &tell);
        thread::Builder::new().name("door".into()).spawn(follow).context("failed to watch the door")?;
        instruments::door(true);
        tokio::spawn(Arc::clone(&keeper).hear(told, readiness));
        Ok(keeper)
    }

    async fn hear(self: Arc<Self>, mut told: mpsc::Receiver<bool>, readiness: Readiness) {
        let mut unready = None;
        while let Some(is_up) = told.recv().await {
            self.ended.store(!is_up, Ordering::Relaxed);
            instruments::door(is_up);
            unready = (!is_up).then(|| readiness.hold("door"));
            if is_up {
                tracing::info!("another door is open");
            } else {
                tracing::error!("{ENDED}");
            }
        }
        // Nobody follows it any more; what was said last holds.
        std::future::pending::<()>().await;
        drop(unready);
    }

    /// What the agent still waits for before it is ready; that it has a door is part of it.
    pub(super) fn waiting_for(&self) -> Vec<String> {
        self.readiness.waiting_for().into_iter().map(str::to_owned).collect()
    }

    /// Shuts it: another agent has taken over, with a door of its own.
    pub(super) fn retire(&self) {
        match &*self.doorway {
            Doorway::Process(door) => door.shut(),
            Doorway::Here => {}
        }
    }

    /// What is wrong with it, for people.
    pub(super) fn warning(&self) -> Option<String> {
        self.ended.load(Ordering::Relaxed).then(|| ENDED.to_owned())
    }
}

/// Tells when the door has ended, and when there is another. Its thread ends with the process, or when no other can come.
fn follow(doorway: &Doorway, mut process: Option<Child>, tell: &mpsc::Sender<bool>) {
    let Doorway::Process(door) = doorway else { return };
    loop {
        if let Err(error) = door.wait_closed() {
            tracing::warn!(%error, "whether the door is open is not known any more");
            return;
        }
        // The agent that has stopped meanwhile listens no more.
        if !door.is_shut() && tell.blocking_send(false).is_err() {
            return;
        }
        // Or it would stay in the table of processes.
        if let Some(Err(error)) = process.take().map(|mut process| process.wait()) {
            tracing::debug!(%error, "how the door ended is not known");
        }
        if door.is_shut() {
            return;
        }
        loop {
            match door.reconnect() {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
                Err(_) => thread::sleep(RETRY),
            }
        }
        if tell.blocking_send(true).is_err() {
            return;
        }
    }
}
