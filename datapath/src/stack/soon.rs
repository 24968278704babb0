//! What the connections of one interface have to do soon: acknowledgements, above all.
//!
//! An acknowledgement that waits for an answer of the other end travels with it, and costs the workload's kernel no packet
//! of its own. A timer of each session for that would cost more than the packet; so the sessions of an interface share one.

use super::Endpoint;
use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    time::Duration,
};
use tokio::{sync::Notify, time};

/// How long an acknowledgement waits for something to go with: what an answer from a host nearby takes when both hosts are
/// busy. An application that waits for it before it writes on (Nagle's algorithm) waits no longer than this and [`TICK`],
/// a quarter of what Linux's own kernel would make it wait.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(5);
/// How often the shared timer runs while somebody waits for it.
const TICK: Duration = Duration::from_millis(5);
/// What is due within this time is left to the shared timer.
pub(super) const SOON: Duration = Duration::from_millis(6);

/// Connections that wait for the shared timer.
#[derive(Default)]
pub(super) struct Waiting {
    endpoints: RefCell<Vec<Weak<Endpoint>>>,
    first: Notify,
}

impl Waiting {
    /// Has the connection looked after at the next tick.
    pub(super) fn add(&self, endpoint: Weak<Endpoint>) {
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.is_empty() {
            self.first.notify_one();
        }
        endpoints.push(endpoint);
    }

    /// Does what has become due.
    pub(super) fn tick(&self) {
        for endpoint in self.endpoints.take().iter().filter_map(Weak::upgrade) {
            endpoint.tick();
        }
    }

    /// Ticks while somebody waits; never resolves.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            self.first.notified().await;
            while !self.endpoints.borrow().is_empty() {
                time::sleep(TICK).await;
                self.tick();
            }
        }
    }
}
