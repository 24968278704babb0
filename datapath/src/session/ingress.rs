//! Sessions that other hosts open to endpoints of this one.
//!
//! The peer's certificate says which host it is; the header says for whom it speaks and what it wants. This host decides
//! by its own policy, reaches the endpoint, and only then answers.

use super::{
    carry::{self, Stream},
    context::Context,
    echo,
    limits::{self, Admission},
    live::{Request, SESSIONS_MAX, Session},
    policies,
    reach::{self, Caller, Reached, Unreached, reach},
    serving::Serving,
    sides::quic_halves,
    udp,
};
use crate::packet::FlowKey;
use crate::thread::Task;
use ripstop_config::{Protocol, Reason};
use ripstop_policy::{Policy, PolicyDigest};
use ripstop_telemetry::Side;
use ripstop_transport::{
    Accepted, Incoming, IncomingSession, IncomingStream, Opening, Purpose, Refusal, SessionHeader, code::End,
};
use std::{rc::Rc, time::Duration};

/// Takes streams until the transport is closed.
pub fn accept(context: Rc<Context>, mut incoming: Incoming) -> Task {
    Box::pin(async move {
        while let Some(stream) = incoming.next().await {
            tokio::task::spawn_local(serve(Rc::clone(&context), stream));
        }
    })
}

async fn serve(context: Rc<Context>, stream: IncomingStream) {
    let peer = stream.peer.clone();
    let incoming = match Box::pin(stream.open()).await {
        Ok(Opening::Session(incoming)) => incoming,
        Ok(Opening::Request(request)) => {
            // Dropped when there are too many, which turns it away.
            if let Err(error) = context.control.requests.try_send(request) {
                tracing::debug!(%peer, %error, "a request that nobody takes");
            }
            return;
        }
        Err(error) => {
            tracing::warn!(%peer, %error, "a stream without a valid session header");
            return;
        }
    };
    // Boxed, as it is rarely of use.
    if incoming.header.version > context.policy().version() {
        Box::pin(policies::catch_up(&context, &incoming)).await;
    }
    if incoming.header.purpose == Purpose::Echo {
        return echo::answer(&context, incoming).await;
    }
    let slot = if context.live.len() < SESSIONS_MAX { context.records.reserve() } else { None };
    let Some(slot) = slot else {
        refuse(incoming, Reason::AgentFull, String::new()).await;
        return;
    };
    let request = Request {
        side: Side::Server,
        caller: incoming.header.caller.clone(),
        service: Some(incoming.header.service.clone()),
        port: incoming.header.port,
        v6: incoming.header.v6,
        speaker: peer.clone(),
    };
    let traced = context.join_trace(incoming.header.trace);
    let session = Session::begin(&context, incoming.header.session, request, traced, slot);
    {
        let mut draft = session.draft.borrow_mut();
        draft.peer = Some(peer);
        draft.attempts = 1;
        draft.cipher = Some(incoming.cipher);
    }
    run(&context, session, incoming).await;
}

async fn run(context: &Rc<Context>, session: Box<Session>, incoming: IncomingSession) {
    let policy = context.policy();
    // Boxed, as all phases of a session share its task's memory, and this one is large and short.
    let admitting = Box::pin(admit(context, &policy, &session, &incoming));
    let admitted = tokio::select! {
        admitted = admitting => admitted,
        reason = session.live().when_cut() => Err(Unreached { reason, detail: String::new() }),
        () = incoming.gone() => Err(Unreached { reason: Reason::CallerGone, detail: String::new() }),
    };
    // A long session must not keep an old policy.
    drop(policy);
    match admitted {
        Ok(admitted) => {
            let service = session.live().request.service.as_ref();
            let load = service.map_or(0, |service| context.endpoints.sessions(service));
            let load = u16::try_from(load).unwrap_or(u16::MAX);
            admitted.accept(session, incoming, load).await;
        }
        Err(Unreached { reason, detail }) => {
            refuse(incoming, reason, detail.clone()).await;
            let recorded = !reason.is_denial() || context.may_record_denial(&session.live().request.speaker);
            if recorded {
                session.end(reason, (!detail.is_empty()).then_some(detail));
            } else {
                session.end_unrecorded(reason);
            }
        }
    }
}

/// A session that may be accepted.
struct Admitted {
    found: Found,
    endpoint: String,
    admission: Admission,
    /// The graph's own idle time.
    idle: Option<Duration>,
}

/// An endpoint of this host.
enum Found {
    Tcp(Reached),
    Udp(udp::Reached),
}

