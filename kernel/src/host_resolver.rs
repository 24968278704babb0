//! The host's `/etc/resolv.conf`, for workloads that share the host's files: the fabric's resolver before the others.
//!
//! The file that was there keeps its place in the directory under another name, and comes back by that name: the same file
//! in every respect, whatever became of the agent or the machine meanwhile. That name beside a file of ours is all the
//! journal there is, so that it outlives a restart of the machine, as `/etc` does and `/run` does not.
//!
//! Programs that are no workload's are refused by the fabric's resolver at once, and ask the next server.

use super::Error;
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

const FILE: &str = "/etc/resolv.conf";
/// The first line of the file, by which it is known as ours.
const MARK: &str = "# Made by ripstop for as long as its agent runs; the host's own is resolv.conf.before-ripstop.\n";
/// Bytes of the host's own file at most; longer is something else.
const SIZE_MAX: u64 = 64 << 10;

/// A `resolv.conf` and what stands for the one it replaces.
struct Place {
    file: PathBuf,
    before: PathBuf,
    next: PathBuf,
}

/// Puts the fabric's resolver first. What a dead agent made of it stays.
///
/// # Errors
/// When the file is another program's, or cannot be replaced, as where it is mounted into a container.
pub(super) fn install(resolver: Ipv4Addr) -> Result<(), Error> {
    Place::of(Path::new(FILE)).install(resolver)
}

/// Puts the host's own file back; says whether there was anything to do. One that somebody else has put there since stays.
pub(super) fn restore() -> Result<bool, Error> {
    Place::of(Path::new(FILE)).restore()
}

/// Whether there is anything to put back.
pub(super) fn is_replaced() -> bool {
    Place::of(Path::new(FILE)).before.exists()
}

impl Place {
    fn of(file: &Path) -> Self {
        let beside = |more: &str| PathBuf::from(format!("{}.{more}", file.display()));
        Self { file: file.to_owned(), before: beside("before-ripstop"), next: beside("next-ripstop") }
    }

    fn is_ours(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|text| text.starts_with(MARK))
    }

    fn install(&self, resolver: Ipv4Addr) -> Result<(), Error> {
        let failed = |what| move |source| Error::file(what, &self.file, source);
        let found = fs::symlink_metadata(&self.file).map_err(failed("find"))?;
        if !found.is_file() || found.len() > SIZE_MAX {
            let why = "it is a link, so another program's, such as systemd-resolved's, behind which nobody knows who asks: \
                       give workloads the resolver by `ripstop exec`, or make it a file; `dns: { resolved: true }` gives \
                       everyone behind systemd-resolved the names of the workload that is `run: host`";
            return Err(failed("change")(io::Error::new(ErrorKind::Unsupported, why)));
        }
        if self.is_ours() {
            return Ok(());
        }
        let own = fs::read_to_string(&self.file).map_err(failed("read"))?;
        self.replace(&found, &format!("{MARK}nameserver {resolver}\n{own}")).map_err(failed("replace"))
    }

    /// At every moment one of the two is there, whole.
    fn replace(&self, found: &fs::Metadata, text: &str) -> io::Result<()> {
        remove(&self.next)?;
        let mut next = File::options().write(true).create_new(true).mode(0o600).open(&self.next)?;
        next.write_all(text.as_bytes())?;
        next.set_permissions(fs::Permissions::from_mode(found.mode() & 0o7777))?;
        next.sync_all()?;
        // One that is left from before is not the host's own any more.
        remove(&self.before)?;
        fs::hard_link(&self.file, &self.before)?;
        let renamed = fs::rename(&self.next, &self.file).and_then(|()| self.sync());
        renamed.inspect_err(|_| drop(fs::remove_file(&self.next)))
    }

    fn restore(&self) -> Result<bool, Error> {
        let failed = |source| Error::file("restore", &self.file, source);
        if !self.before.exists() {
            return Ok(false);
        }
        if self.is_ours() {
            fs::rename(&self.before, &self.file).map_err(failed)?;
        } else {
            remove(&self.before).map_err(failed)?;
        }
        remove(&self.next).and_then(|()| self.sync()).map_err(failed)?;
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "# mine\nnameserver 192.0.2.53\noptions edns0";

    fn place(directory: &Path) -> Place {
        let place = Place::of(&directory.join("resolv.conf"));
        fs::write(&place.file, OWN).unwrap();
        place
    }

    fn files(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn the_very_file_comes_back_whenever_that_is() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        let inode = || fs::metadata(&place.file).unwrap().ino();
        let before = inode();
        for _ in 0..2 {
            // The second is an agent after one that was killed.
            place.install(Ipv4Addr::new(198, 18, 0, 1)).unwrap();
            let text = fs::read_to_string(&place.file).unwrap();
            assert_eq!(text, format!("{MARK}nameserver 198.18.0.1\n{OWN}"));
        }
        assert!(place.restore().unwrap());
        assert_eq!((fs::read_to_string(&place.file).unwrap().as_str(), inode()), (OWN, before));
        assert!(!place.restore().unwrap());
        assert_eq!(files(directory.path()), 1);
    }

    #[test]
    fn what_somebody_else_has_put_there_since_stays() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        place.install(Ipv4Addr::new(198, 18, 0, 1)).unwrap();
        fs::write(&place.file, "nameserver 192.0.2.99\n").unwrap();
        assert!(place.restore().unwrap());
        assert_eq!(fs::read_to_string(&place.file).unwrap(), "nameserver 192.0.2.99\n");
        assert_eq!(files(directory.path()), 1);
    }

    #[test]
    fn another_program_s_link_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        fs::rename(&place.file, directory.path().join("stub")).unwrap();
        std::os::unix::fs::symlink("stub", &place.file).unwrap();
        let error = anyhow::Error::new(place.install(Ipv4Addr::LOCALHOST).unwrap_err());
        assert!(format!("{error:#}").contains("systemd-resolved"), "{error:#}");
        assert_eq!(files(directory.path()), 2);
    }
}
