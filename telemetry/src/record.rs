//! Session records: exactly one per session, written as JSON lines by a thread of their own.
//!
//! 1. Before a session is decided, the data path takes a slot with [`RecordLog::reserve`]; without one the session is
//!    refused with [`Reason::AgentFull`].
//! 2. When the session ends, on whichever path, [`RecordSlot::write`] hands the record over. It neither waits nor fails,
//!    since the slot has held a place in the queue all along.
//! 3. The writer thread writes whole lines, and writes out when the queue is empty, [`GATHER`] after the first at most. A write that fails (a full
//!    disk) is tried again for as long as it takes; new sessions are refused once [`UNWRITTEN_MAX`] records wait.
//!
//! A record file is opened for appending, so rotation works by copying and truncating (`copytruncate` in logrotate).

use super::{
    instruments::{self, Side},
    otel::{Export, Traced, Tracer},
    recent::Recent,
};
use ripstop_config::{HostName, Protocol, Reason, Replica, ServiceId, WorkloadId, agent::SessionLog};
use serde::{Serialize, Serializer};
use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::mpsc;

/// Slots at once: every session that an agent may have open (1 000 000, DESIGN section 12) and as many again waiting for
/// the writer as it may fall behind.
const SLOTS_MAX: usize = 1_000_000 + UNWRITTEN_MAX;
/// Records that may wait for the writer before new sessions are refused: some 40 MB, and seconds of work for a disk.
pub const UNWRITTEN_MAX: usize = 65_536;
/// Bytes collected before they are written even though the queue is not empty: one write for some 150 records.
const WRITE_BYTES: usize = 64 * 1024;
/// Bytes that go into a pipe as a whole (`PIPE_BUF`).
const ATOMIC_BYTES: usize = 4096;
/// How long the first record after a pause waits for others: a writer that is woken for each costs a busy host as much
/// as its sessions' packets.
const GATHER: Duration = Duration::from_millis(10);
/// Wait after a failed write: long enough not to flood the log, short against the time that the queue lasts.
const RETRY: Duration = Duration::from_secs(1);

/// What is recorded of one session by one of its two hosts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionRecord {
    /// The session's id in hex; the same on both hosts.
    pub session: String,
    /// Which end this host is.
    pub side: Side,
    /// When the first packet was seen; RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub start: OffsetDateTime,
    /// Length of the session, in seconds.
    #[serde(serialize_with = "micros")]
    pub duration_s: f64,
    /// The calling workload.
    pub caller: WorkloadId,
    /// Of several pods or containers that are the caller, which one; known at its host alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_replica: Option<Replica>,
    /// The host of the calling workload.
    pub caller_host: HostName,
    /// The service that was called, when the destination is one.
    pub service: Option<ServiceId>,
    /// The address that was called.
    pub destination: String,
    /// The port that was called.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host of the endpoint, once one was chosen.
    pub endpoint_host: Option<HostName>,
    /// The endpoint, as its host names it.
    pub endpoint: Option<String>,
    /// Of several pods or containers that are the endpoint, which one; known at its host alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_replica: Option<Replica>,
    /// `allow` or `deny`; a session that was allowed and could not be had says `allow`, and why in `reason`.
    pub verdict: &'static str,
    /// The rule that allowed it: file and line of the edge.
    pub rule: Option<String>,
    /// Why it was denied, or why it ended.
    pub reason: Reason,
    /// More about the reason, for people.
    pub detail: Option<String>,
    /// Payload bytes from the caller to the service.
    pub bytes_up: u64,
    /// Payload bytes from the service to the caller.
    pub bytes_down: u64,
    /// Seconds from the first packet to the endpoint's answer.
    #[serde(serialize_with = "maybe_micros")]
    pub connect_s: Option<f64>,
    /// Seconds for which rate limits held the session back.
    #[serde(serialize_with = "micros")]
    pub waited_s: f64,
    /// Payload bytes that had to wait for a rate limit; for UDP, those that were dropped for one.
    pub throttled_bytes: u64,
    /// What the tightest rate limit lets pass at once after a pause; none without a rate limit.
    pub burst_bytes: Option<u64>,
    /// Datagrams that were dropped for a rate limit; UDP only.
    pub datagrams_dropped: Option<u64>,
    /// Endpoints that were tried.
    pub attempts: u8,
    /// The digest of the policy that decided, in hex.
    pub policy: String,
    /// The cipher between the two hosts.
    pub cipher: Option<&'static str>,
    /// The host at the other end of the connection.
    pub peer: Option<HostName>,
    /// The agent had handed over to another one when the session ended.
    pub handed_over: Option<HandedOver>,
    /// Its place in a trace, if it is traced: `trace_id`, `span_id`, `parent_span_id`.
    #[cfg_attr(feature = "otel", serde(flatten))]
    #[cfg_attr(not(feature = "otel"), serde(skip))]
    pub trace: Option<Traced>,
}

