//! What one host has captured since it was asked last, as agents tell each other.
//!
//! ```text
//! part:   u8 form = 1 | u8 over | u16 sources | source… | packet…, to the end
//! source: u8 length, workload | u64 packets that were wanted so far
//! packet: u16 source | u64 nanoseconds since 1970 | u8 toward the workload | u32 whole length | u32 length, bytes
//! ```
//! Numbers are big-endian. The sources are told again with each part: what was wanted and is in none has not fitted, or was lost.

use crate::stack::Copied;
use ripstop_config::WorkloadId;

/// Largest part, in bytes.
pub const PART_MAX: usize = 1 << 20;
const FORM: u8 = 1;
/// Bytes before those of a packet.
const PACKET_HEAD: usize = 2 + 8 + 1 + 4 + 4;

/// What one host has captured since it was asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// There will be no more.
    pub over: bool,
    /// Whose packets are seen, and how many were wanted so far.
    pub sources: Vec<(WorkloadId, u64)>,
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
    /// As bytes. Packets that would make it larger than [`PART_MAX`] are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORM, u8::from(self.over)];
        out.extend_from_slice(&u16::try_from(self.sources.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (workload, wanted) in self.sources.iter().take(usize::from(u16::MAX)) {
            let name = workload.to_string();
            // A name is shorter than what 8 bits count: names are of DNS.
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
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

    /// Reads what another host has sent.
    ///
    /// # Errors
    /// [`PartError`]: nothing of it is taken.
    pub fn decode(bytes: &[u8]) -> Result<Self, PartError> {
        let mut rest = bytes;
        let [form, over] = array(&mut rest)?;
        if form != FORM {
            return Err(PartError::Form);
        }
        let count = u16::from_be_bytes(array(&mut rest)?);
        let mut part = Self { over: over != 0, ..Self::default() };
        for _ in 0..count {
            part.sources.push(source(&mut rest)?);
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

fn source(rest: &mut &[u8]) -> Result<(WorkloadId, u64), PartError> {
    let [length] = array(rest)?;
    let name = std::str::from_utf8(take(rest, usize::from(length))?).map_err(|_| PartError::Malformed)?;
    // A name, and not any text: it is shown.
    let workload: WorkloadId = name.parse().map_err(|_| PartError::Malformed)?;
    Ok((workload, u64::from_be_bytes(array(rest)?)))
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

    pub(in crate::capture) fn source(workload: &str) -> (WorkloadId, u64) {
        (workload.parse().unwrap(), 7)
    }

    pub(in crate::capture) fn copied(source: u16, at: u64, bytes: &[u8]) -> Copied {
        let length = u32::try_from(bytes.len()).unwrap();
        Copied { source, at, toward: at.is_multiple_of(2), length, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_part_is_read_as_it_was_written_and_nothing_else_is() {
        let packets = vec![copied(1, 7, b"one"), copied(0, u64::MAX, b"")];
        let part = Part { over: true, sources: vec![source("shop/web"), source("shop/eu/api")], packets };
        let bytes = part.encode();
        assert_eq!(Part::decode(&bytes).unwrap(), part);
        assert_eq!(Part::decode(&Part::default().encode()).unwrap(), Part::default());
        let head = 4 + 1 + 8 + 8 + 1 + 11 + 8;
        let whole = [head, head + PACKET_HEAD + 3];
        for cut in (0..bytes.len()).filter(|cut| !whole.contains(cut)) {
            assert_eq!(Part::decode(&bytes[..cut]), Err(PartError::Malformed), "{cut}");
        }
        assert_eq!(Part::decode(&[2, 0]), Err(PartError::Form));
        let other: Vec<_> = bytes.iter().map(|byte| if *byte == b'w' { b'<' } else { *byte }).collect();
        assert_eq!(Part::decode(&other), Err(PartError::Malformed), "a name is a name");
        let nobody = Part { packets: vec![copied(0, 1, b"x")], ..Part::default() };
        assert_eq!(Part::decode(&nobody.encode()), Err(PartError::Malformed));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let packets = vec![copied(0, 1, &vec![0; PART_MAX]), copied(0, 2, b"fits")];
        let part = Part { over: false, sources: vec![source("shop/web")], packets };
        let bytes = part.encode();
        let read = Part::decode(&bytes).unwrap();
        assert_eq!((read.sources[0].1, read.packets.len()), (7, 1));
        assert!(bytes.len() <= PART_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Part::decode(&bytes);
            if let Some(form) = bytes.first_mut() {
                *form = FORM;
                let _ = Part::decode(&bytes);
            }
        }
    }
}
