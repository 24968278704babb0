//! A measurement that ends: when it is done, when it fails, and when its time is up.

use std::{
    process::ExitCode,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

/// Runs a measurement on a thread of its own, for at most `limit`.
///
/// Hosts end with the thread that made them, so that leaving `main` ends them too when the time is up.
pub fn at_most(limit: Duration, measure: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> ExitCode {
    let (done, wait) = sync_channel(1);
    let worker = thread::spawn(move || done.send(measure()));
    match wait.recv_timeout(limit) {
        Ok(measured) => finish(measured),
        Err(RecvTimeoutError::Timeout) => finish(Err(anyhow::anyhow!("not done in {limit:?}: given up"))),
        Err(RecvTimeoutError::Disconnected) => {
            drop(worker.join());
            finish(Err(anyhow::anyhow!("the measurement panicked")))
        }
    }
}

/// What the process says of its end.
pub fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
