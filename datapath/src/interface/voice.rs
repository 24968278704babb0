//! The workload's own API at the resolver's address, over HTTP: this end carries bytes, and the control thread reads them, so
//! that nothing which a workload says is parsed where sessions are carried.

use super::{
    flows::Interface,
    own::{InHand, accept},
};
use crate::{
    packet::{Packet, Segment},
    session::context::{Context, VoiceCall},
    stack::{Broken, Endpoint},
};
use bytes::{Bytes, BytesMut};
use ripstop_config::Reason;
use std::{convert::Infallible, rc::Rc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

/// The port of HTTP (RFC 9110 section 4.2.1).
pub(super) const VOICE_PORT: u16 = 80;
/// Connections of one workload: a few programs that ask now and then.
const CONNECTIONS_MAX: usize = 8;
/// Longest life of a connection, with all its requests: each takes milliseconds.
const LIFE: Duration = Duration::from_secs(30);
/// How long a workload may take to end its side of the handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Bytes on their way between the two threads, each way.
const PIPE: usize = 8 * 1024;

/// Takes a connection to the workload's own API.
pub(super) fn connection(
    context: &Rc<Context>,
    interface: &Rc<Interface>,
    packet: &Packet<'_>,
    segment: &Segment,
) -> Result<(), Reason> {
    let in_hand = InHand::take(interface, |interface| &interface.spread().voices, CONNECTIONS_MAX, Reason::AgentFull)
        .inspect_err(|reason| interface.refuse(packet, segment, *reason))?;
    let (endpoint, flow) = accept(interface, packet, segment)?;
    let context = Rc::clone(context);
    tokio::task::spawn_local(async move {
        let established = tokio::time::timeout(HANDSHAKE_MAX, endpoint.established()).await;
        let answered = match established {
            Ok(Ok(())) => {
                let carried = carry(&context, in_hand.interface(), &endpoint);
                tokio::time::timeout(LIFE, carried).await.unwrap_or(false)
            }
            Ok(Err(_)) | Err(_) => false,
        };
        if answered {
            endpoint.finish();
        } else {
            endpoint.abort();
        }
        endpoint.linger().await;
        drop((flow, in_hand));
    });
    Ok(())
}

/// Carries a connection's bytes until the other thread has said all; false when it could not.
async fn carry(context: &Context, interface: &Rc<Interface>, endpoint: &Endpoint) -> bool {
    let (near, stream) = tokio::io::duplex(PIPE);
    let call = VoiceCall { interface: interface.id().clone(), stream };
    if context.control.voices.try_send(call).is_err() {
        return false;
    }
    let (answer, request) = tokio::io::split(near);
    tokio::select! {
        said = down(answer, endpoint) => said.is_ok(),
        broken = up(request, endpoint) => match broken { Broken(_) => false },
        never = endpoint.drive() => match never {},
        () = interface.closed() => false,
    }
}

/// What the workload asks; returns only when its connection has broken.
async fn up(mut to: WriteHalf<DuplexStream>, endpoint: &Endpoint) -> Broken {
    loop {
        match endpoint.read(PIPE, Reason::CallerReset).await {
            // Nobody reads any more once all is said.
            Ok(Some(bytes)) if to.write_all(&bytes).await.is_err() => break,
            Ok(Some(_)) => {}
            Ok(None) => {
                // The end of what is asked; the answer may still come. That it cannot be told means that it has been.
                let _ = to.shutdown().await;
                break;
            }
            Err(broken) => return broken,
        }
    }
    let pending: Infallible = std::future::pending().await;
    match pending {}
}

/// What it is answered, to its end.
async fn down(mut from: ReadHalf<DuplexStream>, endpoint: &Endpoint) -> Result<(), Broken> {
    loop {
        let mut bytes = BytesMut::with_capacity(PIPE);
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => endpoint.write(&mut vec![Bytes::from(bytes)], Reason::CallerReset).await?,
        }
    }
}
