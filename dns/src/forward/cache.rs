//! What upstream said, kept for as long as it may be.

use super::{clean::Clean, exchange::Trouble};
use crate::{
    query::Asked,
    reply::{self, Draft, Ede, EdeCode, Rcode},
};
use bytes::Bytes;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
};
use moka::{Expiry, future::Cache, policy::EvictionPolicy};
use std::time::Duration;
use tokio::time::Instant;

/// Most bytes that the cache takes, by the count of [`weight`].
const CACHE_BYTES: u64 = 32 << 20;
/// What an entry counts at least, bytes: its key, the table's share and the allocations. With [`CACHE_BYTES`] it bounds
/// the entries, to 32 768.
const ENTRY_BYTES: u32 = 1024;
/// For how long after its end an answer may still be given when upstream fails: a day (RFC 8767 section 5 has one to
/// three).
const STALE_MAX: Duration = Duration::from_secs(86_400);
/// The TTL of such an answer, seconds, and for how long upstream is not asked again (RFC 8767 sections 4 and 5).
const STALE_TTL: u32 = 30;
/// For how long a failure is kept when there is no older answer: at least a second (RFC 9520 section 3.2), and less
/// than the 5 s after which resolvers ask again.
const FAILURE_TTL: Duration = Duration::from_secs(2);

/// What is asked, as far as the answer depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// In lower case.
    pub(super) name: Name,
    pub(super) kind: RecordType,
    pub(super) class: DNSClass,
    pub(super) dnssec_ok: bool,
    /// Without it, a resolver that validates hides what is forged (RFC 4035 section 3.2.2).
    pub(super) checking_disabled: bool,
}

impl Key {
    pub(super) fn of(asked: &Asked) -> Self {
        Self {
            name: asked.question.name.to_lowercase(),
            kind: asked.question.query_type,
            class: asked.question.query_class,
            dnssec_ok: asked.dnssec_ok(),
            checking_disabled: asked.metadata.checking_disabled,
        }
    }

    #[cfg(test)]
    pub(super) fn for_test(name: &str) -> Self {
        let name = Name::from_ascii(name).unwrap();
        Self { name, kind: RecordType::A, class: DNSClass::IN, dnssec_ok: false, checking_disabled: false }
    }
}

/// What is known of one question: an answer, a failure since, or both.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    answer: Option<Kept>,
    failure: Option<(Trouble, Instant)>,
}

#[derive(Debug, Clone)]
struct Kept {
    /// The message, encoded: its size in memory is known.
    wire: Bytes,
    since: Instant,
    fresh_for: Duration,
    rebound: bool,
}

/// What an entry is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Fresh,
    Stale(Trouble),
    Failed(Trouble),
    /// Upstream must be asked.
    Nothing,
}

impl Entry {
    /// What is known after asking upstream, given what was before.
    pub(super) fn after(before: Option<Self>, outcome: Result<Clean, Trouble>, now: Instant) -> Self {
        let kept = outcome.and_then(|clean| {
            let wire = reply::encode(&clean.message).ok_or(Trouble::Garbled)?;
            Ok(Kept { wire: wire.into(), since: now, fresh_for: clean.fresh_for, rebound: clean.rebound })
        });
        match kept {
            Ok(kept) => Self { answer: Some(kept), failure: None },
            Err(trouble) => Self { answer: before.and_then(|before| before.answer), failure: Some((trouble, now)) },
        }
    }

    /// Whether the entry answers a question that was asked at `asked`.
    pub(super) fn serves(&self, asked: Instant, now: Instant) -> bool {
        self.judge(asked, now) != Use::Nothing
    }

    /// What came in after the question was asked answers it, however short its life: those who waited together for one
    /// upstream query all have its result.
    fn judge(&self, asked: Instant, now: Instant) -> Use {
        let failure = self.failure.filter(|(_, at)| *at >= asked || now < *at + self.pause());
        match (&self.answer, failure) {
            (Some(kept), _) if now < kept.since + kept.fresh_for || kept.since >= asked => Use::Fresh,
            (Some(kept), Some((trouble, _))) if now < kept.since + kept.fresh_for + STALE_MAX => Use::Stale(trouble),
            (_, Some((trouble, _))) => Use::Failed(trouble),
            (_, None) => Use::Nothing,
        }
    }

