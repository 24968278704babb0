//! The signals that end the demo, turned into something to ask for and to wait for.

use anyhow::{Context, bail};
use std::{
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for the thread that takes signals to be there.
const START: Duration = Duration::from_secs(5);

/// Whether SIGINT, SIGTERM or SIGHUP has come.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Signals {
    /// Takes the signals from here on; they no longer end the process.
    pub(super) fn start() -> anyhow::Result<Self> {
        let signals = Self { state: Arc::default() };
        let told = signals.clone();
        let (ready, started) = mpsc::sync_channel(1);
        let listen = move || {
            let result = told.listen(&ready);
            drop(ready.try_send(result));
        };
        thread::Builder::new().name("demo-signals".into()).spawn(listen)?;
        started.recv_timeout(START).context("the thread that takes signals did not start")??;
        Ok(signals)
    }

    /// Fails once a signal has come.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if *self.state.0.lock().unwrap_or_else(PoisonError::into_inner) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits for a signal.
    pub(super) fn wait(&self) {
        let (come, changed) = &*self.state;
        let guard = come.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(guard, |come| !*come));
    }

    fn listen(&self, ready: &mpsc::SyncSender<anyhow::Result<()>>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let [mut interrupt, mut terminate, mut hangup] =
                [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
            drop(ready.try_send(Ok(())));
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            let (come, changed) = &*self.state;
            *come.lock().unwrap_or_else(PoisonError::into_inner) = true;
            changed.notify_all();
            Ok(())
        })
    }
}
