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
//! - from anybody, what goes to the fabric by a device that is no interface of it;
//! - from a user, what goes to the fabric by another interface; if it is isolated, whatever goes by another device;
//! - within the host, what has an address of the fabric that is not the host's own: with `IPV6_FREEBIND` anyone may take
//!   that of another host's workload;
//! - by the interface of a control group, what is not that group's, and from the group what goes to the fabric by another
//!   device;
//! - by the interface of the host, what the host forwards;
//! - from a namespace, what goes to the fabric by another device; from an isolated one, whatever goes by another device.
//!
//! Otherwise loopback is not guarded. Each interface has a table of its own, which stands when the agent dies. That of a control
//! group also leads its packets to the interface, see [`group`].

use super::{
    AttachPlan, Cgroup, Error, Place,
    attach::fabric,
    cgroup,
    door::Site,
    nft,
    nft::{Chain, Hook, Kind, Step},
};
use ipnet::IpNet;
use std::{io, net::IpAddr};

/// What the names of our tables begin with; the interface's name follows.
const PREFIX: &str = "ripstop-";
/// What the names of the fabric's interfaces begin with.
pub const LINKS: &str = "rs-";
/// The loopback interface, which cannot be renamed away from its namespace.
const LOOPBACK: &str = "lo";
/// The agent, and whatever else may do anything on the host anyway.
const ROOT: u32 = 0;
/// The upper half of the marks of control groups' packets, "RS"; the lower is the interface's number.
const MARKS: u16 = 0x5253;

type Rules<'a> = Vec<Vec<Step<'a>>>;

/// The mark of the packets of the control group whose interface has this number.
pub(super) fn mark_of(slot: u32) -> u32 {
    (u32::from(MARKS) << 16) | slot
}

/// Sets the guard of an interface up; one that stands is replaced at once.
///
/// # Errors
/// When the kernel has no nf_tables: without it nobody's packets can be told apart for sure.
pub(super) fn install(site: &Site<'_>, plan: &AttachPlan, slot: Option<u32>) -> Result<(), Error> {
    let installed = nft::replace_table(site, &table_of(&plan.link), &chains(plan, slot)).map_err(|source| {
        let what = format!("guard the interface {}{}", plan.link, remedy(&source));
        Error::Netlink { what, source }
    });
    match plan.place {
        Place::Cgroup(_) => installed.map_err(cgroup::explain),
        Place::Netns(_) | Place::User { .. } | Place::Host => installed,
    }
}

/// Removes the guard of one interface; says whether there was one.
pub(super) fn remove(site: &Site<'_>, link: &str) -> Result<bool, Error> {
    let table = table_of(link);
    remove_where(site, |name| name == table).map(|removed| removed > 0)
}

/// Removes all guards of the calling thread's namespace; says how many.
pub(super) fn remove_all() -> Result<usize, Error> {
    remove_where(&Site::Own, |name| name.starts_with(PREFIX))
}

fn table_of(link: &str) -> String {
    format!("{PREFIX}{link}")
}

fn chains(plan: &AttachPlan, slot: Option<u32>) -> Vec<Chain<'_>> {
    let sent = |rules| vec![Chain { name: "output", hook: Hook::Sent, kind: Kind::Filter, rules }];
    let elsewhere = [Step::Link { name: &plan.link, is: false }, Step::Link { name: LOOPBACK, is: false }];
    match &plan.place {
        Place::Netns(_) => sent(leaving(plan, &elsewhere)),
        Place::User { uid } => sent(user(plan, *uid, &elsewhere)),
        Place::Cgroup(cgroup) => group(plan, cgroup, mark_of(slot.unwrap_or_default())),
        Place::Host => host(plan),
    }
}

fn user<'a>(plan: &'a AttachPlan, uid: u32, elsewhere: &[Step<'a>]) -> Rules<'a> {
    let foreign = [Step::User { uid, is: false }, Step::User { uid: ROOT, is: false }, Step::Refuse];
    let through = Step::Link { name: &plan.link, is: true };
    let by_root = [through, Step::User { uid: ROOT, is: true }];
    let mut rules = vec![
        [&[through], &foreign[..]].concat(),
        [&by_root[..], &[Step::Tcp { is: false }, Step::Refuse]].concat(),
        [&by_root[..], &[Step::Tcp { is: true }, Step::Opens, Step::Refuse]].concat(),
    ];
    for own in addresses(plan) {
        rules.push([&[WITHIN, Step::From { range: own, is: true }], &foreign[..]].concat());
    }
    rules.extend(disguised(plan, Step::User { uid, is: true }));
    rules.extend(nobody(plan));
    rules.extend(leaving(plan, &[&[Step::User { uid, is: true }], elsewhere].concat()));
    rules
}

/// What stays within the host.
const WITHIN: Step<'_> = Step::Link { name: LOOPBACK, is: true };

fn addresses(plan: &AttachPlan) -> [IpNet; 2] {
    [IpAddr::from(plan.v4).into(), IpAddr::from(plan.v6).into()]
}

/// What a workload sends within the host from another address of the fabric than its own.
fn disguised<'a>(plan: &AttachPlan, whose: Step<'a>) -> Rules<'a> {
    let mut rules = Rules::new();
    for own in addresses(plan) {
        for range in fabric(&plan.ranges) {
            let other = [Step::From { range, is: true }, Step::From { range: own, is: false }, Step::Refuse];
            if matches!((range, own), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_))) {
                rules.push([&[WITHIN, whose], &other[..]].concat());
            }
        }
    }
    rules
}

