//! Instruments of parts of the agent: the carrier of policies, the door, captures.

use super::{CAPTURES, CARRIER, CARRIER_ANSWER, DOOR, float, seconds_since_epoch};
use metrics::gauge;
use std::time::SystemTime;

/// Whether the etcd that carries policies answers.
pub fn carrier(is_up: bool) {
    gauge!(CARRIER, "carrier" => "etcd").set(float(is_up.into()));
    if is_up {
        gauge!(CARRIER_ANSWER, "carrier" => "etcd").set(seconds_since_epoch(SystemTime::now()));
    }
}

/// Whether the door is there.
pub fn door(is_up: bool) {
    gauge!(DOOR).set(float(is_up.into()));
}

/// How many captures run.
pub fn captures(count: usize) {
    gauge!(CAPTURES).set(float(count));
}
