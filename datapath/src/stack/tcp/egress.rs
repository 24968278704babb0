//! What a connection sends, and when it sends it again.

use super::{
    connection::{Connection, Phase, REPEAT, SYN_REPEAT},
    incoming::Incoming,
    outgoing::PARTS_MAX,
    segment::{ACK, FIN, Fields, PSH, RST, SYN},
    seq::Seq,
};
use crate::stack::device::TunPort;
use std::io::IoSlice;
use tokio::time::Instant;

impl Connection {
    /// Sends what is due, at most so many packets; returns how many there were.
    pub(in crate::stack) fn egress(&mut self, now: Instant, port: &TunPort, packets: usize) -> usize {
        let mut sent = self.repeat(now, port);
        if self.phase == Phase::Open {
            sent += self.send_due(port, packets);
            if self.outgoing.is_waiting() && self.repeat.at.is_none() {
                self.repeat.start(now, REPEAT);
            }
        }
        if self.phase != Phase::Closed && self.incoming.is_due(now) {
            self.send_bare(port, self.outgoing.next());
            sent += 1;
        }
        if sent > 0 {
            self.waiting = None;
        }
        sent
    }

    /// Sends again what is not acknowledged, if it is time.
    fn repeat(&mut self, now: Instant, port: &TunPort) -> usize {
        if !self.repeat.is_due(now) {
            return 0;
        }
        match self.phase {
            Phase::Calling | Phase::Called => {
                self.send_syn(port);
                self.repeat.again(now, SYN_REPEAT);
                1
            }
            Phase::Open => {
                self.outgoing.gather();
                self.repeat.again(now, REPEAT);
                if self.outgoing.is_shut() {
                    return self.probe(port);
                }
                self.outgoing.lose();
                0
            }
            Phase::Closed => 0,
        }
    }

    /// Sends the SYN, or the answer to one.
    pub(super) fn send_syn(&self, port: &TunPort) {
        let (flags, acknowledgement, scale) = match self.phase {
            Phase::Calling => (SYN, Seq(0), Some(Incoming::scale())),
            Phase::Called | Phase::Open | Phase::Closed => {
                (SYN | ACK, self.incoming.next(), self.incoming.takes_scale().then(Incoming::scale))
            }
        };
        let fields =
            Fields { flags, sequence: self.outgoing.first().before(), acknowledgement, window: Incoming::FIRST_WINDOW };
        let head = self.head.write_syn(&fields, scale);
        port.write_parts(&[IoSlice::new(&head.vnet), IoSlice::new(head.bytes())]);
    }

    fn send_due(&mut self, port: &TunPort, packets: usize) -> usize {
        let mut sent = 0;
        while sent < packets
            && let Some(next) = self.outgoing.due()
        {
            let mut parts = [IoSlice::new(&[]); PARTS_MAX + 2];
            let (used, held) = self.outgoing.parts(next, &mut parts[2..]);
            let mut flags = ACK;
            if held.ends {
                flags |= FIN;
            }
            if held.is_last && held.length > 0 {
                flags |= PSH;
            }
            let (acknowledgement, window) = self.incoming.tell();
            let fields = Fields { flags, sequence: self.outgoing.next(), acknowledgement, window };
            let head = self.head.write(&fields, held.length);
            parts[0] = IoSlice::new(&head.vnet);
            parts[1] = IoSlice::new(head.bytes());
            port.write_parts(&parts[..used + 2]);
            self.outgoing.sent(held);
            sent += 1;
        }
        sent
    }

    fn probe(&mut self, port: &TunPort) -> usize {
        let sequence = self.outgoing.first();
        let (acknowledgement, window) = self.incoming.tell();
        let Some(byte) = self.outgoing.probe() else { return 0 };
        let head = self.head.write(&Fields { flags: ACK, sequence, acknowledgement, window }, byte.len());
        port.write_parts(&[IoSlice::new(&head.vnet), IoSlice::new(head.bytes()), IoSlice::new(byte)]);
        1
    }

    /// Sends a segment that acknowledges, and says nothing else.
    pub(super) fn send_bare(&mut self, port: &TunPort, sequence: Seq) {
        let (acknowledgement, window) = self.incoming.tell();
        self.send_head(port, &Fields { flags: ACK, sequence, acknowledgement, window });
    }

    /// Sends a reset of this number. Who waits for the answer to a SYN obeys none that does not acknowledge it.
    pub(super) fn reset(&self, port: &TunPort, sequence: Seq) {
        let (flags, acknowledgement) = match self.phase {
            Phase::Called => (RST | ACK, self.incoming.next()),
            Phase::Calling | Phase::Open | Phase::Closed => (RST, Seq(0)),
        };
        self.send_head(port, &Fields { flags, sequence, acknowledgement, window: 0 });
    }

    fn send_head(&self, port: &TunPort, fields: &Fields) {
        let head = self.head.write(fields, 0);
        port.write_parts(&[IoSlice::new(&head.vnet), IoSlice::new(head.bytes())]);
    }
}
