//! Names outside the fabric: asked of upstream resolvers, through one cache for all workloads.
//!
//! 1. The query passes the gate: one workload may have so many in flight, and all together so many.
//! 2. The cache answers if it can; else one of those who ask the same at once asks upstream, and the others wait.
//! 3. Upstream resolvers are asked in turn, the one that answered last first; each gets a socket of its own.
//! 4. What comes back is cleaned and kept. When nothing does, an older answer is given.

mod cache;
mod clean;
mod exchange;
mod gate;
mod upstream;

#[cfg(test)]
mod tests;

pub use upstream::{FabricRanges, UpstreamError, Upstreams};

use crate::{
    answer::Answer,
    query::{self, Via},
};
use cache::{Entry, Key};
use clean::Clean;
use exchange::Trouble;
use gate::Gate;
use moka::{future::Cache, ops::compute::Op};
use ripstop_config::WorkloadId;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::time::{Duration, Instant};

/// How long one upstream resolver is waited for, each by UDP and by TCP.
const TRY_WAIT: Duration = Duration::from_secs(2);
/// How long a query may take in all: stub resolvers give up or ask again after 5 s.
const TOTAL_WAIT: Duration = Duration::from_millis(4500);
/// How often each resolver is asked: datagrams get lost.
const ROUNDS: usize = 2;

/// Asks upstream resolvers for names outside the fabric. Cheap to clone; may be used from any number of tokio runtimes.
#[derive(Debug, Clone)]
pub struct Forwarder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstreams: Upstreams,
    /// Where in the list the resolver is that answered last.
    preferred: AtomicUsize,
    ranges: FabricRanges,
    cache: Cache<Key, Entry>,
    gate: Arc<Gate>,
}

impl Forwarder {
    /// A forwarder with an empty cache.
    ///
    /// `refuse` are the fabric's ranges: no upstream resolver may be in them, and no upstream answer may point there.
    ///
    /// # Errors
    /// [`UpstreamError`] for a resolver that is in the fabric or is no address to ask. An empty list is none: every
    /// query is then answered SERVFAIL with the reason.
    pub fn new(upstreams: Upstreams, refuse: FabricRanges) -> Result<Self, UpstreamError> {
        upstream::check(&upstreams, &refuse)?;
        let (cache, gate) = (cache::build(), Arc::new(Gate::default()));
        Ok(Self { inner: Arc::new(Inner { upstreams, preferred: AtomicUsize::new(0), ranges: refuse, cache, gate }) })
    }

    /// Answers a query for which [`crate::answer`] said [`Answer::Forward`]; takes at most about 4.5 s.
    ///
    /// Never [`Answer::Forward`]. [`Answer::Drop`] when the workload has 256 queries in flight, or all have 4096.
    pub async fn resolve(&self, caller: &WorkloadId, query: &[u8], via: Via) -> Answer {
        let asked = match query::parse(query, via) {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        let _pass = match self.inner.gate.enter(caller) {
            Ok(pass) => pass,
            Err(reason) => return Answer::Drop(reason),
        };
        let since = Instant::now();
        let entry = self.inner.entry(&Key::of(&asked), since).await;
        Answer::Reply(entry.reply(&asked, since, Instant::now()).finish(&asked))
    }
}

impl Inner {
    /// What is known of a question, after asking upstream if nothing is.
    async fn entry(&self, key: &Key, since: Instant) -> Entry {
        if let Some(entry) = self.cache.get(key).await
            && entry.serves(since, Instant::now())
        {
            return entry;
        }
        // One at a time for each key; those who come later find what the first has put there.
        let ask = |held: Option<moka::Entry<Key, Entry>>| async {
            let held = held.map(moka::Entry::into_value);
            if held.as_ref().is_some_and(|entry| entry.serves(since, Instant::now())) {
                return Op::Nop;
            }
            let outcome = self.ask(key).await;
            Op::Put(Entry::after(held, outcome, Instant::now()))
        };
        let result = self.cache.entry_by_ref(key).and_compute_with(ask).await;
        match result.into_entry() {
            Some(entry) => entry.into_value(),
            None => Entry::after(None, Err(Trouble::Garbled), Instant::now()),
        }
    }

    /// Asks the upstream resolvers in turn.
    async fn ask(&self, key: &Key) -> Result<Clean, Trouble> {
        let servers = self.upstreams.as_slice();
        let (first, until) = (self.preferred.load(Ordering::Relaxed), Instant::now() + TOTAL_WAIT);
        let mut trouble = Trouble::NoUpstreams;
        for turn in 0..servers.len() * ROUNDS {
            let index = (first + turn) % servers.len();
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                break;
            };
            match self.ask_one(servers[index], key, left).await {
                Ok(clean) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(clean);
                }
                Err(error) => {
                    tracing::debug!(server = %servers[index], %error, "an upstream resolver gave no answer");
                    trouble = error;
                }
            }
        }
        Err(trouble)
    }

    async fn ask_one(&self, server: SocketAddr, key: &Key, left: Duration) -> Result<Clean, Trouble> {
        let asked = exchange::ask(server, key, TRY_WAIT.min(left));
        let message = tokio::time::timeout(left, asked).await.map_err(|_| Trouble::TimedOut)??;
        Ok(clean::clean(message, &self.ranges, key.dnssec_ok))
    }
}
