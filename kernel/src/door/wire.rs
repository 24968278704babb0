//! What is said between the agent and its door: one message a request, one an answer, and at most one descriptor with each.

use super::{super::Error, Family};
use crate::netns::NsId;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Bytes of a message at most: the longest path is 4 096, which JSON may write at six times its length only where it is of
/// control characters; an error's text is of a path and some words.
pub(super) const MESSAGE_MAX: usize = 16 << 10;
/// Descriptors with a message; the kernel closes what does not fit.
const DESCRIPTORS_MAX: usize = 1;

/// All that the agent may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// A descriptor of the network namespace at a path or, where an identity is given, of that one, also if it is elsewhere
    /// by now.
    Namespace { path: String, id: Option<NsId> },
    /// A netlink socket inside the namespace whose descriptor comes along.
    Socket { family: Family },
    /// A TUN device inside the namespace whose descriptor comes along.
    Device { name: String },
    /// The file `/etc/netns/NAME/resolv.conf`.
    MakeResolver { name: String, resolver: Ipv4Addr },
    /// No such file any more, nor the directories that were made for it.
    RemoveResolver { name: String, directories: Vec<String> },
    /// The fabric's resolver first in `/etc/resolv.conf`.
    InstallHostResolver { resolver: Ipv4Addr },
    /// The host's own `/etc/resolv.conf`.
    RestoreHostResolver,
}

/// What the door says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    /// It comes along.
    Descriptor,
    /// Done, to so many files.
    Count(usize),
    /// What was asked for is not there any more.
    Gone,
    /// Not done: why, for people, and the system's error number where there was one.
    Refused { why: String, code: Option<i32> },
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Done {
    /// Opened.
    Descriptor(OwnedFd),
    /// Done, to so many files.
    Count(usize),
    /// It is not there any more.
    Gone,
}

impl Done {
    pub(super) fn descriptor(self) -> Result<OwnedFd, Error> {
        match self {
            Self::Descriptor(descriptor) => Ok(descriptor),
            Self::Count(_) | Self::Gone => Err(Error::Door("it sent no descriptor".into())),
        }
    }

    pub(super) fn count(self) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Descriptor(_) | Self::Gone => 0,
        }
    }
}

impl Answer {
    /// What is said of an outcome, and the descriptor that goes with it.
    pub(super) fn of(outcome: Result<Done, Error>) -> (Self, Option<OwnedFd>) {
        match outcome {
            Ok(Done::Descriptor(descriptor)) => (Self::Descriptor, Some(descriptor)),
            Ok(Done::Count(count)) => (Self::Count(count), None),
            Ok(Done::Gone) => (Self::Gone, None),
            Err(error) => {
                let code = error.raw_os_error();
                (Self::Refused { why: format!("{:#}", anyhow::Error::new(error)), code }, None)
            }
        }
    }

    /// What it means to the agent.
    pub(super) fn done(self, descriptor: Option<OwnedFd>) -> Result<Done, Error> {
        match (self, descriptor) {
            (Self::Descriptor, Some(descriptor)) => Ok(Done::Descriptor(descriptor)),
            (Self::Descriptor, None) => Err(Error::Door("it sent no descriptor: has the agent none left?".into())),
            (Self::Count(count), _) => Ok(Done::Count(count)),
            (Self::Gone, _) => Ok(Done::Gone),
            (Self::Refused { why, code }, _) => Err(Error::Refused { why, code }),
        }
    }
}

/// Whether root, or this process's own user, is at the other end.
pub fn is_trusted(socket: impl AsFd) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    sockopt::socket_peercred(socket).is_ok_and(|peer| [0, own].contains(&peer.uid.as_raw()))
}

/// Sends a message, and a descriptor with it.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is longer than any that is needed"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|one| [one]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a message; none when the other end is closed.
///
/// # Errors
/// `InvalidData` for one that is too long, comes with too many descriptors, or is no message; the next may be right.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let malformed = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || descriptors.len() > DESCRIPTORS_MAX {
        return Err(malformed("a message that is too long, or with more than one descriptor"));
    }
    let message = serde_json::from_slice(&bytes[..received.bytes]);
    let message = message.map_err(|error| malformed(&format!("a message that is none of those it knows: {error}")))?;
    Ok(Some((message, descriptors.pop())))
}
