//! Files that are read whole: the graph, the settings and the like.

use anyhow::{Context, anyhow, bail};
use ripstop_config::Diagnostics;
use std::{fs::File, io::Read, path::Path};

/// Bytes of a file that is read: the limit of a policy bundle of the same purpose.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a text file of bounded size.
///
/// # Errors
/// When it cannot be read, is not text, or is larger than 16 MiB; the file is named.
pub fn read(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(read_bytes(path)?).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a file of bounded size.
///
/// # Errors
/// When it cannot be read, or is larger than 16 MiB; the file is named.
pub fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    if read as u64 > FILE_BYTES {
        bail!("{shown} is larger than {} MiB", FILE_BYTES / 1024 / 1024);
    }
    Ok(bytes)
}

/// The mistakes of a file as they render themselves, below their number.
#[must_use]
pub fn mistakes_in(path: &Path, mistakes: &Diagnostics) -> anyhow::Error {
    let count = mistakes.0.len();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    anyhow!("{count} {noun} in {}\n\n{mistakes}", path.display())
}
