//! What one host has captured since it was asked last, as agents tell each other.
//!
//! ```text
//! part:   u8 form = 1 or 2 | u8 over | u16 sources | source… | packet…, to the end
//! source: u8 length, workload | in form 2: u8 length, replica, of no length where there is none | u64 packets that were wanted so far
//! packet: u16 source | u64 nanoseconds since 1970 | u8 toward the workload | u32 whole length | u32 length, bytes
//! ```
//! Numbers are big-endian. The sources are told again with each part: what was wanted and is in none has not fitted, or was lost.
//! Form 1 is for those who do not ask for form 2 ([`Take::by_replica`](super::Take)): who reads it takes all of a workload's sources for
//! one, and so each of them has the sum of what was wanted.

use crate::stack::Copied;
use ripstop_config::{InterfaceId, Replica, WorkloadId};

/// Largest part, in bytes.
pub const PART_MAX: usize = 1 << 20;
/// Sources are workloads, or interfaces.
const OF_WORKLOADS: u8 = 1;
const OF_INTERFACES: u8 = 2;
/// Bytes before those of a packet.
const PACKET_HEAD: usize = 2 + 8 + 1 + 4 + 4;

/// What one host has captured since it was asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// There will be no more.
    pub over: bool,
    /// By which interfaces packets are seen, and how many were wanted so far.
    pub sources: Vec<(InterfaceId, u64)>,
    /// The packets, by the numbers of their sources; hardly ever not in the order in which they passed.
    pub packets: Vec<Copied>,
}

/// Why bytes are no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Another version's.
    #[error("what was captured there has a form that this version of ripstop does not know")]
    Form,
    /// Damaged.
    #[error("what was captured there is malformed")]
    Malformed,
}

impl Part {
    /// As bytes, with replicas told apart or not. Packets that would make it larger than [`PART_MAX`] are left out.
    #[must_use]
    pub fn encode(&self, by_replica: bool) -> Vec<u8> {
        let mut out = vec![if by_replica { OF_INTERFACES } else { OF_WORKLOADS }, u8::from(self.over)];
        out.extend_from_slice(&u16::try_from(self.sources.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (interface, wanted) in self.sources.iter().take(usize::from(u16::MAX)) {
            name(&mut out, &interface.workload.to_string());
            if by_replica {
                name(&mut out, interface.replica.as_ref().map_or("", Replica::as_str));
            }
            let wanted = if by_replica { *wanted } else { self.wanted_of(&interface.workload) };
            out.extend_from_slice(&wanted.to_be_bytes());
        }
        for packet in &self.packets {
            let Ok(length) = u32::try_from(packet.bytes.len()) else { continue };
            if out.len() + PACKET_HEAD + packet.bytes.len() > PART_MAX {
                continue;
            }
            out.extend_from_slice(&packet.source.to_be_bytes());
            out.extend_from_slice(&packet.at.to_be_bytes());
            out.push(u8::from(packet.toward));
            out.extend_from_slice(&packet.length.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&packet.bytes);
        }
        out
    }

    /// Packets of all of a workload's interfaces that were wanted.
    fn wanted_of(&self, workload: &WorkloadId) -> u64 {
        let of_it = self.sources.iter().filter(|(interface, _)| interface.workload == *workload);
        of_it.fold(0, |sum, (_, wanted)| sum.saturating_add(*wanted))
    }

    /// Reads what another host has sent.
    ///
    /// # Errors
    /// [`PartError`]: nothing of it is taken.
    pub fn decode(bytes: &[u8]) -> Result<Self, PartError> {
        let mut rest = bytes;
        let [form, over] = array(&mut rest)?;
        if ![OF_WORKLOADS, OF_INTERFACES].contains(&form) {
            return Err(PartError::Form);
        }
        let count = u16::from_be_bytes(array(&mut rest)?);
        let mut part = Self { over: over != 0, ..Self::default() };
        for _ in 0..count {
            part.sources.push(source(&mut rest, form == OF_INTERFACES)?);
        }
        while !rest.is_empty() {
            let packet = packet(&mut rest)?;
            if usize::from(packet.source) >= part.sources.len() {
                return Err(PartError::Malformed);
            }
            part.packets.push(packet);
        }
        Ok(part)
    }
}

/// Names and ids are shorter than what 8 bits count; of a longer one nothing could be read.
fn name(out: &mut Vec<u8>, name: &str) {
    let length = u8::try_from(name.len()).unwrap_or_default();
    out.push(length);
    out.extend_from_slice(&name.as_bytes()[..usize::from(length)]);
}

fn source(rest: &mut &[u8], with_replica: bool) -> Result<(InterfaceId, u64), PartError> {
    // A name, and not any text: it is shown.
    let workload = text(rest)?.parse().map_err(|_| PartError::Malformed)?;
    let id = if with_replica { text(rest)? } else { "" };
    let replica = (!id.is_empty()).then(|| Replica::try_from(id.to_owned())).transpose();
    let replica = replica.map_err(|_| PartError::Malformed)?;
    Ok((InterfaceId { workload, replica }, u64::from_be_bytes(array(rest)?)))
}

fn text<'r>(rest: &mut &'r [u8]) -> Result<&'r str, PartError> {
    let [length] = array(rest)?;
    std::str::from_utf8(take(rest, usize::from(length))?).map_err(|_| PartError::Malformed)
}

