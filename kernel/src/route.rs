//! Routes and rules that carry our protocol number: adding them, and finding and deleting them again.

use super::{Error, netlink};
use ipnet::IpNet;
use rtnetlink::{
    Handle, IpVersion,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
        },
        rule::{RuleAction, RuleAttribute, RuleMessage, RuleUidRange},
    },
};
use std::net::IpAddr;

/// The route protocol number of everything the agent adds (`ip route show proto 214`). Not among the numbers that
/// routing daemons use, which end at 192.
pub const ROUTE_PROTOCOL: u8 = 214;

/// The main routing table.
pub(super) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// The metric of routes through an interface that is the only one: in IPv4 none, which is before all, and in IPv6, where
/// none means 1024, one before any that an administrator would add.
pub(super) const FIRST: u32 = 0;
const FIRST_V6: u32 = 1;
/// Metric of the standing `unreachable` routes: behind any other route, even those without a metric of their own.
const STANDING_METRIC: u32 = 0xffff_fff0;
/// Bit of `RTAX_CC_ALGO` in `RTAX_LOCK`: applications cannot choose another congestion control.
const LOCK_CONGESTION: u32 = 1 << 16;
/// BBR paces itself to a fraction of what an interface takes; Cubic does not pace.
const CONGESTION: &str = "cubic";

/// Where what the namespace itself sends "comes from", in rules; checks of a packet's source (rp_filter) as well.
const LOOPBACK: &str = "lo";

/// A route of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) to: IpNet,
    pub(super) table: u32,
    pub(super) via: Via,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Via {
    /// Through an interface, with this source unless the application says otherwise, before routes of greater metrics.
    Interface { index: u32, source: IpAddr, metric: u32 },
    /// Refused at once, when no interface takes it.
    Unreachable,
}

/// A rule of ours: what this namespace itself sends to a range, or what one user or control group does, is looked up in a
/// table.
///
/// Never what it forwards, which is user 0's in the kernel's eyes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) uid: Option<u32>,
    /// The mark that a guard gave it.
    pub(super) mark: Option<u32>,
    pub(super) from: Option<IpAddr>,
    pub(super) to: IpNet,
    pub(super) table: u32,
    pub(super) priority: u32,
}

/// Adds a route. A standing route that is there already is what was wanted.
pub(super) async fn add_route(handle: &Handle, route: Route) -> Result<(), Error> {
    let (what, standing) = match route.via {
        Via::Interface { .. } => (format!("add the route {} to the interface", route.to), false),
        Via::Unreachable => (format!("add the standing route unreachable {}", route.to), true),
    };
    let added = match try_add(handle, route_message(route, true)).await {
        Err(error) if is_code(&error, &[libc::EINVAL, libc::ENOENT]) && !standing => {
            // This kernel has no Cubic: slower, but right.
            try_add(handle, route_message(route, false)).await
        }
        added => added,
    };
    match added {
        Err(error) if is_code(&error, &[libc::EEXIST]) && standing => Ok(()),
        Err(error) if is_code(&error, &[libc::EEXIST]) => {
            Err(Error::netlink(format!("{what}: delete the other route to {} that is there first", route.to), error))
        }
        added => added.map_err(|error| Error::netlink(what, error)),
    }
}

/// Adds a rule. One that is there already is what was wanted.
pub(super) async fn add_rule(handle: &Handle, rule: Rule) -> Result<(), Error> {
    let mut request = handle.rule().add();
    *request.message_mut() = rule_message(rule);
    let user = rule.uid.map(|uid| format!(" uidrange {uid}-{uid}")).unwrap_or_default();
    let what = || format!("add the rule{user} to {} lookup {}", rule.to, rule.table);
    match request.execute().await {
        Err(error) if is_code(&error, &[libc::EEXIST]) => Ok(()),
        added => added.map_err(|error| Error::netlink(what(), error)),
    }
}

/// Whether one of the tables has a route of ours to an interface that is there: some agent is attached.
pub(super) async fn has_interface(handle: &Handle, tables: &[u32]) -> Result<bool, Error> {
    let live = |route: &RouteMessage| {
        is_our_route(route) && tables.contains(&route_table(route)) && route.header.kind == RouteType::Unicast
    };
    Ok(list_routes(handle, AddressFamily::Inet).await?.iter().any(live))
}

/// Deletes our rules that `which` picks by their table; says how many.
pub(super) async fn delete_rules(handle: &Handle, which: impl Fn(u32) -> bool) -> Result<usize, Error> {
    let mut deleted = 0;
    for family in [IpVersion::V4, IpVersion::V6] {
        let Some(rules) = if_family(netlink::collect("list the rules", handle.rule().get(family).execute()).await)?
        else {
            continue;
        };
        for rule in rules.into_iter().filter(|rule| is_our_rule(rule) && which(rule_table(rule))) {
            let gone = handle.rule().del(rule).execute().await;
            deleted += usize::from(gone_or(gone, "delete a rule")?);
        }
    }
    Ok(deleted)
}

