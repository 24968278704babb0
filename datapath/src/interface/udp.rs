//! The UDP flows of one interface: the workload's own, and those that sessions have toward it.

use super::flows::{Interface, PORTS_TRIED};
use crate::{
    handover::Flow,
    packet::{FlowKey, IcmpError},
};
use ripstop_config::{Protocol, Reason};
use rustc_hash::FxHashMap;
use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

/// What takes the datagrams of one flow.
pub trait DatagramSink {
    /// A datagram that the workload sent.
    ///
    /// # Errors
    /// The reason for which it is dropped.
    fn datagram(&self, data: &[u8]) -> Result<(), Reason>;

    /// Takes several that the workload sent at once, and says why each is dropped that is. Leaves them while it holds datagrams,
    /// each of which may find room or not.
    fn datagrams(&self, all: &mut Vec<&[u8]>, dropped: &dyn Fn(Reason));

    /// The workload's kernel says that a datagram of the flow went nowhere; `port`: as the port is closed.
    fn unreachable(&self, port: bool);
}

/// Ports are used again: a place is only ever given up by the one who took it.
struct Place {
    taker: u64,
    sink: Rc<dyn DatagramSink>,
}

/// The table.
#[derive(Default)]
pub(super) struct UdpFlows {
    places: RefCell<FxHashMap<FlowKey, Place>>,
    takers: Cell<u64>,
}

/// A UDP flow's place in its interface's table, until it is dropped.
pub struct UdpFlow {
    interface: Rc<Interface>,
    key: FlowKey,
    taker: u64,
    held: Cell<bool>,
}

impl UdpFlows {
    pub(super) fn len(&self) -> usize {
        self.places.borrow().len()
    }

    pub(super) fn keys(&self) -> Vec<FlowKey> {
        self.places.borrow().keys().copied().collect()
    }

    /// What takes the datagrams of a flow.
    pub(super) fn get(&self, key: &FlowKey) -> Option<Rc<dyn DatagramSink>> {
        self.places.borrow().get(key).map(|place| Rc::clone(&place.sink))
    }
}

impl Interface {
    /// Takes a place for a flow of the workload whose first datagrams are held.
    #[must_use]
    pub fn hold_udp(self: &Rc<Self>, key: FlowKey, sink: Rc<dyn DatagramSink>) -> UdpFlow {
        self.count_held(1);
        self.take_udp(key, sink, true)
    }

    /// Takes a place for a session toward the workload at `target`, from `source`: from the caller's own port when that is
    /// free here, else from another.
    ///
    /// # Errors
    /// `AgentFull` when the table is full or no port is free.
    pub fn reach_udp(
        self: &Rc<Self>,
        source: SocketAddr,
        target: SocketAddr,
        sink: Rc<dyn DatagramSink>,
    ) -> Result<UdpFlow, Reason> {
        if !self.has_room() {
            return Err(Reason::AgentFull);
        }
        let key = |ip: IpAddr, port| FlowKey { workload: target, fabric: SocketAddr::new(ip, port) };
        let own = (source.port() != 0).then(|| key(source.ip(), source.port()));
        let others = (0..PORTS_TRIED).map(|_| key(source.ip(), self.next_port()));
        let taken =
            |key: &FlowKey| self.udp.places.borrow().contains_key(key) || self.is_taken_elsewhere(Protocol::Udp, *key);
        let free = |key: &FlowKey| !taken(key) && self.claim(Flow { protocol: Protocol::Udp, key: *key });
        let free = own.into_iter().chain(others).find(free);
        Ok(self.take_udp(free.ok_or(Reason::AgentFull)?, sink, false))
    }

    fn take_udp(self: &Rc<Self>, key: FlowKey, sink: Rc<dyn DatagramSink>, held: bool) -> UdpFlow {
        let taker = self.udp.takers.get() + 1;
        self.udp.takers.set(taker);
        self.udp.places.borrow_mut().insert(key, Place { taker, sink });
        self.begins(Flow { protocol: Protocol::Udp, key });
        UdpFlow { interface: Rc::clone(self), key, taker, held: Cell::new(held) }
    }

    /// An ICMP error that the workload's kernel sent. Only one that quotes a flow which exists says anything.
    pub(super) fn icmp_error(&self, error: &IcmpError) -> Result<(), Reason> {
        let sink = self.udp.get(&error.flow).ok_or(Reason::IcmpIgnored)?;
        sink.unreachable(error.port);
        Ok(())
    }
}

impl UdpFlow {
    /// The flow.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        self.key
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &Rc<Interface> {
        &self.interface
    }

    /// Nothing is held any more.
    pub fn release_held(&self) {
        if self.held.replace(false) {
            self.interface.count_held(-1);
        }
    }
}

impl Drop for UdpFlow {
    fn drop(&mut self) {
        self.release_held();
        let mut places = self.interface.udp.places.borrow_mut();
        if places.get(&self.key).is_some_and(|place| place.taker == self.taker) {
            let gone = places.remove(&self.key);
            // What it holds may look at the table when it goes.
            drop(places);
            drop(gone);
            self.interface.ends(Flow { protocol: Protocol::Udp, key: self.key });
        }
    }
}
