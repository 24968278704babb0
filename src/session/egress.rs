//! Sessions that a workload of this host opens.
//!
//! 1. A SYN of no known flow: which service is it for, and may this workload call it? No: a reset, a record, done.
//! 2. Yes: the SYN is held, and endpoints are dialled until one accepts.
//! 3. Accepted: the SYN-ACK leaves, and bytes are carried. Refused: the workload gets the answer that the endpoint, or
//!    its absence, would have given it directly.

use super::{
    balance::Using,
    carry::{self, Far, Near, Stream},
    context::{Context, random},
    dial::{Refused, dial},
    limits::Admission,
    live::{Request, SESSIONS_MAX, Serving, Session},
    reach::{Reached, reach},
    sides::{QuicSink, QuicSource},
};
use crate::{
    interface::{FlowGuard, Interface},
    packet::{Packet, Segment},
    stack::Endpoint,
    telemetry::{RecordSlot, Side},
};
use ripstop_config::{HostName, Port, Protocol, Reason, ServiceId};
use ripstop_policy::{Permit, Policy, ServiceIx};
use ripstop_transport::{Purpose, SessionHeader, code::End};
use std::{rc::Rc, sync::Arc, time::Duration};

/// SYNs held per workload and per agent (DESIGN section 12).
const HELD_PER_WORKLOAD: usize = 1_024;
const HELD_PER_AGENT: usize = 16_384;
/// Wait for the caller's last step of the handshake: it is on this machine, and has given up if it takes longer.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// What a session needs from the decision to its end.
struct Opening {
    session: Box<Session>,
    policy: Arc<Policy>,
    permit: Permit,
    service: ServiceIx,
    flow: FlowGuard,
    syn: Vec<u8>,
    admission: Admission,
}

/// Takes the SYN of a new flow.
pub fn open(context: &Rc<Context>, interface: &Rc<Interface>, packet: &Packet<'_>, segment: &Segment) {
    let refuse = |reason| {
        interface.drops().count(reason);
        interface.refuse(packet, segment, reason);
    };
    let Some(slot) = room(context, interface) else { return refuse(Reason::AgentFull) };
    let policy = context.policy();
    let service = policy.service_at(packet.destination);
    let session =
        begin(context, interface, service.map(|ix| policy.service_entry(ix).id.clone()), packet, segment, slot);
    let admitted = session.live().request.authorise(&policy, &context.host).and_then(|permit| {
        session.permitted(&policy, &permit);
        Ok((service.ok_or(Reason::NoService)?, permit, context.admit(&policy, &permit, &context.host)?))
    });
    match admitted {
        Ok((service, permit, admission)) => {
            let flow = interface.hold(packet.flow(segment));
            let syn = packet.without_data(segment);
            let opening = Opening { session, policy, permit, service, flow, syn, admission };
            tokio::task::spawn_local(run(Rc::clone(context), Rc::clone(interface), opening));
        }
        Err(reason) => {
            if interface.may_record_denial() {
                session.end(reason, None);
            } else {
                session.end_unrecorded(reason);
            }
            interface.refuse(packet, segment, reason);
        }
    }
}

fn room(context: &Context, interface: &Interface) -> Option<RecordSlot> {
    let full = context.live.len() >= SESSIONS_MAX
        || context.held.get() >= HELD_PER_AGENT
        || interface.held() >= HELD_PER_WORKLOAD
        || !interface.has_room();
    if full { None } else { context.records.reserve() }
}

fn begin(
    context: &Rc<Context>,
    interface: &Interface,
    service: Option<ServiceId>,
    packet: &Packet<'_>,
    segment: &Segment,
    slot: RecordSlot,
) -> Box<Session> {
    let request = Request {
        side: Side::Caller,
        caller: interface.workload().clone(),
        service,
        port: Port { number: segment.destination, protocol: Protocol::Tcp },
        v6: packet.destination.is_ipv6(),
        speaker: context.host.clone(),
    };
    let session = Session::begin(context, context.session_id(), request, slot);
    session.draft.borrow_mut().destination = Some(packet.destination);
    session
}

