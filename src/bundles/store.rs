//! Signed policies on disk: the one in force, those before it, and the floor below which nothing is taken any more.
//!
//! ```text
//! /var/lib/ripstop/policy/           0700
//!   lock                             held by the one process that may write here
//!   floor                            the newest identifier ever taken, written twice on its line
//!   1.17-00c0ffee00c0ffee.bundle     each named by its identifier
//! ```
//! 1. A bundle is on disk before the floor is raised to it, and the floor before the policy is in force. Each file is
//!    written beside its place, synchronised and renamed, and the directory synchronised.
//! 2. The floor is the greatest of what `floor` says and what the files are named, whether or not they can be read: a
//!    damaged state knows less of what was, never of how far it got. Where it cannot tell that, it is not used at all.
//! 3. Nothing here comes from a clock.

use super::Trust;
use ripstop_config::PolicyVersion;
use ripstop_policy::{Bundle, BundleId};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Bundles kept, the one in force included: what `ripstop rollback` can go back to.
pub const KEPT_MAX: usize = 20;
/// Bytes of the floor's file that are read: it is one line of two identifiers.
const FLOOR_BYTES: u64 = 512;

/// The directory in the state directory.
const DIRECTORY: &str = "policy";
const FLOOR: &str = "floor";
const LOCK: &str = "lock";
const BUNDLE: &str = ".bundle";
/// Of a file that is being written.
const NEXT: &str = ".next";

/// Why the store cannot be used, or does not take a bundle.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or the directory cannot be used.
    #[error("failed to {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may write to the directory.
    #[error(
        "{0} can be written by other users, who could bring back an old policy: `chmod go-w` it, or choose another `state:`"
    )]
    Directory(PathBuf),
    /// Another process has it.
    #[error("{0} is used by another process: does another agent run with this `state:`?")]
    InUse(PathBuf),
    /// It is not known how new the policy was.
    #[error(
        "{0} is damaged, and no bundle beside it says how new the policy of this host was: put the file back from a copy; \
         or remove it, if this host may take a policy older than the one it had"
    )]
    Floor(PathBuf),
    /// The bundle is not newer than what this host has had.
    #[error("policy {offered} is not newer than {floor}, which this host has had")]
    NotNewer {
        /// The bundle that was offered.
        offered: BundleId,
        /// The newest that this host has had.
        floor: BundleId,
    },
}

impl StoreError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.into(), source }
    }
}

/// The policies of one state directory, locked. The lock goes when it is dropped, or its process ends.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    floor: Option<BundleId>,
    /// In force, and readable at the next start.
    current: Option<BundleId>,
    lock_file: File,
}

/// What a state directory had.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The policy to be put in force; none when there was none, or it cannot be used.
    pub bundle: Option<Bundle>,
    /// What is wrong with what was there, if anything, and what to do.
    pub damage: Option<String>,
}

impl Store {
    /// Locks the directory, making it if need be, and reads what is there.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be used safely.
    pub fn open(state: &Path, trust: &Trust) -> Result<Opened, StoreError> {
        Self::open_with(state, trust, None)
    }

