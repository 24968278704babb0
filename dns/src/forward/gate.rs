//! How many queries may be in flight, so that a flood from one workload does not slow another.

use ripstop_config::{Reason, WorkloadId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most queries of one workload in flight: far above what an application's resolver has at once.
pub(super) const WORKLOAD_MAX: usize = 256;
/// Most queries in flight: each may hold a socket and 4 KiB, and an agent has some 20 000 descriptors.
pub(super) const TOTAL_MAX: usize = 4096;

/// Counts queries in flight.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<Inside>,
}

/// Never holds a zero, so it is bounded by [`TOTAL_MAX`] entries.
#[derive(Debug, Default)]
struct Inside {
    total: usize,
    of: HashMap<WorkloadId, usize>,
}

/// One query in flight; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    workload: WorkloadId,
}

impl Gate {
    /// Lets a query in, or says which limit is reached.
    pub(super) fn enter(self: &Arc<Self>, workload: &WorkloadId) -> Result<Pass, Reason> {
        let mut inside = self.lock();
        if inside.of.get(workload).is_some_and(|count| *count >= WORKLOAD_MAX) {
            return Err(Reason::QueryFlood);
        }
        if inside.total >= TOTAL_MAX {
            return Err(Reason::AgentFull);
        }
        inside.total += 1;
        *inside.of.entry(workload.clone()).or_default() += 1;
        Ok(Pass { gate: Arc::clone(self), workload: workload.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.total -= 1;
        if let Some(count) = inside.of.get_mut(&self.workload) {
            *count -= 1;
            if *count == 0 {
                inside.of.remove(&self.workload);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_nothing_stays_behind() {
        let gate = Arc::new(Gate::default());
        let id = |n: usize| -> WorkloadId { format!("shop/w{n}").parse().unwrap() };
        let mut passes: Vec<_> = (0..WORKLOAD_MAX).map(|_| gate.enter(&id(0)).unwrap()).collect();
        assert_eq!(gate.enter(&id(0)).unwrap_err(), Reason::QueryFlood);
        passes.pop();
        passes.push(gate.enter(&id(0)).unwrap());
        for n in WORKLOAD_MAX..TOTAL_MAX {
            passes.push(gate.enter(&id(n / 100)).unwrap());
        }
        assert_eq!(gate.enter(&id(TOTAL_MAX)).unwrap_err(), Reason::AgentFull);
        drop(passes);
        let inside = gate.lock();
        assert_eq!((inside.total, inside.of.len()), (0, 0));
    }
}
