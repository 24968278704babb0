//! Where the next agent reaches the one that runs: a socket in the run directory, for root and the agent's own user alone.
//!
//! Whoever comes in there is given everything that the agent has. So it is apart from the admin socket, which others may be
//! allowed to use.

use super::Channel;
use ripstop_kernel::is_trusted;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::net::UnixListener;

/// The socket's name in the run directory.
pub const ENTRANCE: &str = "successor.sock";
/// Agents that wait to be heard: one is heard at a time, others are turned away.
const WAITING_MAX: i32 = 4;
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The listening end. Dropping it removes the file, unless another agent has it.
///
/// The runtime only waits for the socket and accepts, for which its type does not matter.
#[derive(Debug)]
pub struct Entrance {
    listener: UnixListener,
    file: PathBuf,
    moved: Arc<AtomicBool>,
}

impl Entrance {
    /// Makes the socket, in place of one that a dead agent left. Call it with the run directory's lock, within a runtime.
    /// `moved` is set while the file is another agent's.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(file: &Path, moved: Arc<AtomicBool>) -> io::Result<Self> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        bind(&listener, &SocketAddrUnix::new(file)?)?;
        fs::set_permissions(file, Permissions::from_mode(0o600))?;
        listen(&listener, WAITING_MAX)?;
        Self::inherit(listener, file, moved)
    }

    /// The socket of another agent of this host, which has it, too.
    ///
    /// # Errors
    /// When the runtime cannot watch another descriptor.
    pub fn inherit(listener: OwnedFd, file: &Path, moved: Arc<AtomicBool>) -> io::Result<Self> {
        let listener = UnixListener::from_std(listener.into())?;
        Ok(Self { listener, file: file.to_owned(), moved })
    }

    /// The socket, for another agent of this host.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// The next agent that comes. Whoever is neither root nor this process's user is turned away.
    ///
    /// # Errors
    /// What the system says; the next call may succeed.
    pub async fn accept(&self) -> io::Result<Channel> {
        loop {
            let (end, _) = self.listener.accept().await?;
            if is_trusted(&end) {
                return Channel::new(end.into_std()?.into());
            }
            tracing::warn!("somebody who is not root came to take over from this agent, and was turned away");
        }
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        if !self.moved.load(Ordering::Relaxed) {
            // Nothing is lost when it is gone already.
            let _ = fs::remove_file(&self.file);
        }
    }
}

/// Reaches the agent that listens there. Within a runtime.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is none, `PermissionDenied` when it is neither root's nor this user's.
pub fn reach(file: &Path) -> io::Result<Channel> {
    let end = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    connect(&end, &SocketAddrUnix::new(file)?)?;
    if !is_trusted(&end) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "who answers there is not root"));
    }
    Channel::new(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::MESSAGE_MAX;

    #[tokio::test]
    async fn who_comes_in_is_heard_and_the_file_goes_with_its_last_owner() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(ENTRANCE);
        assert_eq!(reach(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&file, "left by another").unwrap();
        let moved = Arc::new(AtomicBool::new(false));
        let first = Entrance::bind(&file, Arc::clone(&moved)).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let coming = reach(&file).unwrap();
        let heard = first.accept().await.unwrap();
        heard.send(b"hello", &[]).await.unwrap();
        let mut buffer = vec![0; MESSAGE_MAX];
        assert_eq!(coming.receive(&mut buffer).await.unwrap().unwrap().0, 5);
        let next = Entrance::inherit(first.descriptor().unwrap(), &file, Arc::new(AtomicBool::new(false))).unwrap();
        moved.store(true, Ordering::Relaxed);
        drop(first);
        assert!(file.exists(), "it is the next one's");
        let _another = reach(&file).unwrap();
        next.accept().await.unwrap();
        drop(next);
        assert!(!file.exists());
        assert_eq!(reach(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_end_that_is_closed_one_way_still_hears() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(ENTRANCE);
        let entrance = Entrance::bind(&file, Arc::default()).unwrap();
        let coming = reach(&file).unwrap();
        let heard = entrance.accept().await.unwrap();
        heard.finish();
        let mut buffer = vec![0; MESSAGE_MAX];
        assert!(coming.receive(&mut buffer).await.unwrap().is_none());
        coming.send(b"bye", &[]).await.unwrap();
        assert_eq!(heard.receive(&mut buffer).await.unwrap().unwrap().0, 3);
        drop(coming);
        assert!(heard.receive(&mut buffer).await.unwrap().is_none());
    }
}