async fn run(context: Rc<Context>, interface: Rc<Interface>, opening: Opening) {
    // Boxed, as all phases of a session share its task's memory, and this one is large and short.
    let finding = Box::pin(find(&context, &opening));
    let found = tokio::select! {
        found = finding => found,
        reason = opening.session.live().when_cut() => Err(reason.into()),
        () = interface.closed() => Err(Reason::NoInterface.into()),
    };
    match found {
        Ok((far, using)) => {
            let Opening { session, permit, flow, syn, admission, .. } = opening;
            let caller = match Endpoint::accept(interface.port(), flow.key().fabric, &syn, random()) {
                Ok(caller) => caller,
                Err(reason) => {
                    interface.refuse_held(&syn, reason);
                    far.abort();
                    return session.end(reason, None);
                }
            };
            flow.open(&caller);
            if matches!(tokio::time::timeout(HANDSHAKE_MAX, caller.established()).await, Ok(Ok(()))) {
                session.opened();
                let near = Near { caller, flow, admission, using };
                tokio::task::spawn_local(carry::from_caller(session, permit.limits, near, far));
            } else {
                caller.abort();
                far.abort();
                session.end(Reason::CallerGone, None);
            }
        }
        Err(refused) => {
            interface.refuse_held(&opening.syn, refused.reason);
            opening.session.end(refused.reason, refused.detail);
        }
    }
}

async fn find(context: &Rc<Context>, opening: &Opening) -> Result<(Far, Using), Refused> {
    let caller = &opening.session.live().request.caller;
    let attempt = async |host: &HostName| attempt(context, opening, host).await;
    dial(context, opening.policy.service_entry(opening.service), caller, attempt).await
}

async fn attempt(context: &Rc<Context>, opening: &Opening, host: &HostName) -> Result<(Far, u16), Refused> {
    opening.session.trying(host);
    if *host == context.host {
        return local(context, opening).await.map(|reached| (Far::Endpoint(reached), 0));
    }
    let Opening { session, policy, service, flow, .. } = opening;
    let header = SessionHeader {
        session: session.live().id,
        caller: session.live().request.caller.clone(),
        service: policy.service_entry(*service).id.clone(),
        port: session.live().request.port,
        policy: *policy.digest().as_bytes(),
        purpose: Purpose::Session,
        v6: session.live().request.v6,
        source_port: flow.key().workload.port(),
        trace: None,
    };
    match context.transport.open(host, &header).await {
        Ok(opened) => {
            let mut draft = session.draft.borrow_mut();
            draft.endpoint = Some(opened.accepted.endpoint);
            draft.cipher = Some(opened.cipher);
            draft.peer = Some(host.clone());
            let source = QuicSource { stream: opened.recv, sender: End::Endpoint };
            let sink = QuicSink { stream: opened.send, receiver: End::Endpoint };
            Ok((Far::Stream(Stream { source, sink }), opened.accepted.load))
        }
        Err(error) => Err(Refused { reason: error.reason(), detail: Some(error.to_string()) }),
    }
}

/// The endpoint is on this host: nothing leaves it, and this agent is both ends, so it decides as the serving end too.
async fn local(context: &Rc<Context>, opening: &Opening) -> Result<Reached, Refused> {
    let Opening { session, policy, service, .. } = opening;
    let request = Request { side: Side::Server, ..session.live().request.clone() };
    request.authorise(policy, &context.host)?;
    let caller = policy.workload(&request.caller).ok_or(Reason::UnknownCaller)?;
    let entry = policy.service_entry(*service);
    let serving = Serving::take(context, policy, entry, &request)?;
    let at = serving.target;
    *session.live().serving.borrow_mut() = Some(serving);
    let reached = reach(context, policy, entry, caller, &request).await;
    match reached {
        Ok(reached) => {
            session.draft.borrow_mut().endpoint = Some(format!("{} {at}", context.host));
            Ok(reached)
        }
        Err(unreached) => {
            session.live().serving.take();
            Err(Refused { reason: unreached.reason, detail: Some(unreached.detail) })
        }
    }
}
