//! One interface: the device, its addresses, the routes to it and, on the host, the rules that choose it.
//!
//! In a namespace the main table sends the fabric's ranges to the interface. On the host a table of the interface's own
//! does, and rules send one user's packets there, or those that the guard has marked as a control group's; the main table
//! refuses the ranges to everyone else, unless the host itself has an interface. As the kernel only marks what it could
//! route, the main table leads to a control group's interface too, whose guard refuses what is not the group's. An isolated
//! namespace has such a table as well, and one rule that sends everything there, before the main table is asked. Behind
//! every route to an interface stands an `unreachable` one, which takes over the moment the interface goes.

use super::{
    AttachPlan, Error, HOST_INTERFACES, Place, QUEUES_MAX, Tun,
    door::{Doorway, Site},
    guard,
    journal::{Attachment, Journal},
    link, netlink,
    netns::{self, NsId},
    resolv,
    route::{self, FIRST, MAIN, Route, Rule, Via},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ripstop_config::graph::Ranges;
use rtnetlink::{Handle, packet_route::link::InfoKind};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// Bytes of a packet at most: TCP is terminated by the agent, so the path's MTU is not the interface's.
const MTU: u32 = 65_535;
/// Packets that wait for the agent at most, in each queue; at the usual 500 a burst of one flow already drops.
const QUEUE: u32 = 4000;
/// Longest interface name, bytes (`IFNAMSIZ` less its end).
const NAME_LIMIT: usize = 15;

/// The routing table of the first interface on the host; the others follow.
const TABLE_BASE: u32 = 214_000;
/// The rule priority of the first interface on the host; the others follow. Before main (32766) and the usual VPN rules.
const PRIORITY_BASE: u32 = 2_140;

/// The priority of the rules for marks. Before all others of ours: what is marked may have the source address of the main
/// table's choice, or the user of another workload.
const MARK_PRIORITY: u32 = PRIORITY_BASE - 2;
/// The priority of the rules for what has the address of a control group or of the host, behind all others of ours: only
/// what none of them knows is what the kernel itself answers.
const ANSWER_PRIORITY: u32 = PRIORITY_BASE + HOST_INTERFACES;

/// The routing table of an isolated namespace, which has no other.
const ISOLATED_TABLE: u32 = TABLE_BASE - 1;
/// The priority of the rule that leads to it.
const ISOLATED_PRIORITY: u32 = PRIORITY_BASE - 1;

/// The metric of the main table's routes to the host's own interface, and of those to the first control group's.
const HOST_METRIC: u32 = 10;
const GROUP_METRIC: u32 = 20;

/// The routing table of an interface on the host.
pub(super) fn table_of(slot: u32) -> u32 {
    TABLE_BASE + slot
}

/// Checks a plan and says what carrying it out will change. `is_left` is what a dead agent left, which stands in nobody's
/// way.
pub(super) fn plan_attachment(
    doorway: &Doorway,
    journal: &Journal,
    is_left: impl Fn(&Attachment) -> bool,
    plan: &AttachPlan,
) -> Result<Attachment, Error> {
    let refuse = |why: &str| Error::Plan { link: plan.link.clone(), why: why.to_owned() };
    let bad_byte = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace();
    if plan.link.is_empty() || plan.link.len() > NAME_LIMIT || plan.link.bytes().any(bad_byte) {
        return Err(refuse("an interface's name is 1 to 15 bytes without `/`, `:` and spaces"));
    }
    if !(1..=QUEUES_MAX).contains(&plan.queues) {
        return Err(refuse("a device has 1 to 16 queues"));
    }
    if journal.find(&plan.link).is_some_and(|found| !is_left(found)) {
        return Err(refuse("an interface of this name is attached already"));
    }
    let id = |path: &Path| doorway.identify(path).map_err(|source| Error::namespace("find", path, source));
    let own = id(Path::new(netns::OWN))?;
    let (resolver_for, directories) = resolv::plan(plan);
    let attachment = |namespace: Option<&Path>, id: NsId, slot: Option<u32>| Attachment {
        link: plan.link.clone(),
        namespace: namespace.map(Path::to_owned),
        id,
        slot,
        uid: None,
        cgroup: None,
        host: plan.place == Place::Host,
        guarded: true,
        isolated: plan.isolated,
        fabric: fabric(&plan.ranges).collect(),
        resolver_for,
        directories,
    };
    if let Place::Netns(path) = &plan.place {
        return match id(path)? {
            inside if inside == own => {
                Err(refuse("its namespace is the agent's own: run the workload as a user, or in a namespace"))
            }
            inside => Ok(attachment(Some(path), inside, None)),
        };
    }
    if plan.place == (Place::User { uid: 0 }) {
        return Err(refuse("root is not a workload: its packets cannot be told from the host's"));
    }
    if let Some((other, whose)) = owner_of(journal, is_left, &plan.place) {
        let why = format!("{whose} has the interface {other} already: it is one workload, name another for this one");
        return Err(refuse(&why));
    }
    let slot = free_slot(journal).ok_or_else(|| refuse("the host has no routing table left for another workload"))?;
    let attachment = attachment(None, own, Some(slot));
    Ok(match &plan.place {
        Place::User { uid } => Attachment { uid: Some(*uid), ..attachment },
        Place::Cgroup(cgroup) => Attachment { cgroup: Some(cgroup.id), ..attachment },
        Place::Host | Place::Netns(_) => attachment,
    })
}

/// Checks that nothing of anyone else is where the interface is to be: undoing a failed attachment would take it too.
pub(super) fn check_place(site: &Site<'_>, plan: &AttachPlan, attachment: &Attachment) -> Result<(), Error> {
    let tables = attachment.slot.map_or(vec![MAIN, ISOLATED_TABLE], |slot| vec![table_of(slot)]);
    let taken = link::exists_at(site, &plan.link)?;
    let attached = netlink::run_at(site, async |handle: Handle| route::has_interface(&handle, &tables).await)?;
    let why = match (taken, attached) {
        (false, false) => return Ok(()),
        (true, _) => "a link of this name is there, and is not ours: delete it, or rename the workload",
        (false, true) => "an interface of the fabric is there already: one workload has one, and one agent makes it",
    };
    Err(Error::Plan { link: plan.link.clone(), why: why.to_owned() })
}

/// Deletes the interface that a dead agent left, if the kernel has not done so yet; its routes go with it.
pub(super) fn remove_link(site: &Site<'_>, attachment: &Attachment) -> Result<(), Error> {
    let deleting = async |handle: Handle| link::delete_link(&handle, &attachment.link, Some(InfoKind::Tun)).await;
    netlink::run_at(site, deleting).map(drop)
}

/// Carries a plan out. On failure the caller undoes the attachment.
pub(super) fn attach(
    doorway: &Doorway,
    site: &Site<'_>,
    plan: &AttachPlan,
    attachment: &Attachment,
) -> Result<Vec<Tun>, Error> {
    let queues = create(site, plan, attachment.slot)?;
    resolv::create(doorway, plan, attachment)?;
    Ok(queues)
}

/// The interface of a user, of a control group or of the host, and whose it is.
fn owner_of<'j>(
    journal: &'j Journal,
    is_left: impl Fn(&Attachment) -> bool,
    place: &Place,
) -> Option<(&'j str, String)> {
    let whose = place.programs()?.to_string();
    let is = |other: &Attachment| match place {
        Place::Netns(_) => false,
        Place::User { uid } => other.uid == Some(*uid),
        Place::Cgroup(cgroup) => other.cgroup == Some(cgroup.id),
        Place::Host => other.host,
    };
    let found = journal.entries().iter().find(|other| is(other) && !is_left(other))?;
    Some((&found.link, whose))
}