/// What nobody on the host may do: send within it from an address of the fabric that it does not have, but for the agent,
/// and send to the fabric by a device that is no interface of it.
fn nobody<'a>(plan: &AttachPlan) -> Rules<'a> {
    let mut rules = Rules::new();
    for range in fabric(&plan.ranges) {
        let forged = [Step::From { range, is: true }, Step::Local { is: false }, Step::Refuse];
        rules.push([&[WITHIN, Step::User { uid: ROOT, is: false }], &forged[..]].concat());
        let elsewhere = [Step::LinkNamed { begins: LINKS, is: false }, Step::Link { name: LOOPBACK, is: false }];
        rules.push([&elsewhere[..], &[Step::To(range), Step::Refuse]].concat());
    }
    rules
}

/// The chains of a control group.
///
/// 1. A socket was connected by the main table, which leads to the first of such interfaces, and has its address.
/// 2. The packet is marked if its socket is of the group. What has no socket any more, such as the last acknowledgement of
///    a connection, has its connection's mark; but a socket of somebody else in a dead one's place has none.
/// 3. The kernel routes it again, by its mark, to the group's own interface.
/// 4. Nothing without the mark leaves there, and nothing with the mark elsewhere.
/// 5. It leaves with the interface's own address.
fn group<'a>(plan: &'a AttachPlan, cgroup: &Cgroup, mark: u32) -> Vec<Chain<'a>> {
    let of_group = Step::Cgroup { id: cgroup.id, level: cgroup.level() };
    let through = Step::Link { name: &plan.link, is: true };
    let marked = |is| Step::Marked { mark, is };
    let (mut marking, mut leaving) = (Rules::new(), vec![vec![through, marked(false), Step::Drop]]);
    for to in fabric(&plan.ranges).map(Step::To) {
        marking.push(vec![to, Step::OfMarked(mark), Step::Mark(mark)]);
        marking.push(vec![to, marked(true), Step::HasProgram, Step::Mark(0)]);
        marking.push(vec![to, of_group, Step::Mark(mark), Step::MarkConnection(mark)]);
        let elsewhere = [Step::Link { name: &plan.link, is: false }, Step::Link { name: LOOPBACK, is: false }];
        leaving.push([&[to, marked(true)], &elsewhere[..], &[Step::Drop]].concat());
    }
    let arriving = vec![vec![Step::Into(&plan.link), Step::Mark(mark), Step::MarkConnection(mark)]];
    let disguise = |own: IpNet| vec![through, Step::From { range: own, is: false }, Step::Disguise(own.addr())];
    let filter = |name, hook, rules| Chain { name, hook, kind: Kind::Filter, rules };
    vec![
        filter("prerouting", Hook::Arriving, arriving),
        Chain { name: "route", hook: Hook::Sent, kind: Kind::Route, rules: marking },
        filter("output", Hook::Sent, group_sends(plan, of_group)),
        filter("postrouting", Hook::Leaving, leaving),
        Chain { name: "nat", hook: Hook::Leaving, kind: Kind::Nat, rules: addresses(plan).map(disguise).to_vec() },
    ]
}

/// What is refused to a group, and to others because of it. The device is still that of the main table here.
fn group_sends<'a>(plan: &'a AttachPlan, of_group: Step<'a>) -> Rules<'a> {
    let through = Step::Link { name: &plan.link, is: true };
    let mut rules = vec![vec![through, Step::MarkedAs { upper: MARKS, is: false }, Step::Refuse]];
    rules.extend(disguised(plan, of_group));
    for own in addresses(plan) {
        let from = [WITHIN, Step::From { range: own, is: true }];
        rules.push([&from[..], &[of_group, Step::Pass]].concat());
        rules.push([&from[..], &[Step::User { uid: ROOT, is: false }, Step::Refuse]].concat());
    }
    rules.extend(nobody(plan));
    if plan.isolated {
        rules.extend(fabric(&plan.ranges).map(|range| vec![of_group, Step::To(range), Step::Pass]));
        rules.push(vec![of_group, Step::Link { name: LOOPBACK, is: false }, Step::Refuse]);
    }
    rules
}

/// The chains of the host itself: what it forwards is somebody else's, and what has a control group's mark is that group's.
fn host(plan: &AttachPlan) -> Vec<Chain<'_>> {
    let through = Step::Link { name: &plan.link, is: true };
    let filter = |name, hook, rules| Chain { name, hook, kind: Kind::Filter, rules };
    vec![
        filter("output", Hook::Sent, nobody(plan)),
        filter("forward", Hook::Forwarded, vec![vec![through, Step::Refuse]]),
        filter(
            "postrouting",
            Hook::Leaving,
            vec![vec![through, Step::MarkedAs { upper: MARKS, is: true }, Step::Drop]],
        ),
    ]
}

/// What leaves elsewhere is refused if it is for the fabric; of an isolated workload, all of it.
fn leaving<'a>(plan: &AttachPlan, leaves: &[Step<'a>]) -> Rules<'a> {
    if plan.isolated {
        return vec![[leaves, &[Step::Refuse]].concat()];
    }
    fabric(&plan.ranges).map(|range| [leaves, &[Step::To(range), Step::Refuse]].concat()).collect()
}

fn remove_where(site: &Site<'_>, which: impl Fn(&str) -> bool) -> Result<usize, Error> {
    let failed = |source| Error::Netlink { what: "remove a guard".to_owned(), source };
    let tables = match nft::tables(site) {
        Err(error) if is_absent(&error) => return Ok(0),
        listed => listed.map_err(failed)?,
    };
    let mut removed = 0;
    for table in tables.iter().filter(|name| which(name)) {
        nft::delete_table(site, table).map_err(failed)?;
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
