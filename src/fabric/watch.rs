//! Notices when the graph's file changes.

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher};
use std::path::Path;
use tokio::sync::mpsc;

/// A change notice; keeps the watch alive.
pub(super) struct Changes {
    _watcher: notify::RecommendedWatcher,
    notices: mpsc::Receiver<()>,
}

impl Changes {
    pub(super) async fn recv(&mut self) -> Option<()> {
        self.notices.recv().await
    }
}

/// Watches the directory, not the file: editors and configuration tools replace files, and a replaced file is another
/// inode. What changed is found out by reading.
pub(super) fn graph(file: &Path) -> anyhow::Result<Changes> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // One waiting notice stands for any number of changes.
    let (sender, notices) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = sender.try_send(());
        }
    })
    .context("failed to watch the service graph")?;
    watcher
        .watch(directory, RecursiveMode::NonRecursive)
        .with_context(|| format!("failed to watch {}", directory.display()))?;
    Ok(Changes { _watcher: watcher, notices })
}
