//! The guard of an interface: what routes alone cannot hold.
//!
//! Any program may bind a socket to a device, or name one for a packet (`SO_BINDTODEVICE` since Linux 5.7,
//! `IP_PKTINFO`, `IP_UNICAST_IF`). Routing then looks at that device only: IPv6 falls through to another table's
//! default route, and IPv4 takes a destination that no route leads to for a neighbour on that device's link. So one user
//! could send through another's interface, with its address, and an isolated workload through any device of its
//! namespace. nf_tables sees a packet after its device is settled, and refuses there:
//!
//! - through a user's interface, what is not that user's; root may answer there for a server that listens as root and
//!   serves as the user, but opens nothing;
//! - within the host, what has a user's address and is not that user's or the agent's, and what a user sends from another
//!   address of the fabric: an endpoint may take its caller's address for its name;
//! - from a user, what goes to the fabric by another device; if it is isolated, whatever goes by another device;
//! - within the host, what has an address of the fabric that is not the host's own: with `IPV6_FREEBIND` anyone may take
//!   that of another host's workload;
//! - from a namespace, what goes to the fabric by another device; from an isolated one, whatever goes by another device.
//!
//! Otherwise loopback is not guarded. Each interface has a table of its own, which stands when the agent dies.

use super::{AttachPlan, Error, Place, attach::fabric, nft, nft::Step};
use ipnet::IpNet;
use std::{io, net::IpAddr};

/// What the names of our tables begin with; the interface's name follows.
const PREFIX: &str = "ripstop-";
/// The loopback interface, which cannot be renamed away from its namespace.
const LOOPBACK: &str = "lo";
/// The agent, and whatever else may do anything on the host anyway.
const ROOT: u32 = 0;

/// Sets the guard of an interface up, in the calling thread's namespace.
///
/// # Errors
/// When the kernel has no nf_tables: without it nobody's packets can be told apart for sure.
pub(super) fn install(plan: &AttachPlan) -> Result<(), Error> {
    nft::replace_table(&table_of(&plan.link), &rules(plan)).map_err(|source| {
        let what = format!("guard the interface {}{}", plan.link, remedy(&source));
        Error::Netlink { what, source }
    })
}

/// Removes the guard of one interface; says whether there was one.
pub(super) fn remove(link: &str) -> Result<bool, Error> {
    let table = table_of(link);
    remove_where(|name| name == table).map(|removed| removed > 0)
}

/// Removes all guards of the calling thread's namespace; says how many.
pub(super) fn remove_all() -> Result<usize, Error> {
    remove_where(|name| name.starts_with(PREFIX))
}

fn table_of(link: &str) -> String {
    format!("{PREFIX}{link}")
}

fn rules(plan: &AttachPlan) -> Vec<Vec<Step<'_>>> {
    let elsewhere = [Step::Link { name: &plan.link, is: false }, Step::Link { name: LOOPBACK, is: false }];
    let Place::User { uid } = plan.place else { return leaving(plan, &elsewhere) };
    let foreign = [Step::User { uid, is: false }, Step::User { uid: ROOT, is: false }, Step::Refuse];
    let through = Step::Link { name: &plan.link, is: true };
    let by_root = [through, Step::User { uid: ROOT, is: true }];
    let mut rules = vec![
        [&[through], &foreign[..]].concat(),
        [&by_root[..], &[Step::Tcp { is: false }, Step::Refuse]].concat(),
        [&by_root[..], &[Step::Tcp { is: true }, Step::Opens, Step::Refuse]].concat(),
    ];
    let within = Step::Link { name: LOOPBACK, is: true };
    for own in [IpNet::from(IpAddr::from(plan.v4)), IpAddr::from(plan.v6).into()] {
        rules.push([&[within, Step::From { range: own, is: true }], &foreign[..]].concat());
        for range in fabric(&plan.ranges) {
            let other = [Step::From { range, is: true }, Step::From { range: own, is: false }, Step::Refuse];
            if matches!((range, own), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_))) {
                rules.push([&[within, Step::User { uid, is: true }], &other[..]].concat());
            }
        }
    }
    rules.extend(fabric(&plan.ranges).map(|range| {
        let forged = [Step::From { range, is: true }, Step::Local { is: false }, Step::Refuse];
        [&[within, Step::User { uid: ROOT, is: false }], &forged[..]].concat()
    }));
    rules.extend(leaving(plan, &[&[Step::User { uid, is: true }], &elsewhere[..]].concat()));
    rules
}

/// What leaves elsewhere is refused if it is for the fabric; of an isolated workload, all of it.
fn leaving<'a>(plan: &AttachPlan, leaves: &[Step<'a>]) -> Vec<Vec<Step<'a>>> {
    if plan.isolated {
        return vec![[leaves, &[Step::Refuse]].concat()];
    }
    fabric(&plan.ranges).map(|range| [leaves, &[Step::To(range), Step::Refuse]].concat()).collect()
}

fn remove_where(which: impl Fn(&str) -> bool) -> Result<usize, Error> {
    let failed = |source| Error::Netlink { what: "remove a guard".to_owned(), source };
    let tables = match nft::tables() {
        Err(error) if is_absent(&error) => return Ok(0),
        listed => listed.map_err(failed)?,
    };
    let mut removed = 0;
    for table in tables.iter().filter(|name| which(name)) {
        nft::delete_table(table).map_err(failed)?;
        removed += 1;
    }
    Ok(removed)
}

fn remedy(error: &io::Error) -> &'static str {
    let lacks = is_absent(error) || error.raw_os_error() == Some(libc::ENOENT);
    if lacks { ": the kernel lacks nf_tables, try `modprobe -a nf_tables nft_reject_inet nft_fib_inet`" } else { "" }
}

/// A kernel without netfilter, or without nf_tables in it.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
}
