//! The journal: what was or was about to be changed, on disk before it is, so that a kill loses nothing.
//!
//! `journal.json` in the run directory is replaced as a whole: written beside it, synchronised, renamed, the directory
//! synchronised. `lock` in the same directory is held by the one agent that may write it.

use super::{Error, netns::NsId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The version of the journal's form; another one is not guessed at.
const VERSION: u32 = 1;
/// Bytes of journal that are read at most: 4 096 interfaces take less than 2 MiB.
const SIZE_LIMIT: u64 = 16 << 20;

const JOURNAL: &str = "journal.json";
const NEXT: &str = "journal.json.next";
const CORRUPT: &str = "journal.json.corrupt";
const LOCK: &str = "lock";

/// One interface and what came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attachment {
    /// The interface's name.
    pub(super) link: String,
    /// The path of the namespace it is in; none for the agent's own.
    pub(super) namespace: Option<PathBuf>,
    /// Which namespace that was.
    pub(super) id: NsId,
    /// The routing table and rules of an interface of the host's own namespace, counted from 0.
    pub(super) slot: Option<u32>,
    /// The user of a `user` interface.
    #[serde(default)]
    pub(super) uid: Option<u32>,
    /// The number of the control group of a `cgroup` interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<u64>,
    /// Whether it is that of the host itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) host: bool,
    /// Whether a guard comes with it.
    #[serde(default)]
    pub(super) guarded: bool,
    /// Whether the fabric is the workload's only network.
    #[serde(default)]
    pub(super) isolated: bool,
    /// The fabric's ranges.
    #[serde(default)]
    pub(super) fabric: Vec<IpNet>,
    /// The namespace's name, if a `resolv.conf` was made for it.
    pub(super) resolver_for: Option<String>,
    /// Directories made for that file, outermost first.
    pub(super) directories: Vec<PathBuf>,
}

impl Attachment {
    /// Whether what stands of it is what another one would make anew: then it may go on standing in the meantime.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let what = |one: &Self| (one.id, one.slot.is_some(), one.uid, one.cgroup, one.host, one.guarded, one.isolated);
        what(self) == what(other) && self.fabric == other.fabric
    }

    /// Whether both are for the same packets, so that only one of them can stand.
    pub(super) fn is_rival(&self, other: &Self) -> bool {
        let same_namespace = self.slot.is_none() && other.slot.is_none() && self.id == other.id;
        let same_user = self.uid.is_some() && self.uid == other.uid;
        let same_group = self.cgroup.is_some() && self.cgroup == other.cgroup;
        same_namespace || same_user || same_group || (self.host && other.host)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    attachments: Vec<Attachment>,
}

/// The journal of one run directory, locked. The lock goes when it is dropped, or its process ends.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    attachments: Vec<Attachment>,
    /// What is wrong with the file that was found, if anything.
    corrupt: Option<String>,
    lock: File,
}

impl Journal {
    /// Locks the directory, making it if need be, and reads what is there.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.and_then(|()| check_directory(dir)).map_err(|source| Error::file("use", dir, source))?;
        let lock = lock(dir)?;
        Ok(Self::read(dir, lock))
    }

    /// The same with the lock of another process, which writes nothing any more.
    pub(super) fn inherit(dir: &Path, mut lock: File) -> Result<Self, Error> {
        note_owner(&mut lock).map_err(|source| Error::file("write", dir.join(LOCK), source))?;
        Ok(Self::read(dir, lock))
    }

    /// The lock, for another process: it lasts as long as either has it.
    pub(super) fn lock_file(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    fn read(dir: &Path, lock: File) -> Self {
        let mut journal = Self { dir: dir.to_owned(), attachments: Vec::new(), corrupt: None, lock };
        match read(&dir.join(JOURNAL)) {
            Ok(attachments) => journal.attachments = attachments,
            Err(why) => journal.corrupt = Some(why),
        }
        journal
    }

    /// What is attached.
    pub(super) fn entries(&self) -> &[Attachment] {
        &self.attachments
    }

    /// The entry of one interface.
    pub(super) fn find(&self, link: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.link == link)
    }

    /// Writes down an interface, in place of one of its name; returns once it is on disk.
    pub(super) fn put(&mut self, attachment: Attachment) -> Result<(), Error> {
        let before = self.attachments.clone();
        match self.attachments.iter_mut().find(|other| other.link == attachment.link) {
            Some(same) if *same == attachment => return Ok(()),
            Some(other) => *other = attachment,
            None => self.attachments.push(attachment),
        }
        self.store().inspect_err(|_| self.attachments = before)
    }

    /// Strikes out one interface; returns once that is on disk. The last one takes the file with it.
    pub(super) fn remove(&mut self, link: &str) -> Result<(), Error> {
        self.attachments.retain(|attachment| attachment.link != link);
        self.store()
    }

    /// Whether it could be read.
    ///
    /// # Errors
    /// [`Error::CorruptJournal`], the journal being left where it is.
    pub(super) fn check(&self) -> Result<(), Error> {
        let why = self.corrupt.clone();
        why.map_or(Ok(()), |why| Err(Error::CorruptJournal { kept: self.dir.join(JOURNAL), why }))
    }

    /// Moves a journal that cannot be read out of the way; says what is wrong and where it is, if there was one.
    pub(super) fn set_aside(&mut self) -> Option<Error> {
        let why = self.corrupt.take()?;
        let kept = self.dir.join(CORRUPT);
        let moved = fs::rename(self.dir.join(JOURNAL), &kept);
        Some(moved.err().map_or(Error::CorruptJournal { kept, why }, |source| {
            Error::file("move aside the unreadable", self.dir.join(JOURNAL), source)
        }))
    }

    fn store(&self) -> Result<(), Error> {
        let path = self.dir.join(JOURNAL);
        let stored = if self.attachments.is_empty() { remove_file(&path) } else { self.replace(&path) };
        stored
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|source| Error::file("write the journal", path, source))
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let document = Document { version: VERSION, attachments: self.attachments.clone() };
        let next = self.dir.join(NEXT);
        remove_file(&next)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec_pretty(&document)?)?;
        file.sync_all()?;
        fs::rename(next, path)
    }
}

