//! The service map: callers, services and endpoints in three columns, and what is carried between them. Pure.
//!
//! A column has [`ROWS_MAX`] places. Where calls need more and are of several tenants, each place is a tenant's; where that does
//! not do either, those that carry the most have a place of their own, and one place says how many more there are.

mod draw;

pub(super) use draw::draw;

use super::{
    asked::Asked,
    pairs::{Pair, Tone, add},
};
use crate::admin::rates::Sums;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Places of a column: what fits on a screen, and what an eye can follow.
pub(super) const ROWS_MAX: usize = 16;

/// What stands in a place. The order is that of a column: what is left over comes last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// A workload, a service or a host.
    One(String),
    /// All of a tenant.
    Tenant(String),
    /// So many more.
    More,
}

/// What is carried between two places.
#[derive(Debug, Clone, Default)]
pub(super) struct Carried {
    pub(super) tone: Option<Tone>,
    pub(super) sums: Sums,
    pub(super) allowed: u64,
    pub(super) denied: u64,
}

/// A place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) who: Who,
    /// How many it stands for.
    pub(super) count: usize,
    pub(super) carried: Carried,
}

/// A line between two places of neighbouring columns, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) carried: Carried,
}

/// The map.
#[derive(Debug, Default)]
pub(super) struct Map {
    /// Callers, services, hosts.
    pub(super) columns: [Vec<Node>; 3],
    /// Callers to services, services to hosts.
    pub(super) lines: [Vec<Line>; 2],
    /// Places are tenants'.
    pub(super) grouped: bool,
}

impl Carried {
    fn add(&mut self, other: &Self) {
        self.tone = self.tone.max(other.tone);
        add(&mut self.sums, &other.sums);
        self.allowed += other.allowed;
        self.denied += other.denied;
    }

    pub(super) fn rate(&self) -> f64 {
        self.sums.up + self.sums.down
    }
}

/// The two ends of calls by what stands for them, with what is carried; what is denied between the same two apart.
type Calls = BTreeMap<(Who, Who, bool), Carried>;

/// The map of these calls.
pub(super) fn of(pairs: &[Pair], asked: &Asked) -> Map {
    let callers: BTreeSet<_> = pairs.iter().map(|pair| &pair.from).collect();
    let services: BTreeSet<_> = pairs.iter().map(|pair| &pair.to).collect();
    let tenants: BTreeSet<_> =
        callers.iter().map(|one| &one.tenant).chain(services.iter().map(|one| &one.tenant)).collect();
    let too_many = callers.len() > ROWS_MAX || services.len() > ROWS_MAX;
    let grouped = too_many && tenants.len() > 1 && asked.tenant.trim().is_empty();
    let place = |tenant: &str, id: String| if grouped { Who::Tenant(tenant.into()) } else { Who::One(id) };
    let (mut calls, mut served) = (Calls::new(), Calls::new());
    let mut members: [BTreeMap<Who, BTreeSet<String>>; 3] = Default::default();
    for pair in pairs {
        let from = place(pair.from.tenant.as_str(), pair.from.to_string());
        let to = place(pair.to.tenant.as_str(), pair.to.to_string());
        members[0].entry(from.clone()).or_default().insert(pair.from.to_string());
        members[1].entry(to.clone()).or_default().insert(pair.to.to_string());
        let carried = Carried { tone: Some(pair.tone), sums: pair.sums, allowed: pair.allowed, denied: pair.denied };
        calls.entry((from, to.clone(), pair.tone == Tone::Denied)).or_default().add(&carried);
        for (host, (tone, sums)) in &pair.hosts {
            let host = Who::One(host.to_string());
            members[2].entry(host.clone()).or_default().insert(String::new());
            served.entry((to.clone(), host, false)).or_default().add(&Carried {
                tone: Some(*tone),
                sums: *sums,
                ..Carried::default()
            });
        }
    }
    laid_out(&calls, &served, &members, grouped)
}

