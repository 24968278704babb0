//! What to make of the loads that records claim, for endpoints whose hosts are not heard by a connection. Pure.
//!
//! 1. A claim is its host's own word, of its own endpoint, and some seconds old. It is believed less the older it is, and the
//!    endpoint then taken to have what is usual: the median of what all claim, for its share.
//! 2. The sessions that this host opens there count on top. So one that claims to have none draws no more sessions than it would
//!    if it said so over a connection, and no longer than until the first of them has made one: then that is what counts.
//! 3. By the median, a claim that is false moves what is usual to what another one claims, and not where it likes.

use super::balance::Candidate;
use std::time::Duration;

/// Age at which a claim counts for half: two renewals among few hosts. Those of a thousand are renewed every 50 s, and say little
/// of the present by then.
const HALF: f64 = 10.0;

/// What a record claims of an endpoint's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Sessions of all callers.
    pub sessions: u32,
    /// How old the record is.
    pub age: Duration,
}

/// What is usual among endpoints of which records claim something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usual {
    /// Sessions for each unit of the share.
    per_share: f64,
}

impl Usual {
    /// Among these endpoints.
    pub(super) fn of(candidates: &[Candidate<'_>]) -> Self {
        let claimed = candidates.iter().filter_map(|one| Some(f64::from(one.claim?.sessions) / share(one)));
        let mut claimed: Vec<_> = claimed.collect();
        claimed.sort_by(f64::total_cmp);
        // Of two, the lower one: nobody is passed over by another's word alone.
        let median = claimed.get(claimed.len().saturating_sub(1) / 2);
        Self { per_share: median.copied().unwrap_or(0.0) }
    }

    /// The sessions that an endpoint is taken to have, where a record claims some.
    pub(super) fn believed(self, candidate: &Candidate<'_>) -> Option<u32> {
        let claim = candidate.claim?;
        let usual = self.per_share * share(candidate);
        let trust = (-claim.age.as_secs_f64() / HALF).exp2();
        // Between two numbers of 32 bits but for the share's rounding, at which the conversion saturates.
        Some((usual + (f64::from(claim.sessions) - usual) * trust).round() as u32)
    }
}

fn share(candidate: &Candidate<'_>) -> f64 {
    f64::from(candidate.weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripstop_config::HostName;

    /// What endpoints with these shares, claims and ages in seconds are taken to have.
    fn believed(all: &[(u32, Option<u32>, u64)]) -> Vec<Option<u32>> {
        let host = HostName::new("h").unwrap();
        let candidate = |(weight, sessions, age): &(u32, Option<u32>, u64)| Candidate {
            host: &host,
            near: false,
            weight: *weight,
            up: false,
            sessions: None,
            claim: sessions.map(|sessions| Claim { sessions, age: Duration::from_secs(*age) }),
        };
        let candidates: Vec<_> = all.iter().map(candidate).collect();
        let usual = Usual::of(&candidates);
        candidates.iter().map(|one| usual.believed(one)).collect()
    }

    #[test]
    fn a_fresh_claim_counts_and_an_old_one_is_what_is_usual() {
        assert_eq!(believed(&[(1, Some(40), 0), (1, Some(10), 0), (1, Some(20), 0)]), [40, 10, 20].map(Some));
        assert_eq!(believed(&[(1, Some(40), 10), (1, Some(10), 10), (1, Some(20), 10)]), [30, 15, 20].map(Some));
        assert_eq!(believed(&[(1, Some(400), 120), (1, Some(0), 120), (1, Some(20), 120)]), [20, 20, 20].map(Some));
        assert_eq!(believed(&[(3, Some(30), 120), (1, Some(10), 120)]), [30, 10].map(Some), "for its share");
    }

    #[test]
    fn what_claims_nothing_is_not_judged() {
        assert_eq!(believed(&[(1, None, 0)]), [None]);
        assert_eq!(believed(&[(1, Some(7), 60), (1, None, 0), (0, Some(7), 60)]), [Some(7), None, Some(7)]);
    }

    #[test]
    fn a_false_claim_moves_nothing_but_itself() {
        let honest = [(1, Some(10), 5), (1, Some(50), 5)];
        for lie in [0, u32::MAX] {
            let with = believed(&[honest[0], honest[1], (1, Some(lie), 0)]);
            let (low, high) = (with[0].unwrap(), with[1].unwrap());
            assert!((10..=50).contains(&low) && (10..=50).contains(&high) && low < high, "{with:?}");
        }
        let most = believed(&[(u32::MAX, Some(u32::MAX), 0), (1, Some(0), 3)]);
        assert_eq!(most[0], Some(u32::MAX), "numbers at their limits stay there");
    }
}
