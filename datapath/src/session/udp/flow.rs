//! The way to an endpoint through its workload's interface, at one of two addresses.
//!
//! Nobody can be asked who listens in a namespace: the endpoint's kernel says that a port is closed when the first
//! datagram comes. For a moment the first ones are kept, so that they can go to the endpoint's other address.

use super::{
    holder::Holder,
    relay::{Inlet, Lost},
};
use crate::{
    interface::{Interface, UdpFlow},
    packet::FlowKey,
    session::{context::Context, reach::Targets},
};
use bytes::Bytes;
use ripstop_config::{Protocol, Reason};
use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

/// How long the first datagrams are kept: the kernel's answer is there within microseconds.
pub(super) const KEPT: Duration = Duration::from_millis(100);
/// How many are kept at most, and bytes of them: as many as an [`Inlet`] holds before a session is open.
const KEPT_MAX: usize = 64;
const KEPT_BYTES: usize = 128 * 1024;

/// An endpoint behind an interface.
pub(super) struct EndpointFlow {
    interface: Rc<Interface>,
    inlet: Rc<Inlet>,
    flow: RefCell<UdpFlow>,
    key: Cell<FlowKey>,
    /// On the host, who must hold the port.
    holder: Option<Holder>,
    other: RefCell<Option<Other>>,
}

/// Where else it may listen.
struct Other {
    context: Rc<Context>,
    from: SocketAddr,
    target: SocketAddr,
    kept: Vec<Bytes>,
    bytes: usize,
}

impl EndpointFlow {
    /// A flow to the first of the places; `from` says whom the endpoint sees, by IPv4 or not.
    ///
    /// # Errors
    /// `AgentFull` when there is no room; of an endpoint on the host what [`Holder`] found, with more for people.
    pub(super) fn open(
        context: &Rc<Context>,
        interface: &Rc<Interface>,
        targets: Targets,
        from: impl Fn(bool) -> SocketAddr,
    ) -> Result<Rc<Self>, (Reason, String)> {
        let inlet = Inlet::new(crate::session::pump::Way::Down);
        let flow = interface.reach_udp(from(targets.first.is_ipv4()), targets.first, Rc::clone(&inlet) as _);
        let flow = flow.map_err(|reason| (reason, String::new()))?;
        let key = flow.key();
        let programs = interface.programs();
        let holder = programs.map(|programs| Holder::of(context, key.fabric, key.workload, programs)).transpose()?;
        let other = targets.other.filter(|_| holder.is_none()).map(|target| {
            let from = from(target.is_ipv4());
            Other { context: Rc::clone(context), from, target, kept: Vec::new(), bytes: 0 }
        });
        let (interface, key, flow) = (Rc::clone(interface), Cell::new(key), RefCell::new(flow));
        Ok(Rc::new(Self { interface, inlet, flow, key, holder, other: RefCell::new(other) }))
    }

    /// The interface.
    pub(super) fn interface(&self) -> &Rc<Interface> {
        &self.interface
    }

    /// What takes the endpoint's datagrams.
    pub(super) fn inlet(&self) -> &Inlet {
        &self.inlet
    }

    /// Where its datagrams go, and come from.
    pub(super) fn key(&self) -> FlowKey {
        self.key.get()
    }

    /// Sends a datagram to the endpoint.
    pub(super) fn send(&self, data: &[u8]) -> Result<(), Lost> {
        self.before_sending(&[data])?;
        self.transmit(data);
        Ok(())
    }

    /// Sends several.
    pub(super) fn send_all(&self, batch: &[impl AsRef<[u8]>]) -> Result<(), Lost> {
        self.before_sending(batch)?;
        let key = self.key.get();
        self.interface.port().send_datagrams(key.fabric, key.workload, batch);
        Ok(())
    }

    fn before_sending(&self, batch: &[impl AsRef<[u8]>]) -> Result<(), Lost> {
        if let Some(holder) = &self.holder {
            holder.look_again()?;
        }
        if let Some(other) = &mut *self.other.borrow_mut() {
            batch.iter().for_each(|data| other.keep(data.as_ref()));
        }
        Ok(())
    }

    fn transmit(&self, data: &[u8]) {
        let key = self.key.get();
        self.interface.port().send_datagram(key.fabric, key.workload, data);
    }

    /// Nobody listens there: what was sent goes to the endpoint's other address, if it has one; says whether.
    pub(super) fn turn(&self) -> bool {
        let Some(other) = self.other.take() else { return false };
        let before = self.key.get().workload;
        let Ok(flow) = self.interface.reach_udp(other.from, other.target, Rc::clone(&self.inlet) as _) else {
            return false;
        };
        other.context.families.absent(Protocol::Udp, before);
        self.key.set(flow.key());
        // What else the kernel says of the old flow concerns nobody.
        drop(self.flow.replace(flow));
        other.kept.iter().for_each(|data| self.transmit(data));
        true
    }

    /// It has answered, or its kernel would have: nothing is kept any more.
    pub(super) fn settle(&self) {
        drop(self.other.take());
    }
}

impl Other {
    /// What does not fit is lost if the endpoint is at the other address, as a datagram may be.
    fn keep(&mut self, data: &[u8]) {
        if self.kept.len() < KEPT_MAX && self.bytes + data.len() <= KEPT_BYTES {
            self.bytes += data.len();
            self.kept.push(Bytes::copy_from_slice(data));
        }
    }
}
