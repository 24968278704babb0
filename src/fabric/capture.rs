//! Captures of packets of this host's workloads, for its own operators and for other hosts', and what other hosts capture for its
//! own.
//!
//! 1. Whoever asks is a host: this one, told to by the admin socket, or another, by its certificate. `capture:` of this host's
//!    settings must name it; else it is told which line would.
//! 2. The data thread says whose interfaces are seen and copies packets into a bounded queue (`datapath/src/session/captures.rs`).
//! 3. The asking end comes for them. When its time is over nothing is copied any more; when nobody has come for [`LEASE`] the
//!    capture is gone, with what it had. Its beginning and its end are events in the log of each host that takes part.

use super::{
    carrier::Kind,
    data::DataHandle,
    shared::{Shared, rfc3339},
};
use crate::admin::{CaptureStatus, CapturedOn, Capturing, CapturingOn, TakeAll};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use ripstop_config::HostName;
use ripstop_datapath::capture::{Asked, Begun, PART_MAX, Part, Question, Take};
use ripstop_datapath::session::{captures::Capture, context::random};
use ripstop_datapath::stack::{Copies, Outflow};
use ripstop_telemetry::instruments;
use ripstop_transport::{AskError, PeerState, Sparing};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{runtime::Handle, time::Instant};

/// Captures on this host at once, and those of one asking host: each copies.
const CAPTURES_MAX: usize = 4;
const PER_HOST_MAX: usize = 2;
/// How long nobody may come for packets before a capture ends: a command comes several times a second.
const LEASE: Duration = Duration::from_secs(10);
/// Other hosts that take part in a capture of this one's.
const HOSTS_MAX: usize = 16;
/// How long another host's answer may take: a part on a path of 2 Mbit/s.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Bytes of the answer to a request for a capture: names and a sentence for each workload.
const BEGUN_MAX: usize = 256 << 10;

/// The captures that run on this host.
#[derive(Default)]
pub(super) struct Captures {
    running: Mutex<BTreeMap<u64, Running>>,
    refused: Sparing,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct By {
    host: HostName,
    /// Of this host's own users which one, as the kernel says.
    uid: Option<u32>,
}

/// One of them. Dropped, it has ended.
struct Running {
    id: u64,
    by: By,
    asked: Asked,
    copies: Copies,
    data: DataHandle,
    since: Instant,
    until: Instant,
    /// When somebody came last.
    taken: Instant,
    copying: bool,
    packets: u64,
    bytes: u64,
    why: &'static str,
}

impl Running {
    /// Nothing is copied any more; what was stays.
    fn stop(&mut self, why: &'static str) {
        if std::mem::replace(&mut self.copying, false) {
            self.why = why;
            if let Err(error) = self.data.end_capture(self.id) {
                tracing::error!(%error, "packets may still be copied, though nobody takes them");
            }
        }
    }

    fn take(&mut self) -> Part {
        self.taken = Instant::now();
        // As much as a part holds beside names.
        let (packets, is_spent) = self.copies.take(PART_MAX - (64 << 10));
        if is_spent {
            self.stop("it had all the bytes that were asked for");
        }
        self.packets += packets.len() as u64;
        self.bytes += packets.iter().map(|packet| packet.bytes.len() as u64).sum::<u64>();
        let sources = self.copies.sources().into_iter().map(|source| (source.interface, source.wanted)).collect();
        Part { over: !self.copying && packets.is_empty(), sources, packets }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop("nobody came for the packets");
        let missed: u64 = self.copies.sources().iter().map(|source| source.missed).sum();
        let (target, seconds) = (&self.asked.target, self.since.elapsed().as_secs_f64());
        let (packets, bytes, why) = (self.packets, self.bytes, self.why);
        let By { host: by, uid } = &self.by;
        tracing::warn!(event = "capture_ended", %by, uid, %target, seconds, packets, bytes, missed, why, "packets are not captured any more");
    }
}

impl Captures {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a place for one more capture of a host's operators.
    fn has_room(&self, host: &HostName) -> Result<(), String> {
        has_room(&self.running(), host)
    }

