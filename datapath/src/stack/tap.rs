//! Copies of the packets of some flows that pass an interface, for who captures them.
//!
//! 1. A [`Tap`] is put on an interface's port. Where there is none, a packet costs one look at a flag of its own thread.
//! 2. It is told which flows are wanted. The first packets of a flow pass before anybody knows whose it is: the newest of these
//!    are kept for a moment ([`EARLY_MAX`]), and handed on if the flow turns out to be wanted.
//! 3. A copy goes to the [`Outflow`] of its capture without waiting. What does not fit its bounds is counted, and left out.

use crate::packet::{FlowKey, ICMP, ICMPV6, TCP, UDP};
use ripstop_config::{InterfaceId, Protocol};
use rustc_hash::{FxHashMap, FxHashSet};
use std::{
    cell::RefCell,
    collections::{VecDeque, hash_map::Entry},
    io::IoSlice,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;

/// First packets of flows that are kept until it is known whose they are, and bytes of them: what a busy interface sees while
/// an endpoint on a slow path is asked.
const EARLY_MAX: usize = 256;
const EARLY_BYTES: usize = 256 << 10;
/// Those of one flow: a handshake, and what a server says first. A flow that nobody asks for costs no more copies.
const EARLY_OF_FLOW: usize = 8;
/// Copies that wait to be taken, and bytes of them: what passes between two visits of whoever takes them.
const QUEUE_MAX: usize = 8_192;
const QUEUE_BYTES: usize = 8 << 20;

/// A flow of an interface.
pub type Flow = (Protocol, FlowKey);

/// A packet as it passed the interface, IP header first. One that its kernel left a checksum out of lacks it here too, and the
/// data of several datagrams may be one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Whose interface: a number by [`Outflow::sources`].
    pub source: u16,
    /// When, in nanoseconds since 1970.
    pub at: u64,
    /// To the workload, or from it.
    pub toward: bool,
    /// Its length, of which `bytes` may be a part.
    pub length: u32,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// What passed one interface.
#[derive(Debug, Default)]
struct Count {
    wanted: AtomicU64,
    missed: AtomicU64,
}

/// The packets of one interface so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Which interface.
    pub interface: InterfaceId,
    /// Packets that were wanted.
    pub wanted: u64,
    /// Those of them that did not fit the bounds.
    pub missed: u64,
}

/// Where the copies of one capture go, from any number of taps, and how many there may be.
#[derive(Debug)]
pub struct Outflow {
    queue: mpsc::Sender<Copied>,
    /// Bytes of a packet that are copied.
    snap: usize,
    /// Bytes that may still wait.
    room: AtomicUsize,
    /// Bytes that may still be copied.
    left: AtomicUsize,
    /// A packet did not fit what was left.
    spent: AtomicBool,
    /// Locked when a tap is made, and when somebody asks; never for a packet.
    sources: Mutex<Vec<(InterfaceId, Arc<Count>)>>,
}

/// The end at which copies are taken.
#[derive(Debug)]
pub struct Copies {
    queue: mpsc::Receiver<Copied>,
    outflow: Arc<Outflow>,
}

impl Outflow {
    /// A capture of at most so many bytes, and of the first so many of each packet.
    #[must_use]
    pub fn new(bytes: usize, snap: usize) -> (Arc<Self>, Copies) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let (room, left) = (QUEUE_BYTES.into(), bytes.into());
        let outflow =
            Arc::new(Self { queue: sender, snap, room, left, spent: AtomicBool::default(), sources: Mutex::default() });
        (Arc::clone(&outflow), Copies { queue, outflow })
    }

    /// Which interfaces are tapped, by their numbers.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let described = sources.iter().map(|(interface, count)| Source {
            interface: interface.clone(),
            wanted: count.wanted.load(Relaxed),
            missed: count.missed.load(Relaxed),
        });
        described.collect()
    }

    /// The number of an interface, which stays what it is. One host has far fewer than there are numbers.
    fn source(&self, interface: &InterfaceId) -> (u16, Arc<Count>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sources.iter().position(|(known, _)| known == interface);
        let at = known.unwrap_or_else(|| {
            sources.push((interface.clone(), Arc::default()));
            sources.len() - 1
        });
        (u16::try_from(at).unwrap_or(u16::MAX), Arc::clone(&sources[at].1))
    }

    /// Takes a packet of `kept` bytes if it fits.
    fn offer(&self, kept: usize, copy: impl FnOnce() -> Copied) -> bool {
        if !take(&self.left, kept) {
            self.spent.store(true, Relaxed);
            return false;
        }
        if !take(&self.room, kept) {
            self.left.fetch_add(kept, Relaxed);
            return false;
        }
        let taken = self.queue.try_send(copy()).is_ok();
        if !taken {
            self.left.fetch_add(kept, Relaxed);
            self.room.fetch_add(kept, Relaxed);
        }
        taken
    }
}