/// How a session ended of an agent that had handed over to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HandedOver {
    /// By itself.
    Drained,
    /// With that agent, as the time for it was over, or it was stopped.
    Ended,
}

impl HandedOver {
    /// By why it ended.
    #[must_use]
    pub fn of(reason: Reason) -> Self {
        if reason == Reason::Shutdown { Self::Ended } else { Self::Drained }
    }
}

fn rfc3339<S: Serializer>(at: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&at.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
}

/// Clocks are good for microseconds; more digits would be noise.
fn to_micros(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn micros<S: Serializer>(seconds: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(to_micros(*seconds))
}

#[expect(clippy::ref_option, reason = "serde hands out references")]
fn maybe_micros<S: Serializer>(seconds: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    seconds.map(to_micros).serialize(to)
}

/// Why session records cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be opened.
    #[error("cannot open {} for session records; make its directory, or choose another place with `sessions:`", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// The system has no thread to spare.
    #[error("cannot start the thread that writes session records")]
    Thread(#[source] io::Error),
    /// Records were still waiting when the time was over.
    #[error("{0} session records were not written in time")]
    Unfinished(usize),
}

enum Message {
    Record(Box<SessionRecord>),
    /// Everything before is to be written out, then this is told.
    Barrier(std_mpsc::SyncSender<()>),
}

/// Where session records are handed in. Clones share one queue and one writer.
#[derive(Debug, Clone)]
pub struct RecordLog {
    queue: mpsc::Sender<Message>,
    recent: Arc<Recent>,
    unwritten: Arc<AtomicUsize>,
    export: Option<Export>,
    /// Kept from the start, so that a full queue cannot keep [`finish`](Self::finish) from being said.
    last: Arc<Mutex<Option<mpsc::OwnedPermit<Message>>>>,
}

impl RecordLog {
    /// Opens the log and starts its writer thread, which offers every record to `export` as well. A file is made with mode 0600.
    ///
    /// # Errors
    /// [`RecordError`] when the place cannot be opened.
    pub fn start(log: &SessionLog, export: Option<Export>) -> Result<Self, RecordError> {
        Self::start_after(at_once(), log, export)
    }

    /// The same, but records for standard output wait in the queue until the other end of `after` is dropped: it is another's until
    /// then.
    ///
    /// # Errors
    /// [`RecordError`] when the place cannot be opened.
    pub fn start_after(after: After, log: &SessionLog, export: Option<Export>) -> Result<Self, RecordError> {
        let sink = match log {
            SessionLog::File(path) => Some(Sink::File(open(path)?)),
            SessionLog::Stdout => Some(Sink::Stdout(None)),
            SessionLog::Off => None,
        };
        Self::start_with(after, sink, SLOTS_MAX, export)
    }

    fn start_with(after: After, sink: Option<Sink>, slots: usize, export: Option<Export>) -> Result<Self, RecordError> {
        let (queue, messages) = mpsc::channel(slots + 1);
        let recent = Arc::<Recent>::default();
        let unwritten = Arc::new(AtomicUsize::new(0));
        let last = Arc::new(Mutex::new(queue.clone().try_reserve_owned().ok()));
        let writer = Writer {
            sink,
            pending: Vec::new(),
            held: 0,
            recent: recent.clone(),
            unwritten: unwritten.clone(),
            export: export.clone(),
        };
        thread::Builder::new()
            .name("records".into())
            .spawn(move || {
                if let Some(Sink::Stdout(_)) = writer.sink {
                    // Nothing is ever sent: it is the end of the other end.
                    let _ = after.recv();
                }
                writer.run(messages);
            })
            .map_err(RecordError::Thread)?;
        Ok(Self { queue, recent, unwritten, export, last })
    }

    /// Takes a place in the queue for a session that is about to start; `None` when the log is full or its writer has
    /// fallen behind, in which case the session is to be refused. Never waits.
    #[must_use]
    pub fn reserve(&self) -> Option<RecordSlot> {
        if self.unwritten.load(Ordering::Relaxed) >= UNWRITTEN_MAX {
            return None;
        }
        let permit = self.queue.clone().try_reserve_owned().ok()?;
        Some(RecordSlot { permit: Some(permit), unwritten: self.unwritten.clone() })
    }

    /// The newest records.
    #[must_use]
    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Says which sessions are traced, if any are.
    #[must_use]
    pub fn tracer(&self) -> Option<Tracer> {
        self.export.as_ref().map(Export::tracer)
    }

    /// Waits until every record handed in so far is written out, and exported as far as that takes no long time. Blocks: for the
    /// end of the process, once.
    ///
    /// # Errors
    /// [`RecordError::Unfinished`] when that takes longer than `timeout`.
    pub fn finish(&self, timeout: Duration) -> Result<(), RecordError> {
        let permit = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(permit) = permit else { return Ok(()) };
        let (done, wait) = std_mpsc::sync_channel(1);
        permit.send(Message::Barrier(done));
        let written = wait.recv_timeout(timeout);
        if let Some(export) = &self.export {
            export.finish();
        }
        written.map_err(|_| RecordError::Unfinished(self.unwritten.load(Ordering::Relaxed)))
    }
}

/// The place of one session's record in the queue.
#[derive(Debug)]
#[must_use = "a session that took a slot writes its record, or releases the slot when it never was a session"]
pub struct RecordSlot {
    permit: Option<mpsc::OwnedPermit<Message>>,
    unwritten: Arc<AtomicUsize>,
}

impl RecordSlot {
    /// Hands the record over. Neither waits nor fails.
    pub fn write(mut self, record: SessionRecord) {
        let Some(permit) = self.permit.take() else { return };
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        permit.send(Message::Record(Box::new(record)));
    }

    /// Gives the place back: there was no session after all.
    pub fn release(mut self) {
        self.permit = None;
    }
}

impl Drop for RecordSlot {
    fn drop(&mut self) {
        if self.permit.is_some() {
            instruments::records_lost(1);
            tracing::error!("a session ended without its record");
        }
    }
}

fn open(path: &PathBuf) -> Result<File, RecordError> {
    let options = OpenOptions::new().append(true).create(true).mode(0o600).clone();
    options.open(path).map_err(|error| RecordError::Open(path.clone(), error))
}

/// Until when records wait: the other end is dropped then.
pub type After = std_mpsc::Receiver<Infallible>;

fn at_once() -> After {
    std_mpsc::sync_channel(0).1
}

/// Where records go.
enum Sink {
    File(File),
    /// What that is when the first record is written; until then it is not looked up.
    Stdout(Option<File>),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout(Some(file)) => file.write(whole_lines(bytes)),
            Self::Stdout(file @ None) => file.insert(stdout()?).write(whole_lines(bytes)),
        }
    }
}

