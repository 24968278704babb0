//! UDP sessions that a workload of this host opens.

use super::{
    Caller, Kept, Peer, Reached, local,
    relay::{Inlet, answer},
    to_peer,
};
use crate::{
    interface::{DatagramSink, Interface},
    packet::{Packet, craft},
    session::{
        balance::Using,
        context::Context,
        dial::{Refused, dial},
        egress::{Decided, decide, room},
        live::Request,
        pump::Way,
        reach,
    },
};
use ripstop_config::{HostName, Port, Protocol, Reason};
use ripstop_transport::code::End;
use std::rc::Rc;

/// What a session needs from the decision until it is open.
struct Opening {
    decided: Decided,
    caller: Caller,
}

/// The endpoint's side of a session.
enum Far {
    /// At another host.
    Peer(Peer),
    /// On this host.
    Endpoint(Reached),
}

/// Takes the first datagram of a flow, from the first port to the second.
///
/// # Errors
/// The reason for which the datagram is dropped, which the workload has been told.
pub fn open(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    (source, destination): (u16, u16),
    data: &[u8],
) -> Result<(), Reason> {
    let refuse = |reason| {
        if let Some(why) = answer(reason) {
            interface.port().send(&craft::unreachable(packet, why));
        }
        reason
    };
    let slot = room(context, interface).ok_or(Reason::AgentFull).map_err(refuse)?;
    let port = Port { number: destination, protocol: Protocol::Udp };
    let decided = decide(context, interface, packet.destination, port, slot).map_err(refuse)?;
    let inlet = Inlet::new(Way::Up);
    inlet.datagram(data)?;
    let flow = interface.hold_udp(packet.flow_of(source, destination), Rc::clone(&inlet) as _);
    decided.session.passes(End::Caller, flow.key());
    let opening = Opening { decided, caller: Caller { flow, inlet } };
    tokio::task::spawn_local(run(Rc::clone(context), Rc::clone(interface), opening));
    Ok(())
}

async fn run(context: Rc<Context>, interface: Rc<Interface>, opening: Opening) {
    // Boxed, as all phases of a session share its task's memory, and this one is large and short.
    let finding = Box::pin(find(&context, &interface, &opening));
    let found = tokio::select! {
        found = finding => found,
        reason = opening.decided.session.live().when_cut() => Err(reason.into()),
        () = interface.closed() => Err(Reason::NoInterface.into()),
    };
    let Opening { decided, caller } = opening;
    match found {
        Ok((far, using)) => {
            decided.session.opened();
            let idle = decided.service().idle;
            let Decided { session, admission, .. } = decided;
            let kept = Kept { admission, idle };
            // A task of its own: this one held much that is not needed any more.
            match far {
                Far::Peer(peer) => {
                    tokio::task::spawn_local(to_peer(context, session, kept, caller, peer, using));
                }
                Far::Endpoint(reached) => {
                    tokio::task::spawn_local(local(session, kept, caller, reached, using));
                }
            }
        }
        Err(refused) => {
            let Caller { flow, inlet } = &caller;
            if let Some(why) = answer(refused.reason) {
                interface.port().send(&craft::unreachable_flow(&flow.key(), inlet.last_held(), why));
            }
            decided.session.end(refused.reason, refused.detail);
        }
    }
}

async fn find(context: &Rc<Context>, interface: &Interface, opening: &Opening) -> Result<(Far, Using), Refused> {
    let attempt = async |host: &HostName| attempt(context, opening, host).await;
    dial(context, opening.decided.service(), interface.id(), attempt).await
}

async fn attempt(context: &Rc<Context>, opening: &Opening, host: &HostName) -> Result<(Far, u16), Refused> {
    let Opening { decided, caller } = opening;
    let port = caller.flow.key().workload.port();
    decided.session.trying(host);
    if *host == context.host {
        let reach = async |workload, request: &Request| {
            let caller = reach::Caller::Workload(workload, port);
            super::reach(context, &decided.policy, decided.service(), caller, request).await
        };
        let reached = decided.local(context, reach).await?;
        if let Some(flow) = reached.flow() {
            decided.session.passes(End::Endpoint, flow);
        }
        return Ok((Far::Endpoint(reached), 0));
    }
    let opened = context.way(host).open(host, &decided.header(port)).await;
    let opened = opened.map_err(|error| Refused { reason: error.reason(), detail: Some(error.to_string()) })?;
    decided.accepted(host, opened.accepted.endpoint, opened.cipher);
    let (sender, receiver) = opened.datagrams.ok_or(Reason::Protocol)?;
    let peer = Peer { send: opened.send, recv: opened.recv, sender, receiver, end: End::Endpoint };
    Ok((Far::Peer(peer), opened.accepted.load))
}
