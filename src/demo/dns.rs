//! A DNS question and its answer, as little of RFC 1035 as a client of the fabric needs: A records and the Extended DNS
//! Error (RFC 8914) that says why there are none.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

/// The longest wait for an answer; the resolver is on this machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer over UDP at most (RFC 6891 section 6.2.5: what is asked for below).
const ANSWER_SIZE: u16 = 1232;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_OPT: u16 = 41;
const OPTION_EXTENDED_ERROR: u16 = 15;

/// The answer code for a name that is not there (RFC 1035 section 4.1.1).
pub(super) const NXDOMAIN: u8 = 3;

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: u8,
    pub(super) addresses: Vec<Ipv4Addr>,
    /// Code and text of the Extended DNS Error.
    pub(super) why: Option<(u16, String)>,
}

/// Asks for a name's IPv4 addresses from the calling thread's namespace.
pub(super) fn ask(resolver: Ipv4Addr, name: &str) -> io::Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((resolver, 53))?;
    // One question is under way on this socket, and its port is random: the id need not be.
    let id = socket.local_addr()?.port();
    socket.send(&question(id, name)?)?;
    let mut bytes = [0; ANSWER_SIZE as usize];
    let length = socket.recv(&mut bytes)?;
    parse(&bytes[..length], id)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the resolver's answer is malformed"))
}

/// One address of a name.
pub(super) fn resolve(resolver: Ipv4Addr, name: &str) -> io::Result<Ipv4Addr> {
    let answer = ask(resolver, name)?;
    let none = || io::Error::new(ErrorKind::NotFound, format!("{name} has no address (answer code {})", answer.code));
    answer.addresses.first().copied().ok_or_else(none)
}

fn question(id: u16, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER + name.len() + 2 + 4 + 11);
    bytes.extend(id.to_be_bytes());
    // Recursion desired; one question, one additional record.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        bytes.push(length.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, format!("`{name}` is not a name")))?);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    // The OPT record: root, its type, the size we take, no extended code, version, flags or data.
    bytes.extend([0, 0, 41]);
    bytes.extend(ANSWER_SIZE.to_be_bytes());
    bytes.extend([0; 6]);
    Ok(bytes)
}

fn parse(bytes: &[u8], id: u16) -> Option<Answer> {
    if number(bytes, 0)? != id || bytes.get(2)? & 0x80 == 0 {
        return None;
    }
    let mut answer = Answer { code: bytes.get(3)? & 0x0f, addresses: Vec::new(), why: None };
    let mut at = HEADER;
    for _ in 0..number(bytes, 4)? {
        at = after_name(bytes, at)? + 4;
    }
    let records = u32::from(number(bytes, 6)?) + u32::from(number(bytes, 8)?) + u32::from(number(bytes, 10)?);
    for _ in 0..records {
        let fields = after_name(bytes, at)?;
        let length = usize::from(number(bytes, fields + 8)?);
        let data = bytes.get(fields + 10..fields + 10 + length)?;
        match number(bytes, fields)? {
            TYPE_A => answer.addresses.extend(<[u8; 4]>::try_from(data).map(Ipv4Addr::from)),
            TYPE_OPT => answer.why = extended_error(data),
            _other => {}
        }
        at = fields + 10 + length;
    }
    Some(answer)
}

fn extended_error(mut options: &[u8]) -> Option<(u16, String)> {
    loop {
        let length = usize::from(number(options, 2)?);
        let data = options.get(4..4 + length)?;
        if number(options, 0)? == OPTION_EXTENDED_ERROR {
            return Some((number(data, 0)?, String::from_utf8_lossy(&data[2..]).into_owned()));
        }
        options = &options[4 + length..];
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Where the fields after a name begin; a compressed name ends with its pointer (RFC 1035 section 4.1.4).
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_behind_a_compressed_name() {
        let mut bytes = question(7, "api.shop.ripstop.test").unwrap();
        bytes[2] = 0x81;
        bytes[7] = 1;
        let opt = bytes.split_off(bytes.len() - 11);
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 198, 18, 3, 4]);
        bytes.extend(opt);
        let answer = Answer { code: 0, addresses: vec![Ipv4Addr::new(198, 18, 3, 4)], why: None };
        assert_eq!(parse(&bytes, 7), Some(answer));
        assert_eq!(parse(&bytes, 8), None, "another question's answer");
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length], 7), None, "cut at {length}");
        }
    }

    #[test]
    fn the_reason_of_a_missing_name_is_read() {
        let mut bytes = question(7, "db.shop.ripstop.test").unwrap();
        bytes[2] = 0x81;
        bytes[3] = NXDOMAIN;
        let end = bytes.len();
        bytes[end - 1] = 4 + 2 + 4;
        bytes.extend([0, 15, 0, 6, 0, 18, b'n', b'o', b'p', b'e']);
        assert_eq!(parse(&bytes, 7).unwrap().why, Some((18, "nope".to_owned())));
    }

    #[test]
    fn what_is_not_a_name_is_not_asked() {
        for name in ["", "a..b", &"x".repeat(64)] {
            assert!(question(1, name).is_err(), "{name}");
        }
    }
}
