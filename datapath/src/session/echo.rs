//! Echo requests to the addresses of services (RFC 792, RFC 4443 section 4): `ping` tells the truth.
//!
//! 1. Only a caller with an edge to the service is answered. Any other is told that it is prohibited, as a firewall does.
//! 2. The agent of an endpoint's host is asked on the path that sessions take, in the balancer's order. It decides again,
//!    and answers if its endpoint takes sessions and the interface is there.
//! 3. The reply leaves when that answer is here, so that the time that `ping` shows is the path's. When there is none, there
//!    is no reply.

use super::{
    context::Context,
    dial::{Refused, dial},
    live::Request,
};
use crate::{
    interface::Interface,
    packet::{Packet, Payload, craft, parse},
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ripstop_config::{HostName, Reason};
use ripstop_policy::Policy;
use ripstop_telemetry::Side;
use ripstop_transport::{Accepted, IncomingSession, Purpose, Refusal, SessionHeader};
use std::{cell::Cell, num::NonZeroU32, rc::Rc, sync::Arc, time::Duration};

/// Echo requests of one workload that wait for their answer: as many as a `ping -f` has under way on a slow path.
const IN_FLIGHT_MAX: usize = 64;
/// Echo requests of one workload in a second, each of which costs a stream to another host.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");
/// How long an answer may take; a `ping` that waits longer for one reply has been told to.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The echo requests of one workload.
pub struct EchoLimit {
    in_flight: Cell<usize>,
    rate: DefaultDirectRateLimiter,
}

impl Default for EchoLimit {
    fn default() -> Self {
        Self { in_flight: Cell::new(0), rate: RateLimiter::direct(Quota::per_second(PER_SECOND)) }
    }
}

/// An echo request in hand, counted until it is dropped.
struct InHand(Rc<Interface>);

impl InHand {
    fn take(interface: &Rc<Interface>) -> Result<Self, Reason> {
        let EchoLimit { in_flight, rate } = interface.echoes();
        if in_flight.get() >= IN_FLIGHT_MAX || rate.check().is_err() {
            return Err(Reason::EchoFlood);
        }
        in_flight.set(in_flight.get() + 1);
        Ok(Self(Rc::clone(interface)))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let in_flight = &self.0.echoes().in_flight;
        in_flight.set(in_flight.get() - 1);
    }
}

/// Takes an echo request of a workload to an address other than the resolver's.
///
/// # Errors
/// The reason for which it is dropped.
pub fn request(context: &Rc<Context>, interface: &Rc<Interface>, packet: &Packet<'_>) -> Result<(), Reason> {
    let policy = context.policy();
    if policy.workload_at(packet.destination).is_some() {
        return Err(Reason::IcmpIgnored);
    }
    let request = asked(context, &policy, interface, packet).inspect_err(|_| {
        interface.port().send(&craft::unreachable(packet, craft::Unreachable::Prohibited));
    })?;
    let in_hand = InHand::take(interface)?;
    let bytes = packet.bytes.to_vec();
    let context = Rc::clone(context);
    tokio::task::spawn_local(async move {
        let interface = &in_hand.0;
        let asking = tokio::time::timeout(ANSWER_MAX, ask(&context, &policy, interface, &request)).await;
        match asking.unwrap_or(Err(Reason::EndpointTimeout)) {
            Ok(()) => reply(interface, &bytes),
            Err(reason) => {
                tracing::debug!(workload = %interface.workload(), %reason, "an echo request without an answer");
                interface.drops().count(Reason::EchoUnanswered);
            }
        }
    });
    Ok(())
}

/// What is asked for: a session to the first port that the caller may call, if there is one.
fn asked(context: &Context, policy: &Policy, interface: &Interface, packet: &Packet<'_>) -> Result<Request, Reason> {
    if !policy.contains(packet.destination) {
        return Err(Reason::OutsideFabric);
    }
    let service = policy.service_at(packet.destination).ok_or(Reason::NoService)?;
    let caller = policy.workload(interface.workload()).ok_or(Reason::UnknownCaller)?;
    let entry = policy.service_entry(service);
    let first = policy.first_port(caller, service).or(entry.ports.first().copied());
    let request = Request {
        side: Side::Caller,
        caller: interface.workload().clone(),
        service: Some(entry.id.clone()),
        port: first.ok_or(Reason::NoPort)?,
        v6: packet.destination.is_ipv6(),
        speaker: context.host.clone(),
    };
    request.authorise(policy, &context.host)?;
    Ok(request)
}

/// Asks the hosts of the service, one after the other.
async fn ask(
    context: &Rc<Context>,
    policy: &Arc<Policy>,
    interface: &Interface,
    request: &Request,
) -> Result<(), Reason> {
    let service = request.service.as_ref().and_then(|service| policy.service(service)).ok_or(Reason::NoService)?;
    let entry = policy.service_entry(service);
    let header = SessionHeader {
        session: context.session_id(),
        caller: request.caller.clone(),
        service: entry.id.clone(),
        port: request.port,
        policy: *policy.digest().as_bytes(),
        version: policy.version(),
        purpose: Purpose::Echo,
        v6: request.v6,
        source_port: 0,
        trace: None,
    };
    let attempt = async |host: &HostName| {
        if *host == context.host {
            let request = Request { side: Side::Server, ..request.clone() };
            is_there(context, policy, &request)?;
            return Ok(((), 0));
        }
        let echoed = context.way(host).echo(host, &header).await;
        echoed.map(|accepted| ((), accepted.load)).map_err(|error| Refused::from(error.reason()))
    };
    let found = dial(context, entry, interface.id(), attempt).await;
    found.map(drop).map_err(|refused| refused.reason)
}

fn reply(interface: &Interface, request: &[u8]) {
    if let Ok(packet) = parse(request)
        && let Payload::EchoRequest(echo) = packet.payload
    {
        interface.port().send(&craft::echo_reply(&packet, echo));
    }
}

/// Whether an endpoint of this host would take the session, by any interface of its workload.
fn is_there(context: &Context, policy: &Policy, request: &Request) -> Result<(), Reason> {
    request.authorise(policy, &context.host)?;
    let service = request.service.as_ref().and_then(|service| policy.service(service)).ok_or(Reason::NoService)?;
    let entry = policy.service_entry(service);
    context.endpoints.ready(&entry.id)
}

/// Answers another host's question.
pub async fn answer(context: &Context, incoming: IncomingSession) {
    let request = Request {
        side: Side::Server,
        caller: incoming.header.caller.clone(),
        service: Some(incoming.header.service.clone()),
        port: incoming.header.port,
        v6: incoming.header.v6,
        speaker: incoming.peer.clone(),
    };
    let load = context.endpoints.sessions(&incoming.header.service);
    let there = is_there(context, &context.policy(), &request);
    let answered = match there {
        Ok(()) => {
            let load = u16::try_from(load).unwrap_or(u16::MAX);
            incoming.accept_echo(Accepted { endpoint: context.host.to_string(), load }).await
        }
        Err(reason) => incoming.refuse(Refusal { reason, detail: context.host.to_string() }).await,
    };
    if let Err(error) = answered {
        tracing::debug!(%error, "the caller's host did not take the answer to an echo request");
    }
}
