//! nf_tables (linux/netfilter/nf_tables.h) over netlink: as much of it as a guard needs.
//!
//! Attributes go by their numbers in that header, which are counted anew for each kind of object.

use super::{
    Error,
    door::{Family, Site},
    tun,
};
use ipnet::IpNet;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::SocketAddr as KernelAddr;
use std::{io, net::IpAddr};

/// Bytes of an answer at most: the kernel's dumps come in pieces of up to 32 KiB.
const ANSWER: usize = 32 << 10;
/// Bytes of an interface's name in a register, its zeros included (`IFNAMSIZ`).
const NAME: usize = 16;
/// `NFPROTO_INET`: rules for IPv4 and IPv6 alike.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type and as the owner of a batch.
const SUBSYSTEM: u16 = 10;
/// Types of messages (`nf_tables_msg_types`).
mod kind {
    pub(super) const BATCH_BEGIN: u16 = 0x10;
    pub(super) const BATCH_END: u16 = 0x11;
    pub(super) const NEW_TABLE: u16 = super::SUBSYSTEM << 8;
    pub(super) const GET_TABLE: u16 = NEW_TABLE + 1;
    pub(super) const DELETE_TABLE: u16 = NEW_TABLE + 2;
    pub(super) const NEW_CHAIN: u16 = NEW_TABLE + 3;
    pub(super) const NEW_RULE: u16 = NEW_TABLE + 6;
}

/// Where a chain sees packets (`nf_inet_hooks`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    Arriving = 0,
    Forwarded = 2,
    Sent = 3,
    Leaving = 4,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Let pass or not.
    Filter,
    /// Have the packet routed again when its mark was changed.
    Route,
    /// Change addresses.
    Nat,
}

/// A chain of a table, named as its hook is.
pub(super) struct Chain<'a> {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) kind: Kind,
    pub(super) rules: Vec<Vec<Step<'a>>>,
}

/// One step of a rule; a step that does not hold ends the rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// The packet came by this link.
    Into(&'a str),
    /// The packet leaves by this link (or, with `is` false, by any other).
    Link { name: &'a str, is: bool },
    /// The packet leaves by a link whose name begins so (or, with `is` false, by any other).
    LinkNamed { begins: &'a str, is: bool },
    /// Its socket is this user's (or another's); never holds for packets without an open socket, the kernel's own.
    User { uid: u32, is: bool },
    /// A program has its socket open: not so for what the kernel itself answers.
    HasProgram,
    /// Its socket was opened in this control group or one below it; never holds for packets without an open socket.
    Cgroup { id: u64, level: u32 },
    /// It has this mark (or, with `is` false, another or none).
    Marked { mark: u32, is: bool },
    /// Its mark has these upper 16 bits (or, with `is` false, others).
    MarkedAs { upper: u16, is: bool },
    /// Its connection has this mark.
    OfMarked(u32),
    /// It gets this mark.
    Mark(u32),
    /// Its connection gets this mark.
    MarkConnection(u32),
    /// It goes to this range.
    To(IpNet),
    /// It comes from this range (or, with `is` false, from elsewhere in the same family).
    From { range: IpNet, is: bool },
    /// It comes from an address of this namespace (or, with `is` false, from none of them).
    Local { is: bool },
    /// It is TCP's (or, with `is` false, not).
    Tcp { is: bool },
    /// It is a TCP segment that acknowledges nothing, as only the first of a connection does.
    Opens,
    /// It is refused, as administratively prohibited.
    Refuse,
    /// It is dropped, where nothing can be refused any more.
    Drop,
    /// The rest of the chain does not concern it.
    Pass,
    /// It, and its connection, leaves with this source address.
    Disguise(IpAddr),
}

/// Makes a table with these chains for this namespace, in place of one of this name.
pub(super) fn replace_table(site: &Site<'_>, table: &str, chains: &[Chain<'_>]) -> io::Result<()> {
    let name = || vec![text(1, table)];
    let mut batch = vec![
        // Making it first lets the deletion succeed where there was none.
        Message::new(kind::NEW_TABLE, NLM_F_CREATE, name()),
        Message::new(kind::DELETE_TABLE, 0, name()),
        Message::new(kind::NEW_TABLE, NLM_F_CREATE, name()),
    ];
    batch.extend(chains.iter().flat_map(|chain| chain.messages(table)));
    commit(site, batch)
}

impl Chain<'_> {
    fn messages(&self, table: &str) -> Vec<Message> {
        let (kind, priority) = match self.kind {
            Kind::Filter => ("filter", 0),
            // Before filters, after connections are known (`NF_IP_PRI_MANGLE`).
            Kind::Route => ("route", -150),
            Kind::Nat => ("nat", 100), // NF_IP_PRI_NAT_SRC
        };
        // What came in is marked where what goes out is.
        let (kind, priority) = if matches!(self.hook, Hook::Arriving) { ("filter", -150) } else { (kind, priority) };
        let hook = nested(4, &[number(1, self.hook as u32), DefaultNla::new(2, i32::to_be_bytes(priority).to_vec())]);
        // A chain's table, name, hook and type; a rule's table, chain and expressions.
        let attributes = vec![text(1, table), text(3, self.name), hook, text(7, kind)];
        let mut messages = vec![Message::new(kind::NEW_CHAIN, NLM_F_CREATE, attributes)];
        messages.extend(self.rules.iter().map(|rule| {
            let steps: Vec<_> = rule.iter().flat_map(expressions).collect();
            let attributes = vec![text(1, table), text(2, self.name), nested(4, &steps)];
            Message::new(kind::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, attributes)
        }));
        messages
    }
}

