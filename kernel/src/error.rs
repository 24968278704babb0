//! What can go wrong with the kernel's state.

use std::{io, path::PathBuf};

/// Why the kernel's state could not be changed or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent holds the run directory.
    #[error("{} is in use by another agent{}; stop it, or give this one a `run:` directory of its own", .dir.display(), of_pid(.pid))]
    Locked {
        /// The run directory.
        dir: PathBuf,
        /// The process that holds it, where it said so.
        pid: Option<u32>,
    },
    /// The journal cannot be understood.
    #[error(
        "the journal cannot be read ({why}); kept as {}. Only this network namespace was cleaned: look for interfaces \
         and routes of protocol {} in the workloads' namespaces",
        .kept.display(), super::ROUTE_PROTOCOL
    )]
    CorruptJournal {
        /// Where the unreadable journal was moved.
        kept: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file or directory of the agent cannot be read or written.
    #[error("failed to {what} {}", .path.display())]
    File {
        /// What was tried: "create", "write".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A network namespace cannot be found, entered or made.
    #[error("failed to {what} the network namespace {}", .path.display())]
    Namespace {
        /// What was tried: "enter", "create".
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The plan cannot be carried out as it stands.
    #[error("the interface {link} cannot be attached: {why}")]
    Plan {
        /// The interface.
        link: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The TUN device was refused.
    #[error("failed to create the interface {link}")]
    Tun {
        /// The interface.
        link: String,
        /// What the system said.
        source: io::Error,
    },
    /// A change of links, addresses, routes or rules was refused.
    #[error("failed to {what}")]
    Netlink {
        /// What was tried: "add the route 198.18.0.0/16 dev rs-web".
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The door was asked for what it does not do, or did what it should not.
    #[error("the door: {0}")]
    Door(String),
    /// The door says no.
    #[error("{why}")]
    Refused {
        /// What it says.
        why: String,
        /// The system's error number behind it.
        code: Option<i32>,
    },
    /// The process that alone may enter namespaces does not answer any more.
    #[error(
        "the door, the process that enters namespaces for the agent, has ended: sessions go on, but nothing can be \
         attached or removed; restart the agent"
    )]
    DoorGone,
    /// A thread that does the kernel's work panicked or could not start.
    #[error("failed to run a thread for the kernel's work: {0}")]
    Thread(String),
}

impl Error {
    /// The system's error number behind it, where there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::File { source, .. }
            | Self::Namespace { source, .. }
            | Self::Tun { source, .. }
            | Self::Netlink { source, .. } => source.raw_os_error(),
            Self::Refused { code, .. } => *code,
            Self::Locked { .. }
            | Self::CorruptJournal { .. }
            | Self::Plan { .. }
            | Self::Door(_)
            | Self::DoorGone
            | Self::Thread(_) => None,
        }
    }

    /// As an error of the system, whose number it keeps where there is one.
    pub(super) fn into_io(self) -> io::Error {
        self.raw_os_error().map_or_else(|| io::Error::other(self), io::Error::from_raw_os_error)
    }

    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { what, path: path.into(), source }
    }

    pub(super) fn namespace(what: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Namespace { what, path: path.into(), source: source.into() }
    }

    pub(super) fn netlink(what: impl Into<String>, error: rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            // Named here, as their own text is all of a message, and so all that netlink can say.
            rtnetlink::Error::RequestFailed => io::Error::other("the request was not answered"),
            rtnetlink::Error::UnexpectedMessage(_) => io::Error::other("the kernel's answer is not of this request"),
            rtnetlink::Error::InvalidNla(why) | rtnetlink::Error::NamespaceError(why) => io::Error::other(why),
            _ => io::Error::other("the request has an address that is none"),
        };
        Self::Netlink { what: what.into(), source }
    }
}

fn of_pid(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
