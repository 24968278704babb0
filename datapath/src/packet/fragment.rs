//! Puts the two halves of an IPv6 packet together that is larger than an interface can hand over at once.
//!
//! An interface's MTU is 65 535 bytes, IPv6 header included, but that header does not count against the length of its packet
//! (RFC 8200 section 3): datagrams from 65 488 bytes on leave the workload's kernel as two fragments, one right behind the
//! other. Only that is taken; every other fragment hides its ports and is dropped.

use ripstop_config::Reason;

/// Halves that wait for their other one. The kernel sends both in one go, so that only as many wait as it has processors
/// that send at once; the oldest gives way.
const WAITING_MAX: usize = 4;
/// The longest UDP datagram that crosses the fabric, header included: 65 507 bytes of data, which is what IPv4 can carry.
const DATAGRAM_MAX: usize = 65_515;
/// IPv6 and fragment header (RFC 8200 section 4.5).
const HEADERS: usize = 48;

/// First halves of packets, up to [`WAITING_MAX`].
#[derive(Debug, Default)]
pub struct Halves(Vec<Vec<u8>>);

impl Halves {
    /// Takes a packet of an interface that [`super::parse`] called a fragment. `Some` is the whole packet, which is to be
    /// parsed; `None` means that the other half is waited for.
    ///
    /// # Errors
    /// [`Reason::Fragment`] for what is no half of a packet.
    pub fn join(&mut self, packet: &[u8]) -> Result<Option<Vec<u8>>, Reason> {
        let header = packet.first_chunk::<HEADERS>().ok_or(Reason::Fragment)?;
        let ends = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[0] >> 4 != 6 || header[6] != 44 || ends > packet.len() || ends <= HEADERS {
            return Err(Reason::Fragment);
        }
        let place = u16::from_be_bytes([header[42], header[43]]);
        let (offset, more) = (usize::from(place & 0xfff8), place & 1 == 1);
        let packet = &packet[..ends];
        match (offset, more) {
            (0, true) => {
                if self.0.len() == WAITING_MAX {
                    self.0.remove(0);
                }
                self.0.push(packet.to_vec());
                Ok(None)
            }
            (1.., false) => {
                let fits = |first: &Vec<u8>| is_half_of(first, packet, offset);
                let at = self.0.iter().position(fits).ok_or(Reason::Fragment)?;
                whole(&self.0.remove(at), packet).map(Some)
            }
            (0, false) | (1.., true) => Err(Reason::Fragment),
        }
    }
}

/// Same addresses, protocol and identification, and it starts where the first ends.
fn is_half_of(first: &[u8], second: &[u8], offset: usize) -> bool {
    first[8..41] == second[8..41] && first[44..HEADERS] == second[44..HEADERS] && first.len() == HEADERS + offset
}

fn whole(first: &[u8], second: &[u8]) -> Result<Vec<u8>, Reason> {
    let (data, rest) = (&first[HEADERS..], &second[HEADERS..]);
    let length = data.len() + rest.len();
    if length > DATAGRAM_MAX {
        return Err(Reason::Fragment);
    }
    let mut packet = Vec::with_capacity(40 + length);
    packet.extend_from_slice(&first[..40]);
    packet.extend_from_slice(data);
    packet.extend_from_slice(rest);
    // It fits: it was checked against less.
    packet[4..6].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    packet[6] = first[40];
    Ok(packet)
}
