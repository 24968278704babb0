//! The TUN device through which one workload reaches the fabric: the interface is the identity.
//!
//! 1. [`serve`] reads packets until there are none, at most [`BATCH`] a turn.
//! 2. A packet is parsed; what hides its ports, or has another source than the interface's own address, is dropped with a
//!    counted reason.
//! 3. A segment of a known flow goes to its endpoint. A SYN opens a session. Any other segment is answered with a reset.
//! 4. The resolver's address answers DNS, and the workload's own API; everything else gets the ICMP error that says why.

mod dispatch;
mod flows;
mod handed;
mod lately;
mod own;
mod resolver;
mod spread;
mod udp;
mod voice;

pub use dispatch::{back, packet};
pub use flows::{FlowGuard, Interface, Owner};
pub use handed::{Flows, Way};
pub use ripstop_config::{InterfaceId, Replica};
pub use spread::{Siblings, Spread, Stray, Strays, take_strays};
pub use udp::{DatagramSink, UdpFlow};

use crate::{
    polling,
    session::context::Context,
    stack::{MTU, Received, VNET_HEADER},
    thread::Task,
};
use ripstop_kernel::Tun;
use std::{io, rc::Rc};

/// A packet this long is given its memory, so that nobody copies it: half of that is used at least.
const WORTH_KEEPING: usize = 32 * 1024;
/// Packets taken in one turn, so that one busy workload does not keep the others waiting.
const BATCH: usize = 16;

/// Reads the interface's packets until it is closed or its device is gone; not while another agent reads it.
pub fn serve(context: Rc<Context>, interface: Rc<Interface>, tun: Rc<Tun>) -> Task {
    Box::pin(read_until_closed(context, interface, tun))
}

async fn read_until_closed(context: Rc<Context>, interface: Rc<Interface>, tun: Rc<Tun>) {
    let ended = tokio::select! {
        ended = read_when_told(&context, &interface, &tun) => ended,
        () = interface.closed() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(workload = %interface.workload(), link = tun.name(), %error, "the interface is gone");
        interface.close();
    }
}

async fn read_when_told(context: &Rc<Context>, interface: &Rc<Interface>, tun: &Tun) -> io::Result<()> {
    let mut reading = interface.reading.subscribe();
    loop {
        // The sender is the interface's own.
        let _ = reading.wait_for(|reading| *reading).await;
        tokio::select! {
            ended = read_loop(context, interface, tun) => return ended,
            _ = reading.wait_for(|reading| !*reading) => {}
        }
    }
}

async fn read_loop(context: &Rc<Context>, interface: &Rc<Interface>, tun: &Tun) -> io::Result<()> {
    let device = tun.watch()?;
    let mut buffer = Vec::new();
    loop {
        let mut ready = device.readable().await?;
        let is_drained = interface.port().gathering(|| turn(context, interface, tun, &mut buffer))?;
        interface.count_refused();
        if is_drained {
            ready.clear_ready();
        } else {
            // Lets the sessions that were just fed run before the next batch.
            tokio::task::yield_now().await;
        }
    }
}

/// Takes the packets of one turn; `true` when there are no more.
fn turn(context: &Rc<Context>, interface: &Rc<Interface>, tun: &Tun, buffer: &mut Vec<u8>) -> io::Result<bool> {
    for _ in 0..BATCH {
        buffer.clear();
        buffer.reserve(VNET_HEADER + MTU);
        match tun.recv(buffer) {
            Ok(()) => take(context, interface, buffer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Takes what was read from the device. The data of a long segment stay where they lie; datagrams are copied anyway.
fn take(context: &Rc<Context>, interface: &Rc<Interface>, buffer: &mut Vec<u8>) {
    polling::came();
    let received = Received::of(buffer);
    interface.port().came(received.packet);
    if received.datagram.is_some() || buffer.len() < WORTH_KEEPING {
        return packet(context, interface, received);
    }
    packet(context, interface, Received::within(&std::mem::take(buffer).into()));
}
