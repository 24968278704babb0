//! A byte rate that sessions share fairly.
//!
//! Start-time fair queueing over a bucket, in two levels: flows (the calling workloads) get equal shares, and within a flow
//! its sessions do. Virtual time counts bytes. Who wants some gets a start tag: the virtual time, or where it left off if it
//! is ahead of that; the smallest tag is served first. So one that used little goes before one that used much, and one that
//! takes all it can get is only ever ahead by one piece.
//!
//! 1. [`FairBucket::pass`] serves at once, if nobody is to be served before and the bucket has enough.
//! 2. [`FairBucket::take`] else waits in the queue. Only its first sleeps until the bucket has enough; whatever makes another
//!    the first wakes it, on whichever thread it is.
//! 3. Where there is no rate nothing is locked and nothing written: only a flag is read. A session counts in its flow from when
//!    it first wants some; so one that is under no rate begins and ends without a lock, too.

use super::bucket::{Bucket, Kind, Start};
use ripstop_config::ByteRate;
use rustc_hash::FxHashMap;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Those who share as one: a calling workload, by a hash of its name.
pub(super) type Flow = u64;

/// A session's place in a bucket: its flow, and how far it came there.
#[derive(Clone, Copy)]
pub(super) struct Place<'s> {
    pub(super) flow: Flow,
    pub(super) progress: &'s Progress,
}

/// How far one session came in one bucket.
#[derive(Default)]
pub(super) struct Progress {
    /// The virtual time up to which it was served.
    finish: Cell<u64>,
    /// Its flow counts it.
    joined: Cell<bool>,
}

/// A byte rate shared by sessions, of any thread; without a rate all passes.
pub(super) struct FairBucket<H = Mutex<State>> {
    kind: Kind,
    /// It has a rate.
    limited: AtomicBool,
    state: H,
}

/// The byte rate of one session, which has one thread.
pub(super) type OwnBucket = FairBucket<RefCell<State>>;

/// How the state of a bucket is held: by the one thread that it is of, or by the one that has the lock.
pub(super) trait Hold: From<State> {
    /// Acts on the state; `act` asks for no other and wakes nobody, as others may wait for it to be done.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R;
}

impl Hold for RefCell<State> {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.borrow_mut())
    }
}

impl Hold for Mutex<State> {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
pub(super) struct State {
    rate: Option<ByteRate>,
    /// Made at its first use.
    bucket: Option<Box<Bucket>>,
    now: u64,
    next: u64,
    /// Flows with sessions that wait, by start tag.
    order: BTreeSet<(u64, Flow)>,
    flows: FxHashMap<Flow, FlowState>,
}

/// The queue of one flow: as long as it has sessions, each of which waits at most once.
#[derive(Default)]
struct FlowState {
    sessions: usize,
    /// Its tag in the order, while any of its sessions waits.
    start: Option<u64>,
    finish: u64,
    now: u64,
    waiting: BTreeMap<Ticket, Arc<Notify>>,
}

/// A start tag within the flow, and a number that keeps equal tags apart.
type Ticket = (u64, u64);

/// A session that waits; gives its place up when dropped.
struct Waiter<'b, H: Hold> {
    bucket: &'b FairBucket<H>,
    flow: Flow,
    ticket: Ticket,
    turn: Arc<Notify>,
}

impl<H: Hold> FairBucket<H> {
    pub(super) fn new(kind: Kind, rate: Option<ByteRate>) -> Self {
        let state = State { rate, ..State::default() };
        Self { kind, limited: AtomicBool::new(rate.is_some()), state: state.into() }
    }

    /// Goes over to another rate, for those who wait too.
    pub(super) fn set_rate(&self, rate: Option<ByteRate>) {
        let turn = self.state.with(|state| {
            if state.rate == rate {
                return None;
            }
            state.rate = rate;
            state.bucket = None;
            self.limited.store(rate.is_some(), Ordering::Relaxed);
            state.turn()
        });
        if let Some(turn) = turn {
            turn.notify_one();
        }
    }

