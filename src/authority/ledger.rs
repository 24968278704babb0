//! Every certificate that the authority has issued, by host: what is renewed must be among them, and what is revoked is
//! found here. One JSON line each, on the disk before the certificate leaves.

use super::StoreError;
use crate::durable;
use ripstop_config::HostName;
use ripstop_transport::CertificateId;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long an expired certificate is still good for being renewed: a host may be off for so long.
pub const RENEWABLE_EXPIRED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Certificates of one host that are remembered: those that can still be valid or renewed. With renewal at half life
/// there are two; the rest is room for tokens used again and again.
const PER_HOST_MAX: usize = 64;
/// Lines of the file beyond twice what is remembered; with more it is written anew.
const SPARE_LINES: usize = 1_024;
/// Of the newest so many certificates of a host, an expired one may be renewed: the last, and the one before in case the
/// last never arrived. An older one has been replaced, and only a copy of it would come back.
const NEWEST: usize = 2;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Whose it is.
    pub host: HostName,
    /// Which it is.
    #[serde(flatten)]
    pub id: CertificateId,
    /// When it was issued, seconds since 1970.
    pub at: u64,
    /// When it expires, seconds since 1970.
    pub not_after: u64,
    /// For what: `init`, `token ID`, or `renewal of SERIAL`.
    pub by: String,
}

/// Why a certificate is not renewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewable {
    /// Another CA's work, or that of `ripstop ca issue`.
    #[error("the certificate was not issued by this authority; join with a token")]
    NotIssued,
    /// It has been over for too long.
    #[error("the certificate expired more than {} days ago; join with a token that names the host", RENEWABLE_EXPIRED.as_secs() / 86_400)]
    TooOld,
    /// It has expired, and newer ones were issued.
    #[error(
        "the certificate has expired and was replaced by newer ones; if this host does not have those, somebody else does: revoke the host, and join with a new token"
    )]
    Replaced,
}

/// The certificates, with their file.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines in it, and how many those are.
    length: u64,
    lines: usize,
    by_host: BTreeMap<HostName, Vec<Issued>>,
}

impl Ledger {
    /// Reads what was issued.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read or written, or is damaged.
    pub(super) fn open(path: &Path, now: u64) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Io(path.into(), error);
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(failed)?,
        };
        // A line that a crash cut off was of a certificate that never left.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut by_host = BTreeMap::new();
        for line in whole.lines() {
            let one: Issued = serde_json::from_str(line).map_err(|error| StoreError::Damaged(path.into(), error))?;
            if one.not_after.saturating_add(KEPT_AFTER) >= now {
                remember(&mut by_host, one);
            }
        }
        let file = append_to(path).map_err(failed)?;
        durable::sync_directory(path).map_err(failed)?;
        let (length, lines) = (whole.len() as u64, whole.lines().count());
        let mut ledger = Self { path: path.into(), file, length, lines, by_host };
        ledger.shorten()?;
        Ok(ledger)
    }

    /// Notes a certificate; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; the certificate must not leave then.
    pub(super) fn add(&mut self, issued: Issued) -> Result<(), StoreError> {
        let failed = |error| StoreError::Io(self.path.clone(), error);
        let mut line = serde_json::to_vec(&issued).map_err(|error| StoreError::Damaged(self.path.clone(), error))?;
        line.push(b'\n');
        // What a write left that failed half-way would be half of this line.
        self.file.set_len(self.length).map_err(failed)?;
        self.file.write_all(&line).and_then(|()| self.file.sync_data()).map_err(failed)?;
        self.length += line.len() as u64;
        self.lines += 1;
        remember(&mut self.by_host, issued);
        self.shorten()
    }

    /// Writes the file anew when most of it is of no use any more.
    fn shorten(&mut self) -> Result<(), StoreError> {
        let remembered: usize = self.by_host.values().map(Vec::len).sum();
        if self.lines <= SPARE_LINES + remembered * 2 {
            return Ok(());
        }
        let failed = |error| StoreError::Io(self.path.clone(), error);
        let mut text = Vec::new();
        for one in self.by_host.values().flatten() {
            serde_json::to_writer(&mut text, one).map_err(|error| StoreError::Damaged(self.path.clone(), error))?;
            text.push(b'\n');
        }
        durable::replace(&self.path, &text, 0o600).map_err(failed)?;
        self.file = append_to(&self.path).map_err(failed)?;
        (self.length, self.lines) = (text.len() as u64, remembered);
        Ok(())
    }

    /// Whether a certificate is known to be over for so long that it is no good for anything.
    pub(super) fn is_over(&self, id: &CertificateId, now: u64) -> bool {
        let found = self.by_host.values().flatten().find(|issued| issued.id == *id);
        found.is_some_and(|issued| issued.not_after.saturating_add(RENEWABLE_EXPIRED.as_secs()) < now)
    }

    /// The certificates of a host, the newest last.
    #[must_use]
    pub(super) fn of(&self, host: &HostName) -> &[Issued] {
        self.by_host.get(host).map_or(&[], Vec::as_slice)
    }

    /// Whether a certificate may be renewed as far as it goes by the certificate: whether its host may is for the policy
    /// to say.
    ///
    /// # Errors
    /// [`NotRenewable`].
    pub(super) fn check(&self, host: &HostName, id: &CertificateId, now: u64) -> Result<(), NotRenewable> {
        let of_host = self.of(host);
        let at = of_host.iter().position(|issued| issued.id == *id).ok_or(NotRenewable::NotIssued)?;
        let not_after = of_host[at].not_after;
        if now < not_after {
            return Ok(());
        }
        if now - not_after > RENEWABLE_EXPIRED.as_secs() {
            return Err(NotRenewable::TooOld);
        }
        // What was issued by a clock that was ahead was no good to anybody.
        if of_host[at + 1..].iter().filter(|newer| newer.at <= now).count() >= NEWEST {
            return Err(NotRenewable::Replaced);
        }
        Ok(())
    }
}

