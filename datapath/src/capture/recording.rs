//! One file of what several hosts have captured.
//!
//! 1. [`Recording::add`] what each host has, one after the other; then [`Recording::settle`], and so on.
//! 2. Packets are written in the order of their times as far as the hosts' clocks agree: each waits for one more round, for those of
//!    other hosts from before it.
//! 3. [`Recording::finish`] writes what waits, and what became of the packets of each interface.

use super::{
    Part,
    pcapng::{self, Packet, Statistics},
};
use crate::stack::Copied;
use ripstop_config::{HostName, InterfaceId, Replica, WorkloadId};
use serde::Serialize;
use std::io::{self, Write};

/// Interfaces of a file: more than the workloads of a few hosts have. Hosts say by which they see packets, and one could say ever more.
const INTERFACES_MAX: usize = 4_096;

/// A file that is being written.
pub struct Recording<W> {
    out: W,
    interfaces: Vec<Interface>,
    /// Packets with the numbers of their interfaces.
    waiting: Vec<(usize, Copied)>,
    /// The newest time of the round before: what is older has waited long enough.
    settled: u64,
    /// Bytes of packets that may still be written.
    left: u64,
    full: bool,
}

/// An interface on one host.
struct Interface {
    host: HostName,
    id: InterfaceId,
    /// Packets that the host wanted to be here, and those that are.
    wanted: u64,
    written: u64,
    bytes: u64,
    /// Times of the first and the last packet.
    between: Option<(u64, u64)>,
}

/// What became of the packets of an interface on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Total {
    /// The host.
    pub host: HostName,
    /// Whose interface.
    pub workload: WorkloadId,
    /// Of several whose replica's, by its runtime's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
    /// Packets in the file.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that are not: they did not fit a bound, or were lost.
    pub missed: u64,
}

impl<W: Write> Recording<W> {
    /// Begins a file with at most so many bytes of packets; `comment` is for who opens it.
    ///
    /// # Errors
    /// When it cannot be written; so with the others.
    pub fn begin(mut out: W, bytes: u64, comment: &str) -> io::Result<Self> {
        pcapng::section(&mut out, comment)?;
        out.flush()?;
        Ok(Self { out, interfaces: Vec::new(), waiting: Vec::new(), settled: 0, left: bytes, full: false })
    }

    /// An interface from which packets may come, for who opens the file before there are any.
    ///
    /// # Errors
    /// As above.
    pub fn expect(&mut self, host: &HostName, id: &InterfaceId) -> io::Result<()> {
        self.interface(host, id).map(drop)
    }

    /// Takes what a host has captured since it was asked last.
    ///
    /// # Errors
    /// As above.
    pub fn add(&mut self, host: &HostName, part: Part) -> io::Result<()> {
        let mut numbers = Vec::new();
        for (id, wanted) in part.sources.into_iter().take(INTERFACES_MAX) {
            let at = self.interface(host, &id)?;
            if let Some(interface) = at.and_then(|at| self.interfaces.get_mut(at)) {
                // It only grows, whatever a host says.
                interface.wanted = interface.wanted.max(wanted);
            }
            numbers.push(at);
        }
        for packet in part.packets {
            // A part has no packets of others, or it is none.
            if let Some(at) = numbers.get(usize::from(packet.source)).copied().flatten() {
                self.waiting.push((at, packet));
            }
        }
        Ok(())
    }

    /// A round is over: what is older than the newest of the round before is written.
    ///
    /// # Errors
    /// As above.
    pub fn settle(&mut self) -> io::Result<()> {
        self.waiting.sort_by_key(|(_, packet)| packet.at);
        let settled = self.settled;
        self.settled = self.waiting.last().map_or(settled, |(_, packet)| packet.at);
        let older = self.waiting.partition_point(|(_, packet)| packet.at <= settled);
        self.write(older)?;
        self.out.flush()
    }

    /// Whether the next packet did not fit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Writes all that waits, and what became of the packets of each interface, which it returns.
    ///
    /// # Errors
    /// As above.
    pub fn finish(mut self) -> io::Result<Vec<Total>> {
        self.waiting.sort_by_key(|(_, packet)| packet.at);
        self.write(self.waiting.len())?;
        for (number, interface) in (0..).zip(&self.interfaces) {
            let between = interface.between.unwrap_or_default();
            let (received, delivered) = (interface.wanted.max(interface.written), interface.written);
            let statistics = Statistics { interface: number, between, received, delivered };
            pcapng::statistics(&mut self.out, &statistics)?;
        }
        self.out.flush()?;
        Ok(self.interfaces.into_iter().map(Total::from).collect())
    }

    fn write(&mut self, count: usize) -> io::Result<()> {
        for (at, packet) in self.waiting.drain(..count) {
            let interface = &mut self.interfaces[at];
            let size = packet.bytes.len() as u64;
            self.full |= size > self.left;
            if self.full {
                continue;
            }
            self.left -= size;
            interface.written += 1;
            interface.bytes += size;
            let (first, last) = interface.between.unwrap_or((packet.at, packet.at));
            interface.between = Some((first.min(packet.at), last.max(packet.at)));
            let packet = Packet {
                interface: u32::try_from(at).unwrap_or(u32::MAX),
                at: packet.at,
                inbound: packet.toward,
                length: packet.length,
                bytes: &packet.bytes,
            };
            pcapng::packet(&mut self.out, &packet)?;
        }
        Ok(())
    }

