//! UDP sessions: one for each flow, from its first datagram until nothing was heard for a while, or either end is gone.
//!
//! 1. The first datagram of a flow asks for a session, as a SYN does, and is held with those that follow it until an
//!    endpoint's host has accepted ([`egress`]). Denied, it is answered by the ICMP error that says so.
//! 2. The serving host decides again and finds the way to the endpoint ([`reach`](reach::reach)). Nothing is sent to ask
//!    whether somebody listens: the endpoint's kernel says so when the first datagram comes.
//! 3. Datagrams pass both ways without waiting ([`relay`]). The session's stream carries nothing but its end.

mod egress;
mod flow;
mod holder;
mod listener;
mod reach;
mod relay;

pub use egress::open;
pub use reach::{Reached, reach};

use super::{balance::Using, context::Context, limits::Admission, live::Session, pump::Way};
use crate::{interface::UdpFlow, polling};
use reach::EndpointWay;
use relay::{Inlet, Outlet, Relay};
use ripstop_config::Reason;
use ripstop_transport::{
    DatagramReceiver, DatagramSender, RecvStream, SendStream,
    code::{self, End},
};
use std::{
    convert::Infallible,
    future::pending,
    rc::Rc,
    time::{Duration, Instant},
};

/// How much longer the serving host waits before it ends a silent session: the caller's host does it first, so that no
/// datagram meets a session that just ended.
const SERVER_GRACE: Duration = Duration::from_secs(5);

/// Datagrams of another host that are handed on before other sessions have their turn: it may send faster than they can
/// be handed on, so that there is always one more.
const IN_A_ROW: usize = 64;

/// The side of a session that is at another host.
pub struct Peer {
    /// Nothing is written to it but its end.
    pub send: SendStream,
    /// Nothing is read from it but its end.
    pub recv: RecvStream,
    /// Datagrams to the other host.
    pub sender: DatagramSender,
    /// Datagrams from it.
    pub receiver: DatagramReceiver,
    /// The end of the session that is there.
    pub end: End,
}

/// The caller's side, on its own host.
struct Caller {
    flow: UdpFlow,
    inlet: Rc<Inlet>,
}

/// What a session keeps until it ends.
pub struct Kept {
    /// Its count on the limits.
    pub admission: Admission,
    /// The graph's own idle time.
    pub idle: Option<Duration>,
}

/// After how much silence a session ends.
#[derive(Clone, Copy)]
struct Patience {
    idle: Option<Duration>,
    more: Duration,
}

/// The other host, while the session is open.
struct Far {
    send: SendStream,
    recv: RecvStream,
    receiver: DatagramReceiver,
    end: End,
    /// Which way its datagrams go.
    way: Way,
}

impl Peer {
    fn open(self, way: Way) -> (Outlet, Far) {
        let Self { send, recv, sender, receiver, end } = self;
        (Outlet::Peer(sender), Far { send, recv, receiver, end, way })
    }
}

/// Carries a session from a caller's host to an endpoint on this one, until it ends.
pub async fn from_peer(session: Box<Session>, kept: Kept, peer: Peer, reached: Reached) {
    let Kept { admission, idle } = kept;
    let (down, far) = peer.open(Way::Up);
    let relay = Relay::new(&session, admission, reached.outlet(), down, reached.interface());
    let way = reached.open(&relay);
    let reason = carry(&session, &relay, Some(far), Some(way), Patience { idle, more: SERVER_GRACE }).await;
    if is_missed(&relay, reason) {
        session.missed();
    }
    session.end(reason, None);
}

/// Carries a session of a caller on this host to an endpoint on another.
async fn to_peer(context: Rc<Context>, session: Box<Session>, kept: Kept, caller: Caller, peer: Peer, _using: Using) {
    let (up, far) = peer.open(Way::Down);
    let patience = kept.patience();
    let relay = caller.relay(&session, kept.admission, up);
    let reason = carry(&session, &relay, Some(far), None, patience).await;
    if is_missed(&relay, reason) {
        blame(&context, &session);
    }
    session.end(reason, None);
}

