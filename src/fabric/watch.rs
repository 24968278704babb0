//! Notices when the graph's file changes.

use anyhow::Context as _;
use rustix::{
    fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use std::{
    cell::Cell,
    ffi::{CStr, OsString},
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes of events that are read at once: each has 16, and a name of 256 at most (inotify(7)).
const EVENTS_MAX: usize = 4_096;

/// How often the graph is looked at where the kernel does not tell of changes. One that changed is taken up once it looks the same
/// a second time, as it may be half written, or after so many looks at which it never did.
const LOOK: Duration = Duration::from_secs(2);
const LOOKS_MAX: u8 = 5;

/// How changes of the graph are noticed.
pub(super) enum Changes {
    /// The kernel tells of them.
    Told(Events),
    /// It is looked at.
    Looked(Looks),
}

/// What happened in the graph's directory.
pub(super) struct Events {
    inotify: AsyncFd<OwnedFd>,
    /// The graph's name there.
    name: Option<OsString>,
}

/// The graph's file as it was when it was taken up, and when it was last looked at.
pub(super) struct Looks {
    file: PathBuf,
    taken: Cell<Option<Stamp>>,
    seen: Cell<Option<Stamp>>,
    /// Looks in a row at which it had just changed.
    changing: Cell<u8>,
}

/// Which file it is, its length, and when its bytes and it itself last changed, in seconds and nanoseconds. Two writes of the same
/// length within one tick of the kernel's clock look the same; the second look comes long after both.
type Stamp = ([u64; 3], [i64; 4]);

/// Watches the graph's file. Where the kernel has no watches left, the file is looked at, which is logged.
///
/// # Errors
/// When its directory cannot be watched for any other reason.
pub(super) fn graph(file: &Path) -> anyhow::Result<Changes> {
    match Events::of(file) {
        Ok(events) => Ok(Changes::Told(events)),
        Err(error) => without_watch(file, error),
    }
}

fn without_watch(file: &Path, error: io::Error) -> anyhow::Result<Changes> {
    match what_to_raise(&error) {
        Some(what) => {
            tracing::warn!(%error, "the service graph is looked at every {LOOK:?}, as the kernel will not tell when it changes: {what}");
            Ok(by_looking(file))
        }
        None => Err(error).with_context(|| format!("failed to watch {}", directory(file).display())),
    }
}

/// Looks at the graph's file, now and then.
pub(super) fn by_looking(file: &Path) -> Changes {
    Changes::Looked(Looks::at(file))
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What there is too little of where a host has no more watches, which the kernel says as if it lacked something else
/// (inotify_init(2), inotify_add_watch(2)); none where it lacks none of them.
fn what_to_raise(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => Some(
            "raise `sysctl fs.inotify.max_user_instances`, or the descriptors that the agent may have, whichever is used up",
        ),
        Errno::NOSPC => Some("raise `sysctl fs.inotify.max_user_watches`, which the agent's user has used up"),
        _ => None,
    }
}

#[expect(deprecated, reason = "of what owns a descriptor it is sound: it is the same one for as long as that is there")]
fn register(inotify: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(inotify, Interest::READABLE)
}

/// Resolves when the graph may be another one; never where nothing is watched.
///
/// # Errors
/// The system's; then the kernel tells of no more changes.
pub(super) async fn next(changes: Option<&Changes>) -> io::Result<()> {
    match changes {
        Some(Changes::Told(events)) => events.next().await,
        Some(Changes::Looked(looks)) => {
            looks.next().await;
            Ok(())
        }
        None => std::future::pending().await,
    }
}

impl Looks {
    /// Looks at a file, which is taken up as it is now.
    fn at(file: &Path) -> Self {
        let now = stamp(file);
        Self { file: file.to_owned(), taken: Cell::new(now), seen: Cell::new(now), changing: Cell::new(0) }
    }

    async fn next(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.is_another() {
                return;
            }
        }
    }

    /// Whether it is another file than the one that was taken up, and whole as far as can be known.
    fn is_another(&self) -> bool {
        let now = stamp(&self.file);
        let changing = if self.seen.replace(now) == now { 0 } else { self.changing.get() + 1 };
        let is_whole = changing == 0 || changing == LOOKS_MAX;
        self.changing.set(changing % LOOKS_MAX);
        is_whole && self.taken.replace(now) != now
    }
}

/// None where there is no such file.
fn stamp(file: &Path) -> Option<Stamp> {
    let now = fs::metadata(file).ok()?;
    Some(([now.dev(), now.ino(), now.size()], [now.mtime(), now.mtime_nsec(), now.ctime(), now.ctime_nsec()]))
}

impl Events {
    /// Watches the directory, not the file: editors and configuration tools replace files, and a replaced file is another
    /// inode. What changed is found out by reading. Nobody is woken by what is only written to, as records of sessions there are.
    fn of(file: &Path) -> io::Result<Self> {
        let whole = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, directory(file), whole | WatchFlags::ONLYDIR)?;
        Ok(Self { inotify: register(inotify)?, name: file.file_name().map(Into::into) })
    }

    async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let is_another = self.is_another()?;
            ready.clear_ready();
            if is_another {
                return Ok(());
            }
        }
    }

    /// Whether the graph may be another one, by all that happened since the last time.
    fn is_another(&self) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); EVENTS_MAX];
        let mut events = Reader::new(self.inotify.get_ref(), &mut space);
        let mut is_another = false;
        loop {
            match events.next() {
                Ok(event) => is_another |= self.is_whole(&event),
                Err(Errno::WOULDBLOCK) => return Ok(is_another),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the file may be another one as a whole. A file that is still being written is half a graph: it is read when
    /// its writer has closed it, or has renamed it or a directory (as Kubernetes does) to its place.
    fn is_whole(&self, event: &Event<'_>) -> bool {
        let named = event.file_name().map(CStr::to_bytes);
        let is_file = named == self.name.as_deref().map(OsStrExt::as_bytes);
        // Or more happened than the kernel keeps.
        let any = ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO | ReadFlags::QUEUE_OVERFLOW;
        is_file || event.events().intersects(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write as _, time::Duration};

    #[tokio::test]
    async fn a_graph_is_another_once_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let events = Events::of(&at("graph.yaml")).unwrap();
        let is_another = || events.is_another().unwrap();
        assert!(!is_another());
        let mut file = fs::File::create(at("graph.yaml")).unwrap();
        file.write_all(b"fabric: shop").unwrap();
        assert!(!is_another(), "it is half a graph");
        drop(file);
        assert!(is_another() && !is_another());
        fs::write(at("graph.yaml.new"), "").unwrap();
        assert!(!is_another(), "another file");
        fs::rename(at("graph.yaml.new"), at("graph.yaml")).unwrap();
        assert!(is_another());
        fs::remove_file(at("graph.yaml")).unwrap();
        assert!(is_another());
        fs::create_dir(at("..2026")).unwrap();
        fs::remove_dir(at("..2026")).unwrap();
        std::os::unix::fs::symlink("..2026", at("..data.new")).unwrap();
        assert!(!is_another(), "nothing took the place of anything");
        fs::rename(at("..data.new"), at("..data")).unwrap();
        assert!(is_another(), "as Kubernetes does");
        assert!(graph(&at("nowhere/graph.yaml")).is_err_and(|error| error.to_string().contains("nowhere")));
    }

    #[test]
    fn a_host_without_watches_left_is_told_what_to_raise() {
        let told = |errno: Errno| what_to_raise(&errno.into());
        assert!(told(Errno::MFILE).is_some_and(|what| what.contains("max_user_instances")));
        assert!(told(Errno::NOSPC).is_some_and(|what| what.contains("max_user_watches")));
        assert_eq!(told(Errno::NOTDIR), None);
    }

    #[tokio::test]
    async fn without_a_watch_a_graph_is_another_once_it_no_longer_changes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("graph.yaml"), "fabric: shop").unwrap();
        let looks = Looks::at(&at("graph.yaml"));
        let mut file = fs::File::options().append(true).open(at("graph.yaml")).unwrap();
        assert!(!looks.is_another());
        for word in ["ten", "ants"] {
            file.write_all(word.as_bytes()).unwrap();
            assert!(!looks.is_another(), "it may be half a graph");
        }
        assert!(looks.is_another() && !looks.is_another());
        fs::write(at("graph.yaml.new"), "fabric: shoptenants").unwrap();
        fs::rename(at("graph.yaml.new"), at("graph.yaml")).unwrap();
        assert!(!looks.is_another());
        assert!(looks.is_another(), "another file");
        fs::remove_file(at("graph.yaml")).unwrap();
        assert!(!looks.is_another());
        assert!(looks.is_another(), "it is gone");
        let write = |length| fs::write(at("graph.yaml"), vec![b'#'; length]).unwrap();
        let noticed: Vec<_> = (1..=11).map(|length| (write(length), looks.is_another()).1).collect();
        assert_eq!(noticed.iter().filter(|noticed| **noticed).count(), 2, "one that never rests: {noticed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_watches_a_graph_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("graph.yaml");
        let changes = without_watch(&file, Errno::MFILE.into()).unwrap();
        assert!(without_watch(&file, Errno::NOENT.into()).is_err());
        let mut noticed = std::pin::pin!(next(Some(&changes)));
        assert!(tokio::time::timeout(10 * LOOK, &mut noticed).await.is_err(), "there is none still");
        fs::write(&file, "fabric: shop").unwrap();
        tokio::time::timeout(3 * LOOK, noticed).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_written_beside_it_wakes_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let events = Events::of(&directory.path().join("graph.yaml")).unwrap();
        let mut records = fs::File::create(directory.path().join("sessions.jsonl")).unwrap();
        for _ in 0..100 {
            records.write_all(b"{}\n").unwrap();
        }
        let mut space = [MaybeUninit::uninit(); EVENTS_MAX];
        let read = Reader::new(events.inotify.get_ref(), &mut space).next().map(|event| event.events());
        assert_eq!(read.unwrap_err(), Errno::WOULDBLOCK, "not even the kernel has anything to tell");
        let soon = tokio::time::timeout(Duration::from_millis(50), events.next());
        assert!(soon.await.is_err());
        let wait = tokio::time::timeout(Duration::from_secs(5), events.next());
        let write = async { fs::write(directory.path().join("graph.yaml"), "fabric: shop").unwrap() };
        let (noticed, ()) = tokio::join!(wait, write);
        noticed.unwrap().unwrap();
    }
}