fn take(from: &AtomicUsize, bytes: usize) -> bool {
    from.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

impl Copies {
    /// The oldest copies, of at most so many bytes together; whether that is all that will ever come.
    pub fn take(&mut self, bytes: usize) -> (Vec<Copied>, bool) {
        let (mut taken, mut size) = (Vec::new(), 0);
        // A packet has 65 575 bytes at most.
        while size < bytes.saturating_sub(usize::from(u16::MAX))
            && let Ok(copied) = self.queue.try_recv()
        {
            self.outflow.room.fetch_add(copied.bytes.len(), Relaxed);
            size += copied.bytes.len() + size_of::<Copied>();
            taken.push(copied);
        }
        let is_over = self.queue.is_empty() && self.outflow.spent.load(Relaxed);
        (taken, is_over)
    }

    /// Which interfaces they are of.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.outflow.sources()
    }
}

/// What copies packets of one interface for one capture.
#[derive(Debug)]
pub struct Tap {
    capture: u64,
    source: u16,
    count: Arc<Count>,
    outflow: Arc<Outflow>,
    flows: RefCell<FxHashSet<Flow>>,
    early: RefCell<Early>,
}

/// First packets of flows of which it is not known whose they are.
#[derive(Debug, Default)]
struct Early {
    kept: VecDeque<(Flow, Copied)>,
    bytes: usize,
    /// How many of each flow are kept.
    flows: FxHashMap<Flow, usize>,
}

impl Tap {
    /// A tap on an interface, for a capture of this number, that wants nothing yet.
    #[must_use]
    pub fn new(capture: u64, interface: &InterfaceId, outflow: &Arc<Outflow>) -> Self {
        let (source, count) = outflow.source(interface);
        let (flows, early) = Default::default();
        Self { capture, source, count, outflow: Arc::clone(outflow), flows, early }
    }

    /// The capture that it is for.
    #[must_use]
    pub fn capture(&self) -> u64 {
        self.capture
    }

    /// A flow is wanted, with what is here of it.
    pub fn claim(&self, flow: Flow) {
        if self.flows.borrow_mut().insert(flow) {
            for copied in self.early.borrow_mut().take(flow) {
                self.hand_on(copied.bytes.len(), || copied);
            }
        }
    }

    /// A flow is none that is wanted; it may be the second that has its addresses and ports.
    pub fn disclaim(&self, flow: Flow) {
        self.flows.borrow_mut().remove(&flow);
        self.early.borrow_mut().take(flow);
    }

    /// Copies a packet that comes in parts, the first of which holds its headers, if it is wanted or may be.
    pub(super) fn see(&self, toward: bool, parts: &[IoSlice<'_>]) {
        let Some((flow, part)) = parts.first().and_then(|head| flow_of(head, toward)) else { return };
        if part == Part::Opening {
            // It may be another session's, with the same addresses and ports: whose it is has to be said again.
            self.disclaim(flow);
        }
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let kept = length.min(self.outflow.snap);
        if self.flows.borrow().contains(&flow) {
            self.hand_on(kept, || self.copy(toward, parts, length, kept));
        } else if self.early.borrow().is_early(&flow, part) {
            self.early.borrow_mut().keep(flow, self.copy(toward, parts, length, kept));
        }
    }

    fn hand_on(&self, kept: usize, copy: impl FnOnce() -> Copied) {
        self.count.wanted.fetch_add(1, Relaxed);
        if !self.outflow.offer(kept, copy) {
            self.count.missed.fetch_add(1, Relaxed);
        }
    }

    fn copy(&self, toward: bool, parts: &[IoSlice<'_>], length: usize, kept: usize) -> Copied {
        let mut bytes = Vec::with_capacity(kept);
        for part in parts {
            bytes.extend_from_slice(&part[..part.len().min(kept - bytes.len())]);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Copied { source: self.source, at, toward, length: u32::try_from(length).unwrap_or(u32::MAX), bytes }
    }
}

impl Early {
    /// Whether a packet is among the first of its flow, as far as that is known.
    fn is_early(&self, flow: &Flow, part: Part) -> bool {
        match self.flows.get(flow) {
            Some(kept) => *kept < EARLY_OF_FLOW,
            None => part != Part::Other,
        }
    }

    fn keep(&mut self, flow: Flow, copied: Copied) {
        self.bytes += copied.bytes.len();
        self.kept.push_back((flow, copied));
        *self.flows.entry(flow).or_default() += 1;
        while (self.kept.len() > EARLY_MAX || self.bytes > EARLY_BYTES)
            && let Some((of, oldest)) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes.len();
            if let Entry::Occupied(mut kept) = self.flows.entry(of) {
                *kept.get_mut() -= 1;
                if *kept.get() == 0 {
                    kept.remove();
                }
            }
        }
    }

    fn take(&mut self, flow: Flow) -> Vec<Copied> {
        if self.flows.remove(&flow).is_none() {
            return Vec::new();
        }
        let (taken, kept): (VecDeque<_>, VecDeque<_>) = self.kept.drain(..).partition(|(of, _)| *of == flow);
        self.bytes = kept.iter().map(|(_, copied)| copied.bytes.len()).sum();
        self.kept = kept;
        taken.into_iter().map(|(_, copied)| copied).collect()
    }
}

/// Which part of a flow a packet may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It asks for a new connection.
    Opening,
    /// It may be among the first.
    Early,
    /// It is not.
    Other,
}

/// An IP packet's ends, the number of what it carries, and that.
type Addressed<'p> = (IpAddr, IpAddr, u8, &'p [u8]);

