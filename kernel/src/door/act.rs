//! What the door does, and what it refuses.
//!
//! Whoever asks may be under a workload's control. So nothing here takes a path to write to, a command to run or a byte to
//! store: names are checked against the forms that the agent makes, and what is opened is proved to be a network namespace
//! before anything is done in it.

use super::{
    Family,
    wire::{Done, Request},
};
use crate::{
    Error,
    guard::LINKS,
    host_resolver,
    netns::{self, NsId},
    resolv,
    tun::{self, QUEUES_MAX},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Component, Path},
};

/// Longest interface name, bytes (`IFNAMSIZ` less its end).
const LINK_MAX: usize = 15;
/// Longest path, bytes (`PATH_MAX` less its end).
const PATH_MAX: usize = 4_095;
/// Longest name of a file, bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Directories that are made for one file at most.
const DIRECTORIES_MAX: usize = 2;

/// Does what was asked for; `namespace` is the descriptor that came along.
///
/// # Errors
/// [`Error::Door`] for what may not be asked; else what the system refused.
pub(super) fn act(request: &Request, namespace: Option<&File>) -> Result<Done, Error> {
    match request {
        Request::Namespace { path, id } => find(checked_path(path)?, *id),
        Request::Socket { family } => inside(namespace, || Ok(vec![open_socket(*family)?])),
        Request::Device { name, queues } => {
            let (name, queues) = (checked_link(name)?, checked_queues(*queues)?);
            inside(namespace, || open_device(name, queues))
        }
        Request::MakeResolver { name, resolver } => {
            resolv::make_file(checked_name(name)?, *resolver).map(|()| Done::Count(1))
        }
        Request::RemoveResolver { name, directories } => {
            let name = checked_name(name)?;
            resolv::remove_file(name, checked_directories(name, directories)?).map(Done::Count)
        }
        Request::InstallHostResolver { resolver } => host_resolver::install(*resolver).map(|()| Done::Count(1)),
        Request::RestoreHostResolver => host_resolver::restore().map(|restored| Done::Count(restored.into())),
    }
}

/// A netlink socket in the calling thread's namespace.
pub(super) fn open_socket(family: Family) -> Result<OwnedFd, Error> {
    let protocol = match family {
        Family::Route => SockProtocol::NetlinkRoute,
        Family::Netfilter => SockProtocol::NetlinkNetFilter,
        Family::Sockets => SockProtocol::NetlinkSockDiag,
    };
    let opened = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol);
    opened.map_err(|source| Error::Netlink { what: "open a netlink socket".into(), source: source.into() })
}

/// A new TUN device in the calling thread's namespace; one descriptor for each queue.
pub(super) fn open_device(name: &str, queues: u8) -> Result<Vec<OwnedFd>, Error> {
    tun::create(name, queues).map_err(|source| Error::Tun { link: name.to_owned(), source })
}

fn find(path: &Path, id: Option<NsId>) -> Result<Done, Error> {
    match id {
        Some(id) => Ok(netns::find(id, Some(path)).map_or(Done::Gone, |file| Done::Descriptors(vec![file.into()]))),
        None => match netns::open(path) {
            Ok(namespace) => Ok(Done::Descriptors(vec![namespace.into()])),
            Err(source) => Err(Error::namespace("open", path, source)),
        },
    }
}

/// What was opened, or why not.
type Opened = Result<Vec<OwnedFd>, Error>;

/// Does something on a thread inside the namespace. The kernel lets no thread into what is no network namespace.
fn inside(namespace: Option<&File>, work: impl FnOnce() -> Opened + Send) -> Result<Done, Error> {
    let namespace = namespace.ok_or_else(|| Error::Door("no namespace came along".into()))?;
    netns::run_in_file(namespace, Path::new("that came along"), work)?.map(Done::Descriptors)
}

fn checked_path(path: &str) -> Result<&Path, Error> {
    let checked = Path::new(path);
    let straight = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if path.len() > PATH_MAX || path.contains('\0') || !checked.is_absolute() || !checked.components().all(straight) {
        return Err(refused("a namespace's path is absolute, of 4 095 bytes at most, and without `..`"));
    }
    Ok(checked)
}

/// As the agent names its interfaces; above all no pattern in which the kernel would put a number.
fn checked_link(name: &str) -> Result<&str, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.starts_with(LINKS) || name.len() > LINK_MAX || !name.bytes().all(plain) {
        return Err(refused("an interface's name is `rs-` and up to 12 letters, digits, `-`, `_` and `.`"));
    }
    Ok(name)
}

fn checked_queues(queues: u8) -> Result<u8, Error> {
    match queues {
        1..=QUEUES_MAX => Ok(queues),
        _ => Err(refused("a device has 1 to 16 queues")),
    }
}

fn checked_name(name: &str) -> Result<&str, Error> {
    let mut parts = Path::new(name).components();
    let single = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    if !single || name.len() > NAME_MAX || name.contains('\0') {
        return Err(refused("a namespace's name is that of a file, without `/`"));
    }
    Ok(name)
}

/// Only what would be made for this namespace's file.
fn checked_directories<'r>(name: &str, directories: &'r [String]) -> Result<&'r [String], Error> {
    let made = resolv::directories_of(name);
    let known = |directory: &String| made.iter().any(|one| one == Path::new(directory));
    if directories.len() > DIRECTORIES_MAX || !directories.iter().all(known) {
        return Err(refused("no other directories are removed than those of the namespace's file"));
    }
    Ok(directories)
}

fn refused(why: &str) -> Error {
    Error::Door(why.to_owned())
}
