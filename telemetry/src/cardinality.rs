//! How many series there may be: names come from the graph, and a graph may have, or have had, any number of them.

use ripstop_config::{ServiceId, WorkloadId};
use rustc_hash::FxHashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Pairs of a caller and a service with series of their own, in the life of an agent. Each has some 60 series at each end at
/// most, which Prometheus takes from a hundred hosts; what comes later is counted as `other`.
pub const EDGES_MAX: usize = 1_000;

type Edge = (Option<WorkloadId>, Option<ServiceId>);

static EDGES: LazyLock<Mutex<FxHashSet<Edge>>> = LazyLock::new(Mutex::default);

/// Whether the series of an edge may have its names.
pub(super) fn has_place(caller: Option<&WorkloadId>, service: Option<&ServiceId>) -> bool {
    if caller.is_none() && service.is_none() {
        return true;
    }
    let edge = (caller.cloned(), service.cloned());
    let mut edges = EDGES.lock().unwrap_or_else(PoisonError::into_inner);
    if edges.contains(&edge) {
        return true;
    }
    let room = edges.len() < EDGES_MAX;
    if room {
        edges.insert(edge);
        if edges.len() == EDGES_MAX {
            tracing::warn!(edges = EDGES_MAX, "metrics name no more callers and services: the others count as `other`");
        }
    }
    room
}
