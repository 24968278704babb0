//! The form of the file: pcapng (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump read. What is written of it is so little that
//! it is written here.

use std::io::{self, Write};

/// Block types (sections 4.1, 4.2, 4.3 and 4.6).
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const STATISTICS: u32 = 5;
/// By which a reader knows the order of bytes: little-endian here.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// IP packets of either version behind a header that says which, and which way they go (LINKTYPE_LINUX_SLL): bare ones
/// (LINKTYPE_RAW) libpcap 1.10 takes from one interface alone.
const COOKED: u16 = 113;
/// That header's length, its kind of device, and its directions: to this host, and from it.
const COOKED_HEAD: u32 = 16;
const NO_LINK_LAYER: u16 = 0xfffe;
const TO_US: u16 = 0;
const FROM_US: u16 = 4;
/// EtherTypes.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Options of any block (section 3.5).
const COMMENT: u16 = 1;
/// `shb_userappl` (section 4.1).
const APPLICATION: u16 = 4;
/// `if_name`, `if_description` and `if_tsresol` (section 4.2).
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const RESOLUTION: u16 = 9;
/// Ten to the power of minus this many seconds: nanoseconds.
const NANOSECONDS: u8 = 9;
/// `epb_flags` (section 4.3), and the directions in them, as the workload sees them.
const FLAGS: u16 = 2;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// `isb_starttime`, `isb_endtime`, `isb_ifrecv`, `isb_ifdrop` and `isb_usrdeliv` (section 4.6).
const START: u16 = 2;
const END: u16 = 3;
const RECEIVED: u16 = 4;
const DROPPED: u16 = 5;
const DELIVERED: u16 = 8;

/// One packet.
pub(super) struct Packet<'p> {
    /// The number of its interface: they are numbered as they are written, from 0.
    pub(super) interface: u32,
    /// Nanoseconds since 1970.
    pub(super) at: u64,
    /// To the workload.
    pub(super) inbound: bool,
    /// Its length, of which `bytes` may be a part.
    pub(super) length: u32,
    pub(super) bytes: &'p [u8],
}

/// What became of the packets of an interface.
pub(super) struct Statistics {
    pub(super) interface: u32,
    /// First and last moment, in nanoseconds since 1970.
    pub(super) between: (u64, u64),
    /// How many there were, and how many are in the file.
    pub(super) received: u64,
    pub(super) delivered: u64,
}

/// Writes the head of a file.
pub(super) fn section(out: &mut impl Write, comment: &str) -> io::Result<()> {
    let application = concat!("ripstop ", env!("CARGO_PKG_VERSION"));
    let head = [&BYTE_ORDER.to_le_bytes()[..], &1_u16.to_le_bytes(), &0_u16.to_le_bytes(), &u64::MAX.to_le_bytes()];
    let options = options(&[(COMMENT, comment.as_bytes()), (APPLICATION, application.as_bytes())]);
    block(out, SECTION, &[&head.concat()[..], &options].concat())
}

/// Writes an interface.
pub(super) fn interface(out: &mut impl Write, name: &str, description: &str) -> io::Result<()> {
    // No limit of a packet's length.
    let head = [&COOKED.to_le_bytes()[..], &[0; 2], &0_u32.to_le_bytes()].concat();
    let options =
        options(&[(NAME, name.as_bytes()), (DESCRIPTION, description.as_bytes()), (RESOLUTION, &[NANOSECONDS])]);
    block(out, INTERFACE, &[head, options].concat())
}

/// Writes a packet.
pub(super) fn packet(out: &mut impl Write, packet: &Packet<'_>) -> io::Result<()> {
    let framed = [&cooked(packet)[..], packet.bytes].concat();
    let kept = u32::try_from(framed.len()).unwrap_or(u32::MAX);
    let [high, low] = words(packet.at);
    let mut body = numbers(&[packet.interface, high, low, kept, packet.length.saturating_add(COOKED_HEAD)]);
    padded(&mut body, &framed);
    let flags = if packet.inbound { INBOUND } else { OUTBOUND };
    body.extend(options(&[(FLAGS, &flags.to_le_bytes())]));
    block(out, ENHANCED_PACKET, &body)
}

/// Direction, kind of device, an address that is none, and the version of IP; numbers are big-endian here.
fn cooked(packet: &Packet<'_>) -> [u8; COOKED_HEAD as usize] {
    let mut head = [0; COOKED_HEAD as usize];
    let version = if packet.bytes.first().is_some_and(|first| first >> 4 == 6) { IPV6 } else { IPV4 };
    head[..2].copy_from_slice(&(if packet.inbound { TO_US } else { FROM_US }).to_be_bytes());
    head[2..4].copy_from_slice(&NO_LINK_LAYER.to_be_bytes());
    head[14..].copy_from_slice(&version.to_be_bytes());
    head
}

/// Writes what became of an interface's packets.
pub(super) fn statistics(out: &mut impl Write, of: &Statistics) -> io::Result<()> {
    let ([high, low], (start, end)) = (words(of.between.1), of.between);
    let mut body = numbers(&[of.interface, high, low]);
    let [start, end] = [start, end].map(|at| numbers(&words(at)));
    let [received, dropped, delivered] =
        [of.received, of.received.saturating_sub(of.delivered), of.delivered].map(u64::to_le_bytes);
    let counts = [(RECEIVED, &received[..]), (DROPPED, &dropped), (DELIVERED, &delivered)];
    body.extend(options(&[&[(START, &start[..]), (END, &end)][..], &counts].concat()));
    block(out, STATISTICS, &body)
}

/// A time's upper half comes first, whatever the order of bytes (section 4.3).
fn words(at: u64) -> [u32; 2] {
    [(at >> 32) as u32, at as u32]
}

fn numbers(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A block's type and total length, and the latter again behind its body.
fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let total = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    out.write_all(&[&kind.to_le_bytes()[..], &total, body, &total].concat())
}

/// Options (section 3.5), with the one that ends them.
fn options(all: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, value) in all {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&code.to_le_bytes());
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        padded(&mut out, value);
    }
    out.extend_from_slice(&[0; 4]);
    out
}

/// Bytes, up to a whole number of 32 bits.
fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
pub(super) mod tests {
    pub(in crate::capture) const KINDS: [u32; 4] =
        [super::SECTION, super::INTERFACE, super::ENHANCED_PACKET, super::STATISTICS];

    /// The type and the body of each block, whose length must agree at both its ends.
    pub(in crate::capture) fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
        let mut found = Vec::new();
        while let Some(head) = file.first_chunk::<8>() {
            let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
            let length = word(4) as usize;
            assert!(length.is_multiple_of(4) && file[length - 4..length] == head[4..8]);
            found.push((word(0), &file[8..length - 4]));
            file = &file[length..];
        }
        assert!(file.is_empty());
        found
    }
}
