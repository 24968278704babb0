//! Addresses for names: from a hash of the name, so that every host assigns the same ones without asking another, and
//! adding a name seldom moves the address of a different one. A signed policy carries the addresses of the one before it:
//! then it never does.

use ipnet::{Ipv4Net, Ipv6Net};
use ripstop_config::{ServiceId, WorkloadId};
use rustc_hash::FxHashSet;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

/// The /64 of a fabric's /48 in which the services are; the resolver is its `::1`.
const SERVICE_SUBNET: u16 = 0;
/// The /64 of a fabric's /48 in which the workloads are.
const WORKLOAD_SUBNET: u16 = 1;
/// Interface identifiers have 48 random bits: chance collisions are rare, and the reserved identifiers of RFC 5453
/// (all at the top of 64 bits) are never met.
const INTERFACE_BITS: u32 = 48;
/// Interface identifiers 0 (the subnet-router anycast address, RFC 4291 section 2.6.1) and 1 (the resolver).
const FIRST_INTERFACE: u64 = 2;

/// The addresses of one name, one of each family.
pub type Pair = (Ipv4Addr, Ipv6Addr);

/// The addresses that names had in an earlier policy, and keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// Of services.
    pub services: BTreeMap<ServiceId, Pair>,
    /// Of workloads.
    pub workloads: BTreeMap<WorkloadId, Pair>,
}

impl Addresses {
    /// Adds what another one has of names that this one does not know.
    pub fn or(&mut self, other: &Self) {
        for (id, pair) in &other.services {
            self.services.entry(id.clone()).or_insert(*pair);
        }
        for (id, pair) in &other.workloads {
            self.workloads.entry(id.clone()).or_insert(*pair);
        }
    }
}

/// A family of names with ranges of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Service,
    Workload,
}

impl Kind {
    /// What the hash of a name starts with, and what messages say.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
        }
    }

    fn subnet(self) -> u16 {
        match self {
            Self::Service => SERVICE_SUBNET,
            Self::Workload => WORKLOAD_SUBNET,
        }
    }

    /// Offset of the first address that names may have: the first is the network's, and the services' second is the
    /// resolver's.
    fn first_offset(self) -> u64 {
        match self {
            Self::Service => 2,
            Self::Workload => 1,
        }
    }
}

/// How many names of a kind have room in a range: all but network, broadcast and resolver.
pub(crate) fn room(kind: Kind, range: Ipv4Net) -> u64 {
    let size = 1_u64 << (32 - u32::from(range.prefix_len()));
    size.saturating_sub(1 + kind.first_offset())
}

/// The resolver's addresses: the first usable one of the services' range, and `::1` of the services' /64.
pub(crate) fn resolver(services: Ipv4Net, v6: Ipv6Net) -> (Ipv4Addr, Ipv6Addr) {
    (v4_at(services, 1), v6_at(v6, SERVICE_SUBNET, 1))
}

/// The addresses of names of one kind, in the order of the names: those that are carried first, then the others. `None`
/// when the IPv4 range is full. Names come in sorted order: the outcome then depends on the set of names, and on what is
/// carried, alone.
pub(crate) fn assign<'n, Id: Ord + ToString + 'n>(
    kind: Kind,
    (v4, v6): (Ipv4Net, Ipv6Net),
    names: impl Iterator<Item = &'n Id> + Clone,
    carried: &BTreeMap<Id, Pair>,
) -> Option<Vec<Pair>> {
    let mut pool = Pool::new(kind, v4, v6);
    let kept: Vec<_> = names.clone().map(|id| carried.get(id).copied().filter(|pair| pool.keep(*pair))).collect();
    names.zip(kept).map(|(id, kept)| kept.or_else(|| pool.assign(&id.to_string()))).collect()
}

/// Assigns addresses to names of one kind in one range.
pub(crate) struct Pool {
    kind: Kind,
    v4: Ipv4Net,
    v6: Ipv6Net,
    taken_v4: FxHashSet<u64>,
    taken_v6: FxHashSet<u64>,
}

impl Pool {
    pub(crate) fn new(kind: Kind, v4: Ipv4Net, v6: Ipv6Net) -> Self {
        Self { kind, v4, v6, taken_v4: FxHashSet::default(), taken_v6: FxHashSet::default() }
    }

