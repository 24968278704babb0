//! Which sessions are traced, and the place of each in its trace (W3C Trace Context, section 3.2.2).
//!
//! 1. The caller's host gives a session a trace, and says by its share whether it is sampled ([`Tracer::begin`]).
//! 2. The session's header carries that to the endpoint's host ([`Tracer::context`]): trace id and span id; a span id of
//!    zero, which is none, says that it is not sampled.
//! 3. The endpoint's host goes by that ([`Tracer::join`]). Where the header has no such thing, as the caller's host traces
//!    nothing or its agent knows of none, it decides by its own share, and a trace begins there.
//!
//! A session's id is no trace id: one half of it is the agent's own and the other one counts, and who samples looks at bits
//! that have to be random.

use ripstop_config::units::Share;
use serde::{Serialize, Serializer};
use std::{
    cell::Cell,
    fmt,
    hash::{BuildHasher, RandomState},
};

/// What the bytes in a session's header are of: a trace id, and a span id.
const CONTEXT: usize = TRACE + SPAN;
const TRACE: usize = 16;
const SPAN: usize = 8;

/// Names a trace; never zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; TRACE]);

/// Names a span within its trace; never zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanId([u8; SPAN]);

/// The place of a session's side in a trace that is sampled. As it stands in session records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Traced {
    /// The trace.
    pub trace_id: TraceId,
    /// The span of this host's side of the session.
    pub span_id: SpanId,
    /// The span of the caller's side, at the endpoint's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<SpanId>,
}

/// Says which sessions are traced. Of one thread.
#[derive(Debug)]
pub struct Tracer {
    share: Share,
    seed: RandomState,
    next: Cell<u64>,
}

impl Tracer {
    /// A tracer that samples a share of the sessions.
    #[must_use]
    pub fn new(share: Share) -> Self {
        Self { share, seed: RandomState::new(), next: Cell::new(0) }
    }

    /// The place of a session that begins here; none if it is not sampled.
    #[must_use]
    pub fn begin(&self) -> Option<Traced> {
        let [high, low] = [self.random(), self.random()];
        // By the trace id, so that whoever samples again by it, and by no smaller a share, takes what is taken here
        // (OpenTelemetry, TraceIdRatioBased).
        self.share.takes(low).then(|| {
            let id = ((u128::from(high) << 64) | u128::from(low)).max(1);
            Traced { trace_id: TraceId(id.to_be_bytes()), span_id: self.span(), parent_span_id: None }
        })
    }

    /// The place of a session whose header came with this.
    #[must_use]
    pub fn join(&self, context: Option<[u8; CONTEXT]>) -> Option<Traced> {
        let Some(context) = context else { return self.begin() };
        let (trace, parent) = context.split_first_chunk::<TRACE>()?;
        let parent: [u8; SPAN] = parent.try_into().ok()?;
        // Zero is no id (W3C Trace Context, sections 3.2.2.3 and 3.2.2.4), and another host may say anything.
        let sampled = *trace != [0; TRACE] && parent != [0; SPAN];
        sampled.then(|| Traced {
            trace_id: TraceId(*trace),
            span_id: self.span(),
            parent_span_id: Some(SpanId(parent)),
        })
    }

    /// What a session's header tells the endpoint's host.
    #[must_use]
    pub fn context(&self, traced: Option<Traced>) -> [u8; CONTEXT] {
        let mut context = [0; CONTEXT];
        if let Some(Traced { trace_id, span_id, .. }) = traced {
            let (trace, span) = context.split_at_mut(TRACE);
            trace.copy_from_slice(&trace_id.0);
            span.copy_from_slice(&span_id.0);
        }
        context
    }

    fn span(&self) -> SpanId {
        SpanId(self.random().max(1).to_be_bytes())
    }

    /// Random enough to be told apart and sampled by; it protects nothing.
    fn random(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.seed.hash_one(number)
    }
}

impl TraceId {
    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl SpanId {
    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(share: &str) -> Tracer {
        Tracer::new(share.parse().unwrap())
    }

    #[test]
    fn both_sides_of_a_session_are_in_one_trace_and_sampled_alike() {
        let (caller, server) = (tracer("0.3"), tracer("0.9"));
        let mut sampled = 0;
        for _ in 0..10_000 {
            let here = caller.begin();
            let there = server.join(Some(caller.context(here)));
            assert_eq!(there.map(|there| there.trace_id), here.map(|here| here.trace_id));
            assert_eq!(there.and_then(|there| there.parent_span_id), here.map(|here| here.span_id));
            assert!(there.is_none_or(|there| Some(there.span_id) != there.parent_span_id));
            sampled += usize::from(here.is_some());
        }
        assert!((2_700..3_300).contains(&sampled), "{sampled} of 10 000 at a share of 0.3");
    }

    #[test]
    fn who_is_told_nothing_begins_a_trace_and_who_is_told_nonsense_does_not() {
        let server = tracer("1");
        let alone = server.join(None).unwrap();
        assert_eq!(alone.parent_span_id, None);
        let mut nonsense = [0; CONTEXT];
        nonsense[CONTEXT - 1] = 1;
        assert_eq!(server.join(Some(nonsense)), None, "a trace id of zero");
        assert_eq!(server.join(Some([0; CONTEXT])), None, "not sampled");
        assert_eq!(tracer("0").join(None), None);
    }

    #[test]
    fn ids_read_as_traceparent_has_them() {
        let traced = tracer("0").join(Some(std::array::from_fn(|at| at as u8))).unwrap();
        let shown = serde_json::to_value(traced).unwrap();
        assert_eq!(shown["trace_id"], "000102030405060708090a0b0c0d0e0f");
        assert_eq!(shown["parent_span_id"], "1011121314151617");
        assert_eq!(shown["span_id"].as_str().map(str::len), Some(16));
    }
}
