//! What of an upstream answer is kept, and for how long.

use super::upstream::FabricRanges;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType, rdata::svcb::SvcParamValue},
};
use std::{net::IpAddr, time::Duration};

/// Longest time that an answer is kept, seconds: a day (RFC 8767 section 4 has a week).
const TTL_MAX: u32 = 86_400;
/// Longest time that it is kept that there is none, seconds (RFC 2308 section 5 has one to three hours as sensible).
const NEGATIVE_TTL_MAX: u32 = 900;

/// An answer as it is kept.
#[derive(Debug)]
pub(super) struct Clean {
    /// Without additional records, and without addresses of the fabric.
    pub(super) message: Message,
    /// How long it is fresh.
    pub(super) fresh_for: Duration,
    /// Addresses of the fabric were taken out.
    pub(super) rebound: bool,
}

/// Takes out what is not kept. An outside name that resolves to an address of the fabric would let a web page reach
/// services through its visitor (DNS rebinding): all records of such an answer go.
pub(super) fn clean(mut message: Message, ranges: &FabricRanges, dnssec_ok: bool) -> Clean {
    let fresh_for = Duration::from_secs(fresh_for(&message).into());
    let rebound = message.answers.iter().any(|record| points_into(record, ranges));
    if rebound {
        message.answers.clear();
    }
    message.additionals.clear();
    message.edns = None;
    // RRSIG and NSEC records are for those who validate; NS records are for nobody below a forwarder.
    message.authorities.retain(|record| dnssec_ok || record.record_type() == RecordType::SOA);
    Clean { message, fresh_for, rebound }
}

fn points_into(record: &Record, ranges: &FabricRanges) -> bool {
    if record.data.ip_addr().is_some_and(|address| ranges.contains(address)) {
        return true;
    }
    let params = match &record.data {
        RData::SVCB(svcb) => &svcb.svc_params,
        RData::HTTPS(https) => &https.svc_params,
        _ => return false,
    };
    params.iter().any(|(_, value)| match value {
        SvcParamValue::Ipv4Hint(hints) => hints.0.iter().any(|hint| ranges.contains(IpAddr::V4(hint.0))),
        SvcParamValue::Ipv6Hint(hints) => hints.0.iter().any(|hint| ranges.contains(IpAddr::V6(hint.0))),
        _ => false,
    })
}

/// Seconds: the shortest TTL of the answer; where there is none, of the SOA record and its minimum (RFC 2308 section
/// 5), and without one, nothing is kept.
fn fresh_for(message: &Message) -> u32 {
    let shortest = message.answers.iter().map(|record| sane(record.ttl)).min();
    if !is_negative(message) {
        return shortest.unwrap_or(0).min(TTL_MAX);
    }
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(sane(record.ttl).min(sane(soa.minimum)).min(NEGATIVE_TTL_MAX)),
        _ => None,
    });
    soa.unwrap_or(0).min(shortest.unwrap_or(u32::MAX))
}

/// The name does not exist, or has no record of the type, if need be at the end of a chain of aliases.
fn is_negative(message: &Message) -> bool {
    let wanted = message.queries.first().map(|query| query.query_type);
    let matching = |record: &Record| wanted == Some(RecordType::ANY) || Some(record.record_type()) == wanted;
    message.metadata.response_code == ResponseCode::NXDomain || !message.answers.iter().any(matching)
}

/// A TTL with its top bit set is zero (RFC 2181 section 8).
fn sane(ttl: u32) -> u32 {
    if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl }
}
