//! `/etc/netns/NAME/resolv.conf`, through which `ip netns exec NAME` and [`netns::spawn_in`](super::netns::spawn_in)
//! give programs of a named namespace the fabric's resolver.

use super::{AttachPlan, Error, Place, door::Doorway, journal::Attachment, netns};
use std::{
    fs::{self, File},
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const DIRECTORY: &str = "/etc/netns";
/// The first line of the file, by which it is known as ours.
const MARK: &str = "# Made by ripstop for as long as its agent runs.\n";

/// The name of the namespace that is to get a file, and the directories to make for it; none where one is there.
pub(super) fn plan(plan: &AttachPlan) -> (Option<String>, Vec<PathBuf>) {
    let Place::Netns(path) = &plan.place else { return (None, Vec::new()) };
    let Some(name) = netns::name_of(path) else { return (None, Vec::new()) };
    if file_of(name).exists() {
        return (None, Vec::new());
    }
    (Some(name.to_owned()), directories_of(name).into_iter().filter(|directory| !directory.exists()).collect())
}

/// Has the file made as planned.
pub(super) fn create(doorway: &Doorway, plan: &AttachPlan, attachment: &Attachment) -> Result<(), Error> {
    let Some(name) = &attachment.resolver_for else { return Ok(()) };
    match doorway.make_resolver(name, plan.resolver) {
        // In a container, say. What enters the namespace otherwise needs none.
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
            tracing::info!(
                name,
                "{DIRECTORY} cannot be written: `ip netns exec` will not know the fabric's resolver there"
            );
            Ok(())
        }
        made => made,
    }
}

/// Has the file and the directories made for it removed; says how many files.
pub(super) fn remove(doorway: &Doorway, attachment: &Attachment) -> Result<usize, Error> {
    let Some(name) = &attachment.resolver_for else { return Ok(0) };
    doorway.remove_resolver(name, &attachment.directories)
}

/// The directories in which the file of a namespace is, outermost first.
pub(super) fn directories_of(name: &str) -> [PathBuf; 2] {
    [PathBuf::from(DIRECTORY), Path::new(DIRECTORY).join(name)]
}

/// Makes the file of a namespace.
pub(super) fn make_file(name: &str, resolver: Ipv4Addr) -> Result<(), Error> {
    let path = file_of(name);
    if is_ours(&path) {
        // A dead agent's, which says the same.
        return Ok(());
    }
    let written = fs::create_dir_all(Path::new(DIRECTORY).join(name))
        .and_then(|()| File::options().write(true).create_new(true).open(&path))
        .and_then(|mut file| writeln!(file, "{MARK}nameserver {resolver}"));
    written.map_err(|source| Error::file("write", path, source))
}

/// Removes the file of a namespace and these directories, innermost last, if nothing else is in them; says how many files.
pub(super) fn remove_file(name: &str, directories: &[String]) -> Result<usize, Error> {
    let path = file_of(name);
    let ours = is_ours(&path);
    if ours {
        fs::remove_file(&path).map_err(|source| Error::file("remove", &path, source))?;
    }
    for directory in directories.iter().rev().map(Path::new) {
        remove_if_empty(directory).map_err(|source| Error::file("remove", directory, source))?;
    }
    Ok(usize::from(ours))
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

fn file_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name).join("resolv.conf")
}

fn remove_if_empty(directory: &Path) -> io::Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ReadOnlyFilesystem};
    match fs::remove_dir(directory) {
        // Of a read-only file system that is said before it is looked whether the directory is there.
        Err(error) if matches!(error.kind(), NotFound | DirectoryNotEmpty | ReadOnlyFilesystem) => Ok(()),
        removed => removed,
    }
}
