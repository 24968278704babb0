//! The door: the one process of the agent that may enter namespaces, and the agent's end of the way to it.
//!
//! 1. Before it has threads, the agent starts its own binary once more, as `ripstop door`, with one end of a pair of sockets
//!    ([`Door::start`]). That process keeps CAP_SYS_ADMIN; the agent drops it. Or a service manager starts that process for
//!    whoever connects to a socket ([`Door::connect`]), and the agent never has the right.
//! 2. The agent asks for one thing at a time out of a closed set ([`wire::Request`]), and gets descriptors or a refusal: a
//!    namespace; a netlink socket or a TUN device that was opened inside one; the files for name resolution below `/etc`.
//! 3. What is then said on a socket or carried by a device is the agent's own doing, for which CAP_NET_ADMIN is enough, as
//!    the kernel asks in whose namespace a socket was opened, not where its user is.
//! 4. The door believes nothing: [`act`] checks each request as if a workload had taken the agent over. It ends when the
//!    agent's end closes.
//!
//! Commands that root runs without an agent, such as `ripstop cleanup`, have no door and do the same in their own process
//! ([`Doorway::Here`]).

mod act;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

pub use serve::serve;
pub use wire::is_trusted;

use super::{
    Error, host_resolver,
    netns::{self, NsId},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, shutdown, socketpair, sockopt};
use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use wire::{Done, Request};

/// The command that makes a process the door.
pub const COMMAND: &str = "door";
/// The binary that runs, also when another one has its name by now.
const SELF: &str = "/proc/self/exe";
/// Wait for the door's answer: the longest request looks through all processes for a namespace, some 100 ms on a host with
/// 100 000 of them.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Netlink families whose sockets are opened inside namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    /// Links, addresses, routes, rules.
    Route,
    /// nf_tables.
    Netfilter,
    /// Sockets of programs, to end them.
    Sockets,
}

/// How namespaces are entered.
#[derive(Debug)]
pub enum Doorway {
    /// By this process itself, which has the right to.
    Here,
    /// By the door.
    Process(Door),
}

/// The agent's end of the way to its door.
#[derive(Debug)]
pub struct Door {
    /// None after a failure: an answer that came late would be taken for the next one.
    way: Mutex<Option<OwnedFd>>,
    /// Where a service manager starts another one.
    socket: Option<PathBuf>,
    /// The agent needs it no more.
    shut: AtomicBool,
}

impl Door {
    /// Starts the door. Call it before there are other threads, and before rights are dropped.
    ///
    /// # Errors
    /// When the process cannot be started, or keeps its door shut.
    pub fn start() -> io::Result<(Self, Child)> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(SELF);
        command.arg(COMMAND).env_clear().stdin(Stdio::from(far)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = command.spawn()?;
        // With the other end of the way, which is the door's alone from here on.
        drop(command);
        let door = Self { way: Mutex::default(), socket: None, shut: AtomicBool::new(false) };
        door.open(near)?;
        Ok((door, child))
    }

    /// Has a service manager start the door, at the other end of this socket.
    ///
    /// # Errors
    /// When nobody answers there, or somebody who is neither root nor this process's user.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let door = Self { way: Mutex::default(), socket: Some(socket.to_owned()), shut: AtomicBool::new(false) };
        door.reconnect()?;
        Ok(door)
    }

    /// Has it start another one in place of one that has ended.
    ///
    /// # Errors
    /// `Unsupported` where no service manager starts doors; else as [`Door::connect`].
    pub fn reconnect(&self) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::Unsupported.into()) };
        let near = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&near, &SocketAddrUnix::new(socket)?)?;
        if !is_trusted(&near) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "who answers there is not root"));
        }
        self.open(near)
    }

    /// Shuts it for good, as the agent needs it no more: its process ends.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
        if let Some(open) = self.way.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may have ended before.
            let _ = shutdown(&open, Shutdown::Both);
        }
    }

    /// Whether the agent has shut it.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// Waits until the way to it is closed, from whatever end.
    ///
    /// # Errors
    /// What the system says; nothing is known then.
    pub fn wait_closed(&self) -> io::Result<()> {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(OwnedFd::try_clone);
        let Some(way) = way.transpose()? else { return Ok(()) };
        // That it is closed is told unasked (`POLLHUP`, poll(2)).
        let mut watched = [PollFd::new(way.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut watched, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => {}
                waited => return waited.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Takes this way, once the door answers there: it has given up what it does not need then.
    fn open(&self, near: OwnedFd) -> io::Result<()> {
        for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&near, direction, Some(ANSWER_MAX))?;
        }
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(near);
        let own = Request::Namespace { path: netns::OF_PROCESS.to_owned(), id: None };
        self.ask(&own, None).map(drop).map_err(io::Error::other)
    }

    fn ask(&self, request: &Request, namespace: Option<&File>) -> Result<Done, Error> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = way.as_ref() else { return Err(Error::DoorGone) };
        let along: Vec<_> = namespace.map(File::as_fd).into_iter().collect();
        let answered = wire::send(open, request, &along)
            .and_then(|()| wire::receive::<wire::Answer>(open, wire::WITH_ANSWER))
            .and_then(|answer| answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        match answered {
            Ok((answer, descriptors)) => answer.done(descriptors),
            Err(error) => {
                tracing::error!(%error, "the door does not answer");
                // Whoever waits for its end is told, and so is a door that merely hangs.
                let _ = shutdown(open, Shutdown::Both);
                *way = None;
                Err(Error::DoorGone)
            }
        }
    }
}

