//! What becomes of one packet.

use super::{
    flows::{Interface, Known},
    resolver,
};
use crate::{
    packet::{self, Packet, Payload, Segment, craft},
    session::{context::Context, egress},
};
use ripstop_config::{Port, Protocol, Reason};
use std::rc::Rc;

/// The port of DNS (RFC 1035 section 4.2).
pub(super) const DNS_PORT: u16 = 53;

pub(super) fn packet(context: &Rc<Context>, interface: &Rc<Interface>, bytes: &[u8]) {
    let outcome = packet::parse(bytes).and_then(|packet| {
        if interface.owns(packet.source) { route(context, interface, &packet) } else { Err(Reason::SpoofedSource) }
    });
    if let Err(reason) = outcome {
        tracing::trace!(workload = %interface.workload(), %reason, "dropped");
        interface.drops().count(reason);
    }
}

fn route(context: &Rc<Context>, interface: &Rc<Interface>, packet: &Packet<'_>) -> Result<(), Reason> {
    match packet.payload {
        Payload::Tcp(segment) => tcp(context, interface, packet, &segment),
        Payload::Udp { source, destination, data } => {
            if is_resolver(context, packet) && destination == DNS_PORT {
                return resolver::datagram(context, interface, packet, source, data);
            }
            let reason = udp_reason(context, interface, packet, destination);
            interface.port().send(&craft::unreachable(packet, udp_answer(reason)));
            Err(reason)
        }
        Payload::EchoRequest(echo) if is_resolver(context, packet) => {
            interface.port().send(&craft::echo_reply(packet, echo));
            Ok(())
        }
        Payload::EchoRequest(_) | Payload::OtherIcmp => Err(Reason::IcmpIgnored),
    }
}

fn is_resolver(context: &Context, packet: &Packet<'_>) -> bool {
    let (v4, v6) = context.policy().resolver();
    packet.destination == v4 || packet.destination == v6
}

fn tcp(context: &Rc<Context>, interface: &Rc<Interface>, packet: &Packet<'_>, segment: &Segment) -> Result<(), Reason> {
    match interface.known(&packet.flow(segment)) {
        Known::Open(endpoint) if !(is_opening(segment) && endpoint.is_gone()) => {
            endpoint.ingest(packet.bytes);
            Ok(())
        }
        Known::Held => Ok(()),
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
        if segment.destination == DNS_PORT {
            return resolver::connection(context, interface, packet, segment);
        }
        interface.refuse(packet, segment, Reason::NoPort);
        return Err(Reason::NoPort);
    }
    if !context.policy().contains(packet.destination) {
        interface.refuse(packet, segment, Reason::OutsideFabric);
        return Err(Reason::OutsideFabric);
    }
    egress::open(context, interface, packet, segment);
    Ok(())
}

fn udp_reason(context: &Context, interface: &Interface, packet: &Packet<'_>, port: u16) -> Reason {
    let policy = context.policy();
    if is_resolver(context, packet) {
        return Reason::NoPort;
    }
    if !policy.contains(packet.destination) {
        return Reason::OutsideFabric;
    }
    let Some(service) = policy.service_at(packet.destination) else { return Reason::NoService };
    let Some(caller) = policy.workload(interface.workload()) else { return Reason::UnknownCaller };
    match policy.decide(caller, service, Port { number: port, protocol: Protocol::Udp }) {
        ripstop_policy::Verdict::Allow(_) => Reason::AgentFull,
        ripstop_policy::Verdict::Deny(reason) => reason,
    }
}

fn udp_answer(reason: Reason) -> craft::Unreachable {
    match reason {
        Reason::NoPort | Reason::NoService => craft::Unreachable::Port,
        _ => craft::Unreachable::Prohibited,
    }
}