    /// The same with the lock of another agent of this host, which writes nothing any more.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be used safely.
    pub fn open_with(state: &Path, trust: &Trust, locked: Option<File>) -> Result<Opened, StoreError> {
        let dir = state.join(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(StoreError::io("make", &dir))?;
        check_directory(state)?;
        check_directory(&dir)?;
        let lock = locked.map_or_else(|| lock(&dir), Ok)?;
        let mut store = Self { dir, floor: None, current: None, lock_file: lock };
        let kept = store.kept()?;
        let (floor, mut damage) = store.read_floor(kept.last().copied())?;
        store.floor = floor;
        let Some(floor) = floor else { return Ok(Opened { store, bundle: None, damage }) };
        let bundle = match store.read(floor, trust) {
            Ok(bundle) => Some(bundle),
            Err(why) => {
                let text = format!(
                    "the policy {floor} of this host cannot be used ({why}); everything is denied until it is had again from \
                     another host, or a newer one is applied"
                );
                damage = Some(damage.map_or(text.clone(), |before| format!("{before}; {text}")));
                None
            }
        };
        store.current = bundle.as_ref().map(Bundle::id);
        Ok(Opened { store, bundle, damage })
    }

    /// The lock, for another agent of this host: it lasts as long as either has it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when no descriptor is left.
    pub fn lock(&self) -> Result<File, StoreError> {
        self.lock_file.try_clone().map_err(StoreError::io("hand over the lock of", &self.dir))
    }

    /// The newest bundle on disk, which another agent of this host may have put there.
    ///
    /// # Errors
    /// Why there is none that can be used, for people.
    pub fn newest(&self, trust: &Trust) -> Result<Bundle, String> {
        let kept = self.kept().map_err(|error| error.to_string())?;
        let id = kept.last().copied().ok_or("no policy is kept")?;
        self.read(id, trust)
    }

    /// The newest policy that this host ever took.
    #[must_use]
    pub fn floor(&self) -> Option<BundleId> {
        self.floor
    }

    /// Whether a bundle would be taken: a newer one, or the newest again where it was lost.
    #[must_use]
    pub fn takes(&self, id: BundleId) -> bool {
        self.floor.is_none_or(|floor| id > floor || (id == floor && self.current != Some(id)))
    }

    /// Keeps a bundle, and takes nothing older from then on. When it returns, both are on disk.
    ///
    /// # Errors
    /// [`StoreError`]; the floor is as it was.
    pub fn keep(&mut self, bundle: &Bundle) -> Result<(), StoreError> {
        let id = bundle.id();
        if let Some(floor) = self.floor.filter(|_| !self.takes(id)) {
            return Err(StoreError::NotNewer { offered: id, floor });
        }
        self.write(&file_name(id), bundle.bytes())?;
        self.write(FLOOR, format!("{id} {id}\n").as_bytes())?;
        (self.floor, self.current) = (Some(id), Some(id));
        self.trim();
        Ok(())
    }

    /// The bundles that are kept, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn kept(&self) -> Result<Vec<BundleId>, StoreError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(StoreError::io("read", &self.dir))? {
            let name = entry.map_err(StoreError::io("read", &self.dir))?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_suffix(BUNDLE)?.parse::<BundleId>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The newest kept bundle of a version.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn version(&self, version: PolicyVersion, trust: &Trust) -> Result<Bundle, String> {
        let kept = self.kept().map_err(|error| error.to_string())?;
        let id = kept.into_iter().rfind(|id| id.version == version);
        let id = id.ok_or_else(|| format!("this host has no policy {version} any more; see `ripstop history`"))?;
        self.read(id, trust).map_err(|why| format!("the policy {id} cannot be used: {why}"))
    }

    /// Reads a kept bundle, which must be the one that its file is named after.
    ///
    /// # Errors
    /// Why it is none, for people.
    pub fn read(&self, id: BundleId, trust: &Trust) -> Result<Bundle, String> {
        let path = self.dir.join(file_name(id));
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(ripstop_policy::bundle::BUNDLE_MAX as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|error| format!("failed to read {}: {error}", path.display()))?;
        let bundle = trust.open(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        if bundle.id() != id {
            return Err(format!("{} holds another policy, {}", path.display(), bundle.id()));
        }
        Ok(bundle)
    }

    /// How many of the newest policies in a row were signed by operators who are limited to tenants.
    #[must_use]
    pub fn limited_run(&self, trust: &Trust) -> usize {
        let kept = self.kept().unwrap_or_default();
        let is_limited =
            |id: &BundleId| self.read(*id, trust).is_ok_and(|bundle| !bundle.is_unlimited(&trust.operators));
        kept.iter().rev().take_while(|id| is_limited(id)).count()
    }

    /// How new the policy of this host was, and what is wrong with the file that should say so.
    fn read_floor(&self, newest: Option<BundleId>) -> Result<(Option<BundleId>, Option<String>), StoreError> {
        let path = self.dir.join(FLOOR);
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(FLOOR_BYTES).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((newest, None)),
            // Not text, as far as a file of one's own can be.
            Err(error) if error.kind() == ErrorKind::InvalidData => text.clear(),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        }
        match (parse_floor(&text), newest) {
            (Some(said), newest) => Ok((Some(newest.map_or(said, |newest| newest.max(said))), None)),
            (None, Some(newest)) => {
                let damage = format!("{} is damaged; nothing older than policy {newest} is taken", path.display());
                Ok((Some(newest), Some(damage)))
            }
            (None, None) => Err(StoreError::Floor(path)),
        }
    }

    /// Puts a file in its place, as a whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, next) = (self.dir.join(name), self.dir.join(format!("{name}{NEXT}")));
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()?;
                fs::rename(&next, &path)?;
                File::open(&self.dir)?.sync_all()
            });
        written.map_err(StoreError::io("write", &path))
    }

    /// Removes what is older than what is kept. What fails is tried again with the next one.
    fn trim(&self) {
        let Ok(kept) = self.kept() else { return };
        for id in &kept[..kept.len().saturating_sub(KEPT_MAX)] {
            let _ = fs::remove_file(self.dir.join(file_name(*id)));
        }
    }
}

fn file_name(id: BundleId) -> String {
    format!("{id}{BUNDLE}")
}

/// The identifier, if both writings of it agree.
fn parse_floor(text: &str) -> Option<BundleId> {
    let (first, second) = text.strip_suffix('\n')?.split_once(' ')?;
    (first == second).then(|| first.parse().ok())?
}

fn check_directory(dir: &Path) -> Result<(), StoreError> {
    let metadata = fs::metadata(dir).map_err(StoreError::io("look at", dir))?;
    let ours = metadata.uid() == 0 || metadata.uid() == nix::unistd::geteuid().as_raw();
    if ours && metadata.mode() & 0o022 == 0 { Ok(()) } else { Err(StoreError::Directory(dir.into())) }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(dir.into())),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