    /// For how long after a failure upstream is left alone.
    fn pause(&self) -> Duration {
        if self.answer.is_some() { Duration::from_secs(STALE_TTL.into()) } else { FAILURE_TTL }
    }

    /// The reply to a question that the entry serves, or served a moment ago.
    pub(super) fn reply(&self, asked: &Asked, since: Instant, now: Instant) -> Draft {
        let held = self.answer.as_ref().and_then(|kept| Some((kept, Message::from_vec(&kept.wire).ok()?)));
        match (self.judge(since, now), held) {
            (Use::Failed(trouble), _) => failed(trouble),
            (Use::Fresh | Use::Nothing, Some((kept, message))) => {
                let age = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
                drafted(kept, message, asked, |ttl| ttl.saturating_sub(age), None)
            }
            (Use::Stale(trouble), Some((kept, message))) => {
                let ede = Ede { code: EdeCode::Stale, text: trouble.to_string() };
                drafted(kept, message, asked, |_| STALE_TTL, Some(ede))
            }
            (Use::Fresh | Use::Stale(_) | Use::Nothing, None) => {
                failed(self.failure.map_or(Trouble::Garbled, |(trouble, _)| trouble))
            }
        }
    }

    /// For how long it is worth keeping.
    fn lifetime(&self) -> Duration {
        self.answer.as_ref().map_or(FAILURE_TTL, |kept| kept.fresh_for + STALE_MAX)
    }
}

fn drafted(kept: &Kept, message: Message, asked: &Asked, ttl: impl Fn(u32) -> u32, stale: Option<Ede>) -> Draft {
    let mut draft = Draft::new(match message.metadata.response_code {
        ResponseCode::NXDomain => Rcode::NxDomain,
        _ => Rcode::NoError,
    });
    let aged = |mut record: Record| {
        record.ttl = ttl(record.ttl);
        // The letters' case is the client's, not the one that was sent upstream.
        if record.name == asked.question.name {
            record.name = asked.question.name.clone();
        }
        record
    };
    draft.answers = message.answers.into_iter().map(aged).collect();
    draft.authorities = message.authorities.into_iter().map(aged).collect();
    let why = "the upstream answer points into the fabric's own ranges (DNS rebinding) and was removed";
    let rebound = kept.rebound.then(|| Ede { code: EdeCode::Blocked, text: why.into() });
    draft.ede = rebound.or(stale);
    draft
}

fn failed(trouble: Trouble) -> Draft {
    let code = match trouble {
        Trouble::NoUpstreams | Trouble::TimedOut | Trouble::Failed(_) => EdeCode::NoReachableAuthority,
        Trouble::Network(_) | Trouble::Garbled => EdeCode::NetworkError,
    };
    let mut draft = Draft::new(Rcode::ServFail);
    draft.ede = Some(Ede { code, text: trouble.to_string() });
    draft
}

/// A new, empty cache.
pub(super) fn build() -> Cache<Key, Entry> {
    Cache::builder()
        .name("dns")
        .max_capacity(CACHE_BYTES)
        .weigher(weight)
        // The default would turn away new names while old ones are popular; those who wait for one need it kept.
        .eviction_policy(EvictionPolicy::lru())
        .expire_after(Lifetime)
        .build()
}

fn weight(_: &Key, entry: &Entry) -> u32 {
    let wire = entry.answer.as_ref().map_or(0, |kept| kept.wire.len());
    ENTRY_BYTES.saturating_add(u32::try_from(wire).unwrap_or(u32::MAX))
}

/// When an entry leaves the cache. Whether it is fresh is judged apart: stale ones are kept too.
struct Lifetime;

impl Expiry<Key, Entry> for Lifetime {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: std::time::Instant) -> Option<Duration> {
        Some(entry.lifetime())
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.lifetime())
    }
}
