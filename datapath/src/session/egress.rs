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
    live::{Live, Request, SESSIONS_MAX, Session},
    reach::{Caller, Found, Unreached, reach},
    serving::Serving,
    sides::quic_halves,
};
use crate::{
    interface::{FlowGuard, Interface},
    packet::{Packet, Segment},
    stack::Endpoint,
};
use ripstop_config::{HostName, Port, Protocol, Reason, WorkloadId};
use ripstop_policy::{Policy, ServiceEntry, ServiceIx, WorkloadIx};
use ripstop_telemetry::{RecordSlot, Side};
use ripstop_transport::{Purpose, SessionHeader, code::End};
use std::{net::IpAddr, rc::Rc, sync::Arc, time::Duration};

/// SYNs held per workload and per agent (DESIGN section 12).
const HELD_PER_WORKLOAD: usize = 1_024;
const HELD_PER_AGENT: usize = 16_384;
/// Wait for the caller's last step of the handshake: it is on this machine, and has given up if it takes longer.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// A session that may be opened.
pub(super) struct Decided {
    pub(super) session: Box<Session>,
    pub(super) policy: Arc<Policy>,
    pub(super) service: ServiceIx,
    pub(super) admission: Admission,
}

/// What a session needs from the decision to its end.
struct Opening {
    decided: Decided,
    flow: FlowGuard,
    syn: Vec<u8>,
}

/// Takes the SYN of a new flow.
pub fn open(context: &Rc<Context>, interface: &Rc<Interface>, packet: &Packet<'_>, segment: &Segment) {
    let Some(slot) = room(context, interface) else {
        interface.drops().count(Reason::AgentFull);
        return interface.refuse(packet, segment, Reason::AgentFull);
    };
    let port = Port { number: segment.destination, protocol: Protocol::Tcp };
    match decide(context, interface, packet.destination, port, slot) {
        Ok(decided) => {
            let flow = interface.hold(packet.flow(segment));
            decided.session.passes(End::Caller, flow.key());
            let opening = Opening { decided, flow, syn: packet.without_data(segment) };
            tokio::task::spawn_local(run(Rc::clone(context), Rc::clone(interface), opening));
        }
        Err(reason) => interface.refuse(packet, segment, reason),
    }
}

/// A place for a session that a workload wants to open, if this agent has one more.
pub(super) fn room(context: &Context, interface: &Interface) -> Option<RecordSlot> {
    let full = context.live.len() >= SESSIONS_MAX
        || context.held.get() >= HELD_PER_AGENT
        || interface.held() >= HELD_PER_WORKLOAD
        || !interface.has_room();
    if full { None } else { context.records.reserve() }
}

/// Begins the session that a workload's packet asks for, and decides it.
///
/// # Errors
/// Why it is denied; it has its record then.
pub(super) fn decide(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    destination: IpAddr,
    port: Port,
    slot: RecordSlot,
) -> Result<Decided, Reason> {
    let policy = context.policy();
    let service = policy.service_at(destination);
    let request = Request {
        side: Side::Caller,
        caller: interface.workload().clone(),
        service: service.map(|ix| policy.service_entry(ix).id.clone()),
        port,
        v6: destination.is_ipv6(),
        speaker: context.host.clone(),
    };
    let session = Session::begin(context, context.session_id(), request, context.begin_trace(), slot);
    session.comes_by(interface);
    session.draft.borrow_mut().destination = Some(destination);
    let admitted = admit(context, &policy, &session, service);
    if admitted.is_err() || context.observed.is_staged() {
        context.observed.call(&policy, &session.live().request, &context.host);
    }
    match admitted {
        Ok((service, admission)) => Ok(Decided { session, policy, service, admission }),
        Err(Refused { reason, detail }) => {
            if interface.may_record_denial() {
                let detail = detail.or_else(|| whose_consent(&policy, interface.workload(), service, reason));
                session.end(reason, detail);
            } else {
                session.end_unrecorded(reason);
            }
            Err(reason)
        }
    }
}

/// Between tenants, which side it is that does not consent, for the record.
fn whose_consent(policy: &Policy, caller: &WorkloadId, service: Option<ServiceIx>, reason: Reason) -> Option<String> {
    ripstop_policy::lacking(policy, policy.workload(caller)?, service?, reason)
}

fn admit(
    context: &Context,
    policy: &Policy,
    session: &Session,
    service: Option<ServiceIx>,
) -> Result<(ServiceIx, Admission), Refused> {
    let request = &session.live().request;
    let permit = request.authorise(policy, &context.host)?;
    session.permitted(policy, &permit);
    let service = service.ok_or(Reason::NoService)?;
    let admission = context.admit(policy, &permit, request, service)?;
    session.admitted(&admission);
    Ok((service, admission))
}

impl Decided {
    /// The service's entry.
    pub(super) fn service(&self) -> &ServiceEntry {
        self.policy.service_entry(self.service)
    }

