//! What is said between the agent and its door: one message a request, one an answer. At most one descriptor comes with a request,
//! and with an answer one for each queue of a device.

use super::{super::Error, Family};
use crate::{netns::NsId, tun::QUEUES_MAX};
use rustix::io::retry_on_intr;
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
/// Descriptors with a request: that of a namespace.
pub(super) const WITH_REQUEST: usize = 1;
/// Descriptors with an answer: those of a device's queues. The kernel would pass 253 (`SCM_MAX_FD`).
pub(super) const WITH_ANSWER: usize = QUEUES_MAX as usize;
/// Queues of a device where a request does not say: it is of an agent that knows no others.
const ONE_QUEUE: u8 = 1;

/// All that the agent may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// A descriptor of the network namespace at a path or, where an identity is given, of that one, also if it is elsewhere
    /// by now.
    Namespace { path: String, id: Option<NsId> },
    /// A netlink socket inside the namespace whose descriptor comes along.
    Socket { family: Family },
    /// A new TUN device inside the namespace whose descriptor comes along. A door that knows devices of one queue only
    /// hears of no others unless they are asked for.
    Device {
        name: String,
        #[serde(default = "one_queue", skip_serializing_if = "is_one_queue")]
        queues: u8,
    },
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
    /// It comes along: one, or as many as were asked for.
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
    Descriptors(Vec<OwnedFd>),
    /// Done, to so many files.
    Count(usize),
    /// It is not there any more.
    Gone,
}

impl Done {
    /// The one descriptor that was asked for.
    pub(super) fn descriptor(self) -> Result<OwnedFd, Error> {
        self.descriptors(1).and_then(|mut one| one.pop().ok_or_else(|| not_so_many(0, 1)))
    }

    /// The descriptors, so many of which were asked for.
    pub(super) fn descriptors(self, asked: usize) -> Result<Vec<OwnedFd>, Error> {
        match self {
            Self::Descriptors(descriptors) if descriptors.len() == asked => Ok(descriptors),
            Self::Descriptors(descriptors) => Err(not_so_many(descriptors.len(), asked)),
            Self::Count(_) | Self::Gone => Err(not_so_many(0, asked)),
        }
    }

    pub(super) fn count(self) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Descriptors(_) | Self::Gone => 0,
        }
    }
}

impl Answer {
    /// What is said of an outcome, and the descriptors that go with it.
    pub(super) fn of(outcome: Result<Done, Error>) -> (Self, Vec<OwnedFd>) {
        match outcome {
            Ok(Done::Descriptors(descriptors)) => (Self::Descriptor, descriptors),
            Ok(Done::Count(count)) => (Self::Count(count), Vec::new()),
            Ok(Done::Gone) => (Self::Gone, Vec::new()),
            Err(error) => {
                let code = error.raw_os_error();
                (Self::Refused { why: format!("{:#}", anyhow::Error::new(error)), code }, Vec::new())
            }
        }
    }

    /// What it means to the agent.
    pub(super) fn done(self, descriptors: Vec<OwnedFd>) -> Result<Done, Error> {
        match self {
            Self::Descriptor => Ok(Done::Descriptors(descriptors)),
            Self::Count(count) => Ok(Done::Count(count)),
            Self::Gone => Ok(Done::Gone),
            Self::Refused { why, code } => Err(Error::Refused { why, code }),
        }
    }
}

fn not_so_many(sent: usize, asked: usize) -> Error {
    Error::Door(format!("it sent {sent} descriptors where {asked} were asked for: has the agent none left?"))
}

fn one_queue() -> u8 {
    ONE_QUEUE
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it by reference")]
fn is_one_queue(queues: &u8) -> bool {
    *queues == ONE_QUEUE
}

/// Whether root, or this process's own user, is at the other end.
pub fn is_trusted(socket: impl AsFd) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    sockopt::socket_peercred(socket).is_ok_and(|peer| [0, own].contains(&peer.uid.as_raw()))
}

/// Sends a message, and descriptors with it, [`WITH_ANSWER`] at most.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is longer than any that is needed"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(WITH_ANSWER))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than a message takes"));
    }
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Waits for a message with at most so many descriptors, beyond which the kernel closes them; none when the other end is
/// closed. Where the socket has a time limit the kernel leaves it to us to go on after a signal (signal(7)); the limit then counts anew.
///
/// # Errors
/// `InvalidData` for one that is too long, comes with too many descriptors, or is no message; the next may be right.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd, most: usize) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(most))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = retry_on_intr(|| recvmsg(&socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC))?;
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
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || descriptors.len() > most {
        return Err(malformed("a message that is too long, or with more descriptors than belong to it"));
    }
    let message = serde_json::from_slice(&bytes[..received.bytes]);
    let message = message.map_err(|error| malformed(&format!("a message that is none of those it knows: {error}")))?;
    Ok(Some((message, descriptors)))
}