/// The flow of a packet, or of the one that an ICMP error quotes; and which part of it that may be.
fn flow_of(packet: &[u8], toward: bool) -> Option<(Flow, Part)> {
    let (source, destination, protocol, body) = addresses(packet)?;
    let key = |(source, destination), toward| match toward {
        true => FlowKey { workload: destination, fabric: source },
        false => FlowKey { workload: source, fabric: destination },
    };
    if [ICMP, ICMPV6].contains(&protocol) {
        // Destination unreachable, time exceeded, parameter problem (RFC 792; RFC 4443 section 3). What it quotes went the other way.
        let kind = body.first()?;
        let is_error = if protocol == ICMP { [3, 11, 12].contains(kind) } else { (1..=4).contains(kind) };
        let (source, destination, protocol, body) = addresses(body.get(8..).filter(|_| is_error)?)?;
        let (protocol, ends) = ports(source, destination, protocol, body)?;
        return Some(((protocol, key(ends, !toward)), Part::Other));
    }
    let (protocol, ends) = ports(source, destination, protocol, body)?;
    // SYN and ACK (RFC 9293 section 3.1); any datagram may be the first.
    let part = match (protocol, body.get(13).map_or(0, |flags| flags & 0x12)) {
        (Protocol::Udp, _) | (Protocol::Tcp, 0x12) => Part::Early,
        (Protocol::Tcp, 0x02) => Part::Opening,
        (Protocol::Tcp, _) => Part::Other,
    };
    Some(((protocol, key(ends, toward)), part))
}

/// RFC 791 section 3.1 and RFC 8200 section 3. Of fragments none but the first has ports; IPv6 has them behind a header that hides
/// them, which comes with datagrams of more than 65 487 bytes alone, and those are left out.
fn addresses(packet: &[u8]) -> Option<Addressed<'_>> {
    match packet.first()? >> 4 {
        4 => {
            let head = packet.first_chunk::<20>()?;
            let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
            let is_first = u16::from_be_bytes([head[6], head[7]]) & 0x1fff == 0;
            let body = packet.get(usize::from(head[0] & 15) * 4..).filter(|_| is_first)?;
            Some((address(12).into(), address(16).into(), head[9], body))
        }
        6 => {
            let (head, body) = packet.split_first_chunk::<40>()?;
            let [source, destination] = [8, 24].map(|at| head[at..at + 16].first_chunk::<16>().copied());
            Some((Ipv6Addr::from(source?).into(), Ipv6Addr::from(destination?).into(), head[6], body))
        }
        _ => None,
    }
}

fn ports(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    body: &[u8],
) -> Option<(Protocol, (SocketAddr, SocketAddr))> {
    let protocol = match protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let [from_0, from_1, to_0, to_1] = *body.first_chunk::<4>()?;
    let from = SocketAddr::new(source, u16::from_be_bytes([from_0, from_1]));
    let to = SocketAddr::new(destination, u16::from_be_bytes([to_0, to_1]));
    Some((protocol, (from, to)))
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