/// Seconds for which an expired certificate is remembered. Ten years beyond what can be renewed: a clock that is far ahead
/// when the agent starts must not make it forget whom it knows.
const KEPT_AFTER: u64 = RENEWABLE_EXPIRED.as_secs() + 10 * 366 * 24 * 60 * 60;

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn remember(by_host: &mut BTreeMap<HostName, Vec<Issued>>, issued: Issued) {
    let of_host = by_host.entry(issued.host.clone()).or_default();
    of_host.push(issued);
    if of_host.len() > PER_HOST_MAX {
        of_host.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn issued(host: &str, serial: u8, not_after: u64) -> Issued {
        let id = CertificateId { issuer: "ab".repeat(32), serial: format!("{serial:02x}") };
        Issued { host: host.parse().unwrap(), id, at: not_after - DAY, not_after, by: "init".into() }
    }

    fn ledger(entries: &[Issued]) -> (tempfile::TempDir, Ledger) {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&directory.path().join("issued.jsonl"), NOW).unwrap();
        entries.iter().for_each(|one| ledger.add(one.clone()).unwrap());
        (directory, ledger)
    }

    fn check(ledger: &Ledger, one: &Issued, now: u64) -> Result<(), NotRenewable> {
        ledger.check(&one.host, &one.id, now)
    }

    #[test]
    fn certificates_are_known_after_a_restart() {
        let entries = [issued("a", 1, NOW + DAY), issued("b", 2, NOW + DAY), issued("a", 3, NOW + DAY)];
        let (_directory, ledger) = ledger(&entries);
        for ledger in [&ledger, &Ledger::open(&ledger.path, NOW).unwrap()] {
            assert_eq!(ledger.of(&"a".parse().unwrap()), [entries[0].clone(), entries[2].clone()]);
            assert_eq!(check(ledger, &entries[1], NOW), Ok(()));
            assert_eq!(check(ledger, &issued("a", 2, NOW + DAY), NOW), Err(NotRenewable::NotIssued), "of another host");
        }
    }

    #[test]
    fn an_expired_certificate_is_renewed_if_nothing_newer_was_issued() {
        let entries = [issued("a", 1, NOW), issued("a", 2, NOW + 1), issued("a", 3, NOW + 2)];
        let (_directory, ledger) = ledger(&entries);
        assert_eq!(check(&ledger, &entries[0], NOW - 1), Ok(()), "while it is valid, whatever came after it");
        assert_eq!(check(&ledger, &entries[0], NOW), Err(NotRenewable::Replaced));
        assert_eq!(check(&ledger, &entries[1], NOW + DAY), Ok(()), "the last one may have been lost on its way");
        assert_eq!(check(&ledger, &entries[2], NOW + 30 * DAY), Ok(()));
        assert_eq!(check(&ledger, &entries[2], NOW + 31 * DAY), Err(NotRenewable::TooOld));
    }

    #[test]
    fn what_a_clock_that_was_ahead_issued_replaces_nothing() {
        let ahead = |serial| issued("a", serial, NOW + 4 * DAY);
        let (_directory, ledger) = ledger(&[issued("a", 1, NOW), ahead(2), ahead(3), ahead(4)]);
        assert_eq!(check(&ledger, &issued("a", 1, NOW), NOW + DAY), Ok(()), "they are of three days from NOW");
        assert_eq!(check(&ledger, &issued("a", 1, NOW), NOW + 4 * DAY), Err(NotRenewable::Replaced));
    }

    #[test]
    fn a_clock_that_is_ten_years_off_forgets_nobody() {
        let one = issued("a", 1, NOW + DAY);
        let (_directory, ledger) = ledger(std::slice::from_ref(&one));
        for away in [NOW + 10 * 365 * DAY, NOW - 10 * 365 * DAY] {
            drop(Ledger::open(&ledger.path, away).unwrap());
        }
        assert_eq!(check(&Ledger::open(&ledger.path, NOW).unwrap(), &one, NOW), Ok(()));
    }

    #[test]
    fn a_line_that_a_crash_cut_off_is_dropped_and_damage_is_said() {
        let one = issued("a", 1, NOW + DAY);
        let (_directory, ledger) = ledger(std::slice::from_ref(&one));
        let whole = fs::read_to_string(&ledger.path).unwrap();
        fs::write(&ledger.path, format!("{whole}{{\"host\":\"b")).unwrap();
        let mut again = Ledger::open(&ledger.path, NOW).unwrap();
        again.add(issued("c", 2, NOW + DAY)).unwrap();
        let last = Ledger::open(&ledger.path, NOW).unwrap();
        assert_eq!((last.of(&"a".parse().unwrap()).len(), last.of(&"c".parse().unwrap()).len()), (1, 1));
        fs::write(&ledger.path, "no line of ours\n").unwrap();
        assert!(matches!(Ledger::open(&ledger.path, NOW), Err(StoreError::Damaged(..))));
    }

    #[test]
    fn a_host_does_not_grow_the_memory_without_end() {
        let entries: Vec<_> = (0..=255).map(|serial| issued("a", serial, NOW + DAY)).collect();
        let (_directory, ledger) = ledger(&entries);
        assert_eq!(ledger.of(&"a".parse().unwrap()).len(), PER_HOST_MAX);
        assert_eq!(check(&ledger, &entries[255], NOW), Ok(()));
    }

    #[test]
    fn the_file_does_not_grow_without_end() {
        let (_directory, mut ledger) = ledger(&[issued("b", 1, NOW + DAY)]);
        for _ in 0..4 * SPARE_LINES {
            ledger.add(issued("a", 7, NOW + DAY)).unwrap();
        }
        let lines = fs::read_to_string(&ledger.path).unwrap().lines().count();
        assert!(lines <= SPARE_LINES + 2 * (PER_HOST_MAX + 1), "{lines}");
        assert_eq!(Ledger::open(&ledger.path, NOW).unwrap().of(&"b".parse().unwrap()).len(), 1);
        assert_eq!(fs::metadata(&ledger.path).unwrap().len(), ledger.length);
    }

    #[test]
    fn a_certificate_is_over_when_it_can_be_renewed_no_more() {
        let one = issued("a", 1, NOW);
        let (_directory, ledger) = ledger(std::slice::from_ref(&one));
        assert!(!ledger.is_over(&one.id, NOW + 30 * DAY) && ledger.is_over(&one.id, NOW + 31 * DAY));
        assert!(!ledger.is_over(&issued("a", 2, NOW).id, NOW + 31 * DAY), "of one that is not known nobody can say");
    }
}