/// Deletes a table with all that is in it.
pub(super) fn delete_table(site: &Site<'_>, table: &str) -> io::Result<()> {
    commit(site, vec![Message::new(kind::DELETE_TABLE, 0, vec![text(1, table)])])
}

/// The names of all tables of the `inet` family in this namespace.
pub(super) fn tables(site: &Site<'_>) -> io::Result<Vec<String>> {
    let list = Message::new(kind::GET_TABLE, NLM_F_DUMP, Vec::new());
    converse(site, &list.bytes(1), 1)
}

/// Sends messages as one transaction: all of it happens or nothing.
fn commit(site: &Site<'_>, messages: Vec<Message>) -> io::Result<()> {
    let mut bytes = Message::edge(kind::BATCH_BEGIN).bytes(0);
    let mut sequence = 0;
    for message in messages {
        sequence += 1;
        bytes.extend(message.bytes(sequence));
    }
    bytes.extend(Message::edge(kind::BATCH_END).bytes(sequence + 1));
    converse(site, &bytes, sequence).map(drop)
}

/// Sends and reads until the message numbered `last` is answered. The kernel answers within the call that sends, so an
/// answer that is not there will not come.
fn converse(site: &Site<'_>, bytes: &[u8], last: u32) -> io::Result<Vec<String>> {
    let mut socket = tun::adopt(site.socket(Family::Netfilter).map_err(Error::into_io)?);
    socket.bind_auto()?;
    socket.connect(&KernelAddr::new(0, 0))?;
    socket.send(bytes, 0)?;
    let mut names = Vec::new();
    loop {
        let mut answer = Vec::with_capacity(ANSWER);
        socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<Listed>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) if message.header.sequence_number == last => return Ok(names),
                NetlinkPayload::Done(_) => return Ok(names),
                NetlinkPayload::InnerMessage(Listed(name)) => names.extend(name),
                _ => {}
            }
            rest = rest.get((message.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// A message to nf_tables: a header of its own (`nfgenmsg`), then attributes.
struct Message {
    kind: u16,
    flags: u16,
    family: u8,
    resource: u16,
    attributes: Vec<DefaultNla>,
}

impl Message {
    fn new(kind: u16, flags: u16, attributes: Vec<DefaultNla>) -> Self {
        Self { kind, flags: flags | NLM_F_ACK, family: INET, resource: 0, attributes }
    }

    /// The begin or end of a transaction.
    fn edge(kind: u16) -> Self {
        Self { kind, flags: 0, family: 0, resource: SUBSYSTEM, attributes: Vec::new() }
    }

    fn bytes(self, sequence: u32) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | self.flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(self));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let [high, low] = self.resource.to_be_bytes();
        buffer[..4].copy_from_slice(&[self.family, 0, high, low]);
        self.attributes.as_slice().emit(&mut buffer[4..]);
    }
}

/// The name of a table, from an answer that has one.
struct Listed(Option<String>);

impl NetlinkDeserializable for Listed {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        for attribute in NlasIterator::new(payload.get(4..).unwrap_or_default()) {
            let attribute = attribute?;
            if attribute.kind() == 1 {
                let name = attribute.value().strip_suffix(&[0]).unwrap_or(attribute.value());
                return Ok(Self(String::from_utf8(name.to_vec()).ok()));
            }
        }
        Ok(Self(None))
    }
}

