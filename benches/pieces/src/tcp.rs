//! Bytes of an open session, between the interface and whoever carries them.

use crate::{Round, bed::Bed, wire};
use bytes::Bytes;
use futures::FutureExt;
use ripstop_config::Reason;
use ripstop_datapath::interface::FlowGuard;
use ripstop_datapath::packet::FlowKey;
use ripstop_datapath::stack::Endpoint;
use std::{net::SocketAddrV4, rc::Rc};

/// The caller's first sequence number, and the seed of the other side's.
const ISN: u32 = 1_000;
const SEED: u64 = 7;
/// The maximum segment size that Linux offers on an interface of this MTU, and on one of 1 500.
const MSS: u16 = 65_495;
const MSS_1500: u16 = 1_460;

/// A session that is established, and the next numbers of its caller.
pub(crate) struct Talk {
    bed: Bed,
    endpoint: Rc<Endpoint>,
    _flow: FlowGuard,
    from: SocketAddrV4,
    to: SocketAddrV4,
    sequence: u32,
    acknowledgement: u32,
    pieces: Vec<Bytes>,
}

impl Talk {
    pub(crate) fn new(bed: Bed) -> Self {
        Self::offering(MSS, bed)
    }

    fn offering(mss: u16, bed: Bed) -> Self {
        let [high, low] = mss.to_be_bytes();
        let (from, to) = (wire::at(bed.address(bed.web()), 40_000 + bed.number()), wire::at(bed.api(), 8080));
        let key = FlowKey { workload: from.into(), fabric: to.into() };
        let flow = bed.web().hold(key);
        let mut talk = wire::Segment {
            from,
            to,
            flags: wire::SYN,
            sequence: ISN,
            acknowledgement: 0,
            // With a window scale of 7.
            options: &[2, 4, high, low, 1, 3, 3, 7],
            data: &[],
        };
        let endpoint = Endpoint::accept(bed.web().port(), &key, &talk.packet(), SEED);
        flow.open(&endpoint);
        let (sequence, acknowledgement) = (ISN + 1, bed.sink.sequence().wrapping_add(1));
        talk = wire::Segment { flags: wire::ACK, sequence, acknowledgement, options: &[], ..talk };
        bed.packet(bed.web(), &talk.packet());
        Self { bed, endpoint, _flow: flow, from, to, sequence, acknowledgement, pieces: Vec::new() }
    }

    pub(crate) fn segment(&self, data: &[u8]) -> Vec<u8> {
        let Self { from, to, sequence, acknowledgement, .. } = *self;
        wire::Segment { from, to, flags: wire::ACK, sequence, acknowledgement, options: &[], data }.packet()
    }

    /// Takes a segment with so many bytes, and has them read.
    pub(crate) fn inward(&mut self, packet: &mut [u8], length: usize) {
        wire::renumber(packet, wire::SEQUENCE, self.sequence);
        self.bed.packet(self.bed.web(), packet);
        self.sequence = self.sequence.wrapping_add(u32::try_from(length).unwrap());
        let mut left = length;
        // Where the buffer ends and begins again, in two pieces.
        while left > 0 {
            let read = self.endpoint.read(length, Reason::CallerReset).now_or_never();
            left -= read.expect("it is there").expect("it is open").expect("it has not ended").len();
        }
    }

    /// Sends so many bytes, and takes a segment that acknowledges them.
    fn outward(&mut self, packet: &mut [u8], bytes: &Bytes) {
        let before = self.bed.sink.packets();
        self.pieces.push(bytes.clone());
        let written = self.endpoint.write(&mut self.pieces, Reason::CallerReset).now_or_never();
        assert!(matches!(written, Some(Ok(()))), "it has room");
        assert!(self.bed.sink.packets() > before);
        self.acknowledgement = self.acknowledgement.wrapping_add(u32::try_from(bytes.len()).unwrap());
        wire::renumber(packet, wire::ACKNOWLEDGEMENT, self.acknowledgement);
        self.bed.packet(self.bed.web(), packet);
    }
}

/// A segment of so many bytes from the workload, read.
pub(crate) fn inward(length: usize) -> Round {
    let mut talk = Talk::new(Bed::new());
    let mut packet = talk.segment(&vec![7; length]);
    Box::new(move || talk.inward(&mut packet, length))
}

/// Two segments from the workload, each longer than the largest that it takes itself, both read, and their acknowledgement, which
/// is due with the second. Of one a round, or of longer ones, the clock would say how many are acknowledged: where instructions
/// are counted a copy of 65 000 bytes takes milliseconds, as long as an acknowledgement waits.
pub(crate) fn inward_twice(length: usize) -> Round {
    let mut talk = Talk::offering(MSS_1500, Bed::new());
    assert!(length > usize::from(MSS_1500));
    let mut packet = talk.segment(&vec![7; length]);
    Box::new(move || (0..2).for_each(|_| talk.inward(&mut packet, length)))
}

/// So many bytes to the workload, and its acknowledgement.
pub(crate) fn outward(length: usize) -> Round {
    let mut talk = Talk::new(Bed::new());
    let (mut packet, bytes) = (talk.segment(&[]), Bytes::from(vec![7; length]));
    Box::new(move || talk.outward(&mut packet, &bytes))
}