/// The descriptor itself: the library's handle writes out at every newline.
fn stdout() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

/// As many lines as the kernel writes to a pipe or a socket without those of another in between (pipe(7)), or else the first: the
/// agent before an upgrade and the one after it write to the same one.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let Some(fits) = bytes.get(..ATOMIC_BYTES) else { return bytes };
    let is_end = |byte: &u8| *byte == b'\n';
    let end = fits.iter().rposition(is_end).or_else(|| bytes.iter().position(is_end));
    end.map_or(bytes, |end| &bytes[..=end])
}

struct Writer {
    /// `None` when nobody wants the records, or nobody reads them any more.
    sink: Option<Sink>,
    /// Whole lines that are not written yet, less what a short write took.
    pending: Vec<u8>,
    /// Records in `pending`.
    held: usize,
    recent: Arc<Recent>,
    unwritten: Arc<AtomicUsize>,
    export: Option<Export>,
}

impl Writer {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => Some(message),
                Err(_) => {
                    self.write_out();
                    let message = messages.blocking_recv();
                    // Others follow soon where there are many: the data thread wakes nobody for them, and one write takes all.
                    thread::sleep(GATHER);
                    message
                }
            };
            match message {
                Some(Message::Record(record)) => self.take(*record),
                Some(Message::Barrier(done)) => {
                    self.write_out();
                    // Whoever waited may have run out of patience.
                    let _ = done.try_send(());
                }
                None => return,
            }
        }
    }

    fn take(&mut self, record: SessionRecord) {
        self.held += 1;
        if self.sink.is_some() {
            let before = self.pending.len();
            match serde_json::to_writer(&mut self.pending, &record) {
                Ok(()) => self.pending.push(b'\n'),
                Err(error) => {
                    self.pending.truncate(before);
                    tracing::error!(%error, session = record.session, "cannot write a session record as JSON");
                }
            }
        }
        let record = Arc::new(record);
        if let Some(export) = &self.export {
            export.offer(&record);
        }
        self.recent.keep(record);
        if self.pending.len() >= WRITE_BYTES {
            self.write_out();
        }
    }

    /// Returns when everything is written, or nobody is left to read it.
    fn write_out(&mut self) {
        while let (Some(sink), false) = (&mut self.sink, self.pending.is_empty()) {
            match sink.write(&self.pending) {
                Ok(0) => self.failed(&ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.failed(&error),
            }
        }
        self.pending.clear();
        self.settle();
    }

    fn failed(&mut self, error: &io::Error) {
        instruments::record_write_failed();
        if error.kind() == ErrorKind::BrokenPipe {
            tracing::error!("nobody reads the session records any more; they are no longer written");
            self.sink = None;
            return;
        }
        tracing::error!(%error, "cannot write session records; trying again in a second");
        thread::sleep(RETRY);
    }

    fn settle(&mut self) {
        let held = std::mem::take(&mut self.held);
        if held == 0 {
            return;
        }
        let left = self.unwritten.fetch_sub(held, Ordering::Relaxed) - held;
        instruments::records_unwritten(left);
        if self.sink.is_some() {
            instruments::records_written(held as u64);
        }
    }
}

#[cfg(test)]
#[path = "record_example.rs"]
mod example;
#[cfg(test)]
pub(crate) use example::record;

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
