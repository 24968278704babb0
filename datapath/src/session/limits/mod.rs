//! Limits of sessions: bytes per second, new sessions per second, concurrent sessions; of each session, edge, calling
//! workload, service and tenant.
//!
//! 1. [`LimitTable::admit`] asks all the limits that a session is under, in one go, and counts it for all or for none.
//! 2. [`Admission::shaper`] holds a stream back until its bytes may pass: a reader that waits closes the window of whoever
//!    sends. [`Admission::police`] says of a datagram whether it may pass; one that may not is lost.
//! 3. A byte rate that sessions share is shared fairly: among calling workloads, and among the sessions of each.
//! 4. A new policy's limits hold for open sessions too.
//!
//! What is counted and what rates are shared is of the host, under locks: the table's when a session begins, and that of a
//! byte rate for each piece that is under it. What is one session's own is on its thread only, and is not locked.

mod bucket;
mod clock;
mod denials;
mod fair;
mod scope;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thread_tests;

pub use denials::{DenialLimit, HostDenials};
pub use scope::Refusal;
pub use table::LimitTable;

use super::pump::Way;
use bucket::{Kind, Start};
use fair::{OwnBucket, Place, Progress};
use ripstop_config::{ByteRate, Protocol};
use ripstop_telemetry::EdgeInstruments;
use scope::{Part, Scope};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

/// The right to have a session open, and its part in the byte rates; counted until the last clone is dropped.
#[derive(Clone)]
pub struct Admission(Rc<Member>);

struct Member {
    parts: RefCell<Vec<Rc<Part>>>,
    own: [Own; 2],
    instruments: RefCell<Option<Rc<EdgeInstruments>>>,
    throttled: [Cell<u64>; 2],
    dropped: Cell<u64>,
}

/// One way of the session's own byte rate.
struct Own {
    bucket: OwnBucket,
    progress: Progress,
}

impl Own {
    fn new(kind: Kind) -> Self {
        Self { bucket: OwnBucket::new(kind, None), progress: Progress::default() }
    }

    fn place(&self) -> (&OwnBucket, Place<'_>) {
        (&self.bucket, Place { flow: 0, progress: &self.progress })
    }
}

impl Admission {
    fn new(parts: Vec<Rc<Part>>, protocol: Protocol) -> Self {
        let kind = match protocol {
            Protocol::Tcp => Kind::Stream,
            Protocol::Udp => Kind::Datagrams,
        };
        let member = Member {
            parts: RefCell::new(parts),
            own: [Own::new(kind), Own::new(kind)],
            instruments: RefCell::default(),
            throttled: Default::default(),
            dropped: Cell::default(),
        };
        member.tighten();
        Self(Rc::new(member))
    }

    /// Takes over what another admission counts: the session is under both their limits.
    pub fn join(&self, other: &Self) {
        self.0.parts.borrow_mut().append(&mut other.0.parts.borrow_mut());
        self.0.tighten();
    }

    /// From here on, what is held back is counted in the metrics of an edge too.
    pub fn count_in(&self, instruments: Option<Rc<EdgeInstruments>>) {
        *self.0.instruments.borrow_mut() = instruments;
        self.tell_burst();
    }

    fn tell_burst(&self) {
        if let Some(instruments) = &*self.0.instruments.borrow() {
            instruments.burst(self.burst_bytes().unwrap_or(0));
        }
    }

    /// What holds a stream to the byte rates, one way.
    #[must_use]
    pub fn shaper(&self, way: Way) -> Shaper {
        Shaper { admission: self.clone(), way }
    }

    /// Whether a datagram with so many bytes of payload may pass; one that may not is counted as dropped, and uses nothing
    /// up, unless another thread takes just then what was left of a rate for it: then the rates asked before that one are
    /// charged in vain. What may pass at once is 50 ms of the rate, and at least the largest datagram.
    #[must_use]
    pub fn police(&self, way: Way, bytes: usize) -> bool {
        let Member { parts, own, dropped, .. } = &*self.0;
        let (parts, bytes) = (parts.borrow(), bytes as u64);
        let places = || parts.iter().map(|part| part.place(way));
        let (bucket, place) = own[way as usize].place();
        if places().all(|(bucket, place)| bucket.passes(place, bytes, Start::Full))
            && bucket.passes(place, bytes, Start::Full)
            && places().all(|(bucket, place)| bucket.pass(place, bytes))
            && bucket.pass(place, bytes)
        {
            return true;
        }
        dropped.set(dropped.get() + 1);
        self.0.count_throttled(way, bytes);
        false
    }