fn free_slot(journal: &Journal) -> Option<u32> {
    let taken = |slot: u32| journal.entries().iter().any(|other| other.slot == Some(slot));
    (0..HOST_INTERFACES).find(|slot| !taken(*slot))
}

/// Creates the device and configures it.
fn create(site: &Site<'_>, plan: &AttachPlan, slot: Option<u32>) -> Result<Vec<Tun>, Error> {
    guard::install(site, plan, slot)?;
    let queues = site.device(&plan.link, plan.queues)?;
    let has_v6 = netlink::run_at(site, async |handle: Handle| configure(&handle, plan, slot).await)?;
    Ok(queues.into_iter().map(|queue| Tun::of(queue, &plan.link, has_v6)).collect())
}

/// Gives the device its addresses and routes; `false` where it can have no IPv6.
async fn configure(handle: &Handle, plan: &AttachPlan, slot: Option<u32>) -> Result<bool, Error> {
    let v6 = has_ipv6();
    let known = move |to: &IpNet| v6 || matches!(to, IpNet::V4(_));
    let routed = || fabric(&plan.ranges).chain(everything().filter(|_| takes_all(plan))).filter(known);
    let table = match (slot, plan.isolated) {
        (Some(slot), _) => table_of(slot),
        (None, true) => ISOLATED_TABLE,
        (None, false) => MAIN,
    };
    // What refuses comes first, so that at no moment a packet takes the host's default route. It stands for IPv6 as well
    // where the interface itself can have no IPv6.
    for to in routed() {
        route::add_route(handle, Route { to, table, via: Via::Unreachable }).await?;
    }
    if table != MAIN {
        choose(handle, plan, slot, known).await?;
    }
    let index = link::index_of(handle, &plan.link).await?;
    if plan.queues > 1
        && let Err(error) = link::set_no_queueing(handle, index).await
    {
        tracing::warn!(%error, link = %plan.link, "the interface takes 20 MB more of the kernel's memory");
    }
    link::set_up_tun(handle, index, MTU, QUEUE).await?;
    link::add_address(handle, index, plan.v4.into(), 32).await?;
    let has_v6 = add_v6_address(handle, index, plan.v6).await?;
    if let Place::Cgroup(_) = plan.place {
        check_sources_by_mark(handle, index, &plan.link).await;
    }
    let lead = async |table: u32, to: IpNet, metric: u32| {
        let via = Via::Interface { index, source: source_for(plan, to), metric };
        route::add_route(handle, Route { to, table, via }).await
    };
    for to in routed().filter(|to| has_v6 || matches!(to, IpNet::V4(_))) {
        lead(table, to, FIRST).await?;
        if let Some(metric) = metric_in_main(plan, slot) {
            lead(MAIN, to, metric).await?;
        }
    }
    Ok(has_v6)
}

