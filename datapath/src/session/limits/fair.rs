//! A byte rate that sessions share fairly.
//!
//! Start-time fair queueing over a bucket, in two levels: flows (the calling workloads) get equal shares, and within a flow
//! its sessions do. Virtual time counts bytes. Who wants some gets a start tag: the virtual time, or where it left off if it
//! is ahead of that; the smallest tag is served first. So one that used little goes before one that used much, and one that
//! takes all it can get is only ever ahead by one piece.
//!
//! 1. [`FairBucket::pass`] serves at once, if nobody is to be served before and the bucket has enough.
//! 2. [`FairBucket::take`] else waits in the queue. Only its first sleeps until the bucket has enough; whatever makes another
//!    the first wakes it.

use super::bucket::{Bucket, Kind, Start};
use ripstop_config::ByteRate;
use rustc_hash::FxHashMap;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use tokio::sync::Notify;

/// Those who share as one: a calling workload, by a hash of its name.
pub(super) type Flow = u64;

/// A session's place in a bucket: its flow, and the virtual time up to which it was served.
#[derive(Clone, Copy)]
pub(super) struct Place<'s> {
    pub(super) flow: Flow,
    pub(super) finish: &'s Cell<u64>,
}

/// A byte rate shared by sessions; without a rate all passes.
pub(super) struct FairBucket {
    kind: Kind,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    rate: Option<ByteRate>,
    /// Made at its first use.
    bucket: Option<Box<Bucket>>,
    now: u64,
    next: u64,
    /// Flows with sessions that wait, by start tag.
    order: BTreeSet<(u64, Flow)>,
    flows: FxHashMap<Flow, FlowState>,
}

/// The queue of one flow: as long as it has sessions, each of which waits at most once each way.
#[derive(Default)]
struct FlowState {
    sessions: usize,
    /// Its tag in the order, while any of its sessions waits.
    start: Option<u64>,
    finish: u64,
    now: u64,
    waiting: BTreeMap<Ticket, Rc<Notify>>,
}

/// A start tag within the flow, and a number that keeps equal tags apart.
type Ticket = (u64, u64);

/// A session that waits; gives its place up when dropped.
struct Waiter<'b> {
    bucket: &'b FairBucket,
    flow: Flow,
    ticket: Ticket,
    turn: Rc<Notify>,
}

impl FairBucket {
    pub(super) fn new(kind: Kind, rate: Option<ByteRate>) -> Self {
        Self { kind, state: RefCell::new(State { rate, ..State::default() }) }
    }

    /// Goes over to another rate, for those who wait too.
    pub(super) fn set_rate(&self, rate: Option<ByteRate>) {
        let mut state = self.state.borrow_mut();
        if state.rate != rate {
            state.rate = rate;
            state.bucket = None;
            state.wake_first();
        }
    }

    /// One more session has its place in a flow.
    pub(super) fn join(&self, flow: Flow) {
        self.state.borrow_mut().flows.entry(flow).or_default().sessions += 1;
    }

    /// A session that had joined a flow is gone.
    pub(super) fn leave(&self, flow: Flow) {
        let flows = &mut self.state.borrow_mut().flows;
        let Some(left) = flows.get_mut(&flow) else { return };
        left.sessions = left.sessions.saturating_sub(1);
        if left.sessions == 0 {
            flows.remove(&flow);
        }
    }

    /// The most bytes to take at once; none without a rate.
    pub(super) fn unit(&self) -> Option<u64> {
        let mut state = self.state.borrow_mut();
        state.bucket(self.kind, Start::Empty).map(Bucket::unit)
    }

    /// What may pass at once after a pause, in bytes; none without a rate.
    pub(super) fn burst(&self) -> Option<u64> {
        let mut state = self.state.borrow_mut();
        state.bucket(self.kind, Start::Empty).map(Bucket::burst)
    }

    /// Whether so many bytes may pass at once. They have not passed yet.
    pub(super) fn passes(&self, place: Place<'_>, bytes: u64, start: Start) -> bool {
        let mut state = self.state.borrow_mut();
        if state.rate.is_none() {
            return true;
        }
        let tag = state.start_of(place);
        let light = state.is_light(place);
        state.is_first(place.flow, tag)
            && state.bucket(self.kind, start).is_none_or(|bucket| bucket.wait(bytes, light).is_zero())
    }

    /// Lets so many bytes pass at once; false if they must wait, as do those that came before.
    pub(super) fn pass(&self, place: Place<'_>, bytes: u64) -> bool {
        let mut state = self.state.borrow_mut();
        if state.rate.is_none() {
            return true;
        }
        let tag = state.start_of(place);
        if !state.is_first(place.flow, tag) || state.serve(self.kind, place, tag, bytes).is_err() {
            return false;
        }
        // Its flow may have been the first: whose turn it is now does not know that yet.
        state.wake_first();
        true
    }

    /// Waits until so many bytes may pass; true if it had to wait.
    pub(super) async fn take(&self, place: Place<'_>, bytes: u64) -> bool {
        if self.pass(place, bytes) {
            return false;
        }
        let waiter = self.queue(place);
        loop {
            let wait = {
                let mut state = self.state.borrow_mut();
                if state.first() == Some((waiter.flow, waiter.ticket)) {
                    let Err(wait) = state.serve(self.kind, place, waiter.ticket.0, bytes) else { break };
                    Some(wait)
                } else {
                    None
                }
            };
            tokio::select! {
                () = waiter.turn.notified() => {}
                () = pause(wait) => {}
            }
        }
        true
    }

    fn queue(&self, place: Place<'_>) -> Waiter<'_> {
        let mut state = self.state.borrow_mut();
        let ticket = (state.start_of(place), state.next);
        state.next += 1;
        let turn = Rc::new(Notify::new());
        state.flows.entry(place.flow).or_default().waiting.insert(ticket, Rc::clone(&turn));
        state.sort(place.flow);
        Waiter { bucket: self, flow: place.flow, ticket, turn }
    }
}

/// For so long; for ever without a time.
async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.bucket.state.borrow_mut();
        if let Some(flow) = state.flows.get_mut(&self.flow) {
            flow.waiting.remove(&self.ticket);
        }
        state.sort(self.flow);
        state.wake_first();
    }
}

impl State {
    fn bucket(&mut self, kind: Kind, start: Start) -> Option<&Bucket> {
        if self.bucket.is_none() {
            self.bucket = Bucket::new(self.rate?, kind, start).map(Box::new);
        }
        self.bucket.as_deref()
    }

    /// The start tag within its flow of what a session wants next.
    fn start_of(&mut self, place: Place<'_>) -> u64 {
        self.flows.entry(place.flow).or_default().now.max(place.finish.get())
    }

    /// The session, or its flow, did not take its share lately: others were served while it wanted nothing. Who waits all
    /// the time is never light, as virtual time does not pass those who wait.
    fn is_light(&self, place: Place<'_>) -> bool {
        let flow = self.flows.get(&place.flow);
        flow.is_some_and(|flow| flow.finish < self.now || place.finish.get() < flow.now)
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

    fn wake_first(&self) {
        let first = self.first().and_then(|(flow, ticket)| self.flows.get(&flow)?.waiting.get(&ticket));
        if let Some(turn) = first {
            turn.notify_one();
        }
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
        place.finish.set(tag + bytes);
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
