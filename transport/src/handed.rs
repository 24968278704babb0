//! Datagrams that pass from one agent of a host to another while both share its socket.
//!
//! 1. The agent that hands over stops reading ([`crate::Transport::hand_over`]); its connections go on, as both may send.
//! 2. The next one reads. What names a connection ID of another generation it hands on, what is nobody's it takes and hands
//!    on, everything else is its own, such as the first packet of a host that dials.
//! 3. The first one is given what is its own ([`crate::Transport::deliver`]).

use crate::generations::{Ids, Issuer};
use quinn::udp::{EcnCodepoint, RecvMeta};
use quinn_proto::ConnectionId;
use std::{
    collections::VecDeque,
    fmt,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Buffers that wait to be read at most, each of up to 64 KiB: what a busy moment brings. Of more, the newest are lost, as
/// in the socket's own queue.
const WAITING_MAX: usize = 256;
/// The bit of a packet's first byte that is set in long headers (RFC 9000 section 17.2).
const LONG_HEADER: u8 = 0x80;
/// Where the length of the destination's connection ID is in a long header, and where the ID begins.
const LONG_LENGTH: usize = 5;
const LONG_ID: usize = 6;
/// Length of the connection IDs that this host issues, in bytes.
const ID_LENGTH: usize = crate::moves::ID_LENGTH;

/// Datagrams of one sender, as the socket gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagrams<'d> {
    /// Who sent them.
    pub from: SocketAddr,
    /// To which address of this host, if that is known.
    pub to: Option<IpAddr>,
    /// The two bits of explicit congestion notification (RFC 3168).
    pub ecn: u8,
    /// Length of each but the last, bytes.
    pub stride: usize,
    /// One after the other.
    pub bytes: &'d [u8],
}

