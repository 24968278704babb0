//! The thread that sends: it gathers records, makes a batch of spans and one of log records of them, and sends these until the
//! collector has taken them, or their time is over.

use super::{
    QUEUE_MAX, Wanted,
    collector::{Collector, Failure, Signal},
    map::Origin,
};
use crate::{SessionRecord, instruments};
use bytes::Bytes;
use prost::Message as _;
use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// Records of a batch at most: with some 1.5 KB each for span and log record, far below the 4 MB and more that collectors take.
pub(super) const BATCH_MAX: usize = 512;

/// How fast it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How long the first record after a pause waits for others: one request for many.
    pub(super) gather: Duration,
    /// Pause after a first failure, doubled with each one that follows.
    pub(super) first: Duration,
    /// Longest pause, also where the collector asks for a longer one: it is noticed soon that it is back.
    pub(super) most: Duration,
    /// How long a batch is tried: what is older is of less use than what waits behind it.
    pub(super) give_up: Duration,
}

impl Pace {
    pub(super) const USUAL: Self = Self {
        gather: Duration::from_secs(1),
        first: Duration::from_secs(1),
        most: Duration::from_secs(30),
        give_up: Duration::from_secs(300),
    };
}

pub(super) struct Worker {
    pub(super) inbox: mpsc::Receiver<Arc<SessionRecord>>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) collector: Collector,
    pub(super) origin: Origin,
    pub(super) wanted: Wanted,
    pub(super) pace: Pace,
    /// The last request failed, which is said once.
    pub(super) failing: bool,
}

impl Worker {
    /// Sends what comes, until it is told to stop and nothing is left.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            self.send(&batch).await;
        }
    }

    /// The next records. None when there are none any more.
    async fn gather(&mut self) -> Option<Vec<Arc<SessionRecord>>> {
        let mut batch = Vec::new();
        let first = tokio::select! {
            // What is there comes before the stop.
            biased;
            first = self.inbox.recv() => first?,
            () = stopped(&mut self.stop) => return None,
        };
        batch.push(first);
        let mut gathered = std::pin::pin!(tokio::time::sleep(self.pace.gather));
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            tokio::select! {
                biased;
                more = self.inbox.recv_many(&mut batch, room) => if more == 0 { break },
                () = stopped(&mut self.stop) => break,
                () = &mut gathered => break,
            }
        }
        Some(batch)
    }

    async fn send(&mut self, batch: &[Arc<SessionRecord>]) {
        let records = || batch.iter().map(AsRef::as_ref);
        if let Some(spans) = self.origin.spans(records()) {
            let count = records().filter(|record| record.trace.is_some()).count();
            self.deliver(Signal::Traces, count, spans.encode_to_vec().into()).await;
        }
        if self.wanted.records {
            let logs = self.origin.logs(records());
            self.deliver(Signal::Logs, batch.len(), logs.encode_to_vec().into()).await;
        }
    }

    /// Sends one batch until it is taken, refused, too old, or this is to stop: then it is tried once.
    async fn deliver(&mut self, signal: Signal, count: usize, body: Bytes) {
        let (began, mut pause) = (Instant::now(), self.pace.first);
        loop {
            let failure = match self.collector.post(signal, body.clone()).await {
                Ok(rejected) => return self.delivered(signal, count as u64, rejected),
                Err(failure) => failure,
            };
            let wait = jittered(pause.max(failure.wait().unwrap_or_default()).min(self.pace.most));
            let last = !failure.may_pass() || *self.stop.borrow() || began.elapsed() + wait > self.pace.give_up;
            self.failed(failure);
            if last {
                return instruments::otlp(signal.as_str(), "lost", count as u64);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut self.stop) => {}
            }
            pause = (pause * 2).min(self.pace.most);
        }
    }

    fn delivered(&mut self, signal: Signal, count: u64, rejected: u64) {
        let rejected = rejected.min(count);
        if std::mem::take(&mut self.failing) {
            tracing::info!("the OpenTelemetry collector takes spans and records again");
        }
        if rejected > 0 {
            tracing::debug!(signal = signal.as_str(), rejected, "the OpenTelemetry collector took a batch in part");
        }
        instruments::otlp(signal.as_str(), "rejected", rejected);
        instruments::otlp(signal.as_str(), "sent", count - rejected);
    }

    fn failed(&mut self, failure: Failure) {
        let failure = anyhow::Error::new(failure);
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!("a request to the OpenTelemetry collector failed again: {failure:#}");
        } else {
            tracing::warn!(
                "the OpenTelemetry collector does not take spans and records, of which at most {QUEUE_MAX} wait: {failure:#}"
            );
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever could say so being gone is as good as having said so.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// From half of it to all of it, so that the agents of a fabric do not come to a collector all at once.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) >> 32;
    wait / 2 + wait.mul_f64(random as f64 / f64::from(u32::MAX) / 2.0)
}
