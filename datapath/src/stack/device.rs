//! The way of packets from the agent into an interface.

use super::{
    soon::Waiting,
    tap::Tap,
    virtio::{self, UDP_CHECKSUM, VNET_HEADER, needs_checksum},
};
use crate::packet::craft::DatagramHead;
use crate::thread::Task;
use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
};

/// MTU of every interface: TCP ends here, so no path depends on it, and the kernel hands over its largest segments.
pub const MTU: usize = 65_535;
/// What takes packets toward a workload: a TUN device, or memory in tests.
pub trait PacketSink {
    /// Sends one packet given in parts, virtio header first.
    ///
    /// # Errors
    /// When the device does not take it.
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Whether it takes several datagrams as one packet.
    fn takes_several(&self) -> bool {
        false
    }
}

impl PacketSink for ripstop_kernel::Tun {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        Self::send(self, parts).map(drop)
    }

    fn takes_several(&self) -> bool {
        self.is_several()
    }
}

/// The sending side of one interface, shared by all its sessions on one thread.
#[derive(Clone)]
pub struct TunPort(Rc<Shared>);

struct Shared {
    sink: Rc<dyn PacketSink>,
    refused: Cell<u64>,
    waiting: Rc<Waiting>,
    /// Datagrams of a turn.
    gathered: RefCell<Gathered>,
    /// Whether there are taps: all that a packet looks at where there are none.
    is_tapped: Cell<bool>,
    taps: RefCell<Vec<Rc<Tap>>>,
}

/// Datagrams of one flow that are not sent yet, one behind the other; the buffers serve every turn.
#[derive(Default)]
struct Gathered {
    /// There is a turn, and the device takes several at once.
    is_on: bool,
    flow: Option<(SocketAddr, SocketAddr)>,
    data: Vec<u8>,
    lengths: Vec<usize>,
}

impl Gathered {
    fn has_room(&self, length: usize) -> bool {
        self.lengths.len() < virtio::DATAGRAMS_MAX && self.data.len() + length <= virtio::DATA_MAX
    }

    fn clear(&mut self) {
        self.flow = None;
        self.data.clear();
        self.lengths.clear();
    }
}

impl TunPort {
    /// A port over a device.
    #[must_use]
    pub fn new(sink: Rc<dyn PacketSink>) -> Self {
        let (gathered, waiting, taps) = Default::default();
        let (refused, is_tapped) = (Cell::new(0), Cell::new(false));
        Self(Rc::new(Shared { sink, refused, waiting, gathered, is_tapped, taps }))
    }

    /// Puts a tap on the interface, and returns it.
    pub fn put_tap(&self, tap: Tap) -> Rc<Tap> {
        let tap = Rc::new(tap);
        self.0.taps.borrow_mut().push(Rc::clone(&tap));
        self.0.is_tapped.set(true);
        tap
    }

    /// The tap of a capture.
    #[must_use]
    pub fn tap(&self, capture: u64) -> Option<Rc<Tap>> {
        self.0.taps.borrow().iter().find(|tap| tap.capture() == capture).cloned()
    }

    /// Takes the tap of a capture away.
    pub fn remove_tap(&self, capture: u64) {
        let mut taps = self.0.taps.borrow_mut();
        taps.retain(|tap| tap.capture() != capture);
        self.0.is_tapped.set(!taps.is_empty());
    }

    /// A packet came from the workload.
    pub fn came(&self, packet: &[u8]) {
        if self.0.is_tapped.get() {
            self.show_taps(false, &[IoSlice::new(packet)]);
        }
    }