/// Whether not only the fabric is routed to the interface. Of a control group the guard refuses all else.
fn takes_all(plan: &AttachPlan) -> bool {
    match plan.place {
        Place::Netns(_) | Place::User { .. } => plan.isolated,
        Place::Cgroup(_) | Place::Host => false,
    }
}

/// The metric of the main table's routes to the interface, where there are any.
fn metric_in_main(plan: &AttachPlan, slot: Option<u32>) -> Option<u32> {
    match plan.place {
        Place::Netns(_) | Place::User { .. } => None,
        Place::Cgroup(_) => Some(GROUP_METRIC + slot.unwrap_or_default()),
        Place::Host => Some(HOST_METRIC),
    }
}

/// Lets a strict rp_filter find the way back by the mark that the guard gives to what arrives. Without one it does nothing,
/// so that a kernel that refuses is no mistake by itself.
async fn check_sources_by_mark(handle: &Handle, index: u32, link: &str) {
    if let Err(error) = link::check_sources_by_mark(handle, index).await {
        tracing::warn!(link, %error, "failed to set src_valid_mark; if rp_filter is 1, set it to 2 on this host");
    }
}

/// Adds the IPv6 address; `false` where this namespace has IPv6 switched off.
async fn add_v6_address(handle: &Handle, index: u32, address: Ipv6Addr) -> Result<bool, Error> {
    match link::add_address(handle, index, address.into(), 128).await {
        Ok(()) => Ok(true),
        Err(error) if is_v6_off(&error) => {
            tracing::warn!(%address, "IPv6 is switched off there: the interface has an IPv4 address only");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// `disable_ipv6` gives EACCES; a kernel without IPv6 knows no such family.
fn is_v6_off(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

/// Whether this kernel has IPv6, be it switched off for some interfaces or all of them.
fn has_ipv6() -> bool {
    Path::new("/proc/thread-self/net/if_inet6").exists()
}

/// Rules that send what is the workload's to the interface's table, and the main table's refusal to everyone else.
async fn choose(
    handle: &Handle,
    plan: &AttachPlan,
    slot: Option<u32>,
    known: impl Fn(&IpNet) -> bool,
) -> Result<(), Error> {
    for to in fabric(&plan.ranges).filter(&known) {
        route::add_route(handle, Route { to, table: MAIN, via: Via::Unreachable }).await?;
    }
    let all = takes_all(plan);
    let chosen = everything().filter(|_| all).chain(fabric(&plan.ranges).filter(|_| !all));
    for to in chosen.filter(known) {
        for rule in rules_for(plan, slot, to) {
            route::add_rule(handle, rule).await?;
        }
    }
    Ok(())
}

fn rules_for(plan: &AttachPlan, slot: Option<u32>, to: IpNet) -> Vec<Rule> {
    let (table, priority) = match slot {
        Some(slot) => (table_of(slot), PRIORITY_BASE + slot),
        None => (ISOLATED_TABLE, ISOLATED_PRIORITY),
    };
    let rule = Rule { uid: None, mark: None, from: None, to, table, priority };
    // The kernel itself answers for sockets that are gone, and checks sources of what the agent writes (rp_filter),
    // as user 0 with the workload's address.
    let answers = Rule { from: Some(source_for(plan, to)), ..rule };
    match &plan.place {
        Place::Netns(_) => vec![rule],
        // Only root could use the second otherwise.
        Place::User { uid } => vec![Rule { uid: Some(*uid), ..rule }, Rule { uid: Some(0), ..answers }],
        // What others send there is refused by the guard.
        Place::Cgroup(_) => {
            let marked = Rule { mark: slot.map(guard::mark_of), priority: MARK_PRIORITY, ..rule };
            vec![marked, Rule { priority: ANSWER_PRIORITY, ..answers }]
        }
        Place::Host => vec![Rule { priority: ANSWER_PRIORITY, ..answers }],
    }
}

/// The fabric's ranges.
pub(super) fn fabric(ranges: &Ranges) -> impl Iterator<Item = IpNet> + use<> {
    [IpNet::V4(ranges.services_v4), IpNet::V4(ranges.workloads_v4), IpNet::V6(ranges.v6)].into_iter()
}

fn everything() -> impl Iterator<Item = IpNet> {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
    [IpNet::V4(v4), IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))].into_iter()
}

fn source_for(plan: &AttachPlan, to: IpNet) -> IpAddr {
    match to {
        IpNet::V4(_) => plan.v4.into(),
        IpNet::V6(_) => plan.v6.into(),
    }
}