/// Takes datagrams that are another agent's. Called on the transport's thread, and must not wait.
pub type Foreign = Box<dyn Fn(&Datagrams<'_>) + Send + Sync>;

/// What an agent reads that has handed its socket over.
#[derive(Default)]
pub(crate) struct Handed(Mutex<State>);

#[derive(Default)]
struct State {
    is_handed: bool,
    waiting: VecDeque<(RecvMeta, Box<[u8]>)>,
    reader: Option<Waker>,
}

impl Handed {
    /// From now on what is delivered is read, or the socket again.
    pub(crate) fn set(&self, handed: bool) {
        let mut state = self.state();
        state.is_handed = handed;
        state.waiting.clear();
        wake(&mut state);
    }

    pub(crate) fn deliver(&self, datagrams: &Datagrams<'_>) {
        let mut state = self.state();
        if state.is_handed && state.waiting.len() < WAITING_MAX {
            let mut meta = RecvMeta::default();
            (meta.addr, meta.dst_ip) = (datagrams.from, datagrams.to);
            (meta.len, meta.stride) = (datagrams.bytes.len(), datagrams.stride.max(1));
            meta.ecn = EcnCodepoint::from_bits(datagrams.ecn);
            state.waiting.push_back((meta, datagrams.bytes.into()));
            wake(&mut state);
        }
    }

    /// What was delivered, while the socket is not read; else `None`, and the reader is woken when that changes.
    pub(crate) fn poll(
        &self,
        cx: &Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Option<Poll<usize>> {
        let mut state = self.state();
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        if !state.is_handed {
            return None;
        }
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some((of, bytes)) = state.waiting.pop_front() else { break };
            // Both agents have quinn make buffers for 64 packets of the largest size.
            let fits = bytes.len().min(buffer.len());
            buffer[..fits].copy_from_slice(&bytes[..fits]);
            *meta = RecvMeta { len: fits, ..of };
            count += 1;
        }
        Some(if count == 0 { Poll::Pending } else { Poll::Ready(count) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(state: &mut State) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").finish_non_exhaustive()
    }
}

/// Hands on what of a buffer is another agent's, and leaves the rest in it. Packets of both may be in one, as both have
/// connections between the same two addresses.
pub(crate) fn sort(ids: &Ids, foreign: &Foreign, buffer: &mut [u8], meta: &mut RecvMeta) {
    let (length, stride) = (meta.len.min(buffer.len()), meta.stride.max(1));
    let (mut at, mut kept) = (0, 0);
    while at < length {
        let end = (at + stride).min(length);
        let issuer = issuer(ids, &buffer[at..end]);
        if issuer != Issuer::Own {
            let ecn = meta.ecn.map_or(0, |ecn| ecn as u8);
            foreign(&Datagrams { from: meta.addr, to: meta.dst_ip, ecn, stride, bytes: &buffer[at..end] });
        }
        if issuer != Issuer::Another {
            buffer.copy_within(at..end, kept);
            kept += end - at;
        }
        at = end;
    }
    meta.len = kept;
}

/// Whose a packet is. Of those with long headers only what names an ID of another agent is not this one's: a host that dials
/// chooses an ID of its own (RFC 9000 section 7.2).
fn issuer(ids: &Ids, packet: &[u8]) -> Issuer {
    let is_long = packet.first().is_some_and(|first| first & LONG_HEADER != 0);
    let id = match is_long {
        false => packet.get(1..1 + ID_LENGTH),
        true if packet.get(LONG_LENGTH).is_some_and(|length| usize::from(*length) == ID_LENGTH) => {
            packet.get(LONG_ID..LONG_ID + ID_LENGTH)
        }
        true => None,
    };
    match id.map(|id| ids.issuer(&ConnectionId::new(id))) {
        Some(Issuer::Unknown) if is_long => Issuer::Own,
        Some(issuer) => issuer,
        None => Issuer::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn_proto::ConnectionIdGenerator as _;
    use std::sync::Arc;

    fn short(id: &ConnectionId, fill: u8) -> Vec<u8> {
        [&[0x40][..], id, &[fill; 11]].concat()
    }

    #[test]
    fn packets_of_two_agents_in_one_buffer_part() {
        let keys = std::array::from_fn(|at| at as u64 + 77);
        let (mut own, mut other) = (Ids::new(keys, 1), Ids::new(keys, 0));
        let (mine, theirs, nobodys) = (own.generate_cid(), other.generate_cid(), ConnectionId::new(&[9; 8]));
        let packets = [short(&mine, 1), short(&theirs, 2), short(&nobodys, 3), short(&mine, 4)[..15].to_vec()];
        let mut buffer = packets.concat();
        let mut meta = RecvMeta::default();
        (meta.len, meta.stride) = (buffer.len(), 20);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let foreign: Foreign = Box::new(move |datagrams| into.lock().unwrap().push(datagrams.bytes.to_vec()));
        sort(&own, &foreign, &mut buffer, &mut meta);
        assert_eq!(buffer[..meta.len], [&packets[0][..], &packets[2], &packets[3]].concat());
        assert_eq!(*seen.lock().unwrap(), [packets[1].clone(), packets[2].clone()]);
    }

    #[test]
    fn who_dials_reaches_the_newer_agent_and_a_handshake_its_own() {
        let keys = std::array::from_fn(|at| at as u64 + 77);
        let (own, mut other) = (Ids::new(keys, 1), Ids::new(keys, 0));
        let long = |id: &[u8]| [&[0xc0, 0, 0, 0, 1, id.len() as u8][..], id, &[0; 30]].concat();
        assert_eq!(issuer(&own, &long(&[5; 20])), Issuer::Own);
        assert_eq!(issuer(&own, &long(&[5; 8])), Issuer::Own);
        assert_eq!(issuer(&own, &long(&other.generate_cid())), Issuer::Another);
        assert_eq!(issuer(&own, &[0xc0]), Issuer::Own);
        assert_eq!(issuer(&own, &[]), Issuer::Own);
    }
}