/// Nobody listens at the endpoint, which only its first datagram could tell.
fn is_missed(relay: &Relay, reason: Reason) -> bool {
    reason == Reason::EndpointRefused && !relay.is_answered()
}

/// The next session tries another endpoint.
fn blame(context: &Context, session: &Session) {
    let host = session.live().endpoint_host.borrow();
    if let (Some(service), Some(host)) = (&session.live().request.service, &*host) {
        context.balancer.failed(service, host, Instant::now());
    }
}

impl Kept {
    fn patience(&self) -> Patience {
        Patience { idle: self.idle, more: Duration::ZERO }
    }
}

/// Carries a session whose caller and endpoint are on this host.
async fn local(session: Box<Session>, kept: Kept, caller: Caller, reached: Reached, _using: Using) {
    let patience = kept.patience();
    let relay = caller.relay(&session, kept.admission, reached.outlet());
    let way = reached.open(&relay);
    let reason = carry(&session, &relay, None, Some(way), patience).await;
    if is_missed(&relay, reason) {
        session.missed();
    }
    session.end(reason, None);
}

impl Caller {
    /// The session is open: what is held goes first. The inlet is in the interface's table for as long as the caller is.
    fn relay(&self, session: &Session, admission: Admission, up: Outlet) -> Rc<Relay> {
        let interface = self.flow.interface();
        let down = Outlet::Flow(Rc::clone(interface), self.flow.key());
        let relay = Relay::new(session, admission, up, down, interface);
        self.flow.release_held();
        self.inlet.open(&relay);
        relay
    }
}

/// Hands datagrams on until the session ends, and tells everybody.
async fn carry(
    session: &Session,
    relay: &Rc<Relay>,
    mut far: Option<Far>,
    endpoint: Option<EndpointWay>,
    patience: Patience,
) -> Reason {
    let from_far = async {
        match &mut far {
            Some(Far { recv, receiver, end, way, .. }) => tokio::select! {
                reason = stream_end(recv, *end) => reason,
                never = receive(relay, *way, receiver) => match never {},
            },
            None => pending().await,
        }
    };
    let from_endpoint = async {
        match &endpoint {
            Some(EndpointWay::Kernel(listener)) => listener.receive(|data| relay.pass_or_count(Way::Down, data)).await,
            Some(EndpointWay::Interface(_)) => {
                relay.when_settled().await;
                pending().await
            }
            None => pending().await,
        }
    };
    let reason = tokio::select! {
        reason = session.live().when_cut() => reason,
        reason = relay.when_ended() => reason,
        reason = from_far => reason,
        reason = from_endpoint => reason,
        reason = relay.when_idle(patience) => reason,
        () = relay.interface_closed() => Reason::NoInterface,
    };
    if let Some(Far { send, recv, .. }) = &mut far {
        finish(send, recv, reason);
    }
    relay.tell(reason);
    reason
}

/// Datagrams of the other host, as many together as there are: a packet for several costs hardly more than for one.
async fn receive(relay: &Relay, way: Way, receiver: &mut DatagramReceiver) -> Infallible {
    let mut batch = Vec::new();
    while receiver.recv_some(&mut batch, IN_A_ROW).await {
        polling::came();
        let full = batch.len() == IN_A_ROW;
        relay.pass_all(way, &mut batch, |reason| relay.dropped(reason));
        for _ in 0..receiver.take_lost() {
            relay.dropped(Reason::Congested);
        }
        if full {
            tokio::task::yield_now().await;
        }
    }
    // The stream says why there are no more.
    pending().await
}

/// The session's stream carries no bytes: whatever comes from it is its end.
async fn stream_end(recv: &mut RecvStream, end: End) -> Reason {
    match recv.read_chunk(1, true).await {
        Ok(None) => Reason::Closed,
        Ok(Some(_)) => Reason::Protocol,
        Err(error) => code::of_read(&error, end),
    }
}

/// Ends a session's stream. Both fail only on a stream that has ended by itself.
fn finish(send: &mut SendStream, recv: &mut RecvStream, reason: Reason) {
    let code = code::from_reason(reason);
    let _ = if reason == Reason::Closed { send.finish() } else { send.reset(code) };
    let _ = recv.stop(code);
}
