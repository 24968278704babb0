//! The data thread's runtime.
//!
//! An asynchronous function is compiled in the crate that first awaits it, at that crate's level of optimisation. What the agent starts
//! on the data thread is therefore handed to it in a box ([`Task`]): so all that runs there is compiled here.

use crate::polling;
use ripstop_telemetry::gathered;
use std::{io, pin::Pin};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    task,
};

/// What the agent starts on the data thread.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks that run between two looks at the devices and the socket. Each may move tens of kilobytes, so that with tokio's 61 a
/// small packet would wait for milliseconds beside busy sessions; a look costs about a microsecond.
const EVENTS: u32 = 16;

/// The runtime, of the thread that asks for it.
///
/// # Errors
/// The system's, where it has no descriptors left to wait with.
pub fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .event_interval(EVENTS)
        .enable_all()
        .on_thread_park(polling::sleeps)
        .on_thread_unpark(polling::wakes)
        .build_local(LocalOptions::default())
}

/// Runs the thread's first task, and all that it spawns, until that one is over. Where it `may_poll`, the thread looks for what
/// comes next for a moment before it sleeps. What it counts is handed on to the metrics in time.
pub fn run(runtime: &LocalRuntime, may_poll: bool, first: Task) {
    runtime.block_on(async {
        let polling = task::spawn_local(polling::run(may_poll));
        let counting = task::spawn_local(gathered::hand_on_in_time());
        first.await;
        polling.abort();
        counting.abort();
    });
}
