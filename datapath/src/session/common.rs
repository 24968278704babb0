//! What all data threads of a host share, each by its [`super::context::Context`]: what decides or counts for the host as a whole.
//!
//! 1. A session asks it a few times, when it begins and when it ends; what is done for each packet or piece of bytes is of one
//!    thread, and locks nothing, except a byte rate that sessions share where there is one.
//! 2. A lock is held for what its owner does with its own fields: never over a wait, nor while another lock is taken or
//!    anything is called that a caller handed in. So none waits for another. Only the table of limits comes before its byte rates.
//! 3. Counts are exact. Their guards may be dropped on any thread.

use super::{
    balance::Balancer,
    context::Stats,
    endpoints::Endpoints,
    limits::{HostDenials, LimitTable},
    observe::Observed,
    voice::Paths,
};
use std::sync::Arc;

/// What all data threads of a host share; a clone is the same.
#[derive(Clone, Default)]
pub struct Common {
    /// Whether the endpoints of this host take sessions, and what other hosts say of theirs.
    pub endpoints: Arc<Endpoints>,
    /// Which endpoint next.
    pub balancer: Arc<Balancer>,
    /// Where calls are led first, by the callers' own word.
    pub paths: Arc<Paths>,
    /// What is denied, and what a staged policy would say.
    pub observed: Arc<Observed>,
    /// What sessions are limited to.
    pub limits: Arc<LimitTable>,
    /// Which denied attempts of other hosts are recorded.
    pub denials: Arc<HostDenials>,
    /// Counts for other threads.
    pub stats: Arc<Stats>,
}

const fn shared_by_threads<T: Send + Sync>() {}
const fn dropped_on_any_thread<T: Send>() {}

const _: () = {
    shared_by_threads::<Common>();
    dropped_on_any_thread::<super::endpoints::Counted>();
    dropped_on_any_thread::<super::balance::Using>();
};