    /// The number of an interface in the file; none where it would be one too many.
    fn interface(&mut self, host: &HostName, id: &InterfaceId) -> io::Result<Option<usize>> {
        let known = self.interfaces.iter().position(|one| one.host == *host && one.id == *id);
        if known.is_some() || self.interfaces.len() >= INTERFACES_MAX {
            return Ok(known);
        }
        let description = format!("as {id} sees it on {host}, by the clock of {host}");
        pcapng::interface(&mut self.out, &format!("{host} {id}"), &description)?;
        let (host, id, between) = (host.clone(), id.clone(), None);
        self.interfaces.push(Interface { host, id, wanted: 0, written: 0, bytes: 0, between });
        Ok(Some(self.interfaces.len() - 1))
    }
}

impl From<Interface> for Total {
    fn from(of: Interface) -> Self {
        let Interface { host, id, wanted, written, bytes, .. } = of;
        let InterfaceId { workload, replica } = id;
        Self { host, workload, replica, packets: written, bytes, missed: wanted.saturating_sub(written) }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            part::tests::{copied, source},
            pcapng::tests::{KINDS, blocks},
        },
        *,
    };

    fn part(packets: Vec<Copied>) -> Part {
        Part { over: false, sources: vec![source("shop/web")], packets }
    }

    fn hosts() -> [HostName; 2] {
        ["alpha", "beta"].map(|host| host.parse().unwrap())
    }

    #[test]
    fn packets_of_all_hosts_are_in_one_file_by_their_times() {
        let [alpha, beta] = hosts();
        let mut file = Vec::new();
        let mut recording = Recording::begin(&mut file, 1_000, "calls to shop/api").unwrap();
        recording.expect(&alpha, &source("shop/web").0).unwrap();
        recording.add(&alpha, part(vec![copied(0, 9, b"late!"), copied(0, 2, b"first")])).unwrap();
        recording.settle().unwrap();
        recording.add(&beta, part(vec![copied(0, 3, b"soon")])).unwrap();
        recording.settle().unwrap();
        let totals = recording.finish().unwrap();
        let told: Vec<_> = totals.iter().map(|total| (total.host.as_str(), total.packets, total.bytes)).collect();
        assert_eq!(told, [("alpha", 2, 10), ("beta", 1, 4)]);
        let [section, interface, packet, statistics] = KINDS;
        let kinds: Vec<_> = blocks(&file).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [&[section, interface, interface][..], &[packet; 3], &[statistics; 2]].concat());
        let at = |text: &[u8]| file.windows(text.len()).position(|part| part == text).unwrap();
        assert!(at(b"alpha shop/web") < at(b"beta shop/web"));
        assert!(at(b"first") < at(b"soon") && at(b"soon") < at(b"late!"));
        // isb_ifrecv, isb_ifdrop and isb_usrdeliv: what the hosts counted, and what of it is here.
        let counted = blocks(&file).into_iter().filter(|(kind, _)| *kind == statistics);
        let counted: Vec<_> = counted.map(|(_, body)| (body[40], body[52], body[64])).collect();
        assert_eq!(counted, [(7, 5, 2), (7, 6, 1)]);
    }

    #[test]
    fn each_replica_has_an_interface_of_its_own() {
        let [alpha, _] = hosts();
        let mut file = Vec::new();
        let mut recording = Recording::begin(&mut file, 1_000, "").unwrap();
        recording.expect(&alpha, &source("shop/web one").0).unwrap();
        let sources = vec![source("shop/web two"), source("shop/web one")];
        let packets = vec![copied(0, 1, b"to two"), copied(1, 2, b"to one"), copied(0, 3, b"to two")];
        recording.add(&alpha, Part { over: false, sources, packets }).unwrap();
        let told: Vec<_> =
            recording.finish().unwrap().into_iter().map(|total| (total.replica.unwrap(), total.packets)).collect();
        assert_eq!(told, [(Replica::new("one"), 1), (Replica::new("two"), 2)]);
        for name in ["alpha shop/web (one)", "alpha shop/web (two)"] {
            assert!(file.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_host_that_names_ever_more_interfaces_gets_no_more_than_others() {
        let [alpha, _] = hosts();
        let mut recording = Recording::begin(Vec::new(), 1 << 20, "").unwrap();
        for round in 0..3 {
            let sources = (0..2_000).map(|number| source(&format!("shop/web r{round}-{number}"))).collect();
            recording.add(&alpha, Part { over: false, sources, packets: vec![copied(1_999, 1, b"x")] }).unwrap();
        }
        let totals = recording.finish().unwrap();
        assert_eq!(totals.len(), INTERFACES_MAX);
        assert_eq!(totals.iter().map(|total| total.packets).sum::<u64>(), 2, "those that have an interface");
    }

    #[test]
    fn a_clock_that_is_ahead_keeps_nothing_back_for_long() {
        let [alpha, beta] = hosts();
        let mut recording = Recording::begin(Vec::new(), 1_000, "").unwrap();
        recording.add(&alpha, part(vec![copied(0, 1_000_000, b"ahead")])).unwrap();
        recording.settle().unwrap();
        recording.add(&beta, part(vec![copied(0, 5, b"behind")])).unwrap();
        recording.settle().unwrap();
        assert!(recording.waiting.is_empty());
    }

    #[test]
    fn the_bound_is_kept_and_what_is_beyond_is_counted() {
        let [alpha, _] = hosts();
        let mut file = Vec::new();
        let mut recording = Recording::begin(&mut file, 8, "").unwrap();
        recording.add(&alpha, part((0..3).map(|at| copied(0, at, b"12345")).collect())).unwrap();
        recording.settle().unwrap();
        recording.settle().unwrap();
        assert!(recording.is_full());
        let [total] = recording.finish().unwrap().try_into().unwrap();
        assert_eq!((total.packets, total.bytes, total.missed), (1, 5, 6));
    }
}
