//! What the agent itself answers at the resolver's address: how much of it may be in hand for one workload, and its connections.

use super::flows::{FlowGuard, Interface};
use crate::{
    packet::{Packet, Segment},
    session::context::random,
    stack::Endpoint,
};
use ripstop_config::Reason;
use std::{
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Work in hand for a workload, counted until it is dropped.
pub(super) struct InHand {
    interface: Rc<Interface>,
    count: fn(&Interface) -> &AtomicUsize,
}

impl InHand {
    /// Counts one more of what an interface has.
    ///
    /// # Errors
    /// `full` where it has as many as it may.
    pub(super) fn take(
        interface: &Rc<Interface>,
        count: fn(&Interface) -> &AtomicUsize,
        most: usize,
        full: Reason,
    ) -> Result<Self, Reason> {
        let more = |has| (has < most).then_some(has + 1);
        count(interface).fetch_update(Relaxed, Relaxed, more).map_err(|_| full)?;
        Ok(Self { interface: Rc::clone(interface), count })
    }

    /// Whose it is.
    pub(super) fn interface(&self) -> &Rc<Interface> {
        &self.interface
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        (self.count)(&self.interface).fetch_sub(1, Relaxed);
    }
}

/// Takes a connection that a workload opens; its place in the table is given up with the second.
///
/// # Errors
/// `AgentFull` when the table is full.
pub(super) fn accept(
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    segment: &Segment,
) -> Result<(Rc<Endpoint>, FlowGuard), Reason> {
    if !interface.has_room() {
        interface.refuse(packet, segment, Reason::AgentFull);
        return Err(Reason::AgentFull);
    }
    let key = packet.flow(segment);
    let endpoint = Endpoint::accept(interface.port(), &key, packet.bytes, random());
    let flow = interface.insert(key, &endpoint);
    Ok((endpoint, flow))
}