    /// Those that run, for people.
    pub(super) fn status(&self) -> Vec<CaptureStatus> {
        let running = self.running();
        let one = |capture: &Running| CaptureStatus {
            by: capture.by.host.clone(),
            uid: capture.by.uid,
            target: capture.asked.target.to_string(),
            since: rfc3339(OffsetDateTime::now_utc() - capture.since.elapsed()),
        };
        running.values().filter(|capture| capture.copying).map(one).collect()
    }

    /// Takes a place for one that has begun. Others may have begun meanwhile.
    fn take_in(&self, capture: Running) -> Result<(), String> {
        let mut running = self.running();
        has_room(&running, &capture.by.host)?;
        running.insert(capture.id, capture);
        count(&running);
        Ok(())
    }

    /// What a capture has since it was asked last.
    fn take(&self, by: &HostName, take: Take) -> Result<Part, String> {
        let mut running = self.running();
        let own = running.get_mut(&take.id).filter(|running| running.by.host == *by);
        let Some(capture) = own else {
            return Err("there is no such capture any more: it ended, or the agent is another one".into());
        };
        if take.end {
            capture.stop("whoever asked ended it");
        }
        let mut part = capture.take();
        part.over |= take.end;
        if part.over {
            running.remove(&take.id);
        }
        count(&running);
        Ok(part)
    }