    /// Only read here: what sessions without a rate ask for each piece is written by a change of policy alone.
    fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// A session is gone: its flow is forgotten with the last that wanted some.
    pub(super) fn leave(&self, place: Place<'_>) {
        if place.progress.joined.take() {
            self.state.with(|state| state.leave(place.flow));
        }
    }

    /// The most bytes to take at once; none without a rate.
    pub(super) fn unit(&self) -> Option<u64> {
        if !self.is_limited() {
            return None;
        }
        self.state.with(|state| state.bucket(self.kind, Start::Empty).map(Bucket::unit))
    }

    /// What may pass at once after a pause, in bytes; none without a rate. Whoever asks uses nothing, so no bucket is made for
    /// it: what that holds at first is for its first use to say.
    pub(super) fn burst(&self) -> Option<u64> {
        if !self.is_limited() {
            return None;
        }
        self.state.with(|state| match &state.bucket {
            Some(bucket) => Some(bucket.burst()),
            None => Bucket::burst_of(state.rate?, self.kind),
        })
    }

    /// Whether so many bytes may pass at once. They have not passed yet, and another thread's may pass before.
    pub(super) fn passes(&self, place: Place<'_>, bytes: u64, start: Start) -> bool {
        let passes = |state: &mut State| {
            let tag = state.start_of(place);
            let light = state.is_light(place);
            state.is_first(place.flow, tag)
                && state.bucket(self.kind, start).is_none_or(|bucket| bucket.wait(bytes, light).is_zero())
        };
        !self.is_limited() || self.state.with(passes)
    }

    /// Lets so many bytes pass at once; false if they must wait, as do those that came before.
    pub(super) fn pass(&self, place: Place<'_>, bytes: u64) -> bool {
        let pass = |state: &mut State| {
            let tag = state.start_of(place);
            state.is_first(place.flow, tag) && state.serve(self.kind, place, tag, bytes).is_ok()
        };
        !self.is_limited() || self.change(pass)
    }

    /// Waits until so many bytes may pass; true if it had to wait.
    pub(super) async fn take(&self, place: Place<'_>, bytes: u64) -> bool {
        if self.pass(place, bytes) {
            return false;
        }
        let waiter = self.queue(place);
        // Without a time it waits for its turn.
        while let Err(wait) = self.change(|state| match state.first() == Some((waiter.flow, waiter.ticket)) {
            true => state.serve(self.kind, place, waiter.ticket.0, bytes).map_err(Some),
            false => Err(None),
        }) {
            tokio::select! {
                () = waiter.turn.notified() => {}
                () = pause(wait) => {}
            }
        }
        true
    }

    fn queue(&self, place: Place<'_>) -> Waiter<'_, H> {
        let turn = Arc::new(Notify::new());
        let ticket = self.state.with(|state| {
            let ticket = (state.start_of(place), state.next);
            state.next += 1;
            state.flows.entry(place.flow).or_default().waiting.insert(ticket, Arc::clone(&turn));
            state.sort(place.flow);
            ticket
        });
        Waiter { bucket: self, flow: place.flow, ticket, turn }
    }

    /// Changes the state, and wakes whoever is the first by that: it may be of another flow, or thread, and asleep.
    fn change<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let (result, turn) = self.state.with(|state| {
            let before = state.first();
            let result = act(state);
            (result, if state.first() == before { None } else { state.turn() })
        });
        if let Some(turn) = turn {
            turn.notify_one();
        }
        result
    }
}

/// For so long; for ever without a time.
async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

impl<H: Hold> Drop for Waiter<'_, H> {
    fn drop(&mut self) {
        self.bucket.change(|state| {
            if let Some(flow) = state.flows.get_mut(&self.flow) {
                flow.waiting.remove(&self.ticket);
            }
            state.sort(self.flow);
        });
    }
}

