//! Links, addresses and routes of the calling thread's namespace, as a lab of hosts in namespaces needs them.
//!
//! Each call opens a netlink connection of its own and blocks for about a millisecond: call them inside
//! [`netns::run_in`](super::netns::run_in).

use super::{Error, door::Site, netlink};
use futures::StreamExt as _;
use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        RouteNetlinkMessage,
        address::AddressHeaderFlags,
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
            LinkInfo,
        },
        tc::{TcAttribute, TcHandle, TcMessage},
    },
};
use std::{fs::File, net::IpAddr, os::fd::AsRawFd, path::Path};

/// `IFLA_INET_CONF` (linux/if_link.h): settings of IPv4, each by its number.
const INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_SRC_VMARK` (linux/ip.h).
const SRC_VALID_MARK: u16 = 24;

/// One end of a pair of links.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace it is in.
    pub namespace: &'a Path,
    /// Its name there.
    pub link: &'a str,
}

/// Sets a link up.
///
/// # Errors
/// When there is no such link, or without CAP_NET_ADMIN.
pub fn up(link: &str) -> Result<(), Error> {
    change(link, "set up", Change::up)
}

/// Sets a link down.
///
/// # Errors
/// When there is no such link, or without CAP_NET_ADMIN.
pub fn down(link: &str) -> Result<(), Error> {
    change(link, "set down", Change::down)
}

/// Sets a link's MTU, in bytes.
///
/// # Errors
/// When there is no such link, or it cannot have that MTU.
pub fn mtu(link: &str, bytes: u32) -> Result<(), Error> {
    change(link, "set the MTU of", |message| message.mtu(bytes))
}

/// Makes a bridge and sets it up.
///
/// # Errors
/// When the name is taken, or without CAP_NET_ADMIN.
pub fn bridge(name: &str) -> Result<(), Error> {
    netlink::run(async |handle: Handle| {
        let message = LinkBridge::new(name).build();
        let added = handle.link().add(message).execute().await;
        added.map_err(|error| Error::netlink(format!("add the bridge {name}"), error))
    })
}

/// Puts a link on a bridge of the same namespace.
///
/// # Errors
/// When either is not there, or without CAP_NET_ADMIN.
pub fn join_bridge(link: &str, bridge: &str) -> Result<(), Error> {
    let bridge = netlink::run(async |handle: Handle| index_of(&handle, bridge).await)?;
    change(link, "put on a bridge", |message| message.controller(bridge))
}

/// Makes a pair of links, each end in its namespace, both down.
///
/// # Errors
/// When a name is taken, a namespace not there, or without CAP_NET_ADMIN.
pub fn veth(one: End<'_>, other: End<'_>) -> Result<(), Error> {
    let far = File::open(other.namespace).map_err(|source| Error::namespace("open", other.namespace, source))?;
    super::netns::run_in(one.namespace, || {
        netlink::run(async |handle: Handle| {
            let peer = LinkUnspec::new_with_name(other.link).setns_by_fd(far.as_raw_fd()).build();
            let pair = LinkVeth::new(one.link, other.link).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
            let added = handle.link().add(pair.build()).execute().await;
            added.map_err(|error| Error::netlink(format!("add the links {} and {}", one.link, other.link), error))
        })
    })?
}

/// Gives a link an address; an IPv6 one is usable at once, without duplicate address detection (RFC 4862 section 5.4).
///
/// # Errors
/// When there is no such link, it has the address, or without CAP_NET_ADMIN.
pub fn address(link: &str, address: IpAddr, prefix: u8) -> Result<(), Error> {
    netlink::run(async |handle: Handle| {
        let index = index_of(&handle, link).await?;
        add_address(&handle, index, address, prefix).await
    })
}

/// Adds a route through a gateway.
///
/// # Errors
/// When the gateway is not reachable, the route is there, or without CAP_NET_ADMIN.
pub fn route(to: IpNet, gateway: IpAddr) -> Result<(), Error> {
    let what = format!("add the route {to} via {gateway}");
    netlink::run(async |handle: Handle| {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.addr(), to.prefix_len())
            .and_then(|message| message.gateway(gateway));
        let message =
            message.map_err(|error| Error::Netlink { what: what.clone(), source: std::io::Error::other(error) })?;
        handle.route().add(message.build()).execute().await.map_err(|error| Error::netlink(what.as_str(), error))
    })
}

/// Deletes a link; one that is not there is already deleted.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn delete(link: &str) -> Result<(), Error> {
    netlink::run(async |handle: Handle| delete_link(&handle, link, None).await.map(|_| ()))
}

/// Whether a link of this name is there.
///
/// # Errors
/// When the kernel does not answer.
pub fn exists(link: &str) -> Result<bool, Error> {
    exists_at(&Site::Own, link)
}

pub(super) fn exists_at(site: &Site<'_>, link: &str) -> Result<bool, Error> {
    match netlink::run_at(site, async |handle: Handle| index_of(&handle, link).await) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn index_of(handle: &Handle, link: &str) -> Result<u32, Error> {
    let what = format!("find the link {link}");
    let found = netlink::collect(&what, handle.link().get().match_name(link).execute()).await?;
    let gone = || Error::Netlink { what, source: std::io::Error::from_raw_os_error(libc::ENODEV) };
    found.first().map(|message| message.header.index).ok_or_else(gone)
}

pub(super) async fn add_address(handle: &Handle, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
    let mut request = handle.address().add(index, address, prefix);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.map_err(|error| Error::netlink(format!("add the address {address}/{prefix}"), error))
}

/// Deletes a link, if it is of the kind asked for; says whether there was one.
pub(super) async fn delete_link(handle: &Handle, link: &str, kind: Option<InfoKind>) -> Result<bool, Error> {
    let what = format!("delete the link {link}");
    let found = match netlink::collect(&what, handle.link().get().match_name(link).execute()).await {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        found => found?,
    };
    let is_kind = |attribute: &LinkAttribute| match (&kind, attribute) {
        (Some(kind), LinkAttribute::LinkInfo(infos)) => infos.contains(&LinkInfo::Kind(kind.clone())),
        _ => false,
    };
    let Some(message) = found.iter().find(|one| kind.is_none() || one.attributes.iter().any(is_kind)) else {
        return Ok(false);
    };
    let deleted = handle.link().del(message.header.index).execute().await;
    match deleted.map_err(|error| Error::netlink(what, error)) {
        // Its last descriptor was closed meanwhile, and it went by itself.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        deleted => deleted.map(|()| true),
    }
}

/// Has the source of what arrives by a link checked with its mark (`src_valid_mark`). Over netlink, as /proc/sys may be read-only.
pub(super) async fn check_sources_by_mark(handle: &Handle, index: u32) -> Result<(), Error> {
    let mut on = vec![0; 8];
    DefaultNla::new(SRC_VALID_MARK, 1_u32.to_ne_bytes().to_vec()).emit(&mut on);
    let setting = AfSpecInet::Other(DefaultNla::new(INET_CONF | NLA_F_NESTED, on));
    let settings = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![setting])]);
    let message = LinkUnspec::new_with_index(index).append_extra_attribute(settings).build();
    handle.link().set(message).execute().await.map_err(|error| Error::netlink("set src_valid_mark", error))
}

/// Sets a TUN device up: its MTU in bytes, its queue in packets, and no address that the kernel makes up, so that no
/// router is solicited (RFC 4861 section 6.3.7).
pub(super) async fn set_up_tun(handle: &Handle, index: u32, mtu: u32, queue: u32) -> Result<(), Error> {
    let quiet = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])];
    let quiet = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(quiet)).build();
    // Refused where IPv6 is switched off: then nothing is solicited either.
    drop(handle.link().set(quiet).execute().await);
    let message = LinkUnspec::new_with_index(index).mtu(mtu).txqueuelen(queue).multicast(false).up().build();
    handle.link().set(message).execute().await.map_err(|error| Error::netlink("set the interface up", error))
}

/// Sends packets to a TUN device of several queues at once, as it has queues of its own. Call it before the device is up:
/// the kernel makes a queueing discipline for each of the 256 queues that such a device could have, 20 MB and 60 ms for
/// all, which never hold a packet.
pub(super) async fn set_no_queueing(handle: &Handle, index: u32) -> Result<(), Error> {
    let mut discipline = TcMessage::with_index(index.cast_signed());
    discipline.header.parent = TcHandle::ROOT;
    discipline.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(discipline));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let failed = |error| Error::netlink("set the interface's queueing discipline", error);
    let mut answers = handle.clone().request(message).map_err(failed)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(failed(rtnetlink::Error::NetlinkError(error)));
        }
    }
    Ok(())
}

type Change = rtnetlink::LinkMessageBuilder<LinkUnspec>;

fn change(link: &str, what: &str, apply: impl FnOnce(Change) -> Change + Send) -> Result<(), Error> {
    netlink::run(async |handle: Handle| {
        let index = index_of(&handle, link).await?;
        let message = apply(LinkUnspec::new_with_index(index)).build();
        let set = handle.link().set(message).execute().await;
        set.map_err(|error| Error::netlink(format!("{what} the link {link}"), error))
    })
}