impl Doorway {
    /// A namespace by the path that leads to it. What this process may not look at, the door may.
    pub(super) fn namespace(&self, path: &Path) -> Result<File, Error> {
        self.open(path, None).and_then(|found| found.ok_or_else(|| gone(path)))
    }

    /// The namespace of this identity, wherever it is by now; none when it is gone.
    pub(super) fn find(&self, id: NsId, hint: &Path) -> Result<Option<File>, Error> {
        self.open(hint, Some(id))
    }

    /// Which namespace a path leads to.
    ///
    /// # Errors
    /// `NotFound` when the path leads nowhere; what the system or the door says.
    pub fn identify(&self, path: &Path) -> io::Result<NsId> {
        match NsId::of(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let namespace = self.namespace(path).map_err(Error::into_io)?;
                NsId::of_file(&namespace)
            }
            identified => identified,
        }
    }

    /// A netlink socket inside a namespace.
    pub(super) fn socket(&self, namespace: &File, family: Family) -> Result<OwnedFd, Error> {
        self.ask(&Request::Socket { family }, Some(namespace)).and_then(Done::descriptor)
    }

    /// A new TUN device inside a namespace, down and without addresses; one descriptor for each queue, non-blocking.
    pub(super) fn device(&self, namespace: &File, name: &str, queues: u8) -> Result<Vec<OwnedFd>, Error> {
        let made = self.ask(&Request::Device { name: name.to_owned(), queues }, Some(namespace))?;
        made.descriptors(queues.into())
    }

    /// Makes `/etc/netns/NAME/resolv.conf`.
    pub(super) fn make_resolver(&self, name: &str, resolver: Ipv4Addr) -> Result<(), Error> {
        self.ask(&Request::MakeResolver { name: name.to_owned(), resolver }, None).map(drop)
    }

    /// Removes that file, and of the directories above it those that were made for it; says how many files.
    pub(super) fn remove_resolver(&self, name: &str, directories: &[PathBuf]) -> Result<usize, Error> {
        let directories = directories.iter().map(|one| text_of(one)).collect::<Result<_, _>>()?;
        self.ask(&Request::RemoveResolver { name: name.to_owned(), directories }, None).map(Done::count)
    }

    /// Puts the fabric's resolver first in the host's `/etc/resolv.conf`. What a dead agent made of it stays.
    ///
    /// # Errors
    /// When the file is another program's, or cannot be replaced, as where it is mounted into a container.
    pub fn install_host_resolver(&self, resolver: Ipv4Addr) -> Result<(), Error> {
        self.ask(&Request::InstallHostResolver { resolver }, None).map(drop)
    }

    /// Puts the host's own file back; says how many files.
    pub(super) fn restore_host_resolver(&self) -> Result<usize, Error> {
        // Without anything to do it is no matter whether the door is there.
        if !host_resolver::is_replaced() {
            return Ok(0);
        }
        self.ask(&Request::RestoreHostResolver, None).map(Done::count)
    }

    fn open(&self, path: &Path, id: Option<NsId>) -> Result<Option<File>, Error> {
        match self.ask(&Request::Namespace { path: text_of(path)?, id }, None)? {
            Done::Gone => Ok(None),
            done @ (Done::Descriptors(_) | Done::Count(_)) => done.descriptor().map(|found| Some(File::from(found))),
        }
    }

    fn ask(&self, request: &Request, namespace: Option<&File>) -> Result<Done, Error> {
        match self {
            Self::Here => act::act(request, namespace),
            Self::Process(door) => door.ask(request, namespace),
        }
    }
}

/// Paths go to the door as text.
fn text_of(path: &Path) -> Result<String, Error> {
    let text = path.to_str().map(ToOwned::to_owned);
    text.ok_or_else(|| Error::Door(format!("{} is not UTF-8: give it another name", path.display())))
}

fn gone(path: &Path) -> Error {
    Error::namespace("open", path, io::ErrorKind::NotFound)
}

/// Where the kernel's work is done: whose sockets and devices are opened.
#[derive(Debug)]
pub(super) enum Site<'d> {
    /// The calling thread's namespace.
    Own,
    /// Another one.
    Other {
        /// Who enters it.
        doorway: &'d Doorway,
        /// The namespace.
        namespace: File,
    },
}

impl<'d> Site<'d> {
    /// The site of a namespace, wherever that is by now; none when it is gone.
    pub(super) fn find(doorway: &'d Doorway, id: NsId, hint: Option<&Path>) -> Result<Option<Self>, Error> {
        let own = Path::new(netns::OWN);
        if NsId::of(own).is_ok_and(|own| own == id) {
            return Ok(Some(Self::Own));
        }
        let found = doorway.find(id, hint.unwrap_or(own))?;
        Ok(found.map(|namespace| Self::Other { doorway, namespace }))
    }

    /// A netlink socket there.
    pub(super) fn socket(&self, family: Family) -> Result<OwnedFd, Error> {
        match self {
            Self::Own => act::open_socket(family),
            Self::Other { doorway, namespace } => doorway.socket(namespace, family),
        }
    }

    /// A new TUN device there; one descriptor for each queue.
    pub(super) fn device(&self, name: &str, queues: u8) -> Result<Vec<OwnedFd>, Error> {
        match self {
            Self::Own => act::open_device(name, queues),
            Self::Other { doorway, namespace } => doorway.device(namespace, name, queues),
        }
    }
}
