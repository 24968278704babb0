//! A data thread's part in handing over: the flows of two agents, each with the one that has them.

use super::data::HandedOver;
use ripstop_datapath::handover::{Channel, Frame, MESSAGE_MAX};
use ripstop_datapath::interface::{self, Flows, Interface, InterfaceId, Way};
use ripstop_datapath::session::{
    context::Context,
    health,
    voice::{self, Spoken},
};
use ripstop_datapath::stack::Received;
use ripstop_transport::Foreign;
use std::{cell::RefCell, collections::BTreeMap, io::IoSlice, num::NonZeroUsize, rc::Rc, sync::Arc};

/// Packets taken in one turn, as from an interface.
const BATCH: usize = 16;

/// The other agent's thread of the same number, as a data thread knows it.
pub(super) struct Relay {
    channel: Arc<Channel>,
    /// By the number that both know them by.
    interfaces: RefCell<BTreeMap<u16, Rc<Interface>>>,
}

impl Relay {
    /// Toward an agent at the other end of a channel.
    pub(super) fn new(channel: Arc<Channel>) -> Rc<Self> {
        Rc::new(Self { channel, interfaces: RefCell::default() })
    }

    /// Takes an interface over from it.
    pub(super) fn inherit(&self, context: &Rc<Context>, interface: &Rc<Interface>, part: Part) {
        let Part { index, flows, said } = part;
        interface.inherit(Way { channel: Arc::clone(&self.channel), index }, flows);
        voice::hear_again(context, interface.id(), said);
        self.interfaces.borrow_mut().insert(index, Rc::clone(interface));
    }

    /// Hands everything over to it: from the return on nothing is read here.
    pub(super) fn hand_over(&self, context: &Context) -> std::io::Result<HandedOver> {
        let socket = context.transport.hand_over()?;
        let mut interfaces = BTreeMap::new();
        for (interface, index) in context.interfaces().into_iter().zip(0..) {
            let way = Way { channel: Arc::clone(&self.channel), index };
            let said = if context.siblings.is_first() { voice::spoken(context, interface.id()) } else { Vec::new() };
            interfaces.insert(interface.id().clone(), Part { index, flows: interface.hand_over(way), said });
            self.interfaces.borrow_mut().insert(index, interface);
        }
        Ok(HandedOver { socket, interfaces, endpoints: context.endpoints.drained() })
    }

    /// Undoes that.
    pub(super) fn take_back(&self, context: &Context) {
        context.transport.take_back();
        self.interfaces.take().values().for_each(|interface| interface.take_back());
    }

    /// It has ended, and its flows are nobody's.
    pub(super) fn outlive(&self, context: &Context) {
        context.transport.inherit_alone();
        self.interfaces.take().values().for_each(|interface| interface.outlive());
    }

    fn interface(&self, index: u16) -> Option<Rc<Interface>> {
        self.interfaces.borrow().get(&index).cloned()
    }

    /// Takes what the next agent hands on, until it ends.
    pub(super) async fn follow_successor(self: Rc<Self>, context: Rc<Context>) {
        self.each(|frame| match frame {
            Frame::Packet { interface, datagram, bytes } => {
                if let Some(interface) = self.interface(interface) {
                    interface::packet(&context, &interface, received(datagram, bytes));
                }
            }
            Frame::Datagrams(datagrams) => context.transport.deliver(&datagrams),
            Frame::Gone { interface } => {
                if let Some(interface) = self.interfaces.borrow_mut().remove(&interface) {
                    interface.close();
                }
            }
            // Its flows are its own affair.
            Frame::Flow { .. } => {}
        })
        .await;
    }

    /// Takes what the agent before hands back, and says of its flows, until it ends.
    pub(super) async fn follow_predecessor(self: Rc<Self>, context: Rc<Context>) {
        self.each(|frame| match frame {
            Frame::Packet { interface, datagram, bytes } => {
                if let Some(interface) = self.interface(interface) {
                    interface::back(&context, &interface, received(datagram, bytes));
                }
            }
            Frame::Flow { interface, flow, open } => {
                if let Some(interface) = self.interface(interface) {
                    interface.follow(flow, open);
                }
            }
            // It reads no socket and lets go of nothing.
            Frame::Datagrams(_) | Frame::Gone { .. } => {}
        })
        .await;
    }

    async fn each(&self, take: impl Fn(Frame<'_>)) {
        let mut buffer = vec![0; MESSAGE_MAX];
        for taken in 1_usize.. {
            let length = match self.channel.receive(&mut buffer).await {
                Ok(Some((length, _))) => length,
                // The way of messages tells, too.
                Ok(None) | Err(_) => return,
            };
            match Frame::parse(&buffer[..length]) {
                Some(frame) => take(frame),
                None => tracing::warn!("the other agent of this host says what is not understood"),
            }
            if taken.is_multiple_of(BATCH) {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A packet as the other agent has read it.
fn received(datagram: u16, packet: &[u8]) -> Received<'_> {
    Received::several(packet, NonZeroUsize::new(datagram.into()))
}

/// Hands datagrams on to the agent at the other end; of more than it takes, the newest are lost.
pub(super) fn foreign(channel: Arc<Channel>) -> Foreign {
    Box::new(move |datagrams| {
        let (head, tail) = Frame::Datagrams(*datagrams).parts();
        channel.send_now(&[IoSlice::new(&head), IoSlice::new(tail)]);
    })
}

/// This agent only ends what it has: it says nothing more of its endpoints, and checks none.
pub(super) fn only_drain(context: &Rc<Context>) {
    context.only_drains.set(true);
    health::stop(context);
}

/// How this host's endpoints were drained by hand.
pub(super) type Drained = (bool, Vec<ripstop_config::ServiceId>);

/// What is handed over of an interface, beside its device.
#[derive(Default)]
pub(super) struct Part {
    /// The number by which both agents know it.
    pub(super) index: u16,
    pub(super) flows: Flows,
    /// What its workload said of itself.
    pub(super) said: Vec<Spoken>,
}

/// The same of all interfaces.
pub(super) type Parts = BTreeMap<InterfaceId, Part>;
