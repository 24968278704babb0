//! OpenTelemetry: a span for each side of a traced session, and session records as logs, to a collector by OTLP.
//!
//! 1. A session is given its place in a trace where it begins ([`Tracer`]); the header carries that to the other host.
//! 2. Its record, which has that place, is offered by the writer of records ([`Export::offer`]): never by the data thread, and
//!    without a wait. What finds the queue full is lost, and counted.
//! 3. A thread of its own maps records ([`map`]) and sends them in batches ([`worker`], [`collector`]), again with longer and longer
//!    pauses while the collector does not take them.
//! 4. When the agent stops, what waits is tried once more, for [`FLUSH_MAX`] in all.
//!
//! A collector that is away, slow or hostile therefore costs this thread's time and [`QUEUE_MAX`] records, and no session anything.

mod collector;
mod headers;
mod map;
mod trace;
mod worker;

pub use trace::{SpanId, TraceId, Traced, Tracer};

use super::{SessionRecord, instruments};
use anyhow::Context as _;
use collector::{Collector, Signal};
use map::Origin;
use ripstop_config::{
    FabricName,
    agent::{AgentConfig, Otel},
    units::Share,
};
use std::{
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    thread,
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use worker::{Pace, Worker};

/// Records that wait for the collector: some 6 MB, and a minute of 100 sessions a second.
pub const QUEUE_MAX: usize = 8_192;
/// How long what waits may take when the agent stops: enough for a collector that answers, and no reason for a service manager to lose
/// patience with one that does not.
pub const FLUSH_MAX: Duration = Duration::from_secs(3);

/// The way to a collector. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Export {
    queue: mpsc::Sender<Arc<SessionRecord>>,
    wanted: Wanted,
    stop: watch::Sender<bool>,
    /// Ends with the thread.
    ended: Arc<Mutex<std_mpsc::Receiver<()>>>,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// Spans of this share of the sessions.
    sample: Share,
    /// Log records.
    records: bool,
}

impl Export {
    /// Starts the thread that sends, where the settings name a collector. That may be away.
    ///
    /// # Errors
    /// When the file of headers cannot be used, or the system has no thread to spare.
    pub fn start(config: &AgentConfig, fabric: &FabricName) -> anyhow::Result<Option<Self>> {
        let Some(settings) = &config.otel else { return Ok(None) };
        let origin = Origin::new(&config.host, fabric);
        Self::start_with(settings, origin, Pace::USUAL).map(Some)
    }

    fn start_with(settings: &Otel, origin: Origin, pace: Pace) -> anyhow::Result<Self> {
        if let Some(file) = &settings.headers {
            headers::read(file)?;
        }
        let wanted = Wanted { sample: settings.sample, records: settings.records };
        let (queue, inbox) = mpsc::channel(QUEUE_MAX);
        let (stop, stopping) = watch::channel(false);
        // Nothing is said by it but that it has ended.
        let (end, ended) = std_mpsc::sync_channel(1);
        let collector = Collector::new(settings.clone());
        let worker = Worker { inbox, stop: stopping, collector, origin, wanted, pace, failing: false };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start what sends to the OpenTelemetry collector")?;
        let body = move || {
            runtime.block_on(worker.run());
            drop(end);
        };
        let thread = thread::Builder::new().name("otel".into()).spawn(body);
        thread.context("failed to start the thread that sends to the OpenTelemetry collector")?;
        Ok(Self { queue, wanted, stop, ended: Arc::new(Mutex::new(ended)) })
    }

    /// Says which sessions are traced, for one thread.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        Tracer::new(self.wanted.sample)
    }

    /// Hands in a record; what there is no room for is lost, and counted.
    pub(super) fn offer(&self, record: &Arc<SessionRecord>) {
        let (traced, records) = (record.trace.is_some(), self.wanted.records);
        if (traced || records) && self.queue.try_send(Arc::clone(record)).is_err() {
            instruments::otlp(Signal::Traces.as_str(), "lost", traced.into());
            instruments::otlp(Signal::Logs.as_str(), "lost", records.into());
        }
    }

    /// Has what waits sent, if that takes no longer than [`FLUSH_MAX`], and ends the thread. What is handed in later is lost.
    pub(super) fn finish(&self) {
        self.stop.send_replace(true);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(FLUSH_MAX) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the OpenTelemetry collector did not take the last spans and records within {FLUSH_MAX:?}");
        }
    }
}

#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;