impl Found {
    fn flow(&self) -> Option<FlowKey> {
        match self {
            Self::Tcp(reached) => reached.flow(),
            Self::Udp(reached) => reached.flow(),
        }
    }
}

impl Admitted {
    /// Gives the verdict, and has the session carried by a task of its own: this one held much that is not needed any more.
    async fn accept(self, session: Box<Session>, incoming: IncomingSession, load: u16) {
        let Self { found, endpoint, admission, idle } = self;
        let accepted = Accepted { endpoint, load };
        let gone = match found {
            Found::Tcp(reached) => match incoming.accept(accepted).await {
                Ok((send, recv)) => {
                    session.opened();
                    let (source, sink) = quic_halves(recv, send, End::Caller);
                    let stream = Stream { source, sink };
                    let carrying = carry::stream_to_endpoint(session, admission, stream, reached);
                    tokio::task::spawn_local(carrying);
                    return;
                }
                Err(error) => {
                    reached.abort();
                    error
                }
            },
            Found::Udp(reached) => match incoming.accept_datagrams(accepted).await {
                Ok((send, recv, sender, receiver)) => {
                    session.opened();
                    let peer = udp::Peer { send, recv, sender, receiver, end: End::Caller };
                    let kept = udp::Kept { admission, idle };
                    tokio::task::spawn_local(udp::from_peer(session, kept, peer, reached));
                    return;
                }
                Err(error) => error,
            },
        };
        session.end(Reason::CallerGone, Some(gone.to_string()));
    }
}

async fn admit(
    context: &Rc<Context>,
    policy: &Policy,
    session: &Session,
    incoming: &IncomingSession,
) -> Result<Admitted, Unreached> {
    let request = &session.live().request;
    let denied = |reason: Reason| Unreached { reason, detail: whose_policy(context, policy, &incoming.header) };
    let permit = request.authorise(policy, &context.host).map_err(denied)?;
    session.permitted(policy, &permit);
    let service = policy.service(&incoming.header.service).ok_or_else(|| denied(Reason::NoService))?;
    let admission = context.admit(policy, &permit, request, service).map_err(|refusal| limited(context, &refusal))?;
    session.admitted(&admission);
    *session.live().endpoint_host.borrow_mut() = Some(context.host.clone());
    let caller = policy.workload(&request.caller).ok_or_else(|| denied(Reason::UnknownCaller))?;
    let entry = policy.service_entry(service);
    let serving = Serving::take(context, policy, entry, request).map_err(|reason| unready(context, reason))?;
    *session.live().serving.borrow_mut() = Some(serving);
    let caller = Caller::Workload(caller, incoming.header.source_port);
    let (found, at) = match request.port.protocol {
        Protocol::Tcp => {
            let reach::Found { reached, at, through } = reach(context, policy, entry, caller, request).await?;
            session.live().goes_through(through);
            (Found::Tcp(reached), at)
        }
        Protocol::Udp => {
            let reach::Found { reached, at, through } = udp::reach(context, policy, entry, caller, request).await?;
            session.live().goes_through(through);
            (Found::Udp(reached), at)
        }
    };
    if let Some(flow) = found.flow() {
        session.passes(End::Endpoint, flow);
    }
    let endpoint = format!("{} {at}", context.host);
    session.draft.borrow_mut().endpoint = Some(endpoint.clone());
    Ok(Admitted { found, endpoint, admission, idle: entry.idle })
}

/// The endpoint takes no new sessions.
fn unready(context: &Context, reason: Reason) -> Unreached {
    Unreached { reason, detail: context.host.to_string() }
}

/// A limit of this host is reached.
fn limited(context: &Context, refusal: &limits::Refusal) -> Unreached {
    Unreached { reason: refusal.reason, detail: format!("{}: {}", context.host, refusal.detail) }
}

/// Which host denied it; and, when the two do not agree on the policy, which policies they have, as that is likely why.
fn whose_policy(context: &Context, policy: &Policy, header: &SessionHeader) -> String {
    let own = policy.digest();
    if *own.as_bytes() == header.policy {
        return context.host.to_string();
    }
    let (host, theirs) = (&context.host, PolicyDigest::from(header.policy));
    if policy.id().is_unsigned() {
        return format!("{host} has policy {own}, the caller's host has {theirs}: put the same graph on both");
    }
    format!("{host} has policy {}, the caller's host has {}", policy.version(), header.version)
}

async fn refuse(incoming: IncomingSession, reason: Reason, detail: String) {
    if let Err(error) = incoming.refuse(Refusal { reason, detail }).await {
        tracing::debug!(%reason, %error, "the caller did not take its refusal");
    }
}
