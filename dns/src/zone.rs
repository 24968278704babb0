//! Where a name lies: under the fabric's suffix, in the reverse zones of its ranges, among the names that no resolver
//! forwards, or outside.

use hickory_proto::rr::Name;
use ripstop_config::graph::Ranges;
use ripstop_policy::Policy;
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Where a name lies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'n> {
    /// Under the fabric's suffix: the labels below it in lower case, the one next to the suffix first.
    Fabric(Vec<Cow<'n, str>>),
    /// In the reverse zone of a range.
    Reverse(Reverse),
    /// This machine (RFC 6761 section 6.3), or its address.
    Localhost(Option<IpAddr>),
    /// A name that DNS does not resolve.
    Never(&'static Special),
    /// Everything else.
    Outside,
}

/// A name in the reverse zone of a range.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The nearest zone above the name that is inside the range as a whole.
    pub(crate) zone: Name,
    /// What the name says.
    pub(crate) at: ReverseAt,
}

/// What a reverse name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReverseAt {
    /// One address.
    Address(IpAddr),
    /// A block of addresses: the name of none, with names below it.
    Block,
    /// Labels that are no part of an address.
    Other,
}

/// A top-level name that is not for DNS.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Special {
    /// Its labels, the last one of the name first.
    labels: &'static [&'static str],
    /// The zone that its SOA record names.
    pub(crate) zone: &'static str,
    /// Whether the name exists, without records, or not.
    pub(crate) exists: bool,
    /// Why, for people.
    pub(crate) why: &'static str,
}

/// `local` is not among them: clusters use `cluster.local` in unicast DNS.
const SPECIAL: &[Special] = &[
    Special { labels: &["invalid"], zone: "invalid.", exists: false, why: "`invalid` names never exist (RFC 6761)" },
    Special {
        labels: &["onion"],
        zone: "onion.",
        exists: false,
        why: "`onion` names are not resolved through DNS (RFC 7686)",
    },
    Special { labels: &["arpa", "resolver"], zone: "resolver.arpa.", exists: true, why: "" },
];

/// Finds where a name lies. The fabric comes first, so that no special name can take a part of it away.
pub(crate) fn place<'n>(policy: &Policy, name: &'n Name) -> Place<'n> {
    if let Some(labels) = below(name, policy.fabric().as_str()) {
        return Place::Fabric(labels);
    }
    if let Some(arpa) = Arpa::read(name) {
        if arpa.address().is_some_and(|address| address.is_loopback()) {
            return Place::Localhost(arpa.address());
        }
        if let Some(reverse) = arpa.within(&policy.graph().ranges, name) {
            return Place::Reverse(reverse);
        }
    }
    if below(name, "localhost").is_some() {
        return Place::Localhost(None);
    }
    match SPECIAL.iter().find(|special| starts(name, special.labels)) {
        Some(special) => Place::Never(special),
        None => Place::Outside,
    }
}

fn below<'n>(name: &'n Name, suffix: &str) -> Option<Vec<Cow<'n, str>>> {
    let mut labels = name.iter().rev();
    for expected in suffix.rsplit('.') {
        if !labels.next()?.eq_ignore_ascii_case(expected.as_bytes()) {
            return None;
        }
    }
    Some(labels.map(lower_case).collect())
}

/// Copied only where it is not so already.
fn lower_case(label: &[u8]) -> Cow<'_, str> {
    let mut label = String::from_utf8_lossy(label);
    if label.bytes().any(|byte| byte.is_ascii_uppercase()) {
        label.to_mut().make_ascii_lowercase();
    }
    label
}

fn starts(name: &Name, labels: &[&str]) -> bool {
    let mut own = name.iter().rev();
    labels.iter().all(|label| own.next().is_some_and(|own| own.eq_ignore_ascii_case(label.as_bytes())))
}

/// As much of an address as a name under `in-addr.arpa` (RFC 1035 section 3.5) or `ip6.arpa` (RFC 3596 section 2.5)
/// gives, from the network part on.
struct Arpa {
    v6: bool,
    /// The address's bits from the top of 128, or of 32.
    bits: u128,
    /// How many of them the name gives.
    length: u8,
    /// Labels are left over that are no part of an address.
    other: bool,
}

impl Arpa {
    fn read(name: &Name) -> Option<Self> {
        let v6 = starts(name, &["arpa", "ip6"]);
        if !v6 && !starts(name, &["arpa", "in-addr"]) {
            return None;
        }
        let (width, step) = if v6 { (128, 4) } else { (32, 8) };
        let mut arpa = Self { v6, bits: 0, length: 0, other: false };
        for label in name.iter().rev().skip(2) {
            let part = std::str::from_utf8(label).ok().and_then(|text| part(text, v6));
            let Some(part) = part.filter(|_| arpa.length < width) else {
                arpa.other = true;
                break;
            };
            arpa.length += step;
            arpa.bits |= u128::from(part) << (width - arpa.length);
        }
        Some(arpa)
    }

    fn start(&self) -> IpAddr {
        if self.v6 {
            return Ipv6Addr::from(self.bits).into();
        }
        Ipv4Addr::from(u32::try_from(self.bits).unwrap_or_default()).into()
    }

    fn width(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    fn address(&self) -> Option<IpAddr> {
        (self.length == self.width() && !self.other).then(|| self.start())
    }

    /// The name's place in the reverse zones of the ranges; nothing if it lies above or beside them.
    fn within(&self, ranges: &Ranges, name: &Name) -> Option<Reverse> {
        let prefix = prefix_of(ranges, self.start())?;
        let step = if self.v6 { 4 } else { 8 };
        if self.length < prefix {
            return None;
        }
        let at = match self.address() {
            Some(address) => ReverseAt::Address(address),
            None if self.other => ReverseAt::Other,
            None => ReverseAt::Block,
        };
        Some(Reverse { zone: name.trim_to(2 + usize::from(prefix.div_ceil(step))), at })
    }
}

fn part(text: &str, v6: bool) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match v6 {
        true => (text.len() == 1 && digits).then(|| u8::from_str_radix(text, 16).ok())?,
        false => digits.then(|| text.parse().ok())?,
    }
}

/// The length of the range's prefix that an address is in.
fn prefix_of(ranges: &Ranges, address: IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(v4) if ranges.services_v4.contains(&v4) => Some(ranges.services_v4.prefix_len()),
        IpAddr::V4(v4) if ranges.workloads_v4.contains(&v4) => Some(ranges.workloads_v4.prefix_len()),
        IpAddr::V6(v6) if ranges.v6.contains(&v6) => Some(ranges.v6.prefix_len()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}
