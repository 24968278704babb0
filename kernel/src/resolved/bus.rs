//! As much of D-Bus as it takes to call a service of the system's bus and to wait for its answer (D-Bus specification 0.38).
//! A library for all of it would be larger than the agent's own handling of packets.

use super::ResolvedError;
use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// Where the system's bus is (section "Well-known message bus instances").
const ADDRESS: &str = "/run/dbus/system_bus_socket";
/// Longest wait for what is said on it.
const WAIT: Duration = Duration::from_secs(2);
/// Longest line while rights are settled, in bytes (section "Authentication protocol").
const LINE_MAX: usize = 512;
/// Longest message that is read, in bytes: an answer without a result, or an error's text.
const MESSAGE_MAX: usize = 64 << 10;
/// Messages that are passed over for an answer: notices of the bus itself.
const OTHERS_MAX: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const VERSION: u8 = 1;
/// Kinds of messages, and of fields in their head (section "Header fields").
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Who is called.
pub(super) struct Target {
    pub(super) service: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

const BUS: Target =
    Target { service: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// What comes after the interface's number in a call.
pub(super) enum Argument<'a> {
    Text(&'a str),
    Flag(bool),
    /// Families and addresses.
    Addresses(&'a [(i32, &'a [u8])]),
    /// Names, and whether they are for routing alone.
    Domains(&'a [(&'a str, bool)]),
}

impl Argument<'_> {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Flag(_) => "b",
            Self::Addresses(_) => "a(iay)",
            Self::Domains(_) => "a(sb)",
        }
    }

    fn put(&self, to: &mut Body) {
        match self {
            Self::Text(text) => to.text(text),
            Self::Flag(flag) => to.number(u32::from(*flag)),
            Self::Addresses(addresses) => to.array(addresses.iter(), |to, (family, address)| {
                to.number(family.cast_unsigned());
                to.number(length(address.len()));
                to.0.extend(*address);
            }),
            Self::Domains(domains) => to.array(domains.iter(), |to, (name, only)| {
                to.text(name);
                to.number(u32::from(*only));
            }),
        }
    }
}

/// A connection to the system's bus.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    pub(super) fn connect() -> io::Result<Self> {
        let mut stream = UnixStream::connect(ADDRESS)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        let user = nix::unistd::geteuid().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let said = line(&mut stream)?;
        if !said.starts_with("OK ") {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "the bus does not let this process in"));
        }
        stream.write_all(b"BEGIN\r\n")?;
        let mut bus = Self { stream, serial: 0 };
        match bus.ask(&BUS, "Hello", "", &Body::default())? {
            Ok(()) => Ok(bus),
            Err(why) => Err(io::Error::other(why)),
        }
    }

    /// Calls, with the number of an interface first, and waits for the answer.
    pub(super) fn call(
        &mut self,
        target: &Target,
        member: &'static str,
        link: i32,
        arguments: &[Argument<'_>],
    ) -> Result<(), ResolvedError> {
        let mut body = Body::default();
        body.number(link.cast_unsigned());
        let mut signature = "i".to_owned();
        for argument in arguments {
            signature.push_str(argument.signature());
            argument.put(&mut body);
        }
        let answer = self.ask(target, member, &signature, &body)?;
        answer.map_err(|why| ResolvedError::Refused { call: member, why })
    }

    fn ask(&mut self, target: &Target, member: &str, signature: &str, body: &Body) -> io::Result<Result<(), String>> {
        self.serial += 1;
        self.stream.write_all(&message(self.serial, target, member, signature, body))?;
        for _ in 0..OTHERS_MAX {
            let answer = read(&mut self.stream)?;
            if answer.to == Some(self.serial) {
                return Ok(answer.outcome);
            }
        }
        Err(ErrorKind::InvalidData.into())
    }
}

/// Bytes as they are laid out in a message: each value begins at a multiple of its own size (section "Marshaling").
#[derive(Debug, Default)]
struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// Structures behind the number of their bytes, which does not count what is left free before the first one.
    fn array<T>(&mut self, items: impl Iterator<Item = T>, put: impl Fn(&mut Self, T)) {
        self.number(0);
        let counted = self.0.len();
        self.align(8);
        let start = self.0.len();
        for item in items {
            self.align(8);
            put(self, item);
        }
        let bytes = length(self.0.len() - start).to_le_bytes();
        self.0[counted - 4..counted].copy_from_slice(&bytes);
    }
}

/// What is said here is far shorter than any limit.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn message(serial: u32, target: &Target, member: &str, signature: &str, body: &Body) -> Vec<u8> {
    let mut head = Body(vec![LITTLE_ENDIAN, CALL, 0, VERSION]);
    head.number(length(body.0.len()));
    head.number(serial);
    let fields = [
        (PATH, "o", target.path),
        (INTERFACE, "s", target.interface),
        (MEMBER, "s", member),
        (DESTINATION, "s", target.service),
        (SIGNATURE, "g", signature),
    ];
    head.array(fields.into_iter(), |to, (field, kind, value)| {
        to.0.push(field);
        to.signature(kind);
        match kind {
            "g" => to.signature(value),
            _ => to.text(value),
        }
    });
    head.align(8);
    [head.0, body.0.clone()].concat()
}

fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    String::from_utf8(line).map_err(|_| ErrorKind::InvalidData.into())
}

/// What came: the message that it answers, and how.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    to: Option<u32>,
    outcome: Result<(), String>,
}

