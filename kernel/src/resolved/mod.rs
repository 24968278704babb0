//! systemd-resolved, where it answers DNS for the host: it is told, over D-Bus, to ask the fabric's resolver for the fabric's
//! names, on the interface of the workload that is the host itself, and nobody else for those (org.freedesktop.resolve1(5)).
//!
//! What it is told belongs to the interface, and is forgotten with it: however the agent ends, the kernel takes the interface
//! away, and nothing is left to be restored. Its own settings, `/etc/resolv.conf` and all other names stay as they are.
//!
//! It asks on behalf of everyone on the host. So the names that it can give are those of that one workload, whoever
//! asks; who connects is still told by the kernel, and decided as ever.

mod bus;

use bus::{Argument, Bus, Target};
use nix::net::if_::if_nametoindex;
use std::{io, net::Ipv4Addr};

const RESOLVED: Target = Target {
    service: "org.freedesktop.resolve1",
    path: "/org/freedesktop/resolve1",
    interface: "org.freedesktop.resolve1.Manager",
};
/// The address family of IPv4, as resolved has it (`AF_INET`, socket.h).
const INET: i32 = libc::AF_INET;
/// What resolved is not to do on the interface: no secure names are there, and nobody else to ask.
const OFF: [&str; 4] = ["SetLinkDNSSEC", "SetLinkDNSOverTLS", "SetLinkLLMNR", "SetLinkMulticastDNS"];

/// Why systemd-resolved is not told.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// No bus, or it does not answer.
    #[error("failed to ask systemd-resolved: is D-Bus there, and systemd-resolved running?")]
    Bus(#[from] io::Error),
    /// It refuses.
    #[error("systemd-resolved refuses {call}: {why}")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// What it says.
        why: String,
    },
    /// The interface is gone.
    #[error("the interface {0} is not there")]
    Link(String),
}

/// Has systemd-resolved ask the fabric's resolver, on an interface, for the names below the fabric's suffix. Said again, it is
/// the same. Blocks for some milliseconds, and some seconds at most.
///
/// # Errors
/// [`ResolvedError`].
pub fn split(link: &str, resolver: Ipv4Addr, suffix: &str) -> Result<(), ResolvedError> {
    let index = if_nametoindex(link).map_err(|_| ResolvedError::Link(link.to_owned()))?;
    let index = i32::try_from(index).map_err(|_| ResolvedError::Link(link.to_owned()))?;
    let mut bus = Bus::connect()?;
    let mut call = |member, arguments: &[Argument<'_>]| bus.call(&RESOLVED, member, index, arguments);
    for member in OFF {
        call(member, &[Argument::Text("no")])?;
    }
    call("SetLinkDNS", &[Argument::Addresses(&[(INET, &resolver.octets())])])?;
    // For names below it alone: `true` is what `~` is in resolved.conf(5).
    call("SetLinkDomains", &[Argument::Domains(&[(suffix, true)])])?;
    call("SetLinkDefaultRoute", &[Argument::Flag(false)])
}
