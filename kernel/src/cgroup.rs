//! Control groups, version 2: finding one, and whether a socket is of it.
//!
//! The kernel notes with each socket the group of the process that opened it, and nf_tables and sock_diag tell groups by
//! number, the inode of their directory, which is never given twice. So it does not matter where they are mounted.

use super::Error;
use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Groups looked at below one, at most: more than any service manager or container engine makes below a service.
const BELOW_MAX: usize = 4_096;

/// A control group of this host.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// Its path from the root group, such as `/system.slice/nginx.service`.
    pub path: String,
    /// Its number, never given twice while the host runs.
    pub id: u64,
    directory: PathBuf,
    /// Groups that were found below it.
    below: Arc<Mutex<HashSet<u64>>>,
}

impl PartialEq for Cgroup {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.id) == (&other.path, other.id)
    }
}

impl Eq for Cgroup {}

impl Cgroup {
    /// The group at a path.
    ///
    /// # Errors
    /// `NotFound` when it is not there; `Unsupported` when no cgroup2 file system is mounted here.
    pub fn find(path: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let why = "no cgroup2 file system is mounted here: mount one, in a container with `-v /sys/fs/cgroup:/sys/fs/cgroup:ro`";
        let root = mount_point(&mounts).ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, why))?;
        let directory = root.join(path.trim_start_matches('/'));
        let found = fs::metadata(&directory)?;
        Ok(Self { path: path.to_owned(), id: found.ino(), directory, below: Arc::default() })
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// Without the right to, or when it has groups below it that share resources.
    pub fn join(&self) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), "0")
    }

    /// How deep it is below the root group.
    pub(super) fn level(&self) -> u32 {
        u32::try_from(self.path.split('/').filter(|part| !part.is_empty()).count()).unwrap_or(u32::MAX)
    }

    /// Whether it is this group or one below it.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        // Nothing is half done in a set of numbers.
        let mut below = self.below.lock().unwrap_or_else(PoisonError::into_inner);
        if id == self.id || below.contains(&id) {
            return true;
        }
        below.extend(groups_below(&self.directory));
        below.contains(&id)
    }
}

/// Where the whole cgroup2 hierarchy is mounted (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

fn groups_below(directory: &Path) -> HashSet<u64> {
    let (mut found, mut rest) = (HashSet::new(), vec![directory.to_owned()]);
    while let Some(next) = rest.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let is_group = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if let (true, Ok(found_there)) = (is_group && found.len() < BELOW_MAX, entry.metadata()) {
                found.insert(found_there.ino());
                rest.push(entry.path());
            }
        }
    }
    found
}

/// What a kernel lacks that cannot tell control groups' packets apart.
pub(super) fn explain(error: Error) -> Error {
    match error {
        Error::Netlink { what, source } if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            let need = "packets of control groups need CONFIG_SOCK_CGROUP_DATA, nft_socket, nft_ct and nft_nat: try \
                        `modprobe -a nft_socket nft_ct nft_chain_nat`, or give the workload a user or a namespace";
            Error::Netlink { what: format!("{what} ({need})"), source }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let hybrid = "31 27 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 27 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("32 27 0:27 /a/b /mnt rw shared:9 - cgroup2 cgroup2 rw\n"), None, "only a part of it");
        assert_eq!(mount_point(""), None);
    }

    #[test]
    fn a_group_has_those_below_it_and_no_others() {
        let Ok(root) = Cgroup::find("/") else { return };
        let own = root.directory.join(format!("ripstop-test-{}", std::process::id()));
        if fs::create_dir_all(own.join("a/b")).is_err() {
            eprintln!("SKIPPED: control groups cannot be made here");
            return;
        }
        let id = |path: &str| fs::metadata(own.join(path)).unwrap().ino();
        let name = own.file_name().unwrap().to_str().unwrap();
        let group = Cgroup::find(&format!("/{name}/a")).unwrap();
        let found = [id("a"), id("a/b"), id("")].map(|id| group.contains(id));
        for made in ["a/b", "a", ""] {
            fs::remove_dir(own.join(made)).unwrap();
        }
        assert_eq!((found, group.level()), ([true, true, false], 2));
        assert_eq!(Cgroup::find(&group.path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
