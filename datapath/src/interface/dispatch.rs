//! What becomes of one packet.

use super::{
    flows::{Interface, Known},
    handed::Unsaid,
    resolver, voice,
};
use crate::{
    handover::Flow,
    packet::{self, IcmpError, Packet, Payload, Segment, craft},
    session::{context::Context, echo, egress, udp},
    stack::{Received, apart},
};
use bytes::Bytes;
use ripstop_config::{Protocol, Reason};
use std::{num::NonZeroUsize, rc::Rc};

/// The port of DNS (RFC 1035 section 4.2).
pub(super) const DNS_PORT: u16 = 53;

/// Takes one packet of an interface: hands it to its session, answers it, or drops it with a counted reason.
pub fn packet(context: &Rc<Context>, interface: &Rc<Interface>, received: Received<'_>) {
    let outcome = match packet::parse(received.packet) {
        Err(Reason::Fragment) => joined(context, interface, received.packet),
        parsed => parsed.and_then(|packet| owned(context, interface, &packet, received)),
    };
    if let Err(reason) = outcome {
        dropped(interface, reason);
    }
}

/// Out of the way of what passes.
#[cold]
fn dropped(interface: &Interface, reason: Reason) {
    tracing::trace!(workload = %interface.workload(), %reason, "dropped");
    interface.drops().count(reason);
}

/// Takes a packet that another agent of this host was handed, and does not know.
pub fn back(context: &Rc<Context>, interface: &Rc<Interface>, received: Received<'_>) {
    let flow = packet::parse(received.packet).ok().and_then(|packet| flow_of(&packet));
    interface.back(flow, || packet(context, interface, received));
}

fn flow_of(packet: &Packet<'_>) -> Option<Flow> {
    match packet.payload {
        Payload::Tcp(segment) => Some(Flow { protocol: Protocol::Tcp, key: packet.flow(&segment) }),
        Payload::Udp { source, destination, .. } => {
            Some(Flow { protocol: Protocol::Udp, key: packet.flow_of(source, destination) })
        }
        Payload::IcmpError(_) | Payload::EchoRequest(_) | Payload::OtherIcmp => None,
    }
}

/// A packet that came in two halves, once the second is there.
fn joined(context: &Rc<Context>, interface: &Rc<Interface>, bytes: &[u8]) -> Result<(), Reason> {
    let whole = interface.halves.borrow_mut().join(bytes)?;
    let Some(whole) = whole else { return Ok(()) };
    packet::parse(&whole).and_then(|packet| owned(context, interface, &packet, Received::plain(&whole)))
}

fn owned(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    received: Received<'_>,
) -> Result<(), Reason> {
    if interface.owns(packet.source) { route(context, interface, packet, received) } else { Err(Reason::SpoofedSource) }
}

fn route(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    received: Received<'_>,
) -> Result<(), Reason> {
    match packet.payload {
        Payload::Tcp(segment) => tcp(context, interface, packet, &segment, received.memory),
        Payload::Udp { source, destination, data } => {
            let (ports, each) = ((source, destination), received.datagram);
            if is_datagram_elsewhere(context, interface, packet, ports, each) {
                return Ok(());
            }
            match each {
                Some(each) => several(context, interface, packet, ports, apart(data, each).ok_or(Reason::Malformed)?),
                None => datagram(context, interface, packet, ports, data),
            }
        }
        Payload::IcmpError(error) => icmp_error(interface, packet, &error),
        Payload::EchoRequest(echo) if is_resolver(context, packet) => {
            interface.port().send(&craft::echo_reply(packet, echo));
            Ok(())
        }
        Payload::EchoRequest(_) => echo::request(context, interface, packet),
        Payload::OtherIcmp => Err(Reason::IcmpIgnored),
    }
}

/// A packet that is one by itself.
fn alone<'p>(packet: &Packet<'p>) -> Received<'p> {
    Received::plain(packet.bytes)
}

fn icmp_error(interface: &Interface, packet: &Packet<'_>, error: &IcmpError) -> Result<(), Reason> {
    let flow = Flow { protocol: Protocol::Udp, key: error.flow };
    match interface.udp.get(&error.flow) {
        None if interface.is_elsewhere(flow, Unsaid::Not, alone(packet)) => Ok(()),
        None | Some(_) => interface.icmp_error(error),
    }
}

fn is_resolver(context: &Context, packet: &Packet<'_>) -> bool {
    let (v4, v6) = context.with_policy(|policy| policy.resolver());
    packet.destination == v4 || packet.destination == v6
}