    /// Bytes that had to wait for a byte rate, or were dropped for it, both ways.
    #[must_use]
    pub fn throttled_bytes(&self) -> u64 {
        self.0.throttled.iter().map(Cell::get).sum()
    }

    /// Datagrams that were dropped for a byte rate, both ways.
    #[must_use]
    pub fn datagrams_dropped(&self) -> u64 {
        self.0.dropped.get()
    }

    /// What the tightest byte rate lets pass at once after a pause, in bytes; none without a byte rate.
    #[must_use]
    pub fn burst_bytes(&self) -> Option<u64> {
        let shared = self.0.parts.borrow();
        let shared = shared.iter().filter_map(|part| part.shared.bucket(Way::Up).burst());
        shared.chain(self.0.own[0].bucket.burst()).min()
    }

    /// Has its part in another edge if that is not the one it has its part in; and has the session rate of them all.
    fn go_over(&self, edge: &Scope, part: impl FnOnce() -> Rc<Part>) {
        {
            let mut parts = self.0.parts.borrow_mut();
            let of_edge = |part: &&mut Rc<Part>| matches!(part.shared.scope, Scope::Edge(..));
            if let Some(old) = parts.iter_mut().find(of_edge).filter(|old| old.shared.scope != *edge) {
                *old = part();
            }
        }
        self.0.tighten();
        self.tell_burst();
    }
}

impl Member {
    /// Sets the session's own rate to the lowest of those that hold for it.
    fn tighten(&self) {
        let parts = self.parts.borrow();
        let rate: Option<ByteRate> = parts.iter().filter_map(|part| part.shared.session_rate()).min();
        self.own.iter().for_each(|own| own.bucket.set_rate(rate));
    }

    fn count_throttled(&self, way: Way, bytes: u64) {
        let count = &self.throttled[way as usize];
        count.set(count.get() + bytes);
        if let Some(instruments) = &*self.instruments.borrow() {
            match way {
                Way::Up => instruments.throttled_up(bytes),
                Way::Down => instruments.throttled_down(bytes),
            }
        }
    }

    fn part(&self, index: usize) -> Option<Rc<Part>> {
        self.parts.borrow().get(index).cloned()
    }
}

/// Holds one direction of a session to its byte rates, by making its reader wait.
pub struct Shaper {
    admission: Admission,
    way: Way,
}

impl Shaper {
    /// The most bytes to read at once; none when no byte rate holds.
    #[must_use]
    pub fn unit(&self) -> Option<usize> {
        let Member { parts, own, .. } = &*self.admission.0;
        let parts = parts.borrow();
        let shared = parts.iter().filter_map(|part| part.shared.bucket(self.way).unit());
        let unit = shared.chain(own[self.way as usize].bucket.unit()).min()?;
        Some(usize::try_from(unit).unwrap_or(usize::MAX))
    }

    /// Waits until so many bytes may pass; true if it had to wait.
    pub async fn take(&self, bytes: usize) -> bool {
        let (mut left, mut waited) = (bytes, false);
        while left > 0 {
            let Some(unit) = self.unit() else { break };
            let piece = left.min(unit);
            left -= piece;
            waited |= self.take_piece(piece as u64).await;
        }
        if waited {
            self.admission.0.count_throttled(self.way, bytes as u64);
        }
        waited
    }

    async fn take_piece(&self, bytes: u64) -> bool {
        let member = &*self.admission.0;
        let (bucket, place) = member.own[self.way as usize].place();
        let mut waited = bucket.take(place, bytes).await;
        let mut index = 0;
        // Asked one by one, as a new policy may change them meanwhile.
        while let Some(part) = member.part(index) {
            let (bucket, place) = part.place(self.way);
            waited |= bucket.take(place, bytes).await;
            index += 1;
        }
        waited
    }
}