impl State {
    fn bucket(&mut self, kind: Kind, start: Start) -> Option<&Bucket> {
        if self.bucket.is_none() {
            self.bucket = Bucket::new(self.rate?, kind, start).map(Box::new);
        }
        self.bucket.as_deref()
    }

    /// The start tag within its flow of what a session wants next; from the first time on, its flow counts the session.
    fn start_of(&mut self, place: Place<'_>) -> u64 {
        let flow = self.flows.entry(place.flow).or_default();
        if !place.progress.joined.replace(true) {
            flow.sessions += 1;
        }
        flow.now.max(place.progress.finish.get())
    }

    fn leave(&mut self, id: Flow) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.sessions = flow.sessions.saturating_sub(1);
        if flow.sessions == 0 {
            self.flows.remove(&id);
        }
    }

    /// The session, or its flow, did not take its share lately: others were served while it wanted nothing. Who waits all
    /// the time is never light, as virtual time does not pass those who wait.
    fn is_light(&self, place: Place<'_>) -> bool {
        let flow = self.flows.get(&place.flow);
        flow.is_some_and(|flow| flow.finish < self.now || place.progress.finish.get() < flow.now)
    }

    /// Nobody who waits is to be served before one with this tag.
    fn is_first(&self, flow: Flow, tag: u64) -> bool {
        let Some(&(first, whose)) = self.order.first() else { return true };
        let Some(own) = self.flows.get(&flow) else { return false };
        match own.waiting.first_key_value() {
            Some(((ahead, _), _)) => whose == flow && tag < *ahead,
            None => self.now.max(own.finish) < first,
        }
    }

    fn first(&self) -> Option<(Flow, Ticket)> {
        let (_, flow) = self.order.first()?;
        let (ticket, _) = self.flows.get(flow)?.waiting.first_key_value()?;
        Some((*flow, *ticket))
    }

    /// What wakes the first.
    fn turn(&self) -> Option<Arc<Notify>> {
        let (flow, ticket) = self.first()?;
        self.flows.get(&flow)?.waiting.get(&ticket).cloned()
    }

    /// Takes from the bucket, and moves virtual time on.
    fn serve(&mut self, kind: Kind, place: Place<'_>, tag: u64, bytes: u64) -> Result<(), Duration> {
        let light = self.is_light(place);
        if let Some(bucket) = self.bucket(kind, Start::Empty) {
            bucket.take(bytes, light)?;
        }
        self.charge(place, tag, bytes);
        Ok(())
    }

    fn charge(&mut self, place: Place<'_>, tag: u64, bytes: u64) {
        let flow = self.flows.entry(place.flow).or_default();
        let start = flow.start.unwrap_or(flow.finish).max(self.now);
        flow.now = flow.now.max(tag);
        flow.finish = start + bytes;
        place.progress.finish.set(tag + bytes);
        self.now = start;
        self.sort(place.flow);
    }

    /// Puts a flow to where it belongs in the order.
    fn sort(&mut self, id: Flow) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if let Some(start) = flow.start.take() {
            self.order.remove(&(start, id));
        }
        if !flow.waiting.is_empty() {
            let start = flow.finish.max(self.now);
            flow.start = Some(start);
            self.order.insert((start, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_known_from_when_a_session_wants_some_until_its_last_is_gone() {
        let bucket = OwnBucket::new(Kind::Shared, ByteRate::per_second(1_000_000));
        let known = || bucket.state.with(|state| state.flows.len());
        let [one, two, idle] = <[Progress; 3]>::default();
        let place = |progress| Place { flow: 7, progress };
        for progress in [&one, &one, &two] {
            assert!(bucket.pass(place(progress), 1));
        }
        // Neither is twice what was once.
        for (gone, left) in [(&idle, 1), (&one, 1), (&one, 1), (&two, 0)] {
            bucket.leave(place(gone));
            assert_eq!(known(), left);
        }
    }
}