fn packet(rest: &mut &[u8]) -> Result<Copied, PartError> {
    let source = u16::from_be_bytes(array(rest)?);
    let at = u64::from_be_bytes(array(rest)?);
    let [toward] = array(rest)?;
    let [whole, length] = [array(rest)?, array(rest)?].map(u32::from_be_bytes);
    let bytes = take(rest, usize::try_from(length).map_err(|_| PartError::Malformed)?)?.to_vec();
    Ok(Copied { source, at, toward: toward != 0, length: whole.max(length), bytes })
}

fn take<'r>(rest: &mut &'r [u8], length: usize) -> Result<&'r [u8], PartError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(PartError::Malformed)?;
    *rest = left;
    Ok(taken)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PartError> {
    take(rest, N)?.try_into().map_err(|_| PartError::Malformed)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of `shop/web`, or of a replica of it: `shop/web one`.
    pub(in crate::capture) fn source(interface: &str) -> (InterfaceId, u64) {
        let (workload, replica) = interface.split_once(' ').unwrap_or((interface, ""));
        let replica = Replica::try_from(replica.to_owned()).ok();
        (InterfaceId { workload: workload.parse().unwrap(), replica }, 7)
    }

    pub(in crate::capture) fn copied(source: u16, at: u64, bytes: &[u8]) -> Copied {
        let length = u32::try_from(bytes.len()).unwrap();
        Copied { source, at, toward: at.is_multiple_of(2), length, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_part_is_read_as_it_was_written_and_nothing_else_is() {
        let packets = vec![copied(1, 7, b"one"), copied(0, u64::MAX, b"")];
        let part = Part { over: true, sources: vec![source("shop/web"), source("shop/eu/api")], packets };
        let bytes = part.encode(false);
        assert_eq!(Part::decode(&bytes).unwrap(), part);
        assert_eq!(Part::decode(&part.encode(true)).unwrap(), part, "in either form");
        assert_eq!(Part::decode(&Part::default().encode(true)).unwrap(), Part::default());
        let head = 4 + 1 + 8 + 8 + 1 + 11 + 8;
        let whole = [head, head + PACKET_HEAD + 3];
        for cut in (0..bytes.len()).filter(|cut| !whole.contains(cut)) {
            assert_eq!(Part::decode(&bytes[..cut]), Err(PartError::Malformed), "{cut}");
        }
        assert_eq!(Part::decode(&[3, 0]), Err(PartError::Form));
        let other: Vec<_> = bytes.iter().map(|byte| if *byte == b'w' { b'<' } else { *byte }).collect();
        assert_eq!(Part::decode(&other), Err(PartError::Malformed), "a name is a name");
        let nobody = Part { packets: vec![copied(0, 1, b"x")], ..Part::default() };
        assert_eq!(Part::decode(&nobody.encode(true)), Err(PartError::Malformed));
    }

    #[test]
    fn replicas_are_told_apart_to_who_asks_for_that() {
        let sources = vec![source("shop/web one"), source("shop/api"), source("shop/web two")];
        let part = Part { over: false, sources, packets: vec![copied(2, 7, b"of two")] };
        let bytes = part.encode(true);
        assert_eq!(Part::decode(&bytes).unwrap(), part);
        let shown: Vec<_> = bytes.iter().map(|byte| if *byte == b'w' { 0x1b } else { *byte }).collect();
        assert_eq!(Part::decode(&shown), Err(PartError::Malformed), "an id can be shown");
        // As versions before this one read it, which know sources by their workloads.
        let of_workloads = Part::decode(&part.encode(false)).unwrap();
        let told: Vec<_> = of_workloads.sources.iter().map(|(id, wanted)| (id.to_string(), *wanted)).collect();
        assert_eq!(told, [("shop/web".into(), 14), ("shop/api".into(), 7), ("shop/web".into(), 14)]);
        assert_eq!(of_workloads.packets, part.packets);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let packets = vec![copied(0, 1, &vec![0; PART_MAX]), copied(0, 2, b"fits")];
        let part = Part { over: false, sources: vec![source("shop/web")], packets };
        let bytes = part.encode(true);
        let read = Part::decode(&bytes).unwrap();
        assert_eq!((read.sources[0].1, read.packets.len()), (7, 1));
        assert!(bytes.len() <= PART_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            known in prop::sample::select(vec![OF_WORKLOADS, OF_INTERFACES]),
        ) {
            let _ = Part::decode(&bytes);
            if let Some(form) = bytes.first_mut() {
                *form = known;
                let _ = Part::decode(&bytes);
            }
        }
    }
}