    /// What the serving host is told, where the caller uses `source_port` itself.
    pub(super) fn header(&self, source_port: u16) -> SessionHeader {
        let Live { id, request, .. } = &**self.session.live();
        SessionHeader {
            session: *id,
            caller: request.caller.clone(),
            service: self.service().id.clone(),
            port: request.port,
            policy: *self.policy.digest().as_bytes(),
            version: self.policy.version(),
            purpose: Purpose::Session,
            v6: request.v6,
            source_port,
            trace: self.session.trace(),
        }
    }

    /// The endpoint is on this host: nothing leaves it, and this agent is both ends, so it decides as the serving end too.
    /// `reach` finds the way to it, for the caller that it is given, and says where it is.
    pub(super) async fn local<T>(
        &self,
        context: &Rc<Context>,
        reach: impl AsyncFnOnce(WorkloadIx, &Request) -> Result<Found<T>, Unreached>,
    ) -> Result<T, Refused> {
        let Self { session, policy, .. } = self;
        let request = Request { side: Side::Server, ..session.live().request.clone() };
        let permit = request.authorise(policy, &context.host)?;
        let serving_here = context.admit(policy, &permit, &request, self.service)?;
        let caller = policy.workload(&request.caller).ok_or(Reason::UnknownCaller)?;
        let serving = Serving::take(context, policy, self.service(), &request)?;
        *session.live().serving.borrow_mut() = Some(serving);
        match reach(caller, &request).await {
            Ok(Found { reached, at, through }) => {
                session.live().goes_through(through);
                self.admission.join(&serving_here);
                session.draft.borrow_mut().endpoint = Some(format!("{} {at}", context.host));
                Ok(reached)
            }
            Err(unreached) => {
                session.live().serving.take();
                Err(Refused { reason: unreached.reason, detail: Some(unreached.detail) })
            }
        }
    }

    /// Another host has accepted it.
    pub(super) fn accepted(&self, host: &HostName, endpoint: String, cipher: &'static str) {
        let mut draft = self.session.draft.borrow_mut();
        draft.endpoint = Some(endpoint);
        draft.cipher = Some(cipher);
        draft.peer = Some(host.clone());
    }
}

async fn run(context: Rc<Context>, interface: Rc<Interface>, opening: Opening) {
    // Boxed, as all phases of a session share its task's memory, and this one is large and short.
    let finding = Box::pin(find(&context, &interface, &opening));
    let found = tokio::select! {
        found = finding => found,
        reason = opening.decided.session.live().when_cut() => Err(reason.into()),
        () = interface.closed() => Err(Reason::NoInterface.into()),
    };
    match found {
        Ok((far, using)) => {
            let Opening { decided: Decided { session, admission, .. }, flow, syn } = opening;
            session.uses(using);
            let caller = Endpoint::accept(interface.port(), &flow.key(), &syn, random());
            flow.open(&caller);
            if matches!(tokio::time::timeout(HANDSHAKE_MAX, caller.established()).await, Ok(Ok(()))) {
                session.opened();
                let near = Near { caller, flow, admission };
                tokio::task::spawn_local(carry::from_caller(session, near, far));
            } else {
                caller.abort();
                far.abort();
                session.end(Reason::CallerGone, None);
            }
        }
        Err(refused) => {
            interface.refuse_held(&opening.syn, refused.reason);
            opening.decided.session.end(refused.reason, refused.detail);
        }
    }
}

async fn find(context: &Rc<Context>, interface: &Interface, opening: &Opening) -> Result<(Far, Using), Refused> {
    let attempt = async |host: &HostName| attempt(context, opening, host).await;
    dial(context, opening.decided.service(), interface.id(), attempt).await
}

async fn attempt(context: &Rc<Context>, opening: &Opening, host: &HostName) -> Result<(Far, u16), Refused> {
    let Opening { decided, flow, .. } = opening;
    decided.session.trying(host);
    if *host == context.host {
        let port = flow.key().workload.port();
        let reach = async |caller, request: &Request| {
            let caller = Caller::Workload(caller, port);
            reach(context, &decided.policy, decided.service(), caller, request).await
        };
        let reached = decided.local(context, reach).await?;
        if let Some(flow) = reached.flow() {
            decided.session.passes(End::Endpoint, flow);
        }
        return Ok((Far::Endpoint(reached), 0));
    }
    match context.way(host).open(host, &decided.header(flow.key().workload.port())).await {
        Ok(opened) => {
            decided.accepted(host, opened.accepted.endpoint, opened.cipher);
            let (source, sink) = quic_halves(opened.recv, opened.send, End::Endpoint);
            Ok((Far::Stream(Stream { source, sink }), opened.accepted.load))
        }
        Err(error) => Err(Refused { reason: error.reason(), detail: Some(error.to_string()) }),
    }
}