    /// Takes the addresses that a name had; false when they are not in the ranges, or not free.
    fn keep(&mut self, (v4, v6): Pair) -> bool {
        let (Some(slot), Some(interface)) = (self.slot_of(v4), self.interface_of(v6)) else { return false };
        if self.taken_v4.contains(&slot) || self.taken_v6.contains(&interface) {
            return false;
        }
        self.taken_v4.insert(slot) && self.taken_v6.insert(interface)
    }

    /// Which of the slots for names an address is.
    fn slot_of(&self, ip: Ipv4Addr) -> Option<u64> {
        let offset = u64::from(u32::from(ip)).checked_sub(u32::from(self.v4.network()).into())?;
        let slot = offset.checked_sub(self.kind.first_offset())?;
        (slot < room(self.kind, self.v4)).then_some(slot)
    }

    fn interface_of(&self, ip: Ipv6Addr) -> Option<u64> {
        let interface = (u128::from(ip) & u128::from(u64::MAX)) as u64;
        let slot = interface.checked_sub(FIRST_INTERFACE)?;
        let ours = interface < 1 << INTERFACE_BITS && v6_at(self.v6, self.kind.subnet(), interface) == ip;
        ours.then_some(slot)
    }

    /// The addresses of `tenant/name`; `None` when the IPv4 range is full.
    pub(crate) fn assign(&mut self, name: &str) -> Option<Pair> {
        let (low, high) = hash(self.kind, name);
        let room = room(self.kind, self.v4);
        if self.taken_v4.len() as u64 >= room {
            return None;
        }
        let slot = probe(&mut self.taken_v4, low, room);
        let interfaces = (1 << INTERFACE_BITS) - FIRST_INTERFACE;
        let interface = FIRST_INTERFACE + probe(&mut self.taken_v6, high, interfaces);
        Some((v4_at(self.v4, self.kind.first_offset() + slot), v6_at(self.v6, self.kind.subnet(), interface)))
    }
}

/// Takes the first free slot at or after `wanted`, going round. There must be one.
fn probe(taken: &mut FxHashSet<u64>, wanted: u64, slots: u64) -> u64 {
    let mut slot = wanted % slots;
    while !taken.insert(slot) {
        slot = (slot + 1) % slots;
    }
    slot
}

/// Two independent 64-bit halves of SHA-256 over `service/TENANT/NAME` or `workload/TENANT/NAME`.
fn hash(kind: Kind, name: &str) -> (u64, u64) {
    let digest = Sha256::new().chain_update(kind.as_str()).chain_update("/").chain_update(name).finalize();
    let half = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    (half(&digest[..8]), half(&digest[8..16]))
}

fn v4_at(range: Ipv4Net, offset: u64) -> Ipv4Addr {
    let base = u64::from(u32::from(range.network()));
    // Callers keep offsets inside the range, so the sum has 32 bits.
    Ipv4Addr::from((base + offset) as u32)
}

