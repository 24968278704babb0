//! Instruments of what hosts say of themselves by other hosts.

use super::{HOST_RECORDS, HOST_RECORDS_REFUSED};
use metrics::{counter, gauge};

/// So many records of hosts are believed.
pub fn host_records(count: usize) {
    gauge!(HOST_RECORDS).set(count as f64);
}

/// A record of a host is not believed, for one of a closed set of reasons.
pub fn host_record_refused(reason: &'static str) {
    counter!(HOST_RECORDS_REFUSED, "reason" => reason).increment(1);
}
