//! DNS at the resolver's address, straight from the interface: who asks is known from where the packet came.

use super::{
    dispatch::DNS_PORT,
    flows::Interface,
    own::{InHand, accept},
};
use crate::{
    packet::{Packet, Segment},
    session::context::{Context, ForwardQuery},
    stack::{Broken, Endpoint},
};
use bytes::{Bytes, BytesMut};
use ripstop_config::Reason;
use ripstop_dns::{Answer, Via};
use ripstop_telemetry::DnsSource;
use std::{net::SocketAddr, rc::Rc, time::Duration};
use tokio::sync::oneshot;

/// Queries that wait for another server, and open TCP connections, per workload: as many as the forwarder takes, so that
/// one workload's flood holds neither memory nor the forwarder's queue.
const QUERIES_MAX: usize = 256;
/// How long an idle TCP connection to the resolver is kept (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

fn in_hand(interface: &Rc<Interface>) -> Result<InHand, Reason> {
    InHand::take(interface, |interface| &interface.queries, QUERIES_MAX, Reason::QueryFlood)
}

/// Answers a query that came as a datagram: at once when the fabric knows, else when the forwarder does.
pub(super) fn datagram(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    source: u16,
    query: &[u8],
) -> Result<(), Reason> {
    let from = SocketAddr::new(packet.destination, DNS_PORT);
    let to = SocketAddr::new(packet.source, source);
    match decide(context, interface, query, Via::Udp) {
        Answer::Reply(reply) => {
            count(interface, &reply, DnsSource::Fabric);
            interface.port().send_datagram(from, to, &reply.bytes);
            Ok(())
        }
        Answer::Drop(reason) => Err(reason),
        Answer::Forward => {
            let in_hand = in_hand(interface)?;
            let waiting = forward(context, interface, query, Via::Udp)?;
            tokio::task::spawn_local(async move {
                if let Ok(answer) = waiting.await
                    && let Some(reply) = forwarded(in_hand.interface(), answer)
                {
                    in_hand.interface().port().send_datagram(from, to, &reply);
                }
            });
            Ok(())
        }
    }
}

fn decide(context: &Context, interface: &Interface, query: &[u8], via: Via) -> Answer {
    context.with_policy(|policy| {
        let answer = interface.answers.borrow_mut().answer(policy, query, via);
        if let Answer::Reply(ripstop_dns::Reply { hidden: Some(service), .. }) = &answer {
            context.observed.hidden_name(interface.workload(), &policy.service_entry(*service).id);
        }
        answer
    })
}

fn forward(
    context: &Context,
    interface: &Interface,
    query: &[u8],
    via: Via,
) -> Result<oneshot::Receiver<Answer>, Reason> {
    let (reply, waiting) = oneshot::channel();
    let query = ForwardQuery { workload: interface.workload().clone(), query: query.to_vec(), via, reply };
    context.control.forward.try_send(query).map_err(|_| Reason::QueryFlood)?;
    Ok(waiting)
}

fn forwarded(interface: &Interface, answer: Answer) -> Option<Vec<u8>> {
    match answer {
        Answer::Reply(reply) => {
            count(interface, &reply, DnsSource::Upstream);
            Some(reply.bytes)
        }
        Answer::Drop(reason) => {
            interface.drops().count(reason);
            None
        }
        Answer::Forward => None,
    }
}

fn count(interface: &Interface, reply: &ripstop_dns::Reply, source: DnsSource) {
    interface.dns().count(reply.rcode, source);
}

/// Takes a TCP connection to the resolver (RFC 7766).
pub(super) fn connection(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    segment: &Segment,
) -> Result<(), Reason> {
    let in_hand = in_hand(interface).inspect_err(|reason| interface.refuse(packet, segment, *reason))?;
    let (endpoint, flow) = accept(interface, packet, segment)?;
    let context = Rc::clone(context);
    tokio::task::spawn_local(async move {
        if matches!(tokio::time::timeout(IDLE, endpoint.established()).await, Ok(Ok(()))) {
            tokio::select! {
                _ = messages(&context, in_hand.interface(), &endpoint) => {}
                _ = endpoint.drive() => {}
                () = in_hand.interface().closed() => {}
            }
            endpoint.finish();
        } else {
            endpoint.abort();
        }
        endpoint.linger().await;
        drop((flow, in_hand));
    });
    Ok(())
}

/// One query after the other, each with its length before it (RFC 1035 section 4.2.2), until the workload is silent.
async fn messages(context: &Rc<Context>, interface: &Rc<Interface>, endpoint: &Endpoint) -> Result<(), Broken> {
    let mut received = BytesMut::new();
    loop {
        let Some(query) = next_message(endpoint, &mut received).await? else { return Ok(()) };
        let reply = match decide(context, interface, &query, Via::Tcp) {
            Answer::Reply(reply) => {
                count(interface, &reply, DnsSource::Fabric);
                Some(reply.bytes)
            }
            Answer::Drop(reason) => {
                interface.drops().count(reason);
                None
            }
            Answer::Forward => match forward(context, interface, &query, Via::Tcp) {
                Ok(waiting) => waiting.await.ok().and_then(|answer| forwarded(interface, answer)),
                Err(reason) => {
                    interface.drops().count(reason);
                    None
                }
            },
        };
        let Some(reply) = reply else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(|_| Broken(Reason::Protocol))?;
        let mut pieces = vec![Bytes::copy_from_slice(&length.to_be_bytes()), Bytes::from(reply)];
        // A workload that does not read its answers is left.
        let written = tokio::time::timeout(IDLE, endpoint.write(&mut pieces, Reason::CallerReset)).await;
        written.unwrap_or(Err(Broken(Reason::Idle)))?;
    }
}

async fn next_message(endpoint: &Endpoint, received: &mut BytesMut) -> Result<Option<Bytes>, Broken> {
    loop {
        if let Some(length) = received.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)))
            && received.len() >= 2 + length
        {
            return Ok(Some(received.split_to(2 + length).split_off(2).freeze()));
        }
        let more = tokio::time::timeout(IDLE, endpoint.read(usize::from(u16::MAX), Reason::CallerReset)).await;
        match more {
            Ok(Ok(Some(bytes))) => received.extend_from_slice(&bytes),
            Ok(Ok(None)) | Err(_) => return Ok(None),
            Ok(Err(broken)) => return Err(broken),
        }
    }
}
