//! Network namespaces: making, finding and entering them, always on a thread of its own.
//!
//! A thread that has entered a namespace stays in it until it ends, and so does every child it spawns: nothing here
//! needs code between `fork` and `exec`.

use super::Error;
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, fstatfs},
};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
};

/// Where names of network namespaces live, as `ip netns` has it.
pub const DIRECTORY: &str = "/run/netns";

/// The calling thread's network namespace.
pub const OWN: &str = "/proc/thread-self/ns/net";

/// The calling process's network namespace.
pub(super) const OF_PROCESS: &str = "/proc/self/ns/net";

const NONE: Option<&str> = None;
/// The file system of namespaces (linux/magic.h).
const FILE_SYSTEM: FsType = FsType(libc::NSFS_MAGIC);

/// Which namespace it is, whatever its name: device and inode of its file, unique while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct NsId {
    device: u64,
    inode: u64,
}

impl NsId {
    /// The identity of the namespace a path leads to.
    ///
    /// # Errors
    /// When the path leads nowhere.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self::found(&found))
    }

    /// The identity of an open namespace.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        file.metadata().map(|found| Self::found(&found))
    }

    fn found(found: &fs::Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// The path of a named namespace.
#[must_use]
pub fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// The name of a namespace, where its path is that of a named one.
#[must_use]
pub fn name_of(path: &Path) -> Option<&str> {
    let parent = path.parent()?;
    let named = parent == Path::new(DIRECTORY) || parent == Path::new("/var/run/netns");
    if named { path.file_name()?.to_str() } else { None }
}

/// Whether a namespace of this name is there.
#[must_use]
pub fn exists(name: &str) -> bool {
    path_of(name).exists()
}

/// Makes a namespace with a name, its loopback interface up, as `ip netns add` does.
///
/// # Errors
/// When the name is taken, or without CAP_SYS_ADMIN.
pub fn create(name: &str) -> Result<(), Error> {
    let path = path_of(name);
    let made = shared_directory().and_then(|_lock| {
        File::options().write(true).create_new(true).open(&path)?;
        let bound = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some(OWN), &path, NONE, MsFlags::MS_BIND, NONE)
        });
        bound.inspect_err(|_| drop(fs::remove_file(&path)))
    });
    made.map_err(|source| Error::namespace("create", &path, source))?;
    run_in(&path, || super::link::up("lo"))?
}

/// Takes a namespace's name away; it lives on while a process, an interface's descriptor or a socket is in it.
///
/// # Errors
/// When there is none of this name, or without CAP_SYS_ADMIN.
pub fn remove(name: &str) -> Result<(), Error> {
    let path = path_of(name);
    let unmounted = umount2(&path, MntFlags::MNT_DETACH);
    // A name whose mount is gone, as after a copy of /run, is an ordinary file: removing that is all there is to do.
    let removed = fs::remove_file(&path).or_else(|error| unmounted.map_err(|_| error));
    removed.map_err(|source| Error::namespace("remove", &path, source))
}

/// Runs `work` on a fresh thread inside the namespace.
///
/// # Errors
/// When the namespace cannot be entered, or `work` panics.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let file = File::open(path).map_err(|source| Error::namespace("open", path, source))?;
    run_in_file(&file, path, work)
}

/// Spawns a command inside the namespace; where `/etc/netns/NAME` holds files, the command sees them in `/etc`, as
/// with `ip netns exec`.
///
/// # Errors
/// When the namespace cannot be entered, or the command not be started.
pub fn spawn_in(path: &Path, command: &mut Command) -> io::Result<Child> {
    let file = File::open(path)?;
    let overlay = name_of(path).map(|name| Path::new("/etc/netns").join(name)).filter(|overlay| overlay.is_dir());
    let spawned = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            overlay.as_deref().map_or(Ok(()), overlay_etc)?;
            command.spawn()
        });
        inside.join()
    });
    spawned.unwrap_or_else(|_| Err(io::Error::other("the thread that spawns panicked")))
}

/// A file that leads to the namespace, found by its last known path, then among the named ones, then among those of
/// running processes. `None` when it is gone.
pub(super) fn find(id: NsId, hint: Option<&Path>) -> Option<File> {
    let own = Path::new(OWN).to_owned();
    let paths = std::iter::once(own)
        .chain(hint.map(Path::to_owned))
        .chain(entries(DIRECTORY))
        .chain(entries("/proc").map(|process| process.join("ns/net")));
    let mut opened = paths.filter_map(|path| open(&path).ok());
    opened.find(|file| NsId::of_file(file).is_ok_and(|found| found == id))
}

/// Opens a namespace, and nothing else: to open a device, a pipe or a file may already do something.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let found = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
    if fstatfs(&found)?.filesystem_type() != FILE_SYSTEM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no namespace"));
    }
    File::open(format!("/proc/thread-self/fd/{}", found.as_raw_fd()))
}

pub(super) fn run_in_file<T: Send>(file: &File, path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let ran = thread::scope(|scope| {
        let inside = scope.spawn(|| setns(file, CloneFlags::CLONE_NEWNET).map(|()| work()));
        inside.join()
    });
    match ran {
        Ok(entered) => entered.map_err(|source| Error::namespace("enter", path, source)),
        Err(_) => Err(Error::Thread("it panicked".to_owned())),
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> nix::Result<T> + Send) -> io::Result<T> {
    let ran = thread::scope(|scope| scope.spawn(work).join());
    ran.unwrap_or(Err(nix::Error::EIO)).map_err(io::Error::from)
}

fn entries(directory: &str) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Makes the directory of names, shared so that names made here are seen in every mount namespace; the file that comes
/// back is its lock, which `ip netns` takes too.
fn shared_directory() -> io::Result<File> {
    fs::create_dir_all(DIRECTORY)?;
    let lock = File::open(DIRECTORY)?;
    lock.lock()?;
    let share = || mount(NONE, DIRECTORY, NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE);
    match share() {
        // Not a mount point yet: it becomes one by being mounted on itself.
        Err(nix::Error::EINVAL) => {
            mount(Some(DIRECTORY), DIRECTORY, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
            share()?;
        }
        other => other?,
    }
    Ok(lock)
}

/// Gives the calling thread a mount namespace of its own in which the overlay's files lie over those of `/etc`.
fn overlay_etc(overlay: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
    for entry in fs::read_dir(overlay)? {
        let entry = entry?;
        let target = Path::new("/etc").join(entry.file_name());
        if target.exists() {
            mount(Some(&entry.path()), &target, NONE, MsFlags::MS_BIND, NONE)?;
        }
    }
    Ok(())
}
