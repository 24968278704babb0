//! Files that commands read and write.

use crate::files::{mistakes_in, read};
use anyhow::{Context, bail};
use ripstop_config::Graph;
use ripstop_policy::Policy;
use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Reads and compiles a graph; its mistakes are shown all at once.
pub(super) fn policy(path: &Path) -> anyhow::Result<Policy> {
    let text = read(path)?;
    let graph = Graph::parse(&path.display().to_string(), &text).map_err(|mistakes| mistakes_in(path, &mistakes))?;
    ripstop_policy::compile(graph).with_context(|| format!("cannot compile {}", path.display()))
}

/// A file to be written once.
pub(super) struct NewFile<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    /// Such as 0o600.
    pub(super) mode: u32,
}

/// Writes files that must not exist: all of them, or none.
pub(super) fn write_new(files: &[NewFile<'_>]) -> anyhow::Result<()> {
    for file in files {
        if file.path.symlink_metadata().is_ok() {
            bail!(
                "{} exists already and is left as it is; move it away, or choose another directory",
                file.path.display()
            );
        }
    }
    for (written, file) in files.iter().enumerate() {
        if let Err(error) = write_one(file) {
            // What fails here is said by the error that made it necessary.
            files[..written].iter().for_each(|file| drop(fs::remove_file(file.path)));
            return Err(error);
        }
    }
    Ok(())
}

fn write_one(file: &NewFile<'_>) -> anyhow::Result<()> {
    let shown = file.path.display();
    let opened = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(file.path);
    let mut opened = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("{shown} exists already and is left as it is"),
        opened => opened.with_context(|| format!("cannot write {shown}"))?,
    };
    let written = opened.write_all(file.bytes).and_then(|()| opened.sync_all());
    if written.is_err() {
        // Half a file would stand in the way of the next attempt; what fails here is said by the error before.
        let _ = fs::remove_file(file.path);
    }
    written.with_context(|| format!("cannot write {shown}"))
}