    #[cold]
    fn show_taps(&self, toward: bool, parts: &[IoSlice<'_>]) {
        self.0.taps.borrow().iter().for_each(|tap| tap.see(toward, parts));
    }

    /// Takes a turn in which datagrams wait for others of their flow, until it ends: many queries are answered in one packet.
    pub fn gathering<R>(&self, turn: impl FnOnce() -> R) -> R {
        self.0.gathered.borrow_mut().is_on = self.0.sink.takes_several();
        let result = turn();
        let mut gathered = self.0.gathered.borrow_mut();
        gathered.is_on = false;
        self.send_gathered(&mut gathered);
        result
    }

    fn send_gathered(&self, gathered: &mut Gathered) {
        if let Some((source, destination)) = gathered.flow {
            let mut rest = &gathered.data[..];
            let datagrams = gathered.lengths.iter().map_while(|length| {
                let (first, others) = rest.split_at_checked(*length)?;
                rest = others;
                Some(first)
            });
            self.send_few_packets(source, destination, &datagrams.collect::<Vec<_>>());
        }
        gathered.clear();
    }

    /// Runs what the sessions of this interface share, acknowledgements that wait above all; never resolves.
    #[must_use]
    pub fn run(&self) -> Task {
        let waiting = Rc::clone(&self.0.waiting);
        Box::pin(async move { waiting.run().await })
    }

    pub(super) fn waiting(&self) -> &Waiting {
        &self.0.waiting
    }

    /// Sends a packet whose checksums are complete. A packet that the device refuses is counted: TCP sends it again,
    /// and a datagram may be lost anyway.
    pub fn send(&self, packet: &[u8]) {
        self.write(&[0; VNET_HEADER], packet);
    }

    /// Packets that the device refused since the last call, each datagram for itself.
    pub fn take_refused(&self) -> u64 {
        self.0.refused.take()
    }

    /// Sends a datagram of at most 65 507 bytes of data, in a turn that is [gathering](Self::gathering) with others of its flow;
    /// one that the device refuses is counted.
    pub fn send_datagram(&self, source: SocketAddr, destination: SocketAddr, data: &[u8]) {
        let mut gathered = self.0.gathered.borrow_mut();
        if !gathered.is_on {
            return self.send_alone(source, destination, data);
        }
        if gathered.flow != Some((source, destination)) || !gathered.has_room(data.len()) {
            self.send_gathered(&mut gathered);
            gathered.flow = Some((source, destination));
        }
        gathered.data.extend_from_slice(data);
        gathered.lengths.push(data.len());
    }

    fn send_alone(&self, source: SocketAddr, destination: SocketAddr, data: &[u8]) {
        let head = DatagramHead::new(source, destination, data.len());
        // 20 or 40 bytes.
        let header = needs_checksum(u16::try_from(head.ip_length()).unwrap_or(0), UDP_CHECKSUM);
        self.write_parts(&[IoSlice::new(&header), IoSlice::new(head.bytes()), IoSlice::new(data)]);
    }

    /// The same of several, in order and behind what a turn has gathered: as few packets as the device takes them in.
    pub fn send_datagrams(&self, source: SocketAddr, destination: SocketAddr, datagrams: &[impl AsRef<[u8]>]) {
        self.send_gathered(&mut self.0.gathered.borrow_mut());
        self.send_few_packets(source, destination, datagrams);
    }

    fn send_few_packets(&self, source: SocketAddr, destination: SocketAddr, datagrams: &[impl AsRef<[u8]>]) {
        let several = self.0.sink.takes_several();
        let mut rest = datagrams;
        while !rest.is_empty() {
            let (first, others) = rest.split_at(if several { virtio::together(rest) } else { 1 });
            match first {
                [one] => self.send_alone(source, destination, one.as_ref()),
                together => self.send_together(source, destination, together),
            }
            rest = others;
        }
    }

    fn send_together(&self, source: SocketAddr, destination: SocketAddr, datagrams: &[impl AsRef<[u8]>]) {
        let length = |data: &_| AsRef::<[u8]>::as_ref(data).len();
        let head = DatagramHead::new(source, destination, datagrams.iter().map(length).sum());
        // 20 or 40 bytes, and less than 65 507.
        let [ip, each] = [head.ip_length(), length(&datagrams[0])].map(|length| u16::try_from(length).unwrap_or(0));
        let header = virtio::several_datagrams(ip, each);
        let mut parts = Vec::with_capacity(2 + datagrams.len());
        parts.extend([IoSlice::new(&header), IoSlice::new(head.bytes())]);
        parts.extend(datagrams.iter().map(|data| IoSlice::new(data.as_ref())));
        self.write_several(&parts, datagrams.len() as u64);
    }

    fn write(&self, header: &[u8; VNET_HEADER], packet: &[u8]) {
        self.write_parts(&[IoSlice::new(header), IoSlice::new(packet)]);
    }

    /// Sends one packet in parts, the virtio header first; one that the device refuses is counted.
    pub(super) fn write_parts(&self, parts: &[IoSlice<'_>]) {
        self.write_several(parts, 1);
    }

    /// The same of a packet that holds so many.
    fn write_several(&self, parts: &[IoSlice<'_>], packets: u64) {
        if self.0.sink.send(parts).is_err() {
            self.0.refused.set(self.0.refused.get() + packets);
        } else if self.0.is_tapped.get() {
            // The virtio header is the device's, not the workload's.
            self.show_taps(true, parts.get(1..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the data of each packet, or refuses all.
    #[derive(Default)]
    struct Device {
        kept: RefCell<Vec<Vec<u8>>>,
        is_gone: Cell<bool>,
    }

    impl PacketSink for Device {
        fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
            if self.is_gone.get() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            self.kept.borrow_mut().push(parts[2..].iter().flat_map(|part| part.iter().copied()).collect());
            Ok(())
        }

        fn takes_several(&self) -> bool {
            true
        }
    }

    #[test]
    fn datagrams_stay_in_order_whether_they_are_gathered_or_come_together() {
        let device = Rc::new(Device::default());
        let port = TunPort::new(Rc::clone(&device) as _);
        let [from, to] = ["198.18.0.1:53", "198.19.0.9:40000"].map(|address| address.parse().unwrap());
        let send = || {
            port.send_datagram(from, to, &[1]);
            port.send_datagram(from, to, &[2]);
            port.send_datagrams(from, to, &[[3], [4]]);
            port.send_datagram(from, to, &[5]);
        };
        port.gathering(send);
        assert_eq!(device.kept.take(), [vec![1, 2], vec![3, 4], vec![5]]);
        device.is_gone.set(true);
        port.gathering(send);
        assert_eq!((port.take_refused(), port.take_refused()), (5, 0), "each is lost");
    }
}
