//! The records of what a workload sees.

use crate::view::{Node, RESOLVER, View, WORKLOADS};
use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{NS, PTR, SOA, SRV, TXT},
};
use ripstop_config::Port;
use ripstop_policy::{Policy, ServiceIx, WorkloadIx};
use std::net::{Ipv4Addr, Ipv6Addr};

/// How long an answer may be kept, seconds: a change of the graph is seen soon.
pub(crate) const TTL: u32 = 5;
/// How long it may be kept that there is none, seconds (RFC 2308 section 5): a new edge is seen at once.
pub(crate) const NEGATIVE_TTL: u32 = 2;
/// Most hosts that the TXT records of a service name, so that they stay far below 64 KiB.
const HOSTS_MAX: usize = 64;

/// The answer section and what goes with it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) answers: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

/// The name's records of one type. A question for ANY gets one set of them (RFC 8482 section 4.1).
pub(crate) fn by_name(view: View<'_>, name: &Name, node: &Node, wanted: RecordType) -> Found {
    match node {
        Node::Apex => apex(view.policy, name, wanted),
        Node::Resolver => addresses(name, view.policy.resolver(), wanted).into(),
        Node::Service(service) => of_service(view, name, *service, wanted),
        Node::ServicePort(service, port) if matches!(wanted, RecordType::SRV | RecordType::ANY) => {
            srv(view.policy, name, *service, std::iter::once(*port))
        }
        Node::Workload(workload) => {
            let entry = view.policy.workload_entry(*workload);
            addresses(name, (entry.v4, entry.v6), wanted).into()
        }
        Node::ServicePort(..) | Node::Empty | Node::Missing(_) => Found::default(),
    }
}

/// The PTR record of an address.
pub(crate) fn by_address(view: View<'_>, name: &Name, node: &Node, wanted: RecordType) -> Found {
    if !matches!(wanted, RecordType::PTR | RecordType::ANY) {
        return Found::default();
    }
    let target = match node {
        Node::Resolver => resolver_name(view.policy),
        Node::Service(service) => service_name(view.policy, *service),
        Node::Workload(workload) => workload_name(view.policy, *workload),
        Node::Apex | Node::Empty | Node::ServicePort(..) | Node::Missing(_) => None,
    };
    let record = target.map(|target| record(name, RData::PTR(PTR(target))));
    record.into_iter().collect::<Vec<_>>().into()
}

/// The SOA record that a negative answer carries (RFC 2308 section 3). Its serial is taken from the policy's digest: it
/// changes with the policy, and nobody transfers the zone.
pub(crate) fn soa(policy: &Policy, zone: Name) -> Record {
    let digest = policy.digest();
    let serial = digest.as_bytes().iter().take(4).fold(0, |serial, byte| serial << 8 | u32::from(*byte));
    let name = |label: &str| full(&format!("{label}.{}.", policy.fabric())).unwrap_or_else(Name::root);
    let (refresh, retry, expire) = (3600, 600, 86400);
    let soa = SOA::new(name(RESOLVER), name("hostmaster"), serial, refresh, retry, expire, NEGATIVE_TTL);
    Record::from_rdata(zone, NEGATIVE_TTL, RData::SOA(soa))
}

/// The loopback addresses.
pub(crate) fn localhost(name: &Name, wanted: RecordType) -> Vec<Record> {
    addresses(name, (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), wanted)
}

/// The name of the loopback addresses.
pub(crate) fn localhost_pointer(name: &Name, wanted: RecordType) -> Vec<Record> {
    let target = full("localhost.").filter(|_| matches!(wanted, RecordType::PTR | RecordType::ANY));
    target.map(|target| record(name, RData::PTR(PTR(target)))).into_iter().collect()
}

/// The suffix as a name.
pub(crate) fn suffix(policy: &Policy) -> Name {
    full(&format!("{}.", policy.fabric())).unwrap_or_else(Name::root)
}

/// A name of printable labels, unless it is longer than a name may be.
pub(crate) fn full(text: &str) -> Option<Name> {
    Name::from_ascii(text).ok()
}

impl From<Vec<Record>> for Found {
    fn from(answers: Vec<Record>) -> Self {
        Self { answers, additionals: Vec::new() }
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn addresses(name: &Name, (v4, v6): (Ipv4Addr, Ipv6Addr), wanted: RecordType) -> Vec<Record> {
    match wanted {
        RecordType::A | RecordType::ANY => vec![record(name, RData::A(v4.into()))],
        RecordType::AAAA => vec![record(name, RData::AAAA(v6.into()))],
        _ => Vec::new(),
    }
}

fn both_addresses(name: &Name, of: (Ipv4Addr, Ipv6Addr)) -> Vec<Record> {
    [RecordType::A, RecordType::AAAA].into_iter().flat_map(|wanted| addresses(name, of, wanted)).collect()
}

fn apex(policy: &Policy, name: &Name, wanted: RecordType) -> Found {
    match (wanted, resolver_name(policy)) {
        (RecordType::SOA | RecordType::ANY, _) => vec![soa(policy, name.clone())].into(),
        (RecordType::NS, Some(resolver)) => Found {
            additionals: both_addresses(&resolver, policy.resolver()),
            answers: vec![record(name, RData::NS(NS(resolver)))],
        },
        _ => Found::default(),
    }
}

fn of_service(view: View<'_>, name: &Name, service: ServiceIx, wanted: RecordType) -> Found {
    let entry = view.policy.service_entry(service);
    match wanted {
        RecordType::SRV => srv(view.policy, name, service, view.ports(service)),
        RecordType::TXT => txt(view, name, service).into(),
        _ => addresses(name, (entry.v4, entry.v6), wanted).into(),
    }
}

/// One record for each port (RFC 2782), with the addresses that the client would ask for next.
fn srv(policy: &Policy, name: &Name, service: ServiceIx, ports: impl Iterator<Item = Port>) -> Found {
    let Some(target) = service_name(policy, service) else {
        return Found::default();
    };
    let entry = policy.service_entry(service);
    let answers = ports.map(|port| record(name, RData::SRV(SRV::new(0, 0, port.number, target.clone())))).collect();
    Found { answers, additionals: both_addresses(&target, (entry.v4, entry.v6)) }
}

/// What people want to know: one record for each port that the caller may call and each host of an endpoint.
fn txt(view: View<'_>, name: &Name, service: ServiceIx) -> Vec<Record> {
    let entry = view.policy.service_entry(service);
    let ports = view.ports(service).map(|port| format!("port={port}"));
    let hosts = entry.hosts.iter().take(HOSTS_MAX).map(|host| format!("host={host}"));
    ports.chain(hosts).map(|text| record(name, RData::TXT(TXT::new(vec![text])))).collect()
}

fn resolver_name(policy: &Policy) -> Option<Name> {
    full(&format!("{RESOLVER}.{}.", policy.fabric()))
}

fn service_name(policy: &Policy, service: ServiceIx) -> Option<Name> {
    full(&format!("{}.", policy.service_entry(service).id.dns_name(policy.fabric())))
}

fn workload_name(policy: &Policy, workload: WorkloadIx) -> Option<Name> {
    let id = &policy.workload_entry(workload).id;
    full(&format!("{}.{}.{WORKLOADS}.{}.", id.name, id.tenant.dns_labels(), policy.fabric()))
}
