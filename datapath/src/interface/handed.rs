//! An interface that two agents of this host have: one that hands over, and the next.
//!
//! TCP state does not move. The next agent reads the device, and both write to it:
//!
//! 1. The first agent stops reading and says which flows it has. Those are its own until they end, which it says.
//! 2. The next one hands on what is of them, and every TCP segment that opens nothing and that it does not know: the first
//!    one may have a flow that it has not said yet.
//! 3. What the first one does not know either it hands back, and then it is the next one's to answer.
//! 4. When the first one has ended, its flows are nobody's.

use super::flows::Interface;
use crate::{
    handover::{Channel, Flow, Frame},
    packet::{FlowKey, craft},
    stack::Received,
};
use ripstop_config::{Protocol, Reason};
use rustc_hash::FxHashSet;
use std::{
    cell::{Cell, RefCell},
    io::IoSlice,
    rc::Rc,
    sync::Arc,
};

/// The way to another agent, and which of its interfaces this is.
#[derive(Debug, Clone)]
pub struct Way {
    /// The way of packets.
    pub channel: Arc<Channel>,
    /// By which number both know the interface.
    pub index: u16,
}

/// What an agent knows of the flows of an interface.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    /// Those that it has.
    pub open: Vec<Flow>,
    /// Connections toward the workload whose ports rest.
    pub rested: Vec<FlowKey>,
}

/// The agent before this one.
struct Predecessor {
    way: Way,
    flows: RefCell<FxHashSet<Flow>>,
    /// It has just said that a packet is not its own.
    is_back: Cell<bool>,
    /// It was told that the interface is gone.
    knows: Cell<bool>,
}

/// Whether a packet may be of a flow that the agent before has, and has not said yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsaid {
    /// It opens nothing: who is asked tells whose it is.
    May,
    /// It may open one here.
    Not,
}

/// The other agents of an interface.
#[derive(Default)]
pub(super) struct Others {
    predecessor: RefCell<Option<Rc<Predecessor>>>,
    successor: RefCell<Option<Way>>,
}

impl Way {
    fn send(&self, frame: &Frame<'_>) -> bool {
        let (head, tail) = frame.parts();
        self.channel.send_now(&[IoSlice::new(&head), IoSlice::new(tail)])
    }
}

impl Interface {
    /// Takes the interface over from an agent that has these flows.
    pub fn inherit(&self, way: Way, flows: Flows) {
        self.spread().remember(flows.rested);
        for flow in &flows.open {
            self.claim(*flow);
        }
        let flows = RefCell::new(flows.open.into_iter().collect());
        let (is_back, knows) = Default::default();
        *self.others.predecessor.borrow_mut() = Some(Rc::new(Predecessor { way, flows, is_back, knows }));
    }

    /// Hands the interface over: its device is not read here any more. Says which flows it has.
    pub fn hand_over(&self, way: Way) -> Flows {
        *self.others.successor.borrow_mut() = Some(way);
        self.reading.send_replace(false);
        let mut open = self.open_flows();
        if let Some(predecessor) = self.predecessor() {
            open.extend(predecessor.flows.borrow().iter());
        }
        Flows { open, rested: self.spread().resting() }
    }

    /// Reads the device again.
    pub fn take_back(&self) {
        self.others.successor.take();
        self.reading.send_replace(true);
    }

    /// The agent before has ended: the kernels that have connections of its are asked, so that their answers are reset.
    pub fn outlive(&self) {
        let Some(predecessor) = self.others.predecessor.take() else { return };
        for flow in &*predecessor.flows.borrow() {
            self.disclaim(*flow);
            if flow.protocol == Protocol::Tcp {
                self.port().send(&craft::question(&flow.key));
            }
        }
    }

    /// The agent before has a flow, or has it no more.
    pub fn follow(&self, flow: Flow, open: bool) {
        let Some(predecessor) = self.predecessor() else { return };
        if open {
            predecessor.flows.borrow_mut().insert(flow);
            self.begins(flow);
        } else {
            predecessor.flows.borrow_mut().remove(&flow);
            self.ends(flow);
        }
    }

    /// Has a packet taken that the agent before does not know: from here on its flow is not that one's.
    pub(super) fn back(&self, flow: Option<Flow>, take: impl FnOnce()) {
        let Some(predecessor) = self.predecessor() else { return take() };
        if let Some(flow) = flow.filter(|flow| predecessor.flows.borrow_mut().remove(flow)) {
            self.disclaim(flow);
        }
        predecessor.is_back.set(true);
        take();
        predecessor.is_back.set(false);
    }

    /// Whether another agent or thread of this host has it, too.
    pub(super) fn is_shared(&self) -> bool {
        self.siblings().are_several()
            || self.others.predecessor.borrow().is_some()
            || self.others.successor.borrow().is_some()
    }

    /// Whether another thread, or another agent of this host, takes a packet that this thread does not know. Unless it may be of a
    /// flow of which nothing was said, the agent before only takes what is of one that it said to have.
    pub(super) fn is_elsewhere(&self, flow: Flow, unsaid: Unsaid, received: Received<'_>) -> bool {
        if self.is_sibling_s(flow, received) {
            return true;
        }
        let has = |predecessor: &Predecessor| unsaid == Unsaid::May || predecessor.flows.borrow().contains(&flow);
        let before = self.predecessor().filter(|predecessor| !predecessor.is_back.get() && has(predecessor));
        let way = before.map(|predecessor| predecessor.way.clone()).or_else(|| self.successor());
        let Some(way) = way else { return false };
        // None is longer than a packet, the lengths of which are of 16 bits.
        let datagram = received.datagram.map_or(0, |each| u16::try_from(each.get()).unwrap_or(u16::MAX));
        if !way.send(&Frame::Packet { interface: way.index, datagram, bytes: received.packet }) {
            self.drops().count(Reason::InterfaceFull);
        }
        true
    }

    /// Whether the agent before has a flow.
    pub(super) fn is_taken_elsewhere(&self, protocol: Protocol, key: FlowKey) -> bool {
        let flow = Flow { protocol, key };
        self.predecessor().is_some_and(|predecessor| predecessor.flows.borrow().contains(&flow))
    }

    /// Tells the next agent that this one has a flow, or has it no more. When that is lost, the flow is asked for in vain.
    pub(super) fn tell(&self, flow: Flow, open: bool) {
        if let Some(way) = self.successor() {
            way.send(&Frame::Flow { interface: way.index, flow, open });
        }
    }

    /// Tells the agent before that the interface is gone; it says which flows of its have ended for that.
    pub(super) fn tell_gone(&self) {
        if let Some(predecessor) = self.predecessor().filter(|predecessor| !predecessor.knows.replace(true)) {
            predecessor.way.send(&Frame::Gone { interface: predecessor.way.index });
        }
    }

    /// Flows that the agent before still has.
    pub(super) fn flows_before(&self) -> usize {
        self.predecessor().map_or(0, |predecessor| predecessor.flows.borrow().len())
    }

    fn predecessor(&self) -> Option<Rc<Predecessor>> {
        self.others.predecessor.borrow().clone()
    }

    fn successor(&self) -> Option<Way> {
        self.others.successor.borrow().clone()
    }
}
