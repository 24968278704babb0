//! Notices when the graph's file changes.

use anyhow::Context as _;
use notify::{
    Event, EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RemoveKind},
};
use std::{ffi::OsStr, path::Path};
use tokio::sync::mpsc;

/// A change notice; keeps the watch alive.
pub(super) struct Changes {
    _watcher: notify::RecommendedWatcher,
    notices: mpsc::Receiver<()>,
}

impl Changes {
    async fn recv(&mut self) -> Option<()> {
        self.notices.recv().await
    }
}

/// The next notice; never any where nothing is watched.
pub(super) async fn next(changes: &mut Option<Changes>) -> Option<()> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

/// Watches the directory, not the file: editors and configuration tools replace files, and a replaced file is another
/// inode. What changed is found out by reading.
pub(super) fn graph(file: &Path) -> anyhow::Result<Changes> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().map(OsStr::to_owned);
    // One waiting notice stands for any number of changes.
    let (sender, notices) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| is_whole(&event, name.as_deref())) {
            let _ = sender.try_send(());
        }
    })
    .context("failed to watch the service graph")?;
    watcher
        .watch(directory, RecursiveMode::NonRecursive)
        .with_context(|| format!("failed to watch {}", directory.display()))?;
    Ok(Changes { _watcher: watcher, notices })
}

/// Whether the file may be another one as a whole. A file that is still being written is half a graph: it is read when
/// its writer has closed it, or has renamed it or a directory (as Kubernetes does) to its place.
fn is_whole(event: &Event, name: Option<&OsStr>) -> bool {
    let of_file = event.paths.iter().any(|path| path.file_name() == name);
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(RemoveKind::File) => of_file,
        EventKind::Modify(ModifyKind::Name(_)) => true,
        _ => false,
    }
}