    /// Ends what is over; says when to look again at a capture, if it still runs.
    fn look(&self, id: u64) -> Option<Instant> {
        let (mut running, now) = (self.running(), Instant::now());
        let capture = running.get_mut(&id)?;
        if now >= capture.until {
            capture.stop("its time was over");
        }
        let gone = capture.taken + LEASE;
        let next = if capture.copying { gone.min(capture.until) } else { gone };
        let is_left = now < gone;
        if !is_left {
            running.remove(&id);
        }
        count(&running);
        is_left.then_some(next)
    }
}

/// Tells the metric how many copy packets.
fn count(running: &BTreeMap<u64, Running>) {
    instruments::captures(running.values().filter(|capture| capture.copying).count());
}

fn has_room(running: &BTreeMap<u64, Running>, host: &HostName) -> Result<(), String> {
    let (all, theirs) = (running.len(), running.values().filter(|capture| capture.by.host == *host).count());
    if theirs < PER_HOST_MAX && all < CAPTURES_MAX {
        return Ok(());
    }
    Err(format!(
        "{all} captures run there, {theirs} of them for {host}; {CAPTURES_MAX} may at once, {PER_HOST_MAX} for one host: wait, or \
         end one"
    ))
}

/// Begins a capture of this host's workloads.
///
/// # Errors
/// Why not, for people.
async fn begin(shared: &Shared, by: By, asked: Asked) -> Result<Begun, String> {
    asked.check()?;
    may(shared, &by, &asked)?;
    shared.captures.has_room(&by.host)?;
    let peer = (by.host != *shared.host()).then(|| by.host.clone());
    let (outflow, copies) = Outflow::new(usize::try_from(asked.bytes).unwrap_or(usize::MAX), asked.snap as usize);
    let id = random();
    let now = Instant::now();
    let until = now + Duration::from_secs(asked.seconds);
    let (data, why) = (shared.data().clone(), "it did not begin");
    let (packets, bytes, copying) = (0, 0, true);
    let capture = Capture { id, asked: asked.clone(), peer, outflow };
    let begun = data.capture(&capture).await?;
    let By { host, uid } = &by;
    let Asked { target, from, seconds, bytes: most, .. } = &asked;
    let from = from.as_ref().map(tracing::field::display);
    tracing::warn!(event = "capture_begun", by = %host, uid, %target, from, seconds, bytes = most, "packets of workloads are captured");
    let running = Running { id, by, asked, copies, data, since: now, until, taken: now, copying, packets, bytes, why };
    shared.captures.take_in(running)?;
    let captures = Arc::clone(&shared.captures);
    tokio::spawn(async move {
        while let Some(next) = captures.look(id) {
            tokio::time::sleep_until(next).await;
        }
    });
    Ok(begun)
}

/// Whether the settings let a host's operators capture.
fn may(shared: &Shared, By { host, uid }: &By, asked: &Asked) -> Result<(), String> {
    let own = shared.host();
    if !shared.config().capture.contains(host) {
        if let Some(left_out) = shared.captures.refused.due(std::time::Instant::now()) {
            tracing::warn!(event = "capture_refused", by = %host, uid, target = %asked.target, left_out, "a capture was refused");
        }
        return Err(format!(
            "the settings of {own} do not let operators of {host} capture: write `capture: {{ allow: [{host}] }}` into the agent.yaml \
             of {own}, beside what may be there, and run `ripstop upgrade` there"
        ));
    }
    Ok(())
}

/// Answers another host's question.
///
/// # Errors
/// Why it is not answered, for people.
pub(super) async fn answer(shared: &Shared, peer: &HostName, body: &[u8]) -> Result<Bytes, String> {
    let question = serde_json::from_slice(body).map_err(|_| "that is no question about a capture")?;
    match question {
        Question::Begin(asked) => {
            let by = By { host: peer.clone(), uid: None };
            let mut begun = begin(shared, by, asked).await?;
            // Who else calls is not for it to know.
            begun.hosts.clear();
            serde_json::to_vec(&begun).map(Bytes::from).map_err(|error| error.to_string())
        }
        Question::Take(take) => shared.captures.take(peer, take).map(|part| part.encode(take.by_replica).into()),
    }
}

/// Begins a capture here and on the other hosts of the sessions, for a user of this host. Blocks.
///
/// # Errors
/// Why this host captures nothing, for people; then no other does.
pub(super) fn begin_all(shared: &Shared, uid: u32, asked: &Asked) -> Result<Capturing, String> {
    Handle::current().block_on(async {
        let own = shared.host().clone();
        let by = By { host: own.clone(), uid: Some(uid) };
        let begun = begin(shared, by, asked.clone()).await?;
        let others = begun.hosts.clone();
        let mut hosts = vec![CapturingOn::begun(own, begun)];
        let (asked_too, left_out) = others.split_at(others.len().min(HOSTS_MAX));
        hosts.extend(futures::future::join_all(asked_too.iter().map(|host| begin_on(shared, host, asked))).await);
        hosts.extend(left_out.iter().map(|host| {
            CapturingOn::failed(host.clone(), format!("not asked: at most {HOSTS_MAX} other hosts take part"))
        }));
        Ok(Capturing { target: asked.target.to_string(), hosts })
    })
}

async fn begin_on(shared: &Shared, host: &HostName, asked: &Asked) -> CapturingOn {
    let transport = shared.data().transport();
    if !transport.peers().iter().any(|peer| peer.host == *host && peer.state == PeerState::Up) {
        return CapturingOn::failed(host.clone(), "it is not connected".into());
    }
    match ask(shared, host, &Question::Begin(asked.clone()), BEGUN_MAX).await {
        Ok(answer) => match serde_json::from_slice(&answer) {
            Ok(begun) => CapturingOn::begun(host.clone(), begun),
            Err(_) => CapturingOn::failed(host.clone(), "its answer is malformed".into()),
        },
        Err(why) => CapturingOn::failed(host.clone(), why),
    }
}

/// What captures of this host's operators have, here and on other hosts. Blocks.
pub(super) fn take_all(shared: &Shared, all: &TakeAll) -> Vec<CapturedOn> {
    let one = async |(host, id): &(HostName, u64)| {
        let take = Take { id: *id, end: all.end, by_replica: all.by_replica.contains(host) };
        let taken = if host == shared.host() {
            shared.captures.take(host, take).map(|part| part.encode(take.by_replica).into())
        } else {
            ask(shared, host, &Question::Take(take), PART_MAX).await
        };
        let (part, error) = match taken {
            Ok(part) => (Some(STANDARD.encode(part)), None),
            Err(why) => (None, Some(why)),
        };
        CapturedOn { host: host.clone(), part, error }
    };
    let asking = all.captures.iter().take(HOSTS_MAX + 1).map(one);
    Handle::current().block_on(futures::future::join_all(asking))
}

async fn ask(shared: &Shared, host: &HostName, question: &Question, limit: usize) -> Result<Bytes, String> {
    let body = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    let asked = shared.data().transport().ask(host, Kind::Capture as u8, &body, limit, ANSWER_WAIT).await;
    asked.map_err(|error| match error {
        // What it says names itself.
        AskError::Refused(why) => why,
        other @ (AskError::NotConnected(_)
        | AskError::PeerLost(_)
        | AskError::Timeout
        | AskError::TurnedAway
        | AskError::Protocol(_)) => other.to_string(),
    })
}