/// The kernel's expressions for a step. Values are in register 1, which holds 16 bytes.
fn expressions(step: &Step<'_>) -> Vec<DefaultNla> {
    match *step {
        Step::Into(name) => vec![meta(6), compare(true, &padded(name))], // NFT_META_IIFNAME
        Step::Link { name, is } => vec![meta(7), compare(is, &padded(name))], // NFT_META_OIFNAME
        Step::LinkNamed { begins, is } => vec![meta(7), compare(is, begins.as_bytes())],
        Step::User { uid, is } => vec![meta(10), compare(is, &uid.to_ne_bytes())], // NFT_META_SKUID
        // Without one the expression itself ends the rule; this number means "none".
        Step::HasProgram => vec![meta(10), compare(false, &u32::MAX.to_ne_bytes())],
        Step::Cgroup { id, level } => {
            let load = expression("socket", &[number(1, 3), number(2, 1), number(3, level)]); // NFT_SOCKET_CGROUPV2
            vec![load, compare(true, &id.to_ne_bytes())]
        }
        Step::Marked { mark, is } => vec![meta(3), compare(is, &mark.to_ne_bytes())], // NFT_META_MARK
        Step::MarkedAs { upper, is } => {
            let (mask, wanted) = (0xffff_0000_u32, u32::from(upper) << 16);
            vec![meta(3), masked(&mask.to_ne_bytes()), compare(is, &wanted.to_ne_bytes())]
        }
        Step::OfMarked(mark) => {
            let load = expression("ct", &[number(1, 1), number(2, 3)]); // NFT_CT_MARK
            vec![load, compare(true, &mark.to_ne_bytes())]
        }
        Step::Mark(mark) => {
            vec![value(&mark.to_ne_bytes()), expression("meta", &[number(3, 1), number(2, 3)])]
        }
        Step::MarkConnection(mark) => {
            vec![value(&mark.to_ne_bytes()), expression("ct", &[number(4, 1), number(2, 3)])]
        }
        Step::To(range) => address(range, Address::Destination, true),
        Step::From { range, is } => address(range, Address::Source, is),
        Step::Local { is } => {
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_SADDR; the answer is RTN_LOCAL.
            let load = expression("fib", &[number(1, 1), number(2, 3), number(3, 1)]);
            vec![load, compare(is, &2_u32.to_ne_bytes())]
        }
        Step::Tcp { is } => vec![meta(16), compare(is, &[6])], // NFT_META_L4PROTO
        Step::Opens => {
            // One byte of the transport header, where TCP has its flags; of them the acknowledgement's.
            let load = expression("payload", &[number(1, 1), number(2, 2), number(3, 13), number(4, 1)]);
            vec![load, masked(&[0x10]), compare(true, &[0])]
        }
        // NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_ADMIN_PROHIBITED
        Step::Refuse => vec![expression("reject", &[number(1, 2), DefaultNla::new(2, vec![3])])],
        Step::Drop => vec![verdict(0)], // NF_DROP
        Step::Pass => vec![verdict(1)], // NF_ACCEPT
        Step::Disguise(address) => {
            let family = if address.is_ipv4() { 2 } else { 10 };
            // NFT_NAT_SNAT to the address in register 1.
            vec![value(&octets(address)), expression("nat", &[number(1, 0), number(2, family), number(3, 1)])]
        }
    }
}

/// An interface's name as it is in a register.
fn padded(name: &str) -> [u8; NAME] {
    let mut padded = [0; NAME];
    padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    padded
}

/// Puts a value into the register.
fn value(value: &[u8]) -> DefaultNla {
    expression("immediate", &[number(1, 1), nested(2, &[DefaultNla::new(1, value.to_vec())])])
}

/// Ends the chain with a verdict, which has a register of its own.
fn verdict(code: u32) -> DefaultNla {
    expression("immediate", &[number(1, 0), nested(2, &[nested(2, &[number(1, code)])])])
}

/// One of a packet's addresses.
#[derive(Clone, Copy)]
enum Address {
    Source,
    Destination,
}

fn address(range: IpNet, which: Address, is: bool) -> Vec<DefaultNla> {
    // NFPROTO_IPV4 or NFPROTO_IPV6, and where the address is in that header.
    let (protocol, offset) = match (range, which) {
        (IpNet::V4(_), Address::Source) => (2, 12),
        (IpNet::V4(_), Address::Destination) => (2, 16),
        (IpNet::V6(_), Address::Source) => (10, 8),
        (IpNet::V6(_), Address::Destination) => (10, 24),
    };
    let (network, mask) = (octets(range.network()), octets(range.netmask()));
    let length = network.len() as u32;
    let load = expression("payload", &[number(1, 1), number(2, 1), number(3, offset), number(4, length)]);
    vec![meta(15), compare(true, &[protocol]), load, masked(&mask), compare(is, &network)] // NFT_META_NFPROTO
}

/// Keeps the bits of the register that the mask has.
fn masked(mask: &[u8]) -> DefaultNla {
    let keep = nested(4, &[DefaultNla::new(1, mask.to_vec())]);
    let flip = nested(5, &[DefaultNla::new(1, vec![0; mask.len()])]);
    expression("bitwise", &[number(1, 1), number(2, 1), number(3, mask.len() as u32), keep, flip])
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn meta(key: u32) -> DefaultNla {
    expression("meta", &[number(1, 1), number(2, key)])
}

fn compare(equal: bool, value: &[u8]) -> DefaultNla {
    let value = nested(3, &[DefaultNla::new(1, value.to_vec())]);
    expression("cmp", &[number(1, 1), number(2, u32::from(!equal)), value])
}

fn expression(name: &str, attributes: &[DefaultNla]) -> DefaultNla {
    nested(1, &[text(1, name), nested(2, attributes)])
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

fn number(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}