fn laid_out(calls: &Calls, served: &Calls, members: &[BTreeMap<Who, BTreeSet<String>>; 3], grouped: bool) -> Map {
    let of_callers = summed(calls.iter().map(|((from, ..), carried)| (from, carried)));
    let of_services = summed(calls.iter().map(|((_, to, _), carried)| (to, carried)));
    let of_hosts = summed(served.iter().map(|((_, host, _), carried)| (host, carried)));
    let mut columns =
        [chosen(&of_callers, &members[0]), chosen(&of_services, &members[1]), chosen(&of_hosts, &members[2])];
    columns[1].sort_by(|one, other| one.who.cmp(&other.who));
    let by_service = joined(calls, &columns[0], &columns[1]);
    let callers = std::mem::take(&mut columns[0]);
    columns[0] = near(callers, &by_service, |line| (line.from, line.to));
    let by_service = joined(served, &columns[1], &columns[2]);
    let hosts = std::mem::take(&mut columns[2]);
    columns[2] = near(hosts, &by_service, |line| (line.to, line.from));
    let lines = [joined(calls, &columns[0], &columns[1]), joined(served, &columns[1], &columns[2])];
    Map { columns, lines, grouped }
}

/// What all lines of a place carry. It is denied only where nothing else is: of one that calls others the lines say it.
fn summed<'c>(all: impl Iterator<Item = (&'c Who, &'c Carried)>) -> BTreeMap<&'c Who, Carried> {
    let mut sums: BTreeMap<&Who, Carried> = BTreeMap::new();
    for (who, carried) in all {
        let sum = sums.entry(who).or_default();
        let tones = [sum.tone, carried.tone].into_iter().flatten();
        let tone = tones.clone().filter(|tone| *tone != Tone::Denied).max().or(tones.max());
        sum.add(carried);
        sum.tone = tone;
    }
    sums
}

/// Those with a place of their own, and one for the rest.
fn chosen(all: &BTreeMap<&Who, Carried>, members: &BTreeMap<Who, BTreeSet<String>>) -> Vec<Node> {
    let mut ranked: Vec<_> = all.iter().collect();
    let rank = |carried: &Carried| Reverse((carried.rate() as u64, carried.allowed + carried.denied));
    ranked.sort_by_key(|(who, carried)| (rank(carried), **who));
    let own = if ranked.len() > ROWS_MAX { ROWS_MAX - 1 } else { ranked.len() };
    let rest = ranked.split_off(own);
    let count = |who: &Who| members.get(who).map_or(1, BTreeSet::len);
    let node =
        |(who, carried): (&&Who, &Carried)| Node { who: (*who).clone(), count: count(who), carried: carried.clone() };
    let mut nodes: Vec<Node> = ranked.into_iter().map(node).collect();
    if !rest.is_empty() {
        let mut more = Node { who: Who::More, count: rest.len(), carried: Carried::default() };
        rest.iter().for_each(|(_, carried)| more.carried.add(carried));
        nodes.push(more);
    }
    nodes
}

/// The lines between two columns.
fn joined(calls: &Calls, left: &[Node], right: &[Node]) -> Vec<Line> {
    let at = |column: &[Node], who: &Who| column.iter().position(|node| node.who == *who).unwrap_or(column.len() - 1);
    let mut lines: BTreeMap<(usize, usize, bool), Carried> = BTreeMap::new();
    for ((from, to, denied), carried) in calls {
        lines.entry((at(left, from), at(right, to), *denied)).or_default().add(carried);
    }
    lines.into_iter().map(|((from, to, _), carried)| Line { from, to, carried }).collect()
}

/// Puts each place where the middle of its lines' other ends is, so that few of them cross.
fn near(nodes: Vec<Node>, lines: &[Line], ends: impl Fn(&Line) -> (usize, usize)) -> Vec<Node> {
    let middle = |number: usize| {
        let others: Vec<_> =
            lines.iter().map(&ends).filter(|(own, _)| *own == number).map(|(_, other)| other).collect();
        others.iter().sum::<usize>() * 100 / others.len().max(1)
    };
    let mut placed: Vec<_> = nodes.into_iter().enumerate().map(|(number, node)| (middle(number), node)).collect();
    placed
        .sort_by(|(one, a), (other, b)| (a.who == Who::More, *one, &a.who).cmp(&(b.who == Who::More, *other, &b.who)));
    placed.into_iter().map(|(_, node)| node).collect()
}