/// Whether a packet goes to a workload's own address, and to no service.
fn is_of_workload(context: &Context, packet: &Packet<'_>) -> bool {
    context.with_policy(|policy| policy.workload_at(packet.destination).is_some())
}

fn tcp(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    segment: &Segment,
    memory: Option<&Bytes>,
) -> Result<(), Reason> {
    let key = packet.flow(segment);
    let flow = Flow { protocol: Protocol::Tcp, key };
    let unsaid = if is_opening(segment) { Unsaid::Not } else { Unsaid::May };
    match interface.known(&key) {
        Known::Open(endpoint) if !(is_opening(segment) && endpoint.is_gone()) => {
            endpoint.ingest(packet.bytes, memory);
            Ok(())
        }
        Known::Held => Ok(()),
        Known::Open(_) | Known::Unknown if interface.is_elsewhere(flow, unsaid, alone(packet)) => Ok(()),
        Known::Open(_) | Known::Unknown if is_opening(segment) => new_flow(context, interface, packet, segment),
        Known::Open(_) | Known::Unknown => {
            if !segment.rst {
                interface.port().send(&craft::reset(packet, segment));
            }
            Err(Reason::NoSession)
        }
    }
}

fn is_opening(segment: &Segment) -> bool {
    segment.syn && !segment.ack && !segment.rst
}

fn new_flow(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    segment: &Segment,
) -> Result<(), Reason> {
    if is_resolver(context, packet) {
        return match segment.destination {
            DNS_PORT => resolver::connection(context, interface, packet, segment),
            voice::VOICE_PORT => voice::connection(context, interface, packet, segment),
            _ => {
                interface.refuse(packet, segment, Reason::NoPort);
                Err(Reason::NoPort)
            }
        };
    }
    if !context.with_policy(|policy| policy.contains(packet.destination)) {
        interface.refuse(packet, segment, Reason::OutsideFabric);
        return Err(Reason::OutsideFabric);
    }
    egress::open(context, interface, packet, segment);
    Ok(())
}

/// Datagrams that the kernel handed over in one packet, each of which may have a fate of its own.
fn several<'d>(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    ports: (u16, u16),
    all: impl Iterator<Item = &'d [u8]>,
) -> Result<(), Reason> {
    let mut all = all.collect();
    if let Some(flow) = interface.udp.get(&packet.flow_of(ports.0, ports.1)) {
        flow.datagrams(&mut all, &|reason| dropped(interface, reason));
    }
    for data in all {
        if let Err(reason) = datagram(context, interface, packet, ports, data) {
            dropped(interface, reason);
        }
    }
    Ok(())
}

/// Whether another agent or thread of this host takes a packet with one or several datagrams.
fn is_datagram_elsewhere(
    context: &Context,
    interface: &Interface,
    packet: &Packet<'_>,
    (source, destination): (u16, u16),
    each: Option<NonZeroUsize>,
) -> bool {
    let key = packet.flow_of(source, destination);
    // A query is anybody's.
    if !interface.is_shared() || interface.udp.get(&key).is_some() || is_resolver(context, packet) {
        return false;
    }
    // An endpoint's answer to a caller whose session is elsewhere, be it said or not.
    let is_answer = is_of_workload(context, packet);
    let unsaid = if is_answer { Unsaid::May } else { Unsaid::Not };
    let received = Received::several(packet.bytes, each);
    interface.is_elsewhere(Flow { protocol: Protocol::Udp, key }, unsaid, received)
}

fn datagram(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    (source, destination): (u16, u16),
    data: &[u8],
) -> Result<(), Reason> {
    if let Some(flow) = interface.udp.get(&packet.flow_of(source, destination)) {
        return flow.datagram(data);
    }
    let refuse = |reason, why| {
        interface.port().send(&craft::unreachable(packet, why));
        Err(reason)
    };
    if is_resolver(context, packet) {
        return match destination {
            DNS_PORT => resolver::datagram(context, interface, packet, source, data),
            _ => refuse(Reason::NoPort, craft::Unreachable::Port),
        };
    }
    if !context.with_policy(|policy| policy.contains(packet.destination)) {
        return refuse(Reason::OutsideFabric, craft::Unreachable::Prohibited);
    }
    // An endpoint's datagram to a caller that has no session with it, or any other to another workload: not a call.
    if is_of_workload(context, packet) {
        return refuse(Reason::NoSession, craft::Unreachable::Prohibited);
    }
    udp::open(context, interface, packet, (source, destination), data)
}
