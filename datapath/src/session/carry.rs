//! One open session, from the verdict to its end.

use super::{
    limits::Admission,
    live::Session,
    pump::{Break, Broken, Direction, Sink, Source, Way},
    reach::Reached,
    sides::{QuicSink, QuicSource, UserTcp},
};
use crate::{interface::FlowGuard, stack::Endpoint};
use ripstop_config::Reason;
use ripstop_transport::code::End;
use std::{pin::pin, rc::Rc, time::Duration};

/// How long the last bytes of a side that was reset may take to be handed on. A slow reader gets what it reads until then.
const REST_MAX: Duration = Duration::from_secs(10);

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
    let ended = tokio::select! {
        ended = exchange(session, admission, &mut sides) => ended,
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

/// Both directions until both are done. When a side is reset, what it sent before goes on to the other one first.
async fn exchange<A: Source, B: Sink, C: Source, D: Sink>(
    session: &Session,
    admission: &Admission,
    sides: &mut Sides<A, B, C, D>,
) -> Result<(), Broken> {
    let Err((end, broken)) = both(session, admission, sides).await else { return Ok(()) };
    if broken.is_reset() {
        match end {
            End::Caller => pass_on(&mut sides.service, broken).await,
            End::Endpoint => pass_on(&mut sides.caller, broken).await,
        }
    }
    Err(broken)
}

/// Both directions until both are done or one side is broken: which one, and all that it sent is handed on.
async fn both<A: Source, B: Sink, C: Source, D: Sink>(
    session: &Session,
    admission: &Admission,
    sides: &mut Sides<A, B, C, D>,
) -> Result<(), (End, Broken)> {
    let direction = |way| (session.live().meter(way), session.instruments(), way, admission.shaper(way));
    let using = session.using();
    let (meter, instruments, way, shaper) = direction(Way::Up);
    let up = Direction { from: &mut sides.caller.0, to: &mut sides.service.1, shaper, meter, instruments, way, using };
    let (meter, instruments, way, shaper) = direction(Way::Down);
    let down =
        Direction { from: &mut sides.service.0, to: &mut sides.caller.1, shaper, meter, instruments, way, using };
    let (mut up, mut down) = (pin!(up.run()), pin!(down.run()));
    tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => down.await.map_err(|ended| broken_end(Way::Down, ended)),
            Err(ended) => Err(rest(Way::Up, ended, down).await),
        },
        ended = &mut down => match ended {
            Ok(()) => up.await.map_err(|ended| broken_end(Way::Up, ended)),
            Err(ended) => Err(rest(Way::Down, ended, up).await),
        },
    }
}

/// One direction broke. If its sink did, the other direction still has what that side sent before.
async fn rest(way: Way, ended: Break, other: impl Future<Output = Result<(), Break>>) -> (End, Broken) {
    if let Break::Sink(broken) = ended
        && broken.is_reset()
    {
        // However it ends: the side is broken.
        let _ = tokio::time::timeout(REST_MAX, other).await;
    }
    broken_end(way, ended)
}

/// Which end of the session broke.
fn broken_end(way: Way, ended: Break) -> (End, Broken) {
    match (way, ended) {
        (Way::Up, Break::Source(broken)) | (Way::Down, Break::Sink(broken)) => (End::Caller, broken),
        (Way::Up, Break::Sink(broken)) | (Way::Down, Break::Source(broken)) => (End::Endpoint, broken),
    }
}

/// Has a side take what it was given before it is reset.
async fn pass_on<A: Source, B: Sink>((source, sink): &mut (A, B), Broken(reason): Broken) {
    let told = source.stop_behind(reason, sink.written());
    sink.taken(told).await;
}
