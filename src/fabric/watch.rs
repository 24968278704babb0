//! Notices when the graph's file changes.

use anyhow::Context as _;
use rustix::{
    fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use std::{
    ffi::{CStr, OsString},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes of events that are read at once: each has 16, and a name of 256 at most (inotify(7)).
const EVENTS_MAX: usize = 4_096;

/// What happened in the graph's directory.
pub(super) struct Changes {
    inotify: AsyncFd<OwnedFd>,
    /// The graph's name there.
    name: Option<OsString>,
}

/// Watches the directory, not the file: editors and configuration tools replace files, and a replaced file is another
/// inode. What changed is found out by reading. Nobody is woken by what is only written to, as records of sessions there are.
pub(super) fn graph(file: &Path) -> anyhow::Result<Changes> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    let watch = || {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, directory, whole | WatchFlags::ONLYDIR)?;
        register(inotify)
    };
    let inotify = watch().map_err(explain).with_context(|| format!("failed to watch {}", directory.display()))?;
    Ok(Changes { inotify, name: file.file_name().map(Into::into) })
}

/// What to do where the host has no more of them, which the kernel says as if it lacked something else (inotify_init(2),
/// inotify_add_watch(2)).
fn explain(error: io::Error) -> anyhow::Error {
    let what_to_do = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => {
            "its user has as many watchers as it may (`sysctl fs.inotify.max_user_instances`), or the agent as many descriptors: raise that"
        }
        Some(Errno::NOSPC) => "its user watches as much as it may: raise `sysctl fs.inotify.max_user_watches`",
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(what_to_do)
}

#[expect(deprecated, reason = "of what owns a descriptor it is sound: it is the same one for as long as that is there")]
fn register(inotify: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(inotify, Interest::READABLE)
}

/// Resolves when the graph may be another one; never where nothing is watched.
///
/// # Errors
/// The system's; then nothing is noticed any more.
pub(super) async fn next(changes: Option<&Changes>) -> io::Result<()> {
    let Some(changes) = changes else { return std::future::pending().await };
    loop {
        let mut ready = changes.inotify.readable().await?;
        let is_another = changes.is_another()?;
        ready.clear_ready();
        if is_another {
            return Ok(());
        }
    }
}

impl Changes {
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
        let changes = graph(&at("graph.yaml")).unwrap();
        let is_another = || changes.is_another().unwrap();
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
        let said = |errno: Errno| format!("{:#}", explain(errno.into()));
        assert!(said(Errno::MFILE).contains("max_user_instances"));
        assert!(said(Errno::NOSPC).contains("max_user_watches"));
        assert_eq!(said(Errno::NOTDIR), io::Error::from(Errno::NOTDIR).to_string());
    }

    #[tokio::test]
    async fn what_is_written_beside_it_wakes_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let changes = graph(&directory.path().join("graph.yaml")).unwrap();
        let mut records = fs::File::create(directory.path().join("sessions.jsonl")).unwrap();
        for _ in 0..100 {
            records.write_all(b"{}\n").unwrap();
        }
        let mut space = [MaybeUninit::uninit(); EVENTS_MAX];
        let read = Reader::new(changes.inotify.get_ref(), &mut space).next().map(|event| event.events());
        assert_eq!(read.unwrap_err(), Errno::WOULDBLOCK, "not even the kernel has anything to tell");
        let soon = tokio::time::timeout(Duration::from_millis(50), next(Some(&changes)));
        assert!(soon.await.is_err());
        let wait = tokio::time::timeout(Duration::from_secs(5), next(Some(&changes)));
        let write = async { fs::write(directory.path().join("graph.yaml"), "fabric: shop").unwrap() };
        let (noticed, ()) = tokio::join!(wait, write);
        noticed.unwrap().unwrap();
    }
}