fn read(stream: &mut impl Read) -> io::Result<Answer> {
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed)?;
    let little = fixed[0] == LITTLE_ENDIAN;
    let mut cursor = Cursor { bytes: &fixed, at: 4, little };
    let mut next = || cursor.number().map(|number| number as usize).ok_or(io::Error::from(ErrorKind::InvalidData));
    let (body, _serial, fields) = (next()?, next()?, next()?);
    let rest = fields.next_multiple_of(8).saturating_add(body);
    if rest > MESSAGE_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "a message on the bus is too long"));
    }
    let mut bytes = vec![0; rest];
    stream.read_exact(&mut bytes)?;
    answer(fixed[1], &bytes, fields, little).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// `bytes` are the fields of the head, which begin at a multiple of 8 in the message, and the body behind them.
fn answer(kind: u8, bytes: &[u8], fields: usize, little: bool) -> Option<Answer> {
    let (mut to, mut name, mut signature) = (None, String::new(), String::new());
    let mut cursor = Cursor { bytes: bytes.get(..fields)?, at: 0, little };
    while cursor.at < fields {
        cursor.align(8);
        let field = cursor.byte()?;
        match (field, cursor.signature()?.as_str()) {
            (REPLY_SERIAL, "u") => to = Some(cursor.number()?),
            (ERROR_NAME, "s") => name = cursor.text()?,
            (SIGNATURE, "g") => signature = cursor.signature()?,
            (_, "u") => drop(cursor.number()?),
            (_, "s" | "o") => drop(cursor.text()?),
            (_, "g") => drop(cursor.signature()?),
            _ => return None,
        }
    }
    let mut body = Cursor { bytes: bytes.get(fields.next_multiple_of(8)..)?, at: 0, little };
    let outcome = match kind {
        ANSWER => Ok(()),
        ERROR if signature.starts_with('s') => Err(format!("{} ({name})", body.text()?)),
        ERROR => Err(name),
        // A notice, or a call of somebody's: neither answers anything.
        _ => return Some(Answer { to: None, outcome: Ok(()) }),
    };
    Some(Answer { to, outcome })
}

/// Reads values from the front.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
    little: bool,
}

impl Cursor<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.bytes.get(self.at..)?.first_chunk::<4>()?;
        self.at += 4;
        Some(if self.little { u32::from_le_bytes(*bytes) } else { u32::from_be_bytes(*bytes) })
    }

    /// Of so many bytes, and a zero behind them. Fit for a log.
    fn string(&mut self, length: usize) -> Option<String> {
        let end = self.at.checked_add(length)?;
        let text = String::from_utf8_lossy(self.bytes.get(self.at..end)?).into_owned();
        self.at = end + 1;
        Some(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        self.string(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?.into();
        self.string(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_laid_out_as_the_specification_has_it() {
        let target = Target { service: "a.b", path: "/a", interface: "a.c" };
        let mut body = Body::default();
        body.number(7);
        Argument::Domains(&[("x", true)]).put(&mut body);
        let made = message(2, &target, "M", "ia(sb)", &body);
        assert_eq!(&made[..16], b"l\x01\0\x01\x14\0\0\0\x02\0\0\0\x4c\0\0\0");
        assert_eq!(&made[16..32], b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0", "the path, and room up to the next field");
        assert_eq!(&made[80..96], b"\x08\x01g\0\x06ia(sb)\0\0\0\0\0", "the signature is the last");
        assert_eq!(&made[96..], b"\x07\0\0\0\x0c\0\0\0\x01\0\0\0x\0\0\0\x01\0\0\0");
    }

    /// What a service would say: its own writing of a message is that of calls, with another kind.
    fn said(kind: u8, to: u32, error: Option<(&str, &str)>) -> Vec<u8> {
        let mut body = Body::default();
        let mut head = Body(vec![LITTLE_ENDIAN, kind, 1, VERSION]);
        error.iter().for_each(|(_, text)| body.text(text));
        head.number(length(body.0.len()));
        head.number(9);
        head.array(0..3, |out, field| match (field, error) {
            (0, _) => {
                out.0.push(REPLY_SERIAL);
                out.signature("u");
                out.number(to);
            }
            (1, Some((name, _))) => {
                out.0.push(ERROR_NAME);
                out.signature("s");
                out.text(name);
            }
            (_, Some(_)) => {
                out.0.push(SIGNATURE);
                out.signature("g");
                out.signature("s");
            }
            (_, None) => {
                out.0.push(DESTINATION);
                out.signature("s");
                out.text(":1.7");
            }
        });
        head.align(8);
        [head.0, body.0].concat()
    }

    #[test]
    fn answers_and_errors_are_told_apart() {
        let read = |bytes: Vec<u8>| read(&mut &bytes[..]);
        assert_eq!(read(said(ANSWER, 7, None)).unwrap(), Answer { to: Some(7), outcome: Ok(()) });
        let error = read(said(ERROR, 7, Some(("org.x.LinkBusy", "it is\nmanaged")))).unwrap();
        assert_eq!(error, Answer { to: Some(7), outcome: Err("it is\u{fffd}managed (org.x.LinkBusy)".into()) });
        assert_eq!(read(said(4, 7, None)).unwrap().to, None, "a notice");
        let mut long = said(ANSWER, 7, None);
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(long).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), at in 0..80_usize, with in any::<u8>()) {
            let _ = read(&mut &bytes[..]);
            let mut changed = said(ERROR, 7, Some(("a.b", "text")));
            let at = at % changed.len();
            changed[at] = with;
            let _ = read(&mut &changed[..]);
        }
    }
}
