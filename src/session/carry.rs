//! One open session, from the verdict to its end.

use super::{
    limits::Admission,
    live::Session,
    pump::{Broken, Direction, Sink, Source, Way},
    reach::Reached,
    sides::{QuicSink, QuicSource, UserTcp},
};
use crate::{interface::FlowGuard, stack::Endpoint};
use ripstop_config::Reason;
use std::rc::Rc;

/// The side of a session that faces away from the caller, or from the endpoint: the QUIC stream.
pub struct Stream {
    /// Toward this host.
    pub source: QuicSource,
    /// Toward the other host.
    pub sink: QuicSink,
}

/// Both sides of a session, each with what reads from it and what writes to it.
struct Sides<CallerSource, CallerSink, ServiceSource, ServiceSink> {
    caller: (CallerSource, CallerSink),
    service: (ServiceSource, ServiceSink),
}

/// The far side of a caller's session.
pub enum Far {
    /// A stream to the endpoint's host.
    Stream(Stream),
    /// The endpoint, on this host.
    Endpoint(Reached),
}

impl Far {
    /// Ends what nobody will use.
    pub fn abort(self) {
        match self {
            Self::Stream(mut stream) => {
                stream.source.stop(Reason::CallerGone);
                stream.sink.reset(Reason::CallerGone);
            }
            Self::Endpoint(reached) => reached.abort(),
        }
    }
}

/// The near side of a caller's session, and what is to be given back at its end.
pub struct Near {
    /// The caller's connection.
    pub caller: Rc<Endpoint>,
    /// Its place in the interface's table.
    pub flow: FlowGuard,
    /// Its count on the edge.
    pub admission: Admission,
}

/// Carries a session of a caller on this host, as a task of its own: the task that opened it held much that is not needed
/// any more.
pub async fn from_caller(session: Box<Session>, near: Near, far: Far) {
    let Near { caller, flow, admission } = near;
    match far {
        Far::Stream(stream) => caller_to_stream(session, &admission, &caller, stream).await,
        Far::Endpoint(reached) => caller_to_endpoint(session, &admission, &caller, reached).await,
    }
    drop((flow, admission));
}

/// Carries a session between the caller's connection and a stream to the endpoint's host.
async fn caller_to_stream(session: Box<Session>, admission: &Admission, caller: &Rc<Endpoint>, stream: Stream) {
    let sides = Sides { caller: user(caller, Reason::CallerReset), service: (stream.source, stream.sink) };
    let ended = carry(&session, admission, sides, caller.drive()).await;
    session.end(ended, None);
    caller.linger().await;
}

/// Carries a session between a stream from the caller's host and the endpoint.
pub async fn stream_to_endpoint(session: Box<Session>, admission: Admission, stream: Stream, reached: Reached) {
    let stream = (stream.source, stream.sink);
    match reached {
        Reached::User(endpoint, _flow) => {
            let sides = Sides { caller: stream, service: user(&endpoint, Reason::EndpointReset) };
            let ended = carry(&session, &admission, sides, endpoint.drive()).await;
            session.end(ended, None);
            endpoint.linger().await;
        }
        Reached::Kernel(socket) => {
            let sides = Sides { caller: stream, service: Reached::kernel_halves(&socket) };
            let ended = carry(&session, &admission, sides, std::future::pending()).await;
            session.end(ended, None);
        }
    }
}

/// Carries a session whose caller and endpoint are on this host.
async fn caller_to_endpoint(session: Box<Session>, admission: &Admission, caller: &Rc<Endpoint>, reached: Reached) {
    let near = user(caller, Reason::CallerReset);
    match reached {
        Reached::User(endpoint, _flow) => {
            let sides = Sides { caller: near, service: user(&endpoint, Reason::EndpointReset) };
            let drive = async {
                tokio::select! { never = caller.drive() => never, never = endpoint.drive() => never }
            };
            let ended = carry(&session, admission, sides, drive).await;
            session.end(ended, None);
            tokio::join!(caller.linger(), endpoint.linger());
        }
        Reached::Kernel(socket) => {
            let sides = Sides { caller: near, service: Reached::kernel_halves(&socket) };
            let ended = carry(&session, admission, sides, caller.drive()).await;
            session.end(ended, None);
            caller.linger().await;
        }
    }
}

fn user(endpoint: &Rc<Endpoint>, reset: Reason) -> (UserTcp, UserTcp) {
    (UserTcp::new(endpoint, reset), UserTcp::new(endpoint, reset))
}

/// Both directions until both are done, one breaks, or the session is cut; what broke is passed on to both sides.
async fn carry<A: Source, B: Sink, C: Source, D: Sink>(
    session: &Session,
    admission: &Admission,
    mut sides: Sides<A, B, C, D>,
    drive: impl Future<Output = std::convert::Infallible>,
) -> Reason {
    let direction = |way| (session.live().meter(way), session.instruments(), way, admission.shaper(way));
    let using = session.using();
    let (meter, instruments, way, shaper) = direction(Way::Up);
    let up = Direction { from: &mut sides.caller.0, to: &mut sides.service.1, shaper, meter, instruments, way, using };
    let (meter, instruments, way, shaper) = direction(Way::Down);
    let down =
        Direction { from: &mut sides.service.0, to: &mut sides.caller.1, shaper, meter, instruments, way, using };
    let ended = tokio::select! {
        both = async { tokio::try_join!(up.run(), down.run()) } => both.map(drop),
        reason = session.live().when_cut() => Err(Broken(reason)),
        never = drive => match never {},
    };
    let Err(Broken(reason)) = ended else { return Reason::Closed };
    sides.caller.0.stop(reason);
    sides.caller.1.reset(reason);
    sides.service.0.stop(reason);
    sides.service.1.reset(reason);
    reason
}