/// What is written there is believed by root: nobody else may write it.
fn check_directory(dir: &Path) -> io::Result<()> {
    let found = fs::metadata(dir)?;
    let trusted = [0, nix::unistd::geteuid().as_raw()];
    if found.mode() & 0o022 != 0 || !trusted.contains(&found.uid()) {
        let why = "it belongs to another user, or others may write to it: give it to root, with mode 0700";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let mut options = File::options();
    // Not through a link, and nobody else may hold it.
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let opened = options.open(&path);
    let mut file = opened.map_err(|source| Error::file("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            drop(file.read_to_string(&mut pid));
            return Err(Error::Locked { dir: dir.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(Error::file("lock", &path, source)),
    }
    note_owner(&mut file).map_err(|source| Error::file("write", &path, source))?;
    Ok(file)
}

/// Says who has the lock, for people.
fn note_owner(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

fn read(path: &Path) -> Result<Vec<Attachment>, String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|error| error.to_string())?,
    };
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!("it is of version {}, this program knows {VERSION}", document.version));
    }
    Ok(document.attachments)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{netns, tests::unlocked};

    fn attachment(link: &str) -> Attachment {
        let id = NsId::of(Path::new(netns::OWN)).unwrap();
        let namespace = Some(netns::path_of("web"));
        let name = Some("web".to_owned());
        Attachment {
            link: link.into(),
            namespace,
            id,
            slot: None,
            uid: None,
            cgroup: None,
            host: false,
            guarded: false,
            isolated: false,
            fabric: Vec::new(),
            resolver_for: name,
            directories: Vec::new(),
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_the_last_entry_takes_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.put(attachment("rs-a")).unwrap();
        journal.put(attachment("rs-b")).unwrap();
        drop(journal);
        let mut journal = unlocked(|| Journal::open(dir.path())).unwrap();
        assert_eq!(journal.entries(), [attachment("rs-a"), attachment("rs-b")]);
        journal.remove("rs-a").unwrap();
        assert_eq!(journal.entries(), [attachment("rs-b")]);
        journal.remove("rs-b").unwrap();
        assert!(!dir.path().join(JOURNAL).exists());
    }

    #[test]
    fn two_agents_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Journal::open(dir.path()).unwrap();
        let error = Journal::open(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("another agent (pid {})", std::process::id())), "{text}");
        drop(first);
        unlocked(|| Journal::open(dir.path())).expect("it is free again");
    }

    #[test]
    fn an_unreadable_journal_is_set_aside_once() {
        for text in ["{", r#"{"version":2,"attachments":[]}"#, r#"{"version":1,"attachments":[],"more":1}"#] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(JOURNAL), text).unwrap();
            let mut journal = Journal::open(dir.path()).unwrap();
            let error = journal.set_aside().unwrap();
            assert!(matches!(error, Error::CorruptJournal { .. }), "{text}: {error}");
            assert_eq!(fs::read_to_string(dir.path().join(CORRUPT)).unwrap(), text);
            assert!(journal.set_aside().is_none());
        }
    }
}