fn v6_at(fabric: Ipv6Net, subnet: u16, interface: u64) -> Ipv6Addr {
    let base = u128::from(fabric.network());
    Ipv6Addr::from(base | u128::from(subnet) << 64 | u128::from(interface))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn pool(kind: Kind, v4: &str) -> Pool {
        Pool::new(kind, v4.parse().unwrap(), "fd01:203:405::/48".parse().unwrap())
    }

    #[test]
    fn a_range_fills_to_its_last_address_and_no_further() {
        for (kind, expected) in [(Kind::Service, 13), (Kind::Workload, 14)] {
            let mut pool = pool(kind, "10.0.0.16/28");
            let mut seen = HashSet::new();
            for number in 0..expected {
                let (v4, v6) = pool.assign(&format!("shop/n{number}")).unwrap();
                let last = v4.octets()[3];
                assert!((17..=30).contains(&last), "{v4} is network or broadcast");
                assert!(kind == Kind::Workload || last != 17, "{v4} is the resolver's");
                assert_eq!(v6.segments()[3], kind.subnet());
                assert!(seen.insert(v4) && seen.len() == number + 1);
            }
            assert_eq!(pool.assign("shop/more"), None);
        }
    }

    #[test]
    fn ranges_without_room_give_nothing() {
        for range in ["10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30"] {
            let fits = room(Kind::Service, range.parse().unwrap());
            assert_eq!(pool(Kind::Service, range).assign("a/b").is_some(), fits > 0, "{range}");
        }
        assert_eq!(room(Kind::Service, "10.0.0.0/30".parse().unwrap()), 1);
        assert_eq!(room(Kind::Workload, "0.0.0.0/0".parse().unwrap()), (1 << 32) - 2);
    }

    fn ids(names: impl Iterator<Item = String>) -> std::collections::BTreeSet<ServiceId> {
        names.map(|name| format!("shop/{name}").parse().unwrap()).collect()
    }

    #[test]
    fn names_keep_what_is_carried_and_the_others_find_room_around_it() {
        let ranges = ("10.0.0.16/28".parse().unwrap(), "fd01:203:405::/48".parse().unwrap());
        let with = |names: &std::collections::BTreeSet<ServiceId>, carried: &BTreeMap<ServiceId, Pair>| {
            let pairs = assign(Kind::Service, ranges, names.iter(), carried).unwrap();
            names.iter().cloned().zip(pairs).collect::<BTreeMap<_, _>>()
        };
        let mut carried = with(&ids((0..6).map(|one| format!("n{one}"))), &BTreeMap::new());
        for more in 7..=13 {
            // Names that sort before and between the old ones.
            let names = ids((0..6).map(|one| format!("n{one}")).chain((6..more).map(|one| format!("a{one}"))));
            let next = with(&names, &carried);
            assert!(carried.iter().all(|(id, pair)| next[id] == *pair), "nothing moves");
            assert_eq!(next.values().collect::<HashSet<_>>().len(), names.len(), "nothing is shared");
            carried = next;
        }
    }

    #[test]
    fn what_cannot_be_kept_is_assigned_anew() {
        let ranges: (Ipv4Net, Ipv6Net) = ("10.0.0.16/28".parse().unwrap(), "fd01:203:405::/48".parse().unwrap());
        let name = ids(["n".to_owned()].into_iter());
        let fresh = assign(Kind::Service, ranges, name.iter(), &BTreeMap::new()).unwrap();
        let good: Pair = ("10.0.0.18".parse().unwrap(), "fd01:203:405::2".parse().unwrap());
        for bad in [
            ("10.0.0.15", "fd01:203:405::2"),
            ("10.0.0.16", "fd01:203:405::2"),
            ("10.0.0.17", "fd01:203:405::2"),
            ("10.0.0.31", "fd01:203:405::2"),
            ("10.0.0.32", "fd01:203:405::2"),
            ("10.0.0.18", "fd01:203:405::1"),
            ("10.0.0.18", "fd01:203:405:1::2"),
            ("10.0.0.18", "fd01:203:405:0:1::2"),
            ("10.0.0.18", "fd01:203:406::2"),
        ] {
            let bad: Pair = (bad.0.parse().unwrap(), bad.1.parse().unwrap());
            let carried = name.iter().map(|id| (id.clone(), bad)).collect();
            assert_eq!(assign(Kind::Service, ranges, name.iter(), &carried), Some(fresh.clone()), "{bad:?}");
        }
        let two = ids(["n", "o"].map(str::to_owned).into_iter());
        let carried = two.iter().map(|id| (id.clone(), good)).collect();
        let pairs = assign(Kind::Service, ranges, two.iter(), &carried).unwrap();
        assert_eq!(pairs[0], good);
        assert!(pairs[1].0 != good.0 && pairs[1].1 != good.1, "an address has one owner");
    }

    #[test]
    fn a_hundred_more_names_move_almost_none() {
        let assign = |names: &mut Vec<String>| {
            names.sort();
            let mut pool = pool(Kind::Service, "198.18.0.0/16");
            names.iter().map(|name| (name.clone(), pool.assign(name).unwrap())).collect::<Vec<_>>()
        };
        let mut names: Vec<String> = (0..1000).map(|number| format!("shop/s{number}")).collect();
        let before = assign(&mut names);
        names.extend((0..100).map(|number| format!("shop/a{number}")));
        let after = assign(&mut names);
        let moved = before.iter().filter(|one| !after.contains(one)).count();
        assert!(moved <= 10, "{moved} of 1000 moved");
    }
}