/// Deletes our routes that `which` picks by their table; says how many.
pub(super) async fn delete_routes(handle: &Handle, which: impl Fn(u32) -> bool) -> Result<usize, Error> {
    let mut deleted = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = list_routes(handle, family).await?;
        for route in routes.iter().filter(|route| is_our_route(route) && which(route_table(route))) {
            let gone = handle.route().del(key_of(route)).execute().await;
            deleted += usize::from(gone_or(gone, "delete a route")?);
        }
    }
    Ok(deleted)
}

/// All routes of one family; none where the kernel does not know it.
async fn list_routes(handle: &Handle, family: AddressFamily) -> Result<Vec<RouteMessage>, Error> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let listed = netlink::collect("list the routes", handle.route().get(query).execute()).await;
    Ok(if_family(listed)?.unwrap_or_default())
}

async fn try_add(handle: &Handle, message: RouteMessage) -> Result<(), rtnetlink::Error> {
    handle.route().add(message).execute().await
}

fn route_message(route: Route, congestion: bool) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.to);
    message.header.destination_prefix_length = route.to.prefix_len();
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.push(RouteAttribute::Destination(address(route.to.network())));
    match route.via {
        Via::Interface { index, source, metric } => {
            message.header.kind = RouteType::Unicast;
            message.header.scope = if source.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
            let metric = if source.is_ipv6() { metric.max(FIRST_V6) } else { metric };
            if metric != FIRST {
                message.attributes.push(RouteAttribute::Priority(metric));
            }
            message.attributes.push(RouteAttribute::Oif(index));
            message.attributes.push(RouteAttribute::PrefSource(address(source)));
            if congestion {
                let metrics = vec![RouteMetric::Lock(LOCK_CONGESTION), RouteMetric::CcAlgo(CONGESTION.to_owned())];
                message.attributes.push(RouteAttribute::Metrics(metrics));
            }
        }
        Via::Unreachable => {
            message.header.kind = RouteType::Unreachable;
            message.attributes.push(RouteAttribute::Priority(STANDING_METRIC));
        }
    }
    message
}

fn rule_message(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(rule.to);
    message.header.action = RuleAction::ToTable;
    message.header.dst_len = rule.to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    if rule.to.prefix_len() > 0 {
        message.attributes.push(RuleAttribute::Destination(rule.to.network()));
    }
    if let Some(from) = rule.from {
        message.header.src_len = if from.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RuleAttribute::Source(from));
    }
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    message.attributes.push(RuleAttribute::Iifname(LOOPBACK.to_owned()));
    if let Some(mark) = rule.mark {
        message.attributes.push(RuleAttribute::FwMark(mark));
    }
    if let Some(uid) = rule.uid {
        message.attributes.push(RuleAttribute::UidRange(RuleUidRange { start: uid, end: uid }));
    }
    message
}

/// What identifies a route for deletion, without what the kernel only reports.
fn key_of(route: &RouteMessage) -> RouteMessage {
    let mut key = RouteMessage::default();
    key.header = route.header.clone();
    key.header.flags = rtnetlink::packet_route::route::RouteFlags::empty();
    let identifies = |attribute: &&RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::Oif(_)
                | RouteAttribute::Table(_)
        )
    };
    let unreachable = route.header.kind == RouteType::Unreachable;
    let kept = route.attributes.iter().filter(identifies);
    // An IPv6 `unreachable` route is reported with the loopback interface, which is not part of what it is.
    key.attributes = kept.filter(|one| !(unreachable && matches!(one, RouteAttribute::Oif(_)))).cloned().collect();
    key
}

fn is_our_route(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

fn is_our_rule(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)))
}

fn route_table(route: &RouteMessage) -> u32 {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| route.header.table.into())
}

fn rule_table(rule: &RuleMessage) -> u32 {
    let table = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| rule.header.table.into())
}

fn family_of(range: IpNet) -> AddressFamily {
    match range {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

/// A kernel without IPv6 has no rules or routes of that family.
fn if_family<T>(listed: Result<Vec<T>, Error>) -> Result<Option<Vec<T>>, Error> {
    match listed {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => Ok(None),
        listed => listed.map(Some),
    }
}

/// Deleting what is gone has done its work: routes go with their interface.
fn gone_or(deleted: Result<(), rtnetlink::Error>, what: &str) -> Result<bool, Error> {
    match deleted {
        Ok(()) => Ok(true),
        Err(error) if is_code(&error, &[libc::ESRCH, libc::ENOENT, libc::ENODEV]) => Ok(false),
        Err(error) => Err(Error::netlink(what, error)),
    }
}

fn is_code(error: &rtnetlink::Error, codes: &[i32]) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(message) => codes.contains(&-message.raw_code()),
        _ => false,
    }
}
