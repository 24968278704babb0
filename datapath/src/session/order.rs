//! The order in which to try endpoints, from what is known of them. Pure.
//!
//! 1. Endpoints of the caller's zone come first, then those elsewhere, those with no share, those that failed lately, and
//!    those that are out of reach.
//! 2. The first is the better of two that are drawn by their shares. When the zone's best has become clearly costlier than
//!    the best elsewhere, it is drawn elsewhere.
//! 3. For a sticky service, chance and cost are left out: each caller has an order of its own, which stays when others come
//!    or go (rendezvous hashing, Thaler and Ravishankar 1998).

use super::balance::Candidate;
use ripstop_config::{HostName, ServiceId, WorkloadId};

/// The second of two endpoints is taken when its cost is below this part of the first's: a smaller difference is noise, and
/// following it would leave out an endpoint for being a microsecond slower.
const CLEARLY: f64 = 0.8;
/// The zone is left when its best endpoint costs so many times the best elsewhere.
const SPILL: f64 = 4.0;
/// Sessions that make no difference to that: a few more are no reason to leave the zone.
const SPILL_SESSIONS: f64 = 16.0;

/// An endpoint, with what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Ranked<'a> {
    /// Which it is.
    pub candidate: Candidate<'a>,
    /// It failed lately and is left alone.
    pub ejected: bool,
    /// Seconds to connect and to answer; above zero.
    pub latency: f64,
    /// Sessions that it has.
    pub sessions: u32,
}

/// Whose sessions stay together.
#[derive(Debug, Clone, Copy)]
pub struct Sticky<'a> {
    /// The service that is called.
    pub service: &'a ServiceId,
    /// The calling workload.
    pub caller: &'a WorkloadId,
    /// Its host.
    pub host: &'a HostName,
}

/// In which order to consider endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Near,
    Far,
    Reserve,
    Ejected,
    Down,
}

/// The hosts of the endpoints, in the order in which to try them.
pub fn order(
    mut ranked: Vec<Ranked<'_>>,
    sticky: Option<Sticky<'_>>,
    random: &mut impl FnMut() -> u64,
) -> Vec<HostName> {
    match sticky {
        Some(sticky) => ranked.sort_by(|a, b| {
            let score = |one: &Ranked<'_>| score(&sticky, one.candidate);
            a.class().cmp(&b.class()).then_with(|| score(b).total_cmp(&score(a)))
        }),
        None => by_cost(&mut ranked, random),
    }
    ranked.into_iter().map(|one| one.candidate.host.clone()).collect()
}

fn by_cost(ranked: &mut [Ranked<'_>], random: &mut impl FnMut() -> u64) {
    let total: f64 = ranked.iter().map(|one| f64::from(one.candidate.weight)).sum();
    let mean = if total > 0.0 { total / ranked.len() as f64 } else { 1.0 };
    ranked.sort_by(|a, b| a.class().cmp(&b.class()).then(a.cost(mean, 1.0).total_cmp(&b.cost(mean, 1.0))));
    let Some(class) = first_class(ranked, mean) else { return };
    let start = ranked.iter().take_while(|one| one.class() < class).count();
    let count = ranked[start..].iter().take_while(|one| one.class() == class).count();
    let pool = &ranked[start..start + count];
    let first = draw(pool, None, random);
    let second = draw(pool, Some(first), random);
    let better = pool[second].cost(mean, 1.0) < pool[first].cost(mean, 1.0) * CLEARLY;
    let chosen = start + if better { second } else { first };
    ranked[..=chosen].rotate_right(1);
}

/// The class from which the first endpoint is drawn: the best that there is, unless the zone has become too costly.
fn first_class(ranked: &[Ranked<'_>], mean: f64) -> Option<Class> {
    let cheapest = |class: Class| {
        let costs = ranked.iter().filter(|one| one.class() == class).map(|one| one.cost(mean, SPILL_SESSIONS));
        costs.min_by(f64::total_cmp)
    };
    match (cheapest(Class::Near), cheapest(Class::Far)) {
        (Some(near), Some(far)) if near > far * SPILL => Some(Class::Far),
        (Some(_) | None, Some(_) | None) => ranked.first().map(Ranked::class),
    }
}

/// One of the endpoints other than `but`, each as likely as its share says; `but` when there is no other.
fn draw(pool: &[Ranked<'_>], but: Option<usize>, random: &mut impl FnMut() -> u64) -> usize {
    // Those without a share are drawn among themselves only.
    let share = |one: &Ranked<'_>| u64::from(one.candidate.weight.max(1));
    let others = || pool.iter().enumerate().filter(|(index, _)| Some(*index) != but);
    let total: u64 = others().map(|(_, one)| share(one)).sum();
    if total == 0 {
        return but.unwrap_or(0);
    }
    let mut left = random() % total;
    for (index, one) in others() {
        match left.checked_sub(share(one)) {
            Some(rest) => left = rest,
            None => return index,
        }
    }
    but.unwrap_or(0)
}

impl Ranked<'_> {
    fn class(&self) -> Class {
        let Candidate { near, weight, up, .. } = self.candidate;
        match (up, self.ejected, weight, near) {
            (false, ..) => Class::Down,
            (true, true, ..) => Class::Ejected,
            (true, false, 0, _) => Class::Reserve,
            (true, false, _, true) => Class::Near,
            (true, false, _, false) => Class::Far,
        }
    }

    /// What a session costs there: the time for it, for each session that is in the way. `mean` is the mean share, and
    /// `ahead` stands for the session itself, or for as many as make no difference.
    fn cost(&self, mean: f64, ahead: f64) -> f64 {
        let share = f64::from(self.candidate.weight.max(1)) / mean;
        self.latency * (f64::from(self.sessions) / share + ahead)
    }
}

/// How much a caller's sessions belong to an endpoint.
fn score(sticky: &Sticky<'_>, candidate: Candidate<'_>) -> f64 {
    belonging(sticky, candidate.host.as_str(), candidate.weight)
}

/// How much a caller's sessions belong to what has this name. By its share, as of all callers so many have their highest there.
pub(super) fn belonging(sticky: &Sticky<'_>, to: &str, weight: u32) -> f64 {
    let Sticky { service, caller, host } = sticky;
    let text = format!("{service}\0{caller}\0{host}\0{to}");
    // FNV-1a, 64 bits, and the finalizer of MurmurHash3, as its high bits alone differ little for names that end alike.
    let mut hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^= hash >> 33;
    // Within 0 and 1, both excluded: 53 bits fit a double.
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight.max(1)) / unit.ln()
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
