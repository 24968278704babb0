//! What hosts ask each other of records, as bytes. Pure.
//!
//! ```text
//! ask for heads: table (8) | change (8)
//! heads:         table (8) | change (8) | more (1) | where the asking host is seen: length (1), text | each: length (1), host | issued (8)
//! ask for some:  each: length (1), host
//! records:       each: length (4), record
//! ```
//! Numbers are big-endian.

use super::{RECORDS_MAX, WANTED_MAX};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use ripstop_config::HostName;
use ripstop_datapath::session::hearsay::{Cursor, HEADS_MAX, Heads};
use ripstop_transport::RECORD_MAX;
use std::net::SocketAddr;

/// Longest name of a host behind its length, and the time of its record: a DNS label (RFC 1035 section 2.3.4).
const HEAD_BYTES: usize = 1 + 63 + 8;
/// Longest address as text, with a scope.
const ADDRESS_BYTES: usize = 64;
/// Longest list, in bytes.
pub(super) const HEADS_BYTES_MAX: usize = 17 + 1 + ADDRESS_BYTES + HEADS_MAX * HEAD_BYTES;

pub(super) fn cursor(cursor: Cursor) -> Vec<u8> {
    [cursor.table.to_be_bytes(), cursor.change.to_be_bytes()].concat()
}

pub(super) fn read_cursor(mut body: &[u8]) -> Option<Cursor> {
    let cursor = Cursor { table: body.try_get_u64().ok()?, change: body.try_get_u64().ok()? };
    body.is_empty().then_some(cursor)
}

pub(super) fn heads(heads: &Heads, seen: Option<SocketAddr>) -> Bytes {
    let mut answer = BytesMut::new();
    answer.put_slice(&cursor(heads.cursor));
    answer.put_u8(heads.more.into());
    text(&mut answer, &seen.map(|seen| seen.to_string()).unwrap_or_default());
    for (host, issued) in &heads.list {
        text(&mut answer, host.as_str());
        answer.put_u64(*issued);
    }
    answer.freeze()
}

pub(super) fn read_heads(mut from: &[u8]) -> Option<(Heads, Option<SocketAddr>)> {
    let cursor = read_cursor(from.split_off(..16)?)?;
    let more = match from.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let seen = match read_text(&mut from)? {
        "" => None,
        seen => Some(seen.parse::<SocketAddr>().ok()?),
    };
    let mut list = Vec::new();
    while !from.is_empty() {
        if list.len() >= HEADS_MAX {
            return None;
        }
        list.push((read_host(&mut from)?, from.try_get_u64().ok()?));
    }
    Some((Heads { cursor, more, list }, seen.filter(|seen| !seen.ip().is_unspecified() && seen.port() != 0)))
}

pub(super) fn names(hosts: &[HostName]) -> Vec<u8> {
    let mut body = BytesMut::new();
    hosts.iter().for_each(|host| text(&mut body, host.as_str()));
    body.into()
}

pub(super) fn read_names(mut from: &[u8]) -> Option<Vec<HostName>> {
    let mut names = Vec::new();
    while !from.is_empty() {
        if names.len() >= WANTED_MAX {
            return None;
        }
        names.push(read_host(&mut from)?);
    }
    Some(names)
}

/// As many as fit.
pub(super) fn records(all: impl Iterator<Item = Bytes>) -> Bytes {
    let mut answer = BytesMut::new();
    for record in all {
        if answer.len() + size_of::<u32>() + record.len() > RECORDS_MAX {
            break;
        }
        answer.put_u32(u32::try_from(record.len()).unwrap_or(u32::MAX));
        answer.put(record);
    }
    answer.freeze()
}

pub(super) fn read_records(mut from: &[u8]) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    while !from.is_empty() {
        let length = usize::try_from(from.try_get_u32().ok()?).ok()?;
        if length > RECORD_MAX || records.len() >= WANTED_MAX {
            return None;
        }
        records.push(from.split_off(..length)?);
    }
    Some(records)
}

fn text(into: &mut BytesMut, text: &str) {
    into.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    into.put_slice(text.as_bytes());
}

fn read_text<'b>(from: &mut &'b [u8]) -> Option<&'b str> {
    let length = from.try_get_u8().ok()?;
    std::str::from_utf8(from.split_off(..usize::from(length))?).ok()
}

fn read_host(from: &mut &[u8]) -> Option<HostName> {
    HostName::new(read_text(from)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let of = Cursor { table: 7, change: u64::MAX };
        assert_eq!(read_cursor(&cursor(of)), Some(of));
        let list = vec![(host("alpha"), 5), (host(&"h".repeat(63)), u64::MAX)];
        let some = Heads { cursor: of, more: true, list };
        for seen in [None, Some("[2001:db8::1]:7477".parse().unwrap())] {
            assert_eq!(read_heads(&heads(&some, seen)), Some((some.clone(), seen)));
        }
        let hosts = vec![host("alpha"), host("beta")];
        assert_eq!(read_names(&names(&hosts)), Some(hosts));
        let both = [Bytes::from_static(b"one"), Bytes::new()];
        assert_eq!(read_records(&records(both.into_iter())), Some(vec![&b"one"[..], b""]));
    }

    #[test]
    fn nothing_is_longer_than_its_limit() {
        let long = host(&"h".repeat(63));
        let all = Heads { list: vec![(long.clone(), 5); HEADS_MAX], ..Heads::default() };
        let scoped = SocketAddr::from(([0xffff; 8], u16::MAX));
        assert!(heads(&all, Some(scoped)).len() <= HEADS_BYTES_MAX);
        let more = Heads { list: vec![(long.clone(), 5); HEADS_MAX + 1], ..Heads::default() };
        assert_eq!(read_heads(&heads(&more, None)), None);
        assert_eq!(read_names(&names(&vec![long; WANTED_MAX + 1])), None);
        let longest = std::iter::repeat_with(|| Bytes::from(vec![0; RECORD_MAX])).take(WANTED_MAX);
        let answer = records(longest);
        assert!(answer.len() <= RECORDS_MAX && read_records(&answer).is_some_and(|all| all.len() == 3));
        let small = std::iter::repeat_n(Bytes::from_static(b"x"), WANTED_MAX + 1);
        assert_eq!(read_records(&records(small)), None);
    }

    proptest! {
        #[test]
        fn bytes_do_not_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read_cursor(&bytes), read_heads(&bytes), read_names(&bytes), read_records(&bytes));
        }
    }
}
